"""Values of attributes as plain data, and back: what a checkpoint can hold of loops, modules and data."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from datetime import date, datetime, timedelta
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from torchloops.errors import TorchloopsError
from torchloops.seeding import generator_state, is_generator, restore_generator

__all__ = ["NotPlainError", "decode", "encode", "mark", "mark_or_identity", "register_kind"]

_KIND = "torchloops.kind"
_DEEPEST = 60
_AS_THEY_ARE = (bool, int, float, str, bytes, type(None), torch.Size, torch.dtype, torch.device)
_FACTORIES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, set)}
_marking: ContextVar[bool] = ContextVar("marking", default=False)
_LIBRARIES = frozenset(("torch", "torchloops", "torchvision", "lightning", "lightning_fabric", "pytorch_lightning"))
_LARGE = 1 << 26  # bytes of an array; of larger ones every so many are looked at


class NotPlainError(TorchloopsError, TypeError):
    """A value cannot be made plain data."""


class _Kind:
    """How values of a type are made plain, and made again."""

    def __init__(self, type_: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any]) -> None:
        self.type, self.to_plain, self.from_plain = type_, to_plain, from_plain


_kinds: dict[str, _Kind] = {}


def register_kind(type_: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any]) -> None:
    """Have values of a type saved as plain data.

    Args:
        type_: the type, subclasses left out.
        to_plain: makes a value of it into lists, dicts and the like, which are encoded in turn.
        from_plain: makes the value again.
    """
    _kinds[type_.__name__] = _Kind(type_, to_plain, from_plain)


def encode(value: Any, copy: bool = False, objects: bool = False) -> Any:
    """``value`` as plain data that `decode` makes the same value of.

    Numbers, text, tensors, arrays, random generators, times, paths, and lists, tuples, sets, dicts and deques of them;
    objects with ``state_dict`` and ``load_state_dict`` by their state; and what `register_kind` was told of.

    Args:
        copy: clone tensors, so that they stay what they are now.
        objects: take other objects by their attributes; `decode` puts these back into the object that is there.

    Raises:
        NotPlainError: something in it is of another type.
    """
    return _encode(value, copy, _DEEPEST, objects)


def _encode(value: Any, copy: bool, depth: int, objects: bool) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if not depth:
        raise NotPlainError(f"{kind.__name__} holds itself, or is nested more than {_DEEPEST} deep")
    if isinstance(value, torch.Tensor) and kind in (torch.Tensor, torch.nn.Parameter):
        return value.detach().clone() if copy else value.detach()

    def inside(items: Any) -> list[Any]:
        return [_encode(item, copy, depth - 1, objects) for item in items]

    if kind in (list, tuple):
        return kind(inside(value))
    if kind in (dict, OrderedDict, Counter):
        keys, items = inside(value), inside(value.values())
        if _KIND not in value and all(isinstance(key, str | int | float | bool | tuple | type(None)) for key in keys):
            return kind(zip(keys, items, strict=True))
        return _tagged("dict", [keys, items])
    if kind in (set, frozenset):
        return _tagged(kind.__name__, sorted(inside(value), key=repr))
    if kind is deque:
        return _tagged("deque", [inside(value), value.maxlen])
    if kind is defaultdict and (value.default_factory is None or value.default_factory in _FACTORIES.values()):
        factory = getattr(value.default_factory, "__name__", None)
        return _tagged("defaultdict", [factory, inside(value), inside(value.values())])
    if is_generator(value):
        return _tagged("generator", [_name_of_generator(value), generator_state(value)])
    found = _kinds.get(kind.__name__)
    if found is not None and kind is found.type:
        return _tagged(kind.__name__, _encode(found.to_plain(value), False, depth - 1, objects))
    if isinstance(value, PurePath):
        return _tagged("path", str(value))
    if isinstance(value, np.generic) or (kind is np.ndarray and not value.dtype.hasobject):
        return _tagged(
            "array" if kind is np.ndarray else "numpy", _bytes_of(np.asarray(value), whole=not _marking.get())
        )
    if not isinstance(value, type) and _has_state(value):
        return _tagged("state", _encode(value.state_dict(), copy, depth - 1, objects))
    if objects and hasattr(value, "__dict__") and not isinstance(value, type | ModuleType | FunctionType | MethodType):
        if kind.__module__.partition(".")[0] in _LIBRARIES:
            raise NotPlainError(f"it holds a {_name_of_class(value)}")
        return _tagged(_name_of_class(value), _encode(vars(value), copy, depth - 1, objects))
    raise NotPlainError(f"it holds a {_name_of_class(value)}".replace("builtins.", ""))


def decode(encoded: Any, present: Any = None) -> Any:
    """The value that `encode` was given.

    Args:
        encoded: what `encode` returned; it stays as it is.
        present: what stands in its place now. A generator, a parameter, a collection, or an object with a state is
            given the saved content and returned, so that others who hold it see it too.

    Raises:
        NotPlainError: an object with a state was saved, and none like it is there.
    """
    if isinstance(encoded, torch.Tensor) and isinstance(present, torch.nn.Parameter) and present.shape == encoded.shape:
        with torch.no_grad():
            return present.copy_(encoded)  # an optimizer may have it
    if isinstance(encoded, torch.Tensor):
        return encoded.clone().to(present.device) if isinstance(present, torch.Tensor) else encoded.clone()
    value: Any
    if isinstance(encoded, dict) and _KIND in encoded:
        value = _decode_tagged(encoded[_KIND], encoded["value"], present)
    elif isinstance(encoded, dict):
        beside = present if isinstance(present, dict) else {}
        pairs = ((decode(key), item) for key, item in encoded.items())
        value = type(encoded)((key, decode(item, beside.get(key))) for key, item in pairs)
    elif isinstance(encoded, list | tuple) and not isinstance(encoded, torch.Size):
        same = isinstance(present, list | tuple) and len(present) == len(encoded)
        value = type(encoded)(decode(item, present[n] if same else None) for n, item in enumerate(encoded))
    else:
        return encoded
    return _filled(present, value)


def _decode_tagged(kind: str, value: Any, present: Any) -> Any:
    if kind == "generator":
        name, state = value
        generator = present if is_generator(present) and _name_of_generator(present) == name else _new_generator(name)
        restore_generator(generator, state)
        return generator
    if kind == "state":
        if not _has_state(present):
            raise NotPlainError("an object whose state was saved is not there")
        present.load_state_dict(decode(value))
        return present
    if kind in ("array", "numpy"):
        array = np.frombuffer(bytes(value["bytes"]), dtype=value["type"]).reshape(value["shape"]).copy()
        return array if kind == "array" else array[()]
    if kind == "path":
        return PurePath(value) if present is None else type(present)(value)
    if kind in _kinds:
        return _kinds[kind].from_plain(decode(value))
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](decode(value))
    if kind != _name_of_class(present):
        raise NotPlainError(f"a {kind} was saved and is not there")
    for name, item in value.items():
        setattr(present, name, decode(item, getattr(present, name, None)))
    return present


_COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda value: dict(zip(*value, strict=True)),
    "set": set,
    "frozenset": frozenset,
    "deque": lambda value: deque(value[0], value[1]),
    "defaultdict": lambda value: defaultdict(_FACTORIES.get(value[0]), zip(value[1], value[2], strict=True)),
}


def _filled(present: Any, value: Any) -> Any:
    """``present`` with the content of ``value``, where both are collections that can be changed; else ``value``."""
    if present is value or type(present) is not type(value) or not isinstance(value, list | dict | set | deque):
        return value
    if isinstance(value, deque) and value.maxlen != present.maxlen:
        return value
    present.clear()
    (present.extend if isinstance(value, list | deque) else present.update)(value)
    return present


class _Marker(pickle.Pickler):
    """Pickles plain data without regard to which parts are the same object; tensors by a hash of them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str, (f"{value.dtype}{tuple(value.shape)}", _hash_of_tensor(value))
        return NotImplemented


class _Hashing:
    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def mark(value: Any) -> str:
    """A short text that changes with the content of a value, in any process; objects count by their attributes.

    Raises:
        NotPlainError: it cannot be looked into.
    """
    stream = _Hashing()
    pickler = _Marker(stream, protocol=4)
    pickler.fast = True
    token = _marking.set(True)
    try:
        pickler.dump(_encode(value, False, _DEEPEST, True))
    finally:
        _marking.reset(token)
    return stream.hash.hexdigest()


def mark_or_identity(value: Any) -> Any:
    """Something that is another where a value is another: itself for a number or text, else a `mark` or an identity."""
    if type(value) in _AS_THEY_ARE:
        return type(value), value
    try:
        return mark(value)
    except (NotPlainError, TypeError, AttributeError, ValueError, RuntimeError):
        return "identity", id(value)


def _hash_of_tensor(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(_looked_at(flat), digest_size=16).hexdigest()


def _looked_at(flat: np.ndarray) -> Any:
    step = -(-flat.nbytes // _LARGE) if flat.nbytes > _LARGE else 1
    return np.ascontiguousarray(flat[::step]).data


def _bytes_of(array: np.ndarray, whole: bool) -> dict[str, Any]:
    """An array as plain data; not whole: to compare it with, large ones by some of their bytes."""
    flat = np.frombuffer(array.tobytes(), dtype=np.uint8) if array.nbytes <= _LARGE or whole else _raw(array)
    data = bytearray(flat if whole else _looked_at(flat))
    return {"bytes": data, "type": array.dtype.str, "shape": list(array.shape)}


def _raw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _tagged(kind: str, value: Any) -> dict[str, Any]:
    return {_KIND: kind, "value": value}


def _name_of_class(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _has_state(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _name_of_generator(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return f"torch {generator.device}"
    if isinstance(generator, np.random.Generator):
        return f"numpy {type(generator.bit_generator).__name__}"
    return "numpy RandomState" if isinstance(generator, np.random.RandomState) else "random"


def _new_generator(name: str) -> Any:
    library, _, what = name.partition(" ")
    if library == "torch":
        return torch.Generator(what)
    if library == "random":
        return random.Random()
    made = getattr(np.random, what)()
    return made if what == "RandomState" else np.random.Generator(made)


register_kind(datetime, datetime.isoformat, datetime.fromisoformat)
register_kind(date, date.isoformat, date.fromisoformat)
register_kind(timedelta, lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts))
register_kind(complex, lambda value: [value.real, value.imag], lambda pair: complex(*pair))
register_kind(range, lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts))
register_kind(slice, lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts))
