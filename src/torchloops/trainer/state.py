"""Limits and counters of a run: the one place they live."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

__all__ = ["Limits", "TrainerState"]


@dataclass(slots=True)
class Limits:
    """When a fit ends.

    Args:
        max_epochs: epochs; -1: no limit.
        max_steps: optimizer steps; -1: no limit.
        min_epochs: epochs before ``should_stop`` is heeded.
        min_steps: optimizer steps before ``should_stop`` is heeded.
        max_seconds: seconds of wall-clock time; None: no limit.
    """

    max_epochs: int = 1000
    max_steps: int = -1
    min_epochs: int = 0
    min_steps: int = 0
    max_seconds: float | None = None


@dataclass(slots=True)
class TrainerState:
    """Counters of one run.

    Args:
        current_epoch: epochs finished, hooks included; during an epoch its index, from 0.
        global_step: optimizer steps taken, over all optimizers and time splits.
        batches_that_stepped: training batches after which the optimizers stepped, which is what loggers count by; None:
            no `TrainingEpochLoop` has run.
        is_behind_step: the optimizers stepped after the last batch, and no further epoch has begun.
        should_stop: set it to end the fit after the current batch.
        fn: the entry point that runs: "fit", "validate", "test" or "predict".
        status: of that entry point: "initializing", "running", "finished", "interrupted" or "failed".
        stage: "train", "validate", "test", "predict", "sanity_check" or None between runs.
        batch_idx: index of the training batch in its epoch.
        is_last_batch: the training batch ends its epoch.
        in_batch: a batch has been asked for and is not finished, or a run inside was ended by an error: weights may
            have changed.
        in_epoch: an epoch of training is running, its end hooks included.
        min_epochs: epochs before ``should_stop`` is heeded, where the running fit loop has its own; else None.
        validated: when the last validation ended, or the run began, by ``time.monotonic``.
    """

    current_epoch: int = 0
    global_step: int = 0
    batches_that_stepped: int | None = None
    is_behind_step: bool = False
    should_stop: bool = False
    fn: str | None = None
    status: str = "initializing"
    stage: str | None = None
    batch_idx: int = 0
    is_last_batch: bool = False
    in_batch: bool = False
    in_epoch: bool = False
    min_epochs: int | None = None
    limits: Limits = field(default_factory=Limits)
    started: float = field(default_factory=time.monotonic)
    validated: float = field(default_factory=lambda: time.monotonic())
    seconds_before: float = 0.0

    def fresh(self) -> TrainerState:
        """The state of a new run under the same limits."""
        return TrainerState(fn=self.fn, limits=replace(self.limits))

    @property
    def finished(self) -> bool:
        """Whether the last entry point came to its end."""
        return self.status == "finished"

    @property
    def stopped(self) -> bool:
        """Whether it was ended before, by an error or a signal."""
        return self.status in ("interrupted", "failed")

    @property
    def seconds(self) -> float:
        """Seconds since the run began, those before a resume included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def out_of_time(self) -> bool:
        """Whether ``max_time`` has passed."""
        return self.limits.max_seconds is not None and self.seconds >= self.limits.max_seconds

    def ends_accumulation(self, number: int) -> bool:
        """Whether the training batch ends an accumulation of ``number`` batches, or the epoch."""
        return self.is_last_batch or (self.batch_idx + 1) % number == 0

    def stop_requested(self, min_epochs: int, min_steps: int) -> bool:
        """Whether ``should_stop`` is set and the minimum of epochs and steps is reached."""
        return self.should_stop and self.current_epoch >= min_epochs and self.global_step >= min_steps
