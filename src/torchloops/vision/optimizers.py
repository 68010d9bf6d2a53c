"""Optimizers and schedulers by name, fused where the device has a fused kernel."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["build_optimizer", "build_scheduler", "check_optimizer"]

OptimizerChoice = str | Callable[..., Optimizer]
SchedulerChoice = str | Callable[[Optimizer], Any] | None

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


def check_optimizer(optimizer: OptimizerChoice, lr_scheduler: SchedulerChoice, learning_rate: float) -> None:
    """Raise ConfigurationError for names nobody knows and a learning rate that is not positive."""
    if isinstance(optimizer, str) and optimizer.lower() not in _OPTIMIZERS:
        raise ConfigurationError(
            f'There is no optimizer "{optimizer}". Expected {", ".join(_OPTIMIZERS)}, or a callable '
            f"(params, lr=...) -> optimizer.{did_you_mean(optimizer.lower(), _OPTIMIZERS)}"
        )
    if isinstance(lr_scheduler, str) and lr_scheduler.lower() not in _SCHEDULERS:
        raise ConfigurationError(
            f'There is no lr_scheduler "{lr_scheduler}". Expected {", ".join(_SCHEDULERS)}, None, or a '
            "callable "
            f"(optimizer) -> scheduler.{did_you_mean(lr_scheduler.lower(), _SCHEDULERS)}"
        )
    if learning_rate <= 0:
        raise ConfigurationError(f"learning_rate must be positive, got {learning_rate}.")


def build_optimizer(
    optimizer: OptimizerChoice,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    *,
    fused: bool = True,
) -> Optimizer:
    """Build the optimizer.

    Args:
        optimizer: "adam", "adamw", "sgd" (momentum 0.9), or a callable ``(params, lr=...) -> optimizer``.
        parameters: what it trains.
        learning_rate: its ``lr``.
        fused: for names: take the fused kernel where the parameters' device has one (a step of a small
            network is then two to three times faster; the result differs in rounding only).
    """
    if not isinstance(optimizer, str):
        return optimizer(parameters, lr=learning_rate)
    build = _OPTIMIZERS[optimizer.lower()]
    if fused:
        try:
            return build(parameters, lr=learning_rate, fused=True)
        except RuntimeError:  # torch refuses: no fused kernel for this device or data type
            pass
    return build(parameters, lr=learning_rate)


def build_scheduler(lr_scheduler: str | Callable[[Optimizer], Any], optimizer: Optimizer, steps: float) -> Any:
    """Build a scheduler; by name, it moves with every optimizer step and ends after ``steps``.

    Raises:
        ConfigurationError: a name, and the number of steps is not known (infinite).
    """
    if not isinstance(lr_scheduler, str):
        return lr_scheduler(optimizer)
    if math.isinf(steps):
        raise ConfigurationError(
            f'lr_scheduler="{lr_scheduler}" must know the number of steps, and the run has no end. '
            "Give the Trainer max_epochs or max_steps."
        )
    scheduler = _SCHEDULERS[lr_scheduler.lower()](optimizer, max(int(steps), 2))
    return {"scheduler": scheduler, "interval": "step"}


def _cosine(optimizer: Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def _one_cycle(optimizer: Optimizer, steps: int) -> Any:
    highest = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, steps + 1)


_SCHEDULERS: dict[str, Callable[[Optimizer, int], Any]] = {"cosine": _cosine, "one_cycle": _one_cycle}
