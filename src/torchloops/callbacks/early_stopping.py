"""EarlyStopping: end a fit when a logged value no longer gets better."""

from __future__ import annotations

import logging
import math
from enum import Enum
from typing import Any

import torch

from torchloops.callbacks.callback import Callback
from torchloops.callbacks.monitoring import (
    acts_at_train_epoch_end,
    check_mode,
    is_better,
    monitored_value,
    worst,
)
from torchloops.errors import ConfigurationError
from torchloops.schema import COUNT, check, scalar

__all__ = ["EarlyStopping", "EarlyStoppingReason"]

_STATE = {"best_score": scalar, "wait_count": COUNT, "stopped_epoch": COUNT, "stopping_reason": str | None}

_log = logging.getLogger("torchloops")


class EarlyStoppingReason(Enum):
    """Why `EarlyStopping` ended a fit."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(Callback):
    """Stop a fit when a logged value has not got better for a while.

    The value of process 0 counts, so that all processes stop together. ``min_epochs`` and ``min_steps`` of the
    Trainer are respected. A stopped fit that is resumed stays stopped by the same settings, goes on from ``wait_count``
    with more ``patience``, and goes on to its limits without this callback.

    Args:
        monitor: name of the logged value, for instance ``"val/loss"``.
        min_delta: it is better only if it is better by more than this; 0 or more.
        patience: how many checks in a row without getting better end the fit.
        verbose: write why the fit is stopped to the logger "torchloops" of `logging`.
        mode: "min": lower is better; "max": higher is better.
        strict: a value that was not logged is an error; else the check is left out.
        check_finite: NaN or infinity ends the fit.
        stopping_threshold: end the fit once the value is better than this.
        divergence_threshold: end the fit once the value is worse than this.
        check_on_train_epoch_end: check when the training epoch ends (True) or when validation ends (False).
            Default: True where validation runs once an epoch or not at all.
        log_rank_zero_only: as Lightning has it; only process 0 writes whatever it says.

    Attributes:
        best_score: best value so far, a tensor of one element.
        wait_count: checks since it was reached.
        stopped_epoch: epoch (from 0) in which the fit was stopped; 0 if it was not.
        stopping_reason: why it was stopped, an `EarlyStoppingReason`.
        stopping_reason_message: the same as a sentence; None if it was not stopped.

    Raises:
        ConfigurationError: an argument makes no sense, or the value is never logged.
    """

    order = 2

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        check_mode(self, mode)
        if patience < 0 or min_delta < 0:
            raise ConfigurationError(
                f"EarlyStopping takes a patience and a min_delta of 0 or more, got {patience} and {min_delta}."
            )
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.check_on_train_epoch_end = check_on_train_epoch_end
        self.verbose = verbose
        self.log_rank_zero_only = log_rank_zero_only
        self._training = False
        self._forget()

    def _forget(self) -> None:
        """Start over, as a new run does."""
        self.best_score = torch.tensor(worst(self.mode), dtype=torch.float64)
        self.wait_count = 0
        self.stopped_epoch = 0
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None
        self._stopped_by: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return f"EarlyStopping(monitor={self.monitor!r}, mode={self.mode!r})"

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self._training = False
        if stage == "fit":
            self._forget()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._training = True

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._training = False

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if self._training and not acts_at_train_epoch_end(trainer, module, self.check_on_train_epoch_end):
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if acts_at_train_epoch_end(trainer, module, self.check_on_train_epoch_end):
            self._check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best_score,
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "stopping_reason": self.stopping_reason_message,
            "stopped_by": self._stopped_by,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "EarlyStopping: state")
        self.best_score = torch.as_tensor(state_dict["best_score"])
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.stopping_reason_message = state_dict["stopping_reason"]
        self._stopped_by = state_dict.get("stopped_by")
        if self._stopped_by is not None:
            self.stopping_reason = self._reason(**self._stopped_by)
            if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
                self.stopped_epoch, self.stopping_reason_message, self._stopped_by = 0, None, None

    def _check(self, trainer: Any) -> None:
        value = monitored_value(self, trainer, self.monitor, self.strict)
        if value is None:
            return
        best = self.best_score.item()
        if self._passed_bound(value) is not None:
            if math.isfinite(value) and is_better(value, best, self.mode):
                self.best_score = torch.tensor(value, dtype=torch.float64)
        elif is_better(value, best, self.mode, self.min_delta):
            self.best_score = torch.tensor(value, dtype=torch.float64)
            self.wait_count = 0
        else:
            self.wait_count += 1
        reason = self._reason(value, self.wait_count)
        if reason is not EarlyStoppingReason.NOT_STOPPED:
            message = self._message(reason, value, best)
            self.stopping_reason, self.stopping_reason_message = reason, message
            self.stopped_epoch = trainer.current_epoch
            self._stopped_by = {"value": value, "wait_count": self.wait_count}
            trainer.should_stop = True
            self._say(trainer, f"stopping in epoch {trainer.current_epoch}: {message}")

    def _reason(self, value: float, wait_count: int) -> EarlyStoppingReason:
        """Why a value, with so many checks that were not better, ends the fit by the settings as they are."""
        passed = self._passed_bound(value)
        if passed is not None:
            return passed
        exhausted = wait_count >= max(1, self.patience)
        return EarlyStoppingReason.PATIENCE_EXHAUSTED if exhausted else EarlyStoppingReason.NOT_STOPPED

    def _passed_bound(self, value: float) -> EarlyStoppingReason | None:
        """Why a value ends the fit whatever came before it, or None."""
        if self.check_finite and not math.isfinite(value):
            return EarlyStoppingReason.NON_FINITE_METRIC
        if self.stopping_threshold is not None and is_better(value, self.stopping_threshold, self.mode):
            return EarlyStoppingReason.STOPPING_THRESHOLD
        if self.divergence_threshold is not None and is_better(self.divergence_threshold, value, self.mode):
            return EarlyStoppingReason.DIVERGENCE_THRESHOLD
        return None

    def _message(self, reason: EarlyStoppingReason, value: float, best: float) -> str:
        name = self.monitor
        if reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{name} is {value}."
        if reason is EarlyStoppingReason.STOPPING_THRESHOLD:
            return f"{name} is {value:.6g}, better than the threshold {self.stopping_threshold:.6g}."
        if reason is EarlyStoppingReason.DIVERGENCE_THRESHOLD:
            return f"{name} is {value:.6g}, worse than the limit {self.divergence_threshold:.6g}."
        return f"{name} has not got better than {best:.6g} in the last {self.wait_count} checks."

    def _say(self, trainer: Any, message: str) -> None:
        if self.verbose and trainer.is_global_zero:
            _log.info("EarlyStopping: %s", message)
