"""Cutting a guide split from the training data, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from torchloops.advanced.active_learning.splits import draw_samples
from torchloops.errors import ConfigurationError, DataError
from torchloops.trainer.loaders import copy_loader

__all__ = ["GuideSplit", "cut_guide", "find_labels"]


@dataclass(frozen=True)
class GuideSplit:
    """A training loader cut in two.

    Args:
        rest: what is left to train on, with the settings of the loader it was cut from.
        guide: the guide split in a fixed, mixed order, in batches of the same size.
        indices: positions of the guide split in the training data set, ascending.
    """

    rest: DataLoader[Any]
    guide: DataLoader[Any]
    indices: list[int]


def cut_guide(loader: Any, size: int | float, seed: int, datamodule: Any = None) -> GuideSplit:
    """Cut ``size`` samples (int) or that share of them (float) from the data of a training loader.

    The draw depends on ``seed`` only. It keeps the shares of the classes where their labels are at hand; no
    sample is decoded for it. Where the data module offers ``train_dataset_eval``, the guide split is read from
    it, without training transforms.

    Raises:
        ConfigurationError: the loader is no ``DataLoader`` with torch's own samplers.
        DataError: the data set is too small, or has no length.
    """
    dataset = _dataset_of(loader)
    count = size if isinstance(size, int) else max(1, round(size * len(dataset)))
    if count >= len(dataset):
        raise DataError(
            f"guide_split={size} takes {count} of {len(dataset)} training samples and leaves none to train on. "
            "Give a smaller one, or a guide_dataloader."
        )
    generator = torch.Generator().manual_seed(seed)
    labels = find_labels(dataset, datamodule)
    indices = draw_samples(range(len(dataset)), count, generator, labels, leave_one=True)
    mixed = [indices[place] for place in torch.randperm(count, generator=generator).tolist()]
    held_out = set(indices)
    rest = Subset(dataset, [index for index in range(len(dataset)) if index not in held_out])
    guide = DataLoader(
        Subset(_eval_view(dataset, datamodule), mixed),
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )
    return GuideSplit(_same_loader(loader, rest), guide, indices)


def _dataset_of(loader: Any) -> Any:
    if not isinstance(loader, DataLoader):
        raise ConfigurationError(
            f"guide_split cuts the data set of a torch DataLoader; the training data is a {type(loader).__name__}, as "
            "also with overfit_batches. Give guide_dataloader=..."
        )
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            f"guide_split cuts a data set by sample index, and {type(dataset).__name__} has none. Give "
            "guide_dataloader=..."
        )
    sampler = loader.sampler
    plain = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    if loader.batch_size is None or not plain:
        raise ConfigurationError(
            "guide_split needs a training loader that goes through its data set in order or shuffled; this one has a "
            f"{type(sampler if loader.batch_size else loader.batch_sampler).__name__}. Cut the split yourself and "
            "give guide_dataloader=..."
        )
    return dataset


def _same_loader(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """A loader over another data set with the settings of ``loader``, its generators included."""
    old: Any = loader.sampler
    shuffled = type(old) is RandomSampler
    return copy_loader(
        loader,
        dataset,
        sampler=RandomSampler(dataset, generator=old.generator) if shuffled else SequentialSampler(dataset),
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        generator=loader.generator,
        persistent_workers=loader.persistent_workers,
    )


def _eval_view(dataset: Any, datamodule: Any) -> Any:
    view = getattr(datamodule, "train_dataset_eval", None)
    same = getattr(datamodule, "train_dataset", None) is dataset
    return view if same and view is not None and len(view) == len(dataset) else dataset


def find_labels(dataset: Any, datamodule: Any = None) -> Sequence[int] | None:
    """The class of every sample, where it is known without reading samples; else None."""
    whole: Any = getattr(datamodule, "train_dataset", None)
    if whole is dataset and getattr(datamodule, "targets", None) is not None:
        return _as_classes(datamodule.targets, len(whole))
    if isinstance(dataset, ConcatDataset):
        parts = [find_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [label for part in parts for label in part or ()]
    tensors, indices = getattr(dataset, "tensors", None), getattr(dataset, "indices", None)
    labels: Sequence[int] | None = None
    if tensors is not None and len(tensors) > 1:
        labels = _as_classes(tensors[-1], len(tensors[-1]))
    elif indices is not None and hasattr(dataset, "dataset"):
        labels = find_labels(dataset.dataset)
    if tensors is not None or indices is not None:  # a TensorDataset, a Subset, or a data set built like them
        return labels if labels is None or indices is None else [labels[int(index)] for index in indices]
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None:
            return _as_classes(values, len(dataset))
    return None


def _as_classes(values: Any, length: int) -> list[int] | None:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    if tensor.shape != (length,) or tensor.is_floating_point() or tensor.is_complex():
        return None
    return [int(value) for value in tensor.tolist()]
