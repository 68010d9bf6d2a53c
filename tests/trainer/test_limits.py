"""A fit that a limit or a stop has ended is taken further, as if it had been longer from the start."""

import itertools
import logging

import pytest
import torch
from torch.utils.data import DataLoader

from torchloops import FitLoop, Loop, seed_everything
from torchloops.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torchloops.errors import ResumeWarning
from torchloops.testing import TinyClassifier, random_dataset, random_loader
from torchloops.trainer.state import TrainerState


class Scheduled(TinyClassifier):
    """Draws random numbers, decays the learning rate each epoch, and takes a value of the epoch before."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + 0.1 * torch.rand(()))

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("flat", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


@pytest.fixture
def fit(make_trainer, tmp_path):
    """``fit(name, ...)``: a fit of three epochs of five batches in a folder of that name; the Trainer and results."""

    def fit(name, seed=1, make_module=Scheduled, ckpt_path=None, change=None, **arguments):
        seed_everything(seed)
        options = {"max_epochs": 3, "enable_checkpointing": True, "logger": True, "log_every_n_steps": 2}
        trainer = make_trainer(**{**options, **arguments}, default_root_dir=tmp_path / name)
        if change is not None:
            change(trainer)
        module = make_module()
        train = DataLoader(random_dataset(40), batch_size=8, shuffle=True)
        trainer.fit(module, train, random_loader(16), ckpt_path=ckpt_path)
        table = tmp_path / name / "metrics.csv"
        optimizers = [optimizer.state_dict() for optimizer in trainer.run.optimizers_or_none()]
        found = {"weights": module.state_dict(), "optimizers": optimizers}
        return trainer, found, table.read_text() if table.is_file() else ""

    return fit


@pytest.fixture
def extended(fit):
    """``extended(first, then)``: a fit with the arguments ``first`` is resumed with ``then``; is it as if at once?"""
    numbers = itertools.count()

    def extended(first, then, alone=None, steps=None):
        whole, cut = f"whole_{next(numbers)}", f"cut_{next(numbers)}"
        _, expected, expected_table = fit(whole, **(then() if alone is None else alone))
        trainer, _, _ = fit(cut, **first())
        if steps is not None:
            assert trainer.global_step == steps
        _, found, table = fit(cut, seed=2, ckpt_path="last", **then())
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert table == expected_table

    return extended


@pytest.mark.parametrize("first", [5, 6, 8, 9, 10, 12])
@pytest.mark.parametrize("then", [11, 14, -1])
def test_raised_steps_finish_the_epoch_that_they_had_cut(extended, first, then):
    if then == -1 or then > first:
        extended(lambda: {"max_steps": first}, lambda: {"max_steps": then}, steps=first)


def test_steps_are_raised_again_and_again(fit):
    _, expected, expected_table = fit("whole")
    for number, steps in enumerate((3, 4, 4, 7, 13, -1)):
        _, found, table = fit("cut", seed=number + 1, max_steps=steps, ckpt_path="last" if number else None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert table == expected_table


def test_the_same_limit_again_leaves_all_as_it_was(fit, caplog):
    _, expected, expected_table = fit("cut", max_steps=7)
    with caplog.at_level(logging.WARNING, "torchloops"):
        trainer, found, table = fit("cut", seed=2, max_steps=7, ckpt_path="last")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (table, trainer.global_step, trainer.current_epoch) == (expected_table, 7, 2)
    assert "Nothing is left to train: the checkpoint is at epoch 1, step 7, and the limits are" in caplog.text
    assert "max_steps=7" in caplog.text


@pytest.mark.parametrize("validate", [0.4, 1.0])
def test_steps_of_the_loop_of_an_epoch_are_raised(extended, validate):
    def limited(steps):
        return lambda trainer: setattr(trainer.fit_loop.epoch_loop, "max_steps", steps)

    extended(
        lambda: {"change": limited(7), "val_check_interval": validate},
        lambda: {"change": limited(13), "val_check_interval": validate},
    )


@pytest.fixture
def time_for_seven_steps(monkeypatch):
    def out_of_time(state):
        return state.limits.max_seconds is not None and state.global_step >= 7

    monkeypatch.setattr(TrainerState, "out_of_time", property(out_of_time))


def test_more_time_finishes_the_epoch_that_time_had_cut(extended, time_for_seven_steps):
    extended(lambda: {"max_time": 60}, dict, steps=7)


def test_time_that_is_used_up_ends_a_resumed_fit_at_once(fit, caplog, time_for_seven_steps):
    fit("cut", max_time=60)
    with caplog.at_level(logging.WARNING, "torchloops"):
        trainer, _, _ = fit("cut", seed=2, max_time=60, ckpt_path="last")
    assert trainer.global_step == 7
    assert "max_time=60.0. Raise them" in caplog.text


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_gathered_before_the_cut_count(extended, accumulate):
    extended(
        lambda: {"max_steps": 3, "accumulate_grad_batches": accumulate},
        lambda: {"max_steps": 5, "accumulate_grad_batches": accumulate},
    )


def test_a_fit_that_goes_on_after_all_is_saved_again(fit, tmp_path):
    class Raise(Callback):
        """Takes back the stop when the cut epoch is closed, as a program may."""

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                trainer.should_stop = True

        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = False

    fit("on", callbacks=[Raise()])
    assert torch.load(tmp_path / "on/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
def test_the_rest_of_an_epoch_that_was_closed_is_not_left_out_without_a_word(fit, tmp_path):
    saved = ModelCheckpoint(dirpath=tmp_path / "own", save_last=True)
    fit("cut", max_steps=7, callbacks=[saved])
    with pytest.warns(ResumeWarning, match=r"what was left of that epoch.*checkpoints/last\.ckpt"):
        trainer, _, _ = fit("more", seed=2, ckpt_path=tmp_path / "own" / "last.ckpt")
    assert trainer.global_step == 12


class Halt(Callback):
    """Stops after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.should_stop = True


@pytest.mark.parametrize(("step", "validation"), [(5, None), (7, 0)])
def test_a_fit_that_a_program_stopped_goes_on_with_higher_limits_only(fit, caplog, step, validation):
    """In the middle of an epoch a stop brings a validation of its own, which draws numbers that a whole run has not."""
    options = {"limit_val_batches": validation}
    _, expected, _ = fit("whole", max_epochs=4, **options)
    before, _, _ = fit("cut", callbacks=[Halt(step)], **options)
    assert before.global_step == step
    with caplog.at_level(logging.WARNING, "torchloops"):
        same, _, _ = fit("cut", seed=2, ckpt_path="last", **options)
    assert same.global_step == step
    assert "should_stop ended the fit. Raise a limit to go on: max_epochs=3" in caplog.text
    _, found, _ = fit("cut", seed=2, max_epochs=4, callbacks=[Halt(step)], ckpt_path="last", **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
@pytest.mark.parametrize("validate", [0.4, 1.0])
@pytest.mark.parametrize("now", [list, lambda: [EarlyStopping("flat", patience=5)]])
def test_a_fit_that_early_stopping_ended_goes_on_with_more_patience_or_without_it(extended, validate, now):
    extended(
        lambda: {"callbacks": [EarlyStopping("flat", patience=1)], "val_check_interval": validate},
        lambda: {"callbacks": now(), "val_check_interval": validate, "max_epochs": 4},
    )


@pytest.mark.parametrize("validate", [0.4, 1.0])
def test_patience_counts_on_from_where_the_fit_was_stopped(fit, validate):
    def stopping(patience):
        return {"callbacks": [EarlyStopping("flat", patience=patience)], "val_check_interval": validate}

    alone, expected, _ = fit("whole", max_epochs=9, **stopping(4))
    fit("cut", max_epochs=9, **stopping(2))
    found, resumed, _ = fit("cut", seed=2, max_epochs=9, ckpt_path="last", **stopping(4))
    assert 5 < found.global_step == alone.global_step < 45
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("validate", [0.4, 1.0])
def test_the_same_early_stopping_ends_a_resumed_fit_at_once_and_says_so(fit, caplog, validate):
    def stopping():
        return {"callbacks": [EarlyStopping("flat", patience=2)], "val_check_interval": validate}

    before, expected, expected_table = fit("cut", **stopping())
    with caplog.at_level(logging.WARNING, "torchloops"):
        after, found, table = fit("cut", seed=2, max_epochs=9, ckpt_path="last", **stopping())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (after.global_step, table) == (before.global_step, expected_table)
    assert (
        "EarlyStopping ended the fit: flat has not got better than 1 in the last 2 checks. Give it more" in caplog.text
    )


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        ({"stopping_threshold": 2.0}, {"stopping_threshold": 0.5}, True),
        ({"stopping_threshold": 2.0}, {"stopping_threshold": 1.5}, False),
        ({"divergence_threshold": 0.5}, {}, True),
        ({"divergence_threshold": 0.5}, {"divergence_threshold": 0.7}, False),
        ({"patience": 1}, {"patience": 1, "min_delta": 0.1}, False),
        ({"patience": 2}, {"patience": 1}, False),
    ],
)
def test_whether_a_stop_still_holds_is_asked_with_the_settings_as_they_are(fit, first, then, goes_on):
    many = {"patience": 50}
    before, _, _ = fit("cut", callbacks=[EarlyStopping("flat", **{**many, **first})])
    after, _, _ = fit("cut", max_epochs=5, callbacks=[EarlyStopping("flat", **{**many, **then})], ckpt_path="last")
    assert (after.global_step > before.global_step) is goes_on


def test_a_stop_that_min_epochs_holds_back_still_counts_after_a_resume(fit, tmp_path):
    """The value got better after the stop, which is heeded all the same."""

    class Better(Scheduled):
        def validation_step(self, batch, batch_idx):
            self.log("flat", -1.0 if self.trainer.current_epoch == 2 else 1.0)

    def stopping():
        return {"callbacks": [EarlyStopping("flat", patience=1)], "make_module": Better, "min_epochs": 4}

    whole, expected, _ = fit("whole", max_epochs=6, **stopping())
    assert whole.current_epoch == 4
    fit("cut", max_epochs=3, **stopping())
    found, resumed, _ = fit("cut", seed=2, max_epochs=6, ckpt_path="last", **stopping())
    assert found.current_epoch == 4
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


class Seeds(Loop):
    """Three fits, each in a run of its own."""

    def __init__(self):
        super().__init__()
        self.fit_loop = FitLoop()

    @property
    def done(self):
        return self.progress.current == 3

    def advance(self):
        with self.trainer.isolated(f"seed_{self.progress.current}", seed=self.progress.current):
            self.fit_loop.run()


def test_a_study_of_fits_of_other_lengths_is_not_made_without_a_word(fit):
    def study(trainer):
        trainer.fit_loop = Seeds()

    class Cut(Callback):
        fits = 0

        def fresh(self):
            return self

        def on_fit_end(self, trainer, module):
            self.fits += 1
            if self.fits == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("study", change=study, max_epochs=1, callbacks=[Cut()], checkpoint_every="1 epoch")
    with pytest.warns(ResumeWarning, match=r"Fits inside Seeds .*max_epochs was 1 and is 2"):
        fit("study", change=study, max_epochs=2, ckpt_path="last")
