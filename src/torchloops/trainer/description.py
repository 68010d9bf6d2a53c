"""What of the data must be the same when a run goes on."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset

from torchloops.errors import CheckpointError

__all__ = ["check_same_data", "describe_data"]

_HASHES = ("labels", "files", "chosen samples")


def describe_data(loader: Any) -> dict[str, Any]:
    """What of a loader and its data set decides over the batches, as far as it is known without reading a sample.

    Returns:
        ``number of batches``, ``batch_size``, ``drop_last``, ``number of samples``, ``sampler``, ``seed`` of the
        loader's own generator, and hashes of ``labels``, ``files`` and ``chosen samples`` (of a Subset). Only what
        is known is in it.
    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return _known({"number of batches": _length(loader)})
    iterable = isinstance(dataset, IterableDataset)
    batch_sampler, sampler = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)
    own = getattr(loader, "batch_size", None) is None and batch_sampler is not None
    size = getattr(batch_sampler, "batch_size", None) if own else getattr(loader, "batch_size", None)
    inner = getattr(batch_sampler, "sampler", sampler) if own else sampler
    generator = getattr(loader, "generator", None)
    generator = getattr(inner, "generator", None) if generator is None else generator
    return _known(
        {
            "batch_size": size,
            "drop_last": bool(getattr(batch_sampler if own else loader, "drop_last", False)),
            "number of samples": _length(dataset),
            "sampler": None if iterable else type(inner).__name__,
            "batch sampler": type(batch_sampler).__name__ if own else None,
            "seed of the loader's generator": generator.initial_seed()
            if isinstance(generator, torch.Generator)
            else None,
            "num_workers": getattr(loader, "num_workers", None) if iterable else None,  # they share out the samples
            "labels": _fingerprint(_labels(dataset)),
            "files": _fingerprint(_files(dataset)),
            "chosen samples": _fingerprint(_chosen(dataset)),
        }
    )


def check_same_data(saved: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    """Refuse data that is not what it was.

    Args:
        saved, now: from `describe_data`; what only one of them knows is not compared.
        name: of the data in the message.

    Raises:
        CheckpointError: names everything that has changed.
    """
    changed = [key for key in saved if key in now and saved[key] != now[key]]
    if changed:
        parts = [
            f"the {key} are others" if key in _HASHES else f"{key} was {saved[key]} and is {now[key]}"
            for key in changed
        ]
        raise CheckpointError(
            f"The {name} has changed since the checkpoint: {', '.join(parts)}. Resume with the data the run was "
            "started with, or begin a new fit from its weights."
        )


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _labels(dataset: Any) -> Any:
    """The labels of all samples where a data set holds them, or those of the data set it is a part of; else None."""
    for name in ("targets", "labels", "_source_targets"):
        values = _held(dataset, name)
        if values is not None:
            return values
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, Sequence) and len(tensors) > 1:
        return tensors[1]
    if isinstance(dataset, ConcatDataset):
        return _of_parts(dataset, _labels)
    inner = _inner(dataset)
    return None if inner is None else _labels(inner)


def _files(dataset: Any) -> Any:
    """The last two parts of the path of every file, where a data set holds the paths; else None."""
    paths = _held(dataset, "paths")
    samples = _held(dataset, "samples") if paths is None else None
    if isinstance(samples, list | tuple) and samples and isinstance(samples[0], tuple):
        paths = [sample[0] for sample in samples]
    if isinstance(paths, list | tuple) and paths and isinstance(paths[0], str | PurePath):
        return ["/".join(str(path).replace("\\", "/").rsplit("/", 2)[-2:]) for path in paths]
    if isinstance(dataset, ConcatDataset):
        return _of_parts(dataset, _files)
    inner = _inner(dataset)
    return None if inner is None else _files(inner)


def _chosen(dataset: Any) -> Any:
    """The indices of a part of a data set, from outer to inner; None for a whole one."""
    indices, inner = _held(dataset, "indices"), _inner(dataset)
    deeper = None if inner is None else _chosen(inner)
    found = [part for part in (indices, deeper) if part is not None]
    return found or None


def _of_parts(dataset: Any, find: Any) -> Any:
    parts = [find(part) for part in dataset.datasets]
    return None if any(part is None for part in parts) else parts


def _inner(dataset: Any) -> Any:
    """The data set that another one shows."""
    for name in ("dataset", "source"):
        inner = _held(dataset, name)
        if inner is not None and hasattr(inner, "__getitem__"):
            return inner
    return None


def _held(dataset: Any, name: str) -> Any:
    """A plain attribute; a property may read samples."""
    if isinstance(inspect.getattr_static(type(dataset), name, None), property):
        return None
    value = getattr(dataset, "__dict__", {}).get(name)
    return None if callable(value) else value


def _fingerprint(values: Any) -> str | None:
    """A hash of arrays, or lists of them; None where they are not plain."""
    if values is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    return digest.hexdigest() if _feed(digest, values) else None


def _feed(digest: Any, values: Any) -> bool:
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple | np.ndarray | torch.Tensor):
        digest.update(f"{len(values)} parts".encode())
        return all(_feed(digest, part) for part in values)
    try:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return False
    if array.dtype.kind in "iub":
        array = array.astype(np.int64)  # a list and a tensor of the same classes are the same
    if array.dtype.hasobject:
        return False
    digest.update(f"{array.dtype.kind}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return True
