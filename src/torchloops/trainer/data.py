"""Data loaders in, batches and positions out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import random_state, restore_random_state

__all__ = ["Batches", "as_loaders", "copy_loader", "number_of_batches"]


class Batches:
    """The batches of one data loader, epoch after epoch.

    ``next(batches)`` gives the next batch. A DataLoader that goes on in the middle of an epoch does so at its
    next batch without loading the ones before.

    Args:
        loader: any iterable of batches.
        limit: at most so many batches (int) or this share of them (float).

    Attributes:
        num_batches: batches an epoch has; infinite where the loader does not say.
        last: the batch given last ends the epoch; always False where ``num_batches`` is known.
    """

    def __init__(self, loader: Any, limit: float | int | None = None) -> None:
        self.loader = loader
        self.num_batches = number_of_batches(loader, limit)
        length = number_of_batches(loader)
        self._limited = limit is not None and self.num_batches < length
        self._has_length = length < float("inf")
        self._next_epoch = 0
        self.last = False
        self._iterator: Iterator[Any] = iter(())
        self._epoch_start: dict[str, Any] | None = None

    def __len__(self) -> int:
        return int(self.num_batches)

    def __iter__(self) -> Batches:
        self.start_epoch(self._next_epoch)
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def start_epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """Begin an epoch and return its iterator.

        Args:
            epoch: its index, handed to samplers with ``set_epoch``.
            skip: batches to leave out, those an earlier process has had.
        """
        self.last = False
        self._next_epoch = epoch + 1
        for owner in (
            self.loader,
            *(getattr(self.loader, name, None) for name in ("sampler", "batch_sampler")),
        ):
            set_epoch = getattr(owner, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        if skip:
            iterator = self._resume(skip)
        else:
            self._epoch_start = {"random": random_state(), "loader": _generator_states(self.loader)}
            iterator = iter(self.loader)
        self._iterator = iterator if self._has_length else self._look_ahead(iterator, skip)
        return self._iterator

    def end_epoch(self) -> None:
        """Exhaust the iterator of a whole epoch, as a ``for`` statement does.

        Samplers draw their last random numbers then, and workers stop.
        """
        if not self._limited:
            next(self._iterator, None)

    def rewind(self) -> None:
        """Put the loader's own generators back to where the epoch began."""
        if self._epoch_start is not None:
            _restore_generators(self.loader, self._epoch_start["loader"])

    def state_dict(self) -> dict[str, Any]:
        """The generators as they were when the epoch began, and the loader's own as they are now."""
        return {"epoch_start": self._epoch_start, "loader": _generator_states(self.loader)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._epoch_start = state["epoch_start"]
        _restore_generators(self.loader, state["loader"])

    def _resume(self, skip: int) -> Iterator[Any]:
        now = random_state()
        if self._epoch_start is not None:
            restore_random_state(self._epoch_start["random"])
            _restore_generators(self.loader, self._epoch_start["loader"])
        iterator = _skip_batches(self.loader, skip)
        restore_random_state(now)
        return iterator

    def _look_ahead(self, iterator: Iterator[Any], skip: int) -> Iterator[Any]:
        nothing = object()
        if self.num_batches < float("inf"):
            iterator = islice(iterator, max(0, len(self) - skip))
        ahead = next(iterator, nothing)
        if ahead is nothing and not skip:
            raise DataError(
                f"The data loader ({type(self.loader).__name__}) gave no batches. Give it data; an iterator that can "
                "be gone through only once is empty in the second epoch: give an object whose __iter__ starts over."
            )
        while ahead is not nothing:
            batch, ahead = ahead, next(iterator, nothing)
            self.last = ahead is nothing
            yield batch


def _skip_batches(loader: Any, skip: int) -> Iterator[Any]:
    """The batches of ``loader`` after the first ``skip``."""
    if (
        not isinstance(loader, DataLoader)
        or loader.batch_sampler is None
        or isinstance(loader.dataset, IterableDataset)
    ):
        iterator = iter(loader)
        next(islice(iterator, skip - 1, skip), None)
        return iterator
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # the seed an iterator draws for workers
    indices = iter(loader.batch_sampler)
    next(islice(indices, skip - 1, skip), None)
    return iter(copy_loader(loader, loader.dataset, batch_sampler=_Rest(indices)))


def copy_loader(loader: DataLoader[Any], dataset: Any, **changes: Any) -> DataLoader[Any]:
    """A loader over ``dataset`` that collates, loads and pins as ``loader`` does.

    Args:
        changes: arguments of ``DataLoader`` that are not to be those of ``loader``; say here how it samples.
    """
    names = (
        "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
        "prefetch_factor",
    )  # fmt: skip
    return DataLoader(dataset, **{**{name: getattr(loader, name) for name in names}, **changes})


class _Rest(Sampler[Any]):
    """What is left of an iterator over batches of indices, drawn as it is asked for."""

    def __init__(self, rest: Iterator[Any]) -> None:
        self.rest = rest

    def __iter__(self) -> Iterator[Any]:
        return self.rest


def _generators(loader: Any) -> dict[str, torch.Generator]:
    """The generators a loader and its samplers own, by name; one object once."""
    found: dict[str, torch.Generator] = {}
    for name, owner in (
        ("loader", loader), ("sampler", getattr(loader, "sampler", None)),
        ("batch_sampler", getattr(loader, "batch_sampler", None)),
    ):  # fmt: skip
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found.values()):
            found[name] = generator
    return found


def _generator_states(loader: Any) -> dict[str, Any]:
    return {name: generator.get_state() for name, generator in _generators(loader).items()}


def _restore_generators(loader: Any, states: dict[str, Any]) -> None:
    for name, generator in _generators(loader).items():
        if name in states:
            generator.set_state(states[name])


def number_of_batches(loader: Any, limit: float | int | None = None) -> float:
    """Batches an epoch of ``loader`` has under ``limit``; infinite where it does not say.

    Raises:
        DataError: the loader has no batches.
        ConfigurationError: a share of a loader without a length.
    """
    if limit == 0:
        return 0
    try:
        length: float = len(loader)
    except (TypeError, NotImplementedError):
        length = float("inf")
    if length == 0:
        raise DataError(
            "A data loader has no batches: its data set is empty, or smaller than a batch with drop_last=True. "
            "Give it data, a smaller batch_size, or drop_last=False."
        )
    if limit is None or (isinstance(limit, float) and limit == 1.0):
        return length
    if isinstance(limit, int):
        return min(length, limit)
    if length == float("inf"):
        raise ConfigurationError(f"limit {limit} is a share of a data loader that has no length; give an int.")
    return max(1, int(length * limit))


def as_loaders(given: Any) -> list[Any]:
    """A list of loaders from one loader, a list or dict of them, or None; a data set is refused.

    Raises:
        DataError: not iterable, or a data set instead of a loader.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        loaders = list(given.values())
    else:
        loaders = list(given) if isinstance(given, list | tuple) and _holds_loaders(given) else [given]
    for loader in loaders:
        iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
        if not iterable or isinstance(loader, str | bytes):
            raise DataError(
                f"Expected a data loader (an iterable of batches), got {type(loader).__name__}. "
                "Wrap a data set: torch.utils.data.DataLoader(dataset, batch_size=...)."
            )
        if isinstance(loader, torch.utils.data.Dataset) and not isinstance(loader, IterableDataset):
            raise DataError(
                f"Expected a data loader, got the data set {type(loader).__name__}. "
                "Wrap it: torch.utils.data.DataLoader(dataset, batch_size=...)."
            )
    return loaders


def _holds_loaders(items: Any) -> bool:
    """Whether a list holds loaders rather than batches: its items are iterable and no tensors or tuples of them."""
    return bool(items) and all(
        isinstance(item, DataLoader) or (hasattr(item, "__iter__") and hasattr(item, "__len__") and _is_batches(item))
        for item in items
    )


def _is_batches(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], list | tuple | dict)
