"""Giving parameters a group of their own in an optimizer whose schedulers already run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import compress
from typing import Any

from torch import nn
from torch.optim import Optimizer

__all__ = ["set_learning_rate"]

_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr")


def set_learning_rate(
    optimizers: list[Optimizer],
    schedulers: list[Any],
    parameters: list[nn.Parameter],
    factor: float,
    name: str,
) -> None:
    """Have ``parameters`` trained at ``factor`` times the learning rate of their optimizer's first group.

    Those that no optimizer has go to the first optimizer. With a factor of 1 those that one has stay where they
    are; with another they get a group of their own, whose settings are those of the first group.

    Args:
        optimizers: the optimizers; if there are none, nothing happens.
        schedulers: learning-rate schedulers of these optimizers.
        parameters: parameters that are to be trained.
        factor: above 0.
        name: name of the new group, shown by `LearningRateMonitor`.
    """
    wanted = {id(parameter): parameter for parameter in parameters}
    for optimizer in optimizers:
        owned = [p for group in optimizer.param_groups for p in group["params"] if id(p) in wanted]
        for parameter in owned:
            del wanted[id(parameter)]
        if owned and factor != 1:
            _leave_groups(optimizer, owned)
            _add_group(optimizer, schedulers, owned, factor, name)
    if wanted and optimizers:
        _add_group(optimizers[0], schedulers, list(wanted.values()), factor, name)


def _leave_groups(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    leaving = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        staying = [id(parameter) not in leaving for parameter in group["params"]]
        for key in ("params", "param_names"):
            if key in group:
                group[key] = list(compress(group[key], staying))


def _add_group(
    optimizer: Optimizer, schedulers: list[Any], parameters: list[nn.Parameter], factor: float, name: str
) -> None:
    first = optimizer.param_groups[0]
    group = {key: copy.copy(value) for key, value in first.items() if key != "params"}
    group |= {key: group[key] * factor for key in _RATES if key in group}
    named = group.pop("param_names", None) is not None
    members = [(f"{name}.{i}", p) for i, p in enumerate(parameters)] if named else parameters
    optimizer.add_param_group({**group, "params": members, "name": name})
    for scheduler in _flat(schedulers):
        if getattr(scheduler, "optimizer", None) is optimizer:
            _extend(scheduler, factor)


def _flat(schedulers: list[Any]) -> Iterator[Any]:
    """The schedulers and those inside of chained and sequential ones."""
    for scheduler in schedulers:
        yield scheduler
        yield from _flat(getattr(scheduler, "_schedulers", []))


def _extend(scheduler: Any, factor: float) -> None:
    """Lengthen a scheduler's lists of one entry per group."""
    for name in ("base_lrs", "max_lrs", "min_lrs", "_last_lr"):
        values = getattr(scheduler, name, None)
        if isinstance(values, list) and values:
            values.append(values[0] * factor)
    functions = getattr(scheduler, "lr_lambdas", None)
    if isinstance(functions, list) and functions:
        functions.append(functions[0])
