"""How many samples a batch has: what a mean over an epoch weighs its values by."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["batch_size", "warn_of_doubt"]


def batch_size(batch: Any) -> int:
    """Samples in a batch: the first dimension of the first tensor or array found in it; 1 where there is none."""
    first = batch[0] if batch.__class__ in (list, tuple) and batch else batch
    if first.__class__ is Tensor and first.shape:  # the usual kinds, without a detour
        return first.shape[0]
    return next(_sizes(batch), 1)


def warn_of_doubt(name: str, batch: Any) -> None:
    """Warn where the size of a batch cannot be known for sure.

    Args:
        name: what is logged.
        batch: the batch.
    """
    if batch is None:
        return
    sizes = list(dict.fromkeys(_sizes(batch)))
    if len(sizes) == 1 and not _is_list_of_samples(batch):
        return
    if not sizes:
        found = "holds no tensor that says how many samples it has, so each batch counts alike"
    elif len(sizes) > 1:
        found = f"holds tensors with the first dimensions {sizes[:5]}, of which {sizes[0]} is taken"
    else:
        found = f"looks like a list of {len(batch)} samples, but {sizes[0]} is taken, the first dimension in them"
    warnings.warn(
        f"self.log({name!r}, ...) weighs its mean over the epoch by the size of each batch; the batch "
        f"({type(batch).__name__}) {found}. Say it: self.log({name!r}, ..., batch_size=...).",
        stacklevel=3,
    )


def _is_list_of_samples(batch: Any) -> bool:
    return isinstance(batch, list) and len(batch) > 1 and all(isinstance(item, Mapping) for item in batch)


def _sizes(batch: Any) -> Iterator[int]:
    """The first dimensions of all tensors and arrays in a batch, in order."""
    if isinstance(batch, str | bytes | int | float | bool | None):
        return
    if isinstance(batch, PackedSequence):
        yield int(batch.batch_sizes[0])
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from _sizes(item)
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _sizes(item)
    elif dataclasses.is_dataclass(batch):
        for field in dataclasses.fields(batch):
            yield from _sizes(getattr(batch, field.name))
    elif isinstance(getattr(batch, "batch_size", None), int):  # batches of graphs say it
        yield batch.batch_size
    elif shape := getattr(batch, "shape", ()):
        yield int(shape[0])
