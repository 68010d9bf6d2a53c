"""What a checkpoint holds: collected from a whole fit, and put back into one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchloops.data import DataModule
from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning, taking_back
from torchloops.files import given_path
from torchloops.hooks import is_overridden
from torchloops.hparams import HyperparametersMixin
from torchloops.loops import FitLoop
from torchloops.loops.tree import loops_in
from torchloops.paths import is_inside
from torchloops.trainer.arrival import Arrival, modes_of, restore_modes
from torchloops.trainer.buffers import collect_buffers, restore_buffers
from torchloops.trainer.checkpoint_file import previous_path
from torchloops.trainer.checkpoint_formats import FORMAT
from torchloops.trainer.lightning_checkpoint import loops_for_lightning
from torchloops.trainer.metric_states import collect_metric_states, restore_metric_states
from torchloops.trainer.plain import plain
from torchloops.trainer.run_state import OF_A_PROCESS, collect_run, restore_run, state_of
from torchloops.trainer.settings import (
    changed_arguments,
    check_settings,
    collect_settings,
    saved_hyperparameters,
    warn_of_other_threads,
)
from torchloops.trainer.stopping import limits_of

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle
    from torchloops.trainer.module_state import AttributeChanges

__all__ = ["collect_checkpoint", "find_checkpoint", "load_weights", "restore_checkpoint", "restore_module"]

_LIGHTNING_VERSION = "2.6.0"  # the layout of the keys that Lightning's own readers look at
_OF_AN_INNER_RUN = ("optimizer_states", "lr_schedulers", "callbacks")


def collect_checkpoint(trainer: Lifecycle, weights_only: bool = False, inner_run_only: bool = False) -> dict[str, Any]:
    """Everything a fit needs to go on, as plain data.

    Keys: Lightning's (``epoch``, ``global_step``, ``state_dict``, ``optimizer_states``, ``lr_schedulers``,
    ``callbacks``, ``hyper_parameters``), ``format``, the other keys of `collect_run` for the current run,
    ``outer_runs`` with those of the runs around it, outermost first, and what all runs share: ``loop_tree``,
    ``loops`` (the same for pytorch-lightning),
    ``evaluation_loops`` (those that are running), ``torchmetrics``, ``buffers`` (those that ``state_dict`` leaves out),
    ``attributes`` (of the module's parts, those that have changed), ``gradients``, ``modes``, ``precision``,
    ``datamodule`` and ``datamodule_attributes``, ``first_batches``, ``settings``, ``limits``,
    ``threads``, ``changed_arguments``, ``inside_batch``, ``processes``.

    Args:
        trainer: the Trainer whose current run is saved; all its processes call this together.
        weights_only: leave out all that only training needs.
        inner_run_only: where the current run is inside another one, save that run alone, under Lightning's keys, and
            its name as ``inner_run``: nothing goes on from it.

    Raises:
        CheckpointError: something in it is no plain data, so a safe load would refuse it.
    """
    module, run, datamodule = trainer.module, trainer.run, trainer.sources.outermost
    checkpoint: dict[str, Any] = {
        "format": FORMAT,
        "pytorch-lightning_version": _LIGHTNING_VERSION,
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": module.state_dict(),
        **_hyperparameters(module, HyperparametersMixin),
        **(_hyperparameters(datamodule, DataModule) if getattr(datamodule, "_hparams_name", None) else {}),
    }
    is_part = inner_run_only and bool(trainer.outer_runs)
    if is_part and not weights_only:
        own = collect_run(run, is_current=True)
        checkpoint |= {name: own[name] for name in _OF_AN_INNER_RUN} | {"inner_run": run.name}
    elif not weights_only:
        checkpoint |= collect_run(run, is_current=True) | {
            "outer_runs": [collect_run(outer, is_current=False) for outer in trainer.outer_runs],
            "loop_tree": trainer.fit_loop.state_dict(),
            "loops": loops_for_lightning(trainer),
            "evaluation_loops": _running_evaluations(trainer),
            "torchmetrics": collect_metric_states(module),
            "gradients": _gradients(trainer),
            "modes": modes_of(module, run.modes_outside),
            "precision": trainer.engine.precision_state(),
            "datamodule": state_of(datamodule),
            "first_batches": trainer.sources.first_batches_drawn_from,
            "buffers": collect_buffers(module),
            "attributes": _changes_in(module, trainer.attribute_changes),
            "datamodule_attributes": _changes_in(datamodule, trainer.data_changes),
            "settings": collect_settings(trainer),
            "limits": limits_of(trainer),
            "threads": trainer.threads,
            "changed_arguments": changed_arguments(trainer),
            "inside_batch": trainer.state.in_batch,
        }
    if not weights_only:
        for callback in run.callbacks:
            if is_overridden(callback, "on_save_checkpoint"):
                callback.on_save_checkpoint(trainer, module, checkpoint)
    if is_overridden(module, "on_save_checkpoint"):
        module.on_save_checkpoint(checkpoint)
    checkpoint = {name: plain(value, name) for name, value in checkpoint.items()}
    if not weights_only and not is_part and trainer.world_size > 1:
        names = (*OF_A_PROCESS, "torchmetrics", "gradients", "attributes", "datamodule_attributes", "outer_runs")
        own = {name: checkpoint[name] for name in names}
        checkpoint["processes"] = trainer.engine.gather_objects(own)
    return checkpoint


def find_checkpoint(trainer: Lifecycle, ckpt_path: str | Path) -> Path | None:
    """The file that "best", "last" or a run's folder stands for, or the path itself; None: there is no "last" yet.

    Raises:
        CheckpointError: there is no "best", or a checkpoint has said that it lies outside of the folders of the run.
    """
    if ckpt_path not in ("best", "last"):
        path = given_path(ckpt_path, "ckpt_path")
        return path / "checkpoints" / "last.ckpt" if (path / "checkpoints").is_dir() else path
    own = trainer.default_root_dir or (None if trainer.keeper.path is None else trainer.keeper.path.parent.parent)
    folder = Path(own or trainer.run.dir).expanduser() / "checkpoints"
    candidates = [*_paths_of_callbacks(trainer, str(ckpt_path)), folder / f"{ckpt_path}.ckpt"]
    if ckpt_path == "last":
        candidates = [folder / "last.ckpt", *candidates]
    for path in candidates:
        if path.is_file() or (ckpt_path == "last" and previous_path(path).is_file()):
            return path
    if ckpt_path == "best":
        last = trainer.keeper.path
        if not trainer.checkpoint_callbacks and last is not None and last.is_file():
            warnings.warn(
                f'ckpt_path="best": no ModelCheckpoint says what is best, so it is the last state: {last}. Give '
                "ModelCheckpoint(monitor=...) among the callbacks to keep the best one.",
                stacklevel=5,
            )
            return last
        raise CheckpointError(
            f'ckpt_path="best": there is no such checkpoint; looked at ModelCheckpoint and {candidates[-1]}. '
            "Give a path, or the default_root_dir of the run that wrote it."
        )
    return None


def _paths_of_callbacks(trainer: Lifecycle, which: str) -> Iterator[Path]:
    """The "best" or "last" of each callback, which it may have from a checkpoint."""
    before = None if trainer.resumed_from is None else trainer.resumed_from.parent
    if before is not None and before.name == "checkpoints":
        before = before.parent
    for callback in trainer.checkpoint_callbacks:
        path = getattr(callback, f"{which}_model_path", "")
        own = [getattr(callback, name, None) for name in ("folder", "dirpath")]
        if path and not is_inside(path, *own, trainer.run_dir, trainer.default_root_dir, before):
            raise CheckpointError(
                f'ckpt_path="{which}": the checkpoint that the fit went on from says that it is {path}, which lies in '
                f"no folder of this run ({trainer.run_dir}), and is not read for that. Give the path itself if you "
                "trust it."
            )
        if path:
            yield Path(path)


def load_weights(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Load the module's part of a checkpoint.

    Raises:
        CheckpointError: the weights are of another module.
    """
    module = trainer.module
    if is_overridden(module, "on_load_checkpoint"):
        module.on_load_checkpoint(checkpoint)
    strict = getattr(module, "strict_loading", True) is not False
    with taking_back("its weights"):
        try:
            module.load_state_dict(checkpoint["state_dict"], strict=strict)
        except RuntimeError as error:
            name = type(module).__name__
            raise CheckpointError(
                f"The checkpoint is of another module than {name}: {error}. Resume with the module that the run had. "
                "If that got or replaced layers during the fit, make these in its on_load_checkpoint(checkpoint), as "
                'checkpoint["state_dict"] has them, or in __init__ by a hyper-parameter.'
            ) from error
    trainer.engine.place_module()  # on_load_checkpoint may have made layers


def restore_checkpoint(trainer: Lifecycle, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Put a fit back to where a checkpoint was taken, as far as its outermost run and its loops go.

    Returns:
        The states of the runs inside, outermost first, for those to go on with.

    Raises:
        CheckpointError: it holds weights only, or its optimizers, schedulers, loops, data or settings are others.
    """
    if "inner_run" in checkpoint:
        raise CheckpointError(
            f"This checkpoint cannot be resumed: it holds the run {checkpoint['inner_run']!r} only, a part of a fit. "
            "Resume the fit from checkpoints/last.ckpt in its own folder, or load the weights with "
            f"{type(trainer.module).__name__}.load_from_checkpoint and start a new fit."
        )
    if "loop_tree" not in checkpoint or "format" not in checkpoint:
        raise CheckpointError(
            "This checkpoint cannot be resumed: it holds weights only. Load it with "
            f"{type(trainer.module).__name__}.load_from_checkpoint and start a new fit."
        )
    check_settings(trainer, checkpoint["settings"])
    warn_of_other_threads(trainer, checkpoint.get("threads"))
    if checkpoint["inside_batch"]:
        warnings.warn(
            "The checkpoint was taken in the middle of a batch, which is trained on again: the run will not end as it "
            "would have. Save at the end of a batch (on_train_batch_end) to resume exactly.",
            ResumeWarning,
            stacklevel=3,
        )
    if "processes" in checkpoint:
        with taking_back(f"the state of process {trainer.global_rank}"):
            checkpoint |= checkpoint["processes"][trainer.global_rank]
    trainer.arrival = Arrival(checkpoint)
    load_weights(trainer, checkpoint)
    with taking_back("the loss scaler cannot take back its state"):
        trainer.engine.load_precision_state(checkpoint["precision"])
    datamodule = trainer.sources.outermost
    with taking_back(f"{type(datamodule).__name__} cannot take back its state"):
        if checkpoint["datamodule"] and hasattr(datamodule, "load_state_dict"):
            datamodule.load_state_dict(checkpoint["datamodule"])
    _restore_loops(trainer, checkpoint)
    trainer.sources.first_batches_drawn_from = checkpoint.get("first_batches")
    runs = [*checkpoint["outer_runs"], checkpoint]
    restore_run(trainer, trainer.run, runs[0], checkpoint)
    trainer.arguments_to_change = checkpoint.get("changed_arguments", {})
    if not any(isinstance(loop, FitLoop) for loop in loops_in(trainer.fit_loop)):
        trainer.change_arguments()
    if len(runs) == 1:
        restore_module(trainer, checkpoint)
    return runs[1:]


def restore_module(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Put back what is the module's in the innermost run beside its weights, after its callbacks and optimizers."""
    module, modes, gradients = trainer.module, checkpoint["modes"], checkpoint["gradients"]
    with taking_back("the module cannot take back its state"):
        restore_buffers(module, checkpoint.get("buffers", {}))
        restore_metric_states(module, checkpoint["torchmetrics"])
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
    if modes is not None:
        restore_modes(module, modes)
    if trainer.arrival is not None:
        trainer.arrival.note(trainer.run)


def _restore_loops(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    top = trainer.fit_loop
    with taking_back("a loop cannot take back its state"):
        try:
            top.load_state_dict(checkpoint["loop_tree"])
            for name, state in checkpoint["evaluation_loops"].items():
                trainer._loops[name].load_state_dict(state)
        except ConfigurationError as error:
            raise CheckpointError(str(error)) from error
    saved = checkpoint["loop_tree"]["progress"]
    if saved["current"] and not saved["running"]:  # a fit that had ended goes on where it ended
        top.progress.current = saved["current"]
        top.__dict__["_restarting"] = True


def _hyperparameters(owner: Any, kind: type[HyperparametersMixin]) -> dict[str, Any]:
    """Those of a module or data module, ours or Lightning's, under the keys of its kind."""
    return {
        kind.CHECKPOINT_HYPER_PARAMS_NAME: getattr(owner, "_hparams_name", None) or "kwargs",
        kind.CHECKPOINT_HYPER_PARAMS_BASES: list(getattr(owner, "_hparams_of_bases", ())),
        kind.CHECKPOINT_HYPER_PARAMS_KEY: saved_hyperparameters(owner),
    }


def _running_evaluations(trainer: Lifecycle) -> dict[str, Any]:
    loops = {name: trainer._loops[name] for name in ("validate_loop", "test_loop")}
    return {name: loop.state_dict() for name, loop in loops.items() if loop.progress.running}


def _changes_in(owner: Any, changes: AttributeChanges | None) -> dict[str, Any]:
    return changes.state_dict(owner) if changes is not None else {}


def _gradients(trainer: Lifecycle) -> dict[str, Any]:
    """The gradients gathered so far, where the next batch adds to them or may read them."""
    module, state, number = trainer.module, trainer.state, trainer.accumulate_grad_batches
    if getattr(module, "automatic_optimization", True) and (
        state.is_last_batch or (state.batch_idx + 1) % number == 0 or not trainer.run.optimizers_or_none()
    ):
        return {}
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
