"""Where in its data a run is: the order of the batches, skipping in it, and the states of whoever sets it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from torchloops.seeding import is_generator
from torchloops.trainer.loaders import number_of_batches
from torchloops.trainer.seeded import Key, SeededDataset, as_it_is

__all__ = [
    "Order",
    "draw_base_seed",
    "has_state",
    "indexed_loader",
    "loader_over",
    "own_generators",
    "stateful_parts",
]


class Order(Sampler[Any]):
    """The indices of a loader, in its own order, from any batch of the epoch on.

    Args:
        loader: whose order it is.
        seeded: hand out keys for a `SeededDataset` instead of indices.
        limit: batches an epoch has at most, so that nothing is drawn for more; None: all.
        prefetched: indices that may be drawn before their batches are asked for.
    """

    def __init__(self, loader: DataLoader[Any], seeded: bool, limit: int | None, prefetched: int = 0) -> None:
        self.batched = loader.batch_sampler is not None
        self.inner: Any = loader.batch_sampler if self.batched else loader.sampler
        self.seeded, self.limit = seeded, limit
        self._generator = loader.generator
        self._stateful = [part for name, part in stateful_parts(loader).items() if name != "dataset"]
        self._states: deque[tuple[int, list[Any]]] = deque(maxlen=prefetched + 2)
        self._length = number_of_batches(loader)
        self.begin(0)

    def begin(self, seed: int, skip: int = 0, loaded: bool = False, redraw: bool = False) -> None:
        """Start an epoch.

        Args:
            seed: of the epoch.
            skip: batches to leave out.
            loaded: the sampler has its state back and stands behind them already.
            redraw: draw the seed that an iterator over a loader draws for its workers.
        """
        self._seed, self._redraw = seed, redraw
        self._behind = 0 if loaded else skip
        self._number = skip
        self._iterator: Iterator[Any] | None = None
        if loaded and skip >= self._length:
            self._iterator = iter(())  # the state is one after the epoch
        self._states.clear()
        self._note()

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        if self._iterator is None:  # an iterator over a loader with workers asks twice
            self._iterator = iter(self.inner)
            if self._redraw:
                draw_base_seed(self._generator)
        return self._rest()

    def catch_up(self) -> None:
        """Draw the indices to leave out now."""
        while self._behind and self._iterator is not None:
            self._behind -= 1
            next(self._iterator, None)

    def state_after(self, number: int) -> list[Any]:
        """The states of samplers that have one, when so many batches were drawn."""
        return next((states for at, states in self._states if at == number), self._states[-1][1])

    def _rest(self) -> Iterator[Any]:
        self.catch_up()
        while self._iterator is not None and (self.limit is None or self._number < self.limit):
            try:
                indices = next(self._iterator)
            except StopIteration:
                self._note()
                return
            number, self._number = self._number, self._number + 1
            if self._stateful and self._number >= self._length:
                next(self._iterator, None)  # one whose last batch is full does not know yet that it has ended
            self._note()
            yield Key(self._seed, number, indices, self.batched) if self.seeded else indices

    def _note(self) -> None:
        if self._stateful:
            self._states.append((self._number, [copy.deepcopy(part.state_dict()) for part in self._stateful]))


def draw_base_seed(generator: torch.Generator | None) -> None:
    """Draw the seed that an iterator over a loader draws for its workers."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def indexed_loader(loader: Any) -> DataLoader[Any] | None:
    """The torch DataLoader over a map-style data set whose order is known by its indices; None: another iterable.

    A loader of several processes has it inside. One with an ``__iter__`` or a state of its own is left to itself.
    """
    loader = getattr(loader, "_dataloader", loader)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or has_state(loader):
        return None
    own = type(loader).__iter__ is not DataLoader.__iter__ or type(loader)._get_iterator is not DataLoader._get_iterator
    return None if own else loader


def loader_over(loader: DataLoader[Any], order: Order | None) -> DataLoader[Any]:
    """A loader that loads as ``loader`` does, in another order, with iterators and workers of its own.

    Args:
        order: None: that of ``loader``, with new workers each epoch.
    """
    new = object.__new__(type(loader))
    changes: dict[str, Any] = {"_iterator": None}
    if order is None:
        changes["persistent_workers"] = False
    else:
        changes["batch_sampler" if order.batched else "sampler"] = order
        if order.seeded:
            collate: Any = loader.collate_fn
            changes |= {"dataset": SeededDataset(loader.dataset, collate), "collate_fn": as_it_is}
    new.__dict__.update(loader.__dict__ | changes)
    return new


def has_state(part: Any) -> bool:
    """Whether it can be asked for its state and be given it back."""
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


def stateful_parts(loader: Any) -> dict[str, Any]:
    """The loader, its samplers or its data set, those that have a state, by name; the outer one where it has."""
    if has_state(loader):
        return {"loader": loader}
    found: dict[str, Any] = {}
    batch_sampler, sampler = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)
    for name, part in (
        ("batch_sampler", batch_sampler), ("sampler", getattr(batch_sampler, "sampler", None) or sampler),
    ):  # fmt: skip
        if has_state(part) and not found:
            found[name] = part
    if not getattr(loader, "num_workers", 0) and has_state(getattr(loader, "dataset", None)):
        found["dataset"] = loader.dataset
    return found


def own_generators(loader: Any) -> dict[str, Any]:
    """The random generators that a loader and its samplers hold, by the name of the attribute; one object once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = {
        "loader": loader,
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
    }
    return _generators_in(owners)


def _generators_in(owners: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for owner_name, owner in owners.items():
        for name, value in getattr(owner, "__dict__", {}).items():
            known = any(value is other for other in found.values())
            if is_generator(value) and not known:
                found[f"{owner_name}.{name}"] = value
    return found
