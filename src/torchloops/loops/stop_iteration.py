"""Telling a loop's own ``StopIteration`` from one that leaked out of a user's code."""

from __future__ import annotations

import traceback
from types import FrameType
from typing import Any

__all__ = ["refuse_leaked_stop"]

_MACHINERY = (
    "torch.utils.data.",
    "torchloops.loops.",
    "torchloops.trainer.",
    "torchloops.advanced.",
    "lightning_fabric.",
)


def refuse_leaked_stop(stop: StopIteration, loop: Any) -> None:
    """Raise unless ``stop`` comes from ``loop`` itself or from an iterator that it asked for the next item.

    Called only when an iteration ended by ``StopIteration``, so an iteration pays nothing for it.

    Raises:
        RuntimeError: it passed through something else: a module, a callback, a data set, a function, or the hooks
            of another loop, where a bare ``next()`` ran out of items.
    """
    for frame, line in traceback.walk_tb(stop.__traceback__):
        owner, module = _first_argument(frame), frame.f_globals.get("__name__", "")
        function = frame.f_code.co_name
        if owner is loop or function.startswith("<"):
            continue
        is_machinery = f"{module}.".startswith(_MACHINERY)
        if function == "__next__" and not is_machinery:
            return
        if is_machinery and not (_is_loop(owner) and function == "run"):
            continue
        name = _deepest_hook(stop, owner) if _is_loop(owner) else _name_of(frame, owner)
        raise RuntimeError(
            f"{name} (line {line}) raised StopIteration, which would have ended {type(loop).__name__} without a word. "
            "A bare next() ran out of items: give it a default, next(iterator, None), or catch StopIteration."
        ) from stop


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _name_of(frame: FrameType, owner: Any) -> str:
    code = frame.f_code
    is_method = code.co_argcount > 0 and (code.co_varnames[0] == "self" or hasattr(type(owner), code.co_name))
    return f"{type(owner).__name__}.{code.co_name}" if is_method else code.co_name


def _is_loop(owner: Any) -> bool:
    return any(base.__name__ == "Loop" for base in type(owner).__mro__)


def _deepest_hook(stop: StopIteration, loop: Any) -> str:
    """The method of ``loop`` in which ``stop`` came up."""
    names = [f.f_code.co_name for f, _ in traceback.walk_tb(stop.__traceback__) if _first_argument(f) is loop]
    return f"{type(loop).__name__}.{names[-1]}"
