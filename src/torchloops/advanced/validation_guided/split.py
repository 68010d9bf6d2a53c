"""Cutting a guide split from the training data, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchloops.data.draws import draw_samples
from torchloops.data.items import NoLabelError
from torchloops.data.labels import Labels
from torchloops.data.loader_settings import source_of
from torchloops.errors import ConfigurationError, DataError

__all__ = ["GuideSplit", "cut_guide"]


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


def cut_guide(
    loader: Any, size: int | float, seed: int, datamodule: Any = None, target_key: str | int | None = None
) -> GuideSplit:
    """Cut ``size`` samples (int) or that share of them (float) from the data of a training loader.

    The draw depends on ``seed`` only. It keeps the shares of the classes where each sample has one; samples are read
    for that where nothing holds labels beside them. Where the data module offers ``train_dataset_eval``, the guide
    split is read from it, without training transforms.

    Raises:
        ConfigurationError: the loader is no ``DataLoader``, or its sampler cannot be cut.
        DataError: the data set is too small, or has no length.
    """
    _check_loader(loader)
    view = _eval_view(loader.dataset, datamodule)
    advice = "Cut the split yourself and give guide_dataloader=..."
    source = source_of(loader, "guide_split", eval_dataset=view, target_key=target_key, advice=advice)
    ids = list(source.sample_ids)
    count = size if isinstance(size, int) else max(1, round(size * len(ids)))
    if count >= len(ids):
        raise DataError(
            f"guide_split={size} takes {count} of {len(ids)} training samples and leaves none to train on. "
            "Give a smaller one, or a guide_dataloader."
        )
    generator = torch.Generator().manual_seed(seed)
    hint = getattr(datamodule, "targets", None)
    labels = Labels(source.evaluate, target_key=target_key, hints=[None if callable(hint) else hint])
    indices = draw_samples(ids, count, generator, _classes_of(labels, ids), leave_one=True)
    mixed = [indices[place] for place in torch.randperm(count, generator=generator).tolist()]
    held_out = set(indices)
    rest = source.training_loader([index for index in ids if index not in held_out], _generator_of(loader))
    guide = replace(source, num_workers=0, options={}).evaluation_loader(mixed)
    return GuideSplit(rest, guide, indices)


def _classes_of(labels: Labels, ids: list[int]) -> list[int] | None:
    try:
        return labels.class_indices(ids, "guide_split") if labels.form.is_classes else None
    except NoLabelError:
        return None


def _check_loader(loader: Any) -> None:
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


def _generator_of(loader: DataLoader[Any]) -> torch.Generator | None:
    return loader.generator if loader.generator is not None else getattr(loader.sampler, "generator", None)


def _eval_view(dataset: Any, datamodule: Any) -> Any:
    view = getattr(datamodule, "train_dataset_eval", None)
    same = getattr(datamodule, "train_dataset", None) is dataset
    return view if same and view is not None and len(view) == len(dataset) else None
