"""What a Trainer shows: its loops, and of its current run the names that modules, callbacks and loops use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.loops import EvaluationLoop, Loop
from torchloops.loops.checks import check_is_loop
from torchloops.loops.tree import draw_tree
from torchloops.trainer.data import Batches
from torchloops.trainer.engine import Engine
from torchloops.trainer.run import Run
from torchloops.trainer.sources import DataSources
from torchloops.trainer.state import TrainerState

__all__ = ["TrainerView"]


class TrainerView:
    """The loops of a Trainer, and the names by which it answers questions about its run."""

    engine: Engine
    run: Run
    sources: DataSources
    accumulate_grad_batches: int
    _module: nn.Module | None
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
        return self.run.train_batches.loader

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

    # logged values

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of every logged name."""
        return self.run.callback_metrics

    logged_metrics = callback_metrics

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
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        return [callback for callback in self.run.callbacks if hasattr(callback, "stopped_epoch")]

    @property
    def early_stopping_callback(self) -> Any:
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def loggers(self) -> list[Any]:
        return self.run.loggers

    @property
    def logger(self) -> Any:
        return self.run.loggers[0] if self.run.loggers else None

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

    def autocast(self) -> Any:
        """The context of the run's precision."""
        return self.engine.autocast()

    def to_device(self, batch: Any) -> Any:
        """``batch`` (a tensor or a nested collection of them) on the run's device."""
        return self.engine.to_device(batch)
