"""What a file should hold, described as data, and one message where it holds something else.

A description is one of:

    int, float, bool, str, list, torch.Tensor, int | None ...   a type; a bool is no int, and an int is a float too
    COUNT, Whole(1, 8)                                          a whole number within bounds
    Either({...}, None)                                         one of several
    [COUNT]                                                     a list or tuple of any length
    (int, bool)                                                 one of this length
    {"epoch": COUNT, "seed?": int}                              names; one with "?" may be missing, others may be there
    {str: COUNT}                                                any names, values alike
    function                                                    of the value; returns what is wrong, or None
    Any                                                         anything
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from torchloops.errors import DamagedCheckpointError

__all__ = ["COUNT", "Either", "Whole", "check", "check_size", "problem", "read_json", "scalar"]

MAX_DEPTH = 64
MAX_ENTRIES = 50_000_000
_MAX_BYTES = 1 << 30  # that a tensor may seem to hold beyond what it does, as one that is expanded


@dataclass(frozen=True)
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int = 1 << 53

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


COUNT = Whole(0)


class Either:
    """One of several descriptions; what is wrong is said of the first."""

    def __init__(self, *choices: Any) -> None:
        self.choices = choices


def check(
    value: Any,
    schema: Any,
    what: str,
    error: Callable[[str], Exception] = DamagedCheckpointError,
    advice: str = "It was edited or is damaged: take the checkpoint before it, or a copy.",
) -> None:
    """Refuse a value that is not as described.

    Args:
        value: plain data.
        schema: its description.
        what: how the message calls it.
        error: what is raised.
        advice: what to do, at the end of the message.
    """
    wrong = problem(value, schema)
    if wrong is not None:
        raise error(f"{what}{wrong}. {advice}")


def problem(value: Any, schema: Any) -> str | None:
    """What is wrong with a value, with the path to it: ``.epoch should be a whole number, and is 'abc'``; or None."""
    if schema is Any:
        return None
    if isinstance(schema, Either):
        found = [problem(value, choice) for choice in schema.choices]
        return None if None in found else found[0]
    if isinstance(schema, Whole):
        return None if _is(value, int) and schema.least <= value <= schema.most else _should_be(str(schema), value)
    if isinstance(schema, dict):
        return _problem_of_mapping(value, schema)
    if isinstance(schema, list | tuple):
        return _problem_of_list(value, schema)
    if schema is None or isinstance(schema, type | UnionType):
        kinds = schema.__args__ if isinstance(schema, UnionType) else (NoneType if schema is None else schema,)
        names = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds)
        return None if any(_is(value, kind) for kind in kinds) else _should_be(names, value)
    wrong = schema(value)
    return None if wrong is None else f" {wrong}"


_NAMES: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a mapping",
    NoneType: "nothing",
}  # fmt: skip


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)


def _should_be(what: str, value: Any) -> str:
    return f" should be {what}, and is {_short(value)}"


def _short(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return reprlib.repr(value)


def scalar(value: Any) -> str | None:
    """A description: a number, or a tensor of one element."""
    is_one = value.numel() == 1 if hasattr(value, "numel") else isinstance(value, int | float)
    return None if is_one else _should_be("a number", value).strip()


def _problem_of_mapping(value: Any, schema: dict[Any, Any]) -> str | None:
    if not isinstance(value, Mapping):
        return _should_be("a mapping", value)
    if str in schema:
        for name, item in value.items():
            wrong = _should_be("text", name) if not isinstance(name, str) else problem(item, schema[str])
            if wrong is not None:
                return f"[{_short(name)}]{wrong}"
        return None
    for name, description in schema.items():
        key = name.removesuffix("?")
        if key not in value:
            if key == name:
                return f" lacks {key!r}"
        elif (wrong := problem(value[key], description)) is not None:
            return f".{key}{wrong}"
    return None


def _problem_of_list(value: Any, schema: list[Any] | tuple[Any, ...]) -> str | None:
    if not isinstance(value, list | tuple):
        return _should_be("a list", value)
    if isinstance(schema, tuple) and len(value) != len(schema):
        return _should_be(f"a list of {len(schema)}", value)
    descriptions = schema if isinstance(schema, tuple) else schema * len(value)
    for index, (item, description) in enumerate(zip(value, descriptions, strict=True)):
        if (wrong := problem(item, description)) is not None:
            return f"[{index}]{wrong}"
    return None


# size


def check_size(value: Any) -> str | None:
    """What is wrong with the size of plain data that was read, or None: too deep, or a small file that unfolds to much.

    Lists that hold one list many times, and tensors that repeat a few numbers, take no space in a file.
    """
    sizes: dict[int, tuple[int, int]] = {}  # height and number of entries by id, of what was looked at

    def measure(part: Any, depth: int) -> tuple[int, int]:
        if id(part) in sizes:
            height, entries = sizes[id(part)]
        else:
            if depth > MAX_DEPTH:
                raise _TooLargeError(f"is nested deeper than {MAX_DEPTH} levels")
            height, entries = 0, len(part)
            for item in (*part, *part.values()) if isinstance(part, dict) else part:
                if isinstance(item, _CONTAINERS):
                    below, number = measure(item, depth + 1)
                    height, entries = max(height, below + 1), entries + number
                elif hasattr(item, "untyped_storage"):
                    _check_tensor(item)
            sizes[id(part)] = height, entries
        if depth + height > MAX_DEPTH or entries > MAX_ENTRIES:
            raise _TooLargeError(f"is nested deeper than {MAX_DEPTH} levels, or has more than {MAX_ENTRIES} entries")
        return height, entries

    try:
        measure([value], 0)
    except _TooLargeError as error:
        return str(error)
    return None


class _TooLargeError(Exception):
    pass


_CONTAINERS = (dict, list, tuple, set)


def _check_tensor(tensor: Any) -> None:
    if tensor.is_sparse or tensor.layout != _strided() or tensor.device.type == "meta":
        return
    seeming, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if seeming > held + _MAX_BYTES:
        raise _TooLargeError(f"has a tensor of shape {tuple(tensor.shape)} that repeats the {held} bytes it holds")


def _strided() -> Any:
    import torch

    return torch.strided


# JSON


def read_json(path: Path, schema: Any, error: Callable[[str], Exception], advice: str) -> Any:
    """Read a JSON file that is as described.

    Args:
        path: the file.
        schema: what it should hold.
        error: what is raised where it is no JSON, or holds something else.
        advice: what to do, at the end of the message.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{path} is damaged, it is no JSON: {reason}. {advice}") from reason
    check(value, schema, str(path), error, advice)
    return value
