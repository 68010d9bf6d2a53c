"""What a sample or a batch is made of: the label, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchloops.errors import ConfigurationError, DataError, did_you_mean

__all__ = [
    "TARGET_KEYS",
    "NoLabelError",
    "find_label",
    "label_of",
    "label_place",
    "number_of_rows",
    "rows_of_label",
    "without_label",
]


class NoLabelError(DataError):
    """Samples have no label at all."""


TARGET_KEYS = ("label", "labels", "target", "targets", "y")
_TUPLE_PLACE = 1


def label_place(item: Any, target_key: str | int | None = None) -> str | int | None:
    """Where the label of a sample or batch is: a key of a mapping, a position in a tuple; None where there is none.

    Args:
        item: a sample or a batch.
        target_key: where the user says it is. Default: entry 1 of a tuple or list; of a mapping the one key among
            ``label``, ``labels``, ``target``, ``targets`` and ``y``.

    Raises:
        ConfigurationError: several keys of a mapping could be the label's.
        DataError: there is nothing at ``target_key``.
    """
    if isinstance(item, Mapping):
        if target_key is not None:
            if target_key in item:
                return target_key
            hint = did_you_mean(str(target_key), map(str, item))
            raise DataError(f"target_key={target_key!r}: a sample has the keys {list(item)}.{hint}")
        found = [key for key in TARGET_KEYS if key in item]
        if len(found) > 1:
            raise ConfigurationError(
                f"A sample has the keys {found}, and each could be its label. Say which: target_key={found[0]!r}."
            )
        return found[0] if found else None
    if not isinstance(item, tuple | list):
        return None
    place = _TUPLE_PLACE if target_key is None else target_key
    if not isinstance(place, int):
        raise DataError(
            f"target_key={place!r} is a key of a dict, but a sample is a {type(item).__name__} of {len(item)} entries. "
            "Give a position, counted from 0."
        )
    if -len(item) <= place < len(item):
        return place % len(item)
    if target_key is None:
        return None
    raise DataError(f"target_key={place}: a sample has {len(item)} entries, counted from 0.")


def find_label(item: Any, target_key: str | int | None = None) -> Any:
    """The label of a sample or batch, or None."""
    place = label_place(item, target_key)
    return None if place is None else item[place]


def label_of(item: Any, target_key: str | int | None = None, name: str = "the batch", advice: str = "") -> Any:
    """The label of a sample or batch.

    Args:
        item, target_key: see `label_place`.
        name: what it is, as it reads in the message.
        advice: what to do where there is none.

    Raises:
        NoLabelError: there is none.
    """
    place = label_place(item, target_key)
    if place is None:
        what = f"a dict with the keys {list(item)}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
        raise NoLabelError(
            f"No label was found in {name}: expected (input, label), or a dict with one of the keys "
            f"{', '.join(TARGET_KEYS)}, got {what}. Give target_key=... {advice}".rstrip()
        )
    return item[place]


def without_label(item: Any, target_key: str | int | None = None) -> Any:
    """A sample or batch without its label: a list of the other entries, a dict of the other keys, or itself."""
    if isinstance(item, Mapping) and target_key is not None:
        return {key: value for key, value in item.items() if key != target_key}
    place = label_place(item, target_key)
    if isinstance(item, Mapping):
        return {key: value for key, value in item.items() if key != place}
    if isinstance(item, tuple | list):
        return [value for index, value in enumerate(item) if index != place]
    return item


def rows_of_label(label: Any) -> int | None:
    """Samples that the label of a batch stands for; None where it does not say."""
    if isinstance(label, torch.Tensor):
        return len(label) if label.ndim else None
    if isinstance(label, tuple | list) and label and not isinstance(label[0], torch.Tensor):
        return len(label)
    return None


def number_of_rows(batch: Any) -> int | None:
    """Samples of a batch: the length of the first tensor or list found in it; None where there is none."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else None
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        for part in batch:
            found = number_of_rows(part)
            if found is not None:
                return found
            if isinstance(part, tuple | list):
                return len(part)
    return None
