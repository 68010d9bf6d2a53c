"""Telling a loop's own ``StopIteration`` from one that leaked out of a user's code."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["refuse_leaked_stop"]

_DATA_METHODS = {"__getitem__", "__getitems__"}


def refuse_leaked_stop(stop: StopIteration, loop: Any) -> None:
    """Raise if ``stop`` passed through a module, a callback, a data set or a whole other loop on its way to ``loop``.

    Called only when an iteration ended by ``StopIteration``, so an iteration pays nothing for it.

    Raises:
        RuntimeError: a bare ``next()`` ran out of items in code that is not a loop, or in a hook of an inner loop
            where that does not mean its end.
    """
    culprit, leaked = "", False
    for frame, line in traceback.walk_tb(stop.__traceback__):
        owner, function = frame.f_locals.get("self"), frame.f_code.co_name
        name = f"{type(owner).__name__}.{function} (line {line})"
        if owner is None or owner is loop:
            continue
        if _is_a(owner, "Loop"):
            culprit, leaked = name, leaked or function == "run"
        elif _is_user_code(owner, function):
            culprit, leaked = name, True
            break
    if not leaked:
        return
    raise RuntimeError(
        f"{culprit} raised StopIteration, which would have ended {type(loop).__name__} without a word. A bare next() "
        "ran out of items: give it a default, next(iterator, None), or catch StopIteration."
    ) from stop


def _is_user_code(owner: Any, function: str) -> bool:
    return function in _DATA_METHODS or _is_a(owner, "Module", "Callback", "DataModule", "LightningDataModule")


def _is_a(owner: Any, *names: str) -> bool:
    return any(base.__name__ in names for base in type(owner).__mro__)
