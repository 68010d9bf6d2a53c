"""Mistakes with loops that would otherwise pass without a word."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torchloops.errors import ConfigurationError, differences
from torchloops.loops.tree import children_of

__all__ = ["check_is_loop", "check_properties", "check_settings", "check_slot"]

_SLOTS = ("fit_loop", "epoch_loop", "batch_loop", "optimizer_loop", "manual_loop", "val_loop")


def check_properties(cls: type) -> None:
    """Refuse a ``done`` or ``skip`` that is a plain method: a method is always true.

    Raises:
        ConfigurationError: ``@property`` was forgotten.
    """
    for name in ("done", "skip"):
        if inspect.isfunction(cls.__dict__.get(name)):
            raise ConfigurationError(
                f"{cls.__name__}.{name} is a method, and a method counts as true. Write @property above it."
            )


def check_is_loop(what: str, value: Any) -> None:
    """Refuse what is no instance of `Loop`.

    Raises:
        ConfigurationError: a class, None, or something else.
    """
    from torchloops.loops.loop import Loop

    if isinstance(value, Loop):
        return
    hint = f" Assign an instance: {value.__name__}(...)." if isinstance(value, type) else ""
    if what.endswith("val_loop") and value is None:
        hint = " To leave validation out, use Trainer(limit_val_batches=0)."
    raise ConfigurationError(f"{what} takes a Loop instance, got {value!r}.{hint}")


def check_settings(owner: str, saved: dict[str, Any], loop: Any) -> None:
    """Refuse to resume with settings that would change the result.

    Args:
        owner: how the message calls the loop.
        saved: the settings of the checkpoint by name.
        loop: the loop, which has them as attributes.

    Raises:
        ConfigurationError: some have changed.
    """
    before = {f"{owner}.{name}": value for name, value in saved.items()}
    changed = differences(before, {f"{owner}.{name}": getattr(loop, name, None) for name in saved})
    if changed:
        raise ConfigurationError(
            f"The run to resume had other settings: {'; '.join(changed)}. Resume it with its own, or start a new fit."
        )


def check_slot(loop: Any, name: str, before: Any, value: Any) -> None:
    """Refuse an assignment to an attribute of ``loop`` that would break its tree, or would have no effect.

    Raises:
        ConfigurationError: a built-in slot gets no loop, or a loop goes to a misspelt slot of a built-in loop.
    """
    from torchloops.loops.loop import Loop

    if isinstance(value, type) and issubclass(value, Loop):
        check_is_loop(f"{type(loop).__name__}.{name}", value)
    if isinstance(before, Loop):
        if name in _SLOTS:
            check_is_loop(f"{type(loop).__name__}.{name}", value)
    elif isinstance(value, Loop) and type(loop).__module__.startswith("torchloops.loops."):
        close = difflib.get_close_matches(name, [child for child, _ in children_of(loop)], n=1, cutoff=0.8)
        if close:
            raise ConfigurationError(f'{type(loop).__name__} has no loop {name!r}. Did you mean "{close[0]}"?')
