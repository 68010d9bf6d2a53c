"""ValidationGuidedLoop: gradients scaled by the loss on a guide split."""

import contextlib
import warnings

import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchloops
from torchloops import Callback, Loop, LoopModule, ValidationGuidedLoop, YieldLoop, scale_gradients
from torchloops.advanced.validation_guided import CancelledScaleWarning, LeakingGuideWarning
from torchloops.errors import ConfigurationError, DataError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader

LITERAL = {
    "guide_batches": None, "guide_reduction": "sum", "guide_mode": "train", "epsilon": 0.0, "min_scale": None,
    "max_scale": None,
}  # fmt: skip
TRAIN, GUIDE = random_batches(5, 16), random_batches(3, 16, seed=1)


def seeded(cls=TinyClassifier, **arguments):
    torch.manual_seed(0)
    return cls(**arguments)


def fit(make_trainer, module, loop, data=TRAIN, **arguments):
    trainer = make_trainer(**{"max_epochs": 2, **arguments})
    trainer.fit_loop.replace(epoch_loop=loop)
    trainer.fit(module, data)
    return trainer


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def loss_of(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def pages_loop(model, factor_of=lambda loss: 1 / loss, accumulate=1, clip=None, value=None, epochs=2):
    """The page's second code block."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for i, batch in enumerate(TRAIN):
            if i % accumulate == 0:
                optimizer.zero_grad()
            (loss_of(model, batch) / accumulate).backward()
            if (i + 1) % accumulate and i + 1 < len(TRAIN):
                continue
            val_loss = 0
            for val_batch in GUIDE:
                val_loss += loss_of(model, val_batch)
            scale_gradients(model, factor_of(val_loss))
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if value:
                nn.utils.clip_grad_value_(model.parameters(), value)
            optimizer.step()
    return model


# the page


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"value": 1e-3}])
def test_weights_equal_the_pages_plain_loop_bit_for_bit(make_trainer, settings):
    names = {"accumulate": {"accumulate_grad_batches": 2}, "value": {"gradient_clip_algorithm": "value"}}
    arguments = {key: value for name in settings for key, value in names[name].items()}
    if "value" in settings:
        arguments["gradient_clip_val"] = settings["value"]
    module = seeded()
    fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, **LITERAL), **arguments)
    assert equal(module, pages_loop(seeded(), **settings))


def test_clipping_by_norm_comes_after_scaling(make_trainer):
    module = seeded()
    with pytest.warns(CancelledScaleWarning, match="clipping by norm"):
        fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, **LITERAL), gradient_clip_val=0.01)
    assert equal(module, pages_loop(seeded(), clip=0.01))


def test_it_is_assigned_connected_and_replaced_like_any_epoch_loop(make_trainer):
    modules = [seeded() for _ in range(3)]
    for index, module in enumerate(modules):
        trainer = make_trainer(max_epochs=2)
        loop = ValidationGuidedLoop(guide_dataloader=GUIDE)
        if index == 0:
            trainer.fit_loop.epoch_loop = loop
        elif index == 1:
            trainer.fit_loop.connect(epoch_loop=loop)
        else:
            trainer.fit_loop.epoch_loop.max_steps = 4
            loop = trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop) and trainer.fit_loop.epoch_loop
            assert loop.max_steps == 4
            loop = ValidationGuidedLoop(max_steps=4, guide_dataloader=GUIDE)
            loop.connect(trainer.fit_loop.epoch_loop.batch_loop, trainer.fit_loop.epoch_loop.val_loop)
            trainer.fit_loop.connect(epoch_loop=loop)
        trainer.fit(module, TRAIN)
    assert equal(modules[0], modules[1])
    assert trainer.global_step == 4


def test_a_constant_scale_is_a_learning_rate(make_trainer):
    module, slow = seeded(), seeded(lr=0.025)
    fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, scale=lambda loss, history: 0.5))
    make_trainer(max_epochs=2).fit(slow, TRAIN)
    assert equal(module, slow)


# the factor


class Record:
    """A scale function that remembers what it is given."""

    def __init__(self, factor=1.0):
        self.factor, self.losses, self.histories = factor, [], []

    def __call__(self, guide_loss, history):
        self.losses.append(guide_loss)
        self.histories.append(list(history))
        return self.factor


def test_a_function_gets_the_guide_loss_and_its_history(make_trainer):
    record = Record()
    fit(make_trainer, seeded(), ValidationGuidedLoop(guide_dataloader=GUIDE, scale=record), max_epochs=1)
    assert [len(history) for history in record.histories] == [0, 1, 2, 3, 4]
    assert record.histories[-1] == record.losses[:-1]
    assert all(loss.shape == () and not loss.requires_grad for loss in record.losses)
    model = seeded()
    with torch.no_grad():
        assert record.losses[0] == loss_of(model, GUIDE[0])


@pytest.mark.parametrize(("reduction", "times"), [("mean", 1 / 3), ("sum", 1.0)])
def test_mean_and_sum_over_all_guide_batches(make_trainer, reduction, times):
    record, model = Record(), seeded()
    loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale=record, guide_batches=None, guide_reduction=reduction)
    fit(make_trainer, seeded(), loop, max_steps=1)
    with torch.no_grad():
        expected = sum(loss_of(model, batch) for batch in GUIDE) * times
    torch.testing.assert_close(record.losses[0], expected)


def test_guide_batches_go_round_and_every_n_steps_keeps_the_factor(make_trainer):
    seen = []

    def guide_step(module, batch):
        seen.append(next(i for i, other in enumerate(GUIDE) if other is batch))
        return loss_of(module, batch)

    settings = {"guide_dataloader": GUIDE, "guide_step": guide_step, "guide_batches": 2, "every_n_steps": 2}
    factors = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            factors.append(float(module.head.weight.grad.abs().sum()))

    fit(make_trainer, seeded(), ValidationGuidedLoop(**settings), callbacks=[Watch()], max_epochs=1)
    assert seen == [0, 1, 2, 0, 1, 2]
    assert len(factors) == 5


def test_limits_and_epsilon_hold_the_factor(make_trainer):
    for settings, factor in (
        ({"max_scale": 0.1}, 0.1), ({"min_scale": 3.0}, 3.0), ({"epsilon": 50.0}, 0.02),
        ({"scale": lambda loss, history: 7.0, "max_scale": 2.0}, 2.0),
        ({"scale": lambda loss, history: torch.tensor([7.0]), "max_scale": 2.0}, 2.0),
    ):  # fmt: skip
        module, plain = seeded(), pages_loop(seeded(), lambda loss, factor=factor: factor)
        fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, **settings))
        for one, other in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_scale_and_both_norms_are_logged_over_the_epoch(make_trainer):
    norms = []

    class Watch(Callback):
        def on_after_backward(self, trainer, module):
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]))

    record = Record(0.25)
    loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale=record)
    metrics = fit(make_trainer, seeded(), loop, max_epochs=1, callbacks=[Watch()]).callback_metrics
    mean = torch.stack(norms).mean()
    assert metrics["guide/scale"] == 0.25
    torch.testing.assert_close(metrics["guide/loss"], torch.stack(record.losses).mean())
    torch.testing.assert_close(metrics["guide/grad_norm"], mean)
    torch.testing.assert_close(metrics["guide/grad_norm_scaled"], mean / 4)
    quiet = ValidationGuidedLoop(guide_dataloader=GUIDE, log_guide=False)
    assert not [name for name in fit(make_trainer, seeded(), quiet).callback_metrics if "guide" in name]


def test_no_step_waits_for_the_device(make_trainer, monkeypatch):
    waits = []
    read = torch.Tensor.__float__

    def count(self):
        waits.append(1)
        return read(self)

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 1:  # the first step checks the sign of the first guide loss
                monkeypatch.setattr(torch.Tensor, "__float__", count)
                monkeypatch.setattr(torch.Tensor, "item", count)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 4:
                monkeypatch.undo()

    fit(make_trainer, seeded(), ValidationGuidedLoop(guide_dataloader=GUIDE), max_epochs=1, callbacks=[Watch()])
    assert waits == []


def test_the_history_begins_anew_with_each_fit(make_trainer):
    record = Record()
    trainer = fit(make_trainer, seeded(), ValidationGuidedLoop(guide_dataloader=GUIDE, scale=record), max_epochs=1)
    trainer.fit(seeded(), TRAIN)
    assert [len(history) for history in record.histories] == [0, 1, 2, 3, 4] * 2


# the guide pass disturbs nothing


class Delicate(LoopModule):
    """Dropout, batch norm, a metric, and logged values."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10))
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=10)
        self.modes = []

    def training_step(self, batch, batch_idx):
        self.modes.append((self.net[2].training, torch.is_grad_enabled()))
        logits = self.net(batch[0])
        self.accuracy(logits, batch[1])
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_guide_pass_changes_nothing_but_the_gradients(make_trainer, in_memory):
    guide = GUIDE if in_memory else random_loader(48, 16, seed=1, noise=2.0)
    guide = guide if in_memory else DataLoader(guide.dataset, batch_size=16, shuffle=True)
    module, plain = seeded(Delicate), seeded(Delicate)
    data = DataLoader(random_dataset(80), batch_size=16, shuffle=True)
    torch.manual_seed(1)
    guided = fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=guide, scale=Record()), data)
    torch.manual_seed(1)
    alone = make_trainer(max_epochs=2)
    alone.fit(plain, data)
    assert equal(module, plain)
    for name in ("accuracy", "loss"):
        assert guided.callback_metrics[name] == alone.callback_metrics[name]
    assert module.modes == [(True, True), (False, False)] * 10
    assert all(part.training for part in module.modules())


def test_train_mode_leaves_dropout_and_batch_norm_as_in_training(make_trainer):
    module = seeded(Delicate)
    fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, guide_mode="train"), max_epochs=1)
    assert module.modes == [(True, True), (True, False)] * 5
    assert module.net[1].num_batches_tracked == 10


def test_everything_is_restored_after_an_error(make_trainer):
    module = seeded(Delicate)

    def guide_step(module, batch):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, guide_step=guide_step))
    assert module.training
    assert torch.is_grad_enabled()
    assert module.net[2].training


# which data guides


def test_the_split_is_cut_from_the_training_data_by_class_and_seed(make_trainer):
    dataset = random_dataset(200)
    targets = dataset.tensors[1]
    cuts, trained = [], []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            trained.append(batch[0])

    for seed in (0, 0, 1):
        loop = ValidationGuidedLoop(guide_split=0.2, seed=seed)
        loader = DataLoader(dataset, batch_size=16, shuffle=True)
        trainer = fit(make_trainer, seeded(), loop, loader, max_epochs=1, callbacks=[Watch()])
        cuts.append(loop.guide_indices)
    assert cuts[0] == cuts[1] != cuts[2]
    assert len(cuts[0]) == 40
    assert trainer.num_training_batches == 10
    counts = torch.bincount(targets[torch.tensor(cuts[0])], minlength=10)
    assert (counts - torch.bincount(targets, minlength=10) / 5).abs().max() <= 1
    guided = {tuple(dataset[index][0].tolist()) for index in cuts[2]}
    seen = {tuple(row.tolist()) for batch in trained[-10:] for row in batch}
    assert not guided & seen
    assert len(seen) == 160


def test_validation_and_test_data_are_never_touched(make_trainer):
    class Watched(TensorDataset):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    validation = Watched(*random_dataset(32, seed=2).tensors)
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_split=8)
    trainer.fit(seeded(), random_loader(96), DataLoader(validation, batch_size=32))
    assert validation.asked == 32  # the one validation at the end of the epoch
    assert len(trainer.fit_loop.epoch_loop.guide_indices) == 8


def test_guide_samples_are_read_without_training_transforms_where_there_is_a_view(make_trainer):
    class View(TensorDataset):
        def __init__(self, shift):
            super().__init__(torch.full((40, 32), shift), torch.arange(40) % 10)

    class Data(torchloops.DataModule):
        train_dataset, train_dataset_eval, targets = View(1.0), View(0.0), [i % 10 for i in range(40)]

        def train_dataloader(self):
            return DataLoader(self.train_dataset, batch_size=8)

    seen = []

    def guide_step(module, batch):
        seen.append(float(batch[0].max()))
        return loss_of(module, batch)

    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_split=0.25, guide_step=guide_step)
    trainer.fit(seeded(), datamodule=Data())
    assert set(seen) == {0.0}


@pytest.mark.parametrize(
    ("data", "settings", "error", "message"),
    [
        (TRAIN, {}, ConfigurationError, "the training data is a list, .* Give guide_dataloader"),
        (random_loader(96), {"guide_split": 96}, DataError, "takes 96 of 96 training samples"),
        (
            DataLoader(random_dataset(96), batch_size=8, sampler=range(95)),
            {},
            ConfigurationError,
            "draws samples by a range, .* Cut the split yourself and give guide_dataloader",
        ),
    ],
)
def test_data_that_cannot_be_cut_is_refused(make_trainer, data, settings, error, message):
    with pytest.raises(error, match=message):
        fit(make_trainer, seeded(), ValidationGuidedLoop(**settings), data)


def test_overfit_batches_needs_a_guide_of_its_own(make_trainer):
    with pytest.raises(ConfigurationError, match="the training data is a list, as also with overfit_batches"):
        fit(make_trainer, seeded(), ValidationGuidedLoop(), random_loader(96), overfit_batches=1)


def test_validation_data_as_guide_is_warned_of(make_trainer):
    validation = random_loader(32, seed=1)
    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_dataloader=validation)
    with pytest.warns(LeakingGuideWarning, match="guide data is the validation data"):
        trainer.fit(seeded(), TRAIN, validation)


# errors and warnings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "inverze"}, 'Did you mean "inverse"'),
        ({"scale": 3}, "got 3"),
        ({"guide_split": 1.5}, r"guide_split is a share .* got 1.5"),
        ({"guide_batches": 0}, "guide_batches is an int of 1 or more, got 0"),
        ({"every_n_steps": 0}, "every_n_steps"),
        ({"guide_mode": "test"}, "guide_mode"),
        ({"guide_reduction": "max"}, "guide_reduction"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"min_scale": 2.0, "max_scale": 1.0}, "above max_scale"),
        ({"sample_losses": loss_of}, "reweight"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        ValidationGuidedLoop(**settings)


def test_wrong_scales_and_losses_are_refused(make_trainer):
    for settings, message in (
        ({"scale": lambda loss, history: "x"}, "got str"),
        ({"scale": lambda loss, history: torch.ones(2)}, r"shape \(2,\)"),
        ({"guide_step": lambda module, batch: module(batch[0])}, r"guide_step returned a tensor of shape"),
        ({"guide_step": lambda module, batch: -loss_of(module, batch)}, "must not be negative"),
        ({"guide_dataloader": iter(GUIDE), "guide_batches": 2}, "no batches"),
    ):
        with pytest.raises((ConfigurationError, DataError), match=message):
            fit(make_trainer, seeded(), ValidationGuidedLoop(**{"guide_dataloader": GUIDE, **settings}))


def test_manual_optimization_is_refused(make_trainer):
    class Manual(TinyClassifier):
        automatic_optimization = False

    with pytest.raises(ConfigurationError, match="Manual optimizes manually"):
        fit(make_trainer, seeded(Manual), ValidationGuidedLoop(guide_dataloader=GUIDE))


def test_a_loop_that_steps_by_itself_is_found_out(make_trainer):
    class Own(Loop):
        @property
        def done(self):
            return self.progress.current == 1

        def advance(self, batch, batch_idx):
            loss_of(self.trainer.module, batch).backward()
            self.trainer.optimizers[0].step()

    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_dataloader=GUIDE)
    trainer.fit_loop.epoch_loop.batch_loop = Own()
    with pytest.raises(ConfigurationError, match="guided no step: Own"):
        trainer.fit(seeded(), TRAIN)


def test_adam_is_warned_of_once(make_trainer):
    loop = ValidationGuidedLoop(guide_dataloader=GUIDE)
    with pytest.warns(CancelledScaleWarning, match=r"Adam divides every gradient .* a constant factor cancels") as seen:
        trainer = fit(make_trainer, seeded(optimizer="Adam"), loop)
    assert [warning.category for warning in seen].count(CancelledScaleWarning) == 1
    trainer.fit(seeded(optimizer="Adam"), TRAIN)  # warnings are errors here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reweighting = ValidationGuidedLoop(guide_dataloader=GUIDE, scale="reweight")
        fit(make_trainer, seeded(optimizer="Adam"), reweighting)
    assert not [warning for warning in caught if warning.category is CancelledScaleWarning]


def test_a_constant_scale_cancels_under_clipping_and_nearly_under_adam(make_trainer):
    def trained(factor, **arguments):
        module = seeded(optimizer=arguments.pop("optimizer", "SGD"))
        loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale=Record(factor), min_scale=None)
        with pytest.warns(CancelledScaleWarning):
            fit(make_trainer, module, loop, **arguments)
        return module

    for arguments in ({"gradient_clip_val": 0.01}, {"optimizer": "Adam"}):
        one, other = trained(1.0, **arguments), trained(3.0, **arguments)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


# with the rest of the trainer


class TwoParts(LoopModule):
    """Two optimizers, each with a loss of its own."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 10)])

    def training_step(self, batch, batch_idx, optimizer_idx):
        return nn.functional.cross_entropy(self.parts[optimizer_idx](batch[0]), batch[1])

    def configure_optimizers(self):
        return {name: torch.optim.SGD(p.parameters(), lr=0.1) for name, p in zip("ab", self.parts, strict=True)}


def test_each_optimizer_is_guided_by_its_own_loss(make_trainer):
    module, plain = seeded(TwoParts), seeded(TwoParts)
    trainer = fit(make_trainer, module, ValidationGuidedLoop(guide_dataloader=GUIDE, **LITERAL))
    for index, optimizer in enumerate(plain.configure_optimizers().values()):
        for _ in range(2):
            for batch in TRAIN:
                optimizer.zero_grad()
                plain.training_step(batch, 0, index).backward()
                scale_gradients(optimizer, 1 / sum(plain.training_step(other, 0, index) for other in GUIDE))
                optimizer.step()
    assert equal(module, plain)
    assert {"guide/scale/a", "guide/scale/b", "guide/loss/a"} <= set(trainer.callback_metrics)


def test_bf16_mixed(make_trainer):
    seen = []

    class Types(TinyClassifier):
        def forward(self, inputs):
            logits = super().forward(inputs)
            seen.append(logits.dtype)
            return logits

    record = Record()
    loop = ValidationGuidedLoop(guide_dataloader=GUIDE, scale=record, guide_step=loss_of)
    fit(make_trainer, seeded(Types), loop, precision="bf16-mixed", max_epochs=1)
    assert set(seen) == {torch.bfloat16}
    assert record.losses[0].dtype is torch.float32


def test_hooks_before_the_step_see_scaled_gradients(make_trainer):
    calls = RecordingCallback()
    fit(make_trainer, seeded(), ValidationGuidedLoop(guide_dataloader=GUIDE), callbacks=[calls], max_epochs=1)
    plain = RecordingCallback()
    make_trainer(max_epochs=1, callbacks=[plain]).fit(seeded(), TRAIN)
    assert calls.calls == plain.calls


def test_it_goes_with_a_step_that_yields(make_trainer):
    class Yields(TwoParts):
        def training_step(self, batch, batch_idx):
            for index in (0, 1):
                yield super().training_step(batch, batch_idx, index)

    def guide_step(module, batch):
        return sum(nn.functional.cross_entropy(part(batch[0]), batch[1]) for part in module.parts)

    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_dataloader=GUIDE, guide_step=guide_step)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit(seeded(Yields), TRAIN)
    assert "guide/scale/b" in trainer.callback_metrics
    trainer.fit_loop.epoch_loop.guide_step = None
    with pytest.raises(ConfigurationError, match=r"Yields.training_step yields, so it cannot be asked"):
        trainer.fit(seeded(Yields), TRAIN)
    trainer.fit_loop.epoch_loop.scale, trainer.fit_loop.epoch_loop.guide_step = "reweight", guide_step
    with pytest.raises(ConfigurationError, match="YieldLoop does not run it as one step"):
        trainer.fit(seeded(Yields), TRAIN)


class TwoRuns(Loop):
    """Trains twice from the same weights."""

    def __init__(self, fit_loop):
        super().__init__()
        self.fit_loop, self.scales = fit_loop, []

    @property
    def done(self):
        return self.progress.current == 2

    def on_run_start(self):
        self.start = self.trainer.snapshot()

    def advance(self):
        with self.trainer.isolated(f"run_{self.progress.current}", start=self.start) as run:
            self.fit_loop.run()
        self.scales.append(run.metrics["guide/scale"])


def test_isolated_inner_runs_are_guided_alike(make_trainer):
    module, alone = seeded(), seeded()
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_split=0.2)
    trainer.fit_loop = outer = TwoRuns(trainer.fit_loop)
    trainer.fit(module, random_loader(96))
    fit(make_trainer, alone, ValidationGuidedLoop(guide_split=0.2), random_loader(96))
    assert outer.scales[0] == outer.scales[1]
    assert equal(module, alone)


def test_it_runs_inside_active_learning(make_trainer):
    from torchloops import ActiveLearningDataModule, ActiveLearningLoop

    data = ActiveLearningDataModule(
        random_dataset(80), heuristic="entropy", initial_num_labels=20, query_size=10, batch_size=8
    )
    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop = ValidationGuidedLoop(guide_split=0.2)
    loop = ActiveLearningLoop(max_rounds=2)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(seeded(), datamodule=data)
    assert list(loop.rounds["n_labelled"]) == [20, 30]
    assert loop.rounds["guide/scale"].notna().all()
    assert len(loop.fit_loop.epoch_loop.guide_indices) == 6


@pytest.mark.parametrize(
    "settings", [{}, {"every_n_steps": 3}, {"scale": "reweight", "every_n_steps": 3}, {"guide_batches": None}]
)
def test_a_cut_run_goes_on_where_it_was(make_trainer, tmp_path, settings):
    guide = DataLoader(random_dataset(48, seed=1), batch_size=16, shuffle=True)

    def loop():
        return ValidationGuidedLoop(guide_dataloader=guide, **settings)

    class Cut(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")
                raise KeyboardInterrupt

    torch.manual_seed(3)
    with contextlib.suppress(KeyboardInterrupt):
        fit(make_trainer, seeded(), loop(), callbacks=[Cut()], max_epochs=3)
    resumed, whole = seeded(), seeded()
    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop.replace(epoch_loop=loop())
    trainer.fit(resumed, TRAIN, ckpt_path=tmp_path / "cut.ckpt")
    fit(make_trainer, whole, loop(), max_epochs=3)
    assert equal(resumed, whole)


# scale_gradients


def test_scale_gradients_takes_modules_optimizers_and_parameters():
    layer = nn.Linear(2, 2)
    frozen = nn.Linear(2, 2)
    for target in (nn.ModuleList([layer, frozen]), torch.optim.SGD(layer.parameters()), layer.parameters()):
        layer.weight.grad, layer.bias.grad = torch.ones(2, 2), None
        scale_gradients(target, torch.tensor([3.0]))
        assert torch.equal(layer.weight.grad, torch.full((2, 2), 3.0))
    scale_gradients(layer.weight, 0.5)
    assert torch.equal(layer.weight.grad, torch.full((2, 2), 1.5))
    scale_gradients(frozen, 2.0)
    with pytest.raises(ConfigurationError, match=r"got a tensor of shape \(2,\)"):
        scale_gradients(layer, torch.ones(2))


def test_scale_gradients_takes_sparse_gradients():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 3])).sum().backward()
    scale_gradients(table, 2.0)
    assert table.weight.grad.to_dense().sum() == 8
