"""The pieces of work that end an epoch: those that were done when a checkpoint was taken are left out later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Ending", "named"]


class Ending:
    """Does pieces of work one after another, and knows which are done; the one that is running counts as done.

    Attributes:
        finished: names of what is done; empty before the first piece and after the last.
    """

    def __init__(self) -> None:
        self.finished: list[str] = []

    def run(self, pieces: Iterable[tuple[str, Callable[[], Any]]]) -> None:
        """Do the pieces, without those that were done before a resume; callbacks may be others since."""
        done = list(self.finished)
        for name, piece in pieces:
            if name in done:
                done.remove(name)
            else:
                self.finished.append(name)
                piece()
        self.finished = []


def named(hooks: Iterable[Callable[..., Any]], prefix: str = "") -> list[tuple[str, Callable[..., Any]]]:
    """Hooks with the names of the classes that they belong to."""
    functions = [(getattr(hook, "func", hook), hook) for hook in hooks]
    return [(prefix + type(getattr(function, "__self__", function)).__qualname__, hook) for function, hook in functions]
