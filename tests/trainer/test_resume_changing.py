"""What changes while a fit runs: its data grow, parameters are frozen, groups and layers are added.

Each study is run whole, stopped between two epochs or in the middle of one, and resumed with new objects and seeds.
"""

import random
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from torchloops import DataModule, Trainer, seed_everything
from torchloops.callbacks import Callback
from torchloops.errors import CheckpointError, ResumeWarning
from torchloops.testing import TinyClassifier, random_dataset, random_loader
from torchloops.trainer.attributes import is_same

INPUTS, LABELS = random_dataset(64).tensors
CUTS = {"in epoch 0": 2, "in epoch 1": 6, "in epoch 2": 12, "before epoch 1": "1", "before epoch 2": "2"}
EPOCHS = 4


class Cut(Callback):
    """Ctrl-C after so many batches; or an error when an epoch begins, its number a text."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def on_train_batch_end(self, *args):
        self.seen += 1
        if self.seen == self.at:
            signal.raise_signal(signal.SIGINT)

    def on_train_batch_start(self, trainer, *args):
        if str(trainer.current_epoch) == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def fit(tmp_path):
    """``fit(folder, make_module, make_data, at, ckpt_path)``: a Trainer that has trained, or was cut."""

    def run(folder, make_module, make_data, at=None, ckpt_path=None, make_callbacks=list, **arguments):
        callbacks = [*make_callbacks(), *([] if at is None else [Cut(at)])]
        trainer = Trainer(
            **{"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, "enable_progress_bar": False} | arguments,
            default_root_dir=tmp_path / folder,
            callbacks=callbacks,
            checkpoint_every="1 epoch" if isinstance(at, str) else "0 seconds",
        )
        data = make_data()
        data = {"datamodule": data} if isinstance(data, DataModule) else {"train_dataloaders": data}
        trainer.fit(make_module(), **data, ckpt_path=ckpt_path)
        return trainer

    return run


@pytest.fixture
def study(fit):
    """``study(make_module, make_data, ...)``: the weights of a whole run are those of each cut and resumed one."""

    def check(make_module, make_data=lambda: shuffled(TensorDataset(INPUTS[:32], LABELS[:32])), cuts=CUTS, **options):
        seed_everything(1)
        whole = fit("whole", make_module, make_data, **options)
        for name, at in cuts.items():
            seed_everything(1)
            with pytest.raises(KeyboardInterrupt):
                fit(name, make_module, make_data, at, **options)
            seed_everything(2)
            resumed = fit(name, make_module, make_data, ckpt_path="last", **options)
            states = [
                {"weights": trainer.module.state_dict(), "optimizers": [o.state_dict() for o in trainer.optimizers]}
                for trainer in (resumed, whole)
            ]
            assert is_same(*states), (name, states)
        return whole

    return check


def shuffled(dataset):
    return DataLoader(dataset, 8, shuffle=True)


class Model(TinyClassifier):
    """Adam and a scheduler, and a layer of dropout."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs):
        return self.head(self.dropout(self.backbone(inputs)))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


# data that grow


class ByEpoch(DataModule):
    def train_dataloader(self):
        size = 32 + 8 * self.trainer.current_epoch
        return shuffled(TensorDataset(INPUTS[:size], LABELS[:size]))

    def val_dataloader(self):
        return random_loader(16)


class ByCount(DataModule):
    """Counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def train_dataloader(self):
        self.asked += 1
        size = 24 + 8 * self.asked
        return shuffled(TensorDataset(INPUTS[:size], LABELS[:size]))

    def val_dataloader(self):
        self.asked_for_validation = getattr(self, "asked_for_validation", 0) + 1
        return random_loader(16, seed=self.asked_for_validation)


class ByCountThatItSaves(ByCount):
    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state_dict):
        self.asked = state_dict["asked"]

    val_dataloader = ByEpoch.val_dataloader


class Scaled(ByCount):
    """As many samples each time, with noise that grows: no description of the data tells them apart."""

    def train_dataloader(self):
        self.asked += 1
        return shuffled(TensorDataset(INPUTS[:32] * (1 + 0.1 * self.asked), LABELS[:32]))


class ByChance(DataModule):
    """Draws which samples there are, from the global generators and from one of its own."""

    def __init__(self):
        self.rng = random.Random(3)

    def train_dataloader(self):
        chosen = torch.randperm(64)[:32].tolist() + self.rng.sample(range(64), 8)
        return shuffled(Subset(TensorDataset(INPUTS, LABELS), chosen))


class Pool(DataModule):
    """Grows by a list of its own that a hook fills."""

    def __init__(self):
        self.chosen = list(range(24))

    def train_dataloader(self):
        return shuffled(Subset(TensorDataset(INPUTS, LABELS), list(self.chosen)))


class Choosing(Callback):
    def on_train_epoch_end(self, trainer, module):
        pool = trainer.datamodule
        with torch.no_grad():
            rest = [index for index in range(64) if index not in pool.chosen]
            scores = module(INPUTS[rest]).max(1).values
        pool.chosen.extend(rest[i] for i in scores.argsort()[:8].tolist())


class AskedEarly(ByCount):
    """Somebody asks for the data before the checkpoint is loaded."""

    def setup(self, stage):
        assert self.trainer.num_training_batches == 4


@pytest.mark.parametrize("make_data", [ByEpoch, ByCount, ByCountThatItSaves, Scaled, ByChance, AskedEarly])
@pytest.mark.parametrize("every", [1, 2])
def test_data_that_grow(study, make_data, every):
    study(Model, make_data, reload_dataloaders_every_n_epochs=every)


def test_data_that_grow_are_those_of_plain_pytorch(fit):
    """The whole run, which the others are compared with, trains on what it should."""
    sizes = []

    class Noting(Callback):
        def on_train_epoch_start(self, trainer, module):
            sizes.append(len(trainer.train_dataloader.dataset))

    fit("whole", Model, ByCount, reload_dataloaders_every_n_epochs=2, make_callbacks=lambda: [Noting()])
    assert sizes == [32, 32, 40, 40]


def test_a_pool_that_a_hook_fills(study):
    whole = study(Model, Pool, reload_dataloaders_every_n_epochs=1, make_callbacks=lambda: [Choosing()])
    assert len(whole.datamodule.chosen) == 24 + 8 * EPOCHS


class OwnLoader(Model):
    """The module itself has the data, and counts."""

    asked = 0

    def train_dataloader(self):
        self.asked += 1
        size = 24 + 8 * self.asked
        return shuffled(TensorDataset(INPUTS[:size], LABELS[:size]))


def test_a_module_whose_own_data_grow(study):
    study(OwnLoader, lambda: None, reload_dataloaders_every_n_epochs=1)


class OfTheClass(DataModule):
    """Counts in an attribute of the class, which nobody can know of."""

    asked = 0

    def train_dataloader(self):
        OfTheClass.asked += 1
        size = 24 + 8 * OfTheClass.asked
        return shuffled(TensorDataset(INPUTS[:size], LABELS[:size]))


def test_data_that_grow_by_something_unknown_are_refused(fit):
    with pytest.raises(KeyboardInterrupt):
        fit("cut", Model, OfTheClass, 6, reload_dataloaders_every_n_epochs=1)
    with pytest.raises(CheckpointError, match=r"number of samples was 40 and is 48.*train_dataloader.*state_dict"):
        fit("cut", Model, OfTheClass, ckpt_path="last", reload_dataloaders_every_n_epochs=1)


# parameters that are frozen


def freezing(hook, then="on_train_epoch_start", unfreeze=True, only_trainable=False):
    """A module that freezes its backbone in one hook, and gives it free in another at epoch 2."""

    def freeze(self):
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def free(self):
        if self.current_epoch == 2:
            self.backbone.requires_grad_(True)
            self.backbone.train()

    def configure_optimizers(self):
        if not only_trainable:
            return Model.configure_optimizers(self)
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)

    hooks = {hook: freeze, "configure_optimizers": configure_optimizers} | ({then: free} if unfreeze else {})
    return type("Freezing", (Model,), hooks)


@pytest.mark.parametrize("only_trainable", [False, True])
@pytest.mark.parametrize("unfreeze", [False, True])
@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_backbone_that_is_frozen(study, hook, unfreeze, only_trainable):
    make = freezing(hook, unfreeze=unfreeze, only_trainable=only_trainable)
    if hook == "setup":
        freeze = make.setup
        make.setup = lambda self, stage: freeze(self)
    study(make)


def test_freezing_is_that_of_plain_pytorch(fit):
    def make_data():
        return random_loader(32, 8)

    seed_everything(1)
    trained = fit("whole", freezing("on_fit_start"), make_data).module
    seed_everything(1)
    module = freezing("on_fit_start")()
    (optimizer,), (schedule,) = Model.configure_optimizers(module)
    for epoch in range(EPOCHS):
        module.backbone.requires_grad_(epoch >= 2)
        module.backbone.train(epoch >= 2)
        for inputs, labels in make_data():
            loss = nn.functional.cross_entropy(module(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(trained.state_dict(), module.state_dict(), rtol=0, atol=0)


# what set-up sets, once in a whole run and again in a resumed one


class WarmStart(Model):
    """Sets weights, a learning rate and a scheduler when training starts."""

    def on_train_start(self):
        with torch.no_grad():
            self.head.bias.zero_()
        self.optimizers().param_groups[0]["lr"] = 0.05
        self.lr_schedulers().gamma = 0.5

    def on_train_epoch_start(self):
        self.lr_schedulers().gamma *= 0.9


class Initialized(Model):
    def on_fit_start(self):
        nn.init.uniform_(self.head.weight, -0.1, 0.1)


class Replaced(Model):
    """A new layer, and one that is there but for training."""

    def on_fit_start(self):
        self.head = nn.Linear(32, 10)

    def on_train_start(self):
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return super().training_step(batch, batch_idx) * (1 + 0.1 * self.seen)

    def on_load_checkpoint(self, checkpoint):
        self.register_buffer("seen", torch.zeros(()))


class Listed(Model):
    """Has parameters in a list of its own, which is no part of it."""

    def __init__(self):
        super().__init__()
        self.scales = [nn.Parameter(torch.ones(10))]

    def forward(self, inputs):
        return super().forward(inputs) * self.scales[0]

    def configure_optimizers(self):
        return torch.optim.Adam([*self.parameters(), *self.scales], lr=0.01)


@pytest.mark.parametrize("make_module", [WarmStart, Initialized, Replaced, Listed])
def test_what_set_up_sets_is_set_once(study, make_module):
    whole = study(make_module)
    if make_module is Listed:
        assert not torch.equal(whole.module.scales[0], torch.ones(10))


def test_a_layer_that_set_up_makes_otherwise_is_refused_by_name(fit):
    class Frozen(Model):
        def configure_optimizers(self):
            return torch.optim.SGD(self.backbone.parameters(), lr=0.01)

    class Wider(Frozen):
        def on_fit_start(self):
            self.head = nn.Linear(32, 12)

        def on_train_start(self):
            self.head = nn.Linear(32, 10)

    class Elsewhere(Frozen):
        def on_train_start(self):
            self.head = nn.Linear(32, 12)

    with pytest.raises(KeyboardInterrupt):
        fit("cut", Wider, lambda: random_loader(32, 8), 6)
    fit("cut", Wider, lambda: random_loader(32, 8), ckpt_path="last")
    with pytest.raises(
        CheckpointError, match=r"parameter head.weight of shape \(10, 32\).*put one of shape \(12, 32\)"
    ):
        fit("cut", Elsewhere, lambda: random_loader(32, 8), ckpt_path="last", max_epochs=EPOCHS + 1)


# groups of an optimizer


class AddsAGroup(Model):
    """The backbone gets a group of its own at epoch 1."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.head.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.optimizers().add_param_group({"params": self.backbone.parameters(), "lr": 0.003, "name": "backbone"})


class MovesAParameter(Model):
    """Takes the bias out of its group into one of its own."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            group = self.optimizers().param_groups[0]
            group["params"] = [parameter for parameter in group["params"] if parameter is not self.head.bias]
            self.optimizers().add_param_group({"params": [self.head.bias], "lr": 0.1})


class Extends(AddsAGroup):
    """Adds to the group that there is; names of the optimizer's own."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.named_parameters(), lr=0.1, momentum=0.9)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            named = [(f"backbone.{name}", parameter) for name, parameter in self.backbone.named_parameters()]
            self.optimizers().add_param_group({"params": named, "lr": 0.01})


@pytest.mark.parametrize("make_module", [AddsAGroup, MovesAParameter, Extends])
def test_groups_that_are_added(study, make_module):
    study(make_module)


def test_other_parameters_than_the_run_had_are_refused_by_name(fit):
    """Their states have the same shapes: nothing else would tell."""

    class Turned(Model):
        def configure_optimizers(self):
            return torch.optim.Adam([*self.parameters()][::-1], lr=0.01)

    class Straight(Model):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    with pytest.raises(KeyboardInterrupt):
        fit("cut", Straight, lambda: random_loader(32, 8), 6)
    with pytest.raises(CheckpointError, match=r"group 0 of Adam.*backbone.*head\.bias.*configure_optimizers"):
        fit("cut", Turned, lambda: random_loader(32, 8), ckpt_path="last")


class AddsAStranger(Model):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.hidden = [nn.Parameter(torch.ones(10))]
            self.optimizers().add_param_group({"params": self.hidden})


def test_a_group_of_parameters_that_are_none_of_the_module_is_refused(fit):
    with pytest.raises(KeyboardInterrupt):
        fit("cut", AddsAStranger, lambda: random_loader(32, 8), 6)
    with pytest.raises(CheckpointError, match=r"group 1 of Adam.*none of AddsAStranger's.*attribute"):
        fit("cut", AddsAStranger, lambda: random_loader(32, 8), ckpt_path="last")


# layers that grow


def wider(layer, n_outputs):
    """A linear layer with more outputs and the weights of a smaller one."""
    new = nn.Linear(layer.in_features, n_outputs)
    with torch.no_grad():
        new.weight[: layer.out_features].copy_(layer.weight)
        new.bias[: layer.out_features].copy_(layer.bias)
    return new


class Grows(Model):
    """A head with more outputs at epoch 1, which takes the place of the one before in the optimizer."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            old, self.head = self.head, wider(self.head, 12)
            optimizer = self.optimizers()
            for parameter in old.parameters():
                optimizer.state.pop(parameter, None)
            optimizer.param_groups[0]["params"] = list(self.parameters())


class GrowsAgain(Grows):
    """It grows in its `on_load_checkpoint` too."""

    def on_load_checkpoint(self, checkpoint):
        n_outputs = len(checkpoint["state_dict"]["head.bias"])
        if n_outputs != self.head.out_features:
            self.head = wider(self.head, n_outputs)


class GrowsInAGroup(GrowsAgain):
    """The optimizer keeps the parameters of the head before, and gets a group for the new ones."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.head = wider(self.head, 12)
            self.optimizers().add_param_group({"params": self.head.parameters(), "lr": 0.003})


class GetsALayer(Model):
    """A part that was not there before."""

    def __init__(self):
        super().__init__()
        self.extra = None

    def forward(self, inputs):
        logits = super().forward(inputs)
        return logits if self.extra is None else logits + self.extra(logits)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.extra = nn.Linear(10, 10)
            self.optimizers().add_param_group({"params": self.extra.parameters(), "lr": 0.003})


class GetsALayerAgain(GetsALayer):
    def on_load_checkpoint(self, checkpoint):
        if "extra.weight" in checkpoint["state_dict"]:
            self.extra = nn.Linear(10, 10)


class GrowsByAHyperparameter(Grows):
    """Its caller gives the width of the checkpoint."""

    def __init__(self, width=10):
        super().__init__()
        self.save_hyperparameters()
        self.head = wider(self.head, width)

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.hparams.width = self.head.out_features


@pytest.mark.parametrize("make_module", [GrowsAgain, GrowsInAGroup, GetsALayerAgain])
def test_layers_that_grow_in_on_load_checkpoint_too(study, make_module):
    study(make_module)


@pytest.mark.parametrize("at", [6, "2"])
def test_a_layer_that_grows_by_a_hyperparameter(fit, at):
    seed_everything(1)
    whole = fit("whole", GrowsByAHyperparameter, lambda: random_loader(32, 8))
    seed_everything(1)
    with pytest.raises(KeyboardInterrupt):
        fit("cut", GrowsByAHyperparameter, lambda: random_loader(32, 8), at)
    with pytest.raises(CheckpointError, match=r"hyper-parameter width was 12 and is 10"):
        fit("cut", GrowsByAHyperparameter, lambda: random_loader(32, 8), ckpt_path="last")
    resumed = fit("cut", lambda: GrowsByAHyperparameter(12), lambda: random_loader(32, 8), ckpt_path="last")
    torch.testing.assert_close(resumed.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("make_module", "name"), [(Grows, r"head\.weight"), (GetsALayer, r"extra\.weight")])
@pytest.mark.parametrize("at", [6, "2"])
def test_layers_that_grow_nowhere_else_are_refused_by_name(fit, make_module, name, at):
    with pytest.raises(KeyboardInterrupt):
        fit("cut", make_module, lambda: random_loader(32, 8), at)
    with pytest.raises(CheckpointError, match=rf"(?s){name}.*on_load_checkpoint"):
        fit("cut", make_module, lambda: random_loader(32, 8), ckpt_path="last")


class LeavesAState(Grows):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.head = wider(self.head, 12)
            self.optimizers().param_groups[0]["params"] = list(self.parameters())


def test_a_state_of_parameters_that_have_left_the_optimizer_is_named(fit):
    with pytest.warns(ResumeWarning, match=r"Adam has states of parameters that are in none of its groups.*state\.pop"):
        fit("whole", LeavesAState, lambda: random_loader(32, 8))
