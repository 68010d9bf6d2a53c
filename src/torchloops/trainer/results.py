"""What ``self.log`` collects: kept as it comes, reduced when somebody reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import ConfigurationError

__all__ = ["Results"]

_FOLD_AFTER = 64  # logged tensors kept before they are reduced to one; bounds memory, costs one operation in 64
_REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "sum": "sum", "min": "min", "max": "max",
    torch.mean: "mean", torch.sum: "sum", torch.min: "min", torch.max: "max",
}  # fmt: skip


class _Entry:
    """One logged name.

    ``value`` is the last logged value; ``total`` and ``weight`` hold what was reduced so far, ``pending`` and
    ``sizes`` the tensors that were not.
    """

    __slots__ = (
        "logger",
        "metric",
        "name",
        "on_epoch",
        "on_step",
        "pending",
        "prog_bar",
        "reduction",
        "size",
        "sizes",
        "step_name",
        "sync",
        "total",
        "value",
        "waiting",
        "weight",
    )

    def __init__(
        self,
        name: str,
        on_step: bool,
        on_epoch: bool,
        prog_bar: bool,
        logger: bool,
        reduction: str,
        sync: bool,
    ) -> None:
        self.name, self.on_step, self.on_epoch = name, on_step, on_epoch
        self.step_name = f"{name}_step" if on_epoch else name
        self.prog_bar, self.logger, self.reduction, self.sync = prog_bar, logger, reduction, sync
        self.metric: Any = None
        self.clear()

    def clear(self) -> None:
        self.value: Any = None
        self.total: Any = None
        self.weight = 0.0
        self.pending: list[Any] = []
        self.sizes: list[float] = []
        self.waiting = 0

    def fold(self) -> None:
        """Reduce what is pending to one number."""
        if not self.waiting:
            return
        values = _stacked(self.name, self.pending)
        values = values.float() if values.device.type == "mps" else values.double()
        if self.reduction == "mean":
            sizes = torch.tensor(self.sizes, dtype=values.dtype, device=values.device)
            folded = (values * sizes).sum()
        else:
            folded = getattr(values, self.reduction)()
        self.weight += sum(self.sizes)
        self.total = folded if self.total is None else _COMBINE[self.reduction](self.total, folded)
        self.pending, self.sizes, self.waiting = [], [], 0

    def epoch_value(self, all_reduce: Callable[[Any, str], Any]) -> Tensor | None:
        """The reduced value of the epoch, over all processes where ``sync`` asks for it."""
        if self.metric is not None:
            return self.metric.compute() if getattr(self.metric, "update_called", True) else None
        self.fold()
        if self.total is None:
            return None
        total, weight = (
            self.total,
            torch.as_tensor(self.weight, dtype=self.total.dtype, device=self.total.device),
        )
        if self.sync:
            total = all_reduce(total.clone(), "sum" if self.reduction == "mean" else self.reduction)
            weight = all_reduce(weight, "sum")
        return (total / weight if self.reduction == "mean" else total).float()

    def step_value(self) -> Any:
        """The last logged value."""
        return getattr(self.metric, "_forward_cache", None) if self.metric is not None else self.value


_COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add, "sum": torch.add, "min": torch.minimum, "max": torch.maximum,
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
        self._entries: dict[str, _Entry] = {}
        self._by_loader: dict[int | None, dict[str, _Entry]] = {None: self._entries}
        self._loader: int | None = None
        self._logged_per_step: list[_Entry] = []

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
        if value.__class__ is Tensor:
            value = value.detach()
        elif isinstance(value, Tensor):
            value = value.detach().as_subclass(Tensor)
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
    ) -> _Entry:  # fmt: skip
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
        entry = _Entry(shown, on_step, on_epoch, prog_bar, logger is not False, reduction, sync)
        if hasattr(value, "compute") and hasattr(value, "reset"):
            entry.metric = value
        else:
            _check_scalar(name, value)
        self._entries[name] = entry
        if entry.on_step and entry.logger:
            self._logged_per_step.append(entry)
        return entry

    def start_batch(self, batch: Any) -> None:
        """Say which batch the next values belong to; its size is looked up when a value needs it."""
        self.batch = batch
        self.size = None

    def select_loader(self, index: int | None) -> None:
        """Say which of several data loaders the next values belong to; None: there is one."""
        self._loader = index
        self._entries = self._by_loader.setdefault(index, {})

    def _all(self) -> list[_Entry]:
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

    def state_dict(self) -> dict[str, Any]:
        """What was accumulated in the running epoch, as plain data."""
        state = {}
        for name, entry in self._by_loader[None].items():
            if entry.metric is None:
                entry.fold()
                state[name] = {
                    "on_step": entry.on_step, "on_epoch": entry.on_epoch, "prog_bar": entry.prog_bar,
                    "logger": entry.logger, "reduction": entry.reduction, "sync": entry.sync,
                    "total": entry.total, "weight": entry.weight, "value": entry.value,
                }  # fmt: skip
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name, saved in state.items():
            options = ("on_step", "on_epoch", "prog_bar", "logger", "reduction", "sync")
            entry = _Entry(name, *(saved[key] for key in options))
            entry.total, entry.weight, entry.value = saved["total"], saved["weight"], saved["value"]
            self._by_loader[None][name] = entry
            if entry.on_step and entry.logger:
                self._logged_per_step.append(entry)


def _stacked(name: str, values: list[Any]) -> Tensor:
    """Logged numbers as a tensor ``(n_values,)``."""
    tensors = [value if isinstance(value, Tensor) else torch.tensor(float(value)) for value in values]
    try:
        stacked = torch.stack(tensors).flatten()
        if len(stacked) == len(values):
            return stacked
    except RuntimeError:  # shapes () and (1,), or devices, differ
        pass
    for tensor in tensors:
        _check_scalar(name, tensor)
    return torch.stack([tensor.reshape(()).to(tensors[-1].device) for tensor in tensors])


def _check_scalar(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ConfigurationError(
                f"self.log({name!r}, ...) takes a single number, got a tensor of shape {tuple(value.shape)}. "
                "Log value.mean() or another number of it."
            )
    elif not isinstance(value, Number):
        raise ConfigurationError(
            f"self.log({name!r}, ...) takes a number, a tensor of one element or a torchmetrics metric, "
            f"got {type(value).__name__}. For several values at once use self.log_dict."
        )


def _batch_size(batch: Any) -> float:
    """Samples in a batch: the first dimension of the first tensor found in it; 1 where there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, list | tuple) and batch:
        return _batch_size(batch[0])
    return 1
