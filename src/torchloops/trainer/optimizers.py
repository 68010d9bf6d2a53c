"""What ``configure_optimizers`` may return, and when a scheduler steps."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchloops.errors import CheckpointError, ConfigurationError, did_you_mean

__all__ = ["NoOptimizer", "Optimization", "ReturnedOptimizers", "SchedulerConfig", "parse_optimizers"]

_KEYS = {"optimizer", "lr_scheduler", "frequency", "monitor"}


@dataclass(slots=True)
class SchedulerConfig:
    """A learning-rate scheduler and when it steps.

    Args:
        scheduler: the scheduler.
        interval: "epoch" or "step" (an optimizer step).
        frequency: step once every so many intervals.
        monitor: name of the logged metric that ``ReduceLROnPlateau`` watches.
        strict: a missing metric is an error; else the step is left out.
        name: how `LearningRateMonitor` calls it.
        reduce_on_plateau: whether it takes a metric.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None
    strict: bool = True
    name: str | None = None
    reduce_on_plateau: bool = False

    def metric(self, metrics: Mapping[str, Any]) -> Any:
        """The watched value; None where it is missing and ``strict`` is False."""
        if self.monitor is None:
            raise ConfigurationError(
                'ReduceLROnPlateau needs a metric: return {"scheduler": ..., "monitor": "val/loss"} from '
                "configure_optimizers."
            )
        if self.monitor not in metrics and self.strict:
            raise ConfigurationError(
                f"ReduceLROnPlateau watches {self.monitor!r}, which was not logged; logged are {sorted(metrics)}."
                + did_you_mean(self.monitor, metrics)
            )
        return metrics.get(self.monitor)


@dataclass(slots=True)
class Optimization:
    """Optimizers, their schedulers, and how many batches each optimizer has in turn (empty: all of them each).

    Args:
        optimizers, schedulers, frequencies: these.
        names: those of the optimizers, where ``configure_optimizers`` gives them as a dictionary; else empty.
        steps: steps that each optimizer has taken.
        steps_seen: by scheduler, how many of its optimizer's it has been told of.
    """

    optimizers: list[Optimizer]
    schedulers: list[SchedulerConfig]
    frequencies: list[int]
    names: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    steps_seen: list[int] = field(default_factory=list)

    def due_by_epoch(self, epochs: int) -> list[SchedulerConfig]:
        """The schedulers by epoch that step behind so many epochs."""
        return [config for config in self.schedulers if config.interval == "epoch" and not epochs % config.frequency]

    def due_by_step(self, plateau: bool | None) -> list[SchedulerConfig]:
        """The schedulers by step that step now, because of steps of their optimizers since this was asked last."""
        due = []
        for index, config in enumerate(self.schedulers):
            if config.interval == "step" and plateau in (None, config.reduce_on_plateau):
                before, now = self.steps_seen[index], self._steps_of(config.scheduler)
                self.steps_seen[index] = now
                if now // config.frequency > before // config.frequency:
                    due.append(config)
        return due

    def _steps_of(self, scheduler: Any) -> int:
        """Steps of the scheduler's optimizer; of all optimizers where it does not say which one that is."""
        own = getattr(scheduler, "optimizer", None)
        for optimizer, steps in zip(self.optimizers, self.steps, strict=True):
            if optimizer is own:
                return steps
        return sum(self.steps)

    def load_steps(self, steps: list[int] | None, seen: list[int] | None, total: int) -> None:
        """Take back both counts; where a checkpoint has none, all optimizers had their equal share of ``total``.

        Raises:
            CheckpointError: they are those of other optimizers or schedulers.
        """
        wanted = len(self.optimizers), len(self.schedulers)
        if steps is not None and seen is not None and (len(steps), len(seen)) != wanted:
            raise CheckpointError(
                f"The checkpoint counts the steps of {len(steps)} optimizers for {len(seen)} learning-rate schedulers, "
                f"and there are {wanted[0]} and {wanted[1]}. Resume with those that the run had."
            )
        self.steps = [total // len(self.optimizers) for _ in self.optimizers] if steps is None else list(steps)
        self.steps_seen = [self._steps_of(config.scheduler) for config in self.schedulers] if seen is None else [*seen]


class ReturnedOptimizers:
    """Optimizers and schedulers that were made outside of ``configure_optimizers`` and are returned by it again.

    Each run of a fit begins with fresh ones, so those that are returned again are put back to how they came first.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def start_afresh(self, optimization: Optimization) -> None:
        """Note what is new, and put back what was returned before.

        Raises:
            ConfigurationError: something has no state that can be put back.
        """
        parts: list[Any] = [*optimization.optimizers, *(config.scheduler for config in optimization.schedulers)]
        for part in parts:
            reference, state = self._known.get(id(part), (None, None))
            is_known = reference is not None and reference() is part
            if not is_known:
                self._known[id(part)] = weakref.ref(part), _state_of(part)
                continue
            if state is None:
                raise ConfigurationError(
                    f"configure_optimizers returns the same {type(part).__name__} again, which has no state_dict and "
                    "load_state_dict, so what an earlier run left in it would stay. Make it inside "
                    "configure_optimizers."
                )
            part.load_state_dict(copy.deepcopy(state))

    def put_back(self) -> None:
        """Put all of them back, for the next fit."""
        for reference, state in self._known.values():
            part = reference()
            if part is not None and state is not None:
                part.load_state_dict(copy.deepcopy(state))


def _state_of(part: Any) -> Any:
    if not (callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))):
        return None
    return copy.deepcopy(part.state_dict())


def parse_optimizers(configured: Any) -> Optimization:
    """Read what ``configure_optimizers`` returned, in any of Lightning's forms, or as a dictionary by name.

    By name: ``{"generator": optimizer, "critic": {"optimizer": ..., "lr_scheduler": ...}}``.

    Raises:
        ConfigurationError: none of the forms.
    """
    result = Optimization([], [], [])
    if _is_by_name(configured):
        result.names = [str(name) for name in configured]
        configured = list(configured.values())
    for item in _as_items(configured):
        _add(result, item)
    if result.frequencies and len(result.frequencies) != len(result.optimizers):
        raise ConfigurationError(
            f"configure_optimizers gives {len(result.optimizers)} optimizers and {len(result.frequencies)} "
            'frequencies. Give every optimizer a "frequency", or none.'
        )
    result.steps, result.steps_seen = [0] * len(result.optimizers), [0] * len(result.schedulers)
    return result


class NoOptimizer(Optimizer):
    """What stands for the optimizer of a module whose ``configure_optimizers`` returns None: it changes nothing."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(0)], {})

    def step(self, closure: Any = None) -> Any:
        """Compute the loss, if there is something to compute it with."""
        return None if closure is None else closure()


def _is_by_name(configured: Any) -> bool:
    """Whether it is a dictionary from names to optimizers, or to dictionaries that hold one."""
    if not isinstance(configured, Mapping) or not configured or _KEYS & set(configured):
        return False
    return all(hasattr(i, "param_groups") or (isinstance(i, Mapping) and "optimizer" in i) for i in configured.values())


def _as_items(configured: Any) -> list[Any]:
    if configured is None:
        return []
    if isinstance(configured, tuple) and len(configured) == 2 and all(isinstance(c, list) for c in configured):
        optimizers, schedulers = configured
        return [*optimizers, *({"lr_scheduler": scheduler} for scheduler in schedulers)]
    if isinstance(configured, list | tuple):
        return list(configured)
    return [configured]


def _add(result: Optimization, item: Any) -> None:
    if not isinstance(item, Mapping):
        if not hasattr(item, "param_groups"):
            raise ConfigurationError(
                'configure_optimizers returns optimizers, a dictionary with the key "optimizer", or '
                f"([optimizers], [schedulers]); got {type(item).__name__}."
            )
        result.optimizers.append(item)
        return
    unknown = set(item) - _KEYS
    if unknown or not {"optimizer", "lr_scheduler"} & set(item):
        raise ConfigurationError(
            f'A dictionary of configure_optimizers has the keys "optimizer", "lr_scheduler", "monitor" and '
            f'"frequency"; got {sorted(item)}. A dictionary from names to optimizers has none of these as a name.'
        )
    if "optimizer" in item:
        result.optimizers.append(item["optimizer"])
    if item.get("lr_scheduler") is not None:
        result.schedulers.append(_scheduler_config(item["lr_scheduler"], item.get("monitor")))
    if item.get("frequency") is not None:
        result.frequencies.append(int(item["frequency"]))


def _scheduler_config(given: Any, monitor: str | None) -> SchedulerConfig:
    if not isinstance(given, Mapping):
        given = {"scheduler": given, "monitor": monitor}
    known = {field.name for field in fields(SchedulerConfig)} | {"opt_idx"}
    unknown = set(given) - known
    if unknown or "scheduler" not in given:
        raise ConfigurationError(
            f'The "lr_scheduler" dictionary needs "scheduler" and takes {sorted(known)}; got {sorted(given)}.'
            + "".join(did_you_mean(name, known) for name in unknown)
        )
    config = SchedulerConfig(**{name: value for name, value in given.items() if name != "opt_idx"})
    config.reduce_on_plateau = config.reduce_on_plateau or isinstance(config.scheduler, ReduceLROnPlateau)
    if config.interval not in ("epoch", "step"):
        raise ConfigurationError(f'A scheduler\'s "interval" is "epoch" or "step", got {config.interval!r}.')
    if not isinstance(config.frequency, int) or config.frequency < 1:
        raise ConfigurationError(
            f'A scheduler\'s "frequency" is a number of intervals, 1 or more, got {config.frequency!r}.'
        )
    return config
