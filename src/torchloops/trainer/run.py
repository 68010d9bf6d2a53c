"""What belongs to one run and to no other: a new `Run` is what "start fresh" means."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchloops.errors import ConfigurationError, DataError, taking_back
from torchloops.hooks import is_overridden
from torchloops.module import bind_log, lend_log
from torchloops.module_hooks import step_scheduler
from torchloops.paths import is_inside
from torchloops.trainer.data import Batches
from torchloops.trainer.hook_changes import HookChanges
from torchloops.trainer.optimizer_groups import GroupNames
from torchloops.trainer.optimizers import NoOptimizer, Optimization, parse_optimizers
from torchloops.trainer.requests import LoaderRequests
from torchloops.trainer.results import Results
from torchloops.trainer.shares import in_order, is_share
from torchloops.trainer.state import TrainerState

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle

__all__ = ["Run"]


class Run:
    """Counters, callbacks, loggers, optimizers, logged values and data of one run of a loop.

    Optimizers and data loaders are made when a loop first asks for them, so an outer loop that only starts inner
    runs never makes any.

    Args:
        trainer: the Trainer that runs.
        name: path of the run below the outermost one, such as ``"fold_0/round_3"``; empty for the outermost.
        directory: folder of what the run writes; it is made by whoever writes first.
        state: counters and limits.
        callbacks: callbacks of this run alone.
        loggers: loggers of this run alone.

    Attributes:
        status: "success", or "failed" after an error, as loggers are told at the end.
        gradient_hooks: functions of an optimizer that loops add; called on its gradients, unscaled, before
            ``on_before_optimizer_step`` and clipping. Add them before the first batch.
        step_wrappers: functions that loops add; each takes ``(training_step, optimizer_index)`` and returns what
            optimizers call in its place, as ``(batch, batch_idx)``. Add them before the first batch.
        hiddens: hidden states between the time splits of a batch, by optimizer index.
        restored: the state that a resumed run went on from; empty for one that began anew.
        restored_callbacks: keys of the callbacks that have taken their state from it.
        pending_data: positions in data that no loop has asked for yet, by stage.
        done_once: values of `once` by name.
        random_outside: generators that an inner run with a seed has set aside.
        modes_outside: parts of the module and their modes outside of the evaluation that is running.
        groups: names of the parameters that optimizers have.
        requests: how the loaders were asked for.
    """

    def __init__(
        self,
        trainer: Lifecycle,
        name: str,
        directory: Path,
        state: TrainerState,
        callbacks: list[Any],
        loggers: list[Any],
    ) -> None:
        self.trainer = trainer
        self.name = name
        self.dir = directory
        self.state = state
        self.callbacks = callbacks
        self.loggers = loggers
        self._writes = trainer.engine.is_global_zero
        self._epoch_values: dict[str, torch.Tensor] = {}
        self._bar_values: dict[str, torch.Tensor] = {}
        self._logged_values: dict[str, Any] = {}
        self._logger_prefix = ""
        self._stages_of_names: dict[str, str] = {}
        self.restored: dict[str, Any] = {}
        self.pending_data: dict[str, list[Any]] = {}
        self.done_once: dict[str, Any] = {}
        self._done_before: set[str] = set()
        self.random_outside: dict[str, Any] | None = None
        self.modes_outside: list[tuple[Any, bool]] | None = None
        self.hook_changes = HookChanges()
        self.groups = GroupNames()
        self.requests = LoaderRequests()
        self.hiddens: dict[int, Any] = {}
        self.gradient_hooks: list[Callable[[Any], None]] = []
        self.step_wrappers: list[Callable[[Callable[..., Any], int], Callable[..., Any]]] = []
        self.status = "success"
        self.restored_callbacks: set[str] = set()
        self._inner_names: set[str] = set()
        self._results: dict[str, Results] = {}
        self._batches: dict[str, list[Batches]] = {}
        self._raw_loaders: dict[str, list[Any]] = {}  # as they were given, before the engine set them up
        self._kept_loaders: dict[str, list[Any]] = {}  # asked for, and not to be asked for again
        self._optimization: Optimization | None = None
        self._stepping: list[Any] = []
        self._step_handles: dict[int, list[Any]] = {}
        self._step_depth: dict[int, int] = {}  # of optimizers whose step calls that of its base class
        self._backward_hooks: list[list[Callable[..., Any]]] | None = None

    @property
    def prefix(self) -> str:
        """Prefix of metric names in loggers shared with other runs; empty for the outermost run."""
        return f"{self.name}/" if self.name else ""

    def open_inner_run(self, name: str) -> None:
        """Note the name of a run inside this one.

        Raises:
            ConfigurationError: there was one of that name, whose files the new one would overwrite, or its files would
                lie outside of this run's folder.
        """
        if not is_inside(self.dir / name, self.dir):
            raise ConfigurationError(
                f"An inner run {name!r} would write outside of {self.dir}. Expected a name such as round_0; if a "
                "checkpoint gave it, that was edited."
            )
        if name in self._inner_names:
            raise ConfigurationError(
                f"This run has had an inner run {name!r}, and another would overwrite its files. "
                "Number them: round_0, round_1, ..."
            )
        self._inner_names.add(name)

    def once(self, name: str, function: Callable[[], Any]) -> Any:
        """Call ``function`` once in this run and return its value, also after a resume, which does not call it again.

        An outer loop that does several things in a row calls each by ``once``, so that a resumed run goes on with
        the one that was cut.

        Args:
            name: of this piece of work, unique in the run.
            function: returns plain data; after a resume anything else is None.
        """
        if name not in self.done_once:
            self.done_once[name] = function()
        elif name in self._done_before:
            self._done_before.remove(name)
            self.trainer.go_on()
        return self.done_once[name]

    @property
    def is_catching_up(self) -> bool:
        """Whether some piece of work that was done before a resume has not been asked for yet."""
        return bool(self._done_before)

    def remember_once(self, values: dict[str, Any]) -> None:
        """Take over the values of `once` of the run that was cut."""
        self.done_once, self._done_before = dict(values), set(values)

    def arrive(self) -> None:
        """Say to the data that a resumed run is where it was."""
        for batches in self._batches.values():
            for one in batches:
                one.arrive()

    def add_callback(self, callback: Any) -> None:
        """Add a callback to this run alone; in a resumed run it gets its state back."""
        from torchloops.trainer.run_state import restore_callback

        self.callbacks.append(callback)
        lend_log([callback], self.trainer.module)
        self._backward_hooks = None
        restore_callback(self, callback)

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return self.state.current_epoch

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self.state.global_step

    # hooks

    def hooks(self, name: str, last: bool | None = False) -> list[Callable[..., Any]]:
        """Callables for a hook, each taking the hook's own arguments, in the order in which they run.

        Args:
            name: the hook.
            last: False: callbacks and then the module; True: only callbacks that run last; None: all of them.
        """
        module = self.trainer.module
        callbacks = [callback for callback in self.callbacks if is_overridden(callback, name)]
        first = [callback for callback in callbacks if not _order(callback)]
        after = sorted((callback for callback in callbacks if _order(callback)), key=_order)
        found: list[Callable[..., Any]] = []
        if not last:
            found += [partial(getattr(callback, name), self.trainer, module) for callback in first]
            if is_overridden(module, name):
                found.append(getattr(module, name))
        if last is not False:
            found += [partial(getattr(callback, name), self.trainer, module) for callback in after]
        if self.trainer.profiler is not None:
            found = [self.trainer.timed(name, hook) for hook in found]
        return found

    # logged values

    def results_for(self, stage: str) -> Results:
        """What the stage logged ("train", "validate", "test", "predict")."""
        if stage not in self._results:
            self._results[stage] = Results(training=stage == "train")
        return self._results[stage]

    def all_results(self) -> dict[str, Results]:
        """What every stage logged in its running epoch, by stage."""
        return self._results

    def known_values(self) -> dict[str, torch.Tensor]:
        """The values of `callback_metrics`, without those of the running epoch."""
        return self._epoch_values

    @contextmanager
    def logging_in(self, place: str) -> Iterator[None]:
        """A context in which what is logged comes from ``place``, a hook or a step."""
        stage = self.state.stage
        results = None if stage is None else self.results_for("validate" if stage == "sanity_check" else stage)
        if results is None:
            yield
            return
        before, results.place = results.place, place
        try:
            yield
        finally:
            results.place = before

    def enter_stage(self, stage: str | None) -> None:
        """Make ``stage`` the current one; ``self.log`` of the module goes there."""
        self.state.stage = stage
        if stage is not None:
            bind_log(self.trainer.module, self.results_for("validate" if stage == "sanity_check" else stage).log)

    def close_epoch(self, stage: str) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Reduce what ``stage`` logged per epoch and make it known.

        Returns:
            All of it; what loggers get of it; and what they get per step, as it was last.
        """
        results = self.results_for(stage)
        self._note_step_values()
        self._warn_of_names_in_two_stages(stage, results)
        known: dict[str, torch.Tensor] = {}
        reduced: dict[str, float] = {}
        logged: dict[str, float] = {}
        for name, (value, to_logger, to_bar) in results.epoch_metrics(self.trainer.engine.all_reduce).items():
            known[name] = value
            reduced[name] = float(value)
            if to_bar:
                self._bar_values[name] = value
            if to_logger:
                logged[name] = reduced[name]
        self._epoch_values |= known
        self._bar_values |= results.step_metrics("prog_bar")
        by_step = results.logged_step()
        results.reset()
        return reduced, logged, by_step

    @property
    def metrics(self) -> dict[str, float]:
        """Last known value of every logged name."""
        return {name: float(value) for name, value in self.callback_metrics.items()}

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of every logged name, as tensors of one element."""
        self._note_step_values()
        return self._epoch_values

    def is_of_validation(self, name: str | None) -> bool:
        """Whether a name was logged in validation, and not in training, as far as this process has seen."""
        return self._stages_of_names.get(name or "") == "validate"

    def _warn_of_names_in_two_stages(self, stage: str, results: Results) -> None:
        """Say that a name means two things: which of them is known and in files depends on what came last."""
        for name in results.names() if stage in ("train", "validate") else ():
            if self._stages_of_names.setdefault(name, stage) not in (stage, "both"):
                self._stages_of_names[name] = "both"
                warnings.warn(
                    f"self.log({name!r}, ...) is called in training and in validation, and callbacks and files have "
                    f"only the latest of the two values. Log two names, such as 'train/{name}' and 'val/{name}'.",
                    stacklevel=2,
                )

    def _note_step_values(self) -> None:
        for results in self._results.values():
            self._epoch_values |= results.new_step_values()

    @property
    def progress_bar_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of what is logged with ``prog_bar=True``."""
        for results in self._results.values():
            self._bar_values |= results.step_metrics("prog_bar")
        return self._bar_values

    @property
    def logged_metrics(self) -> dict[str, torch.Tensor]:
        """Last known value of every name that loggers get."""
        for results in self._results.values():
            self._logged_values |= results.step_metrics("logger")
        return {name: torch.as_tensor(value) for name, value in self._logged_values.items()}

    def finish_logging(self) -> None:
        """Make known what was logged outside of any epoch, as a loop from scratch does."""
        _, logged, by_step = self.close_epoch("train")
        self.send_to_loggers(logged, by_step)

    def send_to_loggers(
        self, metrics: dict[str, float], by_step: dict[str, float] | None = None, step: int | None = None
    ) -> None:
        """Hand metrics to the loggers.

        Args:
            metrics: by name. A logger that has a row an epoch gets the running epoch with them, if there is one; others
                get a value ``"step"`` that was logged as the step, or else ``"epoch"`` with them.
            by_step: what was logged per step, as it was last: for those that have a row an epoch alone.
            step: the step; None: `logger_step`.
        """
        of_steps = by_step or {}
        if self._logger_prefix:
            metrics, of_steps = self._for_loggers(metrics), self._for_loggers(of_steps)
        self._logged_values |= {**metrics, **of_steps}
        here = self.logger_step if step is None else step
        for logger in self.loggers if self._writes else ():
            if getattr(logger, "row_an_epoch", False):
                given = {**metrics, **of_steps}
                if given:
                    epoch = {"epoch": self.state.current_epoch} if self.state.in_epoch else {}
                    logger.log_metrics({**given, **epoch}, step=here)
            elif metrics:
                given = dict(metrics)
                if step is None and "step" not in given:
                    given.setdefault("epoch", self.state.current_epoch)
                own = given.pop("step", here) if step is None else here
                logger.log_metrics(given, step=int(own))

    @contextmanager
    def prefix_for_loggers(self, prefix: str) -> Iterator[None]:
        """A context in which loggers get all names with ``prefix`` before them."""
        before, self._logger_prefix = self._logger_prefix, prefix
        try:
            yield
        finally:
            self._logger_prefix = before

    def _for_loggers(self, metrics: dict[str, float]) -> dict[str, float]:
        return {f"{self._logger_prefix}{name}": value for name, value in metrics.items()}

    @property
    def logger_step(self) -> int:
        """Where loggers put what is logged now: batches after which the optimizers stepped, from 0, as in Lightning.

        What a batch logs, the validation behind it and the end of the epoch have the index of that batch. Without a
        `TrainingEpochLoop` it is the number of optimizer steps.
        """
        state = self.state
        if state.batches_that_stepped is None:
            return state.global_step
        number = state.batches_that_stepped
        return number - 1 if number and state.is_behind_step and state.in_epoch and not state.in_batch else number

    def log_step(self) -> None:
        """Hand the values of a training step to the loggers; loops call it every ``log_every_n_steps`` batches."""
        self.send_to_loggers(self._results["train"].logged_step())

    def logs_evaluation_by_step(self) -> bool:
        """Whether some logger gets the values of each batch of an evaluation."""
        is_any = any(not getattr(logger, "row_an_epoch", False) for logger in self.loggers)
        return is_any and self._writes and self.state.stage != "sanity_check"

    def log_evaluation_step(self, results: Results, step: int) -> None:
        """Hand the values of a batch of an evaluation to the loggers that have no row an epoch."""
        metrics = self._for_loggers(results.logged_step(this_loader=True))
        self._logged_values |= metrics
        for logger in self.loggers if metrics else ():
            if not getattr(logger, "row_an_epoch", False):
                logger.log_metrics(dict(metrics), step=step)

    def describe_to_loggers(self, hparams: dict[str, Any]) -> None:
        """Hand hyper-parameters, if there are any, and the module to loggers that take them."""
        for logger in self.loggers if self._writes else ():
            if hparams and hasattr(logger, "log_hyperparams"):
                logger.log_hyperparams(hparams)
            # Fabric's draws a graph each time it is asked; others have an argument that says whether to
            if hasattr(logger, "log_graph") and not type(logger).__module__.startswith("lightning_fabric."):
                logger.log_graph(self.trainer.module)

    def tell_loggers_of_a_checkpoint(self, callback: Any) -> None:
        """Tell loggers that upload files that ``callback`` has written one."""
        for logger in self.loggers if self._writes else ():
            if hasattr(logger, "after_save_checkpoint"):
                logger.after_save_checkpoint(callback)

    def save_loggers(self) -> None:
        """Let loggers write what they hold."""
        if self._writes:
            for logger in self.loggers:
                logger.save()

    # optimizers

    @property
    def optimization(self) -> Optimization:
        """Optimizers and schedulers; made, and set up by the engine, when first asked for."""
        if self._optimization is None:
            module = self.trainer.module
            configure = getattr(module, "configure_optimizers", None)
            with self.groups.configuring(module, self.restored.get("optimizer_groups") or {}):
                configured = configure() if configure is not None else None
                if configured is None and configure is not None and getattr(module, "automatic_optimization", True):
                    configured = _no_optimizer(module)
                self._optimization = parse_optimizers(configured)
            self.groups.note(module, self._optimization.optimizers)
            self.trainer.returned_optimizers.start_afresh(self._optimization)
            self._stepping = self.trainer.engine.setup_optimizers(self._optimization.optimizers)
            self.count_steps_by_hooks()
        return self._optimization

    @property
    def stepping_optimizers(self) -> list[Any]:
        """The optimizers to step with: wrapped where the engine needs it."""
        return self._stepping if self.optimization else []

    def optimizers_or_none(self) -> list[Any]:
        """The optimizers, if a loop has asked for them."""
        return self._optimization.optimizers if self._optimization else []

    def schedulers_or_none(self) -> list[Any]:
        """The scheduler settings, if a loop has asked for the optimizers."""
        return self._optimization.schedulers if self._optimization else []

    def manual_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass that a module with manual optimization asks for, with the hooks around it."""
        engine, module = self.trainer.engine, self.trainer.module
        if self._backward_hooks is None:
            self._backward_hooks = [self.hooks(name, last=None) for name in ("on_before_backward", "on_after_backward")]
        before, after = self._backward_hooks
        for hook in before:
            hook(loss)
        backward = engine.scaled(module.backward) if is_overridden(module, "backward") else engine.backward
        backward(loss, *args, **kwargs)
        engine.average_gradients()
        for hook in after:
            hook()

    def call_hooks_before_manual_steps(self) -> None:
        """Have ``on_before_optimizer_step`` called before each step that a module takes itself, behind its closure."""
        hooks = self.hooks("on_before_optimizer_step", last=None)

        def call_hooks(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._step_depth.get(id(optimizer), 1) > 1:
                return None
            itself, *given = args
            closure = given[0] if given else kwargs.get("closure")
            if closure is not None:
                wrapped = partial(_closure_then_hooks, closure, hooks, optimizer)
                return ((itself, wrapped), kwargs) if given else (args, {**kwargs, "closure": wrapped})
            for hook in hooks:
                hook(optimizer)
            return None

        for optimizer in self.optimizers_or_none() if hooks else ():
            self._step_handles[-id(optimizer)] = [optimizer.register_step_pre_hook(call_hooks)]

    def steps_of_optimizers(self) -> dict[str, list[int]]:
        """How often each optimizer has stepped, and what its schedulers have been told of; if they were asked for."""
        optimization = self._optimization
        if optimization is None:
            return {}
        alone = len(optimization.optimizers) == 1  # its steps may be counted without a hook
        steps = [self.state.global_step] if alone else [*optimization.steps]
        return {"steps": steps, "seen": [*optimization.steps_seen]}

    def has_schedulers(self, interval: str, plateau: bool | None = None) -> bool:
        """Whether some scheduler steps by itself at an interval, "step" or "epoch".

        Args:
            interval: the interval.
            plateau: only those that watch a value (True), or only the others (False); None: all.
        """
        if not getattr(self.trainer.module, "automatic_optimization", True):
            return False
        return any(
            config.interval == interval and plateau in (None, config.reduce_on_plateau)
            for config in self.optimization.schedulers
        )

    def step_schedulers(self, interval: str, plateau: bool | None = None) -> None:
        """Step the schedulers of an interval that are due, if a loop has asked for the optimizers.

        Args:
            interval: "step": those are due whose own optimizer has stepped since, and "frequency" counts its steps.
            plateau: as of `has_schedulers`.
        """
        optimization = self._optimization
        if optimization is None or not self.has_schedulers(interval, plateau):
            return
        if interval == "epoch":
            due = optimization.due_by_epoch(self.state.current_epoch + 1)
        else:
            if len(optimization.optimizers) == 1:
                optimization.steps[0] = self.state.global_step
            due = optimization.due_by_step(plateau)
        module = self.trainer.module
        step = module.lr_scheduler_step if is_overridden(module, "lr_scheduler_step") else step_scheduler
        for config in due:
            metric = config.metric(self.callback_metrics) if config.reduce_on_plateau else None
            if metric is not None or not config.reduce_on_plateau:
                step(config.scheduler, metric)

    def count_steps_by_hooks(self) -> None:
        """Count every step of the optimizers, whoever takes it, if a loop has asked for them."""
        state, optimization = self.state, self._optimization
        self._backward_hooks = None
        self.groups.know(self.trainer.module)
        if optimization is None:
            return

        depth = self._step_depth
        depth.clear()

        def enter(optimizer: Any, *_: Any) -> None:
            depth[id(optimizer)] = depth.get(id(optimizer), 0) + 1

        def count(index: int, optimizer: Any, *_: Any) -> None:
            if id(optimizer) in depth:
                depth[id(optimizer)] -= 1
                if depth[id(optimizer)]:
                    return
            state.global_step += 1
            optimization.steps[index] += 1

        for index, optimizer in enumerate(optimization.optimizers):
            if id(optimizer) not in self._step_handles and hasattr(optimizer, "register_step_post_hook"):
                handles = [optimizer.register_step_pre_hook(enter)] if _steps_in_steps(optimizer) else []
                handles.append(optimizer.register_step_post_hook(partial(count, index)))
                self._step_handles[id(optimizer)] = handles

    def leave_counting_to_the_loop(self, optimizer: Any) -> bool:
        """Stop counting the steps of ``optimizer`` by a hook for this epoch, where each call of ``step`` is a step."""
        if not self.trainer.engine.is_plain:
            return False  # a scaler may leave a step out
        for handle in self._step_handles.pop(id(optimizer), ()):
            handle.remove()
        return True

    def close(self) -> None:
        """Let go of optimizers, loggers and what reads the data."""
        for handle in chain.from_iterable(self._step_handles.values()):
            handle.remove()
        self._step_handles = {}
        for found in self._batches.values():
            for batches in found:
                batches.close()

    # data

    @property
    def train_batches(self) -> Batches:
        """The training data.

        Raises:
            DataError: there is none.
        """
        batches = self.batches("train")
        if not batches:
            raise DataError(
                "There is no training data. Give fit() a data loader or a data module, or define "
                "`train_dataloader` on the module."
            )
        return batches[0]

    def batches(self, stage: str) -> list[Batches]:
        """The data of a stage ("train", "validate", "test", "predict"), one per loader; asked for once a run."""
        if stage not in self._batches:
            loaders = self._kept_loaders.pop(stage, None)
            if loaders is None:
                with self.requests.asking(self, stage):
                    loaders = self.trainer.loaders(stage)
            limit = self.trainer.batch_limit(stage)
            engine, distributed = self.trainer.engine, self.trainer.use_distributed_sampler
            name = _DATA_NAMES[stage]
            seen = self.trainer.sources.seen
            evaluates = stage != "train"
            shared = [engine.setup_loader(loader, distributed, evaluates) for loader in loaders]
            found = [Batches(loader, limit, name, seen) for loader in shared]
            self._batches[stage] = found
            self._raw_loaders[stage] = loaders
            self._restore_positions(stage)
            if self.trainer.keeper.enabled and self.state.fn == "fit" and not self.trainer.sanity_checking:
                for batches in found:
                    batches.warn_if_not_resumable()
        return self._batches[stage]

    def of_all_processes(self, batches: Batches, outputs: list[Any]) -> list[Any]:
        """What all processes have for the batches of a loader, in its order; ``outputs`` where it is not shared out."""
        if not is_share(batches.loader):
            return outputs
        return in_order(self.trainer.engine.all_gather_objects(outputs))

    def reload(self, stage: str) -> None:
        """Ask for the data of a stage again when it is next needed."""
        self._kept_loaders.pop(stage, None)
        for batches in self._batches.pop(stage, ()):
            batches.close()

    @contextmanager
    def forgetting(self, stage: str) -> Iterator[None]:
        """A context after which the data of ``stage``, their generators and all logged values are as before it.

        The loaders are kept: ``val_dataloader`` is asked once for the sanity check and for the fit.
        """
        known = dict(self._epoch_values), dict(self._bar_values)
        try:
            yield
        finally:
            for batches in reversed(self._batches.get(stage, [])):
                batches.rewind()
            asked = self._raw_loaders[stage] if stage in self._batches else None
            self.reload(stage)
            if asked is not None:
                self._kept_loaders[stage] = asked
            self._results.pop(stage, None)
            self._epoch_values, self._bar_values = known

    def data_state(self) -> dict[str, list[Any]]:
        """The positions in the data of every stage; none yet where loaders were only tried by the sanity check."""
        tried: dict[str, list[Any]] = {stage: [] for stage in self._kept_loaders}
        known = {stage: [one.state_dict() for one in batches] for stage, batches in self._batches.items()}
        state = {**tried, **self.pending_data, **known}
        return {stage: state[stage] for stage in sorted(state)}  # in the same order, whatever was resumed

    def load_data_state(self, state: dict[str, list[Any]]) -> None:
        """Take back what `data_state` returned, for data that were asked for already and those that will be.

        Raises:
            CheckpointError: the data is not what it was.
        """
        self.pending_data = dict(state)
        self.requests.load_state_dict(self.restored.get("asked", {}))
        for stage in list(self._batches):
            if stage in state and stage in self.requests.repeatable:
                self.reload(stage)
            else:
                self._restore_positions(stage)

    def _restore_positions(self, stage: str) -> None:
        advice = _ADVICE if self.trainer.reload_dataloaders_every_n_epochs else ""
        for batches, state in zip(self._batches[stage], self.pending_data.pop(stage, ()), strict=False):
            with taking_back(f"the {batches.name} cannot be brought to where it was"):
                batches.load_state_dict(state, advice)


_DATA_NAMES = {
    "train": "training data",
    "validate": "validation data",
    "test": "test data",
    "predict": "prediction data",
}


_ADVICE = (
    "Data that change while a fit runs are there again where train_dataloader and its like go by "
    "trainer.current_epoch, by attributes of the data module, or by what its state_dict saves."
)


def _order(callback: Any) -> int:
    """When a callback runs among the others; one of Lightning's that watches a value comes with ours that do."""
    return getattr(callback, "order", 2 if hasattr(callback, "monitor") else 0)


def _closure_then_hooks(closure: Callable[[], Any], hooks: list[Callable[..., Any]], optimizer: Any) -> Any:
    loss = closure()
    for hook in hooks:
        hook(optimizer)
    return loss


def _no_optimizer(module: Any) -> NoOptimizer:
    warnings.warn(
        f"{type(module).__name__}.configure_optimizers returned None: the fit runs and changes no weights. If they are "
        "to be trained, return an optimizer.",
        stacklevel=4,
    )
    return NoOptimizer()


def _steps_in_steps(optimizer: Any) -> bool:
    """Whether ``step`` of its class may call that of a base class, which torch's hooks see as a further step."""
    return sum("step" in cls.__dict__ for cls in type(optimizer).__mro__ if cls is not torch.optim.Optimizer) > 1
