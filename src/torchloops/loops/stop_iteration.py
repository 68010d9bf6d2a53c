"""Telling a loop's own ``StopIteration`` from one that leaked out of a user's code."""

from __future__ import annotations

import traceback
from typing import Any

__all__ = ["refuse_leaked_stop"]

_DATA_METHODS = {"__getitem__", "__getitems__"}


def refuse_leaked_stop(stop: StopIteration, loop: Any) -> None:
    """Raise if ``stop`` passed through a module, a callback or a data set on its way to ``loop``.

    Called only when an iteration ended by ``StopIteration``, so an iteration pays nothing for it.

    Raises:
        RuntimeError: a bare ``next()`` in code that is not a loop ran out of items.
    """
    for frame, line in traceback.walk_tb(stop.__traceback__):
        owner = frame.f_locals.get("self")
        if owner is loop or not _is_user_code(owner, frame.f_code.co_name):
            continue
        name = f"{type(owner).__name__}.{frame.f_code.co_name}"
        raise RuntimeError(
            f"{name} (line {line}) raised StopIteration, which would have ended {type(loop).__name__} without a "
            "word. A bare next() ran out of items: give it a default, next(iterator, None), or catch StopIteration."
        ) from stop


def _is_user_code(owner: Any, function: str) -> bool:
    if owner is None:
        return False
    if function in _DATA_METHODS:
        return True
    return any(
        base.__name__ in ("Module", "Callback", "DataModule", "LightningDataModule") for base in type(owner).__mro__
    )
