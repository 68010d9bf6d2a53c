"""Replacing one loop of a tree by another: constructor arguments and children carry over."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.loops.tree import children_of

if TYPE_CHECKING:
    from torchloops.loops.loop import Loop

__all__ = ["replace_loop"]

_POSITIONAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def replace_loop(root: Loop, path: str, new: Loop | type[Loop]) -> Loop:
    """Put ``new`` at the dotted ``path`` below ``root`` and return the loop that stood there."""
    *above, name = path.split(".")
    parent = _find(root, above)
    old = _child(parent, name)
    _check_is_loop(new, path)
    loop = _build(new, old) if isinstance(new, type) else new
    _keep_children(old, loop)
    _put(parent, name, loop)
    return old


def _find(loop: Loop, names: list[str]) -> Any:
    value: Any = loop
    for name in names:
        value = _child(value, name)
    return value


def _child(parent: Any, name: str) -> Any:
    if isinstance(parent, list) and name.isdigit() and int(name) < len(parent):
        return parent[int(name)]
    if isinstance(parent, dict) and name in parent:
        return parent[name]
    if not isinstance(parent, list | dict) and name in vars(parent):
        return vars(parent)[name]
    names = [found for found, _ in children_of(parent)] if not isinstance(parent, list | dict) else list(parent)
    raise ConfigurationError(
        f"There is no loop {name!r} to replace in {type(parent).__name__}; it has {names or 'none'}."
        + did_you_mean(name, map(str, names))
    )


def _put(parent: Any, name: str, loop: Loop) -> None:
    if isinstance(parent, list):
        parent[int(name)] = loop
    elif isinstance(parent, dict):
        parent[name] = loop
    else:
        setattr(parent, name, loop)


def _check_is_loop(new: Any, path: str) -> None:
    from torchloops.loops.loop import Loop

    if not (issubclass(new, Loop) if isinstance(new, type) else isinstance(new, Loop)):
        raise ConfigurationError(f"replace({path}=...) expects a Loop class or instance, got {new!r}.")


def _build(cls: type[Loop], old: Loop) -> Loop:
    """An instance of ``cls`` with the constructor arguments of ``old`` that it takes, by name."""
    known = constructor_arguments(old)
    if not issubclass(cls, type(old)):  # it cannot know what None stands for in the old loop
        known = {name: _in_force(old, name, value) for name, value in known.items()}
    arguments, missing = {}, []
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in _POSITIONAL:
            continue
        if name in known:
            arguments[name] = known[name]
        elif parameter.default is inspect.Parameter.empty:
            missing.append(name)
    if missing:
        raise ConfigurationError(
            f"{cls.__name__} needs the argument(s) {missing}, which {type(old).__name__} does not have. "
            f"Give an instance: replace(...={cls.__name__}({missing[0]}=...))."
        )
    return cls(**arguments)


def constructor_arguments(loop: Loop) -> dict[str, Any]:
    """Constructor arguments of ``loop`` by name, read from the attributes of the same (or underscored) name."""
    arguments = {}
    for name in inspect.signature(type(loop)).parameters:
        for attribute in (f"_{name}", name):
            if attribute in vars(loop):
                arguments[name] = vars(loop)[attribute]
                break
    return arguments


def _in_force(loop: Loop, name: str, value: Any) -> Any:
    """What an argument left at None stands for, for instance a limit of the Trainer; None without a Trainer."""
    return getattr(loop, name, None) if value is None and loop._trainer is not None else value


def _keep_children(old: Loop, new: Loop) -> None:
    """Connect the children of ``old`` to ``new``, but for slots where ``new`` brings a loop that is not built in."""
    names = {path.partition(".")[0] for path, _ in children_of(old)}
    for name in names:
        brought = vars(new).get(name)
        if brought is None or type(brought).__module__.startswith("torchloops.loops."):
            setattr(new, name, vars(old)[name])
