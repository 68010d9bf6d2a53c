"""ModelCheckpoint: keep the best, the last, or the k best checkpoints of a fit."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from torchloops.callbacks.callback import Callback
from torchloops.callbacks.checkpoint_names import checkpoint_name, state_moved_to
from torchloops.callbacks.monitoring import (
    acts_at_train_epoch_end,
    check_mode,
    is_better,
    monitored_value,
    same_on_all_ranks,
    worst,
)
from torchloops.callbacks.written_files import WrittenFiles
from torchloops.errors import CheckpointError, CheckpointWriteError, ConfigurationError, ResumeWarning
from torchloops.files import given_path
from torchloops.paths import is_inside
from torchloops.schema import COUNT, Either, Whole, check, scalar

__all__ = ["ModelCheckpoint"]

_STATE = {
    "folder": str, "best_model_path": str, "best_model_score": Either(scalar, None), "best_k_models": {str: scalar},
    "last_model_path": str, "current_score": Either(scalar, None), "last_step": Either(COUNT, None),
    "saved_at?": [Whole(-1)], "is_due?": bool, "watches_validation?": bool, "saved_step?": Either(Whole(-1), None),
    "written?": [str], "driven_out?": str,
}  # fmt: skip

_log = logging.getLogger("torchloops")


class ModelCheckpoint(Callback):
    """Save checkpoints during a fit: the best, the last, or the best k.

    Without ``monitor`` it keeps ``last.ckpt``, the newest state. With one it keeps ``best.ckpt``, or with
    ``save_top_k`` other than 1 files such as ``epoch=3-step=120.ckpt``; ``save_last=True`` adds ``last.ckpt``.
    A file is removed only after the one that takes its place is written, and only if this callback wrote it; where one
    cannot be written, it warns, the best are those that there are, and training goes on.
    In the run's own folder files of former runs are replaced; in a ``dirpath`` of yours they are kept, and new
    ones get ``-v1``, ``-v2`` at the end of the name. So do files whose name another ModelCheckpoint of the fit has
    taken. NaN counts as worse than any number.

    It is not needed for resuming: by itself the Trainer keeps ``checkpoints/last.ckpt``, at the end of a batch or an
    epoch, as often as ``checkpoint_every`` says, and ``last.previous.ckpt``. The ``last.ckpt`` of this callback in the
    run's own folder is that very file, written once more at the end of an epoch; it too can be resumed from.

    In a fold or a round its files hold that run alone: weights, optimizers, schedulers, callbacks. What resumes the
    study around it is the Trainer's ``checkpoints/last.ckpt``.

    A resumed run decides as the uninterrupted one would have, and ends with the same files: those written or removed
    after the checkpoint, before the run was killed, change nothing. A run whose folder was moved goes on with the files
    in the new place; one that is resumed into another folder still knows the best files of the old one, and leaves
    them there.

    Args:
        dirpath: folder of the files. Inner runs use folders below it, such as ``fold_0``. Default:
            ``checkpoints`` in the run's folder.
        filename: name without ``.ckpt``, with ``{epoch}``, ``{step}`` or any logged name in braces, as in
            ``"{epoch}-{val/loss:.2f}"``. Default: as above.
        monitor: name of the logged value that says what is best, or "epoch" or "step"; None: newer is better.
        mode: "min": lower is better; "max": higher is better.
        save_top_k: how many of the best to keep; -1: every one; 0: none. Without ``monitor``: 1, 0 or -1.
        save_last: keep also the newest as ``last.ckpt``, a file of its own also where this is "link"; with
            ``save_weights_only`` in the run's own folder as ``last-weights.ckpt``, since the Trainer resumes from
            ``last.ckpt``.
        every_n_epochs: save after every so many epochs; 0: never. Default: 1, unless ``every_n_train_steps``.
        every_n_train_steps: save after every so many optimizer steps instead; where ``monitor`` is a value of
            validation, at the validation after them, so that the file has the weights that gave the value.
        train_time_interval: save after the first batch that ends so much later than the last save instead.
        save_on_train_epoch_end: save when the training epoch ends (True) or when validation ends (False).
            Default: True where validation runs once an epoch or not at all.
        auto_insert_metric_name: write ``epoch=3`` for ``{epoch}``; False: only ``3``.
        save_weights_only: leave out all that only resuming needs.
        save_on_exception: an error that ends the fit leaves ``exception-epoch=3-step=120.ckpt``, the state as it was
            then; in one process, for others may wait elsewhere.
        enable_version_counter: False: replace files of former runs in a ``dirpath`` too.
        verbose: write what is saved to the logger "torchloops" of `logging`.

    Attributes:
        dirpath: the folder, as text once a fit has begun; before, as it was given.
        best_model_path, last_model_path: file, as text; empty before there is one.
        best_model_score: value of ``monitor`` at the best, a tensor of one element, or None.
        best_k_models: value by file of those kept.
        kth_best_model_path: the worst of those kept.
        current_score: value at the last save, or None.

    Raises:
        ConfigurationError: arguments contradict each other, or the value is never logged.
    """

    order = 3
    CHECKPOINT_NAME_LAST = "last"
    CHECKPOINT_NAME_LAST_WEIGHTS = "last-weights"
    FILE_EXTENSION = ".ckpt"

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | str | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
    ) -> None:
        if dirpath is not None:
            given_path(dirpath, "dirpath")  # an empty one is refused here
        self._dirpath = dirpath
        self.filename = filename
        self.monitor = monitor
        self.mode = mode
        self.save_top_k = save_top_k
        self.save_last = save_last
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self.auto_insert_metric_name = auto_insert_metric_name
        self.save_weights_only = save_weights_only
        self.verbose = verbose
        self.save_on_exception = save_on_exception
        self.train_time_interval = train_time_interval
        self.enable_version_counter = enable_version_counter
        self._check_arguments()
        saves_by_batch = bool(every_n_train_steps or train_time_interval)
        self._every_n_epochs = int(not saves_by_batch) if every_n_epochs is None else every_n_epochs
        self._switch_hook(ModelCheckpoint, "on_train_batch_end", saves_by_batch)
        self._saved_time = 0.0
        self._training = False
        self._forget()

    def _forget(self) -> None:
        """Start over, as a new run does."""
        self.best_model_path = ""
        self.best_model_score: Tensor | None = None
        self.best_k_models: dict[str, Tensor] = {}
        self.last_model_path = ""
        self.current_score: Tensor | None = None
        self.folder: Path | None = None
        self._notes: WrittenFiles | None = None  # in a folder of the user's, which others may write to
        self._written: set[str] = set()
        self._driven_out = ""
        self._last_step: int | None = None
        self._saved_at: tuple[int, ...] = ()
        self._is_due = self._watches_validation = False
        self._has_rivals = False

    @property
    def dirpath(self) -> str | Path | None:
        return self._dirpath if self.folder is None else str(self.folder)

    @property
    def state_key(self) -> str:
        options = ("monitor", "mode", "filename", "every_n_epochs", "every_n_train_steps")
        return f"ModelCheckpoint({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self._training = False
        if stage == "fit":
            self._forget()
            own = Path(trainer.run_dir) / "checkpoints"
            self.folder = self._find_folder(trainer)
            if os.path.abspath(self.folder) != os.path.abspath(own):
                self._notes = WrittenFiles(own, f"{self.state_key} {self.folder}")
            self._has_rivals = any(other.monitor is not None for other in self._others(trainer))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._training = True
        self._saved_time = monotonic()
        if self._last_step is None:
            self._last_step = trainer.global_step
        if self._notes is not None and not trainer.continues_a_run and not self._written and trainer.is_global_zero:
            self._notes.forget()
        self._remove(trainer, self._driven_out)  # the run may have been killed just before
        self._driven_out = ""

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._training = False

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        every = self.every_n_train_steps
        step = trainer.global_step
        if every and step // every > (self._last_step or 0) // every:
            self._is_due = True
            self._last_step = step
        interval = self.train_time_interval
        if interval and same_on_all_ranks(trainer, monotonic() - self._saved_time >= interval.total_seconds()):
            self._is_due = True
            self._saved_time = monotonic()
        if self._is_due and not self._watches_validation:
            # a value of validation does not exist yet in the first epoch
            self._save(trainer, strict=trainer.current_epoch > 0)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if not self._training:
            return
        self._watches_validation = trainer.run.is_of_validation(self.monitor)
        if self._is_due and self._watches_validation:
            self._save(trainer)
        if not acts_at_train_epoch_end(trainer, module, self.save_on_train_epoch_end):
            self._save_epoch(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if acts_at_train_epoch_end(trainer, module, self.save_on_train_epoch_end):
            self._save_epoch(trainer)

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if not (self.save_on_exception and self._training and trainer.world_size == 1):
            return
        values = {**trainer.callback_metrics, "epoch": trainer.current_epoch, "step": trainer.global_step}
        name = self.format_checkpoint_name(values, "exception-{epoch}-{step}")
        try:
            self._write(trainer, self._path(trainer, name, True, False))
        except Exception as error:  # the first one is what the user is to see
            warnings.warn(f"The state at the error could not be saved. {error}", ResumeWarning, stacklevel=2)

    def format_checkpoint_name(
        self, metrics: Mapping[str, Any], filename: str | None = None, ver: int | None = None
    ) -> str:
        """The path of a checkpoint with these values, ``epoch`` and ``step`` among them.

        Args:
            metrics: numbers or tensors of one element, by name.
            filename: another template. Default: this callback's.
            ver: version to add, as in ``best-v1.ckpt``.
        """
        template = filename or self.filename or self._default_name()
        name = checkpoint_name(template, metrics, self.auto_insert_metric_name)
        version = f"-v{ver}" if ver is not None else ""
        file = f"{name}{version}{self.FILE_EXTENSION}"
        return str(self.folder / file) if self.folder is not None else file

    def state_dict(self) -> dict[str, Any]:
        known = {*self._written, *self.best_k_models, self.best_model_path, self.last_model_path}
        return {
            "folder": str(self.folder),
            "best_model_path": self.best_model_path,
            "best_model_score": self.best_model_score,
            "best_k_models": {path: score.item() for path, score in self.best_k_models.items()},
            "last_model_path": self.last_model_path,
            "current_score": self.current_score,
            "last_step": self._last_step,
            "saved_at": [*self._saved_at],
            "is_due": self._is_due,
            "watches_validation": self._watches_validation,
            "written": sorted(path for path in known - {""} if self.folder in Path(path).parents),
            "driven_out": self._driven_out,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "ModelCheckpoint: state")
        state = state_dict if self.folder is None else state_moved_to(self.folder, state_dict)
        self.best_model_path = state["best_model_path"]
        self.best_model_score = state["best_model_score"]
        self.best_k_models = {
            path: torch.as_tensor(score, dtype=torch.float64) for path, score in state["best_k_models"].items()
        }
        self.current_score = state["current_score"]
        self._last_step = state["last_step"]
        self._saved_at = tuple(state.get("saved_at", ()))
        self._is_due = state.get("is_due", False)
        self._watches_validation = state.get("watches_validation", False)
        if self.folder is None or str(self.folder) == state["folder"]:
            self.last_model_path = state["last_model_path"]
            known = {*self.best_k_models, self.best_model_path, self.last_model_path} - {""}
            own = {path for path in known if self.folder is not None and is_inside(path, self.folder)}
            self._written = set(state.get("written", own))
            self._driven_out = state.get("driven_out", "")
            self._check_written()

    # inside

    def _check_written(self) -> None:
        """Refuse files as ours that this callback cannot have written: it would remove them."""
        for path in sorted(self._written) if self.folder is not None else ():
            if not (path.endswith(self.FILE_EXTENSION) and is_inside(path, self.folder)):
                raise CheckpointError(
                    f"The checkpoint says that {type(self).__name__} wrote {path}. Expected files in {self.folder} "
                    f"that end in {self.FILE_EXTENSION}: only such are removed when better ones come. The checkpoint "
                    "was edited; resume from one that was not, or begin a new fit from its weights."
                )

    @property
    def kth_best_model_path(self) -> str:
        pick = max if self.mode == "min" else min
        return pick(self.best_k_models, key=self._score_of) if self.best_k_models else ""

    def _score_of(self, path: str) -> float:
        return self.best_k_models[path].item()

    def _default_name(self) -> str:
        if self.save_top_k != 1:
            return "{epoch}-{step}"
        if self.monitor is None:
            return self._name_of_last()
        return f"best-{self.monitor.replace('/', '_')}" if self._has_rivals else "best"

    def _others(self, trainer: Any) -> list[ModelCheckpoint]:
        """The other callbacks of this kind in the fit."""
        callbacks = getattr(trainer, "callbacks", [])
        return [other for other in callbacks if isinstance(other, ModelCheckpoint) and other is not self]

    def _name_of_last(self) -> str:
        beside_the_trainers = self.save_weights_only and self._notes is None
        return self.CHECKPOINT_NAME_LAST_WEIGHTS if beside_the_trainers else self.CHECKPOINT_NAME_LAST

    def _find_folder(self, trainer: Any) -> Path:
        if self._dirpath is None:
            return Path(trainer.run_dir) / "checkpoints"
        return Path(self._dirpath).expanduser() / trainer.run_name

    def _save_epoch(self, trainer: Any) -> None:
        every = self._every_n_epochs
        if every and (trainer.current_epoch + 1) % every == 0:
            self._save(trainer)

    def _save(self, trainer: Any, strict: bool = True) -> None:
        step = trainer.global_step
        now = step, trainer.current_epoch, trainer.run.state.batch_idx
        if now == self._saved_at:
            return
        score = None
        if self.monitor is not None:
            counted = {"epoch": trainer.current_epoch, "step": step}
            if self.monitor in counted and self.monitor not in trainer.callback_metrics:
                score = float(counted[self.monitor])
            else:
                score = monitored_value(self, trainer, self.monitor, strict)
            if score is None:
                return
            score = worst(self.mode) if math.isnan(score) else score
            self.current_score = torch.tensor(score, dtype=torch.float64)
        self._saved_at, self._last_step, self._is_due = now, step, False
        values = {**trainer.callback_metrics, "epoch": trainer.current_epoch, "step": step}
        last = self._path_of_last(trainer, values) if self.save_last else ""
        last_before, self.last_model_path = self.last_model_path, last or self.last_model_path
        path, is_written, has_last = "", False, False
        if self.save_top_k and (score is None or self._is_among_best(score)):
            is_newest = score is None and self.filename is None
            path = self._path(trainer, self.format_checkpoint_name(values), self.save_top_k == 1, is_newest)
            is_written = self._keep(trainer, path, score)
        if last:
            has_last = is_written if last == path else self._write(trainer, last)
            self.last_model_path = last if has_last else last_before
        if is_written or has_last:
            trainer.run.tell_loggers_of_a_checkpoint(self)

    def _is_among_best(self, score: float) -> bool:
        if self.save_top_k == -1 or len(self.best_k_models) < self.save_top_k:
            return True
        return is_better(score, self._score_of(self.kth_best_model_path), self.mode)

    def _keep(self, trainer: Any, path: str, score: float | None) -> bool:
        """Write a checkpoint that is one of the best, and only then remove the one it drives out; False: it failed."""
        before = {name: getattr(self, name) for name in ("best_model_path", "best_model_score", "last_model_path")}
        models, driven_out = self.best_k_models.copy(), ""
        if score is None:
            if self.save_top_k == 1 and self.best_model_path != path:
                driven_out = self.best_model_path
            self.best_model_path = path
            if self.filename is None and self.save_top_k == 1:
                self.last_model_path = path
        else:
            if len(self.best_k_models) == self.save_top_k and path not in self.best_k_models:
                driven_out = self.kth_best_model_path
                del self.best_k_models[driven_out]
            self.best_k_models[path] = torch.tensor(score, dtype=torch.float64)
            pick = min if self.mode == "min" else max
            self.best_model_path = pick(self.best_k_models, key=self._score_of)
            self.best_model_score = self.best_k_models[self.best_model_path]
        self._driven_out = driven_out  # part of the state in the file: resumed from, it removes what this run cannot
        is_written = self._write(trainer, path)
        self._driven_out = ""
        if is_written:
            self._remove(trainer, driven_out)
        else:
            vars(self).update(before, best_k_models=models)
        return is_written

    def _path_of_last(self, trainer: Any, values: Mapping[str, Any]) -> str:
        return self._path(trainer, self.format_checkpoint_name(values, self._name_of_last()), True, True)

    def _path(self, trainer: Any, path: str, replace: bool, is_newest: bool) -> str:
        """``path``, or the first version of it that is free.

        Args:
            replace: our own file may be replaced.
            is_newest: the file is for the newest state, which is that of other callbacks in the run's own folder, too.
        """
        base, version = path.removesuffix(self.FILE_EXTENSION), 0
        while self._is_taken(trainer, path, replace, is_newest):
            version += 1
            path = f"{base}-v{version}{self.FILE_EXTENSION}"
        return same_on_all_ranks(trainer, path)

    def _is_taken(self, trainer: Any, path: str, replace: bool, is_newest: bool) -> bool:
        if path in self._written:
            return not replace
        for other in self._others(trainer):
            if path in other._written and not (is_newest and path == other.last_model_path):
                return True
        if self._notes is None or not self.enable_version_counter or not Path(path).exists():
            return False
        was_ours_before_the_kill = trainer.continues_a_run and path in self._notes.read()
        return not was_ours_before_the_kill

    def _write(self, trainer: Any, path: str) -> bool:
        """Write a checkpoint; False, with a warning: it cannot be written."""
        if self._notes is not None and path not in self._written and trainer.is_global_zero:
            with suppress(OSError):  # then the checkpoint cannot be written either, which all processes are told
                self._notes.note(path)
        try:
            trainer.save_checkpoint(path, self.save_weights_only, inner_run_only=True)
        except CheckpointWriteError as error:
            warnings.warn(f"Training goes on without this checkpoint. {error}", ResumeWarning, stacklevel=2)
            return False
        self._written.add(path)
        if self.verbose and trainer.is_global_zero:
            _log.info("ModelCheckpoint: epoch %d, step %d: %s", trainer.current_epoch, trainer.global_step, path)
        return True

    def _remove(self, trainer: Any, path: str) -> None:
        if path and path in self._written and path != self.last_model_path:
            self._written.discard(path)
            if trainer.is_global_zero:
                with suppress(OSError):  # a folder that cannot be written to any more
                    Path(path).unlink(missing_ok=True)

    def _check_arguments(self) -> None:
        check_mode(self, self.mode)
        if self.save_top_k < -1 or (self.monitor is None and self.save_top_k > 1):
            raise ConfigurationError(
                f"ModelCheckpoint(save_top_k={self.save_top_k}) "
                + (
                    "needs a monitor: the name of a logged value that says which ones are best."
                    if self.save_top_k > 1
                    else "is a number of files, or -1 for all."
                )
            )
        for name in ("every_n_epochs", "every_n_train_steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ConfigurationError(f"ModelCheckpoint({name}=...) is an int of 0 or more, got {value!r}.")
        is_newest_and_whole = self.monitor is None and not self.save_weights_only
        if self.filename == self.CHECKPOINT_NAME_LAST and self._dirpath is None and not is_newest_and_whole:
            raise ConfigurationError(
                f'ModelCheckpoint(filename="last", monitor={self.monitor!r}, save_weights_only='
                f"{self.save_weights_only}) would overwrite checkpoints/last.ckpt, from which the Trainer resumes. "
                "Give another filename, or a dirpath."
            )
        if sum(map(bool, (self.every_n_epochs, self.every_n_train_steps, self.train_time_interval))) > 1:
            raise ConfigurationError(
                "ModelCheckpoint saves every_n_epochs, every_n_train_steps or by train_time_interval, one of them. "
                "Give several callbacks."
            )
        if not isinstance(self.train_time_interval, timedelta | None):
            raise ConfigurationError(
                f"ModelCheckpoint(train_time_interval=...) is a datetime.timedelta, got {self.train_time_interval!r}."
            )
