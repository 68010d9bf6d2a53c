"""Keeper: what a fit leaves on the disk so that it can go on after any end."""

from __future__ import annotations

import logging
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch

from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.loops import EvaluationEpochLoop, FitLoop, Loop, PredictionEpochLoop, TrainingEpochLoop
from torchloops.loops.tree import children_of, loops_in
from torchloops.signals import signals_to
from torchloops.trainer.checkpoint import collect_checkpoint
from torchloops.trainer.checkpoint_file import previous_path, write_checkpoint

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle

__all__ = ["Keeper", "SavingInterval"]

_log = logging.getLogger("torchloops")
_UNITS = {"step": "steps", "epoch": "epochs", "second": "seconds", "minute": "minutes", "hour": "hours"}
_SHARE = 50  # by default, saving takes at most one part in so many of the time,
_SHARE_ASKED = 25  # also where a loop asks for it; what a kill then loses takes less time than so many saves,
_LONGEST = 60.0  # and so many seconds of an epoch are lost at most
_AGREE_EVERY = 20  # batches between two agreements of several processes


@dataclass(frozen=True)
class SavingInterval:
    """How often a fit saves: after so many optimizer steps, epochs or seconds; all None: by the share of time."""

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, value: Any) -> SavingInterval:
        """The interval that ``checkpoint_every`` says.

        Raises:
            ConfigurationError: it is none.
        """
        if value is None:
            return cls()
        if isinstance(value, timedelta):
            return cls(seconds=value.total_seconds())
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+?)s?\s*", value) if isinstance(value, str) else None
        unit = _UNITS.get(match[2]) if match else None
        if match is None or unit is None or (unit in ("steps", "epochs") and not match[1].isdigit()):
            raise ConfigurationError(
                'checkpoint_every is a number and a unit, such as "100 steps", "1 epoch", "30 seconds" or "5 minutes", '
                f"or a timedelta; got {value!r}."
            )
        if unit in ("steps", "epochs"):
            if int(match[1]) < 1:
                raise ConfigurationError(f"checkpoint_every={value!r}: steps and epochs are 1 or more.")
            return cls(**{unit: int(match[1])})
        return cls(seconds=timedelta(**{unit: float(match[1])}).total_seconds())


class Keeper:
    """Writes ``checkpoints/last.ckpt`` at the safe points of a fit: when due, when asked to, and after a signal.

    A safe point is the end of a batch, an epoch, or an iteration of an outer loop: there, all that a run is made of
    lies in the state of the loops and the Trainer. The file before is kept as ``last.previous.ckpt``.

    Args:
        trainer: the Trainer whose fits are kept.
        interval: how often to save.
        enabled: False: write nothing and leave signals alone.

    Attributes:
        folder: where a fit keeps its checkpoints that is a part of another process's run; None: the run's folder.
        path: the file of the current or last fit; None before the first.
        saves: how many files were written in it.
        seconds: time that they took.
    """

    def __init__(self, trainer: Lifecycle, interval: SavingInterval, enabled: bool) -> None:
        self.trainer = trainer
        self.interval = interval
        self.enabled = enabled
        self.folder: Path | None = None
        self.path: Path | None = None
        self._begin()

    def _begin(self) -> None:
        self._handlers: dict[int, Any] = {}
        self.saves, self.seconds = 0, 0.0
        self._keeps = False
        self._asked = self._has_changed = self._has_moved = self._is_at_end = False
        self._signal = self._heeded = 0  # the one that came; the one that all processes end by at this safe point
        self._indivisible = 0
        self._points = self._epochs = self._steps = self._steps_before = 0
        self._next_asked = 0.0
        self._counted_run: Any = None
        self._cut_epoch: int | None = None  # counted from 1; the file holds the fit before this one was closed
        self._set_next_time(monotonic() + (self.interval.seconds or 0.0))

    # the fit

    @contextmanager
    def keeping(self, folder: Path, resumed: bool) -> Iterator[None]:
        """A context around the loops of a fit.

        Args:
            folder: of the run.
            resumed: the fit goes on with a checkpoint; else a file of an earlier run becomes ``earlier.ckpt``.
        """
        self.path = folder / "checkpoints" / "last.ckpt"
        self._begin()
        if not self.enabled:
            yield
            return
        if not resumed and self.trainer.is_global_zero:
            self._set_aside(self.path)
        self._count_steps()
        self._steps = 0
        self.attach()
        self._keeps = True
        try:
            with signals_to(self._take_signal) as self._handlers:
                yield
            if self._signal and not self._heeded:  # it came after the last safe point
                self._heeded = self._signal
                self._interrupt()
        finally:
            self._keeps = False
            for loop in self._all_loops():
                loop.__dict__["_after_advance"] = loop.__dict__["_before_end"] = None

    def attach(self) -> None:
        """Have the loops call `safe_point` where they are at one; those that came in meanwhile too."""
        top = self.trainer.fit_loop
        self.trainer.watch_loops()
        alone = self.trainer.world_size == 1  # processes may have different numbers of batches to evaluate
        points = {loop: "batch" for loop in self._all_loops() if alone and _resumes_inside(loop)}
        points |= {top: "epoch", **dict(_points_of(top))}
        for loop, level in points.items():
            point = self._after_batch if level == "batch" else partial(self.safe_point, level)
            loop.__dict__["_after_advance"] = point
        top.__dict__["_before_end"] = self._save_at_end
        if isinstance(top, FitLoop) and isinstance(top.epoch_loop, TrainingEpochLoop):
            top.epoch_loop.__dict__["_before_end"] = self._save_cut_epoch

    def _all_loops(self) -> list[Loop]:
        return [part for loop in self.trainer._loops.values() for part in loops_in(loop)]

    # saving

    def _after_batch(self) -> None:
        """A safe point after a batch; a step can afford a look at the clock."""
        self._has_changed = self._has_moved = True
        if monotonic() >= self._batch_time:
            self.safe_point("batch")

    def safe_point(self, level: str = "batch") -> None:
        """Save if it is due: called by loops after a "batch", an "epoch" or a "round" (an outer loop's iteration)."""
        if not self._keeps or self._indivisible:
            return
        self._has_changed = self._has_moved = True
        if level != "batch":
            self.attach()
        if self._is_due(level):
            self.save()
            if self._heeded:
                self._interrupt()

    def ask(self) -> None:
        """Have the next safe point save; not where by the share of time little has been done since the last save."""
        if monotonic() < self._next_asked:
            return
        self._asked = True
        self._batch_time = 0.0

    @contextmanager
    def indivisible(self) -> Iterator[None]:
        """A context for work that is done again from its beginning after a resume.

        It saves first; inside no safe point saves, and a signal interrupts at once.
        """
        if not self._indivisible:
            self.ask()
            self.safe_point("round")
        self._indivisible += 1
        try:
            yield
        finally:
            self._indivisible -= 1

    def save(self) -> None:
        """Write the current state; a disk that cannot take it is warned about."""
        if self._is_held:
            return
        start = monotonic()
        try:
            checkpoint = collect_checkpoint(self.trainer)
            if self.trainer.is_global_zero and self.path is not None:
                write_checkpoint(checkpoint, self.path, keep_previous=True)
                self.saves += 1
            self._has_changed = False  # what could not be written is tried again at the end
        except (CheckpointError, OSError) as error:
            self._warn(error)
        self.trainer.engine.barrier()
        now = monotonic()
        self.seconds += now - start
        seconds = self.interval.seconds
        self._set_next_time(now + (_SHARE * (now - start) if seconds is None else seconds))
        self._next_asked = now + _SHARE_ASKED * (now - start) if self.interval == SavingInterval() else 0.0
        self._asked = False
        self._steps = self._epochs = 0

    def save_after_interrupt(self) -> None:
        """Save at the end of a batch that a hook interrupts. Elsewhere the file before stays: a hook was half done."""
        alone = self.trainer.world_size == 1  # others would have to save too, and may go on
        if self._keeps and alone and not self._signal and not self._indivisible:
            self.save()

    def _save_at_end(self) -> None:
        """Save before the outermost loop ends, so that a resumed run can be extended, and after what its end ran."""
        goes_on_inside = bool(self.trainer._resumed)  # what the end ran was cut, and is entered again by it
        is_new = self._has_changed or (self._has_moved and self._is_at_end)
        if is_new and not self._indivisible and not goes_on_inside:
            self.save()
        self._is_at_end, self._has_moved = True, goes_on_inside

    def _save_cut_epoch(self) -> None:
        """Save before an epoch that a limit has cut is closed, so that a run with a higher limit can finish it."""
        top: Any = self.trainer.fit_loop
        if top.epoch_loop.is_cut and self._cut_epoch != top.progress.total + 1:
            self.save()
            if not self._has_changed:
                self._cut_epoch = top.progress.total + 1

    @property
    def _is_held(self) -> bool:
        """Whether the file is to stay: it holds the fit before a cut epoch was closed, and no epoch has begun since."""
        top: Any = self.trainer.fit_loop
        return self._cut_epoch == top.progress.total and not top.epoch_loop.progress.running

    # when

    def _is_due(self, level: str) -> bool:
        counted = self._is_counted(level)
        signal_taken = self._signal
        wanted = counted or self._asked or bool(signal_taken) or self._is_time(level)
        if self.trainer.world_size > 1:
            return self._agree(wanted, signal_taken, now=counted or level != "batch")
        self._heeded = signal_taken
        return wanted

    def _is_counted(self, level: str) -> bool:
        """Whether it is due by the number of steps or epochs, which all processes have alike."""
        interval = self.interval
        if interval.steps is not None and self._count_steps() >= interval.steps:
            return True
        if interval.epochs is None or level == "batch":
            return False
        self._epochs += level == "epoch"
        return level == "round" or self._epochs >= interval.epochs

    def _set_next_time(self, time: float) -> None:
        """Say when the next save is due by the clock; ``_batch_time`` is when a batch has to look closer."""
        interval = self.interval
        counts = interval.steps is not None or interval.epochs is not None
        self._next_time = inf if counts else time
        self._batch_time = self._next_time if counts or interval.seconds is not None else time + _LONGEST
        if interval.steps is not None or self.trainer.world_size > 1:
            self._batch_time = 0.0

    def _is_time(self, level: str) -> bool:
        patience = _LONGEST if self.interval.seconds is None and level == "batch" else 0.0
        return monotonic() >= self._next_time + patience

    def _agree(self, wanted: bool, signal_taken: int, now: bool) -> bool:
        """Whether any process wants to save; they ask each other now, or every few batches, all at the same one."""
        self._points += 1
        if not now and self._points % _AGREE_EVERY:
            return False
        mine = torch.tensor([int(wanted), signal_taken], device=self.trainer.engine.device)
        some, self._heeded = self.trainer.engine.all_reduce(mine, "max").tolist()
        return bool(some)

    def _count_steps(self) -> int:
        """Optimizer steps since the last save, over all runs."""
        run = self.trainer.run
        before = self._steps_before if run is self._counted_run else 0
        self._counted_run, self._steps_before = run, run.steps
        self._steps += run.steps - before
        return self._steps

    # signals

    @property
    def received_sigterm(self) -> bool:
        """Whether SIGTERM has come in this fit."""
        return signal.SIGTERM in (self._signal, self._heeded)

    def _take_signal(self, number: int) -> None:
        before, self._signal = self._signal, number
        if before == number == getattr(signal, "SIGXCPU", None) and not self._indivisible:
            return  # the system repeats it every second
        if before or self._indivisible:
            self._heeded = number
            self._interrupt()
        self._batch_time = 0.0

    def _interrupt(self) -> None:
        if self.trainer.is_global_zero:
            where = f"the run can go on from {self.path}" if self._has_file else "there is no checkpoint to go on from"
            _log.warning("%s: %s.", signal.Signals(self._heeded).name, where)
        number = self._heeded
        handler = self._handlers.get(number, signal.default_int_handler if number == signal.SIGINT else None)
        if not callable(handler):
            raise SystemExit(128 + number)
        handler(number, None)
        self._signal = self._heeded = 0  # a handler of the program's own has returned, so the fit goes on

    # files

    def _warn(self, error: Exception) -> None:
        kept = f"The last one is {self.path}." if self._has_file else "There is none yet."
        warnings.warn(f"Training goes on without a new checkpoint. {error} {kept}", ResumeWarning, stacklevel=2)

    @property
    def _has_file(self) -> bool:
        return self.path is not None and self.path.is_file()

    @staticmethod
    def _set_aside(path: Path) -> None:
        try:
            if path.is_file():
                path.replace(path.with_name("earlier.ckpt"))
            previous_path(path).unlink(missing_ok=True)
        except NotADirectoryError as error:
            raise ConfigurationError(
                f"{path.parent} cannot be a folder for checkpoints: a file is in its way. Move that file, or give "
                "another default_root_dir."
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"{path} of an earlier run cannot be set aside: {error.strerror}. Make its folder writable, or give "
                "another default_root_dir."
            ) from error


def _resumes_inside(loop: Loop) -> bool:
    """Whether a loop evaluates batch by batch and its position is all it needs; predictions are kept in memory."""
    return isinstance(loop, EvaluationEpochLoop) and not isinstance(loop, PredictionEpochLoop)


def _points_of(loop: Loop) -> Iterator[tuple[Loop, str]]:
    """Every FitLoop, the loop of its epochs, and the outer loops around it, as far as they resume inside."""
    if isinstance(loop, FitLoop):
        yield loop, "epoch"
        if isinstance(loop.epoch_loop, Loop):
            yield loop.epoch_loop, "batch"
    elif loop.resumes_inside:
        below = [point for _, child in children_of(loop) for point in _points_of(child)]
        if below:
            yield loop, "round"
            yield from below
