"""Where samples come from: the training data in two views, and how samples become batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)  # fmt: skip

from torchloops.errors import ConfigurationError, DataError

__all__ = ["FoldSource", "source_of"]

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True)
class FoldSource:
    """Training samples in two views, and how they become batches.

    Args:
        train: map-style data set with training transforms.
        evaluate: the same samples in the same order with evaluation transforms.
        collate_fn: joins samples to a batch.
        batch_size: samples a batch.
        num_workers: processes that load samples.
        pin_memory: whether batches are put in page-locked memory.
        drop_last: leave out a last training batch that is smaller.
        shuffle: whether training batches come in a random order.
        weights: of every sample, where training draws by weight.
        worker_init_fn: called in every worker.
    """

    train: Any
    evaluate: Any
    collate_fn: Callable[[Any], Any] = default_collate
    batch_size: int = DEFAULT_BATCH_SIZE
    num_workers: int = 0
    pin_memory: bool = False
    drop_last: bool = False
    shuffle: bool = True
    weights: torch.Tensor | None = None
    worker_init_fn: Any = None

    def training_loader(self, sample_ids: Sequence[int], seed: int) -> DataLoader[Any]:
        """Batches of these samples with training transforms, in an order set by ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"generator": generator, "drop_last": self.drop_last}
        if self.weights is not None:
            weights = self.weights[list(sample_ids)].tolist()
            options["sampler"] = WeightedRandomSampler(weights, len(sample_ids), generator=generator)
        else:
            options["shuffle"] = self.shuffle
        return self._loader(self.train, sample_ids, persistent_workers=self.num_workers > 0, **options)

    def evaluation_loader(self, sample_ids: Sequence[int]) -> DataLoader[Any]:
        """Batches of these samples with evaluation transforms, in the order of the ids."""
        return self._loader(self.evaluate, sample_ids)

    def _loader(self, view: Any, sample_ids: Sequence[int], **options: Any) -> DataLoader[Any]:
        dataset: Any = Subset(view, list(sample_ids))
        collate = self.collate_fn
        if type(view) is TensorDataset and collate is default_collate:
            dataset, collate = _TensorRows(view.tensors, sample_ids), _collate_rows
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            worker_init_fn=self.worker_init_fn,
            **options,
        )


class _TensorRows(Dataset[Any]):
    """Some rows of tensors in memory; a batch is gathered at once, where a Subset would collate it row by row."""

    draws_random_numbers = False

    def __init__(self, tensors: Sequence[torch.Tensor], sample_ids: Sequence[int]) -> None:
        self.tensors = tuple(tensors)
        self.indices = torch.tensor(list(sample_ids))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return tuple(tensor[self.indices[position]] for tensor in self.tensors)

    def __getitems__(self, positions: list[int]) -> Any:
        rows = self.indices[positions]
        return _Gathered(tensor[rows] for tensor in self.tensors)


class _Gathered(list[torch.Tensor]):
    """A batch that needs no collating."""


def _collate_rows(samples: Any) -> Any:
    return list(samples) if isinstance(samples, _Gathered) else default_collate(samples)


_collate_rows.draws_random_numbers = False  # type: ignore[attr-defined]


def source_of(
    data: Any,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    evaluate: Any = None,
    shuffle: bool | None = None,
) -> FoldSource:
    """Find data sets and batch settings in a data module or loader, or take a map-style data set as it is.

    Args:
        data: a data module with ``train_dataloader``, a DataLoader, or a data set.
        batch_size, num_workers, shuffle: instead of those of the loader.
        evaluate: the same samples with evaluation transforms; default: ``train_dataset_eval`` of the data
            module, else the training data as it is.

    Raises:
        ConfigurationError: no single DataLoader, no batch size, or a sampler that cannot be cut to a fold.
        DataError: the data is iterable or empty, or the views differ in length.
    """
    if hasattr(data, "train_dataloader"):
        loader = data.train_dataloader()
        evaluate = getattr(data, "train_dataset_eval", None) if evaluate is None else evaluate
    else:
        loader = data
    if isinstance(loader, Dataset) or (hasattr(loader, "__getitem__") and not isinstance(loader, list | tuple)):
        source = FoldSource(loader, loader)
    elif isinstance(loader, DataLoader):
        source = _source_of_loader(loader, batch_size, shuffle)
    else:
        raise ConfigurationError(
            f"Cross-validation needs one torch DataLoader over a map-style data set, or such a data set: its samples "
            f"are split. Got {_describe(loader)} from {type(data).__name__}."
        )
    _check_map_style(source.train)
    changes: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "shuffle": shuffle}
    source = replace(source, **{name: value for name, value in changes.items() if value is not None})
    return source if evaluate is None else replace(source, evaluate=_checked_view(evaluate, source.train))


def _describe(loader: Any) -> str:
    return "no training data" if loader is None else f"a {type(loader).__name__}"


def _source_of_loader(loader: DataLoader[Any], batch_size: int | None, shuffle: bool | None) -> FoldSource:
    _check_map_style(loader.dataset)
    sampler: Any = loader.sampler
    if loader.batch_size is None and loader.batch_sampler is not None:
        sampler = getattr(loader.batch_sampler, "sampler", None)
    if type(loader.batch_sampler) not in (BatchSampler, type(None)) and (shuffle is None or batch_size is None):
        sampler = None
    shuffles, weights = _order_of(sampler, loader, shuffle)
    size = batch_size or loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if not size:
        raise ConfigurationError("The loader of the training data has no batch size. Give KFoldDataModule batch_size.")
    return FoldSource(
        loader.dataset,
        loader.dataset,
        loader.collate_fn,
        size,
        loader.num_workers,
        loader.pin_memory,
        bool(loader.drop_last or getattr(loader.batch_sampler, "drop_last", False)),
        shuffles,
        weights,
        loader.worker_init_fn,
    )


def _order_of(sampler: Any, loader: Any, shuffle: bool | None) -> tuple[bool, torch.Tensor | None]:
    """Whether training shuffles, and by which weights it draws, as the loader's sampler does."""
    n_samples = len(loader.dataset)
    if shuffle is not None:
        return shuffle, None
    if isinstance(sampler, RandomSampler):
        return True, None
    if isinstance(sampler, SequentialSampler):
        return False, None
    if isinstance(sampler, WeightedRandomSampler) and len(sampler.weights) == n_samples:
        return True, sampler.weights
    name = type(loader.batch_sampler if sampler is None else sampler).__name__
    raise ConfigurationError(
        f"The loader of the training data draws samples by a {name}, which cannot be cut to a fold. Say what the folds "
        "are to do: KFoldDataModule(data, batch_size=..., shuffle=True), or define setup_folds and setup_fold_index "
        "on the data module."
    )


def _check_map_style(dataset: Any) -> None:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} has no sample ids: cross-validation needs a data set with len(dataset) and "
            "dataset[i]. Give a map-style data set, or a data module whose train_dataloader has one."
        )
    if len(dataset) == 0:
        raise DataError("The training data is empty; there is nothing to split.")


def _checked_view(evaluate: Any, train: Any) -> Any:
    if len(evaluate) != len(train):
        raise DataError(
            f"The evaluation view has {len(evaluate)} samples and the training data {len(train)}; expected the same "
            "samples in the same order, with evaluation transforms."
        )
    return evaluate
