"""Turning the Trainer's arguments into what it works with, and refusing those that contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from torchloops.callbacks.of_lightning import is_of_lightning_kind, refuse_those_of_lightning
from torchloops.errors import ConfigurationError
from torchloops.files import given_path
from torchloops.folders import make_next_folder, next_folder
from torchloops.hooks import is_overridden
from torchloops.loggers import CSVLogger, PrefixedLogger
from torchloops.trainer.state import Limits

if TYPE_CHECKING:
    from torchloops.trainer.trainer import Trainer

__all__ = [
    "add_model_summary",
    "callback_key",
    "check_limits",
    "check_module",
    "check_state_keys",
    "default_callbacks",
    "default_loggers",
    "find_directory",
    "inner_loggers",
    "make_limits",
    "parse_interval",
]


def make_limits(
    max_epochs: int | None,
    max_steps: int,
    min_epochs: int | None,
    min_steps: int | None,
    max_time: Any,
    fast: int,
) -> tuple[Limits, list[str]]:
    """The limits of a fit from the Trainer's arguments, and a line for each argument that is wrong."""
    if fast:
        return Limits(max_epochs=1), []
    limits = {"max_epochs": max_epochs, "max_steps": max_steps, "min_epochs": min_epochs, "min_steps": min_steps}
    wrong = [
        f"{name} is a number of {name[4:]} (int)"
        f"{' or -1 for no limit' if name.startswith('max') else ', 0 or more'}, got {value!r}."
        for name, value in limits.items()
        if value is not None and (not isinstance(value, int) or value < (-1 if name.startswith("max") else 0))
    ]
    try:
        seconds = _seconds(max_time)
    except (TypeError, ValueError):
        seconds = None
        wrong.append(
            f'max_time is a timedelta, a dict of its arguments, a text "DD:HH:MM:SS" or seconds, got {max_time!r}.'
        )
    if max_epochs is None:
        max_epochs = -1 if max_steps != -1 or max_time is not None else 1000
    return Limits(max_epochs, max_steps, min_epochs or 0, min_steps or 0, seconds), wrong


def _seconds(max_time: Any) -> float | None:
    if max_time is None:
        return None
    if isinstance(max_time, dict):
        max_time = timedelta(**max_time)
    if isinstance(max_time, timedelta):
        return max_time.total_seconds()
    if isinstance(max_time, str):
        days, hours, minutes, seconds = map(int, max_time.split(":"))
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    return float(max_time)


def parse_interval(given: Any) -> tuple[Any, list[str]]:
    """``val_check_interval``, a time in any form as a timedelta, and a line if it is wrong."""
    if not isinstance(given, timedelta | dict | str):
        return given, []
    try:
        seconds = _seconds(given) or 0.0
    except (TypeError, ValueError):
        seconds = 0.0
    if seconds > 0:
        return timedelta(seconds=seconds), []
    return 1.0, [
        f'val_check_interval as a time is a timedelta above 0, a dict of its arguments, or a text "DD:HH:MM:SS", got '
        f"{given!r}."
    ]


def _is_share(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and value >= 0 and not (isinstance(value, float) and value > 1.0)


def check_limits(trainer: Trainer, wrong: list[str]) -> None:
    """Refuse arguments that make no sense, all of them in one error.

    Args:
        trainer: the Trainer that has them.
        wrong: lines about others that were found wrong before.

    Raises:
        ConfigurationError: with a line for each wrong argument.
    """
    names = {"train": "train", "validate": "val", "test": "test", "predict": "predict"}
    shares = {f"limit_{name}_batches": trainer.limit_batches[stage] for stage, name in names.items()}
    shares["overfit_batches"] = trainer.overfit_batches
    interval = trainer.val_check_interval
    shares |= {} if isinstance(interval, timedelta) else {"val_check_interval": interval}
    wrong += [
        f"{name} is a number of batches (int, 0 or more) or a share of them (float, 0.0 to 1.0), got {value!r}."
        for name, value in shares.items()
        if value is not None and not _is_share(value)
    ]
    if trainer.val_check_interval == 0:
        wrong.append("val_check_interval is above 0; to leave validation out set limit_val_batches=0.")
    counts = {name: getattr(trainer, name) for name in ("accumulate_grad_batches", "log_every_n_steps")}
    if trainer.check_val_every_n_epoch is not None:
        counts["check_val_every_n_epoch"] = trainer.check_val_every_n_epoch
    wrong += [
        f"{name} is an int of 1 or more, got {value!r}."
        for name, value in counts.items()
        if not isinstance(value, int) or value < 1
    ]
    every = trainer.reload_dataloaders_every_n_epochs
    if not isinstance(every, int) or every < 0:
        wrong.append(f"reload_dataloaders_every_n_epochs is a number of epochs (int), 0 or more, got {every!r}.")
    tried = trainer.num_sanity_val_steps
    if not isinstance(tried, int) or tried < -1:
        wrong.append(f"num_sanity_val_steps is a number of batches (int), or -1 for all of them, got {tried!r}.")
    if trainer.deterministic not in (True, False, "warn"):
        wrong.append(f'deterministic is True, False or "warn", got {trainer.deterministic!r}.')
    if trainer.gradient_clip_algorithm not in ("norm", "value"):
        wrong.append(f'gradient_clip_algorithm is "norm" or "value", got {trainer.gradient_clip_algorithm!r}.')
    if trainer.gradient_clip_val is not None and trainer.gradient_clip_val < 0:
        wrong.append(f"gradient_clip_val is 0 or more, or None, got {trainer.gradient_clip_val!r}.")
    if trainer.check_val_every_n_epoch is None and isinstance(trainer.val_check_interval, float):
        wrong.append("check_val_every_n_epoch=None counts batches over epochs and needs an int val_check_interval.")
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def default_callbacks(callbacks: Any, progress_bar: bool, checkpointing: bool, fast: bool) -> list[Any]:
    """The callbacks given, with a progress bar where it is wanted and missing."""
    from torchloops.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

    if callbacks is None:
        callbacks = []
    found = list(callbacks) if isinstance(callbacks, Iterable) and not _has_hooks(callbacks) else [callbacks]
    for callback in found:
        if isinstance(callback, type):
            raise ConfigurationError(f"Callbacks are objects, got the class {callback.__name__}. Give an instance.")
        if not _has_hooks(callback):
            raise ConfigurationError(f"A callback has hooks (on_train_start, ...); {callback!r} has none.")
    refuse_those_of_lightning(found)
    given = any(isinstance(callback, ModelCheckpoint) for callback in found)
    if given and not checkpointing:
        raise ConfigurationError("A ModelCheckpoint was given with enable_checkpointing=False. Leave one of them out.")
    has_bar = any(isinstance(one, RichProgressBar) or is_of_lightning_kind(one, "ProgressBar") for one in found)
    if progress_bar and not has_bar:
        found.append(RichProgressBar())
    if fast:
        found = [callback for callback in found if not isinstance(callback, EarlyStopping | ModelCheckpoint)]
    return found


def _has_hooks(callback: Any) -> bool:
    return any(name.startswith("on_") or name == "setup" for name in dir(callback))


def add_model_summary(callbacks: list[Any], terminal_only: bool) -> None:
    """Add a `ModelSummary` to callbacks that have none."""
    from torchloops.callbacks import ModelSummary

    if not any(isinstance(one, ModelSummary) or is_of_lightning_kind(one, "ModelSummary") for one in callbacks):
        callbacks.append(ModelSummary(terminal_only=terminal_only))


def check_module(name: str, model: Any, last: Any) -> None:
    """Refuse what an entry point (``name``) cannot run.

    Raises:
        ConfigurationError: no module at all, no ``nn.Module``, or what ``torch.compile`` made of one.
    """
    if model is None and last is None:
        raise ConfigurationError(f"trainer.{name}() needs a module the first time. Give one: trainer.{name}(module).")
    if model is not None and not isinstance(model, nn.Module):
        raise ConfigurationError(f"trainer.{name}() takes an nn.Module, got {type(model).__name__}.")
    if hasattr(model, "_orig_mod"):
        raise ConfigurationError(
            f"trainer.{name}() takes the module itself, got what torch.compile made of it. Compile the part that "
            "computes (self.net = torch.compile(self.net)), or in place: module.compile()."
        )


def check_state_keys(callbacks: list[Any]) -> None:
    """Refuse callbacks whose states a checkpoint could not tell apart.

    Raises:
        ConfigurationError: two callbacks with a state have the same ``state_key``.
    """
    seen = set()
    for callback in callbacks:
        key = callback_key(callback)
        if key in seen and is_overridden(callback, "state_dict"):
            raise ConfigurationError(
                f"Two callbacks have the state_key {key!r}, so a checkpoint could hold the state of only one. "
                "Leave one out, or define `state_key` on them."
            )
        seen.add(key)


def callback_key(callback: Any) -> str:
    """The name under which a checkpoint holds the state of a callback."""
    return getattr(callback, "state_key", type(callback).__qualname__)


def default_loggers(logger: Any, directory: Path) -> list[Any]:
    """The loggers of a run: a CSV file for True, none for False."""
    if not logger:
        return []
    if logger is True:
        return [CSVLogger(directory)]
    several = isinstance(logger, Iterable) and not hasattr(logger, "log_metrics")
    loggers = list(logger) if several else [logger]
    for given in loggers:
        if not hasattr(given, "log_metrics"):
            raise ConfigurationError(
                f"logger= takes True, False, or objects with `log_metrics`, got {given!r}. "
                "For a CSV file: True, or CSVLogger(folder)."
            )
    return loggers


def inner_loggers(loggers: list[Any], directory: Path, name: str) -> list[Any]:
    """Loggers of an inner run: a CSV file of its own, other loggers shared under a prefix."""
    return [
        CSVLogger(directory) if isinstance(logger, CSVLogger) else PrefixedLogger(logger, f"{name}/")
        for logger in loggers
    ]


def find_directory(root: str | Path | None, make: bool) -> Path:
    """``root``, or the next free ``runs/fit/NNN``, which is made if asked to, so that no other run takes it."""
    if root is not None:
        return given_path(root, "default_root_dir")
    base = Path("runs", "fit")
    try:
        return make_next_folder(base) if make else next_folder(base)
    except OSError:  # whoever writes to it says so
        return next_folder(base)
