"""The base of every loop: what an algorithm has to say, and what it gets for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.loops.checks import check_properties, check_settings, check_slot
from torchloops.loops.declared import Watch, attributes_of, load_attributes
from torchloops.loops.plan import OPTIONAL_HOOKS, Plan
from torchloops.loops.replacing import replace_loop
from torchloops.loops.stop_iteration import refuse_leaked_stop
from torchloops.loops.tree import children_of, draw_tree, loops_in, paths_in

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["Loop", "Progress"]


@dataclass(slots=True)
class Progress:
    """How far a loop is.

    Args:
        current: iterations finished in this run.
        total: iterations finished over all runs.
        running: a run has begun and has not ended.
    """

    current: int = 0
    total: int = 0
    running: bool = False


class Loop:
    """An algorithm that repeats: subclass it, say when it is ``done`` and how to ``advance``.

        if skip: return on_skip()
        reset()
        on_run_start(*args)
        while not done:
            on_advance_start(*args)
            advance(*args)
            on_advance_end()
        return on_run_end()

    ``done`` and ``advance`` are all a loop needs. A loop is legal in every slot of the tree: assign it
    (``trainer.fit_loop = MyLoop()``), `connect` it or `replace` another by it. It also runs without a Trainer.
    Loops held in attributes, lists and dicts are its children.

    ``StopIteration`` raised in ``on_advance_start`` or ``advance`` by the loop itself ends the loop:
    ``on_advance_end`` is left out, ``on_run_end`` runs. One that escapes from a module, a callback or a data
    set is an error. An ``advance``, ``on_advance_start`` or ``on_run_start`` without parameters is called without
    arguments, whatever the loop above passes.

    Attributes:
        progress: how far the loop is.
        saved: names of attributes that make up the loop's own state, such as ``saved = ("scores", "start")``: numbers,
            text, tensors, arrays, generators, collections of them, snapshots, and what has a ``state_dict``. They are
            in every checkpoint, and a resumed run has them back after ``on_run_start``. ``saved = ()`` says that there
            are none; a loop that says nothing and keeps something is not resumed without a word.
        fixed_settings: names of attributes that must be the same when a run is resumed; others are refused by name.
            Their values are plain data.
        resumes_inside: whether a run that was cut goes on with the iteration it was in. False: the run begins anew, as
            where results are in memory that no checkpoint holds; the Trainer does not save inside its iterations.

    Example:
        >>> class Countdown(Loop):
        ...     left = 3
        ...     @property
        ...     def done(self):
        ...         return self.left == 0
        ...     def advance(self):
        ...         self.left -= 1
        >>> loop = Countdown()
        >>> loop.run()
        >>> loop.progress.current
        3
    """

    progress: Progress
    _plan: Plan
    _trainer: Any
    _restarting: bool
    _in_context: bool
    _bound: Any
    _after_advance: Callable[[], None] | None  # set by who keeps checkpoints: after an iteration,
    _before_end: Callable[[], None] | None  # and before a run ends
    _watch: Watch | None  # of a loop that is not the library's, during a fit
    saved: tuple[str, ...] = ()
    fixed_settings: tuple[str, ...] = ()
    resumes_inside = True

    def __init__(self) -> None:
        state = self.__dict__
        state["progress"] = Progress()
        state["_trainer"] = None
        state["_restarting"] = False
        state["_bound"] = state["_after_advance"] = state["_before_end"] = None
        state["_in_context"] = False
        state["_watch"] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_properties(cls)
        cls._plan = Plan(cls, Loop)

    # what a subclass says

    @property
    def done(self) -> bool:
        """Whether the loop is finished; asked before every iteration, also the first."""
        raise ConfigurationError(_missing(self, "done", "a property that is true when the loop is finished"))

    def advance(self, *args: Any, **kwargs: Any) -> None:
        """One iteration. ``args`` are those of ``run``."""
        raise ConfigurationError(_missing(self, "advance", "a method that does one iteration"))

    @property
    def skip(self) -> bool:
        """When true, ``run`` does nothing but return ``on_skip()``."""
        return False

    def on_skip(self) -> Any:
        """The value of ``run`` when the loop is skipped."""
        return None

    def reset(self) -> None:
        """Called at the start of every run, before ``on_run_start``."""

    def on_run_start(self, *args: Any, **kwargs: Any) -> None:
        """Called once a run, before ``done`` is asked for the first time."""

    def on_advance_start(self, *args: Any, **kwargs: Any) -> None:
        """Called before every ``advance``."""

    def on_advance_end(self) -> None:
        """Called after every ``advance`` that was not ended by ``StopIteration``."""

    def on_run_end(self) -> Any:
        """Called once a run, at its end; what it returns is what ``run`` returns."""
        return None

    def on_train_dataloader(self, loader: Any) -> Any:
        """Called on every loop of the tree when a run asks for its training loader; returns the one to train on."""
        return loader

    def run_context(self) -> AbstractContextManager[Any]:
        """A context in which a whole run takes place; it is left also after an error."""
        return nullcontext()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """The loop's own state as plain data (numbers, strings, tensors, lists, dicts)."""
        return {}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``on_save_checkpoint`` returned."""

    def teardown(self) -> None:
        """Free what this loop holds. The Trainer calls it on every loop of the tree after a run, also a failed one."""

    # what a loop gets

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the loop to its end and return the value of ``on_run_end``."""
        plan = self._plan
        if plan.skip and self.skip:
            return self.on_skip()
        if plan.run_context and not self._in_context:
            return self._run_in_context(args, kwargs)
        progress = self.progress
        if not self._restarting:
            progress.current = 0
        progress.running = True
        if plan.reset:
            self.reset()
        if plan.on_run_start:
            self.on_run_start(*args[: plan.run_start_takes], **(kwargs if plan.run_start_takes else {}))
        watch = self._watch
        if watch is not None:
            watch.begin_run(self._restarting)
        if self._restarting and self._trainer is not None:
            self._trainer.go_on()
        advance_args = args[: plan.advance_takes]
        advance_kwargs = kwargs if plan.advance_takes else {}
        try:
            while not self.done:
                if watch is not None:
                    watch.begin_iteration(self._restarting)
                if plan.on_advance_start:
                    self.on_advance_start(*args[: plan.advance_start_takes], **advance_kwargs)
                self.advance(*advance_args, **advance_kwargs)
                if watch is not None:
                    watch.end_iteration()
                progress.current += 1
                progress.total += 1
                if plan.on_advance_end:
                    self.on_advance_end()
                if self._restarting:
                    self._restarting = False
                if self._after_advance is not None:
                    self._after_advance()
        except StopIteration as stop:
            refuse_leaked_stop(stop, self)
        if self._restarting:
            self._restarting = False
        if self._before_end is not None:
            self._before_end()
        output = self.on_run_end() if plan.on_run_end else None
        if self._before_end is not None:
            self._before_end()  # again: on_run_end may have trained or tested something
        progress.running = False
        return output

    def _run_in_context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.__dict__["_in_context"] = True
        try:
            with self.run_context():
                return self.run(*args, **kwargs)
        finally:
            self.__dict__["_in_context"] = False

    def shortcut(self, *above: Progress, wants_output: bool = True) -> Callable[..., Any] | None:
        """A function that does what ``run`` does in fewer calls, for the loop above to bind; None: there is none.

        Built-in loops that run once a step have one where nothing in them was changed. It also counts an iteration
        for each loop that was left out, whose progress is in ``above``. Without ``wants_output`` it may return
        anything.
        """
        return None

    def is_unchanged(self, cls: type) -> bool:
        """Whether this loop is a ``cls`` as it came: no subclass, no hook of its own, not in the middle of a resume."""
        return type(self) is cls and self._plan is cls._plan and not self._restarting

    @property
    def trainer(self) -> Trainer:
        """The Trainer this loop is attached to.

        Raises:
            ConfigurationError: the loop is not part of a Trainer's tree.
        """
        if self._trainer is None:
            raise ConfigurationError(
                f"{type(self).__name__} is not attached to a Trainer. Assign it (trainer.fit_loop = loop) or "
                "connect it to a loop of a Trainer before you use `loop.trainer`."
            )
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        for loop in loops_in(self):
            state = loop.__dict__
            if state["_trainer"] is not trainer:
                state["_after_advance"] = state["_before_end"] = None
            state["_trainer"] = trainer
            state["_bound"] = None

    @property
    def restarting(self) -> bool:
        """True during the whole first iteration after `load_state_dict`."""
        return self._restarting

    @restarting.setter
    def restarting(self, value: bool) -> None:
        for loop in loops_in(self):
            loop.__dict__["_restarting"] = value

    def connect(self, **loops: Loop) -> None:
        """Attach loops under the names of the slots they fill, for instance ``connect(epoch_loop=MyLoop())``.

        Raises:
            ConfigurationError: a name is a misspelt slot of this loop, or a value is no Loop.
        """
        slots = [name for name, _ in children_of(self)]
        for name, loop in loops.items():
            if name not in vars(self) and (hint := did_you_mean(name, slots)):
                raise ConfigurationError(f"{type(self).__name__} has no loop {name!r}; it has {slots}.{hint}")
            if not isinstance(loop, Loop):
                raise ConfigurationError(
                    f"connect({name}=...) expects a Loop instance, got {loop!r}."
                    + (" Give an instance, or call `replace`." if isinstance(loop, type) else "")
                )
        for name, loop in loops.items():
            setattr(self, name, loop)

    def replace(self, **loops: Loop | type[Loop]) -> Any:
        """Put another loop in the place of a child, keeping the child's arguments and its own children.

        Args:
            loops: slot name, or a dotted path such as ``"epoch_loop.batch_loop"`` (by ``**{...}``), to a Loop
                class or instance. A class is built with the old loop's constructor arguments of the same
                names. The old loop's children are connected under their names, unless the new loop brings a
                child there that is not a built-in one.

        Returns:
            The loop that was replaced; a dict of them by name where several were.

        Raises:
            ConfigurationError: no loop stands there, or the new one needs arguments the old one does not have.
        """
        if not loops:
            raise ConfigurationError("replace() needs at least one loop, for instance replace(epoch_loop=MyLoop).")
        old = {path: replace_loop(self, path, new) for path, new in loops.items()}
        return next(iter(old.values())) if len(old) == 1 else old

    def state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        """The state of this loop and of all loops below, flat, by path: plain data.

        Keys: ``<path>type``, ``<path>progress``, ``<path>state_dict``, and ``<path>attributes`` (those of `saved`) and
        ``<path>settings`` where there are any, with ``<path>`` such as ``epoch_loop.``.
        """
        destination = {} if destination is None else destination
        progress = self.progress
        destination[prefix + "type"] = type(self).__name__
        destination[prefix + "progress"] = {
            "current": progress.current,
            "total": progress.total,
            "running": progress.running,
        }
        destination[prefix + "state_dict"] = self.on_save_checkpoint()
        if attributes := attributes_of(self):
            destination[prefix + "attributes"] = attributes
        if self.fixed_settings:
            destination[prefix + "settings"] = {name: getattr(self, name) for name in self.fixed_settings}
        for name, child in children_of(self):
            child.state_dict(destination, f"{prefix}{name}.")
        return destination

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Take back what `state_dict` returned; the next run goes on where the saved one was.

        Raises:
            ConfigurationError: the state is of another tree of loops, or settings have changed that must not.
            CheckpointError: a loop had changed attributes that it does not name in `saved`.
        """
        found = state_dict.get(prefix + "type")
        if found != type(self).__name__:
            path = prefix.rstrip(".") or "the top loop"
            raise ConfigurationError(
                f"The saved state does not fit this tree of loops: at {path} it holds "
                f"{found or 'no loop'}, the tree holds {type(self).__name__}. Build the tree as it was when saved."
            )
        if not prefix:
            _check_nothing_is_left(state_dict, set(paths_in(self)))
        check_settings(type(self).__name__, state_dict.get(prefix + "settings", {}), self)
        saved = state_dict[prefix + "progress"]
        self.progress.total = saved["total"]
        restarting = saved["running"] and self.resumes_inside
        self.progress.current = saved["current"]
        self.progress.running = False
        self.__dict__["_restarting"] = restarting
        self.on_load_checkpoint(state_dict[prefix + "state_dict"])
        load_attributes(self, state_dict.get(prefix + "attributes", {}), begins_run=restarting)
        for name, child in children_of(self):
            child.load_state_dict(state_dict, f"{prefix}{name}.")

    def __str__(self) -> str:
        return draw_tree(self)

    __repr__ = __str__

    def __setattr__(self, name: str, value: Any) -> None:
        if "progress" not in self.__dict__:
            raise _not_initialised(self)
        before = self.__dict__.get(name)
        check_slot(self, name, before, value)
        object.__setattr__(self, name, value)
        if isinstance(value, Loop | list | tuple | dict):
            try:
                for _, child in children_of(self, only=name):
                    child.trainer = self._trainer
            except ConfigurationError:
                object.__setattr__(self, name, before)
                raise
        elif name in OPTIONAL_HOOKS or name == "advance":
            object.__setattr__(self, "_plan", Plan(self, Loop))

    def __getattr__(self, name: str) -> Any:
        if "progress" not in self.__dict__ and not name.startswith("__"):
            raise _not_initialised(self)
        return object.__getattribute__(self, name)  # the original error, with its own message


Loop._plan = Plan(Loop, Loop)


def _missing(loop: Loop, name: str, what: str) -> str:
    return f"{type(loop).__name__} does not define `{name}`: a Loop needs {what}."


def _check_nothing_is_left(saved: dict[str, Any], paths: set[str]) -> None:
    for key in saved:
        path, _, what = key.rpartition(".")
        if what == "type" and path and path not in paths:
            raise ConfigurationError(
                f"The saved state does not fit this tree of loops: at {path} it holds {saved[key]}, the tree holds no "
                "loop. Build the tree as it was when saved."
            )


def _not_initialised(loop: Loop) -> AttributeError:
    name = type(loop).__name__
    return AttributeError(
        f"{name}.__init__ has not called super().__init__(). Make it the first line of {name}.__init__."
    )
