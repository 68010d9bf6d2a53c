"""Random numbers of the data: a function of (seed, epoch, sample), whoever loads a sample and when.

Seeding costs a few microseconds a sample, so it is left out where nothing is drawn. Whether something is drawn is seen
from the states of the generators; the values do not depend on it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from torchloops.seeding import derive_seed
from torchloops.trainer.generators import GENERATORS, generator_states, restore_generator_states
from torchloops.trainer.object_state import FirstSeen, Objects, restore_states, states_of, untouched

__all__ = ["Key", "SeededDataset", "as_it_is"]

_ALL = range(len(GENERATORS))


class Key(NamedTuple):
    """What a sampler hands to a `SeededDataset` in place of indices.

    Args:
        seed: of the epoch.
        number: of the batch in the epoch, from 0.
        indices: of the batch's samples; the index itself where the loader makes no batches.
        batched: whether ``indices`` is a list whose samples are to be collated.
    """

    seed: int
    number: int
    indices: Any
    batched: bool


class SeededDataset:
    """A data set whose samples, and batches, are loaded with generators seeded for them.

    Attributes it does not have are those of the data set, so that a ``worker_init_fn`` works as before.

    Args:
        dataset: map-style data set.
        collate: joins samples to a batch, or converts a single one.
    """

    _own = ("_seeded_dataset", "_seeded_collate", "_seeded_used", "_seeded_known", "_seeded_splits",
            "_seeded_objects")  # fmt: skip

    def __init__(self, dataset: Any, collate: Callable[[Any], Any]) -> None:
        self._seeded_dataset = dataset
        self._seeded_collate = collate
        self._seeded_used: list[int] = []  # generators to seed; the others are watched
        self._seeded_known = False
        self._seeded_splits: bool | None = None
        self._seeded_objects: dict[str, Any] | None = None  # generators of its own, found in the process that loads

    def __getattr__(self, name: str) -> Any:
        if name in self._own or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._seeded_dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self._seeded_dataset, name, value)

    def __len__(self) -> int:
        return len(self._seeded_dataset)

    def __getitem__(self, key: Any) -> Any:
        return self._seeded_load(key) if isinstance(key, Key) else self._seeded_dataset[key]

    def __getitems__(self, key: Any) -> Any:
        return self._seeded_load(key) if isinstance(key, Key) else self._seeded_dataset.__getitems__(key)

    def _seeded_load(self, key: Key) -> Any:
        """The batch of ``key``; in the main process the generators are afterwards as they were."""
        before = generator_states()
        touched = True
        try:
            if not self._seeded_known:
                return self._seeded_learn(key)
            own = self._seeded_own_states()
            while True:
                batch = self._seeded_fetch(key, _Seeding(self._seeded_used))
                drawn = [i for i in _ALL if i not in self._seeded_used and GENERATORS[i].changed(before[i])]
                if not drawn:
                    touched = bool(self._seeded_used)
                    return batch
                self._seeded_used = self._seeded_used + drawn
                self._seeded_put_back(own)  # loaded again, with these seeded too
        finally:
            if touched and get_worker_info() is None:
                restore_generator_states(before)

    def _seeded_own_states(self) -> dict[str, Any]:
        """The states of the generators that the data set and the collate function keep, in the main process."""
        if self._seeded_objects is None:
            roots = {"dataset": self._seeded_dataset, "collate_fn": self._seeded_collate}
            self._seeded_objects = Objects({} if get_worker_info() else roots, FirstSeen(), {}).generators
        return states_of(self._seeded_objects)

    def _seeded_put_back(self, states: dict[str, Any]) -> None:
        restore_states(self._seeded_objects or {}, states)

    def _seeded_learn(self, key: Key) -> Any:
        """Load a first batch with all generators seeded, and note which of them are drawn from."""
        seeding = _Seeding(_ALL, watching=True)
        batch = self._seeded_fetch(key, seeding)
        self._seeded_used, self._seeded_known = sorted(seeding.finish()), True
        return batch

    def _seeded_fetch(self, key: Key, seeding: _Seeding) -> Any:
        dataset = self._seeded_dataset
        if not key.batched:
            seeding(key.seed, _name(key.indices))
            return self._seeded_collate(dataset[key.indices])
        gather = getattr(dataset, "__getitems__", None)
        if not seeding.generators:
            samples = gather(key.indices) if callable(gather) else [dataset[index] for index in key.indices]
        elif callable(gather):
            samples = self._seeded_gather(gather, key, seeding)
        else:
            samples = []
            for index in key.indices:
                seeding(key.seed, _name(index))
                samples.append(dataset[index])
        seeding(key.seed, "batch", key.number)
        return self._seeded_collate(samples)

    def _seeded_gather(self, gather: Callable[[list[Any]], Any], key: Key, seeding: _Seeding) -> Any:
        """Samples of a data set that gives several at once: one by one where that is the same."""
        if self._seeded_splits is None:
            with untouched({"dataset": self._seeded_dataset}):
                self._seeded_splits = all(_is_list(gather(key.indices[:1] * number), number) for number in (1, 2))
        if self._seeded_splits:
            samples = []
            for index in key.indices:
                seeding(key.seed, _name(index))
                samples += gather([index])
            return samples
        seeding(key.seed, repr([_name(index) for index in key.indices]))
        return gather(key.indices)


class _Seeding:
    """Seeds some of the generators by keys.

    Args:
        generators: positions in `GENERATORS`.
        watching: note which of them are drawn from in between.
    """

    def __init__(self, generators: Sequence[int], watching: bool = False) -> None:
        self.generators = generators
        self.watching = watching
        self._drawn: set[int] = set()
        self._states: list[Any] = []

    def __call__(self, *keys: int | str) -> None:
        if not self.generators:
            return
        if self.watching:
            self.finish()
        seed = derive_seed(*keys)
        for i in self.generators:
            GENERATORS[i].seed(seed)
        if self.watching:
            self._states = [GENERATORS[i].state() for i in self.generators]

    def finish(self) -> set[int]:
        """The generators that were drawn from after some seeding."""
        self._drawn.update(
            i for i, state in zip(self.generators, self._states, strict=False) if GENERATORS[i].changed(state)
        )
        return self._drawn


def _is_list(samples: Any, length: int) -> bool:
    return type(samples) is list and len(samples) == length


def _name(index: Any) -> int | str:
    """An index as a part of a seed."""
    try:
        return operator.index(index)
    except TypeError:
        return repr(index)


def as_it_is(batch: Any) -> Any:
    """The batch: a `SeededDataset` has collated it."""
    return batch
