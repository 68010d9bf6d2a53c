"""What callbacks that watch a logged value have in common."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from torchloops.callbacks.callback import Callback
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.hooks import is_overridden

__all__ = ["acts_at_train_epoch_end", "check_mode", "is_better", "monitored_value", "same_on_all_ranks", "worst"]


def check_mode(owner: Callback, mode: str) -> None:
    """Refuse a ``mode`` that is neither "min" nor "max"."""
    if mode not in ("min", "max"):
        raise ConfigurationError(
            f'{type(owner).__name__}(mode=...) is "min" (lower is better) or "max", got {mode!r}.'
            + did_you_mean(str(mode), ("min", "max"))
        )


def is_better(value: float, than: float, mode: str, min_delta: float = 0.0) -> bool:
    """Whether ``value`` is better than another by more than ``min_delta``; NaN is never better."""
    return value < than - min_delta if mode == "min" else value > than + min_delta


def acts_at_train_epoch_end(trainer: Any, module: Any, setting: bool | None) -> bool:
    """Whether a watching callback acts when the training epoch ends (else: when validation ends).

    By default it is the former where validation runs once in every epoch, or not at all.
    """
    if setting is not None:
        return setting
    interval = trainer.val_check_interval
    if trainer.check_val_every_n_epoch == 1 and isinstance(interval, float) and interval == 1.0:
        return True
    return not (is_overridden(module, "validation_step") and sum(trainer.num_val_batches))


def monitored_value(owner: Callback, trainer: Any, monitor: str, strict: bool = True) -> float | None:
    """The last value logged as ``monitor``, as process 0 has it; None where it is missing and not ``strict``.

    Raises:
        ConfigurationError: it was never logged.
    """
    metrics = trainer.callback_metrics
    if monitor in metrics:
        value = metrics[monitor]
        return same_on_all_ranks(trainer, float(value.item() if isinstance(value, Tensor) else value))
    if not strict:
        return None
    names = sorted(metrics)
    raise ConfigurationError(
        f"{type(owner).__name__}(monitor={monitor!r}) watches a value that was not logged; "
        f"logged are {names or 'none at all'}.{did_you_mean(monitor, names)} "
        f"Log it in a step: self.log({monitor!r}, value)."
    )


def same_on_all_ranks(trainer: Any, value: Any) -> Any:
    """``value`` of process 0, so that all processes decide alike."""
    return trainer.engine.broadcast(value)


def worst(mode: str) -> float:
    """The value that every other one is better than."""
    return math.inf if mode == "min" else -math.inf
