"""What happens around an entry point: beginning and ending its run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from torchloops.errors import CheckpointError, ConfigurationError, DataError, ResumeWarning
from torchloops.folders import working_in
from torchloops.hooks import is_overridden
from torchloops.loggers import CSVLogger
from torchloops.loops import EvaluationLoop, FitLoop
from torchloops.loops.declared import watch
from torchloops.loops.evaluation_loop import run_evaluation
from torchloops.loops.tree import loops_in
from torchloops.module import attach_module, release_module, train_all_if_none_is
from torchloops.profilers import profiling
from torchloops.seeding import isolated_generators, random_state, undisturbed_import
from torchloops.trainer.arguments import (
    check_module,
    check_state_keys,
    default_loggers,
    find_directory,
)
from torchloops.trainer.attributes import take_back_records
from torchloops.trainer.beginning import check_fit, refuse_epoch_end_with_outputs
from torchloops.trainer.callback_copies import CallbackCopies
from torchloops.trainer.checkpoint import (
    find_checkpoint,
    load_weights,
    restore_checkpoint,
)
from torchloops.trainer.checkpoint_file import previous_path, read_checkpoint, read_newest
from torchloops.trainer.lightning_checkpoint import is_lightnings, restore_lightnings
from torchloops.trainer.module_state import AttributeChanges
from torchloops.trainer.optimizers import ReturnedOptimizers
from torchloops.trainer.run import Run
from torchloops.trainer.runs import Runs
from torchloops.trainer.settings import logged_hyperparameters
from torchloops.trainer.stopping import say_how_it_goes_on

__all__ = ["Lifecycle"]


class Lifecycle(Runs):
    """The part of a Trainer that begins and ends runs; `Trainer` adds the entry points.

    Attributes:
        limit_batches: batches an epoch of each stage has at most.
        continues_a_run: the current or last fit was given a checkpoint, if only one that was not there yet.
        threads: of torch, when the current or last fit began; loops may change it for the time of an iteration.
        resumed_from: the checkpoint that the current or last fit went on from; None: it began anew.
        arguments_to_change: values that arguments had been given on the way when the checkpoint was taken.
        attribute_changes: what the fit has changed in the module's attributes; None outside of one.
        data_changes: what it has changed in those of the data module; None before its set-up is over.
    """

    continues_a_run: bool = False
    attribute_changes: AttributeChanges | None = None
    data_changes: AttributeChanges | None = None
    resumed_from = None
    threads: int | None = None
    _made_loggers: list[Any] = []  # noqa: RUF012  replaced, never changed
    _made_folder: Path | None = None
    arguments_to_change: dict[str, Any] = {}  # noqa: RUF012  replaced, never changed
    arguments: dict[str, Any]
    returned_optimizers: ReturnedOptimizers
    num_sanity_val_steps: int
    deterministic: bool | str
    benchmark: bool | None
    detect_anomaly: bool
    use_distributed_sampler: bool
    reload_dataloaders_every_n_epochs: int
    default_root_dir: str | Path | None
    _configured_callbacks: list[Any]
    _logger: Any
    enable_autolog_hparams: bool

    def loaders(self, stage: str) -> list[Any]:
        """The data loaders of a stage, asked for anew."""
        loaders = self.sources.loaders(stage, self._module)
        if stage == "train":
            for loop in loops_in(self.fit_loop):
                loaders = [loop.on_train_dataloader(loader) for loader in loaders]
        return loaders

    def watch_loops(self) -> None:
        """Have loops that are not the library's note what they are, so that what they keep can be saved or missed."""
        for loop in self._loops.values():
            watch(loop)

    def change_arguments(self) -> None:
        """Give arguments the values of the checkpoint; a FitLoop does so once training has started, as callbacks do."""
        vars(self).update(self.arguments_to_change)
        self.arguments_to_change = {}

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
        if name == "fit":
            take_back_records(self.module)
        self.sources.assign(given, datamodule, keep=name != "fit")
        if self.datamodule is not None:
            self.datamodule.trainer = self
        self.engine.launch()
        with ExitStack() as stack:
            stack.enter_context(self._settings_of_torch())
            stack.enter_context(profiling(self.profiler, name))
            stack.callback(setattr, self, "_active", None)
            self._active = name
            self._folders = stack.enter_context(ExitStack())
            stack.callback(release_module, self.module)
            attach_module(self.module, self)
            stack.callback(self.engine.release_module)
            self._begin_run(name)
            stack.callback(self._close_run, self.run, name)
            state = self.run.state
            state.status = "running"
            try:
                self._prepare_data()
                self._setup_stage(name)
                yield
                state.status = "finished"
            except BaseException as error:
                self.run.status = "failed"
                state.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                if is_overridden(self.datamodule, "on_exception"):
                    self.datamodule.on_exception(error)
                self.call_hook("on_exception", error)
                raise

    def _begin_run(self, name: str) -> None:
        """A new run for a fit; validate, test and predict go on with the last one."""
        self.run.state.fn = name
        if name == "fit":
            undisturbed_import("rich.style")  # scikit-learn and progress bars import it later, and it draws then
            self.data_changes = None
            self.returned_optimizers = ReturnedOptimizers()
            self._callback_copies = CallbackCopies(self._configured_callbacks)
            directory = self._find_folder()
            loggers = self._made_loggers or default_loggers(self._logger, directory)
            for logger in loggers:
                if isinstance(logger, CSVLogger):
                    logger.settle(directory)
            self._made_loggers, self._made_folder, self._has_fitted = [], None, True
            self._switch_run(Run(self, "", directory, self.run.state.fresh(), [*self._configured_callbacks], loggers))
            self._add_module_callbacks()
            check_state_keys(self.run.callbacks)
        else:
            if not self._has_fitted and (self._made_loggers or self._logger is not True):
                self.run.loggers = self._first_loggers()
            self._switch_run(self.run)

    def _first_loggers(self) -> list[Any]:
        """The loggers of the first fit, for those who ask before it; its folder is made when they ask for that too."""
        if not self._made_loggers:
            is_default = self._logger is True
            self._made_loggers = [CSVLogger.found_by(self._make_folder)] if is_default else list(self._logger)
        return self._made_loggers

    def _make_folder(self) -> Path:
        if self._made_folder is None and self.is_global_zero:
            self._made_folder = find_directory(self.default_root_dir, make=True)
        return self._made_folder or self.run.dir

    def _find_folder(self) -> Path:
        """The folder of a fit that begins; one that writes works there alone until it ends."""
        writes, folder = self.keeper.enabled or bool(self._logger), self._made_folder
        if self.is_global_zero and folder is None:
            folder = find_directory(self.default_root_dir, make=writes)
        folder = self.engine.broadcast(folder)
        if writes:
            self._work_alone_in(self.keeper.folder or folder)
        return folder

    def _work_alone_in(self, folder: Path) -> None:
        """Refuse, in all processes, a folder in which another run works."""
        refused = None
        if self.is_global_zero:
            try:
                self._folders.enter_context(working_in(folder))
            except ConfigurationError as error:
                refused = str(error)
        refused = self.engine.broadcast(refused)
        if refused is not None:
            raise ConfigurationError(refused)

    def _fit(self, ckpt_path: str | Path | None) -> None:
        check_fit(cast(Any, self))
        self._configure_model()
        self.engine.setup_module(self.module, training=True)
        train_all_if_none_is(self.module)
        for loop in self._loops.values():
            for part in loops_in(loop):
                part.progress.current = part.progress.total = 0
                part.__dict__["_restarting"] = False
                part.__dict__["_watch"] = None
        self.data_changes = AttributeChanges(self.sources.outermost)
        self.threads = torch.get_num_threads()
        self.run.enter_stage("train")
        self._resumed, self._checkpoint, self.arguments_to_change = [], {}, {}
        self.arrival = self.attribute_changes = None
        self.continues_a_run, self.resumed_from = ckpt_path is not None, None
        path = self.resumed_from = None if ckpt_path is None else self._restore(ckpt_path)
        self._configure_optimizers()
        self._call_first_hook("on_fit_start")
        if self.enable_autolog_hparams:
            self.run.describe_to_loggers(logged_hyperparameters(self))
        self._sanity_check()
        self.attribute_changes = AttributeChanges(self.module)
        self.watch_loops()
        self.go_on()
        kept = self.keeper.folder or self.run.dir
        last = kept / "checkpoints" / "last.ckpt"
        own = {file.resolve() for file in (last, previous_path(last))}
        with self.keeper.keeping(kept, resumed=path is not None and path.resolve() in own):
            self.fit_loop.run()
        self._warn_of_runs_left_out()
        self.run.finish_logging()
        self.call_hook("on_fit_end")

    def _configure_model(self) -> None:
        for name in ("configure_sharded_model", "configure_model"):
            if is_overridden(self.module, name):
                getattr(self.module, name)()

    def _restore(self, ckpt_path: str | Path) -> Path | None:
        """Go on with a checkpoint; returns its file, or None where there is no "last" yet."""
        folder = Path(ckpt_path).expanduser()
        if ckpt_path not in ("best", "last") and folder.is_dir():
            self._work_alone_in(folder)
        path = find_checkpoint(self, ckpt_path)
        if path is None:
            warnings.warn(
                f'ckpt_path="last": there is no {self.run.dir / "checkpoints" / "last.ckpt"} yet, so the fit begins '
                "anew. Give the default_root_dir of the run to go on with, or the path of a checkpoint.",
                ResumeWarning,
                stacklevel=5,
            )
            return None
        self._checkpoint = read_newest(path)
        if is_lightnings(self._checkpoint):
            restore_lightnings(self, self._checkpoint)
            self._checkpoint = {}
            return path
        self._resumed = restore_checkpoint(self, self._checkpoint)
        say_how_it_goes_on(self, self._checkpoint)
        if not self._resumed:
            self._checkpoint = {}
        return path

    def _warn_of_runs_left_out(self) -> None:
        """Say that no loop began the inner run in which the checkpoint was taken."""
        if self._resumed:
            warnings.warn(
                f"The checkpoint was taken inside the run {self._resumed[-1]['name']!r}, which no loop began again, so "
                "what was left of it was not done. Resume with the limits that the run had, or higher ones.",
                ResumeWarning,
                stacklevel=4,
            )

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
            refuse_epoch_end_with_outputs(self.module, stage)
            self._configure_model()
            self.engine.setup_module(self.module, training=False)
            if ckpt_path is not None:
                load_weights(self, read_checkpoint(self._existing(ckpt_path)))
            loop = self._loops[f"{stage}_loop"]
            if isinstance(loop, EvaluationLoop):
                self._check_can_evaluate(stage)
            return run_evaluation(loop, stage)

    def _existing(self, ckpt_path: str | Path) -> Path:
        path = find_checkpoint(self, ckpt_path)
        if path is None:
            raise CheckpointError(f'ckpt_path="{ckpt_path}": there is no checkpoint in {self.run.dir}. Give a path.')
        return path

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
        """Try a few validation batches, leaving generators and logged values untouched.

        A resumed fit tries none, but asks for the loaders here if it goes on in those that were asked for here.
        """
        fit_loop = self.fit_loop
        loop: Any = getattr(getattr(fit_loop, "epoch_loop", None), "val_loop", None)
        if not self.num_sanity_val_steps or not isinstance(fit_loop, FitLoop) or not isinstance(loop, EvaluationLoop):
            return
        if fit_loop.restarting:
            asked = self.run.restored.get("asked", {}).get("validate", {})
            if asked.get("by_sanity_check") and asked["owner"] is not None:
                self.run.batches("validate")
            return
        with isolated_generators(), self.run.forgetting("validate"):
            self.run.random_outside = random_state()
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
        for owner in owners:
            each_machine = getattr(owner, "prepare_data_per_node", True)
            if self.local_rank == 0 if each_machine else self.is_global_zero:
                owner.prepare_data()
        if owners:
            self.engine.barrier()

    def _add_module_callbacks(self) -> None:
        """Add the callbacks of ``configure_callbacks``; one of a type given to the Trainer takes its place."""
        if is_overridden(self.module, "configure_callbacks"):
            own = self.module.configure_callbacks()
            own = list(own) if isinstance(own, list | tuple) else [own]
            types = {type(callback) for callback in own}
            self.run.callbacks = [c for c in self.run.callbacks if type(c) not in types] + own
            self._callback_copies = CallbackCopies(self.run.callbacks)

    @contextmanager
    def _settings_of_torch(self) -> Iterator[None]:
        """A context with torch's settings as the arguments want them, and as before after it."""
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        try:
            if self.deterministic:
                torch.use_deterministic_algorithms(True, warn_only=self.deterministic == "warn")
            if self.benchmark is not None:
                torch.backends.cudnn.benchmark = self.benchmark
            with torch.autograd.set_detect_anomaly(True) if self.detect_anomaly else nullcontext():
                yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark = benchmark
