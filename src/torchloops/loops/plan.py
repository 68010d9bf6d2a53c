"""What of a loop's hooks there is to call, looked up once a class instead of once a step."""

from __future__ import annotations

import inspect
from typing import Any

from torchloops.hooks import ANY_NUMBER, number_of_parameters

__all__ = ["OPTIONAL_HOOKS", "Plan"]

OPTIONAL_HOOKS = (
    "skip",
    "reset",
    "on_run_start",
    "on_advance_start",
    "on_advance_end",
    "on_run_end",
    "run_context",
)


class Plan:
    """Which optional hooks a loop defines, and how many of the arguments of ``run`` its hooks take."""

    __slots__ = ("advance_start_takes", "advance_takes", "run_start_takes", *OPTIONAL_HOOKS)
    skip: bool
    reset: bool
    run_context: bool
    on_run_start: bool
    on_advance_start: bool
    on_advance_end: bool
    on_run_end: bool

    def __init__(self, loop: Any, base: type) -> None:
        for name in OPTIONAL_HOOKS:
            setattr(self, name, _is_defined(loop, name, base))
        self.advance_takes = _number_of_arguments(loop, "advance")
        self.advance_start_takes = _number_of_arguments(loop, "on_advance_start")
        self.run_start_takes = _number_of_arguments(loop, "on_run_start")


def _is_defined(loop: Any, name: str, base: type) -> bool:
    if not isinstance(loop, type):
        return name in loop.__dict__ or _is_defined(type(loop), name, base)
    return getattr(loop, name) is not getattr(base, name)


def _number_of_arguments(loop: Any, name: str) -> int:
    """Positional arguments the hook takes, ``self`` left out."""
    skip_self = isinstance(loop, type) and not isinstance(inspect.getattr_static(loop, name), staticmethod)
    try:
        return number_of_parameters(getattr(loop, name)) - int(skip_self)
    except (TypeError, ValueError):
        return ANY_NUMBER
