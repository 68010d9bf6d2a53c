"""What a Trainer shows: its loops, and of its current run the names that modules, callbacks and loops use."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.hooks import is_overridden
from torchloops.loops import EvaluationLoop, Loop
from torchloops.loops.checks import check_is_loop
from torchloops.loops.tree import draw_tree
from torchloops.profilers import timed
from torchloops.trainer.combined import CombinedLoader
from torchloops.trainer.data import Batches
from torchloops.trainer.engine import Engine
from torchloops.trainer.keeper import Keeper
from torchloops.trainer.kept_checkpoint import KeptCheckpoint
from torchloops.trainer.run import Run
from torchloops.trainer.sources import DataSources
from torchloops.trainer.state import TrainerState

__all__ = ["TrainerView"]


class TrainerView:
    """The loops of a Trainer, and the names by which it answers questions about its run."""

    engine: Engine
    run: Run
    sources: DataSources
    keeper: Keeper
    accumulate_grad_batches: int
    limit_batches: dict[str, int | float | None]
    profiler: Any
    resumed_from: Path | None
    _module: nn.Module | None
    _first_loggers: Callable[[], list[Any]]
    _has_fitted: bool = False
    _loops: dict[str, Any]

    @property
    def module(self) -> Any:
        """The module of the current or last run, unwrapped.

        Raises:
            ConfigurationError: nothing has been run yet.
        """
        if self._module is None:
            raise ConfigurationError("This Trainer has no module yet. Give one: trainer.fit(module, ...).")
        return self._module

    lightning_module = model = module

    # the four loops

    @property
    def fit_loop(self) -> Any:
        """The loop that `fit` runs."""
        return self._loops["fit_loop"]

    @fit_loop.setter
    def fit_loop(self, loop: Loop) -> None:
        self._set_loop("fit_loop", loop)

    @property
    def validate_loop(self) -> Any:
        """The loop that `validate` runs; validation inside `fit` is ``fit_loop.epoch_loop.val_loop``."""
        return self._loops["validate_loop"]

    @validate_loop.setter
    def validate_loop(self, loop: Loop) -> None:
        self._set_loop("validate_loop", loop)

    @property
    def test_loop(self) -> Any:
        """The loop that `test` runs."""
        return self._loops["test_loop"]

    @test_loop.setter
    def test_loop(self, loop: Loop) -> None:
        if isinstance(loop, EvaluationLoop):
            loop.stage = "test"
        self._set_loop("test_loop", loop)

    @property
    def predict_loop(self) -> Any:
        """The loop that `predict` runs."""
        return self._loops["predict_loop"]

    @predict_loop.setter
    def predict_loop(self, loop: Loop) -> None:
        self._set_loop("predict_loop", loop)

    def _set_loop(self, name: str, loop: Loop) -> None:
        check_is_loop(f"trainer.{name}", loop)
        loop.trainer = cast(Any, self)
        self._loops[name] = loop

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Loop) and not hasattr(type(self), name):
            raise ConfigurationError(
                f"A Trainer has no loop {name!r}; it has {list(self._loops)}.{did_you_mean(name, self._loops)}"
            )
        object.__setattr__(self, name, value)

    def loop_tree(self) -> str:
        """The loops of fit, validate, test and predict as a tree with their progress, to be printed."""
        return "\n".join(draw_tree(loop, name) for name, loop in self._loops.items())

    @property
    def datamodule(self) -> Any:
        """The data module of the current or last entry, or None."""
        return self.sources.datamodule

    # counters and limits

    @property
    def state(self) -> TrainerState:
        return self.run.state

    @property
    def current_epoch(self) -> int:
        """Epochs finished; during an epoch its index, from 0."""
        return self.run.state.current_epoch

    @property
    def global_step(self) -> int:
        """Optimizer steps taken, over all optimizers and time splits."""
        return self.run.state.global_step

    @property
    def should_stop(self) -> bool:
        """Set it to end the fit after the current batch, once ``min_epochs`` and ``min_steps`` are reached."""
        return self.run.state.should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        self.run.state.should_stop = value

    @property
    def max_epochs(self) -> int:
        return self.run.state.limits.max_epochs

    @property
    def max_steps(self) -> int:
        return self.run.state.limits.max_steps

    @property
    def min_epochs(self) -> int:
        return self.run.state.limits.min_epochs

    @property
    def min_steps(self) -> int:
        return self.run.state.limits.min_steps

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps of one optimizer that the fit will take; infinite where no limit or length is known."""
        max_epochs, max_steps = self.max_epochs, self.max_steps
        if max_epochs == -1:
            return max_steps if max_steps != -1 else math.inf
        batches = self.num_training_batches
        if math.isinf(batches):
            return max_steps if max_steps != -1 else math.inf
        steps = math.ceil(batches / self.accumulate_grad_batches) * max(max_epochs, 1)
        return min(steps, max_steps) if max_steps != -1 else steps

    @property
    def received_sigterm(self) -> bool:
        """Whether SIGTERM has come and the fit ends for it."""
        return self.keeper.received_sigterm

    @property
    def interrupted(self) -> bool:
        """Whether the last fit or evaluation was ended by Ctrl-C or a signal."""
        return self.state.status == "interrupted"

    # stage

    @property
    def training(self) -> bool:
        return self.run.state.stage == "train"

    @property
    def validating(self) -> bool:
        return self.run.state.stage == "validate"

    @property
    def testing(self) -> bool:
        return self.run.state.stage == "test"

    @property
    def predicting(self) -> bool:
        return self.run.state.stage == "predict"

    @property
    def sanity_checking(self) -> bool:
        return self.run.state.stage == "sanity_check"

    @property
    def evaluating(self) -> bool:
        """Whether the stage is "validate" or "test"."""
        return self.run.state.stage in ("validate", "test")

    @property
    def is_last_batch(self) -> bool:
        """Whether the current training batch ends its epoch."""
        return self.run.state.is_last_batch

    # optimizers

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers of ``configure_optimizers``."""
        return self.run.optimization.optimizers

    @property
    def stepping_optimizers(self) -> list[Any]:
        """The same optimizers, wrapped where precision or strategy need it: step with these."""
        return self.run.stepping_optimizers

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """Schedulers and when they step, as `SchedulerConfig`."""
        return self.run.optimization.schedulers

    # data

    @property
    def train_batches(self) -> Batches:
        """The training data: an iterable of batches that knows its length and position."""
        return self.run.train_batches

    @property
    def train_dataloader(self) -> Any:
        """The training loader, or the several of them as they were given."""
        loader = self.run.train_batches.loader
        return loader.iterables if isinstance(loader, CombinedLoader) else loader

    @property
    def val_dataloaders(self) -> Any:
        return self._loaders_of("validate")

    @property
    def test_dataloaders(self) -> Any:
        return self._loaders_of("test")

    @property
    def predict_dataloaders(self) -> Any:
        return self._loaders_of("predict")

    def _loaders_of(self, stage: str) -> Any:
        found = [batches.loader for batches in self.run.batches(stage)]
        return found[0] if len(found) == 1 else (found or None)

    @property
    def num_training_batches(self) -> float:
        """Batches of a training epoch; infinite where the loader does not say."""
        return self.run.train_batches.num_batches

    @property
    def num_val_batches(self) -> list[float]:
        return [batches.num_batches for batches in self.run.batches("validate")]

    @property
    def num_test_batches(self) -> list[float]:
        return [batches.num_batches for batches in self.run.batches("test")]

    @property
    def num_predict_batches(self) -> list[float]:
        return [batches.num_batches for batches in self.run.batches("predict")]

    @property
    def num_sanity_val_batches(self) -> list[float]:
        """Batches that are tried of each validation loader before training."""
        limit = self.limit_batches["sanity_check"]
        return [min(number, math.inf if limit is None else limit) for number in self.num_val_batches]

    @property
    def limit_train_batches(self) -> int | float | None:
        """Batches of a training epoch at most (int), or the share of them (float); None: all."""
        return self.limit_batches["train"]

    @property
    def limit_val_batches(self) -> int | float | None:
        """As `limit_train_batches`, of validation."""
        return self.limit_batches["validate"]

    @property
    def limit_test_batches(self) -> int | float | None:
        """As `limit_train_batches`, of test."""
        return self.limit_batches["test"]

    @property
    def limit_predict_batches(self) -> int | float | None:
        """As `limit_train_batches`, of prediction."""
        return self.limit_batches["predict"]

    @property
    def enable_validation(self) -> bool:
        """Whether there is a validation step, and data for it."""
        return is_overridden(self.module, "validation_step") and sum(self.num_val_batches) > 0

    # logged values

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of every logged name."""
        return self.run.callback_metrics

    @property
    def logged_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of every name that loggers get, without those of ``logger=False``."""
        return self.run.logged_metrics

    @property
    def progress_bar_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of what is logged with ``prog_bar=True``."""
        return self.run.progress_bar_metrics

    # callbacks, loggers, files

    @property
    def callbacks(self) -> list[Any]:
        return self.run.callbacks

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        return [callback for callback in self.run.callbacks if hasattr(callback, "best_model_path")]

    @property
    def checkpoint_callback(self) -> Any:
        """The first `ModelCheckpoint`; without one what shows the file that the Trainer keeps by itself, or None."""
        kept = KeptCheckpoint(self.keeper) if self.keeper.enabled else None
        return next(iter(self.checkpoint_callbacks), kept)

    @property
    def progress_bar_callback(self) -> Any:
        """The progress bar, or None."""
        return next((callback for callback in self.run.callbacks if hasattr(callback, "refresh_rate")), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        return [callback for callback in self.run.callbacks if hasattr(callback, "stopped_epoch")]

    @property
    def early_stopping_callback(self) -> Any:
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def loggers(self) -> list[Any]:
        """Those of the current run; before the first fit, those that it will have."""
        return self.run.loggers if self._has_fitted else self._first_loggers()

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return next(iter(self.loggers), None)

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint that the fit went on from, or None."""
        return None if self.resumed_from is None else str(self.resumed_from)

    @property
    def run_dir(self) -> Path:
        """Folder of what the current run writes."""
        return self.run.dir

    @property
    def log_dir(self) -> str:
        return str(self.run.dir)

    @property
    def run_name(self) -> str:
        """Path of the current inner run, such as ``"fold_0/round_3"``; empty for the outermost run."""
        return self.run.name

    # processes and devices

    @property
    def fabric(self) -> Any:
        """The Lightning Fabric object underneath."""
        return self.engine.fabric

    @property
    def strategy(self) -> Any:
        return self.engine.fabric.strategy

    @property
    def accelerator(self) -> Any:
        """Fabric's accelerator."""
        return self.engine.fabric.accelerator

    @property
    def precision_plugin(self) -> Any:
        """Fabric's precision, which converts inputs and scales losses."""
        return self.engine.fabric._precision

    @property
    def scaler(self) -> Any:
        """The scaler of losses under "16-mixed", or None."""
        return getattr(self.precision_plugin, "scaler", None)

    @property
    def device_ids(self) -> list[int]:
        """Numbers of the devices of this machine; 0 where they have none."""
        devices = getattr(self.strategy, "parallel_devices", None) or [self.engine.device]
        return [device.index or 0 for device in devices]

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return self.engine.num_nodes

    @property
    def node_rank(self) -> int:
        """Number of this machine."""
        return self.engine.fabric.node_rank

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """``num_replicas`` and ``rank`` for a sampler of your own; None in one process."""
        return {"num_replicas": self.world_size, "rank": self.global_rank} if self.world_size > 1 else None

    def init_module(self, empty_init: bool | None = None) -> Any:
        """A context in which a module is made on the device and in the precision of the run."""
        return self.engine.fabric.init_module(empty_init=empty_init)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process only."""
        if self.is_global_zero:
            print(*args, **kwargs)

    @property
    def precision(self) -> str:
        """The precision as Fabric names it, such as "32-true" or "bf16-mixed"."""
        return self.engine.precision

    @property
    def world_size(self) -> int:
        return self.engine.world_size

    @property
    def num_devices(self) -> int:
        return self.engine.world_size

    @property
    def global_rank(self) -> int:
        return self.engine.global_rank

    @property
    def local_rank(self) -> int:
        return self.engine.local_rank

    @property
    def is_global_zero(self) -> bool:
        return self.engine.is_global_zero

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time the profiler adds to that of the action ``name``, if there is a profiler."""
        if self.profiler is None:
            return function
        callback = getattr(getattr(function, "func", function), "__self__", None)
        named = hasattr(callback, name) and callback is not self._module
        return timed(self.profiler, f"[{type(callback).__name__}].{name}" if named else name, function)

    def autocast(self) -> Any:
        """The context of the run's precision."""
        return self.engine.autocast()

    def to_device(self, batch: Any) -> Any:
        """``batch`` (a tensor or a nested collection of them) on the run's device."""
        return self.engine.to_device(batch)
