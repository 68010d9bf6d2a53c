"""How far a study has come."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from torchloops.report.folder import RunFolder

__all__ = ["RoundProgress"]


class RoundProgress:
    """A bar over all rounds of a study, as a callback of its Trainers; nothing where there is no terminal.

    Args:
        run: the run to show it for; not shown where it is quiet.
        total: rounds in all.
    """

    def __init__(self, run: RunFolder, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = run.terminal.is_terminal and not run.quiet
        self._bar = Progress(*columns, console=run.terminal, transient=True, disable=not shown)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> RoundProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def describe(self, what: str) -> None:
        """Say what the next rounds belong to."""
        self._bar.update(self._task, description=what)

    def on_round_end(self, trainer: Any, module: Any, row: dict[str, Any]) -> None:
        """Called by an outer loop after a round."""
        self._bar.advance(self._task)

    def fresh(self) -> RoundProgress:
        """The same object for inner runs: there is one bar."""
        return self
