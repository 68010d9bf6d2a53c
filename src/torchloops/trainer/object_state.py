"""What the objects around a data loader keep: random generators, and counters and lists of the user's own classes."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from torchloops.seeding import generator_state, is_generator, restore_generator
from torchloops.values import NotPlainError, decode, encode, mark_or_identity

__all__ = ["FirstSeen", "Objects", "restore_states", "states_of", "untouched"]

_LIBRARIES = frozenset(
    ("torch", "torchvision", "torchloops", "lightning_fabric", "lightning", "pytorch_lightning", "numpy", "pandas",
     "PIL", "sklearn", "baal", "builtins", "collections", "functools", "pathlib", "datetime", "threading", "logging")
)  # fmt: skip
_DEEPEST = 12
_MOST = 256  # parts of a collection that are looked into; longer ones are data
_NOT_WALKED = (torch.Tensor, np.ndarray, str, bytes, int, float, bool, type(None), type, torch.device, torch.dtype)
_NUMBERS = (bool, int, float, str, type(None))
_ABOVE = frozenset(("trainer", "_trainer", "datamodule"))


class FirstSeen:
    """What attributes of objects were when a fit first saw the objects; these are not kept alive by it."""

    def __init__(self) -> None:
        self._marks: dict[int, tuple[Any, dict[str, Any]]] = {}

    def marks(self, owner: Any) -> dict[str, Any]:
        """The marks of the attributes of ``owner`` then, which is now if it is new."""
        key = id(owner)
        found = self._marks.get(key)
        if found is not None and found[0]() is owner:
            return found[1]
        marks = {name: mark_or_identity(value) for name, value in _attributes(owner)}
        try:
            reference: Any = weakref.ref(owner, lambda _: self._marks.pop(key, None))
        except TypeError:  # a class without weak references
            reference = lambda: owner  # noqa: E731
        self._marks[key] = reference, marks
        return marks


class Objects:
    """The objects that are reached from some roots, and what they keep.

    Generators are found wherever they are; plain attributes in objects of classes that are no library's. An object
    with a ``state_dict`` of its own is left to that.

    Args:
        roots: the objects to begin with, by name.
        seen: what attributes were at first.
        known: objects that others look after; those found here are added.

    Attributes:
        generators: by path, such as ``"dataset.transform.rng"``; one object once.
    """

    def __init__(self, roots: dict[str, Any], seen: FirstSeen, known: dict[int, Any]) -> None:
        self._seen = seen
        self.generators: dict[str, Any] = {}
        self.owners: dict[str, Any] = {}
        for name, root in roots.items():
            for path, value in _walk(name, root, known, _DEEPEST):
                if is_generator(value):
                    self.generators[path] = value
                elif _is_users(value):
                    self.owners[path] = value
                    seen.marks(value)

    def states(self, of: Any = None) -> dict[str, dict[str, Any]]:
        """Attributes by path of the object and name, as plain data.

        Args:
            of: those to take, a container of ``(path, name)``; None: those that are others than at first.
        """
        found: dict[str, dict[str, Any]] = {}
        for path, owner in self.owners.items():
            before = self._seen.marks(owner)
            for name, value in _attributes(owner):
                if (before.get(name) != mark_or_identity(value)) if of is None else ((path, name) in of):
                    try:
                        found.setdefault(path, {})[name] = encode(value, copy=True)
                    except NotPlainError:
                        continue  # objects in it are walked, too
        return {path: names for path, names in found.items() if names}

    def restore(self, states: dict[str, dict[str, Any]]) -> None:
        """Give the objects back what `states` returned."""
        for path, names in states.items():
            owner = self.owners.get(path)
            for name, encoded in names.items() if owner is not None else ():
                value = decode(encoded, getattr(owner, name, None))
                if getattr(owner, name, None) is not value:
                    setattr(owner, name, value)


@contextmanager
def untouched(roots: dict[str, Any]) -> Iterator[None]:
    """A context for a trial: generators and counters of the objects are afterwards as they were before."""
    objects = Objects(roots, FirstSeen(), {})
    generators = states_of(objects.generators)
    numbers = [
        (owner, {name: value for name, value in _attributes(owner) if isinstance(value, _NUMBERS)})
        for owner in objects.owners.values()
    ]
    try:
        yield
    finally:
        restore_states(objects.generators, generators)
        for owner, values in numbers:
            vars(owner).update(values)


def states_of(generators: dict[str, Any]) -> dict[str, Any]:
    """The states of random generators, as data that a safe load accepts."""
    return {name: generator_state(generator) for name, generator in generators.items()}


def restore_states(generators: dict[str, Any], states: dict[str, Any]) -> None:
    """Put random generators back into states that `states_of` returned."""
    for name, generator in generators.items():
        state = states.get(name, states.get(name.removesuffix(".generator")))  # the latter: as format 1 names them
        if state is not None:
            restore_generator(generator, state)


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(owner).items():
        if name not in _ABOVE and not is_generator(value) and not callable(value):
            yield name, value


def _is_users(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] not in _LIBRARIES and not inspect.isroutine(value)


def _has_state(value: Any) -> bool:
    return not isinstance(value, torch.nn.Module) and callable(getattr(value, "load_state_dict", None))


def _walk(path: str, value: Any, known: dict[int, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _NOT_WALKED) or id(value) in known or not depth:
        return
    known[id(value)] = value
    if is_generator(value):
        yield path, value
        return
    if hasattr(value, "__dict__") and not _has_state(value):
        yield path, value
    for name, part in _parts(value):
        yield from _walk(f"{path}.{name}", part, known, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple | set | dict):
        if len(value) <= _MOST:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((str(key), item) for key, item in items)
        return
    if inspect.ismethod(value):
        yield "self", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif inspect.isfunction(value):
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=False):
            if cell is not None and _is_filled(cell):
                yield name, cell.cell_contents
        yield from (("defaults", value.__defaults__), ("kwdefaults", value.__kwdefaults__))
    elif hasattr(value, "__dict__") and not inspect.isroutine(value) and not _has_state(value):
        yield from ((name, part) for name, part in vars(value).items() if name not in _ABOVE)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
