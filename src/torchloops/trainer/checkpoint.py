"""What a checkpoint holds: collected from a whole run, and put back into one."""

from __future__ import annotations

import os
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.seeding import random_state, restore_random_state
from torchloops.trainer.arguments import callback_key
from torchloops.trainer.checkpoint_file import FORMAT

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle

__all__ = ["collect_checkpoint", "find_checkpoint", "restore_checkpoint"]

_LIGHTNING_VERSION = "2.6.0"  # the layout of the keys that Lightning's own readers look at
_PLAIN = (str, int, float, bool, bytes, type(None), torch.Tensor, torch.Size, torch.dtype, torch.device)


def collect_checkpoint(trainer: Lifecycle, weights_only: bool = False) -> dict[str, Any]:
    """Everything a run needs to go on, as plain data.

    Keys: Lightning's (``epoch``, ``global_step``, ``state_dict``, ``optimizer_states``, ``lr_schedulers``,
    ``callbacks``, ``hyper_parameters``), and ours: ``format``, ``loop_tree``, ``results``, ``torchmetrics``,
    ``data``, ``random``, ``seconds``, ``should_stop``, ``metrics``.

    Args:
        trainer: the Trainer whose current run is saved.
        weights_only: leave out all that only training needs.

    Raises:
        CheckpointError: something in it is no plain data, so a safe load would refuse it.
    """
    module, run = trainer.module, trainer.run
    checkpoint: dict[str, Any] = {
        "format": FORMAT,
        "pytorch-lightning_version": _LIGHTNING_VERSION,
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": module.state_dict(),
        "hparams_name": getattr(module, "_hparams_name", None) or "kwargs",
        "hyper_parameters": _savable_hyperparameters(module),
    }
    if not weights_only:
        checkpoint |= {
            "optimizer_states": [optimizer.state_dict() for optimizer in run.optimizers_or_none()],
            "lr_schedulers": [config.scheduler.state_dict() for config in run.schedulers_or_none()],
            "precision": trainer.engine.precision_state(),
            "callbacks": _callback_states(trainer),
            "datamodule": _state_of(trainer.datamodule),
            "loop_tree": trainer.fit_loop.state_dict(),
            "results": run.results_for("train").state_dict(),
            "torchmetrics": _torchmetrics_states(module),
            "data": run.data_state(),
            "metrics": {name: torch.as_tensor(value) for name, value in run.callback_metrics.items()},
            "random": random_state(),
            "seconds": run.state.seconds,
            "should_stop": run.state.should_stop,
        }
        for callback in run.callbacks:
            if is_overridden(callback, "on_save_checkpoint"):
                callback.on_save_checkpoint(trainer, module, checkpoint)
    if is_overridden(module, "on_save_checkpoint"):
        module.on_save_checkpoint(checkpoint)
    return {name: _plain(value, name) for name, value in checkpoint.items()}


def find_checkpoint(trainer: Lifecycle, ckpt_path: str | Path) -> str | Path:
    """The file that "best" or "last" stands for, or the path itself.

    Raises:
        CheckpointError: there is no such file.
    """
    if ckpt_path not in ("best", "last"):
        return ckpt_path
    for callback in trainer.checkpoint_callbacks:
        path = getattr(callback, f"{ckpt_path}_model_path", "")
        if path:
            return path
    path = trainer.run.dir / "checkpoints" / f"{ckpt_path}.ckpt"
    if not path.is_file():
        raise CheckpointError(
            f'ckpt_path="{ckpt_path}": there is no such checkpoint; looked at ModelCheckpoint and {path}. '
            "Give a path, or the default_root_dir of the run that wrote it."
        )
    return path


def load_weights(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Load the module's part of a checkpoint.

    Raises:
        CheckpointError: the weights are of another module.
    """
    module = trainer.module
    if is_overridden(module, "on_load_checkpoint"):
        module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"], strict=getattr(module, "strict_loading", True) is not False)
    except RuntimeError as error:
        raise CheckpointError(f"The checkpoint is of another module than {type(module).__name__}: {error}") from error


def restore_checkpoint(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Put a fit back to where a checkpoint was taken.

    Raises:
        CheckpointError: it holds weights only, or its optimizers, schedulers or loops are others.
    """
    if "loop_tree" not in checkpoint:
        raise CheckpointError(
            "This checkpoint cannot be resumed: it holds weights only. Load it with "
            f"{type(trainer.module).__name__}.load_from_checkpoint and start a new fit."
        )
    run = trainer.run
    for callback in run.callbacks:
        if is_overridden(callback, "on_load_checkpoint"):
            callback.on_load_checkpoint(trainer, trainer.module, checkpoint)
    load_weights(trainer, checkpoint)
    if checkpoint["optimizer_states"]:  # none: no loop had asked for the optimizers, as in an outer loop's own run
        _restore_each("optimizers", trainer.optimizers, checkpoint["optimizer_states"])
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        _restore_each("learning-rate schedulers", schedulers, checkpoint["lr_schedulers"])
    trainer.engine.load_precision_state(checkpoint["precision"])
    _restore_callbacks(trainer, checkpoint["callbacks"])
    if checkpoint["datamodule"] and hasattr(trainer.datamodule, "load_state_dict"):
        trainer.datamodule.load_state_dict(checkpoint["datamodule"])
    try:
        trainer.fit_loop.load_state_dict(checkpoint["loop_tree"])
    except ConfigurationError as error:
        raise CheckpointError(str(error)) from error
    run.results_for("train").load_state_dict(checkpoint["results"])
    _restore_torchmetrics(trainer.module, checkpoint["torchmetrics"])
    run.pending_data_state = checkpoint["data"]
    run.callback_metrics.update(checkpoint["metrics"])
    run.state.current_epoch = checkpoint["epoch"]
    run.state.global_step = checkpoint["global_step"]
    run.state.should_stop = checkpoint["should_stop"]
    run.state.seconds_before = checkpoint["seconds"]
    restore_random_state(checkpoint["random"])


def warn_if_done(trainer: Lifecycle) -> None:
    """Warn that a fit that was just restored has reached its limits already."""
    state, fit_loop = trainer.state, trainer.fit_loop
    if not fit_loop.restarting and "max_epochs" in dir(fit_loop) and fit_loop.done:
        warnings.warn(
            f"Nothing is left to do: the checkpoint is at epoch {state.current_epoch}, step {state.global_step}, and "
            f"the limits are max_epochs={fit_loop.max_epochs}, max_steps={trainer.max_steps}. Raise them to go on.",
            stacklevel=4,
        )


def _restore_each(what: str, targets: list[Any], states: list[Any]) -> None:
    if len(targets) != len(states):
        raise CheckpointError(
            f"The checkpoint holds {len(states)} {what}, the module configures {len(targets)}. "
            "Resume with the module as it was when saved."
        )
    for target, state in zip(targets, states, strict=True):
        try:
            target.load_state_dict(state)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"The checkpoint's {what} do not fit the module's: {error}") from error


def _torchmetrics_states(module: Any) -> dict[str, Any]:
    """What the torchmetrics metrics of the module have gathered so far in the epoch."""
    return {
        name: {"updates": part._update_count, "state": dict(part.metric_state)}
        for name, part in module.named_modules()
        if hasattr(part, "metric_state") and part.update_called
    }


def _restore_torchmetrics(module: Any, states: dict[str, Any]) -> None:
    for name, part in module.named_modules():
        if name in states:
            for attribute, value in states[name]["state"].items():
                setattr(part, attribute, value)
            part._update_count, part._computed = states[name]["updates"], None


def _callback_states(trainer: Lifecycle) -> dict[str, Any]:
    states = {}
    for callback in trainer.run.callbacks:
        state = _state_of(callback)
        if state:
            states[callback_key(callback)] = state
    return states


def _restore_callbacks(trainer: Lifecycle, states: dict[str, Any]) -> None:
    for callback in trainer.run.callbacks:
        state = states.get(callback_key(callback))
        if state:
            callback.load_state_dict(state)


def _state_of(owner: Any) -> Any:
    return owner.state_dict() if hasattr(owner, "state_dict") else {}


def _savable_hyperparameters(module: Any) -> dict[str, Any]:
    """The module's hyper-parameters that are plain data; the others (modules, functions) cannot be loaded safely."""
    found = {}
    for name, value in dict(getattr(module, "hparams", None) or {}).items():
        try:
            found[name] = _plain(value, name)
        except CheckpointError:
            continue
    return found


def _plain(value: Any, path: str) -> Any:
    """``value`` with numpy numbers, arrays and paths made plain; nothing else than plain data passes."""
    if isinstance(value, Enum):
        return _plain(value.value, path)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        items = {key: _plain(item, f"{path}.{key}") for key, item in value.items()}
        return (
            OrderedDict(items)
            if isinstance(value, OrderedDict)
            else Counter(items)
            if isinstance(value, Counter)
            else items
        )
    if isinstance(value, list | tuple | set):
        items_ = [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items_ if isinstance(value, list) else (tuple(items_) if isinstance(value, tuple) else set(items_))
    raise CheckpointError(
        f"The checkpoint cannot hold {path}: it is a {type(value).__name__}, and only plain data (numbers, strings, "
        "tensors, lists, dicts) can be loaded safely. Save a description of it in on_save_checkpoint instead."
    )
