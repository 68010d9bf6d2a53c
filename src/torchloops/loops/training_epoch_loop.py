"""TrainingEpochLoop: the batches of an epoch, and validation when it is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops.evaluation_epoch_loop import warn_of_none
from torchloops.loops.evaluation_loop import EvaluationLoop, run_evaluation
from torchloops.loops.loop import Loop
from torchloops.loops.training_batch_loop import TrainingBatchLoop
from torchloops.schema import check

if TYPE_CHECKING:
    from torchloops.trainer import Trainer
    from torchloops.trainer.data import Batches

__all__ = ["TrainingEpochLoop"]

_STATE = {"validation_is_due": bool, "step_is_unlogged?": bool, "is_cut?": bool, "is_whole?": bool}


class TrainingEpochLoop(Loop):
    """Train on every batch of an epoch; validate when due.

        for batch_idx, batch in enumerate(batches):
            on_train_batch_start(batch, batch_idx)
            outputs = batch_loop.run(batch, batch_idx)
            step schedulers
            on_train_batch_end(outputs, batch, batch_idx)
            val_loop.run()                                # when due
            log                                           # every log_every_n_steps

    Args:
        min_steps: optimizer steps before ``should_stop`` is heeded. Default: the Trainer's.
        max_steps: optimizer steps of the fit at most; -1: no limit. Default: the Trainer's.
    """

    def __init__(self, min_steps: int | None = None, max_steps: int | None = None) -> None:
        super().__init__()
        self._min_steps = min_steps
        self._max_steps = max_steps
        self.batch_loop: Any = TrainingBatchLoop()
        self.val_loop: Any = EvaluationLoop("validate")
        self._validation_is_due = self._step_is_unlogged = False
        self._was_whole = True

    def connect(self, batch_loop: Loop | None = None, val_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop of a batch, the validation loop, or both."""
        given = {"batch_loop": batch_loop, "val_loop": val_loop}
        super().connect(**loops, **{name: loop for name, loop in given.items() if loop is not None})

    @property
    def min_steps(self) -> int:
        """Optimizer steps before ``should_stop`` is heeded."""
        return self.trainer.min_steps if self._min_steps is None else self._min_steps

    @min_steps.setter
    def min_steps(self, value: int | None) -> None:
        self._min_steps = value

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the fit at most; -1: no limit."""
        return self.trainer.max_steps if self._max_steps is None else self._max_steps

    @max_steps.setter
    def max_steps(self, value: int | None) -> None:
        self._max_steps = value

    @property
    def done(self) -> bool:
        bound = self._bound
        if self.progress.current >= bound.num_batches:
            return True
        state = bound.state
        bound.at_limit = (
            state.global_step >= bound.max_steps
            or (state.should_stop and state.stop_requested(bound.min_epochs, bound.min_steps))
            or (bound.has_deadline and state.out_of_time)
        )
        return bound.at_limit

    @property
    def _batches_that_stepped(self) -> int:
        """By its name in Lightning, which some callbacks read to log at the same place as the Trainer."""
        return self.trainer.run.logger_step

    @property
    def is_cut(self) -> bool:
        """Whether a limit of the fit or ``should_stop`` ended the running or last epoch before its last batch."""
        bound = self._bound
        return bound is not None and bound.at_limit and not bound.batches.last

    @property
    def is_whole(self) -> bool:
        """Whether the running or last epoch had all its batches: else schedulers do not take it for an epoch."""
        bound = self._bound
        if bound is None:
            return self._was_whole
        return self.progress.current >= bound.num_batches or bound.batches.last

    def on_run_start(self, batches: Batches) -> None:
        trainer = self.trainer
        bound = self._bound = _BoundEpoch(self, trainer, batches)
        iterator = batches.start_epoch(trainer.current_epoch, skip=self.progress.current)
        bound.next_batch = trainer.timed("next_batch", iterator.__next__)
        bound.results.place = "training_step"
        if bound.state.batches_that_stepped is None:  # a new run, or a checkpoint that had no such count
            bound.state.batches_that_stepped = trainer.global_step
        if self.restarting:
            trainer.go_on()
        if self.restarting and self._step_is_unlogged and bound.log_every:
            bound.log_step()
        self._step_is_unlogged = False
        if self.restarting and self._validation_is_due:
            self._validate()
        if self.restarting and bound.schedule_plateaus is not None:
            bound.schedule_plateaus()

    def advance(self, batches: Batches) -> None:
        bound = self._bound
        progress = self.progress
        batch_idx = progress.current
        state = bound.state
        state.in_batch = True
        batch = bound.next_batch()
        if bound.move is not None and batch is not None:
            batch = bound.move(batch, 0)
        results = bound.results
        results.batch = batch
        results.size = None
        state.batch_idx = batch_idx
        state.is_last_batch = batch_idx + 1 >= bound.num_batches or batches.last
        if batch is None:
            bound.leave_out(batch_idx)
            return
        if bound.on_batch_start is not None:
            results.place = "on_train_batch_start"
            refused = _refuses(bound.on_batch_start, batch, batch_idx)
            results.place = "training_step"
            if refused:
                state.in_batch = False
                raise StopIteration
        steps_before = state.global_step
        bound.outputs = bound.run_batch(batch, batch_idx)
        bound.batch = batch
        if bound.schedule is not None and state.global_step > steps_before:
            bound.schedule()
        state.in_batch = False

    def on_advance_end(self) -> None:
        bound = self._bound
        done = self.progress.current
        state = bound.state
        state.is_behind_step = state.ends_accumulation(bound.accumulate) if bound.accumulate > 1 else True
        state.batches_that_stepped += state.is_behind_step
        if bound.left_out:
            bound.left_out = False
        elif bound.on_batch_end is not None:
            outputs, batch = bound.outputs, bound.batch
            bound.in_batch_end = True
            bound.results.place = "on_train_batch_end"
            interrupt = None
            for hook in bound.on_batch_end:
                try:
                    hook(outputs, batch, done - 1)
                except KeyboardInterrupt as error:  # the others have their turn, so that the batch is whole
                    interrupt = error
            if interrupt is not None:
                self.trainer.keeper.save_after_interrupt()
                raise interrupt
            bound.in_batch_end = False
            bound.results.place = "training_step"
        if bound.log_every and bound.is_log_due():
            bound.log_step()
        if bound.validate_every is not None and bound.is_validation_due(done):
            self._validation_is_due = True
            self._validate()
        if bound.schedule_plateaus is not None:  # behind the validation that gives the value they watch
            bound.schedule_plateaus()

    def _validate(self) -> None:
        trainer, state = self.trainer, self.trainer.state
        if state.ends_accumulation(trainer.accumulate_grad_batches) and is_overridden(
            trainer.module, "on_validation_model_zero_grad"
        ):
            trainer.module.on_validation_model_zero_grad()
        run_evaluation(self.val_loop, "validate")
        state.validated = time.monotonic()
        self._validation_is_due = False
        self.trainer.run.enter_stage("train")

    def on_run_end(self) -> None:
        bound = self._bound
        bound.results.place = ""
        bound.outputs = bound.batch = bound.results.batch = None
        bound.next_batch = None
        self._was_whole = self.is_whole
        if self._was_whole:
            bound.batches.end_epoch()

    def on_save_checkpoint(self) -> dict[str, Any]:
        bound, done = self._bound, self.progress.current
        in_batch_end = bound is not None and bound.in_batch_end  # what follows those hooks comes next
        is_cut = self._validation_is_due and self.val_loop.progress.running
        return {
            "validation_is_due": (in_batch_end and bound.is_validation_due(done)) or is_cut,
            "is_cut": self.is_cut,
            "is_whole": self.is_whole,
            "step_is_unlogged": in_batch_end and bool(bound.log_every) and bound.is_log_due(),
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "TrainingEpochLoop: state")
        self._validation_is_due = state_dict["validation_is_due"]
        self._step_is_unlogged = state_dict.get("step_is_unlogged", False)
        self._was_whole = state_dict.get("is_whole", True)


def _refuses(hooks: list[Callable[..., Any]], batch: Any, batch_idx: int) -> bool:
    refused = False
    for hook in hooks:
        refused |= hook(batch, batch_idx) == -1
    return refused


class _BoundEpoch:
    """What the steps of an epoch need, looked up once when the epoch starts."""

    __slots__ = (
        "accumulate",
        "at_limit",
        "batch",
        "batches",
        "counts_over_epochs",
        "has_deadline",
        "in_batch_end",
        "left_out",
        "log_every",
        "log_step",
        "max_steps",
        "min_epochs",
        "min_steps",
        "move",
        "next_batch",
        "num_batches",
        "on_batch_end",
        "on_batch_start",
        "outputs",
        "results",
        "run_batch",
        "schedule",
        "schedule_plateaus",
        "state",
        "total_before",
        "validate_every",
    )

    def __init__(self, loop: TrainingEpochLoop, trainer: Trainer, batches: Batches) -> None:
        run = trainer.run
        self.state = run.state
        self.results = run.results_for("train")
        self.batches = batches
        self.in_batch_end = self.at_limit = self.left_out = False
        self.num_batches = batches.num_batches
        self.max_steps = float("inf") if loop.max_steps == -1 else loop.max_steps
        self.min_steps, self.min_epochs = (
            loop.min_steps,
            trainer.min_epochs if run.state.min_epochs is None else run.state.min_epochs,
        )
        self.accumulate = trainer.accumulate_grad_batches
        self.has_deadline = run.state.limits.max_seconds is not None
        self.next_batch: Any = None
        self.move = trainer.batch_mover()
        self.on_batch_start = run.hooks("on_train_batch_start", last=None) or None
        self.on_batch_end = run.hooks("on_train_batch_end", last=None) or None
        wants_output = self.on_batch_end is not None
        self.run_batch = loop.batch_loop.shortcut(wants_output=wants_output) or loop.batch_loop.run
        self.schedule, self.schedule_plateaus = (
            partial(run.step_schedulers, "step", plateau) if run.has_schedulers("step", plateau) else None
            for plateau in (False, True)
        )
        self.log_step = run.log_step
        self.log_every = trainer.log_every_n_steps if run.loggers else 0
        self.validate_every = _validation_interval(trainer, loop.val_loop, batches.num_batches)
        self.counts_over_epochs = trainer.check_val_every_n_epoch is None
        self.total_before = loop.progress.total - loop.progress.current
        self.outputs = self.batch = None

    def leave_out(self, batch_idx: int) -> None:
        """Pass over a batch that the loader gave as None, and step where it ends an accumulation."""
        warn_of_none("training")
        state, steps_before = self.state, self.state.global_step
        if self.accumulate > 1 and state.ends_accumulation(self.accumulate):
            self.run_batch(None, batch_idx)
        if self.schedule is not None and state.global_step > steps_before:
            self.schedule()
        self.left_out = True
        state.in_batch = False

    def is_log_due(self) -> bool:
        """Whether loggers get the values of the batch that ended: batches count after which the optimizers stepped."""
        state = self.state
        return state.is_behind_step and (not (state.batches_that_stepped or 0) % self.log_every or state.should_stop)

    def is_validation_due(self, done: int) -> bool:
        """Whether to validate after ``done`` batches of the epoch."""
        every = self.validate_every
        if every is None:
            return False
        if self.state.should_stop and self.state.stop_requested(self.min_epochs, self.min_steps):
            return True
        if isinstance(every, timedelta):
            return time.monotonic() - self.state.validated >= every.total_seconds()
        if every == float("inf"):
            return self.state.is_last_batch
        return (done + self.total_before if self.counts_over_epochs else done) % every == 0


def _validation_interval(trainer: Trainer, val_loop: Loop, num_batches: float) -> float | timedelta | None:
    """Batches or time between two validations; infinite: at the end of the epoch; None: none in this epoch.

    Raises:
        ConfigurationError: a share of an epoch whose length is unknown, or more batches than an epoch has.
    """
    every_epoch, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if val_loop.skip or (every_epoch is not None and (trainer.current_epoch + 1) % every_epoch):
        return None
    if isinstance(interval, timedelta):
        return interval
    if isinstance(interval, float):
        if interval == 1.0:
            return float("inf")
        if num_batches == float("inf"):
            raise ConfigurationError(
                f"val_check_interval={interval} is a share of an epoch, but the training loader has no length. "
                "Give a number of batches (int)."
            )
        return max(1, int(num_batches * interval))
    if every_epoch is not None and interval > num_batches:
        raise ConfigurationError(
            f"val_check_interval={interval} batches is more than the {num_batches:.0f} an epoch has, so validation "
            "would never run. Give a smaller one, or check_val_every_n_epoch=None to count over epochs."
        )
    return interval
