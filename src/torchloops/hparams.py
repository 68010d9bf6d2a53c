"""The arguments a constructor was called with."""

from __future__ import annotations

import inspect
from typing import Any

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["collect_hyperparameters"]


def collect_hyperparameters(owner: Any, names: tuple[str, ...], ignore: Any) -> dict[str, Any]:
    """Arguments of the outermost ``__init__`` of ``owner`` that is running, by name.

    Raises:
        ConfigurationError: called outside of ``__init__``, or a name is no argument.
    """
    arguments = _running_init_arguments(owner)
    ignored = {ignore} if isinstance(ignore, str) else set(ignore)
    for name in (*names, *ignored):
        if name not in arguments:
            raise ConfigurationError(
                f"save_hyperparameters: {type(owner).__name__}.__init__ has no argument {name!r}; it has "
                f"{sorted(arguments)}." + did_you_mean(name, arguments)
            )
    return {name: arguments[name] for name in (names or arguments) if name not in ignored}


def _running_init_arguments(owner: Any) -> dict[str, Any]:
    frame, found = inspect.currentframe(), None
    while frame is not None:
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is owner:
            found = frame
        frame = frame.f_back
    if found is None:
        raise ConfigurationError(f"Call save_hyperparameters() inside {type(owner).__name__}.__init__.")
    info = inspect.getargvalues(found)
    arguments = {name: info.locals[name] for name in info.args if name != "self"}
    arguments.update(info.locals[info.keywords] if info.keywords else {})
    code = found.f_code
    for name in code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]:
        arguments[name] = info.locals[name]
    return arguments
