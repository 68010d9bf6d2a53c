"""What happens around a run: beginning and ending it, and runs inside runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchloops.errors import ConfigurationError, DataError, did_you_mean
from torchloops.hooks import is_overridden
from torchloops.loops import EvaluationLoop, FitLoop, Loop
from torchloops.loops.evaluation_loop import run_evaluation
from torchloops.loops.tree import loops_in
from torchloops.module import attach_module, module_modes, release_module
from torchloops.seeding import isolated_generators
from torchloops.trainer.arguments import (
    check_module,
    check_state_keys,
    default_loggers,
    find_directory,
    inner_loggers,
)
from torchloops.trainer.callback_copies import CallbackCopies
from torchloops.trainer.checkpoint import (
    find_checkpoint,
    load_weights,
    restore_checkpoint,
    warn_if_done,
)
from torchloops.trainer.checkpoint_file import read_checkpoint
from torchloops.trainer.run import Run
from torchloops.trainer.snapshot import Snapshot
from torchloops.trainer.sources import DataSources
from torchloops.trainer.view import TrainerView

__all__ = ["Lifecycle"]


class Lifecycle(TrainerView):
    """The part of a Trainer that begins and ends runs; `Trainer` adds the entry points.

    Attributes:
        limit_batches: batches an epoch of each stage has at most.
    """

    limit_batches: dict[str, int | float | None]
    sources: DataSources
    num_sanity_val_steps: int
    deterministic: bool | str
    use_distributed_sampler: bool
    default_root_dir: str | Path | None
    _active: str | None
    _configured_callbacks: list[Any]
    _callback_copies: CallbackCopies
    _logger: Any

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
        self._check_is_fitting("isolated")
        outer = self.run
        outer.open_inner_run(name)
        run = Run(
            self,
            f"{outer.name}/{name}" if outer.name else name,
            outer.dir / name,
            outer.state.fresh(),
            self.fresh_callbacks(),
            inner_loggers(outer.loggers, outer.dir / name, name),
        )
        loops = [part for loop in self._loops.values() for part in loops_in(loop)]
        with ExitStack() as stack:
            stack.callback(_rebind, [(loop, loop._bound) for loop in loops])
            stack.enter_context(module_modes(self.module))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(True))
            if seed is not None:
                stack.enter_context(isolated_generators(seed))
            if start is not None:
                start.restore(self.module)
            if not self.module.training:
                self.module.train()
            stack.callback(self._switch_run, outer)
            self._switch_run(run)
            run.enter_stage("train")
            stack.callback(self._close_run, run)
            try:
                self._call_callbacks("setup", "fit")
                self.call_hook("on_fit_start")
                yield run
                run.finish_logging()
                self.call_hook("on_fit_end")
            except BaseException as error:
                run.status = "failed"
                self._call_callbacks("on_exception", error)
                raise

    def evaluate(self, stage: str) -> dict[str, float]:
        """Run the "validate" or "test" loop inside a fit and return its values; empty where there is no such data."""
        steps = {"validate": "validation_step", "test": "test_step"}
        if stage not in steps:
            raise ConfigurationError(
                f'evaluate() takes "validate" or "test", got {stage!r}.{did_you_mean(stage, steps)}'
            )
        self._check_is_fitting("evaluate")
        loop, step = self._loops[f"{stage}_loop"], steps[stage]
        self._setup_stage(stage)
        if not is_overridden(self.module, step) or not self.run.batches(stage):
            return {}
        before = self.run.state.stage
        try:
            output = run_evaluation(loop, stage)
        finally:
            self.run.enter_stage(before)
        merged: dict[str, float] = {}
        for metrics in output if isinstance(output, list) else []:
            merged.update(metrics)
        return merged

    @property
    def training_data(self) -> Any:
        """What the fit was given to train on: a data module, a loader or a data set; None where the module has it."""
        return self.datamodule if self.datamodule is not None else self.sources.given.get("train")

    @contextmanager
    def using_data(self, datamodule: Any) -> Iterator[None]:
        """A context in which all data come from ``datamodule``, whatever the fit was given.

        Outer loops that change the data of their inner runs use it inside `isolated`. ``datamodule`` is set up for
        the fit at the start; data asked for before is asked for again.
        """
        datamodule.trainer = self
        for stage in ("train", "validate", "test", "predict"):
            self.run.reload(stage)
        with self.sources.replaced_by(datamodule):
            yield

    def loaders(self, stage: str) -> list[Any]:
        """The data loaders of a stage, asked for anew."""
        loaders = self.sources.loaders(stage, self._module)
        if stage == "train":
            for loop in loops_in(self.fit_loop):
                loaders = [loop.on_train_dataloader(loader) for loader in loaders]
        return loaders

    def batch_limit(self, stage: str) -> int | float | None:
        """How many batches of a stage run (int), or which share of them (float); None: all."""
        limit = self.limit_batches[stage]
        if not self.sanity_checking or limit == 0:
            return limit
        tried = self.limit_batches["sanity_check"]
        return limit if tried is None or (isinstance(limit, int) and limit < tried) else tried

    def batch_mover(self) -> Any:
        """``move(batch, dataloader_idx)`` that brings a batch to the device; None where nothing is to do."""
        return self.engine.batch_mover((self.module, self.datamodule), is_overridden)

    def _check_is_fitting(self, name: str) -> None:
        if self._active is None:
            raise ConfigurationError(
                f"trainer.{name}() is for loops, callbacks and modules while trainer.fit() runs. "
                "Outside of it call trainer.fit, trainer.validate or trainer.test."
            )

    def call_hook(self, name: str, *args: Any) -> Any:
        """Call a hook of any name on the callbacks and the module that have it; return the module's value."""
        output = None
        for hook in self.run.hooks(name, last=None):
            value = hook(*args)
            if getattr(hook, "__self__", None) is self.module:
                output = value
        return output

    # inside

    @contextmanager
    def _entry(self, name: str, model: nn.Module | None, given: dict[str, Any], datamodule: Any) -> Iterator[None]:
        """Everything around a call of fit, validate, test or predict."""
        if self._active is not None:
            raise ConfigurationError(
                f"trainer.{name}() was called while trainer.{self._active}() runs. Inside a fit call "
                'trainer.evaluate("validate") or trainer.evaluate("test"), or use a second Trainer.'
            )
        check_module(name, model, self._module)
        self._module = model if model is not None else self._module
        self.sources.assign(given, datamodule, keep=name != "fit")
        if self.datamodule is not None:
            self.datamodule.trainer = self
        self.engine.launch()
        with ExitStack() as stack:
            stack.enter_context(self._deterministic_algorithms())
            stack.callback(setattr, self, "_active", None)
            self._active = name
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
                self.run.status = "failed"
                self.call_hook("on_exception", error)
                raise

    def _begin_run(self, name: str) -> None:
        """A new run for a fit; validate, test and predict go on with the last one."""
        self.run.state.fn = name
        if name == "fit":
            self._callback_copies = CallbackCopies(self._configured_callbacks)
            directory = self.engine.broadcast(find_directory(self.default_root_dir))
            loggers = default_loggers(self._logger, directory)
            self._switch_run(Run(self, "", directory, self.run.state.fresh(), [*self._configured_callbacks], loggers))
            self._add_module_callbacks()
            check_state_keys(self.run.callbacks)
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
                    part.progress.running = False
            for stage in self.sources.ready_stages:
                self._call_setup_hooks("teardown", stage)
        else:
            self._call_callbacks("teardown", "fit")
        for logger in run.loggers:
            logger.finalize(run.status)
        run.close()
        run.state.stage = None

    def _fit(self, ckpt_path: str | Path | None) -> None:
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
            restore_checkpoint(self, read_checkpoint(ckpt_path))
            warn_if_done(self)
        self.call_hook("on_fit_start")
        self._sanity_check()
        self.fit_loop.run()
        self.run.finish_logging()
        self.call_hook("on_fit_end")

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
                load_weights(self, read_checkpoint(find_checkpoint(self, ckpt_path)))
            loop = self._loops[f"{stage}_loop"]
            if isinstance(loop, EvaluationLoop):
                self._check_can_evaluate(stage)
            return run_evaluation(loop, stage)

    def _check_can_evaluate(self, stage: str) -> None:
        """Say early that there is nothing to evaluate with, or nothing to evaluate on."""
        step = {"validate": "validation_step", "test": "test_step"}.get(stage)
        if step is not None and not is_overridden(self.module, step):
            raise ConfigurationError(f"trainer.{stage}() needs `{step}` on {type(self.module).__name__}; define it.")
        if self.batch_limit(stage) != 0 and not self.run.batches(stage):
            raise DataError(
                f"trainer.{stage}() found no data. Give it data loaders or a data module that has them for this stage."
            )

    def _sanity_check(self) -> None:
        """Try a few validation batches, leaving generators and logged values untouched."""
        fit_loop = self.fit_loop
        loop: Any = getattr(getattr(fit_loop, "epoch_loop", None), "val_loop", None)
        if not self.num_sanity_val_steps or not isinstance(fit_loop, FitLoop) or not isinstance(loop, EvaluationLoop):
            return
        if fit_loop.restarting:
            return
        with isolated_generators(), self.run.forgetting("validate"):
            self.run.enter_stage("sanity_check")
            if not loop.skip:
                self.call_hook("on_sanity_check_start")
                loop.run()
                self.call_hook("on_sanity_check_end")
        for part in loops_in(loop):
            part.progress.current = part.progress.total = 0
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
        if stage not in self.sources.ready_stages:
            self.sources.ready_stages.append(stage)
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
            self._callback_copies = CallbackCopies(self.run.callbacks)

    def fresh_callbacks(self) -> list[Any]:
        """Copies of the callbacks as they were before the fit."""
        return self._callback_copies.make()

    @contextmanager
    def _deterministic_algorithms(self) -> Iterator[None]:
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            if self.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=self.deterministic == "warn")
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _rebind(loops: list[tuple[Loop, Any]]) -> None:
    """Give loops back what they had bound, so that one that was running when an inner run began can go on."""
    for loop, bound in loops:
        loop.__dict__["_bound"] = bound
