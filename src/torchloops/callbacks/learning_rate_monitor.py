"""LearningRateMonitor: learning rates as logged values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.optim import Optimizer

from torchloops.callbacks.callback import Callback
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.schema import check

__all__ = ["LearningRateMonitor", "learning_rates"]

_STATE = {"lrs": {str: torch.Tensor}}


class LearningRateMonitor(Callback):
    """Hand the learning rates to the loggers, each epoch or each ``log_every_n_steps`` steps.

    Names are Lightning's: ``lr-Adam``; the second optimizer of that class is ``lr-Adam-1``; several parameter
    groups are ``lr-Adam/pg1``, ``lr-Adam/pg2``, or ``lr-Adam/<name>`` where the group has a ``"name"``. The
    ``"name"`` of a scheduler's dictionary replaces ``lr-Adam``.

    Momentum is ``lr-Adam-momentum``, the first of Adam's two ``betas``; weight decay is ``lr-Adam-weight_decay``.

    Args:
        logging_interval: "epoch": as the epoch starts; "step": as every ``log_every_n_steps``-th batch starts;
            None: as the scheduler of each steps, and both where it has none. A file with a row an epoch gets all of
            them as the epoch starts.
        log_momentum: log the momentum of every parameter group too; 0 where it has none.
        log_weight_decay: log its weight decay too; 0 where it has none.

    Attributes:
        lrs: the learning rates logged in this run, by name.

    Raises:
        ConfigurationError: no such interval.
    """

    def __init__(
        self, logging_interval: str | None = None, log_momentum: bool = False, log_weight_decay: bool = False
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise ConfigurationError(
                f'LearningRateMonitor(logging_interval=...) is "step", "epoch" or None, got {logging_interval!r}.'
                + did_you_mean(str(logging_interval), ("step", "epoch"))
            )
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}

    @property
    def state_key(self) -> str:
        return f"LearningRateMonitor(logging_interval={self.logging_interval!r})"

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        if stage == "fit":
            self.lrs = {}

    def state_dict(self) -> dict[str, Any]:
        return {"lrs": {name: torch.tensor(values, dtype=torch.float64) for name, values in self.lrs.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "LearningRateMonitor: state")
        self.lrs = {name: values.tolist() for name, values in state_dict["lrs"].items()}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        stepwise = any(config.interval == "step" for config in trainer.lr_scheduler_configs)
        on_steps = self.logging_interval == "step" or (self.logging_interval is None and stepwise)
        self._switch_hook(LearningRateMonitor, "on_train_batch_start", on_steps)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.logging_interval != "step":
            self._log(trainer, "epoch")

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.run.logger_step + 1) % trainer.log_every_n_steps == 0:
            self._log(trainer, "step")

    def _log(self, trainer: Any, interval: str) -> None:
        schedulers = trainer.lr_scheduler_configs
        groups = _named_groups(trainer.optimizers, schedulers)
        others = {
            id(group)
            for config in schedulers
            if self.logging_interval is None and config.interval != interval
            for group in config.scheduler.optimizer.param_groups
        }
        due = {name: group for name, group in groups.items() if id(group) not in others}
        for name, group in due.items():
            self.lrs.setdefault(name, []).append(float(group["lr"]))
        found = self._values(due)
        for name, value in found.items():
            trainer.callback_metrics[name] = torch.tensor(value)
        rest = {name: group for name, group in groups.items() if name not in due} if interval == "epoch" else {}
        trainer.run.send_to_loggers(found, self._values(rest), trainer.run.logger_step)

    def _values(self, groups: dict[str, dict[str, Any]]) -> dict[str, float]:
        found = {name: float(group["lr"]) for name, group in groups.items()}
        for name, group in groups.items():
            if self.log_momentum:
                found[f"{name}-momentum"] = float(group["betas"][0] if "betas" in group else group.get("momentum", 0))
            if self.log_weight_decay:
                found[f"{name}-weight_decay"] = float(group.get("weight_decay", 0))
        return found


def learning_rates(optimizers: list[Optimizer], schedulers: list[Any]) -> dict[str, float]:
    """The learning rate of every parameter group, by its name.

    Args:
        optimizers: the optimizers.
        schedulers: their schedulers, as ``SchedulerConfig``; those come first.
    """
    return {name: float(group["lr"]) for name, group in _named_groups(optimizers, schedulers).items()}


def _named_groups(optimizers: list[Optimizer], schedulers: list[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    seen: list[int] = []
    classes: Counter[str] = Counter()
    named = [(config.scheduler.optimizer, config.name) for config in schedulers]
    for optimizer, name in [*named, *((optimizer, None) for optimizer in optimizers)]:
        if id(optimizer) in seen and name is None:
            continue
        seen.append(id(optimizer))
        if name is None:
            name = f"lr-{type(optimizer).__name__}"
            classes[name] += 1
            name += f"-{classes[name] - 1}" if classes[name] > 1 else ""
        groups = optimizer.param_groups
        for number, group in enumerate(groups, start=1):
            own = group.get("name") or (f"pg{number}" if len(groups) > 1 else "")
            found[f"{name}/{own}" if own else name] = group
    return found
