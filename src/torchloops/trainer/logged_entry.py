"""One logged name: what was logged under it in the running epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import CheckpointError, ConfigurationError

__all__ = ["Entry", "check_scalar", "is_metric"]

_OPTIONS = ("name", "on_step", "on_epoch", "prog_bar", "logger", "reduction", "sync")


class Entry:
    """One logged name.

    ``value`` is the last logged value; ``total`` and ``weight`` hold what was reduced so far, ``pending`` and
    ``sizes`` the tensors that were not. ``is_new`` says that nobody has read the last value yet; ``place`` and
    ``options`` are those of the first call, None in one that comes from a checkpoint.
    """

    __slots__ = (
        "epoch_name",
        "is_new",
        "logger",
        "metric",
        "name",
        "on_epoch",
        "on_step",
        "options",
        "pending",
        "place",
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
        base, mark, loader = name.rpartition("/dataloader_idx_")
        base, loader = (base, mark + loader) if base and loader.isdigit() else (name, "")
        self.step_name = f"{base}_step{loader}" if on_epoch else name
        self.epoch_name = f"{base}_epoch{loader}" if on_step else name
        self.prog_bar, self.logger, self.reduction, self.sync = prog_bar, logger, reduction, sync
        self.metric: Any = None
        self.options: tuple[Any, ...] | None = None
        self.place: str | None = None
        self.is_new = False
        self.value: Any = None
        self.total: Any = None
        self.weight = 0.0
        self.pending: list[Any] = []
        self.sizes: list[float] = []
        self.waiting = 0

    def take_metric(self, name: str, value: Any) -> None:
        """Take note of a metric that is logged once more.

        Raises:
            ConfigurationError: it is another one than before in this epoch, or a number stands in its place.
        """
        self.is_new = True
        if value is self.metric:
            return
        if self.metric is None or not is_metric(value):
            kind = type(value if self.metric is None else self.metric).__name__
            raise ConfigurationError(
                f"self.log({name!r}, ...) got a number and a {kind} in one epoch, which cannot be put together. "
                "Log them under two names."
            )
        if self.on_epoch and getattr(self.metric, "update_called", True):
            raise ConfigurationError(
                f"self.log({name!r}, ...) got two {type(value).__name__} objects in one epoch, and the value of the "
                "epoch would be that of the last one alone. Make the metric once, in __init__ or at the start of the "
                "epoch, and log that; or log each under a name of its own."
            )
        self.metric = value

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

    def state_dict(self, metric: str | None = None) -> dict[str, Any]:
        """What was logged, as plain data; ``pending`` is not reduced, which at another place would change last bits.

        Single numbers are no tensors in it: a file takes ten times as long for those.

        Args:
            metric: path of the entry's torchmetrics object in the module.
        """
        return {
            **{option: getattr(self, option) for option in _OPTIONS},
            "metric": metric,
            "value": _packed(self.value),
            "is_new": self.is_new,
            "total": _packed(self.total),
            "weight": self.weight,
            "pending": _packed_values(self.pending),
            "sizes": [(size, len(list(same))) for size, same in groupby(self.sizes)],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], metric: Any, device: Any) -> Entry:
        """The entry that `state_dict` was asked of, its tensors on ``device`` where they were not on the CPU."""
        entry = cls(*(state[option] for option in _OPTIONS))
        entry.value, entry.metric = _unpacked(state["value"], device), metric
        entry.is_new = state.get("is_new", True)
        entry.total, entry.weight = _unpacked(state["total"], device), state["weight"]
        entry.pending = _unpacked_values(state["pending"], device)
        if sum(count for _, count in state["sizes"]) != len(entry.pending):
            raise CheckpointError(
                f"The checkpoint holds {len(entry.pending)} logged values of {entry.name!r}, and sizes of another "
                "number. It was edited or is damaged: take the checkpoint before it, or a copy."
            )
        entry.sizes = [size for size, count in state["sizes"] for _ in range(count)]
        entry.waiting = len(entry.pending)
        return entry


_COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add, "sum": torch.add, "min": torch.minimum, "max": torch.maximum,
}  # fmt: skip


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
        check_scalar(name, tensor)
    return torch.stack([tensor.reshape(()).to(tensors[-1].device) for tensor in tensors])


def is_metric(value: Any) -> bool:
    """Whether a logged value is a torchmetrics object."""
    return hasattr(value, "compute") and hasattr(value, "reset")


def check_scalar(name: str, value: Any) -> None:
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


def _packed(value: Any) -> Any:
    """A tensor of one element as plain numbers; anything else as it is."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        return value
    return {"number": value.item(), "dtype": value.dtype, "shape": tuple(value.shape), "device": value.device.type}


def _unpacked(saved: Any, device: Any) -> Any:
    if not isinstance(saved, Mapping) or "number" not in saved:
        return saved
    where = "cpu" if saved["device"] == "cpu" else device
    return torch.tensor(saved["number"], dtype=saved["dtype"], device=where).reshape(saved["shape"])


def _packed_values(values: list[Any]) -> Any:
    """Logged values as one tensor ``(n_values, ...)`` where they are alike, else as a list; the very same numbers."""
    kinds = {(value.dtype, value.shape, value.device) if isinstance(value, Tensor) else None for value in values}
    if len(kinds) != 1 or None in kinds:
        return [_packed(value) for value in values]
    return {"stacked": torch.stack(values).cpu(), "device": values[0].device.type}


def _unpacked_values(saved: Any, device: Any) -> list[Any]:
    if not isinstance(saved, Mapping):
        return [_unpacked(value, device) for value in saved]
    where = "cpu" if saved["device"] == "cpu" else device
    return list(saved["stacked"].to(where).unbind())
