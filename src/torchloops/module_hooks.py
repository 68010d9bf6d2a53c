"""The hooks of modules and data modules as methods that do nothing, or what is done without them.

So ``super().on_train_start()`` works in a class that overrides one. `torchloops.hooks` draws when each is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchloops.hooks import base_class

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DataHooks", "ModuleHooks", "step_scheduler"]


@base_class
class DataHooks:
    """The hooks that give data, for a `DataModule` and for a module that brings its own.

    Attributes:
        prepare_data_per_node: ``prepare_data`` runs in one process of each machine; False: of the first alone.
        allow_zero_length_dataloader_with_multiple_devices: has no effect: a process may have no data here.
    """

    prepare_data_per_node: bool = True
    allow_zero_length_dataloader_with_multiple_devices: bool = False

    def prepare_data(self) -> None:
        """Download or write files; one process."""

    def setup(self, stage: str) -> None:
        """Build data sets or layers; every process. ``stage`` is "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Undo ``setup``."""

    def train_dataloader(self) -> Any:
        """Training data, or None."""
        return None

    def val_dataloader(self) -> Any:
        """Validation data: a loader, a list of them, or None."""
        return None

    def test_dataloader(self) -> Any:
        """Test data: a loader, a list of them, or None."""
        return None

    def predict_dataloader(self) -> Any:
        """Data to predict: a loader, a list of them, or None."""
        return None

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch that is to go to the device."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on ``device``: every tensor in it, and whatever has a method ``to``."""
        from lightning_fabric.utilities.apply_func import move_data_to_device

        return move_data_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch that the step gets; the place for augmentation on the device."""
        return batch


@base_class
class ModuleHooks(DataHooks):
    """The hooks of a `LoopModule`."""

    # what a module may set up

    def configure_model(self) -> None:
        """Make layers in the run's precision and on its device; may be called more than once."""

    def configure_sharded_model(self) -> None:
        """The name that `configure_model` had in Lightning 1.x."""

    def configure_callbacks(self) -> Any:
        """Return callbacks, one or a list, that run with this module; they replace the Trainer's of the same type."""
        return []

    # checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written; add plain data under keys of your own."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint was read; weights are not loaded yet."""

    # fit

    def on_fit_start(self) -> None:
        """A fit begins."""

    def on_fit_end(self) -> None:
        """A fit ended."""

    def on_train_start(self) -> None:
        """Training begins."""

    def on_train_end(self) -> None:
        """Training ended."""

    def on_train_epoch_start(self) -> None:
        """An epoch begins."""

    def on_train_epoch_end(self) -> None:
        """An epoch ends, its validation included."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """A batch is about to be trained on; return -1 to end the epoch here."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch was trained on; ``outputs`` is what ``training_step`` returned."""

    # one optimizer step

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Gradients are about to be cleared."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Clear the gradients of ``optimizer``."""
        optimizer.zero_grad()

    def on_before_backward(self, loss: Tensor) -> None:
        """The backward pass of ``loss`` comes next."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass of ``loss``, which is scaled already where the precision scales."""
        loss.backward(*args, **kwargs)

    def on_after_backward(self) -> None:
        """Gradients are there, not yet clipped."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """``optimizer`` steps next; gradients are not clipped yet."""

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients of ``optimizer``, by default as the Trainer was told."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)  # type: ignore[attr-defined]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step; ``optimizer_closure`` computes the loss and its gradients, and is to be called."""
        optimizer.step(closure=optimizer_closure)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step ``scheduler``; ``metric`` is the value that it watches, or None."""
        step_scheduler(scheduler, metric)

    # validation, test, prediction

    def on_validation_model_zero_grad(self) -> None:
        """A validation inside a fit begins; gradients are kept unless this method clears them."""

    def on_validation_model_eval(self) -> None:
        """Put the module into eval mode; overridden, it does so in place of ``self.eval()``."""
        self.eval()  # type: ignore[attr-defined]

    def on_validation_model_train(self) -> None:
        """Validation is over; every part of the module gets its own mode back after this."""

    def on_validation_start(self) -> None:
        """Validation begins."""

    def on_validation_end(self) -> None:
        """Validation ended; its values are known."""

    def on_validation_epoch_start(self) -> None:
        """The pass over the validation data begins."""

    def on_validation_epoch_end(self) -> None:
        """The pass over the validation data ended."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch begins."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch ended."""

    def on_test_model_eval(self) -> None:
        """As `on_validation_model_eval`."""
        self.eval()  # type: ignore[attr-defined]

    def on_test_model_train(self) -> None:
        """As `on_validation_model_train`."""

    def on_test_start(self) -> None:
        """Testing begins."""

    def on_test_end(self) -> None:
        """Testing ended."""

    def on_test_epoch_start(self) -> None:
        """The pass over the test data begins."""

    def on_test_epoch_end(self) -> None:
        """The pass over the test data ended."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch begins."""

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch ended."""

    def on_predict_model_eval(self) -> None:
        """As `on_validation_model_eval`."""
        self.eval()  # type: ignore[attr-defined]

    def on_predict_start(self) -> None:
        """Prediction begins."""

    def on_predict_end(self) -> None:
        """Prediction ended."""

    def on_predict_epoch_start(self) -> None:
        """The pass over the data to predict begins."""

    def on_predict_epoch_end(self) -> None:
        """The pass over the data to predict ended."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch to predict begins."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch was predicted."""


def step_scheduler(scheduler: Any, metric: Any) -> None:
    """Step a scheduler, with the value that it watches if there is one."""
    if metric is None:
        scheduler.step()
    else:
        scheduler.step(metric)
