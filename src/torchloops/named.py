"""Arguments that are no plain data (classes, functions, members of an Enum) in a file that is loaded safely."""

from __future__ import annotations

import datetime
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial, wraps
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchloops.errors import CheckpointError

__all__ = ["Named", "by_name", "lost", "resolved"]

_CALLED = (range, slice, complex, partial, datetime.date.fromisoformat, datetime.datetime.fromisoformat,
           datetime.timedelta)  # fmt: skip
_OF_TORCH = ("torch.nn.functional", "torch.nn.init", "torch.functional")
_BASES = (nn.Module, Optimizer, LRScheduler)


class Named:
    """What stands in a file for an argument that is no plain data.

    Attributes:
        name: ``"module:qualified name"`` of a class, function or member; empty: the argument could not be saved.
        call: arguments, positional and by name, that what is named is called with; None: it is meant itself.
        shown: how a message calls it.
    """

    __slots__ = ("call", "name", "shown")

    def __init__(self, name: str, call: tuple[Any, Any] | None, shown: str) -> None:
        self.name, self.call, self.shown = name, call, shown

    def __reduce__(self) -> Any:
        return _rebuild, (self.name, self.call, self.shown)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.__reduce__() == other.__reduce__()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.call is None:
            return f"<{self.name or self.shown}>"
        args, kwargs = self.call
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        return f"<{self.name}({given})>"


def _rebuild(name: str, call: tuple[Any, Any] | None, shown: str) -> Named:
    """What a file calls for each `Named`: nothing that it names is looked up yet."""
    for library in ("pytorch_lightning", "lightning.pytorch"):
        _teach(sys.modules.get(f"{library}.core.saving"))
    return Named(name, call, shown)


torch.serialization.add_safe_globals([_rebuild])


def by_name(value: Any) -> Any:
    """``value`` with all in it that is no plain data as `Named`; what has no name is named as lost."""
    kind: Any = type(value)
    if isinstance(value, Enum):
        return _named(value, kind.__module__, f"{kind.__qualname__}.{value.name}", repr(value))
    if isinstance(value, Mapping) and not isinstance(value, Counter):
        mapping: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        return mapping((key, by_name(item)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return _call(kind._make, (list(value),), {}, value)
    if kind in (list, tuple):
        return kind(map(by_name, value))
    if isinstance(value, range | slice):
        return _call(kind, (value.start, value.stop, value.step), {}, value)
    if isinstance(value, complex):
        return _call(complex, (value.real, value.imag), {}, value)
    if isinstance(value, datetime.timedelta):
        return _call(datetime.timedelta, (value.days, value.seconds, value.microseconds), {}, value)
    if isinstance(value, datetime.date):
        return _call(kind.fromisoformat, (value.isoformat(),), {}, value)
    if kind is partial:
        return _call(partial, (value.func, *value.args), value.keywords, value)
    if is_dataclass(value) and not isinstance(value, type):
        given = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return _call(kind, (), given, value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _of_function(value)
    return value


def lost(value: Any) -> Named:
    """What stands for a value that has no name in any module."""
    return Named("", None, f"a {type(value).__name__}")


def _of_function(value: Any) -> Named:
    """A class or function by its name, which is the public one for torch's operators."""
    homes: tuple[Any, ...] = torch, torch.nn.functional
    for home in homes:
        name = value.__name__
        if getattr(home, name, None) is value:
            return Named(f"{home.__name__}:{name}", None, name)
    return _named(value, value.__module__, value.__qualname__, value.__qualname__)


def _call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> Named:
    owner = getattr(function, "__self__", None)
    named = by_name(function) if not isinstance(owner, type) else _method(owner, function)
    call = tuple(map(by_name, args)), {name: by_name(item) for name, item in kwargs.items()}
    return Named(named.name, call, lost(value).shown) if named.name else lost(value)


def _method(owner: type, function: Any) -> Named:
    return _named(function, owner.__module__, f"{owner.__qualname__}.{function.__name__}", function.__name__)


def _named(value: Any, module: str, qualified: str, shown: str) -> Named:
    found, _ = _find(f"{module}:{qualified}")
    is_found = found is value or (hasattr(value, "__self__") and found == value)
    return Named(f"{module}:{qualified}", None, shown) if is_found else Named("", None, shown)


def _find(name: str) -> tuple[Any, bool]:
    """What a name stands for in the modules that are imported, and whether there is such a thing."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        if found is None or (isinstance(found, type(sys)) and found.__name__ != module):
            return None, False
        found = getattr(found, part, None)
    return found, found is not None


def resolved(value: Any, argument: str, owner: str) -> Any:
    """``value`` with what `by_name` named put back.

    Args:
        value: what a file holds.
        argument: the argument it is for, for messages.
        owner: name of the class that has the argument.

    Raises:
        CheckpointError: it was not saved, is not there, or is nothing that a safe load looks up.
    """
    if isinstance(value, Mapping):
        mapping: Any = type(value)
        return mapping((key, resolved(item, f"{argument}.{key}", owner)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(resolved(item, f"{argument}[{index}]", owner) for index, item in enumerate(value))
    if not isinstance(value, Named):
        return value
    outer = argument.partition(".")[0].partition("[")[0]
    instead = f"Give it: {owner}.load_from_checkpoint(path, {outer}=...)."
    if not value.name:
        raise CheckpointError(
            f"{owner} was built with {argument}={value.shown}, which a checkpoint cannot hold. {instead}"
        )
    found, is_there = _find(value.name)
    if not is_there:
        raise CheckpointError(
            f"{owner} was built with {argument}={value.shown}, saved as {value.name!r}, which is not there. Import the "
            f"module that defines it before you load. Or: {instead[0].lower()}{instead[1:]}"
        )
    if not _is_allowed(found, value):
        raise CheckpointError(
            f"{owner} was built with {argument}={value.shown}, saved as {value.name!r}, which a safe load does not "
            f"look up. If you trust the file: torch.serialization.add_safe_globals([{value.name.rpartition(':')[2]}]) "
            f"before. Or: {instead[0].lower()}{instead[1:]}"
        )
    if value.call is None:
        return found
    args, kwargs = (resolved(part, argument, owner) for part in value.call)
    try:
        return found(*args, **kwargs)
    except TypeError as error:
        raise CheckpointError(f"{owner}: {argument}={value.shown} cannot be made again: {error}. {instead}") from error


def _is_allowed(found: Any, value: Named) -> bool:
    safe = [one[0] if isinstance(one, tuple) else one for one in torch.serialization.get_safe_globals()]
    if any(found is one for one in safe):
        return True
    if value.call is not None:
        is_make = getattr(found, "__name__", "") == "_make" and issubclass(getattr(found, "__self__", int), tuple)
        return found in _CALLED or is_make
    if isinstance(found, Enum):
        return True
    if isinstance(found, type):
        return issubclass(found, _BASES)
    if isinstance(found, BuiltinFunctionType):
        is_operator = found.__name__ != "from_file" and hasattr(torch._C._VariableFunctions, found.__name__)
        return value.name.startswith("torch.nn.functional:") or (value.name.startswith("torch:") and is_operator)
    return isinstance(found, FunctionType) and found.__module__ in _OF_TORCH


def _teach(saving: Any) -> None:
    """Have Lightning's ``load_from_checkpoint`` look up what a file names."""
    original = getattr(saving, "_load_state", None)
    if original is None or hasattr(original, "_looks_up"):
        return

    @wraps(original)
    def load_state(cls: Any, checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        key = cls.CHECKPOINT_HYPER_PARAMS_KEY
        saved, whole = checkpoint.get(key), checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME)
        if isinstance(saved, dict) and whole not in kwargs:
            found = {name: resolved(item, name, cls.__name__) for name, item in saved.items() if name not in kwargs}
            checkpoint = {**checkpoint, key: found}
        return original(cls, checkpoint, *args, **kwargs)

    load_state._looks_up = True  # type: ignore[attr-defined]
    saving._load_state = load_state
