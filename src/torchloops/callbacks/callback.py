"""Callback: the hooks that something outside of the module may define."""

from __future__ import annotations

import copy
from typing import Any

from torchloops.hooks import base_class

__all__ = ["HOOKS", "Callback"]


@base_class
class Callback:
    """Something that watches or steers a run from outside of the module.

    Override any hook below; those left alone cost nothing on a step. `torchloops.hooks` draws the order in which
    they run. Every hook gets the Trainer and the module first. ``Trainer.call_hook(name, *args)`` calls hooks of
    other names in the same way.

    What must survive a resume goes into ``state_dict`` as plain data (numbers, strings, tensors, lists, dicts); numbers
    take less time to save than tensors of one element. A resumed run calls ``setup``, ``on_load_checkpoint``,
    ``load_state_dict``, ``on_fit_start`` and ``on_train_start``; the hooks after them go on where the run was saved,
    so that in the middle of an epoch there is no ``on_train_epoch_start``, and in that of a validation no
    ``on_validation_start``. Flags and modes of the module are put back by the Trainer.

    Attributes:
        order: when the callback runs among the others. 0: before the module's hook of the same name. Above 0:
            after the module's, the lowest first; at the end of an epoch also after schedulers and loggers, so
            that the callback sees the values of the epoch. Bars have 1, `EarlyStopping` 2, `ModelCheckpoint` 3.

    Example:
        >>> class Greeter(Callback):
        ...     def on_train_start(self, trainer, module):
        ...         print("here we go")
        >>> Greeter().on_train_start(None, None)
        here we go
    """

    order: int = 0

    @property
    def state_key(self) -> str:
        """Name of the callback's state in a checkpoint; override it where one class is used twice in a run."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """What must survive a resume, as plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def fresh(self) -> Callback:
        """The callback that an isolated inner run uses: a copy, so that runs do not see each other.

        Return ``self`` where one object is to see all inner runs. ``setup`` is called at the start of each run.
        """
        return copy.deepcopy(self)

    def _switch_hook(self, owner: type, name: str, on: bool) -> None:
        """Let the hook ``name`` of class ``owner`` count as defined only while it has something to do.

        A hook that a subclass overrides stays as it is. Loops look hooks up when a run or an epoch starts.
        """
        if getattr(type(self), name) is getattr(owner, name):
            if on:
                self.__dict__.pop(name, None)
            else:
                self.__dict__[name] = None

    # around a run; stage is "fit", "validate", "test" or "predict"

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        """A run begins; before optimizers are configured and before a checkpoint is loaded."""

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """A run ended, also by an error."""

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """A run is ended by an error or by Ctrl-C; ``teardown`` follows."""

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written; it may be changed."""

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint was read; weights and optimizers are not loaded yet."""

    # training

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        """A fit begins; a resumed one is restored."""

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        """A fit ended without an error."""

    def on_sanity_check_start(self, trainer: Any, module: Any) -> None:
        """A few validation batches are tried before training."""

    def on_sanity_check_end(self, trainer: Any, module: Any) -> None:
        """The try is over; its values are forgotten."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Training begins."""

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Training ended."""

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Epoch ``trainer.current_epoch`` (from 0) begins."""

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Epoch ``trainer.current_epoch`` (from 0) ends, its validation included."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> int | None:
        """A batch is about to be trained on; return -1 to end the epoch here."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch was trained on; ``outputs`` is what ``training_step`` returned."""

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        """``loss.backward()`` comes next."""

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        """Gradients are there, not yet clipped."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """The optimizer steps next; gradients are not clipped yet."""

    # validation, test, prediction

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        """Validation begins."""

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Validation ended; its values are known."""

    def on_validation_epoch_start(self, trainer: Any, module: Any) -> None:
        """The pass over the validation data begins."""

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        """The pass over the validation data ended."""

    def on_validation_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch begins."""

    def on_validation_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch ended."""

    def on_test_start(self, trainer: Any, module: Any) -> None:
        """Testing begins."""

    def on_test_end(self, trainer: Any, module: Any) -> None:
        """Testing ended."""

    def on_test_epoch_start(self, trainer: Any, module: Any) -> None:
        """The pass over the test data begins."""

    def on_test_epoch_end(self, trainer: Any, module: Any) -> None:
        """The pass over the test data ended."""

    def on_test_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch begins."""

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch ended."""

    def on_predict_start(self, trainer: Any, module: Any) -> None:
        """Prediction begins."""

    def on_predict_end(self, trainer: Any, module: Any) -> None:
        """Prediction ended."""

    def on_predict_epoch_start(self, trainer: Any, module: Any) -> None:
        """The pass over the data to predict begins."""

    def on_predict_epoch_end(self, trainer: Any, module: Any) -> None:
        """The pass over the data to predict ended."""

    def on_predict_batch_start(
        self, trainer: Any, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch to predict begins."""

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch was predicted."""


HOOKS: tuple[str, ...] = tuple(
    name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")
)
"""Every hook that a callback may define, by name."""
