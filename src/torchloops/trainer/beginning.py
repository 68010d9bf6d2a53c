"""What a fit or an evaluation refuses before it begins: what would be left out without a word."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torchloops.callbacks.of_lightning import refuse_those_of_lightning
from torchloops.errors import ConfigurationError, PossibleUserWarning
from torchloops.hooks import is_overridden
from torchloops.loops import FitLoop

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["check_fit", "refuse_epoch_end_with_outputs"]

_WORDS = {"train": "training", "validate": "validation", "test": "test"}


def check_fit(trainer: Trainer) -> None:
    """Refuse a module, or arguments, of which a fit would leave something out.

    Raises:
        ConfigurationError: hooks of Lightning 1.x that are not called, callbacks of pytorch-lightning that do not run
            here, or accumulation and clipping with manual optimization.
    """
    module: Any = trainer.module
    refuse_those_of_lightning(trainer.callbacks, module)
    for stage in ("train", "validate"):
        refuse_epoch_end_with_outputs(module, stage)
    _warn_of_half_a_validation(trainer)
    if getattr(module, "automatic_optimization", True):
        return
    given = {
        "gradient_clip_val": (trainer.gradient_clip_val, "self.clip_gradients(optimizer, gradient_clip_val=...)"),
        "accumulate_grad_batches": (trainer.accumulate_grad_batches, "a step in every n-th batch"),
    }
    for name, (value, instead) in given.items():
        if value and value != 1:
            raise ConfigurationError(
                f"Trainer({name}={value}) is for automatic optimization, and {type(module).__name__} steps its "
                f"optimizers itself. Leave it out, and write {instead} in training_step."
            )


def _warn_of_half_a_validation(trainer: Trainer) -> None:
    """Warn of validation data without a step for it, and of a step without data, where a fit loop would validate."""
    module, sources = trainer.module, trainer.sources
    if not isinstance(trainer.fit_loop, FitLoop) or trainer.limit_val_batches == 0 or trainer.overfit_batches:
        return
    owner = trainer.datamodule if trainer.datamodule is not None else module
    has_data = sources.given.get("validate") is not None or is_overridden(owner, "val_dataloader")
    has_step = is_overridden(module, "validation_step")
    if has_data and not has_step:
        warnings.warn(
            f"There are validation data, and {type(module).__name__} has no `validation_step`, so there is no "
            "validation. Define one, or leave the data out.",
            PossibleUserWarning,
            stacklevel=5,
        )
    elif has_step and not has_data:
        warnings.warn(
            f"{type(module).__name__} has a `validation_step`, and there are no validation data, so it is not called. "
            "Give fit() val_dataloaders=, or set limit_val_batches=0 if that is meant.",
            PossibleUserWarning,
            stacklevel=5,
        )


def refuse_epoch_end_with_outputs(module: Any, stage: str) -> None:
    """Refuse the hooks of Lightning 1.x that were handed all outputs of an epoch.

    Args:
        module: the module.
        stage: "train", "validate", "test" or "predict".

    Raises:
        ConfigurationError: the module has one.
    """
    word = _WORDS.get(stage)
    if word is not None and callable(getattr(module, f"{word}_epoch_end", None)):
        hook = "on_train_epoch_end" if stage == "train" else f"on_{word}_epoch_end"
        raise ConfigurationError(
            f"{type(module).__name__}.{word}_epoch_end(outputs) is a hook of Lightning 1.x, which is not called. Keep "
            f"what you need of each batch in a list of yours (self.outputs.append(...) in {word}_step), and define "
            f"{hook}(self), which reads and clears it."
        )
