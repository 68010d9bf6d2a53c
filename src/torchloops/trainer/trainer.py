"""The Trainer: owns one tree of loops, and all that the loops run on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops import EvaluationLoop, FitLoop, Loop, PredictionLoop
from torchloops.loops.tree import draw_tree, loops_in
from torchloops.module import attach_module, release_module
from torchloops.seeding import isolated_generators
from torchloops.trainer.arguments import (
    check_limits,
    default_callbacks,
    default_loggers,
    find_directory,
    first_batches,
    inner_loggers,
    make_limits,
)
from torchloops.trainer.checkpoint import (
    collect_checkpoint,
    load_weights,
    read_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)
from torchloops.trainer.engine import Engine
from torchloops.trainer.run import Run, find_loaders, train_is_single
from torchloops.trainer.snapshot import Snapshot, module_modes
from torchloops.trainer.state import TrainerState
from torchloops.trainer.view import TrainerView

__all__ = ["Trainer"]


class Trainer(TrainerView):
    """Runs a module on data by a tree of loops that you can change.

        trainer = Trainer(max_epochs=10)
        trainer.fit_loop = MyLoop()          # optional: another algorithm
        trainer.fit(module, datamodule=data)

    Every call of `fit` is a new run: counters from 0, new optimizers, schedulers, loggers and callback states;
    the weights are those the module has. To continue a run instead, give ``ckpt_path``.

    Args:
        accelerator, devices, strategy, precision, num_nodes: as Lightning Fabric takes them.
        max_epochs: epochs a fit has at most; -1: no limit. Default: 1000, or no limit where ``max_steps`` is set.
        max_steps: optimizer steps a fit has at most; -1: no limit.
        min_epochs, min_steps: ``should_stop`` and early stopping are heeded only after these.
        max_time: a ``timedelta``, a dict of its arguments, ``"DD:HH:MM:SS"``, or seconds.
        limit_train_batches, limit_val_batches, limit_test_batches, limit_predict_batches: batches an epoch has
            at most (int), or the share of them (float). Default: all.
        fast_dev_run: run this many batches (True: 1) of each stage once, without loggers and checkpoints.
        overfit_batches: train and validate on these first training batches (int, or float share); 0: off.
        val_check_interval: validate after every so many batches (int) or this share of an epoch (float).
        check_val_every_n_epoch: validate in every n-th epoch; None: count batches over epochs.
        num_sanity_val_steps: validation batches tried before training; -1: all.
        log_every_n_steps: batches between two values for loggers.
        accumulate_grad_batches: batches an optimizer step has; the loss is divided by it.
        gradient_clip_val: clip gradients to this norm or value before each step; None: do not.
        gradient_clip_algorithm: "norm" or "value".
        deterministic: True: only deterministic operations; "warn": warn where there is none.
        inference_mode: evaluate in ``torch.inference_mode`` (True) or ``torch.no_grad`` (False).
        use_distributed_sampler: give each process its share of the data.
        reload_dataloaders_every_n_epochs: ask for the loaders again every so many epochs; 0: once.
        callbacks: one or a list.
        logger: True: a CSV file in the run folder; False: none; or one or a list of loggers.
        default_root_dir: folder for the run's files; yours, files in it are replaced. Default: a new numbered
            folder ``runs/fit/000``, made when something is written.
        enable_progress_bar: show progress.
        enable_checkpointing: keep the last epoch's checkpoint where no `ModelCheckpoint` is given.

    Raises:
        ConfigurationError: arguments that contradict each other.
    """

    def __init__(
        self,
        accelerator: Any = "auto",
        devices: Any = "auto",
        strategy: Any = "auto",
        precision: Any = None,
        num_nodes: int = 1,
        max_epochs: int | None = None,
        max_steps: int = -1,
        min_epochs: int | None = None,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | float | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        fast_dev_run: int | bool = False,
        overfit_batches: int | float = 0,
        val_check_interval: int | float = 1.0,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int = 2,
        log_every_n_steps: int = 50,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str = "norm",
        deterministic: bool | str = False,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        reload_dataloaders_every_n_epochs: int = 0,
        callbacks: Any = None,
        logger: Any = True,
        default_root_dir: str | Path | None = None,
        enable_progress_bar: bool = True,
        enable_checkpointing: bool = True,
    ) -> None:
        fast = int(fast_dev_run)
        self.limit_batches = {
            "train": fast or limit_train_batches,
            "validate": fast or limit_val_batches,
            "test": fast or limit_test_batches,
            "predict": fast or limit_predict_batches,
            "sanity_check": None if num_sanity_val_steps == -1 else num_sanity_val_steps,
        }
        self.fast_dev_run = fast
        self.overfit_batches = overfit_batches
        self.val_check_interval = 1.0 if fast else val_check_interval
        self.check_val_every_n_epoch = 1 if fast else check_val_every_n_epoch
        self.num_sanity_val_steps = 0 if fast or overfit_batches else num_sanity_val_steps
        self.log_every_n_steps = log_every_n_steps
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.deterministic = deterministic
        self.inference_mode = inference_mode
        self.use_distributed_sampler = use_distributed_sampler
        self.reload_dataloaders_every_n_epochs = reload_dataloaders_every_n_epochs
        self.default_root_dir = default_root_dir
        self.datamodule: Any = None
        limits = make_limits(max_epochs, max_steps, min_epochs, min_steps, max_time, fast)
        check_limits(self)
        self.engine = Engine(accelerator, devices, num_nodes, strategy, precision)
        self._configured_callbacks = default_callbacks(callbacks, enable_progress_bar, enable_checkpointing, bool(fast))
        self._logger = False if fast else logger
        self._module = None
        self._given: dict[str, Any] = {}
        self._ready_stages: set[str] = set()
        self._overfit: list[Any] | None = None
        self._fresh_callbacks: list[Any] | Exception = []
        state = TrainerState(limits=limits)
        self.run = Run(self, "", Path(default_root_dir or "runs"), state, self._configured_callbacks, [])
        self._loops: dict[str, Loop] = {}
        self.fit_loop = FitLoop()
        self.validate_loop = EvaluationLoop("validate")
        self.test_loop = EvaluationLoop("test")
        self.predict_loop = PredictionLoop()

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
        if not isinstance(loop, Loop):
            hint = f" Assign an instance: {loop.__name__}(...)." if isinstance(loop, type) else ""
            raise ConfigurationError(f"trainer.{name} takes a Loop, got {loop!r}.{hint}")
        loop.trainer = self
        self._loops[name] = loop

    def loop_tree(self) -> str:
        """The loops of fit, validate, test and predict as a tree with their progress, to be printed."""
        return "\n".join(draw_tree(loop, name) for name, loop in self._loops.items())

    # entry points

    def fit(
        self,
        model: nn.Module,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
    ) -> None:
        """Train ``model``.

        Args:
            model: a `LoopModule`, a ``LightningModule`` or an ``nn.Module`` with ``training_step``.
            train_dataloaders: an iterable of batches, or a data module.
            val_dataloaders: one or a list.
            datamodule: a `DataModule` or ``LightningDataModule``.
            ckpt_path: continue the run saved there: a path, or "last" for the newest of this run folder.

        Raises:
            TorchloopsError: something does not fit together; its message says what and what to do.
        """
        given = {"train": train_dataloaders, "validate": val_dataloaders}
        with self._entry("fit", model, given, datamodule):
            self._start_fit(ckpt_path)
            self.call_hook("on_fit_start")
            self._sanity_check()
            self.fit_loop.run()
            self.call_hook("on_fit_end")

    def finetune(
        self,
        model: nn.Module,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        strategy: Any = "freeze",
        ckpt_path: str | Path | None = None,
    ) -> None:
        """`fit` with the backbone of ``model`` (its attribute ``backbone``) frozen or partly frozen.

        Args:
            strategy: "freeze", "no_freeze", ("freeze_unfreeze", epoch), or a callback.
        """
        from torchloops.callbacks.finetuning import resolve_finetuning

        configured = self._configured_callbacks
        self._configured_callbacks = [*configured, resolve_finetuning(strategy)]
        try:
            self.fit(model, train_dataloader, val_dataloaders, datamodule, ckpt_path)
        finally:
            self._configured_callbacks = configured

    def validate(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
    ) -> Any:
        """Run the validation loop and return its logged values, one dict a data loader."""
        return self._evaluate("validate", model, dataloaders, datamodule, ckpt_path)

    def test(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
    ) -> Any:
        """Run the test loop and return its logged values, one dict a data loader."""
        return self._evaluate("test", model, dataloaders, datamodule, ckpt_path)

    def predict(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
    ) -> Any:
        """Return what ``predict_step`` gave: a list of batches; a list of those for several data loaders."""
        return self._evaluate("predict", model, dataloaders, datamodule, ckpt_path)

    def save_checkpoint(self, filepath: str | Path, weights_only: bool = False) -> None:
        """Write the current run to a file, atomically; in several processes all of them call it."""
        checkpoint = collect_checkpoint(self, weights_only)
        if self.is_global_zero:
            write_checkpoint(checkpoint, filepath)
        self.engine.barrier()

    def call_hook(self, name: str, *args: Any) -> Any:
        """Call a hook of any name on the callbacks and the module that have it; return the module's value."""
        output = None
        for hook in self.run.hooks(name, last=None):
            value = hook(*args)
            if getattr(hook, "__self__", None) is self.module:
                output = value
        return output

    # for outer loops

    def snapshot(self) -> Snapshot:
        """The module as it is now, for `isolated` to start from."""
        return Snapshot(self.module)

    @contextmanager
    def isolated(self, name: str, start: Snapshot | None = None, seed: int | None = None) -> Iterator[Run]:
        """A context in which loops run as if on a Trainer of their own.

            start = self.trainer.snapshot()
            with self.trainer.isolated("round_0", start=start) as run:
                self.fit_loop.run()
                scores = self.trainer.evaluate("test")

        Inside, optimizers, schedulers, counters, callbacks and loggers are fresh, data loaders are asked for
        again, and files go to a folder of the run's own. After it, counters, stage, gradient mode and the
        module's modes are as before; the weights stay as trained. Isolated runs nest.

        Args:
            name: the run's folder and metric prefix, for instance ``"fold_0"``.
            start: put the module back to this first; None: keep its weights.
            seed: seed the random generators inside, and restore them after; None: let them go on.
        """
        outer = self.run
        run = Run(
            self,
            f"{outer.name}/{name}" if outer.name else name,
            outer.dir / name,
            outer.state.fresh(),
            self._make_fresh_callbacks(),
            inner_loggers(outer.loggers, outer.dir / name, name),
        )
        with ExitStack() as stack:
            stack.enter_context(module_modes(self.module))
            stack.enter_context(torch.set_grad_enabled(True))
            if seed is not None:
                stack.enter_context(isolated_generators(seed))
            if start is not None:
                start.restore(self.module)
            stack.callback(self._switch_run, outer)
            self._switch_run(run)
            stack.callback(self._close_run, run)
            self._call_callbacks("setup", "fit")
            self.call_hook("on_fit_start")
            yield run
            self.call_hook("on_fit_end")

    def evaluate(self, stage: str) -> dict[str, float]:
        """Run the "validate" or "test" loop inside a fit and return its values; empty where there is no such data."""
        loop = self.validate_loop if stage == "validate" else self.test_loop
        step = {"validate": "validation_step", "test": "test_step"}[stage]
        self._setup_stage(stage)
        if not is_overridden(self.module, step) or not self.run.batches(stage):
            return {}
        before = self.run.state.stage
        try:
            output = loop.run()
        finally:
            self.run.enter_stage(before)
        merged: dict[str, float] = {}
        for metrics in output if isinstance(output, list) else []:
            merged.update(metrics)
        return merged

    def loaders(self, stage: str) -> list[Any]:
        """The data loaders of a stage, asked for anew."""
        if self.overfit_batches and stage in ("train", "validate"):
            if self._overfit is None:
                loaders = find_loaders("train", self._given.get("train"), self.datamodule, self._module)
                train_is_single(loaders)
                self._overfit = first_batches(loaders[0], self.overfit_batches) if loaders else []
            return [self._overfit] if self._overfit else []
        loaders = find_loaders(stage, self._given.get(stage), self.datamodule, self._module)
        if stage == "train":
            train_is_single(loaders)
        return loaders

    def batch_limit(self, stage: str) -> int | float | None:
        """How many batches of a stage run (int), or which share of them (float); None: all."""
        return self.limit_batches["sanity_check" if self.sanity_checking else stage]

    def batch_mover(self) -> Any:
        """``move(batch, dataloader_idx)`` that brings a batch to the device; None where nothing is to do."""
        return self.engine.batch_mover((self.module, self.datamodule), is_overridden)

    def log_step(self) -> None:
        """Hand the values of the step to the loggers; loops call it every ``log_every_n_steps`` batches."""
        metrics = self.run.results_for("train").step_metrics("logger")
        self.run.send_to_loggers({name: float(value) for name, value in metrics.items()})

    # inside

    @contextmanager
    def _entry(self, name: str, model: nn.Module | None, given: dict[str, Any], datamodule: Any) -> Iterator[None]:
        """Everything around a call of fit, validate, test or predict."""
        stage = next(iter(given))
        if datamodule is None and hasattr(given[stage], f"{'val' if stage == 'validate' else stage}_dataloader"):
            datamodule, given[stage] = given[stage], None
        if model is None and self._module is None:
            raise ConfigurationError(
                f"trainer.{name}() needs a module the first time. Give one: trainer.{name}(module)."
            )
        if model is not None and not isinstance(model, nn.Module):
            raise ConfigurationError(f"trainer.{name}() takes an nn.Module, got {type(model).__name__}.")
        self._module = model if model is not None else self._module
        self._given, self._overfit = given, None
        self._ready_stages = set()
        if datamodule is not None or any(value is not None for value in given.values()):
            self.datamodule = datamodule
        if self.datamodule is not None:
            self.datamodule.trainer = self
        self.engine.launch()
        self._use_deterministic()
        with ExitStack() as stack:
            stack.callback(release_module, self.module)
            attach_module(self.module, self)
            stack.callback(self.engine.release_module)
            self._begin_run(name)
            stack.callback(self._close_run, self.run, name)
            try:
                self._prepare_data()
                self._setup_stage(name)
                yield
            except BaseException as error:
                self.call_hook("on_exception", error)
                raise

    def _begin_run(self, name: str) -> None:
        """A new run for a fit; validate, test and predict go on with the last one."""
        if name == "fit":
            self._fresh_callbacks = _copies(self._configured_callbacks)
            directory = self.engine.broadcast(find_directory(self.default_root_dir))
            loggers = default_loggers(self._logger, directory)
            self._switch_run(Run(self, "", directory, self.run.state.fresh(), [*self._configured_callbacks], loggers))
            self._add_module_callbacks()
        else:
            self._switch_run(self.run)

    def _switch_run(self, run: Run) -> None:
        self.run = run
        for loop in self._loops.values():
            loop.trainer = self  # loops forget what they had bound for the run before
        if self._module is not None and run.state.stage is not None:
            run.enter_stage(run.state.stage)

    def _close_run(self, run: Run, name: str = "") -> None:
        """Tear down a run, the outermost one with all loops and the data."""
        if name:
            for loop in self._loops.values():
                for part in loops_in(loop):
                    part.teardown()
            self._call_setup_hooks("teardown", name)
        else:
            self._call_callbacks("teardown", "fit")
        for logger in run.loggers:
            logger.finalize("success")
        run.close()
        run.state.stage = None

    def _start_fit(self, ckpt_path: str | Path | None) -> None:
        if is_overridden(self.module, "configure_model"):
            self.module.configure_model()
        self.engine.setup_module(self.module, training=True)
        if not self.module.training:
            self.module.train()
        for loop in loops_in(self.fit_loop):
            loop.progress.current = loop.progress.total = 0
            loop.__dict__["_restarting"] = False
        self.run.enter_stage("train")
        if ckpt_path is not None:
            restore_checkpoint(self, read_checkpoint(self._resolve(ckpt_path)))

    def _evaluate(
        self,
        stage: str,
        model: nn.Module | None,
        dataloaders: Any,
        datamodule: Any,
        ckpt_path: str | Path | None,
    ) -> Any:
        with self._entry(stage, model, {stage: dataloaders}, datamodule):
            self.run.reload(stage)
            self.engine.setup_module(self.module, training=False)
            if ckpt_path is not None:
                load_weights(self, read_checkpoint(self._resolve(ckpt_path)))
            return self._loops[f"{stage}_loop"].run()

    def _resolve(self, ckpt_path: str | Path) -> str | Path:
        """The file that "best" or "last" stands for, or the path itself."""
        if ckpt_path not in ("best", "last"):
            return ckpt_path
        for callback in self.checkpoint_callbacks:
            path = getattr(callback, f"{ckpt_path}_model_path", "")
            if path:
                return path
        path = self.run.dir / "checkpoints" / f"{ckpt_path}.ckpt"
        if not path.is_file():
            raise ConfigurationError(
                f'ckpt_path="{ckpt_path}": there is no such checkpoint; looked at ModelCheckpoint and {path}. '
                "Give a path."
            )
        return path

    def _sanity_check(self) -> None:
        """Try a few validation batches, leaving generators and logged values untouched."""
        loop = getattr(getattr(self.fit_loop, "epoch_loop", None), "val_loop", None)
        if not self.num_sanity_val_steps or not isinstance(self.fit_loop, FitLoop) or not isinstance(loop, Loop):
            return
        if loop.skip or self.fit_loop.restarting:
            return
        with isolated_generators():
            self.run.enter_stage("sanity_check")
            self.call_hook("on_sanity_check_start")
            loop.run()
            self.call_hook("on_sanity_check_end")
        self.run.forget("validate")
        self.run.enter_stage("train")

    def _prepare_data(self) -> None:
        owners = [owner for owner in (self.datamodule, self.module) if is_overridden(owner, "prepare_data")]
        if owners and self.local_rank == 0:
            for owner in owners:
                owner.prepare_data()
        if owners:
            self.engine.barrier()

    def _setup_stage(self, stage: str) -> None:
        """Call the setup hooks of a stage, once an entry."""
        if stage not in self._ready_stages:
            self._ready_stages.add(stage)
            self._call_setup_hooks("setup", stage)

    def _call_setup_hooks(self, hook: str, stage: str) -> None:
        if is_overridden(self.datamodule, hook):
            getattr(self.datamodule, hook)(stage)
        self.call_hook(hook, stage)

    def _call_callbacks(self, hook: str, *args: Any) -> None:
        for callback in self.run.callbacks:
            if is_overridden(callback, hook):
                getattr(callback, hook)(self, self.module, *args)

    def _add_module_callbacks(self) -> None:
        """Add the callbacks of ``configure_callbacks``; one of a type given to the Trainer takes its place."""
        if is_overridden(self.module, "configure_callbacks"):
            own = self.module.configure_callbacks()
            own = list(own) if isinstance(own, list | tuple) else [own]
            types = {type(callback) for callback in own}
            self.run.callbacks = [c for c in self.run.callbacks if type(c) not in types] + own
            self._fresh_callbacks = _copies(self.run.callbacks)

    def _make_fresh_callbacks(self) -> list[Any]:
        if isinstance(self._fresh_callbacks, Exception):
            raise ConfigurationError(
                "An inner run needs fresh copies of the callbacks, and one cannot be copied: "
                f"{self._fresh_callbacks}. Define `fresh()` on it."
            ) from self._fresh_callbacks
        return _copy_each(self._fresh_callbacks)

    def _use_deterministic(self) -> None:
        if self.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=self.deterministic == "warn")


def _copies(callbacks: list[Any]) -> list[Any] | Exception:
    """Copies of callbacks before a run touches them, or the error that says why there are none."""
    try:
        return _copy_each(callbacks)
    except Exception as error:  # raised again, with an explanation, only if an inner run asks for them
        return error


def _copy_each(callbacks: list[Any]) -> list[Any]:
    return [callback.fresh() if hasattr(callback, "fresh") else copy.deepcopy(callback) for callback in callbacks]
