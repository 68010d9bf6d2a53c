"""Labels and groups of all samples, read without touching an input wherever they are kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from torchloops.advanced.targets import target_of
from torchloops.errors import DataError, did_you_mean

__all__ = ["as_values", "known_values", "read_targets"]

_NAMES = ("targets", "labels", "_labels")

_ADVICE = "Give targets=... to KFoldDataModule."


def known_values(dataset: Any, given: Any = None, what: str = "targets") -> np.ndarray | None:
    """One value a sample, ``(n_samples,)`` or ``(n_samples, ...)``, or None where they are not at hand.

    Args:
        dataset: map-style data set; Subset and ConcatDataset are looked through.
        given: values in order; the name of a column or attribute of the data set; or a function of the data
            set that returns the values. None: ``targets`` or ``labels`` of the data set, the last tensor of a
            TensorDataset, or the second entries of ``samples``.
        what: what is looked for, as it reads in messages.

    Raises:
        DataError: no such column, or another number of values than samples.
    """
    if isinstance(given, str):
        return _checked(_column(dataset, given, what), dataset, what)
    if given is not None:
        return _checked(given(dataset) if isinstance(given, Callable) else given, dataset, what)  # type: ignore[arg-type]
    return _found(dataset)


def read_targets(dataset: Any) -> np.ndarray:
    """The targets of all samples out of the items themselves: every input is loaded once.

    Raises:
        DataError: an item has no target.
    """
    return as_values([target_of(dataset[index], f"sample {index}", _ADVICE) for index in range(len(dataset))])


def as_values(values: Any) -> np.ndarray:
    """Values as an array; numbers stay numbers."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if hasattr(values, "to_numpy"):
        return values.to_numpy()
    if isinstance(values, list | tuple) and values and isinstance(values[0], torch.Tensor):
        return torch.stack([value.detach().cpu() for value in values]).numpy()
    return np.asarray(values)


def _checked(values: Any, dataset: Any, what: str) -> np.ndarray:
    found = as_values(values)
    if found.ndim == 0 or len(found) != len(dataset):
        raise DataError(
            f"{what} must hold one value a sample: expected {len(dataset)}, got "
            f"{len(found) if found.ndim else 'a single value'}. Give them in the order of the training data."
        )
    return found


def _found(dataset: Any) -> np.ndarray | None:
    if isinstance(dataset, Subset):
        inner = _found(dataset.dataset)
        return None if inner is None else inner[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_found(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    if isinstance(dataset, TensorDataset):
        return as_values(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    for name in _NAMES:
        values = getattr(dataset, name, None)
        if _fits(values, dataset):
            return as_values(values)
    samples: Any = getattr(dataset, "samples", None)
    if _fits(samples, dataset) and all(isinstance(entry, tuple | list) for entry in islice(samples, 1)):
        return as_values([entry[1] for entry in samples])
    return None


def _fits(values: Any, dataset: Any) -> bool:
    return values is not None and not callable(values) and hasattr(values, "__len__") and len(values) == len(dataset)


def _column(dataset: Any, name: str, what: str) -> Any:
    if isinstance(dataset, Subset):
        return as_values(_column(dataset.dataset, name, what))[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([as_values(_column(part, name, what)) for part in dataset.datasets])
    if name in (getattr(dataset, "column_names", None) or ()):
        return dataset[name]
    if hasattr(dataset, name):
        return getattr(dataset, name)
    names = list(getattr(dataset, "column_names", None) or ())
    for table in vars(dataset).values():
        if hasattr(table, "columns") and hasattr(table, "iloc"):
            if name in table.columns:
                return table[name]
            names += map(str, table.columns)
    names = names or [key for key in vars(dataset) if not key.startswith("_")]
    raise DataError(
        f"{what}={name!r}: {type(dataset).__name__} has no column or attribute of that name; it has {names}."
        f"{did_you_mean(name, names)} Give the values themselves, or a function of the data set."
    )
