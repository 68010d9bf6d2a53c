"""A fit that goes on: at every safe point, after every kind of end, and never with other settings without a word."""

import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW, RAdam
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, LambdaLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader

from torchloops import FitLoop, Loop, seed_everything
from torchloops.callbacks import Callback
from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.testing import TinyClassifier, check_loop, random_batches, random_dataset, random_loader
from torchloops.testing.points import POINTS
from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint
from torchloops.trainer.keeper import SavingInterval

OTHERS = [point for point in POINTS if point != "resumes"]


def shuffled(n_samples=64, batch_size=16, **changes):
    return DataLoader(random_dataset(n_samples, **changes), batch_size=batch_size, shuffle=True)


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.fixture
def keeping(make_trainer):
    """``keeping(**arguments)``: a Trainer that keeps last.ckpt."""

    def make(**arguments):
        return make_trainer(
            **{"enable_checkpointing": True, "max_epochs": 3, "checkpoint_every": "1 epoch", **arguments}
        )

    return make


# every safe point


class Dropping(TinyClassifier):
    """Dropout, a step scheduler, and a mean that training logs per step and per epoch."""

    def forward(self, inputs):
        return self.head(nn.functional.dropout(self.backbone(inputs), 0.3, self.training))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/both", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Measuring(TinyClassifier):
    """torchmetrics in training and validation, one of them logged at the start of an epoch only."""

    def __init__(self):
        from torchmetrics import Accuracy, MeanMetric

        super().__init__()
        self.seen = MeanMetric()
        self.accuracy = Accuracy("multiclass", num_classes=10)

    def training_step(self, batch, batch_idx):
        self.seen(batch[0].mean())
        if batch_idx == 0:
            self.log("train/seen", self.seen, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch[0]), batch[1])
        self.log("val/torchmetrics", self.accuracy)


class Manual(TinyClassifier):
    """Manual optimization that gathers the gradients of two batches."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx).backward()
        if batch_idx % 2:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


class Halves(TinyClassifier):
    def training_step(self, batch, batch_idx, optimizer_idx):
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (self.backbone, self.head)]


class Frozen(TinyClassifier):
    """Freezes itself and a mode in the middle of an epoch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == 0 and batch_idx == 1:
            self.backbone.requires_grad_(False)
            self.backbone.eval()
        return loss

    def on_fit_start(self):
        if not self.trainer.fit_loop.restarting:
            self.backbone.requires_grad_(True)

    def on_fit_end(self):
        self.backbone.requires_grad_(True)


@pytest.mark.parametrize(
    ("make_module", "arguments"),
    [
        (Dropping, {}),
        (Dropping, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}),
        (Dropping, {"val_check_interval": 2, "limit_val_batches": 1}),
        (Dropping, {"max_epochs": -1, "max_steps": 6}),
        (Dropping, {"limit_train_batches": 3, "reload_dataloaders_every_n_epochs": 1}),
        (Measuring, {}),
        (Manual, {}),
        (Halves, {"accumulate_grad_batches": 2}),
        (Frozen, {}),
        (lambda: TinyClassifier(optimizer="LBFGS", lr=0.1), {"max_epochs": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fit_resumes_at_every_safe_point(make_module, arguments):
    check_loop(FitLoop, make_module=make_module, trainer_arguments=arguments, leave_out=OTHERS)


class Rounds(Loop):
    """An outer loop as a user would write it: three trainings, each with two pieces of work after it."""

    def __init__(self, fit_loop=None, seeded=True):
        super().__init__()
        self.fit_loop = fit_loop or FitLoop()
        self.seeded = seeded
        self.scores = []
        self.start = None

    @property
    def done(self):
        return self.progress.current == 3

    def reset(self):
        if not self.restarting:
            self.scores, self.start = [], None

    def on_run_start(self):
        self.start = self.start or self.trainer.snapshot()

    def advance(self):
        index = self.progress.current
        seed = 10 + index if self.seeded else None
        with self.trainer.isolated(f"round_{index}", start=self.start, seed=seed) as run:
            run.once("fit", self.fit_loop.run)
            noise = run.once("draw", lambda: torch.rand(1).item())
            scores = run.once("score", lambda: self.trainer.evaluate("validate"))
        self.scores.append([noise, torch.rand(1).item(), scores["val/loss"]])

    def on_save_checkpoint(self):
        return {"scores": self.scores, "start": self.start.state_dict() if self.start else None}

    def on_load_checkpoint(self, state):
        from torchloops.trainer.snapshot import Snapshot

        self.scores = state["scores"]
        self.start = Snapshot.from_state_dict(state["start"]) if state["start"] else None


@pytest.mark.parametrize("seeded", [True, False])
def test_an_outer_loop_resumes_inside_its_inner_runs(seeded):
    check_loop(lambda: Rounds(seeded=seeded), make_module=Dropping, leave_out=OTHERS)


def test_outer_loops_resume_inside_each_other():
    check_loop(lambda: Rounds(Rounds()), make_module=Dropping, max_epochs=1, leave_out=OTHERS)


def test_a_run_that_is_not_the_one_saved_is_refused(keeping, tmp_path):
    class Forgetful(Rounds):
        """Names its rounds by something that it does not save."""

        def advance(self):
            with self.trainer.isolated(f"round_{len(self.names)}"):
                self.names.append(0)
                self.fit_loop.run()

    trainer = keeping(max_epochs=1)
    trainer.fit_loop = loop = Forgetful()
    loop.names = []
    stop_at(trainer, 6)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4))
    again = keeping(max_epochs=1)
    again.fit_loop = loop = Forgetful()
    loop.names = []
    with pytest.raises(CheckpointError, match=r"inside the run 'round_1', but the loop began 'round_0'"):
        again.fit(TinyClassifier(), random_batches(4), ckpt_path="last")


def test_a_run_that_is_not_begun_again_is_warned_about(keeping, tmp_path):
    class Limited(Rounds):
        limit = 3

        @property
        def done(self):
            return self.progress.current >= self.limit

    trainer = keeping(max_epochs=1)
    trainer.fit_loop = Limited()
    stop_at(trainer, 6)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4), random_batches(2))
    again = keeping(max_epochs=1)
    again.fit_loop = loop = Limited()
    loop.limit = 1
    with pytest.warns(ResumeWarning, match="inside the run 'round_1', which no loop began again"):
        again.fit(TinyClassifier(), random_batches(4), random_batches(2), ckpt_path="last")


def test_another_number_of_gpus_is_warned_about(keeping, tmp_path):
    keeping(max_epochs=1, default_root_dir=tmp_path).fit(TinyClassifier(), random_batches(4))
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = read_checkpoint(path)
    checkpoint["random"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * 99
    write_checkpoint(checkpoint, path)
    with pytest.warns(ResumeWarning, match="generators of 99 CUDA devices"):
        keeping(max_epochs=2, default_root_dir=tmp_path).fit(TinyClassifier(), random_batches(4), ckpt_path=path)


# ends


def test_another_number_of_threads_is_warned_about(keeping, tmp_path):
    try:
        torch.set_num_threads(2)
        keeping(max_epochs=1).fit(TinyClassifier(), random_batches(4))
    finally:
        torch.set_num_threads(1)
    with pytest.warns(ResumeWarning, match=r"computed with 2 threads of torch, and there are 1 now.*OMP_NUM_THREADS=2"):
        keeping(max_epochs=2).fit(TinyClassifier(), random_batches(4), ckpt_path=tmp_path)


class Stop(Callback):
    """Raises KeyboardInterrupt at the end of a batch, counted over all runs, or inside of one."""

    def __init__(self, batches, inside=False):
        self.left = batches
        if inside:
            self.on_after_backward = self.count
        else:
            self.on_train_batch_end = self.count

    def fresh(self):
        return self

    def count(self, *args):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def stop_at(trainer, batches, **options):
    trainer._configured_callbacks.append(Stop(batches, **options))


@pytest.mark.parametrize("batches", [1, 4, 7])
def test_a_keyboard_interrupt_between_batches_saves_and_goes_on_exactly(keeping, tmp_path, batches):
    seed_everything(1)
    whole = Dropping()
    keeping(default_root_dir=tmp_path / "whole").fit(whole, shuffled(), random_loader(16))
    seed_everything(1)
    trainer = keeping(default_root_dir=tmp_path / "cut")
    stop_at(trainer, batches)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(Dropping(), shuffled(), random_loader(16))
    seed_everything(5)
    module = Dropping()
    again = keeping(default_root_dir=tmp_path / "cut")
    again.fit(module, shuffled(), random_loader(16), ckpt_path="last")
    assert same_weights(whole, module)


def test_a_keyboard_interrupt_of_one_callback_leaves_none_out(keeping, tmp_path):
    class Counting(Callback):
        batches = 0

        def on_train_batch_end(self, *args):
            self.batches += 1

        def state_dict(self):
            return {"batches": self.batches}

        def load_state_dict(self, state_dict):
            self.batches = state_dict["batches"]

    trainer = keeping(callbacks=[Stop(6), Counting()])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4))
    counting = Counting()
    keeping(callbacks=[counting]).fit(TinyClassifier(), random_batches(4), ckpt_path=tmp_path)
    assert counting.batches == 12


def test_a_keyboard_interrupt_in_an_inner_run_is_saved_there(keeping, tmp_path):
    seed_everything(1)
    whole = keeping(default_root_dir=tmp_path / "whole")
    whole.fit_loop = rounds = Rounds()
    whole.fit(Dropping(), shuffled(), random_loader(16))
    seed_everything(1)
    cut = keeping(default_root_dir=tmp_path / "cut")
    cut.fit_loop = Rounds()
    stop_at(cut, 18)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(Dropping(), shuffled(), random_loader(16))
    assert torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["name"] == "round_1"
    again = keeping(default_root_dir=tmp_path / "cut")
    again.fit_loop = resumed = Rounds()
    again.fit(Dropping(), shuffled(), random_loader(16), ckpt_path="last")
    assert resumed.scores == rounds.scores


def test_a_keyboard_interrupt_elsewhere_than_at_the_end_of_a_batch_keeps_the_checkpoint_before(keeping, tmp_path):
    """What the hook had done, and what it had not, cannot be known."""

    class Halfway(Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keeping(callbacks=[Halfway()], checkpoint_every="3 steps").fit(TinyClassifier(), random_batches(4))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_a_keyboard_interrupt_inside_a_batch_keeps_the_checkpoint_before(keeping, tmp_path):
    trainer = keeping()
    stop_at(trainer, 6, inside=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_checkpoint_from_inside_a_batch_is_never_resumed_without_a_word(make_trainer, tmp_path):
    class Saves(Callback):
        def on_after_backward(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "inside.ckpt")

    make_trainer(max_epochs=1, callbacks=[Saves()]).fit(TinyClassifier(), random_batches(4))
    with pytest.warns(ResumeWarning, match="in the middle of a batch"):
        make_trainer(max_epochs=2).fit(TinyClassifier(), random_batches(4), ckpt_path=tmp_path / "inside.ckpt")


def test_a_checkpoint_from_after_an_inner_run_that_broke_is_never_resumed_without_a_word(keeping, tmp_path):
    class Saves(Callback):
        def fresh(self):
            return self

        def on_exception(self, trainer, module, error):
            trainer.save_checkpoint(tmp_path / "broken.ckpt")  # the last one is of the outermost run

    def study(folder, *callbacks, ckpt_path=None):
        seed_everything(1)
        trainer = keeping(default_root_dir=tmp_path / folder, callbacks=list(callbacks))
        trainer.fit_loop = loop = Rounds()
        trainer.fit(Dropping(), shuffled(), random_loader(16), ckpt_path=ckpt_path)
        return loop.scores

    whole = study("whole")
    with pytest.raises(KeyboardInterrupt):
        study("cut", Stop(18, inside=True), Saves())
    with pytest.warns(ResumeWarning, match="in the middle of a batch"):
        assert study("again", ckpt_path=tmp_path / "broken.ckpt") == whole


def test_a_full_disk_is_reported_and_training_goes_on(keeping, tmp_path, monkeypatch):
    import torchloops.trainer.keeper as keeper

    def full(*args, **kwargs):
        raise CheckpointError("last.ckpt could not be written: no space left on device.")

    trainer = keeping()
    monkeypatch.setattr(keeper, "write_checkpoint", full)
    with pytest.warns(ResumeWarning, match=r"goes on without .* no space .* none yet"):
        trainer.fit(TinyClassifier(), random_batches(4))
    assert trainer.global_step == 12


def test_what_could_not_be_written_is_tried_again_at_the_end(keeping, tmp_path, monkeypatch):
    import torchloops.trainer.keeper as keeper

    write, failures = keeper.write_checkpoint, [CheckpointError("no space left on device.")]

    def full_at_first(*args, **kwargs):
        if failures:
            raise failures.pop()
        return write(*args, **kwargs)

    monkeypatch.setattr(keeper, "write_checkpoint", full_at_first)
    with pytest.warns(ResumeWarning, match="no space left"):
        keeping(max_epochs=1).fit(TinyClassifier(), random_batches(4))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_state_that_is_not_plain_costs_the_checkpoint_and_not_the_training(keeping, tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"thing": object()}

    trainer = keeping(max_epochs=1, callbacks=[Odd()])
    with pytest.warns(ResumeWarning, match=r"goes on without .* cannot hold callbacks\..*Odd\.thing: it is a object"):
        trainer.fit(TinyClassifier(), random_batches(4))
    assert trainer.global_step == 4


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(keeping, tmp_path):
    seed_everything(1)
    whole = Dropping()
    keeping(default_root_dir=tmp_path).fit(whole, shuffled())
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    module = Dropping()
    with pytest.warns(ResumeWarning, match="last.previous.ckpt"):
        keeping(default_root_dir=tmp_path).fit(module, shuffled(), ckpt_path="last")
    assert same_weights(whole, module)


def test_a_new_fit_sets_the_checkpoint_of_an_earlier_one_aside(keeping, tmp_path):
    keeping().fit(TinyClassifier(), random_batches(4))
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    trainer = keeping()
    stop_at(trainer, 2, inside=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["earlier.ckpt"]
    assert (tmp_path / "checkpoints" / "earlier.ckpt").read_bytes() == before


def test_a_finished_fit_is_extended_as_if_it_had_been_longer(keeping, tmp_path):
    seed_everything(1)
    whole = Dropping()
    keeping(max_epochs=4, default_root_dir=tmp_path / "whole").fit(whole, shuffled())
    seed_everything(1)
    keeping(max_epochs=2, default_root_dir=tmp_path / "two").fit(Dropping(), shuffled())
    module = Dropping()
    keeping(max_epochs=4, default_root_dir=tmp_path / "two").fit(module, shuffled(), ckpt_path="last")
    assert same_weights(whole, module)


def test_a_checkpoint_of_format_1_goes_on(make_trainer):
    module = TinyClassifier(in_features=4, hidden=4, num_classes=2, optimizer="Adam")
    data = DataLoader(random_dataset(24, in_features=4, num_classes=2), batch_size=6, shuffle=True)
    make_trainer(max_epochs=3).fit(module, data, ckpt_path=Path(__file__).with_name("format_1.ckpt"))
    assert module.head.bias.tolist() == pytest.approx([-0.41198697, -0.35196194], abs=1e-6)


# how often


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, SavingInterval()),
        ("100 steps", SavingInterval(steps=100)),
        ("1 epoch", SavingInterval(epochs=1)),
        ("0.5 seconds", SavingInterval(seconds=0.5)),
        ("2 minutes", SavingInterval(seconds=120.0)),
        (timedelta(hours=1), SavingInterval(seconds=3600.0)),
    ],
)
def test_intervals(value, expected):
    assert SavingInterval.parse(value) == expected


@pytest.mark.parametrize("value", ["often", "3", 3, "1.5 epochs", "0 steps", "-1 seconds", "3 fortnights"])
def test_an_interval_that_is_none_is_refused(make_trainer, value):
    with pytest.raises(ConfigurationError, match="checkpoint_every"):
        make_trainer(checkpoint_every=value)


@pytest.mark.parametrize(
    ("every", "saves"), [("0 seconds", 15), ("1 epoch", 3), ("2 epochs", 2), ("5 steps", 3), ("1 hour", 1)]
)
def test_how_often_a_fit_saves(keeping, every, saves):
    trainer = keeping(checkpoint_every=every)
    trainer.fit(TinyClassifier(), random_batches(4))
    assert trainer.keeper.saves == saves
    assert trainer.keeper.seconds > 0


def test_without_checkpointing_nothing_is_written(make_trainer, tmp_path):
    make_trainer(max_epochs=1, checkpoint_every="0 seconds").fit(TinyClassifier(), random_batches(2))
    make_trainer(fast_dev_run=True, enable_checkpointing=True).fit(TinyClassifier(), random_batches(2))
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_indivisible_work_saves_first_and_is_done_again(keeping, tmp_path):
    class Scoring(Rounds):
        scored = 0

        def advance(self):
            with self.trainer.indivisible():
                type(self).scored += 1
                if type(self).scored == 2:
                    raise KeyboardInterrupt
            super().advance()

    seed_everything(1)
    trainer = keeping(checkpoint_every="1 hour")
    trainer.fit_loop = Scoring()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TinyClassifier(), random_batches(4), random_batches(2))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["name"], len(saved["loop_tree"]["state_dict"]["scores"])) == ("", 1)


# what must be the same


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches was 1 and is 2"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val was None and is 1.0"),
        ({"precision": "bf16-mixed"}, "precision was '32-true' and is 'bf16-mixed'"),
        ({"limit_train_batches": 2}, "limit_train_batches was None and is 2"),
    ],
)
def test_other_settings_are_refused_by_name(keeping, changes, named):
    keeping(max_epochs=1).fit(TinyClassifier(), random_batches(4))
    with pytest.raises(CheckpointError, match=named):
        keeping(max_epochs=2, **changes).fit(TinyClassifier(), random_batches(4), ckpt_path="last")


@pytest.mark.parametrize(
    ("before", "now", "is_other"),
    [
        (None, 5, True),
        (torch.ones(2), torch.zeros(2), True),
        (torch.ones(2), torch.ones(2), False),
        ([torch.ones(2)], [torch.zeros(2)], True),
        (nn.Identity(), nn.Flatten(), False),  # no plain data, and no name: nobody can tell
        (nn.Tanh, nn.Tanh, False),
        (nn.Tanh, nn.ReLU, True),
        ([nn.Tanh, 1], [nn.Tanh, 2], True),
        ([nn.Identity()], [nn.Flatten()], False),
        (torch.relu, torch.tanh, True),
        (range(3), range(4), True),
        (partial(nn.Linear, bias=True), partial(nn.Linear, bias=True), False),
        (partial(nn.Linear, bias=True), partial(nn.Linear, bias=False), True),
        (Path("a"), "a", False),
        (float("nan"), float("nan"), False),
        (float("nan"), 1.0, True),
        ({"a": [float("nan"), 1]}, {"a": [float("nan"), 1]}, False),
        ({"a": [float("nan"), 1]}, {"a": [float("nan"), 2]}, True),
    ],
)
def test_hyperparameters_of_every_kind_are_compared(keeping, before, now, is_other):
    class Named(TinyClassifier):
        def __init__(self, option):
            super().__init__()
            self.save_hyperparameters()

    keeping(max_epochs=1).fit(Named(before), random_batches(2))
    resumed = keeping(max_epochs=2)
    if is_other:
        with pytest.raises(CheckpointError, match="hyper-parameter option was"):
            resumed.fit(Named(now), random_batches(2), ckpt_path="last")
    else:
        resumed.fit(Named(now), random_batches(2), ckpt_path="last")


def test_other_hyperparameters_are_refused_by_name(keeping):
    keeping(max_epochs=1).fit(TinyClassifier(lr=0.1), random_batches(4))
    with pytest.raises(CheckpointError, match=r"hyper-parameter lr was 0.1 and is 0.2"):
        keeping(max_epochs=2).fit(TinyClassifier(lr=0.2), random_batches(4), ckpt_path="last")


def constant(optimizer):
    return LambdaLR(optimizer, lambda epoch: 1.0)


def sequence(first):
    """A schedule whose first part is of this class."""
    return lambda adam: SequentialLR(adam, [first(adam), ExponentialLR(adam, 0.9)], [2])


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        ((Adam, constant), (AdamW, constant), "optimizers are Adam, the module configures AdamW"),
        ((Adam, constant), (RAdam, constant), "optimizers are Adam, the module configures RAdam"),
        ((Adam, constant), (Adam, LinearLR), "schedulers are LambdaLR, the module configures LinearLR"),
        ((Adam, sequence(ConstantLR)), (Adam, sequence(LinearLR)), r"SequentialLR\(ConstantLR, .*\(LinearLR, "),
    ],
)
def test_other_optimizers_and_schedulers_are_refused_by_name(keeping, before, now, named):
    class Configured(TinyClassifier):
        def configure_optimizers(self):
            make_optimizer, make_scheduler = self.parts
            optimizer = make_optimizer(self.parameters(), lr=0.01)
            return [optimizer], [make_scheduler(optimizer)]

    def fit(parts, max_epochs, **options):
        module = Configured()
        module.__dict__["parts"] = parts
        keeping(max_epochs=max_epochs).fit(module, random_batches(4), **options)

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's, of schedules in a sequence
        fit(before, 1)
        with pytest.raises(CheckpointError, match=named):
            fit(now, 2, ckpt_path="last")
        fit(before, 2, ckpt_path="last")


def test_a_checkpoint_without_the_classes_of_optimizers_is_resumed(keeping, tmp_path):
    keeping(max_epochs=1).fit(TinyClassifier(), random_batches(4))
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    del checkpoint["optimizer_classes"], checkpoint["lr_scheduler_classes"]
    write_checkpoint(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    trainer = keeping(max_epochs=2)
    trainer.fit(TinyClassifier(), random_batches(4), ckpt_path="last")
    assert trainer.global_step == 8


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (lambda: shuffled(64, 32), "batch_size was 16 and is 32"),
        (lambda: shuffled(80), "was 64 and is 80"),
        (lambda: shuffled(64, seed=1), "labels"),
    ],
)
def test_other_training_data_are_refused_by_name(keeping, data, named):
    keeping(max_epochs=1).fit(TinyClassifier(), shuffled())
    with pytest.raises(CheckpointError, match=named):
        keeping(max_epochs=2).fit(TinyClassifier(), data(), ckpt_path="last")


def test_other_settings_of_a_loop_are_refused_by_name(keeping):
    class Named(Rounds):
        fixed_settings = ("seeded",)

    first = keeping(max_epochs=1)
    first.fit_loop = Named()
    first.fit(TinyClassifier(), shuffled(), random_loader(16))
    second = keeping(max_epochs=1)
    second.fit_loop = Named(seeded=False)
    with pytest.raises(CheckpointError, match=r"Named.seeded was True and is False"):
        second.fit(TinyClassifier(), shuffled(), random_loader(16), ckpt_path="last")


def test_a_checkpoint_that_cannot_be_resumed_loses_nothing(keeping, tmp_path):
    keeping(max_epochs=1).fit(TinyClassifier(), shuffled())
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(CheckpointError):
        keeping(max_epochs=2).fit(TinyClassifier(), shuffled(80), ckpt_path="last")
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_resumed_fit_writes_the_same_table(keeping, tmp_path):
    tables = []
    for name, stop in (("whole", None), ("cut", 6)):
        seed_everything(1)
        trainer = keeping(default_root_dir=tmp_path / name, logger=True, log_every_n_steps=1)
        if stop:
            stop_at(trainer, stop)
            with pytest.raises(KeyboardInterrupt):
                trainer.fit(Dropping(), shuffled(), random_loader(16))
            trainer = keeping(default_root_dir=tmp_path / name, logger=True, log_every_n_steps=1)
            trainer.fit(Dropping(), shuffled(), random_loader(16), ckpt_path="last")
        else:
            trainer.fit(Dropping(), shuffled(), random_loader(16))
        tables.append((tmp_path / name / "metrics.csv").read_bytes())
    assert tables[0] == tables[1]
