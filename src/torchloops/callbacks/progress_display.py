"""Bars on a terminal, drawn when they are told to and by no thread."""

from __future__ import annotations

from typing import Any

__all__ = ["ProgressDisplay", "start_display"]


class ProgressDisplay:
    """Named bars at the bottom of a terminal, and lines that stay above them.

    Args:
        console: the rich console to draw on.
        leave: leave the bars on the screen when the display stops.
    """

    def __init__(self, console: Any, leave: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _speed_column(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            auto_refresh=False,
            transient=not leave,
        )
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def show(
        self, key: str, description: str, completed: float, total: float | None, info: str = "", unit: str = "it/s"
    ) -> None:
        """Draw a bar; it is added where there is none of that ``key``.

        Args:
            key: identity of the bar.
            description: text before it.
            completed: how much is done.
            total: how much there is; None: unknown.
            info: text after it.
            unit: unit of its speed; empty: the speed is not shown.
        """
        if key not in self._tasks:
            done: Any = completed  # a resumed epoch's bar begins where that goes on
            self._tasks[key] = self._progress.add_task(description, total=total, completed=done, info=info, unit=unit)
        self._progress.update(self._tasks[key], description=description, completed=completed, total=total, info=info)
        self._progress.refresh()

    def restart(self, key: str) -> None:
        """Forget the time and speed of a bar."""
        if key in self._tasks:
            self._progress.reset(self._tasks[key])

    def hide(self, *keys: str) -> None:
        """Take bars away."""
        gone = [self._tasks.pop(key) for key in keys if key in self._tasks]
        for task in gone:
            self._progress.remove_task(task)
        if gone:
            self._progress.refresh()

    def stop(self) -> None:
        """End the display and give the terminal back."""
        self._progress.stop()


def _speed_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        """Iterations a second."""

        def render(self, task: Task) -> Text:
            unit = task.fields["unit"]
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}" if unit and speed else "", style="progress.data.speed")

    return SpeedColumn()


def start_display(console: Any, leave: bool) -> ProgressDisplay | None:
    """A display, or None where the console is no terminal or shows another one already."""
    from rich.errors import LiveError

    if not console.is_interactive:
        return None
    try:
        return ProgressDisplay(console, leave)
    except LiveError:
        return None
