"""What ``self.log`` collects: kept as it comes, reduced when somebody reads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.trainer.batch_size import batch_size as size_of
from torchloops.trainer.batch_size import warn_of_doubt
from torchloops.trainer.logged_entry import Entry, check_scalar, is_metric

__all__ = ["Results"]

_FORMAT = 2
_FOLD_AFTER = 64  # logged tensors kept before they are reduced to one; bounds memory, costs one operation in 64
_PER_STEP = frozenset({"on_train_batch_start", "training_step", "on_train_batch_end"})
_OPTIONS = ("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "sync_dist", "add_dataloader_idx")
_REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "sum": "sum", "min": "min", "max": "max",
    torch.mean: "mean", torch.sum: "sum", torch.min: "min", torch.max: "max",
}  # fmt: skip


class Results:
    """The logged values of one stage of one run.

    ``log`` is bound to the module's ``self.log``, so a step pays one call: a tensor is copied where it is, never to
    another device, until a logger, a bar or ``callback_metrics`` asks for it.

    Args:
        training: values are per step by default (on_step) where a batch is trained on, else per epoch.

    Attributes:
        place: the step or hook that runs. A name is logged from one of them alone: values of several would mix.
        batch: the batch that runs, whose size weighs what is logged; None between batches.
        size: its size, once somebody has asked.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.place = ""
        self.batch: Any = None
        self.size: float | None = None
        self._is_size_checked = False
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
        options = (prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx)
        entry = self._entries.get(name)
        if entry is None:
            entry = self._new_entry(name, value, *options)
            entry.options, entry.place = options, self.place
        elif entry.options != options or entry.place != self.place:
            self._check_is_same(name, entry, options)
        if entry.metric is not None or value.__class__ is not Tensor:
            if is_metric(value) or entry.metric is not None:
                entry.take_metric(name, value)
                return
            if isinstance(value, Tensor):
                value = value.as_subclass(Tensor)
        if value.__class__ is Tensor:  # what the step does to it in place later, is not what was logged
            value = value.detach().clone()
        entry.value = value
        entry.is_new = True
        if entry.on_epoch:
            size: float | None = batch_size
            if size is None:
                size = self.size
                if size is None:
                    size = self.size = self._size_of_batch(name, entry)
            entry.pending.append(value)
            entry.sizes.append(size)
            entry.waiting += 1
            if entry.waiting == _FOLD_AFTER:
                entry.fold()

    def _size_of_batch(self, name: str, entry: Entry) -> float:
        if self.batch is None:
            return 1
        if not self._is_size_checked and entry.reduction == "mean":
            self._is_size_checked = True
            warn_of_doubt(name, self.batch)
        return size_of(self.batch)

    def _check_is_same(self, name: str, entry: Entry, options: tuple[Any, ...]) -> None:
        """Refuse a name that is logged in two places, or with other options than before in this epoch."""
        if entry.options is None:  # it comes from a checkpoint
            entry.options, entry.place = options, self.place
            return
        if entry.place != self.place:
            raise ConfigurationError(
                f"self.log({name!r}, ...) was called in {entry.place or 'a loop'} and now in {self.place or 'a loop'}: "
                f"the two values would mix. Log them under two names."
            )
        changed = [
            f"{option}={now!r} after {option}={before!r}"
            for option, now, before in zip(_OPTIONS, options, entry.options, strict=True)
            if now != before
        ]
        raise ConfigurationError(
            f"self.log({name!r}, ...) was called twice in one epoch with different options: {', '.join(changed)}. "
            "Log them under two names, or with the same options."
        )

    def _new_entry(
        self, name: str, value: Any, prog_bar: bool, logger: bool | None, on_step: bool | None,
        on_epoch: bool | None, reduce_fx: Any, sync: bool, add_dataloader_idx: bool,
    ) -> Entry:  # fmt: skip
        by_step = self.training and self.place in _PER_STEP
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
        if self._loader is not None and (shared := self._entry_of_another_loader(shown, value)) is not None:
            self._entries[name] = shared
            return shared
        entry = Entry(shown, on_step, on_epoch, prog_bar, logger is not False, reduction, sync)
        if is_metric(value):
            entry.metric = value
        else:
            check_scalar(name, value)
        self._entries[name] = entry
        if entry.on_step and entry.logger:
            self._logged_per_step.append(entry)
        return entry

    def _entry_of_another_loader(self, shown: str, value: Any) -> Entry | None:
        """The entry that another data loader has for a metric logged under one name for all of them.

        Raises:
            ConfigurationError: the values of two data loaders would be mixed, or one of them lost.
        """
        for loader, entries in self._by_loader.items():
            for other in entries.values() if loader != self._loader else ():
                is_same = is_metric(value) and other.metric is value
                if other.name == shown and is_same:
                    return other
                if other.name == shown:
                    raise ConfigurationError(
                        f"self.log({shown!r}, ..., add_dataloader_idx=False) was called for the data loaders {loader} "
                        f"and {self._loader}, of which only the last value would be kept. Leave add_dataloader_idx "
                        "out, or put the number of the loader in the name. For one value over all loaders log one "
                        "torchmetrics object."
                    )
                if is_same:
                    raise ConfigurationError(
                        f"self.log({shown!r}, ...) and self.log({other.name!r}, ...) take the same "
                        f"{type(value).__name__}, in which the data of two loaders mix. Give each loader a metric of "
                        "its own, as in nn.ModuleList, or for one value over all loaders: add_dataloader_idx=False."
                    )
        return None

    def select_loader(self, index: int | None) -> None:
        """Say which of several data loaders the next values belong to; None: there is one."""
        self._loader = index
        self._entries = self._by_loader.setdefault(index, {})

    def _all(self) -> list[Entry]:
        """All entries; one that several loaders share comes once."""
        return list({id(e): e for entries in self._by_loader.values() for e in entries.values()}.values())

    def names(self) -> list[str]:
        """What was logged in the running epoch."""
        return [entry.name for entry in self._all()]

    def loaders(self) -> dict[str, int]:
        """The data loaders, by the names that their values have in files."""
        return {
            name: loader
            for loader, entries in self._by_loader.items()
            if loader is not None
            for entry in entries.values()
            for name in (entry.name, entry.step_name, entry.epoch_name)
            if not any(entry in others.values() for index, others in self._by_loader.items() if index != loader)
        }

    def new_step_values(self) -> dict[str, Tensor]:
        """What was logged per step since this was called last; in training also under the name without ``_step``."""
        found = {}
        for entry in self._all():
            if entry.on_step and entry.is_new and (value := entry.step_value()) is not None:
                entry.is_new = False
                found[entry.step_name] = torch.as_tensor(value)
                if self.training:
                    found[entry.name] = found[entry.step_name]
        return found

    def logged_step(self, this_loader: bool = False) -> dict[str, float]:
        """The last values of what loggers get per step; waits for the device.

        Args:
            this_loader: only those of the data loader that runs.
        """
        found = {}
        own = {id(entry) for entry in self._entries.values()} if this_loader and self._logged_per_step else None
        for entry in self._logged_per_step:
            if own is not None and id(entry) not in own:
                continue
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
                    found[entry.epoch_name] = (value, entry.logger, entry.prog_bar)
                    if entry.on_step:
                        found[entry.name] = (value, False, False)
        return found

    def reset(self) -> None:
        """Forget all that was logged in the epoch, and reset the metrics."""
        for entry in self._all():
            if entry.metric is not None:
                entry.metric.reset()
        self._by_loader, self._logged_per_step = {None: {}}, []
        self.select_loader(self._loader)
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
            "batch_size": None if self.batch is None else size_of(self.batch),
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
