"""The Trainer: owns one tree of loops, and all that the loops run on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import nn

from torchloops.errors import CheckpointWriteError, ConfigurationError
from torchloops.files import given_path
from torchloops.loops import EvaluationLoop, FitLoop, Loop, PredictionLoop
from torchloops.profilers import make_profiler
from torchloops.trainer.argument_names import takes_none_and_explains
from torchloops.trainer.arguments import (
    add_model_summary,
    check_limits,
    default_callbacks,
    default_loggers,
    make_limits,
    parse_interval,
)
from torchloops.trainer.checkpoint import collect_checkpoint
from torchloops.trainer.checkpoint_file import write_checkpoint
from torchloops.trainer.engine import Engine
from torchloops.trainer.keeper import Keeper, SavingInterval
from torchloops.trainer.lifecycle import Lifecycle
from torchloops.trainer.optimizers import ReturnedOptimizers
from torchloops.trainer.run import Run
from torchloops.trainer.sources import DataSources
from torchloops.trainer.state import TrainerState
from torchloops.trainer.tables import print_values

__all__ = ["Trainer"]


class Trainer(Lifecycle):
    """Runs a module on data by a tree of loops that you can change.

        trainer = Trainer(max_epochs=10)
        trainer.fit_loop = MyLoop()          # optional: another algorithm
        trainer.fit(module, datamodule=data)

    Every call of `fit` is a new run: counters from 0, new optimizers, schedulers, loggers and callback states;
    the weights are those the module has. To continue a run instead, give ``ckpt_path``.

    Args:
        accelerator, devices, strategy, precision, num_nodes, plugins: as Lightning Fabric takes them.
        sync_batchnorm: on several devices, have batch norm see the batches of all of them; it stays so in the module.
        max_epochs: epochs a fit has at most; -1: no limit. Default: 1000, or no limit where ``max_steps`` is set.
        max_steps: optimizer steps a fit has at most; -1: no limit.
        min_epochs, min_steps: ``should_stop`` and early stopping are heeded only after these.
        max_time: a ``timedelta``, a dict of its arguments, ``"DD:HH:MM:SS"``, or seconds.
        limit_train_batches, limit_val_batches, limit_test_batches, limit_predict_batches: batches an epoch has
            at most (int), or the share of them (float). Default: all.
        fast_dev_run: run this many batches (True: 1) of each stage once, without loggers and checkpoints.
        overfit_batches: train and validate on these first training batches (int, or float share); 0: off.
        val_check_interval: validate after every so many batches (int) or this share of an epoch (float), or when this
            time has passed since the last validation (a timedelta, a dict of its arguments, or "DD:HH:MM:SS").
        check_val_every_n_epoch: validate in every n-th epoch; None: count batches over epochs.
        num_sanity_val_steps: validation batches tried before training; -1: all.
        log_every_n_steps: batches between two values for loggers.
        accumulate_grad_batches: batches an optimizer step has; the loss is divided by it.
        gradient_clip_val: clip gradients to this norm or value before each step; None: do not.
        gradient_clip_algorithm: "norm" or "value".
        deterministic: True: only deterministic operations; "warn": warn where there is none.
        benchmark: let cuDNN try its algorithms and take the fastest; None: as torch is set.
        detect_anomaly: have the backward pass find the operation that gives NaN; slow.
        profiler: "simple" prints a table of how long hooks, steps and data took, "pytorch" one of torch's operators; or
            a profiler object, Lightning's too.
        enable_autolog_hparams: hand hyper-parameters to the loggers when a fit starts.
        inference_mode: evaluate in ``torch.inference_mode`` (True) or ``torch.no_grad`` (False).
        use_distributed_sampler: give each process its share of the data.
        reload_dataloaders_every_n_epochs: ask for the loaders again every so many epochs; 0: once.
        callbacks: one or a list.
        logger: True: a CSV file in the run folder; False: none; or one or a list of loggers.
        default_root_dir: folder for the run's files; yours, files in it are replaced. Default: a new numbered
            folder ``runs/fit/000``. A fit that writes makes it when it starts and works there alone until it ends.
        enable_progress_bar: show progress.
        enable_model_summary: print the parts of the module when a fit starts, with their parameters. Default: where
            progress is shown on a terminal.
        enable_checkpointing: keep ``checkpoints/last.ckpt`` in the run's folder, which a fit can go on from after a
            crash, a kill or Ctrl-C; SIGINT and SIGTERM end a fit after the batch, with a checkpoint, and so do SIGUSR1,
            SIGUSR2 and SIGXCPU where the program has no handler for them.
        checkpoint_every: how often to write it: ``"100 steps"``, ``"1 epoch"``, ``"30 seconds"``, a ``timedelta``.
            Default: after epochs and outer rounds, and once a minute, as far as it takes 2 % of the time at most.

    None stands for the default everywhere, but in ``check_val_every_n_epoch``.

    Attributes:
        arguments: all of them, by name, so that a loop can build a Trainer like this one in another process.

    Raises:
        ConfigurationError: arguments that contradict each other, or that are not there.
    """

    @takes_none_and_explains("check_val_every_n_epoch")
    def __init__(
        self,
        *,
        accelerator: Any = "auto",
        devices: Any = "auto",
        strategy: Any = "auto",
        precision: Any = None,
        num_nodes: int = 1,
        plugins: Any = None,
        sync_batchnorm: bool = False,
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
        val_check_interval: int | float | timedelta | dict[str, Any] | str = 1.0,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int = 2,
        log_every_n_steps: int = 50,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str = "norm",
        deterministic: bool | str = False,
        benchmark: bool | None = None,
        detect_anomaly: bool = False,
        profiler: Any = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        reload_dataloaders_every_n_epochs: int = 0,
        callbacks: Any = None,
        logger: Any = True,
        default_root_dir: str | Path | None = None,
        enable_progress_bar: bool = True,
        enable_model_summary: bool | None = None,
        enable_checkpointing: bool = True,
        enable_autolog_hparams: bool = True,
        checkpoint_every: str | timedelta | None = None,
    ) -> None:
        callbacks = list(callbacks) if isinstance(callbacks, Iterator) else callbacks
        self.arguments = {name: value for name, value in locals().items() if name != "self"}
        interval, wrong_interval = parse_interval(val_check_interval)
        self.arguments["val_check_interval"] = interval
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
        self.val_check_interval: int | float | timedelta = 1.0 if fast else interval
        self.check_val_every_n_epoch = 1 if fast else check_val_every_n_epoch
        self.num_sanity_val_steps = 0 if fast or overfit_batches else num_sanity_val_steps
        self.log_every_n_steps = log_every_n_steps
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.deterministic = deterministic
        self.benchmark = benchmark
        self.detect_anomaly = detect_anomaly
        self.profiler = make_profiler(profiler)
        self.enable_autolog_hparams = enable_autolog_hparams
        self.inference_mode = inference_mode
        self.use_distributed_sampler = use_distributed_sampler
        self.reload_dataloaders_every_n_epochs = reload_dataloaders_every_n_epochs
        self.default_root_dir = default_root_dir
        root = Path("runs") if default_root_dir is None else given_path(default_root_dir, "default_root_dir")
        limits, wrong = make_limits(max_epochs, max_steps, min_epochs, min_steps, max_time, fast)
        wrong += wrong_interval
        check_limits(self, wrong)
        self.engine = Engine(accelerator, devices, num_nodes, strategy, precision, plugins, sync_batchnorm)
        self._configured_callbacks = default_callbacks(callbacks, enable_progress_bar, enable_checkpointing, bool(fast))
        if enable_model_summary or (enable_model_summary is None and enable_progress_bar):
            add_model_summary(self._configured_callbacks, terminal_only=enable_model_summary is None)
        self._logger = False if fast else logger
        if self._logger is not True:
            self._logger = default_loggers(self._logger, root)  # what is no logger is refused now
        self._module = None
        self.return_predictions = True
        self.sources = DataSources(overfit_batches)
        self.returned_optimizers = ReturnedOptimizers()
        self.outer_runs: list[Run] = []
        self.keeper = Keeper(self, SavingInterval.parse(checkpoint_every), enable_checkpointing and not fast)
        self._active: str | None = None
        self.arrival = None
        state = TrainerState(limits=limits)
        self.run = Run(self, "", root, state, self._configured_callbacks, [])
        self._loops: dict[str, Loop] = {}
        self.fit_loop = FitLoop()
        self.validate_loop = EvaluationLoop("validate")
        self.test_loop = EvaluationLoop("test")
        self.predict_loop = PredictionLoop()

    def _evaluate_and_print(
        self, stage: str, model: Any, dataloaders: Any, datamodule: Any, ckpt_path: Any, verbose: bool
    ) -> Any:
        values = self._evaluate(stage, model, dataloaders, datamodule, ckpt_path)
        if verbose and self.is_global_zero and isinstance(values, list):
            print_values(stage, values)
        return values

    # entry points

    def fit(
        self,
        model: nn.Module,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train ``model``.

        Args:
            model: a `LoopModule`, a ``LightningModule`` or an ``nn.Module`` with ``training_step``.
            train_dataloaders: an iterable of batches, or a data module.
            val_dataloaders: one or a list.
            datamodule: a `DataModule` or ``LightningDataModule``.
            ckpt_path: continue the run saved there: a file, or the folder of a run; "last": the folder
                ``default_root_dir``, or a new run where it has no checkpoint yet. Of a folder the newest checkpoint
                is taken, and the one before where that is damaged.
            weights_only: as Lightning has it; files are read safely whatever it says.

        Raises:
            TorchloopsError: something does not fit together; its message says what and what to do.
        """
        given = {"train": train_dataloaders, "validate": val_dataloaders}
        with self._entry("fit", model, given, datamodule):
            self._fit(ckpt_path)

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
        self._configured_callbacks = [resolve_finetuning(strategy), *configured]
        try:
            self.fit(model, train_dataloader, val_dataloaders, datamodule, ckpt_path)
        finally:
            self._configured_callbacks = configured

    def validate(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Run the validation loop and return its logged values, one dict a data loader.

        Args:
            model: default: that of the last run.
            dataloaders: one or a list, or a data module. Default: those of the last run's data module.
            ckpt_path: load these weights first: a file, the folder of a run, "best" or "last".
            verbose: print the values as a table.
            datamodule: a `DataModule` or ``LightningDataModule``.
            weights_only: as in `fit`.
        """
        return self._evaluate_and_print("validate", model, dataloaders, datamodule, ckpt_path, verbose)

    def test(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Run the test loop and return its logged values, one dict a data loader; arguments as of `validate`."""
        return self._evaluate_and_print("test", model, dataloaders, datamodule, ckpt_path, verbose)

    def predict(
        self,
        model: nn.Module | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Return what ``predict_step`` gave: a list of batches; a list of those for several data loaders.

        Args:
            model, dataloaders, datamodule, ckpt_path, weights_only: as of `validate`.
            return_predictions: False: keep nothing and return None, as a callback that writes predictions wants it.
        """
        self.return_predictions = return_predictions is not False
        return self._evaluate("predict", model, dataloaders, datamodule, ckpt_path)

    def save_checkpoint(
        self,
        filepath: str | Path,
        weights_only: bool | None = False,
        storage_options: None = None,
        *,
        inner_run_only: bool = False,
    ) -> None:
        """Write the fit to a file, atomically; in several processes all of them call it.

        Args:
            filepath: the file.
            weights_only: leave out all that only training needs.
            storage_options: None: files are written to the local disk.
            inner_run_only: in a fold or round, leave out the runs around it: the file is small, and the fit cannot be
                resumed from it. Outside of one nothing is left out.

        Raises:
            CheckpointWriteError: in all processes: the disk is full, the folder is not writable or the like.
            ConfigurationError: ``storage_options``.
        """
        if storage_options is not None:
            raise ConfigurationError(
                "save_checkpoint(storage_options=...) is for storage elsewhere, and files are written to the local "
                "disk. Leave it out, and copy the file."
            )
        checkpoint, failed = collect_checkpoint(self, bool(weights_only), inner_run_only), None
        if self.is_global_zero:
            try:
                write_checkpoint(checkpoint, filepath)
            except CheckpointWriteError as error:
                failed = error
        failed = self.engine.broadcast(failed)
        if failed is not None:
            raise failed
