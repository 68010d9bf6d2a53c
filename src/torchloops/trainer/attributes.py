"""The Python attributes of a module and its parts: copied, and put back."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections import deque
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle

from torchloops.data.fingerprint import fingerprint
from torchloops.module import BORROWED
from torchloops.trainer.position import has_state

__all__ = [
    "NO_STATE",
    "Attributes",
    "UncopiedAttributesWarning",
    "is_kept",
    "is_same",
    "names_of",
    "take_back_records",
]

NO_STATE = frozenset(vars(nn.Module())) | {"_trainer", "trainer", "_fabric", "_compiled_call_impl"} | BORROWED


_ABSENT = object()


_NAMED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Modules whose attributes that cannot be copied were named already."""


_RECORDS: weakref.WeakKeyDictionary[nn.Module, list[tuple[nn.Module, str, Any]]] = weakref.WeakKeyDictionary()
"""What runs have left in modules to be looked at."""


class UncopiedAttributesWarning(UserWarning):
    """A module has attributes that cannot be copied, so what training changes in them stays changed."""


class Attributes:
    """Copies of the attributes of all parts of a module, without parameters, buffers and parts.

    Data sets and loaders are kept as they are, and so are optimizers and schedulers, whose states are put back too.
    What cannot be copied is named in a warning.

    Args:
        module: the module to copy from.

    Attributes:
        values: the copies, by path of the part and name.
    """

    def __init__(self, module: nn.Module) -> None:
        found = {path: {name: part.__dict__[name] for name in names_of(part)} for path, part in module.named_modules()}
        helpless: list[str] = []
        self._owner = _named(module)
        self.values = _copied(found, module, helpless)
        self._states = [
            (part, copy.deepcopy(part.state_dict()))
            for part in _inside(found)
            if isinstance(part, Optimizer) or isinstance(getattr(part, "optimizer", None), Optimizer)
            if has_state(part)
        ]
        if helpless and module not in _NAMED:
            _NAMED.add(module)
            warnings.warn(
                f"{type(module).__name__} has attributes that cannot be copied: {', '.join(helpless)}. What training "
                "changes in them is still there when the next fold or round begins. Give their classes __deepcopy__, "
                "or make them anew in on_fit_start.",
                UncopiedAttributesWarning,
                stacklevel=4,
            )

    def restore(self, module: nn.Module, keep_records: bool = False) -> None:
        """Give a module the attributes back; those that it did not have are taken away.

        Args:
            module: the one that was copied from, or a copy of it. What referred to parts, parameters and buffers of the
                former refers to those of the latter; optimizers, which are not copied, are then left alone.
            keep_records: leave what was written into collections that were empty, until `take_back_records`.
        """
        own = _named(module)
        stand_ins = {id(value): own[name] for name, value in self._owner.items() if name in own}
        copies = _copied(self.values, module, [], stand_ins)
        for path, part in module.named_modules():
            then = copies.get(path, {})
            for name in names_of(part) - then.keys():
                del part.__dict__[name]
            kept = {name for name, value in then.items() if keep_records and _is_record(value, part.__dict__.get(name))}
            part.__dict__.update({name: value for name, value in then.items() if name not in kept})
            if kept:
                _RECORDS.setdefault(module, []).extend((part, name, part.__dict__[name]) for name in kept)
        for owner, state in self._states if own[""] is self._owner[""] else ():
            owner.load_state_dict(copy.deepcopy(state))

    def changed_since(self, earlier: Attributes) -> dict[str, Any]:
        """Attributes that are others than they were, by names such as ``"mean"`` or ``"head.calls"``."""
        return {
            f"{path}.{name}".removeprefix("."): value
            for path, names in self.values.items()
            for name, value in names.items()
            if not is_same(value, earlier.values.get(path, {}).get(name, _ABSENT))
        }


def is_same(one: Any, other: Any) -> bool:
    """Whether two values, or a value and its copy, hold the same."""
    return _is_same(one, other, set())


def _is_same(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if type(one) is not type(other):
        return False
    seen.add((id(one), id(other)))
    if isinstance(one, Tensor | np.ndarray):
        return fingerprint(one) == fingerprint(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key], seen) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(_is_same(a, b, seen) for a, b in zip(one, other, strict=True))
    if callable(getattr(one, "equals", None)):  # pandas
        return bool(one.equals(other))
    if type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__"):
        return _is_same(vars(one), vars(other), seen)
    try:
        return bool(one == other)
    except Exception:  # an == of a user's class, or one that answers with an array
        return False


def take_back_records(module: nn.Module) -> None:
    """Empty what an earlier run has left in the module to be looked at, so that the next fit begins as that did."""
    for part, name, value in _RECORDS.pop(module, []):
        if part.__dict__.get(name) is value:
            part.__dict__[name] = copy.copy(value)
            part.__dict__[name].clear()


def _is_record(before: Any, now: Any) -> bool:
    """Whether something was written into a collection that was empty."""
    return isinstance(before, list | dict | set | deque) and type(before) is type(now) and not before and bool(now)


def names_of(part: Any) -> set[str]:
    """The names of a part's own attributes, without what torch and a run keep there."""
    return part.__dict__.keys() - NO_STATE


def _named(module: nn.Module) -> dict[str, Any]:
    """Parts, parameters and buffers by name; the module itself is ""."""
    return {**dict(module.named_modules()), **dict(module.named_parameters()), **dict(module.named_buffers())}


def _copied(
    values: dict[str, dict[str, Any]], module: nn.Module, helpless: list[str], stand_ins: dict[int, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Copies that share what the originals share.

    Args:
        values: by path of the part and name.
        module: whose parts and parameters are referred to, not copied.
        helpless: names of what cannot be copied are added to it.
        stand_ins: what copies refer to in the place of other objects, by the id of these.
    """
    memo = {**_memo(values, module), **(stand_ins or {})}
    copies: dict[str, dict[str, Any]] = {}
    for path, names in values.items():
        copies[path] = {}
        for name in sorted(names):
            try:
                copies[path][name] = copy.deepcopy(names[name], memo)
            except Exception:  # locks, open files, running generators ...
                copies[path][name] = names[name]
                helpless.append(f"{path}.{name}".removeprefix("."))
    return copies


def _memo(values: dict[str, dict[str, Any]], module: nn.Module) -> dict[int, Any]:
    """What copies refer to instead of copying it, as ``copy.deepcopy`` takes it."""
    trainer = module.__dict__.get("_trainer") or module.__dict__.get("trainer")
    kept = [*module.modules(), *module.parameters(), *module.buffers(), *([] if trainer is None else [trainer])]
    inside = _inside(values)
    memo = {id(value): value for value in [*kept, *(value for value in inside if is_kept(value))]}
    results = [value for value in inside if isinstance(value, Tensor) and value.grad_fn is not None]
    return {id(value): value.detach().clone() for value in results} | memo  # a graph cannot be copied


def _inside(values: dict[str, dict[str, Any]]) -> list[Any]:
    """All attributes, and what is in those that are collections."""
    return [value for names in values.values() for value in _flat(names, depth=4)]


def _flat(value: Any, depth: int) -> list[Any]:
    """A value and what is in it, where it is a collection."""
    inside = list(value.values()) if isinstance(value, dict) else value
    if not depth or not isinstance(inside, list | tuple | set):
        return [value]
    return [value, *(part for item in inside for part in _flat(item, depth - 1))]


def is_kept(value: Any) -> bool:
    """Whether a value is no state of the module: data, and optimizers, which have a state of their own."""
    if isinstance(value, Dataset | DataLoader | Optimizer | RemovableHandle):
        return True
    return isinstance(getattr(value, "optimizer", None), Optimizer)
