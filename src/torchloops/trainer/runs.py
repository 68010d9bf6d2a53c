"""Runs inside runs: what outer loops ask a Trainer for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch

from torchloops.errors import CheckpointError, ConfigurationError, did_you_mean
from torchloops.hooks import is_overridden
from torchloops.loops import FitLoop, Loop
from torchloops.loops.evaluation_loop import run_evaluation
from torchloops.loops.tree import levels_of, loops_in
from torchloops.module import lend_log, module_modes, release_log, train_all_if_none_is
from torchloops.seeding import isolated_generators, random_state, restore_random_state
from torchloops.trainer.arguments import inner_loggers
from torchloops.trainer.arrival import Arrival
from torchloops.trainer.callback_copies import CallbackCopies
from torchloops.trainer.checkpoint import restore_module
from torchloops.trainer.keeper import Keeper
from torchloops.trainer.run import Run
from torchloops.trainer.run_state import restore_run, warn_of_callbacks_left_out
from torchloops.trainer.snapshot import Snapshot
from torchloops.trainer.sources import DataSources
from torchloops.trainer.view import TrainerView

__all__ = ["Runs"]


class Runs(TrainerView):
    """The part of a Trainer that outer loops use: inner runs, evaluation inside a fit, and saving.

    Attributes:
        keeper: writes the checkpoints that a fit goes on from.
        outer_runs: the runs around the current one, outermost first.
        arrival: what a resumed run is to be where its checkpoint was taken, while it is not there yet.
    """

    keeper: Keeper
    outer_runs: list[Run]
    arrival: Arrival | None
    sources: DataSources
    _active: str | None
    _callback_copies: CallbackCopies
    _resumed: list[dict[str, Any]]
    _checkpoint: dict[str, Any]

    # for outer loops

    def snapshot(self) -> Snapshot:
        """The module as it is now, for `isolated` to start from, without what `setup` and `on_fit_start` left in it.

        These hooks run again in each inner run, on the data of that run. What a loop has set since is kept.
        """
        return Snapshot(self.module, self.run.hook_changes)

    def complete(self, start: Snapshot) -> None:
        """Give a snapshot that comes from a checkpoint the attributes that the module has at the start of this run."""
        start.complete(self.module, self.run.hook_changes)

    @contextmanager
    def isolated(
        self, name: str, start: Snapshot | None = None, seed: int | None = None, data: Any = None
    ) -> Iterator[Run]:
        """A context in which loops run as if on a Trainer of their own.

            start = self.trainer.snapshot()
            with self.trainer.isolated("round_0", start=start) as run:
                self.fit_loop.run()
                scores = self.trainer.evaluate("test")

        Inside, optimizers, schedulers, counters, callbacks and loggers are fresh, data loaders are asked for
        again, and files go to a folder of the run's own. After it, counters, stage, gradient mode and the
        module's modes are as before; the weights stay as trained. Isolated runs nest.

        Where a fit was resumed and its checkpoint taken inside a run of this name, the run goes on where it was:
        ``start`` and ``seed`` were heeded when it began. Do what takes long by ``run.once``.

        Args:
            name: the run's folder and metric prefix, for instance ``"fold_0"``.
            start: put the module back to this first; None: keep its weights.
            seed: seed the random generators inside, and restore them after; None: let them go on.
            data: a data module that all data come from, in place before the first hook; None: the data of the fit.
        """
        self._check_is_fitting("isolated")
        outer = self.run
        outer.open_inner_run(name)
        outer.state.in_batch = False
        run = Run(
            cast(Any, self),
            f"{outer.name}/{name}" if outer.name else name,
            outer.dir / name,
            outer.state.fresh(),
            self.fresh_callbacks(),
            inner_loggers(outer.loggers, outer.dir / name, name),
        )
        saved = self._saved_run(run.name)
        loops = [part for loop in self._loops.values() for part in loops_in(loop)]
        with ExitStack() as stack:
            stack.callback(_put_back, [(loop, loop._bound, loop.progress.running) for loop in loops])
            stack.enter_context(module_modes(self.module))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(True))
            stack.enter_context(_generators_of_its_own(outer, seed, resumed=saved is not None))
            if start is not None and saved is None:
                start.restore(self.module)
            train_all_if_none_is(self.module)
            stack.callback(self._switch_run, outer)
            stack.callback(self.outer_runs.pop)
            self.outer_runs.append(outer)
            self._switch_run(run)
            run.enter_stage("train")
            if data is not None:
                stack.enter_context(self.using_data(data))
            stack.callback(self._close_run, run)
            try:
                before = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
                self._call_first_hook("setup", "fit")
                self.engine.place_module()
                if start is not None and saved is None:
                    start.refill(self.module, before)
                if saved is not None:
                    self._resume(run, saved)
                self._configure_optimizers()
                self._call_first_hook("on_fit_start")
                self.go_on()
                yield run
                run.finish_logging()
                self.call_hook("on_fit_end")
            except BaseException as error:
                outer.state.in_batch = True  # what it left is no place to go on from
                run.status = "failed"
                self._call_callbacks("on_exception", error)
                raise

    def _configure_optimizers(self) -> None:
        """Make the optimizers of a run that a `FitLoop` trains in: hooks and modules that keep them expect it."""
        fit_loop = self._loops["fit_loop"]
        trains = len(self.outer_runs) >= levels_of(fit_loop) and any(isinstance(x, FitLoop) for x in loops_in(fit_loop))
        if trains and is_overridden(self.module, "configure_optimizers"):
            self.run.optimization  # noqa: B018  made when first asked for

    def _saved_run(self, name: str) -> dict[str, Any] | None:
        """The state of the run that begins, if the fit was resumed inside of it.

        Raises:
            CheckpointError: it was resumed inside another run.
        """
        if not self._resumed:
            return None
        saved = self._resumed.pop(0)
        if saved["name"] != name:
            raise CheckpointError(
                f"The checkpoint was taken inside the run {saved['name']!r}, but the loop began {name!r} first. Keep "
                "what decides over the next run in on_save_checkpoint of the outer loop, and resume with the same data."
            )
        return saved

    def _resume(self, run: Run, saved: dict[str, Any]) -> None:
        trainer = cast(Any, self)
        if not self._resumed:  # before callbacks, which may exchange the weights
            self.module.load_state_dict(self._checkpoint["state_dict"], strict=False)
        restore_run(trainer, run, saved, self._checkpoint)
        if not self._resumed:
            restore_module(trainer, self._checkpoint)
            self._checkpoint = {}

    def go_on(self) -> None:
        """Say that a resumed run may be where its checkpoint was taken: every loop does, behind its ``on_run_start``.

        If no loop and no piece of work below is still to be entered, generators, positions in data, and what an
        `Arrival` has noted become what they were there, whatever the way has drawn and set.
        """
        arrival = self.arrival
        if arrival is None or self._resumed or self.run.name != arrival.name or self.run.is_catching_up:
            return
        loops = [part for loop in self._loops.values() for part in loops_in(loop)]
        if any(part.restarting and not part.progress.running for part in loops):
            return
        self.arrival = None
        for stage in list(self.run.pending_data):
            if stage in ("train", "validate"):
                self.run.batches(stage)
        self.run.arrive()
        arrival.reach(self.run)
        for run in (*self.outer_runs, self.run):
            warn_of_callbacks_left_out(run)

    def safe_point(self, save: bool = False) -> None:
        """Save here if a checkpoint is due. For outer loops, where all they did so far is in their state.

        Args:
            save: save after work that is not to be done twice; where ``checkpoint_every`` is None, not if less time has
                gone by since the last save than 25 saves take.
        """
        if save:
            self.keeper.ask()
        self.keeper.safe_point("round")

    def indivisible(self) -> AbstractContextManager[None]:
        """A context for work that a resumed run does again from its beginning, such as scoring a pool.

        A checkpoint is written first, as by ``safe_point(save=True)``; inside there is none, and a signal such as
        SIGINT interrupts at once.
        """
        return self.keeper.indivisible()

    def evaluate(self, stage: str, prefix: str = "") -> dict[str, float]:
        """Run a loop inside a fit and return its values; empty where there is no such data.

        Args:
            stage: "validate" or "test".
            prefix: before the names by which loggers get the values, where they have others by these names.
        """
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
            with self.run.prefix_for_loggers(prefix):
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
        self.run.pending_data = {}  # positions in that data which nobody asked for any more

    def _check_is_fitting(self, name: str) -> None:
        if self._active is None:
            raise ConfigurationError(
                f"trainer.{name}() is for loops, callbacks and modules while trainer.fit() runs. "
                "Outside of it call trainer.fit, trainer.validate or trainer.test."
            )

    def call_hook(self, name: str, *args: Any) -> Any:
        """Call a hook of any name on the callbacks and the module that have it; return the module's value."""
        output = None
        with self.run.logging_in(name):
            for hook in self.run.hooks(name, last=None):
                value = hook(*args)
                if getattr(hook, "__self__", None) is self.module:
                    output = value
        return output

    def _call_first_hook(self, name: str, *args: Any) -> None:
        """Call `setup` or `on_fit_start`, noting what they leave in the module where runs inside are to come."""
        watched = len(self.outer_runs) < levels_of(self._loops["fit_loop"]) and self.run.hooks(name, last=None)
        with self.run.hook_changes.watching(self.module) if watched else nullcontext():
            self.call_hook(name, *args)

    def _switch_run(self, run: Run) -> None:
        self.run = run
        if self._module is not None:
            lend_log(run.callbacks, self._module)
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
            self.call_hook("teardown", "fit")
        for logger in run.loggers:
            logger.finalize(run.status)
        run.close()
        release_log(run.callbacks)
        run.state.stage = None

    def _setup_stage(self, stage: str) -> None:
        """Call the setup hooks of a stage, once an entry."""
        if stage not in self.sources.ready_stages:
            self.sources.ready_stages.append(stage)
            self._call_setup_hooks("setup", stage)

    def _call_setup_hooks(self, hook: str, stage: str) -> None:
        if is_overridden(self.datamodule, hook):
            getattr(self.datamodule, hook)(stage)
        if (hook, stage) == ("setup", "fit"):
            self._call_first_hook(hook, stage)
        else:
            self.call_hook(hook, stage)

    def _call_callbacks(self, hook: str, *args: Any) -> None:
        for callback in self.run.callbacks:
            if is_overridden(callback, hook):
                getattr(callback, hook)(self, self.module, *args)

    def fresh_callbacks(self) -> list[Any]:
        """Copies of the callbacks as they were before the fit."""
        return self._callback_copies.make()


@contextmanager
def _generators_of_its_own(outer: Run, seed: int | None, resumed: bool) -> Iterator[None]:
    """A context that seeds the generators, if there is a seed, and lets a checkpoint know how they were outside."""
    if resumed and outer.random_outside is not None:
        restore_random_state(outer.random_outside)
    outer.random_outside = None if seed is None else random_state()
    try:
        with nullcontext() if seed is None else isolated_generators(seed):
            yield
    finally:
        outer.random_outside = None


def _put_back(loops: list[tuple[Loop, Any, bool]]) -> None:
    """Give loops back what they had bound, so that one that was running when an inner run began can go on.

    Those that ran inside do not run any more, also where an error ended them.
    """
    for loop, bound, running in loops:
        loop.__dict__["_bound"], loop.progress.running = bound, running
