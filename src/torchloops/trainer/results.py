"""What ``self.log`` collects: kept as it comes, reduced when somebody reads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.trainer.logged_entry import Entry, check_scalar

__all__ = ["Results"]

_FORMAT = 2
_FOLD_AFTER = 64  # logged tensors kept before they are reduced to one; bounds memory, costs one operation in 64
_REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "sum": "sum", "min": "min", "max": "max",
    torch.mean: "mean", torch.sum: "sum", torch.min: "min", torch.max: "max",
}  # fmt: skip


class Results:
    """The logged values of one stage of one run.

    ``log`` is bound to the module's ``self.log``, so a step pays one call: a tensor is detached and kept, never
    copied between devices, until a logger, a bar or ``callback_metrics`` asks for it.

    Args:
        training: values are per step by default (on_step), else per epoch.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.step_level = False
        self.batch: Any = None
        self.size: float | None = None
        self._entries: dict[str, Entry] = {}
        self._by_loader: dict[int | None, dict[str, Entry]] = {None: self._entries}
        self._loader: int | None = None
        self._logged_per_step: list[Entry] = []

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Keep ``value`` under ``name``; see `LoopModule.log` for the arguments."""
        try:
            entry = self._entries[name]
        except KeyError:
            entry = self._new_entry(
                name, value, prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx
            )
        if entry.metric is not None:
            return
        if value.__class__ is Tensor:  # without a gradient it may be a buffer that is changed in place later
            value = value.detach() if value.requires_grad else value.clone()
        elif isinstance(value, Tensor):
            value = value.detach().as_subclass(Tensor).clone()
        entry.value = value
        if entry.on_epoch:
            size: float | None = batch_size
            if size is None:
                size = self.size
                if size is None:
                    size = self.size = _batch_size(self.batch)
            entry.pending.append(value)
            entry.sizes.append(size)
            entry.waiting += 1
            if entry.waiting == _FOLD_AFTER:
                entry.fold()

    def _new_entry(
        self, name: str, value: Any, prog_bar: bool, logger: bool | None, on_step: bool | None,
        on_epoch: bool | None, reduce_fx: Any, sync: bool, add_dataloader_idx: bool,
    ) -> Entry:  # fmt: skip
        by_step = self.training and self.step_level
        if on_epoch is None:
            on_epoch = not by_step or on_step is False
        if on_step is None:
            on_step = by_step
        reduction = _REDUCTIONS.get(reduce_fx)
        if reduction is None:
            raise ConfigurationError(
                f'self.log({name!r}, reduce_fx=...) takes "mean", "sum", "min" or "max", got {reduce_fx!r}. '
                "For another reduction log a torchmetrics metric."
            )
        shown = name if self._loader is None or not add_dataloader_idx else f"{name}/dataloader_idx_{self._loader}"
        entry = Entry(shown, on_step, on_epoch, prog_bar, logger is not False, reduction, sync)
        if hasattr(value, "compute") and hasattr(value, "reset"):
            entry.metric = value
        else:
            check_scalar(name, value)
        self._entries[name] = entry
        if entry.on_step and entry.logger:
            self._logged_per_step.append(entry)
        return entry

    def select_loader(self, index: int | None) -> None:
        """Say which of several data loaders the next values belong to; None: there is one."""
        self._loader = index
        self._entries = self._by_loader.setdefault(index, {})

    def _all(self) -> list[Entry]:
        return [entry for entries in self._by_loader.values() for entry in entries.values()]

    def logged_step(self) -> dict[str, float]:
        """The last values of what loggers get per step; waits for the device."""
        found = {}
        for entry in self._logged_per_step:
            value = entry.value if entry.metric is None else entry.step_value()
            if value is not None:
                found[entry.step_name] = float(value)
        return found

    def step_metrics(self, where: str | None = None) -> dict[str, Tensor]:
        """The last values of what is logged per step; ``where``: "logger" or "prog_bar" only."""
        found = {}
        for entry in self._all():
            if entry.on_step and (where is None or getattr(entry, where)):
                value = entry.step_value()
                if value is not None:
                    found[entry.step_name] = torch.as_tensor(value)
        return found

    def epoch_metrics(self, all_reduce: Callable[[Any, str], Any]) -> dict[str, tuple[Tensor, bool, bool]]:
        """``name -> (value, logger, prog_bar)`` of what is logged per epoch."""
        found = {}
        for entry in self._all():
            if entry.on_epoch:
                value = entry.epoch_value(all_reduce)
                if value is not None:
                    name = f"{entry.name}_epoch" if entry.on_step else entry.name
                    found[name] = (value, entry.logger, entry.prog_bar)
                    if entry.on_step:
                        found[entry.name] = (value, False, False)
        return found

    def reset(self) -> None:
        """Forget the epoch's values and reset the metrics that were logged."""
        for entry in self._all():
            entry.clear()
            if entry.metric is not None and entry.on_epoch:
                entry.metric.reset()
        self.batch = self.size = None

    def state_dict(self, metric_names: Mapping[int, str] | None = None) -> dict[str, Any]:
        """All that was logged in the running epoch, as plain data.

        Args:
            metric_names: path in the module of each torchmetrics object, by its ``id``. A logged one without a path
                is left out; when it holds values that a resumed epoch will lack, a ResumeWarning says so.
        """
        per_step = {id(entry): position for position, entry in enumerate(self._logged_per_step)}
        loaders = []
        for loader, entries in self._by_loader.items():
            states = {}
            for name, entry in entries.items():
                path = None if metric_names is None or entry.metric is None else metric_names.get(id(entry.metric))
                if entry.metric is None or path is not None:
                    states[name] = {**entry.state_dict(path), "per_step": per_step.get(id(entry))}
                elif metric_names is not None:
                    _warn_of_loss(entry)
            loaders.append((loader, states))
        return {
            "format": _FORMAT,
            "loaders": loaders,
            "loader": self._loader,
            "size": self.size,
            "batch_size": None if self.batch is None else _batch_size(self.batch),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], metrics: Mapping[str, Any] | None = None, device: Any = "cpu"
    ) -> None:
        """Take back what `state_dict` returned, in the place of all that was logged.

        Args:
            state: the state; that of a format 1 checkpoint is taken as well.
            metrics: torchmetrics objects by their path in the module; what they gathered is saved with the module.
            device: where values go that were on another device than the CPU.

        Raises:
            CheckpointError: a metric that was logged is missing.
        """
        state = state if state.get("format") == _FORMAT else _of_format_1(state)
        self._by_loader, self._logged_per_step = {}, []
        per_step: dict[int, Entry] = {}
        for loader, states in state["loaders"]:
            entries = self._by_loader[loader] = {}
            for name, saved in states.items():
                metric = None if saved["metric"] is None else _metric(saved, metrics or {})
                entry = entries[name] = Entry.from_state(saved, metric, device)
                if saved["per_step"] is not None:
                    per_step[saved["per_step"]] = entry
        self._logged_per_step = [per_step[position] for position in sorted(per_step)]
        self.select_loader(state["loader"])
        self.size = state["size"]
        # the batch is gone; what is still asked of it is how many samples it has
        self.batch = None if state["batch_size"] is None else torch.empty(int(state["batch_size"]), 0)


def _metric(saved: Mapping[str, Any], metrics: Mapping[str, Any]) -> Any:
    path = saved["metric"]
    if path not in metrics:
        raise CheckpointError(
            f"The checkpoint's {saved['name']!r} was logged from the metric module.{path}, which the module does not "
            f"have; its metrics are {sorted(metrics) or 'none'}. Resume with the module as it was when saved."
        )
    return metrics[path]


def _warn_of_loss(entry: Entry) -> None:
    if not getattr(entry.metric, "update_called", True):
        return
    warnings.warn(
        f"self.log({entry.name!r}, ...) got a {type(entry.metric).__name__} that is no part of the module, so "
        "checkpoints do not hold what it has gathered, and an epoch that is resumed lacks it. Make it an attribute of "
        "the module: self.accuracy = ..., or nn.ModuleDict for several.",
        ResumeWarning,
        stacklevel=2,
    )


def _of_format_1(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state that format 1 held: one data loader, everything reduced."""
    states = {}
    for position, (name, saved) in enumerate(state.items()):
        shown = saved["on_step"] and saved["logger"]
        states[name] = {
            **saved, "name": name, "metric": None, "pending": [], "sizes": [], "per_step": position if shown else None,
        }  # fmt: skip
    return {"loaders": [(None, states)], "loader": None, "size": None, "batch_size": None}


def _batch_size(batch: Any) -> float:
    """Samples in a batch: the first dimension of the first tensor found in it; 1 where there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, list | tuple) and batch:
        return _batch_size(batch[0])
    return 1
