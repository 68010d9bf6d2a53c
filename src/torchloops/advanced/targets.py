"""Finding the target in a sample or a batch of a data set that is not ours."""

from __future__ import annotations

from typing import Any

from torchloops.errors import DataError

__all__ = ["TARGET_KEYS", "target_of"]

TARGET_KEYS = ("target", "targets", "label", "labels", "y")


def target_of(item: Any, name: str = "the batch", advice: str = "") -> Any:
    """The target in ``(input, target)``, or in a dict under "target", "targets", "label", "labels" or "y".

    Args:
        item: a sample or a batch.
        name: what it is, as it reads in the message.
        advice: what to do where there is none.

    Raises:
        DataError: there is none.
    """
    if isinstance(item, dict):
        for key in TARGET_KEYS:
            if key in item:
                return item[key]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        return item[1]
    raise DataError(
        f"No target was found in {name}: expected (input, target), or a dict with one of the keys "
        f"{', '.join(TARGET_KEYS)}, got {type(item).__name__}. {advice}".rstrip()
    )
