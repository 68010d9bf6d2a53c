"""Callbacks of pytorch-lightning that reach into its Trainer: refused before training, with what to use instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchloops.errors import ConfigurationError

__all__ = ["is_of_lightning_kind", "refuse_those_of_lightning"]

_SAME = "torchloops.{name} does the same, with the same arguments"
_FINDERS = "fit with a few values, each in trainer.isolated(...) of an outer loop"

_INSTEAD = {
    "ModelCheckpoint": _SAME,
    "LearningRateMonitor": _SAME,
    "OnExceptionCheckpoint": "leave it out: the Trainer keeps checkpoints/last.ckpt, which a fit goes on from",
    "BasePredictionWriter": "write in on_predict_batch_end(trainer, module, outputs, batch, batch_idx) of a Callback",
    "DeviceStatsMonitor": "log torch.cuda.memory_stats() in a Callback",
    "ThroughputMonitor": 'leave it out: the progress bar shows batches a second, Trainer(profiler="simple") more',
    "BatchSizeFinder": _FINDERS,
    "LearningRateFinder": _FINDERS,
}
_INSTEAD_OF_SWA = "pytorch-lightning's WeightAveraging, which runs, or leave batch norm out"


def is_of_lightning_kind(callback: Any, name: str) -> bool:
    """Whether an object's class is, or derives from, the callback of pytorch-lightning of that name."""
    return any(cls.__name__ == name and _is_lightnings(cls) for cls in type(callback).__mro__)


def refuse_those_of_lightning(callbacks: Iterable[Any], module: nn.Module | None = None) -> None:
    """Refuse callbacks that would fail in the middle of a fit.

    Args:
        callbacks: the callbacks.
        module: what is fitted, if that is known yet.

    Raises:
        ConfigurationError: one of them does.
    """
    has_norm = module is not None and any(isinstance(part, _BatchNorm) for part in module.modules())
    refused = {**_INSTEAD, "StochasticWeightAveraging": _INSTEAD_OF_SWA} if has_norm else _INSTEAD
    for callback in callbacks:
        for name, instead in refused.items():
            if is_of_lightning_kind(callback, name):
                raise ConfigurationError(
                    f"pytorch-lightning's {name} needs internals of its Trainer and does not run here. Instead: "
                    f"{instead.format(name=name)}."
                )


def _is_lightnings(cls: type) -> bool:
    return cls.__module__.startswith(("pytorch_lightning.callbacks.", "lightning.pytorch.callbacks."))
