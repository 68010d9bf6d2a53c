"""Data loaders as users give them: checked and counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchloops.errors import ConfigurationError, DataError
from torchloops.trainer.combined import CombinedLoader, as_combined, holds_loaders

__all__ = ["as_loaders", "gives_what_it_says", "is_known_sampler", "number_of_batches"]

_KNOWN = ("torch", "lightning_fabric", "lightning", "pytorch_lightning", "torchloops")


def number_of_batches(loader: Any, limit: float | int | None = None) -> float:
    """Batches an epoch of ``loader`` has under ``limit``; infinite where it does not say.

    Raises:
        DataError: the loader has no batches.
        ConfigurationError: a share of a loader without a length.
    """
    if limit == 0:
        return 0
    try:
        length: float = len(loader)
    except (TypeError, NotImplementedError):
        length = float("inf")
    if length == 0:
        raise DataError(
            "A data loader has no batches: its data set is empty, or smaller than a batch with drop_last=True. "
            "Give it data, a smaller batch_size, or drop_last=False."
        )
    if limit is None or (isinstance(limit, float) and limit == 1.0):
        return length
    if isinstance(limit, int):
        return min(length, limit)
    if length == float("inf"):
        raise ConfigurationError(f"limit {limit} is a share of a data loader that has no length; give an int.")
    return max(1, int(length * limit))


def gives_what_it_says(loader: Any) -> bool:
    """Whether a loader is sure to have as many batches as its length says: a list, or torch's with torch's samplers."""
    if isinstance(loader, CombinedLoader):
        return all(map(gives_what_it_says, loader.flattened))
    if not isinstance(loader, DataLoader):
        return isinstance(loader, list | tuple)
    if isinstance(loader.dataset, IterableDataset):
        return False
    samplers = (loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None), loader.sampler)
    return all(sampler is None or is_known_sampler(sampler) for sampler in samplers)


def is_known_sampler(sampler: Any) -> bool:
    """Whether a sampler is a list of indices, or of a library whose samplers keep to their length and their order."""
    return isinstance(sampler, list | tuple | range) or type(sampler).__module__.partition(".")[0] in _KNOWN


def as_loaders(given: Any, training: bool = False) -> list[Any]:
    """A list of loaders from one loader, a list or dict of them, or None (or an empty one); a data set is refused.

    Args:
        given: these.
        training: several loaders become one that gives a batch of each.

    Raises:
        DataError: not iterable, or a data set instead of a loader.
    """
    if given is None or (isinstance(given, list | tuple | Mapping) and not given):
        return []
    if (combined := as_combined(given)) is not None:
        for loader in combined.flattened:
            as_loaders(loader)
        return combined.flattened if combined.mode == "sequential" and not training else [combined]
    if training and (isinstance(given, Mapping) or (isinstance(given, list | tuple) and holds_loaders(given))):
        return as_loaders(CombinedLoader(given, "max_size_cycle"), training)
    if isinstance(given, Mapping):
        loaders = list(given.values())
    else:
        loaders = list(given) if isinstance(given, list | tuple) and holds_loaders(given) else [given]
    for loader in loaders:
        iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
        if not iterable or isinstance(loader, str | bytes):
            raise DataError(
                f"Expected a data loader (an iterable of batches), got {type(loader).__name__}. "
                "Wrap a data set: torch.utils.data.DataLoader(dataset, batch_size=...)."
            )
        if isinstance(loader, torch.utils.data.Dataset) and not isinstance(loader, IterableDataset):
            raise DataError(
                f"Expected a data loader, got the data set {type(loader).__name__}. "
                "Wrap it: torch.utils.data.DataLoader(dataset, batch_size=...)."
            )
    return loaders
