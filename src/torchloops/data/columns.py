"""Where a data set keeps values beside its samples: labels that it holds, and columns that a user names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from torchloops.data.items import TARGET_KEYS
from torchloops.data.label_values import as_array
from torchloops.errors import DataError, did_you_mean

__all__ = ["array_or_none", "fits", "held_labels", "read_column"]

_NAMES = ("targets", "labels", "_labels")


def held_labels(dataset: Any, target_key: str | int | None = None, properties: bool = True) -> Any:
    """What a data set keeps beside its samples and looks like their labels, by position; None where there is nothing.

    That is ``targets``, ``labels`` or ``_labels``, the second entries of ``samples``, the second of a TensorDataset's
    tensors, or a column of that name, through Subset and ConcatDataset. It may differ from what the samples say.

    Args:
        dataset: map-style data set.
        target_key: place of the label in a sample.
        properties: also ask properties, which may read samples.
    """
    if isinstance(dataset, Subset):
        inner = held_labels(dataset.dataset, target_key, properties)
        return None if inner is None else array_or_none(inner, list(dataset.indices))
    if isinstance(dataset, ConcatDataset):
        parts = [held_labels(part, target_key, properties) for part in dataset.datasets]
        if any(part is None for part in parts):
            return None
        arrays = [array_or_none(part) for part in parts]
        return None if any(array is None for array in arrays) else _joined(arrays)
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and tensors and len(tensors[0]) == len(dataset):  # a TensorDataset, or one like it
        place = target_key if isinstance(target_key, int) else 1
        return tensors[place] if len(tensors) > 1 and -len(tensors) <= place < len(tensors) else None
    return _held_attribute(dataset, target_key, properties)


def _held_attribute(dataset: Any, target_key: str | int | None, properties: bool) -> Any:
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list | tuple):
        names = TARGET_KEYS if target_key is None else (target_key,)
        found = [name for name in names if name in columns]
        return dataset[found[0]] if len(found) == 1 else None
    for name in _NAMES:
        if not properties and isinstance(getattr(type(dataset), name, None), property | cached_property):
            continue
        values = getattr(dataset, name, None)
        if fits(values, dataset):
            return values
    samples: Any = getattr(dataset, "samples", None)
    if fits(samples, dataset) and all(isinstance(entry, tuple | list) for entry in islice(samples, 1)):
        return [entry[1] for entry in samples]
    return None


def fits(values: Any, dataset: Any) -> bool:
    """Whether something could hold a value for each sample."""
    if values is None or callable(values) or isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return False
    return hasattr(dataset, "__len__") and len(values) == len(dataset)


def array_or_none(values: Any, rows: list[int] | None = None) -> np.ndarray | None:
    """Values as an array, or some rows of it; None where some are missing, so that nothing can be compared."""
    try:
        return as_array(values)[slice(None) if rows is None else rows]
    except DataError:
        return None


def _joined(arrays: list[Any]) -> np.ndarray | None:
    same = len({(array.dtype.kind in "OUS", array.shape[1:]) for array in arrays}) == 1
    return np.concatenate(arrays) if same else None


def read_column(dataset: Any, given: Any, what: str) -> np.ndarray:
    """Values of all samples that a user has given: in order, by the name of a column or attribute, or by a function.

    Args:
        dataset: map-style data set; Subset and ConcatDataset are looked through for a name.
        given: the values, a name, or a function of the data set.
        what: the argument's name.

    Raises:
        DataError: no such column, another number of values than samples, or some are missing.
    """
    if isinstance(given, str):
        values = _column(dataset, given, what)
    else:
        values = given(dataset) if isinstance(given, Callable) else given  # type: ignore[arg-type]
    found = as_array(values, what)
    if found.ndim == 0 or len(found) != len(dataset):
        raise DataError(
            f"{what} must hold one value a sample: expected {len(dataset)}, got "
            f"{len(found) if found.ndim else 'a single value'}. Give them in the order of the training data."
        )
    return found


def _column(dataset: Any, name: str, what: str) -> Any:
    if isinstance(dataset, Subset):
        return as_array(_column(dataset.dataset, name, what), what)[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([as_array(_column(part, name, what), what) for part in dataset.datasets])
    if name in (getattr(dataset, "column_names", None) or ()):
        return dataset[name]
    if hasattr(dataset, name):
        return getattr(dataset, name)
    names = list(getattr(dataset, "column_names", None) or ())
    for table in getattr(dataset, "__dict__", {}).values():
        if hasattr(table, "columns") and hasattr(table, "iloc"):
            if name in table.columns:
                return table[name]
            names += map(str, table.columns)
    names = names or [key for key in vars(dataset) if not key.startswith("_")]
    raise DataError(
        f"{what}={name!r}: {type(dataset).__name__} has no column or attribute of that name; it has {names}."
        f"{did_you_mean(name, names)} Give the values themselves, or a function of the data set."
    )
