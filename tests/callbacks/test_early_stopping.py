"""EarlyStopping: when it stops, what it says, what it remembers."""

import math

import pytest
import torch

from torchloops.callbacks import EarlyStopping, EarlyStoppingReason
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer


def epochs_until_stop(trainer, callback, values):
    trainer.start(callback)
    for count, value in enumerate(values, start=1):
        trainer.run_epoch(callback, loss=value)
        if trainer.should_stop:
            return count
    return None


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({}, [3, 2, 1, 0], None),
        ({"patience": 2}, [3, 2, 2, 2, 2], 4),
        ({"patience": 2}, [3, 2, 2.5, 1, 2, 2], 6),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "min_delta": 0.25}, [3, 2.5, 2], None),
        ({"patience": 2, "mode": "max"}, [1, 2, 2, 1], 4),
        ({"patience": 0}, [1, 1], 2),
        ({"stopping_threshold": 1.5}, [3, 2, 1, 0], 3),
        ({"stopping_threshold": 2.5, "mode": "max"}, [1, 2, 3], 3),
        ({"divergence_threshold": 5.0}, [3, 6], 2),
        ({"divergence_threshold": 0.5, "mode": "max"}, [1, 0.1], 2),
        ({}, [3, math.nan], 2),
        ({}, [3, math.inf], 2),
        ({"check_finite": False, "patience": 2}, [3, math.nan, 2, math.nan, math.nan], 5),
    ],
)
def test_when_it_stops(trainer, options, values, expected):
    assert epochs_until_stop(trainer, EarlyStopping("loss", **options), values) == expected


def test_what_it_remembers_of_a_stop(trainer):
    callback = EarlyStopping("loss", patience=2)
    epochs_until_stop(trainer, callback, [3.0, 1.5, 2.0, 2.0])
    assert (callback.wait_count, callback.stopped_epoch) == (2, 3)
    assert callback.best_score.item() == 1.5
    assert callback.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED
    assert callback.stopping_reason_message == "loss has not got better than 1.5 in the last 2 checks."


def test_a_missing_value_is_an_error_that_names_what_was_logged(trainer):
    trainer.log(**{"val/loss": 1.0, "train/loss": 2.0})
    callback = EarlyStopping("val/los")
    trainer.start(callback)
    with pytest.raises(ConfigurationError, match=r"'val/los'.*\['train/loss', 'val/loss'\].*mean \"val/loss\""):
        callback.on_train_epoch_end(trainer, TinyClassifier())


def test_a_missing_value_is_passed_over_when_not_strict(trainer):
    callback = EarlyStopping("nothing", strict=False)
    assert epochs_until_stop(trainer, callback, [1.0]) is None
    assert callback.wait_count == 0


def test_state_survives_a_resume_and_a_new_fit_starts_over(trainer):
    callback = EarlyStopping("loss", patience=3)
    epochs_until_stop(trainer, callback, [2.0, 3.0, 3.0])
    resumed = EarlyStopping("loss", patience=3)
    trainer.start(resumed)
    resumed.load_state_dict(callback.state_dict())
    trainer.run_epoch(resumed, loss=2.5)
    assert trainer.should_stop
    assert resumed.wait_count == 3
    resumed.setup(trainer, None, "fit")
    assert (resumed.wait_count, resumed.best_score.item(), resumed.stopping_reason_message) == (0, math.inf, None)


def test_it_checks_at_every_validation_where_there_are_several_an_epoch(trainer):
    trainer.val_check_interval = 0.5
    callback = EarlyStopping("loss", patience=2)
    trainer.start(callback)
    for value in (1.0, 2.0, 2.0):
        trainer.log(loss=value)
        callback.on_validation_end(trainer, TinyClassifier())
    assert trainer.should_stop


def test_a_validation_outside_of_a_fit_is_not_checked(trainer):
    callback = EarlyStopping("never logged", check_on_train_epoch_end=False)
    callback.setup(trainer, None, "validate")
    callback.on_validation_end(trainer, TinyClassifier())
    assert not trainer.should_stop


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "mni"}, 'mode.*"min".*"mni"|\'mni\''),
        ({"patience": -1}, "patience"),
        ({"min_delta": -0.1}, "min_delta"),
    ],
)
def test_arguments_that_make_no_sense(options, words):
    with pytest.raises(ConfigurationError, match=words):
        EarlyStopping("loss", **options)


def make_trainer(folder, *callbacks, **options):
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        **{"max_epochs": 20, "enable_checkpointing": False, **options},
    )


def test_a_real_fit_stops_and_respects_min_epochs(tmp_path):
    torch.manual_seed(0)
    callback = EarlyStopping("val/accuracy", patience=1, stopping_threshold=-1.0, mode="max")
    trainer = make_trainer(tmp_path, callback, min_epochs=3)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    assert (callback.stopped_epoch, trainer.current_epoch) == (2, 3)


def test_each_inner_run_stops_by_its_own_values(tmp_path):
    """The ancestors' folds after the first had no steps once EarlyStopping had fired (Lightning #839)."""
    from torchloops.loops import Loop

    class Outer(Loop):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.epochs = []

        @property
        def done(self):
            return len(self.epochs) == 2

        def on_run_start(self):
            self.start = self.trainer.snapshot()

        def advance(self):
            with self.trainer.isolated(f"fold_{len(self.epochs)}", start=self.start) as run:
                self.inner.run()
            self.epochs.append(run.epochs)

    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, EarlyStopping("val/loss", patience=1, mode="max"))
    trainer.fit_loop = Outer(trainer.fit_loop)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    assert trainer.fit_loop.epochs == [2, 2]
