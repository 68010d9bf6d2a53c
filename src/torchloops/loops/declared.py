"""The state that a loop of the user's declares (``saved``), and what it keeps without declaring it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.loops.tree import children_of, loops_in
from torchloops.seeding import random_state, restore_random_state
from torchloops.values import NotPlainError, decode, encode, mark

if TYPE_CHECKING:
    from torchloops.loops.loop import Loop

__all__ = ["Watch", "attributes_of", "load_attributes", "watch"]

_LIBRARY = "torchloops."
_OF_OTHERS = ("torch", "torchloops", "lightning_fabric", "builtins", "itertools", "functools")


def watch(top: Loop) -> None:
    """Have all loops from ``top`` down that are not the library's note what they are before they run."""
    for loop in loops_in(top):
        if loop._watch is None and _users(type(loop)):
            loop.__dict__["_watch"] = Watch(loop)


class Watch:
    """Looks after the attributes of one loop during a fit.

    A loop that was cut inside an iteration does it again from its beginning, so its attributes and the random
    generators are saved as they were then.

    Args:
        loop: of a class of the user's.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.is_declared = "saved" in vars(loop) or any("saved" in vars(cls) for cls in _users(type(loop)))
        self.saves_itself = any("on_save_checkpoint" in vars(cls) for cls in _users(type(loop)))
        self._names = _own_names(loop)
        self._holds_loops = any(True for _ in children_of(loop))
        self._before = self._after_start = self._marks()
        self._loaded: dict[str, Any] = {}
        self._at_start: dict[str, Any] | None = None

    def begin_run(self, restarting: bool) -> None:
        """After ``on_run_start``: a resumed run has its attributes back.

        Raises:
            CheckpointError: others had changed, or ``on_run_start`` computes them from what has changed.
        """
        self._at_start = None
        if restarting:
            self._refuse_lost({**self._loaded.get("computed", {}), **self._loaded.get("unsaved", {})})
            _put_back(self.loop, self._loaded.get("saved", {}))
        self._after_start = self._marks()

    def begin_iteration(self, restarting: bool) -> None:
        """Before an iteration: note what it begins with, or begin it as the one that was cut."""
        if not self._holds_loops:
            return
        if restarting and self._loaded.get("random") is not None:
            restore_random_state(self._loaded["random"])
            self._at_start = {"saved": self._loaded["saved"], "random": self._loaded["random"]}
        else:
            self._at_start = {"saved": _encoded(self.loop, copy=True), "random": random_state()}

    def end_iteration(self) -> None:
        """After ``advance``."""
        self._at_start = None

    def state_dict(self) -> dict[str, Any]:
        """What is saved of the loop, and marks of what is not: ``unsaved`` has changed, ``computed`` has not."""
        state = self._at_start or {"saved": _encoded(self.loop), "random": None}
        now = self._marks()
        if not self.loop.progress.running:
            return {**state, "unsaved": _others(now, self._before)}
        unsaved = _others(now, self._after_start)
        return {**state, "unsaved": unsaved, "computed": {name: now[name] for name in now if name not in unsaved}}

    def load(self, state: dict[str, Any], begins_run: bool) -> None:
        """Take back what `state_dict` returned, before the run.

        Raises:
            CheckpointError: attributes had changed that are not saved, and no run begins that may set them.
        """
        self._loaded = state
        if not begins_run:
            self._refuse_lost(state.get("unsaved", {}))

    def _refuse_lost(self, then: dict[str, str]) -> None:
        """Refuse to go on where what is not saved is another than it was."""
        now = self._marks()
        lost = [name for name in then if now.get(name, "") != then[name] and name not in self.loop.saved]
        if lost:
            set_by_run = [name for name in now if now[name] != self._before.get(name)]
            names = sorted({*self.loop.saved, *lost, *set_by_run})
            raise CheckpointError(
                f"{_name(self.loop)} cannot be resumed: in the run that was cut, {_listed(lost)} had another "
                "value, which the checkpoint does not hold. Say in the class what belongs to the loop's state, and "
                f"start again: {_line(names)}. What needs no saving can be left out of it."
            )

    def _marks(self) -> dict[str, str]:
        """Marks of the attributes that the loop does not save; of one that declares its state, of snapshots only."""
        if self.saves_itself:
            return {}
        attributes = vars(self.loop)
        names = self._snapshots() if self.is_declared else self._names(attributes)
        return {name: text for name in names if name not in self.loop.saved and (text := _mark(attributes[name]))}

    def _snapshots(self) -> list[str]:
        return [name for name, value in vars(self.loop).items() if type(value).__name__ == "Snapshot"]


def _others(now: dict[str, str], before: dict[str, str]) -> dict[str, str]:
    """The marks that are others than before; empty for what is no longer there."""
    return {name: now.get(name, "") for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)}


def attributes_of(loop: Loop) -> dict[str, Any]:
    """What a checkpoint holds of the attributes of a loop; empty for one of the library that declares none."""
    if loop._watch is not None:
        return loop._watch.state_dict()
    return {"saved": _encoded(loop), "random": None} if loop.saved else {}


def load_attributes(loop: Loop, state: dict[str, Any], begins_run: bool) -> None:
    """Give a loop what `attributes_of` returned.

    Args:
        loop: the loop.
        state: what was returned.
        begins_run: whether a run is to be begun again that was cut; else the loop was at rest.

    Raises:
        CheckpointError: attributes had changed that are not saved, or saved ones are not in the checkpoint.
    """
    saved = state.get("saved", {})
    missing = [name for name in loop.saved if name not in saved]
    if missing:
        raise CheckpointError(
            f"{_name(loop)} cannot be resumed: the checkpoint holds no {_listed(missing)}, which its `saved` names. "
            "Resume with the class as it was, or start again."
        )
    _put_back(loop, saved)
    if loop._watch is None and state and _users(type(loop)):
        loop.__dict__["_watch"] = Watch(loop)
    if loop._watch is not None:
        loop._watch.load(state, begins_run)


def _put_back(loop: Loop, saved: dict[str, Any]) -> None:
    for name, encoded in saved.items():
        try:
            value = decode(encoded, getattr(loop, name, None))
        except NotPlainError as error:
            if not loop.progress.running:
                continue  # on_run_start makes it, and it is put back then
            raise ConfigurationError(f"{_name(loop)}.{name} cannot be put back: {error}.") from error
        if getattr(loop, name, None) is not value:
            setattr(loop, name, value)
        if type(value).__name__ == "Snapshot" and getattr(loop._trainer, "_module", None) is not None:
            loop.trainer.complete(value)


def _encoded(loop: Loop, copy: bool = False) -> dict[str, Any]:
    encoded = {}
    for name in loop.saved:
        if not hasattr(loop, name):
            raise ConfigurationError(
                f'{_name(loop)}.saved names "{name}", and the loop has no such attribute. Set it in __init__ or '
                "on_run_start, or leave it out."
            )
        try:
            encoded[name] = encode(getattr(loop, name), copy)
        except NotPlainError as error:
            raise ConfigurationError(
                f"{_name(loop)}.{name} cannot be saved: {error}. Keep a description of it there (numbers, text, "
                "tensors, lists, dicts), or give its class state_dict and load_state_dict."
            ) from error
    return encoded


def _mark(value: Any) -> str:
    """A mark of a value; empty for what is no state of a loop, such as loaders and iterators."""
    if type(value).__module__.startswith(_LIBRARY) and type(value).__name__ != "Snapshot":
        return ""
    try:
        return mark(value)
    except (NotPlainError, TypeError, AttributeError, RecursionError):
        kind = type(value)
        return "" if kind.__module__.partition(".")[0] in _OF_OTHERS else f"a {kind.__qualname__}"


def _users(cls: type) -> list[type]:
    """The classes in the order of inheritance that are not the library's."""
    return [base for base in cls.__mro__ if not base.__module__.startswith(_LIBRARY) and base is not object]


class _own_names:
    """Which names of a loop's attributes are the user's, those of the library's classes and other loops left out."""

    def __init__(self, loop: Loop) -> None:
        classes = type(loop).__mro__
        users = _users(type(loop))
        library = [cls for cls in classes if cls not in users and cls is not object]
        self._of_library = _names_in(library)
        self._children = {name.partition(".")[0] for name, _ in children_of(loop)}

    def __call__(self, attributes: Iterable[str]) -> list[str]:
        return [name for name in attributes if name not in self._of_library and name not in self._children]


def _names_in(classes: Iterable[type]) -> set[str]:
    """Names of attributes that the code of classes mentions."""
    found: set[str] = set()
    for cls in classes:
        for member in vars(cls).values():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            code = getattr(member, "__code__", None)
            pending = [] if code is None else [code]
            while pending:
                code = pending.pop()
                found.update(code.co_names)
                found.update(text for text in code.co_consts if isinstance(text, str) and text.isidentifier())
                pending += [const for const in code.co_consts if hasattr(const, "co_names")]
    return found


def _name(loop: Loop) -> str:
    return type(loop).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _line(names: Iterable[str]) -> str:
    return f"saved = {tuple(names)}".replace("'", '"')
