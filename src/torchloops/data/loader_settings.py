"""Reading a user's loader: its data set, its settings, and how it draws samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)  # fmt: skip

from torchloops.data.items import find_label
from torchloops.data.label_values import plain_label
from torchloops.data.source import Source, same
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import isolated_generators

__all__ = ["check_map_style", "source_of"]

_KEPT = ("timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")


def source_of(
    data: Any,
    purpose: str,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    shuffle: bool | None = None,
    eval_dataset: Any = None,
    eval_collate_fn: Callable[[Any], Any] | None = None,
    target_key: str | int | None = None,
    advice: str = "Wrap the data in its data module, with batch_size=... and shuffle=True or False.",
) -> Source:
    """Find data sets and batch settings in a data module or loader, or take a map-style data set as it is.

    Args:
        data: a data module with ``train_dataloader``, a DataLoader, or a data set.
        purpose: who asks, as it reads in messages, such as "Cross-validation".
        batch_size, num_workers, shuffle: instead of those of the loader.
        eval_dataset: the same samples with evaluation transforms; default: ``train_dataset_eval`` of the data
            module, else the training data as it is.
        eval_collate_fn: joins samples that are scored; default: as those that train, unless that is random.
        target_key: place of the label in a sample.
        advice: what to do about a sampler that cannot be cut.

    Raises:
        ConfigurationError: no single DataLoader, no batch size, or a sampler that cannot be cut to a part.
        DataError: the data is iterable or empty, or the views are of different samples.
    """
    loader = data.train_dataloader() if hasattr(data, "train_dataloader") else data
    if hasattr(data, "train_dataloader"):
        eval_dataset = getattr(data, "train_dataset_eval", None) if eval_dataset is None else eval_dataset
        eval_collate_fn = getattr(data, "eval_collate_fn", None) if eval_collate_fn is None else eval_collate_fn
    if isinstance(loader, list | tuple) and len(loader) == 1 and isinstance(loader[0], DataLoader):
        loader = loader[0]
    several = isinstance(loader, list | tuple | dict)
    if isinstance(loader, DataLoader):
        source = _source_of_loader(loader, purpose, batch_size, shuffle, advice)
    elif isinstance(loader, Dataset) or (hasattr(loader, "__getitem__") and not several):
        source = Source(loader, loader)
    else:
        found = "no training data" if loader is None else f"a {type(loader).__name__}"
        raise ConfigurationError(
            f"{purpose} needs one torch DataLoader over a map-style data set, or such a data set: it deals out "
            f"its samples. Got {found} from {type(data).__name__}."
        )
    check_map_style(source.train, purpose)
    changes: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "shuffle": shuffle}
    changes = {name: value for name, value in changes.items() if value is not None}
    source = replace(source, **changes, eval_collate_fn=eval_collate_fn, target_key=target_key)
    if not source.num_workers:  # the loader's may have been given a number of workers in its place
        source = replace(source, options={k: v for k, v in source.options.items() if k == "worker_init_fn"})
    if eval_dataset is None:
        return source
    return replace(source, evaluate=_checked_view(eval_dataset, source.train, target_key), has_eval_view=True)


def _source_of_loader(
    loader: DataLoader[Any], purpose: str, batch_size: int | None, shuffle: bool | None, advice: str
) -> Source:
    check_map_style(loader.dataset, purpose)
    batches, sampler = loader.batch_sampler, loader.sampler
    if loader.batch_size is None and batches is not None:
        sampler = getattr(batches, "sampler", None)  # type: ignore[assignment]
    if type(batches) not in (BatchSampler, type(None)) and (shuffle is None or batch_size is None):
        sampler = None  # type: ignore[assignment]
    order = _order_of(sampler, loader, purpose, shuffle, advice)
    size = batch_size or loader.batch_size or getattr(batches, "batch_size", None)
    if not size:
        raise ConfigurationError("The loader of the training data has no batch size. Give batch_size=...")
    return Source(
        loader.dataset,
        loader.dataset,
        collate_fn=loader.collate_fn,
        batch_size=size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=bool(loader.drop_last or getattr(batches, "drop_last", False)),
        options={name: getattr(loader, name) for name in _KEPT if getattr(loader, name, None)},
        **order,
    )


def _order_of(sampler: Any, loader: Any, purpose: str, shuffle: bool | None, advice: str) -> dict[str, Any]:
    """How training draws samples, as the loader's sampler does; see `Source`."""
    n_samples = len(loader.dataset)
    if shuffle is not None and type(sampler) is not SubsetRandomSampler:
        return {"shuffle": shuffle}
    if type(sampler) is RandomSampler:
        count = sampler._num_samples
        return {"replacement": sampler.replacement, "num_samples": None if count == n_samples else count}
    if type(sampler) is SequentialSampler:
        return {"shuffle": False}
    if type(sampler) is SubsetRandomSampler:
        ids = sorted({int(index) for index in sampler.indices})
        if not ids or ids[0] < 0 or ids[-1] >= n_samples:
            raise DataError(f"The SubsetRandomSampler of the training data names no sample from 0 to {n_samples - 1}.")
        return {"ids": tuple(ids)}
    if type(sampler) is WeightedRandomSampler and len(sampler.weights) == n_samples:
        count = None if sampler.num_samples == n_samples else sampler.num_samples
        return {"weights": sampler.weights, "replacement": sampler.replacement, "num_samples": count}
    name = type(loader.batch_sampler if sampler is None else sampler).__name__
    raise ConfigurationError(
        f"The loader of the training data draws samples by a {name}, which cannot be cut to a part of them. {purpose} "
        f"needs to know how its parts are to be drawn. {advice}"
    )


def check_map_style(dataset: Any, purpose: str) -> None:
    """Refuse data whose samples cannot be named by position, and data without samples.

    Raises:
        DataError: it is iterable or empty.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} has no sample ids: {purpose} needs a data set with len(dataset) and "
            "dataset[i]. Give a map-style data set, or a data module whose train_dataloader has one."
        )
    if len(dataset) == 0:
        raise DataError(f"The training data is empty; {purpose} needs samples.")


def _checked_view(evaluate: Any, train: Any, target_key: str | int | None) -> Any:
    """An evaluation view of as many samples, whose labels are those of the training data where they are compared."""
    check_map_style(evaluate, "The evaluation view")
    if len(evaluate) != len(train):
        raise DataError(
            f"The evaluation view has {len(evaluate)} samples and the training data {len(train)}; expected the same "
            "samples in the same order, with evaluation transforms."
        )
    if evaluate is train:
        return evaluate
    with isolated_generators():
        for index in sorted({0, len(train) // 3, len(train) - 1}):
            one, other = (plain_label(find_label(view[index], target_key)) for view in (evaluate, train))
            comparable = all(isinstance(label, int | float | str | list) for label in (one, other))
            if comparable and not same(one, other):
                raise DataError(
                    f"Sample {index} has the label {one!r} in the evaluation view and {other!r} in the training data; "
                    "expected the same samples in the same order, with evaluation transforms."
                )
    return evaluate
