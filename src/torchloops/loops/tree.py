"""A loop and its children: finding them, walking them, drawing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError

if TYPE_CHECKING:
    from torchloops.loops.loop import Loop

__all__ = ["children_of", "draw_tree", "levels_of", "loops_in", "paths_in"]


def children_of(loop: Loop, only: str | None = None) -> Iterator[tuple[str, Loop]]:
    """``(name, child)`` for the loops in attributes, lists, tuples and dicts of ``loop``.

    A child in a list or dict is named ``attribute.index`` or ``attribute.key``. ``only`` restricts the search
    to one attribute.
    """
    for name, value in list(vars(loop).items()):
        if (only is None or name == only) and not name.startswith("_"):
            yield from _loops_under(name, value)


def _loops_under(name: str, value: Any) -> Iterator[tuple[str, Loop]]:
    from torchloops.loops.loop import Loop

    if isinstance(value, Loop):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _loops_under(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _loops_under(f"{name}.{index}", item)


def loops_in(loop: Loop, _above: tuple[Loop, ...] = ()) -> Iterator[Loop]:
    """``loop`` and all loops below it, top down.

    Raises:
        ConfigurationError: a loop stands below itself.
    """
    if any(loop is other for other in _above):
        path = " -> ".join(type(other).__name__ for other in (*_above, loop))
        raise ConfigurationError(f"A loop cannot stand below itself, but the tree goes {path}. Use a second loop.")
    yield loop
    for _, child in children_of(loop):
        yield from loops_in(child, (*_above, loop))


def levels_of(loop: Loop) -> int:
    """How many loops stand above a `FitLoop`, or above the lowest loop where there is none."""
    from torchloops.loops.fit_loop import FitLoop

    if isinstance(loop, FitLoop):
        return 0
    return 1 + max((levels_of(child) for _, child in children_of(loop)), default=0)


def paths_in(loop: Loop, prefix: str = "") -> Iterator[str]:
    """The dotted paths of all loops below ``loop``."""
    for name, child in children_of(loop):
        yield prefix + name
        yield from paths_in(child, f"{prefix}{name}.")


def draw_tree(loop: Loop, name: str = "") -> str:
    """The tree of loops with their progress, one loop a line."""
    return "\n".join(_lines(loop, name, "", ""))


def _lines(loop: Loop, name: str, first: str, rest: str) -> Iterator[str]:
    progress = loop.progress
    label = f"{name}: {type(loop).__name__}" if name else type(loop).__name__
    state = "running" if progress.running else "idle"
    yield f"{first}{label} ({state}, {progress.current} this run, {progress.total} in all)"
    children = list(children_of(loop))
    for index, (child_name, child) in enumerate(children):
        last = index == len(children) - 1
        yield from _lines(child, child_name, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "))
