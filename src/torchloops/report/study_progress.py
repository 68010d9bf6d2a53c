"""How far a study of folds or of trainings has come."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from torchloops.report.progress import RoundProgress
from torchloops.schema import check

__all__ = ["EpochClock", "StudyProgress"]


class StudyProgress(RoundProgress):
    """A bar over the folds or epochs of a study, and a line that stays for every fold; a callback of its Trainers.

    Args:
        run: the run to show it for; not shown where it is quiet.
        total: folds or epochs in all.
        unit: what the bar counts: "fold" or "epoch".
    """

    def __init__(self, run: Any, total: int, unit: str) -> None:
        super().__init__(run, total)
        self._run, self._unit = run, unit
        self.describe(f"{unit}s")

    def on_fold_end(self, trainer: Any, module: Any, row: dict[str, Any]) -> None:
        """Called by a KFoldLoop after a fold."""
        scores = ", ".join(f"{name} {row[name]:.4f}" for name in ("val/accuracy", "test/accuracy") if name in row)
        self._run.say(f"       fold {row['fold']}: {row['epochs']} epochs, {row['seconds']:.1f} s, {scores}")
        if self._unit == "fold":
            self._show(self.completed + 1)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Called after every epoch."""
        if self._unit == "epoch":
            self._show(self.completed + 1)

    def __reduce__(self) -> Any:
        return _no_progress, ()  # a fold in another process has no terminal


def _no_progress() -> Any:
    from torchloops.callbacks import Callback

    return Callback()


class EpochClock:
    """A callback that times the epochs of a training, with validation between them, and not what comes before.

    A checkpoint holds the time so far: the time between a cut and the resumed run does not count.

    Attributes:
        seconds: between the start and the end of training.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._before = 0.0  # seconds of the run that this one resumes
        self._start: float | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Called before the first epoch."""
        self._start = perf_counter()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Called after the last epoch."""
        self.seconds = self._so_far()

    def _so_far(self) -> float:
        return self._before + (0.0 if self._start is None else perf_counter() - self._start)

    def state_dict(self) -> dict[str, float]:
        """Seconds so far."""
        return {"seconds": self._so_far()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Count on."""
        check(state, {"seconds": float}, "The clock: state")
        self._before = state["seconds"]
