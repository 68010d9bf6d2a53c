"""The state of one run: counters, optimizers, callbacks, loggers, logged values, data position, generators."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from torchloops.errors import ResumeWarning, taking_back
from torchloops.hooks import is_overridden
from torchloops.seeding import random_state, restore_random_state
from torchloops.trainer.arguments import callback_key
from torchloops.trainer.metric_states import metrics_in
from torchloops.trainer.optimizer_groups import regroup
from torchloops.trainer.optimizer_states import kind_of, load_each, state_of_optimizer
from torchloops.trainer.plain import plain_or_none
from torchloops.trainer.stopping import is_still_stopped

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle
    from torchloops.trainer.run import Run

__all__ = [
    "OF_A_PROCESS", "collect_run", "restore_callback", "restore_optimizers", "restore_run", "show_callbacks",
    "state_of", "warn_of_callbacks_left_out",
]  # fmt: skip

OF_A_PROCESS = ("results", "data", "asked", "random")
"""Keys whose values differ from process to process."""


def collect_run(run: Run, is_current: bool) -> dict[str, Any]:
    """The state of a run.

    Args:
        run: the run.
        is_current: False for a run around the current one: its generators are those that the inner run set aside, as
            the sanity check does too.
    """
    state = run.state
    names = {id(metric): name for name, metric in metrics_in(run.trainer.module).items()}
    return {
        "name": run.name,
        "epoch": state.current_epoch,
        "global_step": state.global_step,
        "batches_that_stepped": state.batches_that_stepped,
        "should_stop": state.should_stop,
        "seconds": state.seconds,
        "last_batch": (state.batch_idx, state.is_last_batch),
        "optimizer_states": [state_of_optimizer(optimizer) for optimizer in run.optimizers_or_none()],
        "lr_schedulers": [config.scheduler.state_dict() for config in run.schedulers_or_none()],
        "optimizer_classes": [kind_of(optimizer) for optimizer in run.optimizers_or_none()],
        "lr_scheduler_classes": [kind_of(config.scheduler) for config in run.schedulers_or_none()],
        "optimizer_steps": run.steps_of_optimizers(),
        "optimizer_groups": run.groups.state_dict(run.trainer.module, run.optimizers_or_none()),
        "callbacks": _callback_states(run),
        "loggers": [state_of(logger) for logger in run.loggers],
        "results": {stage: results.state_dict(names) for stage, results in run.all_results().items()},
        "metrics": {name: _number(value) for name, value in run.known_values().items()},
        "data": run.data_state(),
        "asked": run.requests.state_dict(),
        "once": {name: plain_or_none(value) for name, value in run.done_once.items()},
        "random": random_state() if is_current and not run.trainer.sanity_checking else run.random_outside,
    }


def restore_run(trainer: Lifecycle, run: Run, saved: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Put a run, which is the current one, back to where its state was collected.

    Args:
        trainer: its Trainer.
        run: a new run.
        saved: what `collect_run` returned.
        checkpoint: the whole checkpoint, for hooks.

    Raises:
        CheckpointError: optimizers or schedulers are others than those saved.
    """
    run.restored = saved
    run.load_data_state(saved["data"])  # before the optimizers, which may ask for the number of batches
    show_callbacks(trainer, {**checkpoint, **saved})
    if saved["optimizer_states"]:  # none: no loop had asked for the optimizers, as in an outer loop's own run
        restore_optimizers(trainer, saved)
    for callback in run.callbacks:
        restore_callback(run, callback)
    for logger, state in zip(run.loggers, saved["loggers"], strict=False):
        with taking_back(f"the logger {type(logger).__name__} cannot take back its state"):
            if state and hasattr(logger, "load_state_dict"):
                logger.load_state_dict(state)
    metrics = metrics_in(trainer.module)
    for stage, results in saved["results"].items():
        with taking_back("what was logged"):
            run.results_for(stage).load_state_dict(results, metrics, device=trainer.engine.device)
    run.known_values().update({name: torch.as_tensor(value) for name, value in saved["metrics"].items()})
    run.remember_once(saved["once"])
    state = run.state
    state.current_epoch, state.global_step = saved["epoch"], saved["global_step"]
    state.batches_that_stepped = saved.get("batches_that_stepped")
    state.should_stop = saved["should_stop"] and is_still_stopped(run, saved, checkpoint.get("limits", {}))
    state.seconds_before = saved["seconds"]
    state.batch_idx, state.is_last_batch = saved["last_batch"]
    state.is_behind_step = state.ends_accumulation(trainer.accumulate_grad_batches)
    run.random_outside = saved["random"]
    if saved["random"] is not None:
        _warn_of_other_devices(len(saved["random"]["cuda"]))
        restore_random_state(saved["random"])


def show_callbacks(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Call ``on_load_checkpoint`` of the callbacks."""
    for callback in trainer.callbacks:
        if is_overridden(callback, "on_load_checkpoint"):
            with taking_back(f"{type(callback).__name__}.on_load_checkpoint"):
                callback.on_load_checkpoint(trainer, trainer.module, checkpoint)


def restore_optimizers(trainer: Lifecycle, saved: dict[str, Any]) -> None:
    """Give optimizers and schedulers of the current run their states.

    Args:
        trainer: its Trainer.
        saved: of `collect_run`, or of Lightning, which has neither classes nor groups nor counts.

    Raises:
        CheckpointError: they are others than those saved.
    """
    groups, run = saved.get("optimizer_groups") or {}, trainer.run

    def prepare(number: int, optimizer: Any) -> None:
        if groups:
            with taking_back("the groups of the optimizers"):
                regroup(optimizer, trainer.module, groups["made"][number], groups["now"][number])

    load_each("optimizers", trainer.optimizers, saved["optimizer_states"], saved.get("optimizer_classes"), prepare)
    if groups:
        run.groups.load_state_dict(groups)
    for optimizer in trainer.optimizers:
        optimizer._opt_called = bool(saved["global_step"])  # else torch warns of a scheduler that steps first
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    load_each("learning-rate schedulers", schedulers, saved["lr_schedulers"], saved.get("lr_scheduler_classes"))
    counts = saved.get("optimizer_steps") or {}
    run.optimization.load_steps(counts.get("steps"), counts.get("seen"), saved["global_step"])


def restore_callback(run: Run, callback: Any) -> None:
    """Give a callback the state that it had when the run was saved."""
    key = callback_key(callback)
    state = run.restored.get("callbacks", {}).get(key)
    run.restored_callbacks.add(key)
    with taking_back(f"the callback {type(callback).__name__} cannot take back its state"):
        if state:
            callback.load_state_dict(state)


def warn_of_callbacks_left_out(run: Run) -> None:
    """Say of which callbacks a resumed run has a state and no callback to take it."""
    saved = run.restored.get("callbacks", {})
    missing = sorted(key for key, state in saved.items() if state and key not in run.restored_callbacks)
    if missing:
        warnings.warn(
            f"The checkpoint holds the state of callbacks that are not here: {', '.join(missing)}. Give them to the "
            "Trainer, with the arguments that they had, to go on with what they kept.",
            ResumeWarning,
            stacklevel=4,
        )


def state_of(owner: Any) -> Any:
    """What ``state_dict`` of an object returns; empty where it has none."""
    return owner.state_dict() if hasattr(owner, "state_dict") else {}


def _warn_of_other_devices(before: int) -> None:
    now = torch.cuda.device_count()
    if before and before != now:
        warnings.warn(
            f"The checkpoint holds the random generators of {before} CUDA devices, and there are {now} now: random "
            "numbers drawn on them, such as those of dropout, and last digits will be others than in a run that was "
            "not stopped. Resume on a machine with as many devices, or set CUDA_VISIBLE_DEVICES.",
            ResumeWarning,
            stacklevel=2,
        )


def _number(value: torch.Tensor) -> Any:
    """A number where nothing is lost by it: a small tensor takes ten times as long to save."""
    return value.item() if value.dtype == torch.float32 else value


def _callback_states(run: Run) -> dict[str, Any]:
    states = {callback_key(callback): state_of(callback) for callback in run.callbacks}
    return {key: state for key, state in states.items() if state}
