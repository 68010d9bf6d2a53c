"""How far a study has come."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from torchloops.report.folder import RunFolder
from torchloops.schema import COUNT, check

__all__ = ["RoundProgress"]


class RoundProgress:
    """A bar over all rounds of a study, as a callback of its Trainers; nothing where there is no terminal.

    A checkpoint holds how far the bar came in its training, so that a resumed study counts nothing twice.

    Args:
        run: the run to show it for; not shown where it is quiet.
        total: rounds in all.

    Attributes:
        completed: rounds so far, those of earlier trainings included.
    """

    def __init__(self, run: RunFolder, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = run.terminal.is_terminal and not run.quiet
        self._bar = Progress(*columns, console=run.terminal, transient=True, disable=not shown)
        self._task = self._bar.add_task("", total=total)
        self.completed = 0
        self._before = 0  # rounds of earlier trainings

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

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        """Called when a fit begins, and when a run inside it does."""
        if stage == "fit" and not trainer.run_name:
            self._before = self.completed

    def on_round_end(self, trainer: Any, module: Any, row: dict[str, Any]) -> None:
        """Called by an outer loop after a round."""
        self._show(self.completed + 1)

    def _show(self, completed: int) -> None:
        self.completed = completed
        self._bar.update(self._task, completed=completed)

    def state_dict(self) -> dict[str, int]:
        """How far this training has come."""
        return {"completed": self.completed - self._before}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Show the training that goes on, after those before it."""
        check(state, {"completed": COUNT}, "RoundProgress: state")
        self._show(self._before + state["completed"])

    def fresh(self) -> RoundProgress:
        """The same object for inner runs: there is one bar."""
        return self
