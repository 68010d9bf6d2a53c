"""Each process's share of data to evaluate: every sample once, in the batches that one process would have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from torchloops.trainer.position import indexed_loader

__all__ = ["ShareOfBatches", "in_order", "is_share", "share_of"]


class ShareOfBatches(Sampler[Any]):
    """Every ``world_size``-th batch of a loader, beginning with the one of number ``rank``.

    Args:
        batches: the loader's batch sampler, or its sampler where it does not batch.
        rank: of this process.
        world_size: processes.
    """

    def __init__(self, batches: Any, rank: int, world_size: int) -> None:
        self.batches, self.rank, self.world_size = batches, rank, world_size

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.rank, None, self.world_size)

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.world_size))


def share_of(loader: Any, rank: int, world_size: int) -> DataLoader[Any] | None:
    """A loader of one process's batches; None where samples have to be repeated, of which it warns.

    That is so where the samples do not come in the data set's order, which processes may draw differently, or where
    there are fewer batches than processes.
    """
    source = indexed_loader(loader)
    if source is None:
        return None
    batched = source.batch_sampler is not None
    batches: Any = source.batch_sampler if batched else source.sampler
    is_in_order = type(source.sampler) is SequentialSampler and (not batched or type(batches) is BatchSampler)
    if not is_in_order or len(batches) < world_size:
        sampler: Any = source.sampler
        number = len(sampler) if hasattr(sampler, "__len__") else 0
        if number % world_size:
            warnings.warn(
                f"{number} samples in {world_size} processes: some are evaluated twice, so that each process has as "
                "many. Evaluate in one process (devices=1), or give a loader with shuffle=False and a batch or more "
                "for each process.",
                stacklevel=2,
            )
        return None
    new = object.__new__(type(source))
    share = ShareOfBatches(batches, rank, world_size)
    new.__dict__.update(source.__dict__ | {"batch_sampler" if batched else "sampler": share, "_iterator": None})
    return new


def is_share(loader: Any) -> bool:
    """Whether a loader is what `share_of` made."""
    return any(isinstance(getattr(loader, name, None), ShareOfBatches) for name in ("sampler", "batch_sampler"))


def in_order(shares: list[list[Any]]) -> list[Any]:
    """What each process has of its batches, by rank, in the order of one process."""
    nothing = object()
    return [item for items in zip_longest(*shares, fillvalue=nothing) for item in items if item is not nothing]
