"""The base class: which hooks there are, which count as defined, and copies for inner runs."""

import inspect

import pytest
from pytorch_lightning import Callback as LightningCallback

from torchloops.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from torchloops.callbacks.callback import HOOKS
from torchloops.hooks import is_overridden


def test_hooks_left_alone_do_not_count_as_defined():
    class Greeter(Callback):
        def on_train_start(self, trainer, module):
            super().on_train_start(trainer, module)

    assert [name for name in HOOKS if is_overridden(Greeter(), name)] == ["on_train_start"]


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_and_their_arguments_are_lightnings(name):
    ours = list(inspect.signature(getattr(Callback, name)).parameters)
    theirs = list(inspect.signature(getattr(LightningCallback, name)).parameters)
    assert ours == ["module" if parameter == "pl_module" else parameter for parameter in theirs]


def test_all_of_lightnings_hooks_are_there():
    theirs = {name for name in vars(LightningCallback) if name.startswith("on_") or name in ("setup", "teardown")}
    assert theirs <= set(HOOKS)


def test_a_fresh_callback_is_a_copy():
    class Counter(Callback):
        def __init__(self):
            self.seen = []

    first = Counter()
    second = first.fresh()
    second.seen.append(1)
    assert first.seen == []


def test_a_switched_off_hook_does_not_count_but_one_of_a_subclass_does():
    class Mine(ModelCheckpoint):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            pass

    assert not is_overridden(ModelCheckpoint(), "on_train_batch_end")
    assert is_overridden(ModelCheckpoint(every_n_train_steps=5), "on_train_batch_end")
    assert is_overridden(Mine(), "on_train_batch_end")
    assert not is_overridden(ModelCheckpoint().fresh(), "on_train_batch_end")


def test_watching_callbacks_run_last_and_the_checkpoint_after_early_stopping():
    assert Callback.order == 0 < RichProgressBar.order < EarlyStopping.order < ModelCheckpoint.order
