"""Which options of a run may change when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cyclopts import CycloptsError

from torchloops.cli.recipes import Recipe

__all__ = ["check_changes", "may_change"]

_WITHOUT_EFFECT = ("data_dir", "download", "n_jobs", "checkpoint_every")
"""Options of whatever recipe has them that do not change what is computed."""


def may_change(recipe: Recipe, options: Mapping[str, Any]) -> list[str]:
    """Names of the options that may change, in the order of ``options``."""
    return [name for name in options if name in recipe.extendable or name in _WITHOUT_EFFECT]


def check_changes(recipe: Recipe, before: Mapping[str, Any], given: Mapping[str, Any], *, begin_anew: str) -> None:
    """Refuse options that would change the result of a run.

    Args:
        recipe: says which options extend a run.
        before: the options it began with.
        given: those named now.
        begin_anew: what to type to begin another run with its options, for the message.

    Raises:
        CycloptsError: a line for every option that may not change so, with its old and new value.
    """
    wrong = []
    for name, value in given.items():
        old = before[name]
        if value == old or name in _WITHOUT_EFFECT:
            continue
        if name not in recipe.extendable:
            wrong.append(f"{name} was {old} and may not become {value}: that would change the result.")
        elif not _extends(old, value):
            wrong.append(f"{name} was {old} and may not become {value}: it can only be raised.")
    if wrong:
        free = ", ".join(may_change(recipe, before)) or "none"
        raise CycloptsError(
            "A run goes on with the options it began with.\n  "
            + "\n  ".join(wrong)
            + f"\nOptions that may change: {free}. For others begin a new run: {begin_anew} ..."
        )


def _extends(old: Any, new: Any) -> bool:
    """Whether a limit or a choice of parts has become more; None and -1 are no limit, or all parts."""
    if isinstance(old, list | tuple) or isinstance(new, list | tuple):
        return new is None or (old is not None and set(old) <= set(new))
    before, now = _limit(old), _limit(new)
    return before is None or now is None or now >= before


def _limit(value: Any) -> float | None:
    """The number that a limit stands for; None: it is no number, so nothing is more or less."""
    if value is None or value == -1:
        return math.inf
    return value if isinstance(value, int | float) else None
