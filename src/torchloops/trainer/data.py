"""The batches of a data loader, epoch after epoch, from any position on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchloops.data.fingerprint import check_same, describe_loader
from torchloops.data.source import draws_nothing
from torchloops.errors import DataError, ResumeWarning, taking_back
from torchloops.seeding import derive_seed, random_state, restore_random_state
from torchloops.trainer.combined import CombinedLoader
from torchloops.trainer.generators import isolated
from torchloops.trainer.loaders import gives_what_it_says, number_of_batches
from torchloops.trainer.object_state import FirstSeen, Objects, restore_states, states_of
from torchloops.trainer.position import (
    Order,
    draw_base_seed,
    indexed_loader,
    loader_over,
    own_generators,
    stateful_parts,
)
from torchloops.trainer.resumable import obstacles

__all__ = ["Batches"]


class Batches:
    """The batches of one data loader, epoch after epoch.

    ``next(batches)`` gives the next batch. A map-style DataLoader that goes on in the middle of an epoch does so at
    its next batch without loading the ones before, and each of its samples is loaded with random generators seeded
    for that epoch and sample: neither the number of workers nor a cut changes what comes. Other iterables are read up
    to where they were, with generators of their own, or asked for their ``state_dict`` where they have one.

    Args:
        loader: any iterable of batches.
        limit: at most so many batches (int) or this share of them (float).
        name: of the data in messages.
        seen: what the objects in the data were when the fit began; None: as they are now.
        stream: another number for loaders whose samples are to be loaded with other random numbers.

    Attributes:
        num_batches: batches an epoch has; infinite where the loader does not say.
        last: the batch given last ends the epoch; always False where ``num_batches`` is sure to be right, as it is not
            where a sampler or a loader of the user's says how many there are.
        has_length: ``num_batches`` is sure to be right.
    """

    def __init__(
        self,
        loader: Any,
        limit: float | int | None = None,
        name: str = "training data",
        seen: FirstSeen | None = None,
        stream: int = 0,
    ) -> None:
        self.loader = loader
        self.name = name
        self.num_batches = number_of_batches(loader, limit)
        length = number_of_batches(loader)
        self._streams = (stream,) if stream else ()
        self._limited = limit is not None and self.num_batches < length
        self._next_epoch = 0
        self.last = False
        self._iterator: Iterator[Any] = iter(())
        self._source: Any = getattr(loader, "_dataloader", loader)
        self._indexed = indexed_loader(loader)
        self.has_length = length < float("inf") and gives_what_it_says(self._source)
        self._stateful = stateful_parts(self._source)
        self._own: DataLoader[Any] | None = None
        self._order: Order | None = None
        self._reading: Any = None
        self._skipped = 0
        self._epoch_start: dict[str, Any] | None = None
        self._taken: int | None = None
        self._states_are_loaded = False
        self._stops_at_limit = False
        self._keeps_ahead = False
        self._before_ahead: dict[str, Any] | None = None
        self._described: dict[str, Any] | None = None
        self._given: int | None = None
        self._goes_on_at: int | None = None
        self._data, self._ordering = self._objects(FirstSeen() if seen is None else seen)

    def _objects(self, seen: FirstSeen) -> tuple[Objects, Objects]:
        """What changes batch by batch, saved as it is, and what is gone through again from the epoch's start."""
        source = self._source
        is_loader = isinstance(source, DataLoader)
        names = ("dataset", "collate_fn") if is_loader else ()
        data = {name: getattr(source, name, None) for name in names}
        order = {name: getattr(source, name, None) for name in ("sampler", "batch_sampler")} if is_loader else {}
        if not is_loader and not isinstance(source, list | tuple) and not isinstance(source, CombinedLoader):
            order = {"loader": source}
        if self._indexed is None and not self._stateful:
            data, order = {}, {**order, **data}
        known: dict[int, Any] = {}
        return Objects(data, seen, known), Objects(order, seen, known)

    def __len__(self) -> int:
        return int(self.num_batches)

    def __iter__(self) -> Batches:
        """Begin the next epoch; the first time after a load, go on with the one that was cut."""
        skip, self._goes_on_at = self._goes_on_at or 0, None
        self.start_epoch(self._next_epoch - bool(skip), skip)
        self._given = skip
        return self

    def __next__(self) -> Any:
        batch = next(self._iterator)
        if self._given is not None:
            self._given += 1
        return batch

    @property
    def is_inside_epoch(self) -> bool:
        """Whether the next iterator goes on with an epoch that was cut."""
        return bool(self._goes_on_at)

    def arrive(self) -> None:
        """Say that a resumed run is where it was: who asks for an iterator now, begins an epoch."""
        self._goes_on_at = None

    def start_epoch(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """Begin an epoch and return its iterator.

        Args:
            epoch: its index, handed to samplers and iterable data sets with ``set_epoch``.
            skip: batches to leave out, those an earlier process has had.
        """
        self.last = False
        self._given = None
        self._next_epoch = epoch + 1
        if not skip:
            self._leave_epoch()
        self._taken = self._reading = self._before_ahead = None
        self._tell_epoch(epoch)
        if skip:
            iterator = self._resume(epoch, skip)
        else:
            self._epoch_start = self._start_state(epoch)
            iterator = self._begin(self._epoch_start["seed"], 0)
        self._skipped, self._states_are_loaded = skip, False
        self._taken = skip
        keeps_state = self._indexed or self._stateful or self._data.generators or self._data.owners
        self._keeps_ahead = not self.has_length and bool(keeps_state)
        self._iterator = iterator if self.has_length else self._look_ahead(iterator, skip)
        return self._iterator

    def note_first_draw(self) -> None:
        """Say that the order of the epoch is drawn now, after others have drawn since the epoch began."""
        if self._epoch_start is not None:
            self._epoch_start["drawn_from"] = random_state()

    def end_epoch(self) -> None:
        """Exhaust the iterator of a whole epoch, as a ``for`` statement does.

        Samplers draw their last random numbers then, and workers stop.
        """
        if not self._limited or self._stops_at_limit:
            next(self._iterator, None)
        self._taken = self._reading = self._before_ahead = None

    def close(self) -> None:
        """Let go of iterators and workers; the position is known as before."""
        self._taken, self._reading, self._iterator = self._count_taken(), None, iter(())
        if self._own is not None:
            self._own._iterator = None
        if isinstance(self._source, CombinedLoader):
            self._source.reset()

    def rewind(self) -> None:
        """Put the loader's own generators, and what else has a state, back to where the epoch began."""
        if self._epoch_start is not None:
            self._restore_start(self._epoch_start)
            self._load_states(self._epoch_start.get("states") or {})
            self._taken = self._given = None

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain data: the generators when the epoch began and now, and what must stay the same."""
        ordering = self._ordering.states()
        return {
            "epoch_start": self._start_to_save(ordering),
            "next_epoch": self._next_epoch,
            "given": self._given,
            "loader": self._order_generators(),
            "ordering": ordering,
            **(self._before_ahead or self._current_states()),
            "described": self.describe(),
        }

    def load_state_dict(self, state: dict[str, Any], advice: str = "") -> None:
        """Take back what `state_dict` returned.

        Args:
            state: what it returned.
            advice: a sentence for the error.

        Raises:
            CheckpointError: the data is not what it was; it names what has changed.
        """
        check_same(f"The {self.name}", state.get("described") or {}, self.describe(), advice)
        self._epoch_start, self._next_epoch = state["epoch_start"], state.get("next_epoch", 0)
        self._taken, self._reading, self._before_ahead = state.get("taken"), None, None
        self._given = self._goes_on_at = state.get("given")
        self._restore_order(state["loader"], state.get("ordering") or {})
        restore_states(self._data.generators, state.get("dataset") or {})
        self._data.restore(state.get("objects") or {})
        self._load_states(state.get("states") or {})

    def describe(self) -> dict[str, Any]:
        """What of the data must be the same for a run to go on, as plain data; computed once."""
        if self._described is None:
            self._described = describe_loader(self._source)
        return self._described

    def warn_if_not_resumable(self) -> None:
        """Warn of what would keep a cut run from going on exactly."""
        for sentence in obstacles(self._source):
            warnings.warn(f"A run over this {self.name} cannot resume exactly: {sentence}", ResumeWarning, stacklevel=2)

    # epochs

    def _tell_epoch(self, epoch: int) -> None:
        source = self._source
        owners = [source, *(getattr(source, name, None) for name in ("sampler", "batch_sampler"))]
        owners.append(getattr(getattr(source, "batch_sampler", None), "sampler", None))
        if isinstance(getattr(source, "dataset", None), IterableDataset):
            owners.append(source.dataset)
        told: list[Any] = []
        for owner in owners:
            set_epoch = getattr(owner, "set_epoch", None)
            if callable(set_epoch) and all(owner is not other for other in told):
                told.append(owner)
                set_epoch(epoch)

    def _start_state(self, epoch: int) -> dict[str, Any]:
        generator = getattr(self._source, "generator", None)
        seed = generator.initial_seed() if isinstance(generator, torch.Generator) else torch.initial_seed()
        return {
            "random": random_state(),
            "loader": self._order_generators(),
            "objects": self._ordering.states(_EVERYTHING),
            "changed": self._ordering.states(),
            "states": self._states(),
            "seed": derive_seed(seed, "data", epoch, *self._streams),
        }

    def _resume(self, epoch: int, skip: int) -> Iterator[Any]:
        now = random_state()
        if self._epoch_start is None:
            self._epoch_start = self._start_state(epoch)
        elif not self._states_are_loaded:
            self._load_states(self._epoch_start.get("states") or {})
            self._states_are_loaded = False  # they are those of the epoch's start
        restore_random_state(self._epoch_start["random"])
        self._restore_start(self._epoch_start)
        seed = self._epoch_start.get("seed", derive_seed(torch.initial_seed(), "data", epoch, *self._streams))
        iterator = self._begin(seed, skip)
        restore_random_state(now)
        return iterator

    def _order_generators(self) -> dict[str, Any]:
        return states_of({**self._ordering.generators, **own_generators(self._source)})

    def _restore_order(self, generators: dict[str, Any], objects: dict[str, Any]) -> None:
        with taking_back(f"what sets the order of the {self.name}"):
            restore_states({**self._ordering.generators, **own_generators(self._source)}, generators)
            self._ordering.restore(objects)

    def _restore_start(self, start: dict[str, Any]) -> None:
        """Put what sets the order back to where the epoch began."""
        self._restore_order(start["loader"], start.get("objects") or {})
        start["objects"] = self._ordering.states(_EVERYTHING)

    def _start_to_save(self, now: dict[str, Any]) -> dict[str, Any] | None:
        """The start of the epoch, with those attributes that were others than at first, or are now."""
        start = self._epoch_start
        if start is None:
            return None
        wanted = [
            (path, name) for states in (now, start.get("changed") or {}) for path in states for name in states[path]
        ]
        objects: dict[str, Any] = {}
        for path, name in wanted:
            if name in start.get("objects", {}).get(path, {}):
                objects.setdefault(path, {})[name] = start["objects"][path][name]
        return {**{name: value for name, value in start.items() if name != "changed"}, "objects": objects}

    def _begin(self, seed: int, skip: int) -> Iterator[Any]:
        """The iterator of an epoch with this seed, behind its first ``skip`` batches."""
        if self._indexed is not None:
            return self._begin_indexed(self._indexed, seed, skip)
        loader = self._source
        workers = isinstance(loader, DataLoader) and loader.num_workers > 0
        if workers and loader.persistent_workers and not self._stateful:  # they would not start over after a resume
            loader = self._own = loader_over(loader, None) if self._own is None else self._own
        iterator = self._reading = iter(loader)
        if skip:
            self._restore_first_draw()
        indexed = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if not (workers or indexed or self._stateful or isinstance(loader, list | tuple)):
            iterator = isolated(iterator, seed)
        if skip and not self._states_are_loaded:
            next(islice(iterator, skip - 1, skip), None)
        return iterator

    def _begin_indexed(self, loader: DataLoader[Any], seed: int, skip: int) -> Iterator[Any]:
        plain = draws_nothing(loader.dataset, loader.collate_fn)
        samplers_have_state = bool(self._stateful.keys() - {"dataset"})
        self._stops_at_limit = False
        if plain and not skip and not loader.num_workers and not samplers_have_state:
            self._reading = iter(loader)
            return self._reading
        if self._own is None or self._order is None:
            prefetched = (loader.prefetch_factor or 0) * loader.num_workers + (not self.has_length)
            limit = int(self.num_batches) if self._limited else None
            self._order = Order(loader, not plain, limit, prefetched)
            self._own = loader_over(loader, self._order)
        own, order = self._own, self._order
        self._stops_at_limit = True
        again = own.persistent_workers and own.num_workers > 0 and own._iterator is not None
        order.begin(seed, skip, loaded=samplers_have_state and self._states_are_loaded, redraw=again)
        self._reading = iter(own)
        if skip:
            self._restore_first_draw()
        order.catch_up()
        return self._reading

    def _restore_first_draw(self) -> None:
        if self._epoch_start is not None and "drawn_from" in self._epoch_start:
            restore_random_state(self._epoch_start["drawn_from"])

    def _leave_epoch(self) -> None:
        """Put the loader's generators to where the epoch was left, if workers have asked for batches ahead of it."""
        loader, generators = self._indexed, own_generators(self._source)
        taken = self._before_ahead["taken"] if self._before_ahead else self._count_taken()
        if loader is None or not loader.num_workers or not generators or self._epoch_start is None:
            return
        if not taken or taken >= self.num_batches:
            return
        now = random_state()
        restore_random_state(self._epoch_start["random"])
        restore_states(generators, self._epoch_start["loader"])
        indices = iter(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)
        draw_base_seed(loader.generator)
        self._restore_first_draw()
        next(islice(indices, taken - 1, taken), None)
        restore_random_state(now)

    def _count_taken(self) -> int | None:
        """Batches had in the running epoch, where that is known; None between epochs."""
        if self._taken is None or self._reading is None or self._indexed is None:
            return self._taken
        return self._skipped + getattr(self._reading, "_num_yielded", 0)

    # states

    def _states(self) -> dict[str, Any]:
        """The states of those parts of the loader that have one."""
        found = {name: copy.deepcopy(part.state_dict()) for name, part in self._stateful.items()}
        taken, names = self._count_taken(), [name for name in self._stateful if name != "dataset"]
        if names and taken is not None and self._order is not None:  # workers may have drawn ahead
            found.update(zip(names, self._order.state_after(taken), strict=True))
        return found

    def _current_states(self) -> dict[str, Any]:
        return {
            "taken": self._count_taken(),
            "states": self._states(),
            "dataset": states_of(self._data.generators),
            "objects": self._data.states(),
        }

    def _load_states(self, states: dict[str, Any]) -> None:
        for name, part in self._stateful.items():
            if name in states:
                part.load_state_dict(states[name])
                self._states_are_loaded = True

    def _look_ahead(self, iterator: Iterator[Any], skip: int) -> Iterator[Any]:
        nothing = object()
        if self._limited and not self._stops_at_limit:
            iterator = islice(iterator, max(0, len(self) - skip))
        ahead = next(iterator, nothing)
        if ahead is nothing and not skip and not self._stateful:  # one with a state may have stood at its end
            raise DataError(
                f"The data loader ({type(self.loader).__name__}) gave no batches. Give it data; an iterator that can "
                "be gone through only once is empty in the second epoch: give an object whose __iter__ starts over."
            )
        self.last = ahead is nothing
        while ahead is not nothing:
            if self._keeps_ahead:
                self._before_ahead = self._current_states()
            batch, ahead = ahead, next(iterator, nothing)
            self.last = ahead is nothing
            yield batch


class _Everything:
    def __contains__(self, item: Any) -> bool:
        return True


_EVERYTHING = _Everything()
