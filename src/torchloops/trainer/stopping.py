"""Why a fit ended, and whether it goes on when it is resumed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from torchloops.errors import ResumeWarning
from torchloops.loops import FitLoop
from torchloops.loops.tree import loops_in
from torchloops.trainer.arguments import callback_key

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle
    from torchloops.trainer.run import Run

__all__ = ["is_still_stopped", "limits_of", "say_how_it_goes_on"]

_log = logging.getLogger("torchloops")


def limits_of(trainer: Lifecycle) -> dict[str, Any]:
    """What ends the fits of a run, by the names of arguments; ``max_time`` in seconds."""
    fit_loop = next((loop for loop in loops_in(trainer.fit_loop) if isinstance(loop, FitLoop)), None)
    source: Any = trainer if fit_loop is None else fit_loop
    return {
        "max_epochs": source.max_epochs,
        "max_steps": source.max_steps,
        "max_time": trainer.state.limits.max_seconds,
    }


def is_still_stopped(run: Run, saved: Mapping[str, Any], limits: Mapping[str, Any]) -> bool:
    """Whether a run that was stopped by ``should_stop`` stays so.

    One that callbacks stopped does while one of them, as it is set now, would stop it. One that other code stopped does
    while its limits are what they were.

    Args:
        run: the run, its callbacks restored.
        saved: its state when it was saved.
        limits: `limits_of` the Trainer when it was saved; empty: not known.
    """
    stoppers = {key for key, state in saved["callbacks"].items() if _says_it_stopped(state)}
    if stoppers:
        return any(_says_it_stopped(vars(each)) for each in run.callbacks if callback_key(each) in stoppers)
    return bool(run.name) or not _raised(limits, limits_of(run.trainer))


def say_how_it_goes_on(trainer: Lifecycle, checkpoint: Mapping[str, Any]) -> None:
    """Say that nothing is left to train, by `logging`, or what a fit with higher limits leaves out, by a warning.

    Args:
        trainer: its fit was just restored.
        checkpoint: what it was restored from.
    """
    fit_loop = trainer.fit_loop
    if not isinstance(fit_loop, FitLoop):
        _warn_of_other_limits(trainer, checkpoint.get("limits", {}))
    elif checkpoint["outer_runs"]:
        return  # it goes on inside a run that a hook began
    elif fit_loop.is_at_limit:
        _log.warning("Nothing is left to train: %s", _why(trainer))
    elif _left_an_epoch(checkpoint["loop_tree"]):
        warnings.warn(
            "The checkpoint was taken when an epoch that a limit had cut was over, so what was left of that epoch is "
            "not trained on. To finish it, resume from checkpoints/last.ckpt in the folder of the run.",
            ResumeWarning,
            stacklevel=2,
        )


def _says_it_stopped(state: Any) -> bool:
    if not isinstance(state, Mapping):
        return False
    reason = state.get("stopping_reason_message", state.get("stopping_reason"))
    return isinstance(reason, str) or bool(state.get("stopped_epoch"))


def _raised(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the limits that are higher; None and -1 are no limit."""
    return [name for name in before if _number(now[name]) > _number(before[name])]


def _number(limit: float | None) -> float:
    return inf if limit in (None, -1) else limit


def _why(trainer: Lifecycle) -> str:
    state = trainer.state
    where = f"the checkpoint is at epoch {state.current_epoch}, step {state.global_step}"
    said = (getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks)
    reasons = [message for message in said if message]
    if state.should_stop and reasons:
        return f"{where}, where EarlyStopping ended the fit: {reasons[0]} Give it more patience, or leave it out."
    limits = ", ".join(f"{name}={value}" for name, value in limits_of(trainer).items() if value is not None)
    if state.should_stop:
        return f"{where}, where should_stop ended the fit. Raise a limit to go on: {limits}."
    return f"{where}, and the limits are {limits}. Raise them to go on."


def _left_an_epoch(loop_tree: Mapping[str, Any]) -> bool:
    state, progress = loop_tree.get("epoch_loop.state_dict", {}), loop_tree.get("epoch_loop.progress", {})
    return bool(state.get("is_cut")) and not progress.get("running")


def _warn_of_other_limits(trainer: Lifecycle, before: Mapping[str, Any]) -> None:
    """Warn of a loop around fits which does not itself refuse that some of them are longer than others."""
    top, now = trainer.fit_loop, limits_of(trainer)
    changed = [f"{name} was {before[name]} and is {now[name]}" for name in before if before[name] != now[name]]
    has_fits = any(isinstance(loop, FitLoop) for loop in loops_in(top))
    if changed and has_fits and top.progress.current and not hasattr(top, "fit_limits"):
        warnings.warn(
            f"Fits inside {type(top).__name__} that are finished stay as they are, and those to come have other "
            f"limits: {'; '.join(changed)}. Resume with the limits that the run had to have all of them alike.",
            ResumeWarning,
            stacklevel=2,
        )
