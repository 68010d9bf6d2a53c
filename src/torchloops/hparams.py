"""The arguments a constructor was called with."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["Hyperparameters", "collect_hyperparameters"]


class Hyperparameters(NamedTuple):
    """What `collect_hyperparameters` found.

    Attributes:
        values: by name.
        argument: the argument that holds them all; None: they are arguments themselves.
        of_bases: names that are arguments of a base class alone.
        ignored: names to leave out.
    """

    values: dict[str, Any]
    argument: str | None
    of_bases: list[str]
    ignored: set[str]


def collect_hyperparameters(owner: Any, args: tuple[Any, ...], ignore: Any) -> Hyperparameters:
    """Arguments of the constructors of ``owner`` that are running, its own and those of base classes.

    Args:
        owner: the object that is made.
        args: names of arguments, only these; or one argument itself, a dict or a namespace; none: all.
        ignore: a name or names to leave out.

    Raises:
        ConfigurationError: called outside of ``__init__``, or a name is no argument.
    """
    constructors = _running_constructors(owner)
    own = constructors[-1]
    arguments = {name: value for one in constructors for name, value in one.items()}
    ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
    objects = [value for value in args if not isinstance(value, str)]
    if objects:
        whole = _as_dict(owner, args)
        argument = next((name for name, value in arguments.items() if value is objects[0]), None)
        return Hyperparameters({name: whole[name] for name in whole if name not in ignored}, argument, [], ignored)
    for name in (*args, *ignored):
        if name not in arguments:
            raise ConfigurationError(
                f"save_hyperparameters: {type(owner).__name__}.__init__ has no argument {name!r}; it has "
                f"{sorted(arguments)}." + did_you_mean(name, arguments)
            )
    values = {name: arguments[name] for name in (args or arguments) if name not in ignored}
    return Hyperparameters(values, None, [name for name in values if name not in own], ignored)


def _as_dict(owner: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    given = vars(args[0]) if isinstance(args[0], Namespace) else args[0]
    if len(args) > 1 or not isinstance(given, Mapping):
        raise ConfigurationError(
            f"save_hyperparameters of {type(owner).__name__} takes names of arguments, or one dict or namespace with "
            f"all of them, got {', '.join(type(one).__name__ for one in args)}."
        )
    return dict(given)


def _running_constructors(owner: Any) -> list[dict[str, Any]]:
    """The arguments of each ``__init__`` of ``owner`` that is running, the innermost first."""
    frame, found = inspect.currentframe(), []
    while frame is not None:
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is owner:
            found.append(_arguments_of(frame))
        frame = frame.f_back
    if not found:
        raise ConfigurationError(f"Call save_hyperparameters() inside {type(owner).__name__}.__init__.")
    return found


def _arguments_of(frame: FrameType) -> dict[str, Any]:
    info, code = inspect.getargvalues(frame), frame.f_code
    arguments = {name: info.locals[name] for name in info.args if name != "self"}
    arguments.update(info.locals[info.keywords] if info.keywords else {})
    for name in code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]:
        arguments[name] = info.locals[name]
    return arguments
