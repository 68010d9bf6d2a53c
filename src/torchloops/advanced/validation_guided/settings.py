"""Arguments and data of `ValidationGuidedLoop` that make no sense, all said before the first step."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from torchloops.advanced.validation_guided.loop import ValidationGuidedLoop

__all__ = ["LeakingGuideWarning", "check_guide_data", "check_settings"]


class LeakingGuideWarning(UserWarning):
    """The guide data is what the model is validated on."""


def check_settings(loop: ValidationGuidedLoop) -> None:
    """Refuse arguments that make no sense, all of them in one error.

    Raises:
        ConfigurationError: with a line for each wrong argument.
    """
    wrong = []
    if isinstance(loop.scale, str) and loop.scale not in ("inverse", "reweight"):
        hint = did_you_mean(loop.scale, ("inverse", "reweight"))
        wrong.append(f'scale is "inverse", "reweight" or a function (guide_loss, history), got {loop.scale!r}.{hint}')
    elif not isinstance(loop.scale, str) and not callable(loop.scale):
        wrong.append(f'scale is "inverse", "reweight" or a function (guide_loss, history), got {loop.scale!r}.')
    split = loop.guide_split
    if not (isinstance(split, float) and 0 < split < 1) and not (type(split) is int and split >= 1):
        wrong.append(f"guide_split is a share above 0 and below 1 (float) or a number of samples (int), got {split!r}.")
    for name, least in (("guide_batches", loop.guide_batches), ("every_n_steps", loop.every_n_steps)):
        if least is not None and (not isinstance(least, int) or least < 1):
            wrong.append(f"{name} is an int of 1 or more, got {least!r}.")
    if loop.guide_mode not in ("eval", "train"):
        wrong.append(f'guide_mode is "eval" or "train", got {loop.guide_mode!r}.')
    if loop.guide_reduction not in ("mean", "sum"):
        wrong.append(f'guide_reduction is "mean" or "sum", got {loop.guide_reduction!r}.')
    if loop.epsilon < 0:
        wrong.append(f"epsilon is 0 or more, got {loop.epsilon}.")
    if loop.min_scale is not None and loop.max_scale is not None and loop.min_scale > loop.max_scale:
        wrong.append(f"min_scale={loop.min_scale} is above max_scale={loop.max_scale}.")
    if loop.sample_losses is not None and loop.scale != "reweight":
        wrong.append('sample_losses is for scale="reweight" only.')
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def check_guide_data(loop: ValidationGuidedLoop, trainer: Any) -> None:
    """Refuse a run that cannot be guided; warn where the guide is the validation data.

    Raises:
        ConfigurationError: manual optimization, no guide data, or "reweight" with "16-mixed" in several processes.
    """
    name = type(trainer.module).__name__
    if not getattr(trainer.module, "automatic_optimization", True):
        raise ConfigurationError(
            f"ValidationGuidedLoop needs automatic optimization, and {name} optimizes manually. Call "
            "torchloops.scale_gradients(self, factor) before optimizer.step() in its training_step instead."
        )
    if loop.guide_dataloader is None and loop.guide_indices is None:
        raise ConfigurationError(
            "ValidationGuidedLoop found no training DataLoader to cut a guide split from. Give guide_dataloader=..."
        )
    if loop.scale == "reweight" and trainer.world_size > 1 and trainer.precision == "16-mixed":
        raise ConfigurationError(
            'scale="reweight" with precision "16-mixed" works in one process only. Use precision="bf16-mixed".'
        )
    dataset = getattr(loop.guide_dataloader, "dataset", None)
    validation = [] if dataset is None else trainer.run.batches("validate")
    if any(dataset is getattr(batches.loader, "dataset", None) for batches in validation):
        warnings.warn(
            "The guide data is the validation data, so validation scores no longer tell how the model does on data it "
            "was not steered by. Cut a guide split from the training data (guide_split=...).",
            LeakingGuideWarning,
            stacklevel=2,
        )
