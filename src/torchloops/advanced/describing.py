"""Settings and data as plain data: what tells whether a resumed run is still the same one."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from torchloops.errors import CheckpointError, differences

__all__ = ["check_same", "describe", "fingerprint"]

_SCALARS = (str, int, float, bool, type(None))
_SHOWN = 5  # differences that a message lists


def describe(setting: Any) -> Any:
    """A setting as plain data, equal for settings that do the same.

    Scalars stay what they are; a function or class becomes its name; any other object becomes its type and those
    arguments of its constructor that it keeps, so that what it counts while it runs is left out.

    Example:
        >>> from sklearn.model_selection import KFold
        >>> describe(KFold(3))
        {'type': 'KFold', 'n_splits': 3, 'shuffle': False, 'random_state': None}
    """
    if isinstance(setting, _SCALARS):
        return setting
    if isinstance(setting, np.generic):
        return setting.item()
    if isinstance(setting, list | tuple):
        return [describe(item) for item in setting]
    if isinstance(setting, Mapping):
        return {str(name): describe(item) for name, item in setting.items()}
    if isinstance(setting, torch.Tensor | np.ndarray):
        return fingerprint(setting)
    if callable(setting) and hasattr(setting, "__qualname__"):
        return f"{setting.__module__}.{setting.__qualname__}"
    return {"type": type(setting).__name__, **_kept_arguments(setting)}


def _kept_arguments(owner: Any) -> dict[str, Any]:
    try:
        names = list(inspect.signature(type(owner)).parameters)
    except (TypeError, ValueError):
        return {}
    kept = vars(owner) if hasattr(owner, "__dict__") else {}
    return {name: describe(kept[key]) for name in names for key in (name, f"_{name}") if key in kept}


def fingerprint(values: Iterable[Any]) -> str:
    """First 16 hexadecimal digits of SHA-256 over values in order: a tensor, an array or a list of plain values."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    if isinstance(values, np.ndarray) and values.dtype != object:
        content = repr((values.dtype.str, values.shape)).encode() + np.ascontiguousarray(values).tobytes()
    else:
        content = repr(list(values)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def check_same(what: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with something else than what was saved.

    Args:
        what: what the entries belong to, as it reads in the message.
        saved: entries of the checkpoint by name; those that ``now`` does not know are left out.
        now: the entries as they are.

    Raises:
        CheckpointError: it names what has changed, with both values.
    """
    changed = differences(saved, now)
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise CheckpointError(
            f"{what} is not as it was when the checkpoint was taken: {'; '.join(changed[:_SHOWN])}{more}. Resume with "
            "what the run was started with, or start a new fit."
        )
