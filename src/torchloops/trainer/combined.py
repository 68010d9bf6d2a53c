"""CombinedLoader: several data loaders in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from torchloops.errors import ConfigurationError, DataError, did_you_mean
from torchloops.schema import check

__all__ = ["CombinedLoader", "as_combined", "holds_loaders"]

_MODES = ("min_size", "max_size", "max_size_cycle", "sequential")
_STATE = {"batches": [Any], "ended": [bool], "turn": int, "given": int, "begun": [bool]}


class CombinedLoader:
    """Takes a batch of each of several data loaders at a time.

    A batch is built as the loaders were given: a dict of batches for a dict of loaders, a list for a list. The Trainer
    makes one itself where it gets several training loaders, with ``mode="max_size_cycle"``.

    A run that was cut goes on at the same place of every loader, as exactly as it does for that loader alone.

    Args:
        iterables: the loaders, in a dict, a list, or these inside each other.
        mode: how long an epoch is. "min_size": until the first loader has ended. "max_size": until the last one has,
            with None for those that have ended. "max_size_cycle": until the last one has, and the others start over.
            "sequential": one loader after the other; a batch is of one loader alone.

    Attributes:
        flattened: the loaders in a list.

    Raises:
        ConfigurationError: no such mode.
        DataError: no loaders.

    Example:
        >>> loader = CombinedLoader({"a": [1, 2, 3], "b": [4, 5]}, "min_size")
        >>> list(loader)
        [{'a': 1, 'b': 4}, {'a': 2, 'b': 5}]
    """

    def __init__(self, iterables: Any, mode: str = "min_size") -> None:
        if mode not in _MODES:
            raise ConfigurationError(
                f"CombinedLoader(mode=...) is one of {list(_MODES)}, got {mode!r}.{did_you_mean(str(mode), _MODES)}"
            )
        self.iterables, self.mode = iterables, mode
        self.flattened = list(_leaves(iterables))
        if not self.flattened:
            raise DataError("CombinedLoader has no loaders. Give it a dict or a list of them.")
        self._batches: list[Any] = []
        self._ended: list[bool] = []
        self._begun: list[bool] = []
        self._turn = self._given = 0
        self._goes_on = False
        self._first: set[int] = set()  # loaders that all began together and have given no batch yet

    def __len__(self) -> int:
        """Batches of an epoch.

        Raises:
            TypeError: a loader that decides over it has no length.
        """
        lengths = [len(loader) for loader in self.flattened]
        if self.mode == "sequential":
            return sum(lengths)
        return min(lengths) if self.mode == "min_size" else max(lengths)

    def __iter__(self) -> Iterator[Any]:
        """Begin the next epoch; the first time after a load, go on with the one that was cut."""
        own = self._inner()
        if self._goes_on:
            self._goes_on = False
            for index, batches in enumerate(own):
                if self._begun[index] and not self._is_over(index):
                    iter(batches)
                else:
                    batches.arrive()
        else:
            self._ended, self._begun = [False] * len(own), [False] * len(own)
            self._turn = self._given = 0
            if self.mode != "sequential":
                for index in range(len(own)):
                    self._begin(index)
                self._first = set(range(len(own)))
        return self._in_turn() if self.mode == "sequential" else self._together()

    def _in_turn(self) -> Iterator[Any]:
        while self._turn < len(self._batches):
            if not self._begun[self._turn]:
                self._begin(self._turn)
            try:
                batch = next(self._batches[self._turn])
            except StopIteration:
                self._turn += 1
            else:
                yield batch

    def _together(self) -> Iterator[Any]:
        number = len(self) if all(batches.has_length for batches in self._batches) else float("inf")
        while self._given < number:
            found = [self._next(index) for index in range(len(self._batches))]
            if all(self._ended) or (self.mode == "min_size" and any(self._ended)):
                return
            self._given += 1
            yield _built_like(self.iterables, iter(found))

    def _next(self, index: int) -> Any:
        """The next batch of a loader; None where it has ended, and nothing follows."""
        if self.mode == "min_size" and any(self._ended):
            return None
        if self._ended[index] and self.mode == "max_size":
            return None
        if index in self._first:
            self._first.remove(index)
            self._batches[index].note_first_draw()
        try:
            return next(self._batches[index])
        except StopIteration:
            self._ended[index] = True
        if self.mode != "max_size_cycle" or all(self._ended):
            return None
        self._begin(index)
        return next(self._batches[index])

    def _is_over(self, index: int) -> bool:
        """Whether a loader gives no more batches in this epoch."""
        return index < self._turn or (self._ended[index] and self.mode == "max_size")

    def _begin(self, index: int) -> None:
        self._begun[index] = True
        iter(self._batches[index])

    def _inner(self) -> list[Any]:
        if not self._batches:
            from torchloops.trainer.data import Batches

            several = enumerate(self.flattened)
            self._batches = [Batches(loader, name=f"data of loader {at}", stream=at) for at, loader in several]
        return self._batches

    def mapped(self, function: Callable[[Any], Any]) -> CombinedLoader:
        """The same, with ``function(loader)`` in the place of every loader."""
        return CombinedLoader(_built_like(self.iterables, map(function, self.flattened)), self.mode)

    def reset(self) -> None:
        """Let go of iterators and workers."""
        for batches in self._batches:
            batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Where every loader is, as plain data."""
        return {
            "batches": [batches.state_dict() for batches in self._inner()],
            "ended": list(self._ended), "begun": list(self._begun), "turn": self._turn, "given": self._given,
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            CheckpointError: the data of a loader is not what it was.
        """
        check(state_dict, _STATE, "CombinedLoader: state")
        for batches, state in zip(self._inner(), state_dict["batches"], strict=True):
            batches.load_state_dict(state)
        self._ended, self._begun = list(state_dict["ended"]), list(state_dict["begun"])
        self._turn, self._given = state_dict["turn"], state_dict["given"]
        self._goes_on = any(batches.is_inside_epoch for batches in self._batches)


def _leaves(item: Any, is_top: bool = True) -> Iterator[Any]:
    """The loaders in a structure, in order; a list inside that holds batches is a loader."""
    if isinstance(item, dict):
        for part in item.values():
            yield from _leaves(part, False)
    elif isinstance(item, list | tuple) and (is_top or holds_loaders(item)):
        for part in item:
            yield from _leaves(part, False)
    else:
        yield item


def _built_like(item: Any, values: Iterator[Any], is_top: bool = True) -> Any:
    """The same structure with ``values`` in the places of the loaders."""
    if isinstance(item, dict):
        return {name: _built_like(part, values, False) for name, part in item.items()}
    if isinstance(item, list | tuple) and (is_top or holds_loaders(item)):
        make = getattr(type(item), "_make", type(item))  # a named tuple takes its items apart
        return make([_built_like(part, values, False) for part in item])
    return next(values)


def holds_loaders(items: Any) -> bool:
    """Whether a list holds loaders rather than batches: its items are iterable and no tensors or tuples of them."""
    if not isinstance(items, list | tuple):
        return False
    return bool(items) and all(
        isinstance(item, DataLoader) or (hasattr(item, "__iter__") and hasattr(item, "__len__") and _is_batches(item))
        for item in items
    )


def _is_batches(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], list | tuple | dict)


def as_combined(loader: Any) -> CombinedLoader | None:
    """A ``CombinedLoader``, ours or, whose iterator gives other things, Lightning's, as one of ours; None: no such."""
    kind = type(loader)
    if kind.__name__ == "CombinedLoader" and kind.__module__.split(".")[0] in ("pytorch_lightning", "lightning"):
        return CombinedLoader(loader.iterables, loader._mode)
    return loader if isinstance(loader, CombinedLoader) else None
