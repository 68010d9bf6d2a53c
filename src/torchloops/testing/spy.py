"""Watching a loop: which of its hooks run, in which order, and what its state is in the middle of a run."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from torchloops.loops import Loop

__all__ = ["DOCUMENTED_ORDER", "Spy", "misplaced_end"]

DOCUMENTED_ORDER = (
    "skip, reset, on_run_start, then while not done: on_advance_start, advance, on_advance_end; at the end on_run_end"
)
_LETTERS = {
    "skip": "S", "on_skip": "K", "reset": "R", "on_run_start": "B", "done": "D", "on_advance_start": "A",
    "advance": "V", "on_advance_end": "Z", "on_run_end": "E",
}  # fmt: skip


class Spy:
    """Writes down the hooks of one loop, which does what it did before.

    Args:
        loop: the loop to watch.
        keep_state: take the state of the loop when ``done`` is asked after the first iteration.

    Attributes:
        runs: the names of the hooks of each finished run.
        running: a run has begun and has not ended.
        state: what ``state_dict`` returned in the middle of a run, or None.
    """

    def __init__(self, loop: Loop, keep_state: bool = False) -> None:
        self.runs: list[list[str]] = []
        self.running = False
        self.state: dict[str, Any] | None = None
        self._calls: list[str] = []
        self._wants_state = keep_state
        self._watched = set(_defined(type(loop)))
        object.__setattr__(loop, "__class__", self._subclass(type(loop)))

    def wrong_run(self) -> list[str] | None:
        """The hooks of a run that were not in the documented order; None where all were."""
        pattern = _pattern(self._watched)
        for names in self.runs:
            if not pattern.fullmatch("".join(_LETTERS[name] for name in names)):
                return names
        return None

    def _subclass(self, cls: type[Loop]) -> type[Loop]:
        members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        for name in self._watched:
            member = inspect.getattr_static(cls, name)
            if isinstance(member, property):
                members[name] = property(self._noting(name, member.fget), member.fset)
            else:
                members[name] = self._noting(name, member)
        members["run"] = self._noting_runs(cls.run)
        metaclass: Any = type(cls)
        return metaclass(cls.__name__, (cls,), members)

    def _noting(self, name: str, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def noting(loop: Any, *args: Any, **kwargs: Any) -> Any:
            if self.running:
                self._calls.append(name)
                if name == "done" and self._wants_state and loop.progress.current:
                    self._wants_state, self.state = False, loop.state_dict()
            return function(loop, *args, **kwargs)

        return noting

    def _noting_runs(self, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(loop: Any, *args: Any, **kwargs: Any) -> Any:
            if self.running:  # a run in a context calls itself
                return function(loop, *args, **kwargs)
            self.running, self._calls = True, []
            try:
                output = function(loop, *args, **kwargs)
                self.runs.append(self._calls)
                return output
            finally:
                self.running = False

        return run


def _defined(cls: type[Loop]) -> list[str]:
    """The hooks that a class of loops defines, and that can be watched."""
    found = []
    for name in _LETTERS:
        member = inspect.getattr_static(cls, name)
        differs = member is not inspect.getattr_static(Loop, name)
        if differs and (isinstance(member, property) or inspect.isfunction(member)):
            found.append(name)
    return found


def _pattern(defined: set[str]) -> re.Pattern[str]:
    """What the letters of a run look like; ``done`` and ``skip`` may be asked more often."""
    part = {name: f"{letter}[DS]*" if name in defined else "" for name, letter in _LETTERS.items()}
    start = part["skip"] + part["reset"] + part["on_run_start"]
    begin = part["done"] + part["on_advance_start"]
    iteration = f"(?:{begin}{part['advance']}{part['on_advance_end']})*"
    cut = f"(?:{part['done']}(?:{part['on_advance_start']}(?:{part['advance']})?)?)?"  # by StopIteration, or by done
    skipped = f"|{part['skip']}{part['on_skip']}" if part["skip"] else ""
    return re.compile(f"{start}{iteration}{cut}{part['on_run_end']}{skipped}")


def misplaced_end(calls: list[str]) -> str | None:
    """What is wrong with hooks of callbacks: an ``..._end`` that ends nothing, or a ``..._start`` without its end.

    Pairs of batches and epochs may stay open, as where a loop raised StopIteration: the end of one around closes them.
    """
    open_ones: list[str] = []
    for name in calls:
        stem, _, edge = name.rpartition("_")
        if edge == "start":
            open_ones.append(stem)
        elif edge == "end":
            if stem not in open_ones:
                return f"{name} came without {stem}_start before it"
            while (last := open_ones.pop()) != stem:
                if not last.endswith(("_batch", "_epoch")):
                    return f"{last}_start came without {last}_end before {name}"
    return f"{open_ones[-1]}_start came without {open_ones[-1]}_end after it" if open_ones else None
