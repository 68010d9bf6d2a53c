"""What must be the same when a run is resumed, because it would change the result."""

from __future__ import annotations

import inspect
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning, differences
from torchloops.named import Named, by_name, lost
from torchloops.trainer.plain import plain, plain_or_none

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle

__all__ = [
    "changed_arguments", "check_settings", "collect_settings", "hyperparameters_of", "logged_hyperparameters",
    "saved_hyperparameters", "warn_of_other_threads",
]  # fmt: skip

_ARGUMENTS = (
    "accumulate_grad_batches", "check_val_every_n_epoch", "gradient_clip_algorithm", "gradient_clip_val",
    "limit_train_batches", "limit_val_batches", "overfit_batches", "reload_dataloaders_every_n_epochs",
    "val_check_interval",
)  # fmt: skip
_FREE = {
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "num_workers", "data_dir", "root", "download",
    "verbose", "name", "log_every_n_steps",
}  # fmt: skip
"""Hyper-parameters of a module that may change: those that extend a run, and those that no result depends on."""


def collect_settings(trainer: Lifecycle) -> dict[str, Any]:
    """Settings by the name that a message calls them by, as plain data."""
    hparams = hyperparameters_of(trainer.module)
    return {
        "precision": trainer.engine.precision,
        "number of processes": trainer.world_size,
        **{name: _as_plain(trainer.arguments[name]) for name in _ARGUMENTS},
        **{f"hyper-parameter {name}": value for name, value in hparams.items() if name not in _FREE},
    }


def _as_plain(argument: Any) -> Any:
    return str(argument) if isinstance(argument, timedelta) else argument


def hyperparameters_of(module: Any) -> dict[str, Any]:
    """The module's hyper-parameters as plain data: classes, functions and the like as text, by name.

    Those that have no name (modules, lambdas) are left out: nobody could tell them apart.
    """
    found = {}
    for name, value in _given(module).items():
        as_plain = plain_or_none(value)
        if as_plain is not None or value is None:
            found[name] = as_plain
        elif not _is_lost(named := _by_name(value)):
            found[name] = repr(named)
    return found


def saved_hyperparameters(module: Any) -> dict[str, Any]:
    """The module's hyper-parameters as a file holds them: plain data, and the others by name.

    A default that has no name is left out: the constructor has it.
    """
    defaults = inspect.signature(type(module).__init__).parameters
    found = {name: _by_name(value) for name, value in _given(module).items()}
    return {
        name: value
        for name, value in found.items()
        if not (_is_lost(value) and name in defaults and module.hparams[name] is defaults[name].default)
    }


def _given(module: Any) -> dict[str, Any]:
    return dict(getattr(module, "hparams", None) or {})


def _by_name(value: Any) -> Any:
    try:
        return plain(by_name(value), "")
    except CheckpointError:
        return lost(value)


def _is_lost(value: Any) -> bool:
    return isinstance(value, Named) and not value.name


def logged_hyperparameters(trainer: Lifecycle) -> dict[str, Any]:
    """The hyper-parameters of module and data module that were not kept from the loggers.

    Raises:
        ConfigurationError: both have one by the same name, with different values.
    """
    owners = [trainer.module, trainer.datamodule]
    module, data = (dict(owner.hparams) if getattr(owner, "_log_hyperparams", False) else {} for owner in owners)
    twice = [name for name in module.keys() & data.keys() if differences({name: module[name]}, {name: data[name]})]
    if twice:
        raise ConfigurationError(
            f"The hyper-parameters {sorted(twice)} have one value in {type(owners[0]).__name__} and another in "
            f"{type(owners[1]).__name__}, and loggers hold one by each name. Rename one, or leave it out of what the "
            "loggers get: save_hyperparameters(logger=False)."
        )
    return {**module, **data}


def changed_arguments(trainer: Lifecycle) -> dict[str, Any]:
    """Arguments of the Trainer that were set anew since, as a callback does that accumulates more batches later."""
    now = {name: vars(trainer).get(name, value) for name, value in trainer.arguments.items() if name in _ARGUMENTS}
    return {name: plain_or_none(value) for name, value in now.items() if value != trainer.arguments[name]}


def check_settings(trainer: Lifecycle, saved: dict[str, Any]) -> None:
    """Refuse to resume with settings that would change the result; those that only one side knows are left alone.

    Raises:
        CheckpointError: some have changed; it names them with both values.
    """
    changed = differences(saved, collect_settings(trainer))
    if changed:
        raise CheckpointError(
            f"The run to resume had other settings: {'; '.join(changed)}. Resume it with its own settings, or begin a "
            "new fit from its weights: load_from_checkpoint."
        )


def warn_of_other_threads(trainer: Lifecycle, before: int | None) -> None:
    """Warn where torch computes with another number of threads than when the run was saved, which it may change.

    Args:
        trainer: its fit was just restored.
        before: threads of torch at the start of the fit that was saved; None: not known.
    """
    now = torch.get_num_threads()
    if before in (None, now) or trainer.engine.device.type != "cpu":
        return
    warnings.warn(
        f"The run to resume computed with {before} threads of torch, and there are {now} now: last digits may differ. "
        f"Set torch.set_num_threads({before}), or OMP_NUM_THREADS={before} before the program starts.",
        ResumeWarning,
        stacklevel=2,
    )
