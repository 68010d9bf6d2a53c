"""Where samples come from: what a data module or data set offers, in one shape."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from torchloops.advanced.active_learning.truth import input_of
from torchloops.errors import ConfigurationError, DataError

__all__ = ["PoolDataset", "Source", "is_random", "source_of"]


@dataclass(frozen=True)
class Source:
    """Training samples in two views, and how they become batches.

    Args:
        train: map-style data set with training transforms.
        pool: the same samples in the same order with evaluation transforms.
        collate_fn: joins samples to a batch.
        batch_size: samples a training batch.
        num_workers: processes that load samples.
        pin_memory: whether batches are put in page-locked memory.
        has_eval_view: whether ``pool`` is known to be free of training transforms.
    """

    train: Any
    pool: Any
    collate_fn: Callable[[Any], Any]
    batch_size: int
    num_workers: int
    pin_memory: bool
    has_eval_view: bool

    def loader(self, sample_ids: Sequence[int], generator: torch.Generator | None = None) -> DataLoader[Any]:
        """Batches of these samples: shuffled training view if a generator is given, else evaluation view."""
        view = self.pool if generator is None else self.train
        shuffle: dict[str, Any] = {} if generator is None else {"shuffle": True, "generator": generator}
        return DataLoader(
            Subset(view, list(sample_ids)),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0 and generator is not None,
            **shuffle,
        )

    def pool_loader(self, sample_ids: Sequence[int], batch_size: int, with_ids: bool = True) -> DataLoader[Any]:
        """Batches ``(sample_ids, inputs)``, or ``inputs``, without labels."""
        collate: Any = _PoolCollate(self.collate_fn, with_ids)
        return DataLoader(
            PoolDataset(self.pool, sample_ids),
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
        )


class PoolDataset(Dataset[tuple[int, Any]]):
    """Samples of the pool as ``(sample_id, item)``."""

    def __init__(self, dataset: Any, sample_ids: Sequence[int]) -> None:
        self.dataset = dataset
        self.sample_ids = list(sample_ids)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        sample_id = self.sample_ids[position]
        return sample_id, self.dataset[sample_id]

    def __getitems__(self, positions: list[int]) -> tuple[list[int], Any]:
        ids = [self.sample_ids[position] for position in positions]
        gather = getattr(self.dataset, "__getitems__", None)
        return ids, gather(ids) if callable(gather) else [self.dataset[sample_id] for sample_id in ids]


@dataclass(frozen=True)
class _PoolCollate:
    """Joins ids and items without labels; only a custom function, which may want whole items, sees them."""

    collate_fn: Callable[[Any], Any]
    with_ids: bool

    def __call__(self, samples: tuple[list[int], Any]) -> Any:
        ids, items = samples
        if self.collate_fn is default_collate:
            inputs = default_collate([input_of(item) for item in items])
        else:
            inputs = input_of(self.collate_fn(items))
        return (torch.tensor(ids), inputs) if self.with_ids else inputs


def source_of(labelled: Any, batch_size: int | None, num_workers: int | None, pool_dataset: Any) -> Source:
    """Find data sets and batch settings in a data module, or take a map-style data set as it is.

    Raises:
        ConfigurationError: there is no training data, or no batch size.
        DataError: the data set is iterable, or the two views differ in length.
    """
    if hasattr(labelled, "train_dataloader"):
        loader = _single_loader(labelled)
    else:
        _check_map_style(labelled)
        loader = DataLoader(labelled, batch_size=32 if batch_size is None else batch_size)
    train = loader.dataset
    _check_map_style(train)
    pool, known = _eval_view(labelled, train, pool_dataset)
    size = batch_size or loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if not size:
        raise ConfigurationError("The labelled data's loader has no batch size. Give batch_size=...")
    workers = loader.num_workers if num_workers is None else num_workers
    return Source(train, pool, loader.collate_fn, size, workers, loader.pin_memory, known)


def _single_loader(labelled: Any) -> DataLoader[Any]:
    loader = labelled.train_dataloader()
    if not isinstance(loader, DataLoader):
        raise ConfigurationError(
            f"{type(labelled).__name__}.train_dataloader() returned {type(loader).__name__}; active learning "
            "needs one torch DataLoader over a map-style data set: its samples are the pool."
        )
    return loader


def _check_map_style(dataset: Any) -> None:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} has no sample ids: active learning needs a data set with len(dataset) "
            "and dataset[i]. Give a map-style data set, or a data module whose train_dataloader has one."
        )
    if len(dataset) == 0:
        raise DataError("The labelled data set is empty; active learning needs samples to ask for.")


def _eval_view(labelled: Any, train: Any, pool_dataset: Any) -> tuple[Any, bool]:
    """``(view, known)``: the given one, the module's ``train_dataset_eval``, or the training data itself."""
    given = getattr(labelled, "train_dataset_eval", None) if pool_dataset is None else pool_dataset
    if given is None:
        return train, False
    if len(given) != len(train):
        raise DataError(
            f"The pool's view has {len(given)} samples and the training data {len(train)}; expected the same "
            "samples in the same order, with evaluation transforms."
        )
    return given, True


def is_random(dataset: Any, looks: int = 4) -> bool:
    """Whether reading the first sample again gives something else."""
    first = copy.deepcopy(input_of(dataset[0]))
    return any(not _equal(first, input_of(dataset[0])) for _ in range(looks - 1))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    try:
        return bool((one == other) if not hasattr(one, "shape") else (one == other).all())
    except (TypeError, ValueError, AttributeError):
        return True
