"""Freezing the backbone: what is trained, what stays, and what is put back."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from torchloops.callbacks import Callback, Freeze, FreezeUnfreeze, ModelCheckpoint, NoFreeze, resolve_finetuning
from torchloops.callbacks.parameter_groups import set_learning_rate
from torchloops.errors import ConfigurationError
from torchloops.loops import Loop
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer


class Normed(TinyClassifier):
    """With batch norm, and an optimizer that gets what is to be trained only."""

    def __init__(self):
        super().__init__(optimizer="Adam")
        self.backbone = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())

    def configure_optimizers(self):
        return Adam([p for p in self.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)


class NormedAll(Normed):
    """The same with an optimizer that gets all parameters."""

    def configure_optimizers(self):
        return Adam(self.parameters(), lr=0.01, weight_decay=0.1)


class Watch(Callback):
    """Copies of the backbone at the end of each epoch."""

    def __init__(self):
        self.backbones = []
        self.statistics_train = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.statistics_train.append(module.backbone[1].training)

    def on_train_epoch_end(self, trainer, module):
        self.backbones.append(copy.deepcopy(module.backbone.state_dict()))


def make_trainer(folder, *callbacks, **options):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        **{"enable_checkpointing": False, "max_epochs": 3, **options},
    )


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def data():
    return random_loader(), random_loader(seed=1)


@pytest.mark.parametrize("module_class", [Normed, NormedAll])
def test_freeze_leaves_weights_and_statistics_and_puts_flags_back(tmp_path, module_class):
    module, watch = module_class(), Watch()
    before = copy.deepcopy(module.state_dict())
    make_trainer(tmp_path, watch).finetune(module, *data(), strategy="freeze")
    assert same({f"backbone.{name}": value for name, value in watch.backbones[-1].items()}, before)
    assert not torch.equal(module.head.weight, before["head.weight"])
    assert not any(watch.statistics_train)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_fit_after_freezing_trains_the_backbone_again(tmp_path):
    module, watch = NormedAll(), Watch()
    trainer = make_trainer(tmp_path, watch)
    trainer.finetune(module, *data(), strategy="freeze")
    trainer.fit(module, *data())
    assert not same(watch.backbones[3], watch.backbones[2])
    assert watch.statistics_train[-3:] == [True] * 3


def test_a_gradient_left_over_is_not_stepped_on(tmp_path):
    module, watch = NormedAll(), Watch()
    before = copy.deepcopy(module.backbone.state_dict())
    module(torch.randn(4, 32)).sum().backward()
    module.load_state_dict({**module.state_dict(), **{f"backbone.{name}": v for name, v in before.items()}})
    make_trainer(tmp_path, watch, max_epochs=1).finetune(module, *data(), strategy="freeze")
    assert same(watch.backbones[-1], before)


@pytest.mark.parametrize("module_class", [Normed, NormedAll])
def test_freeze_unfreeze_trains_the_backbone_from_its_epoch_on(tmp_path, module_class):
    module, watch = module_class(), Watch()
    before = copy.deepcopy(module.backbone.state_dict())
    make_trainer(tmp_path, watch).finetune(module, *data(), strategy=("freeze_unfreeze", 1))
    assert same(watch.backbones[0], before)
    assert not torch.equal(watch.backbones[1]["0.weight"], before["0.weight"])
    assert not torch.equal(watch.backbones[1]["1.running_mean"], before["1.running_mean"])
    assert watch.statistics_train == [False] * 3 + [True] * 6


def test_both_ways_to_give_parameters_train_alike(tmp_path):
    results = []
    for module_class in (Normed, NormedAll):
        torch.manual_seed(1)
        module = module_class()
        make_trainer(tmp_path).finetune(module, *data(), strategy=("freeze_unfreeze", 1))
        results.append(module.state_dict())
    assert same(*results)


def test_no_freeze_trains_as_a_plain_fit(tmp_path):
    results = []
    for strategy in ("no_freeze", None):
        torch.manual_seed(1)
        module, trainer = NormedAll(), make_trainer(tmp_path)
        trainer.finetune(module, *data(), strategy=strategy) if strategy else trainer.fit(module, *data())
        results.append(module.state_dict())
    assert same(*results)


def test_flags_of_the_user_stay(tmp_path):
    module = NormedAll()
    module.backbone[0].weight.requires_grad_(False)
    before = module.backbone[0].weight.clone()
    make_trainer(tmp_path).finetune(module, *data(), strategy=("freeze_unfreeze", 1))
    assert torch.equal(module.backbone[0].weight, before)
    assert not module.backbone[0].weight.requires_grad
    assert module.backbone[0].bias.requires_grad


def test_flags_are_put_back_after_an_error(tmp_path):
    class Failing(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop here")

    module = NormedAll()
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(tmp_path, Failing()).finetune(module, *data(), strategy="freeze")
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.backbone[1].training


class TwoRounds(Loop):
    def __init__(self, fit_loop):
        super().__init__()
        self.fit_loop = fit_loop

    @property
    def done(self):
        return self.progress.current == 2

    def on_run_start(self):
        self.start = self.trainer.snapshot()

    def advance(self):
        with self.trainer.isolated(f"round_{self.progress.current}", start=self.start):
            self.fit_loop.run()


@pytest.mark.parametrize("module_class", [Normed, NormedAll])
def test_inner_runs_unfreeze_each(tmp_path, module_class):
    module, seen = module_class(), []

    class Record(Callback):
        def fresh(self):
            return self

        def on_train_epoch_end(self, trainer, module):
            seen.append((trainer.run_name, trainer.current_epoch, module.backbone[0].weight.requires_grad))

    trainer = make_trainer(tmp_path, Record(), max_epochs=2)
    trainer.fit_loop = TwoRounds(trainer.fit_loop)
    trainer.finetune(module, *data(), strategy=("freeze_unfreeze", 1))
    assert seen == [(f"round_{n}", epoch, epoch == 1) for n in range(2) for epoch in range(2)]
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("module_class", [Normed, NormedAll])
@pytest.mark.parametrize("lr_factor", [1.0, 0.1])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, module_class, lr_factor):
    torch.manual_seed(1)
    module = module_class()
    start = copy.deepcopy(module.state_dict())
    keep_all = ModelCheckpoint(save_top_k=-1, filename="{epoch}")
    trainer = make_trainer(tmp_path, keep_all, max_epochs=4, enable_checkpointing=True)
    trainer.finetune(module, *data(), strategy=FreezeUnfreeze(1, lr_factor))
    whole = copy.deepcopy(module.state_dict())
    for epoch in (0, 1, 2):
        module.load_state_dict(start)
        again = ModelCheckpoint(save_top_k=-1, filename="{epoch}")
        trainer = make_trainer(tmp_path / "again", again, max_epochs=4, enable_checkpointing=True)
        checkpoint = tmp_path / "checkpoints" / f"epoch={epoch}.ckpt"
        strategy = FreezeUnfreeze(1, lr_factor)
        trainer.finetune(module, *data(), strategy=strategy, ckpt_path=checkpoint)
        assert same(module.state_dict(), whole)


# learning rates of the backbone


def two_layers():
    return nn.Linear(2, 2), nn.Linear(2, 2)


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda o: StepLR(o, 2, 0.5),
        lambda o: LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: CosineAnnealingLR(o, 10),
        lambda o: OneCycleLR(o, 0.1, total_steps=20, cycle_momentum=False),
        lambda o: SequentialLR(o, [StepLR(o, 1, 0.9), StepLR(o, 1, 0.5)], milestones=[3]),
        lambda o: ReduceLROnPlateau(o, patience=0),
    ],
    ids=["step", "lambda", "cosine", "one cycle", "sequential", "plateau"],
)
def test_schedulers_take_a_new_group_along(make_scheduler):
    head, backbone = two_layers()
    optimizer = SGD(head.parameters(), lr=0.1)
    scheduler = make_scheduler(optimizer)

    def step():
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))

    step()
    set_learning_rate([optimizer], [scheduler], list(backbone.parameters()), 0.5, "backbone")
    for _ in range(5):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(0.5 * first, rel=1e-6, abs=1e-9)
        step()
    assert optimizer.param_groups[1]["name"] == "backbone"


def test_parameters_an_optimizer_has_stay_unless_the_factor_says_otherwise():
    head, backbone = two_layers()
    parameters = [*head.parameters(), *backbone.parameters()]
    optimizer = SGD(parameters, lr=0.1)
    set_learning_rate([optimizer], [], list(backbone.parameters()), 1.0, "backbone")
    assert len(optimizer.param_groups) == 1
    set_learning_rate([optimizer], [], list(backbone.parameters()), 0.1, "backbone")
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, pytest.approx(0.01)]


def test_optimizers_with_named_parameters():
    head, backbone = two_layers()
    optimizer = SGD(head.named_parameters(), lr=0.1)
    set_learning_rate([optimizer], [], list(backbone.parameters()), 0.1, "backbone")
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


# what may be given


def test_strategies():
    assert type(resolve_finetuning("freeze")) is Freeze
    assert type(resolve_finetuning("no_freeze")) is NoFreeze
    unfreeze = resolve_finetuning(("freeze_unfreeze", 4))
    assert (type(unfreeze), unfreeze.unfreeze_epoch, unfreeze.lr_factor) == (FreezeUnfreeze, 4, 1.0)
    mine = Callback()
    assert resolve_finetuning(mine) is mine


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("freze", "got 'freze'. Did you mean \"freeze\""),
        ("freeze_unfreeze", r'\("freeze_unfreeze", epoch\)'),
        (("freeze_unfreze", 1), 'Did you mean "freeze_unfreeze"'),
        (("freeze_unfreeze", -1), "0 or more"),
        (("freeze_unfreeze", "1"), "0 or more"),
        (None, "got None"),
    ],
)
def test_strategies_that_do_not_exist(strategy, words):
    with pytest.raises(ConfigurationError, match=words):
        resolve_finetuning(strategy)


def test_a_module_without_a_backbone(tmp_path):
    module = TinyClassifier()
    module.body = module.backbone
    del module.backbone
    with pytest.raises(ConfigurationError, match=r"Freeze needs TinyClassifier.backbone.*\['head', 'body'\]"):
        make_trainer(tmp_path).finetune(module, *data(), strategy="freeze")


def test_a_factor_of_nothing():
    with pytest.raises(ConfigurationError, match="lr_factor"):
        FreezeUnfreeze(1, lr_factor=0)
