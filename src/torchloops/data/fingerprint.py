"""Settings and data as plain data and hashes: what tells whether a resumed run is still the same one."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset

from torchloops.data.columns import held_labels
from torchloops.errors import CheckpointError, differences

__all__ = ["check_same", "describe", "describe_loader", "fingerprint"]

_SCALARS = (str, int, float, bool, type(None))
_SHOWN = 5  # differences that a message lists
_HASHES = ("labels", "files", "chosen samples")


def fingerprint(values: Any) -> str:
    """First 16 hexadecimal digits of SHA-256 over values: plain data, tensors, arrays, and lists and dicts of them.

    Whole numbers count the same whatever their width and whatever holds them; everything else counts with its type
    and shape, and a dict by its names in order of the alphabet.
    """
    digest = hashlib.sha256()
    _feed(digest.update, values)
    return digest.hexdigest()[:16]


def _feed(update: Callable[[Any], None], values: Any) -> None:
    if isinstance(values, Mapping):
        for name, value in sorted(values.items(), key=lambda item: str(item[0])):
            update(f"{name}:".encode())
            _feed(update, value)
        return
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        if tensor.dtype in _WITHOUT_NUMPY:
            update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            values = tensor.numpy()
    if isinstance(values, list | tuple) and any(not isinstance(value, _SCALARS) for value in values):
        update(f"{len(values)} parts".encode())
        for value in values:
            _feed(update, value)
        return
    array = np.asarray(values)
    if array.dtype.hasobject:
        update(repr(array.tolist()).encode())
        return
    if array.dtype.kind in "iub":
        array = array.astype(np.int64)
    update(f"{array.dtype.kind}{array.shape}".encode())
    update(np.ascontiguousarray(array).data if array.size else b"")


_WITHOUT_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


# settings


def describe(setting: Any) -> Any:
    """A setting as plain data, equal for settings that do the same.

    Scalars stay what they are; a function or class becomes its name; any other object becomes its type and those
    arguments of its constructor that it keeps, so that what it counts while it runs is left out.

    Example:
        >>> from sklearn.model_selection import KFold
        >>> describe(KFold(3))
        {'type': 'KFold', 'n_splits': 3, 'shuffle': False, 'random_state': None}
    """
    if isinstance(setting, _SCALARS):
        return setting
    if isinstance(setting, np.generic):
        return setting.item()
    if isinstance(setting, list | tuple):
        return [describe(item) for item in setting]
    if isinstance(setting, Mapping):
        return {str(name): describe(item) for name, item in setting.items()}
    if isinstance(setting, torch.Tensor | np.ndarray):
        return fingerprint(setting)
    if callable(setting) and hasattr(setting, "__qualname__"):
        return f"{setting.__module__}.{setting.__qualname__}"
    return {"type": type(setting).__name__, **_kept_arguments(setting)}


def _kept_arguments(owner: Any) -> dict[str, Any]:
    try:
        names = list(inspect.signature(type(owner)).parameters)
    except (TypeError, ValueError):
        return {}
    kept = vars(owner) if hasattr(owner, "__dict__") else {}
    return {name: describe(kept[key]) for name in names for key in (name, f"_{name}") if key in kept}


# data


def describe_loader(loader: Any) -> dict[str, Any]:
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
            "labels": _hash_or_none(_labels(dataset)),
            "files": _hash_or_none(_files(dataset)),
            "chosen samples": _hash_or_none(_chosen(dataset)),
        }
    )


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _labels(dataset: Any) -> Any:
    """The labels that a data set holds, or those of the data set it is a part of; else None."""
    known = held_labels(dataset, properties=False) if hasattr(dataset, "__len__") else None
    inner = _held(dataset, "source")
    return known if known is not None or inner is None else _labels(inner)


def _files(dataset: Any) -> Any:
    """The last two parts of the path of every file, where a data set holds the paths; else None."""
    paths = _held(dataset, "paths")
    samples = _held(dataset, "samples") if paths is None else None
    if isinstance(samples, list | tuple) and samples and isinstance(samples[0], tuple):
        paths = [sample[0] for sample in samples]
    if isinstance(paths, list | tuple) and paths and isinstance(paths[0], str | PurePath):
        return ["/".join(str(path).replace("\\", "/").rsplit("/", 2)[-2:]) for path in paths]
    if isinstance(dataset, ConcatDataset):
        parts = [_files(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else parts
    inner = _inner(dataset)
    return None if inner is None else _files(inner)


def _chosen(dataset: Any) -> Any:
    """The indices of a part of a data set, from outer to inner; None for a whole one."""
    indices, inner = _held(dataset, "indices"), _inner(dataset)
    deeper = None if inner is None else _chosen(inner)
    found = [part for part in (indices, deeper) if part is not None]
    return found or None


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


def _hash_or_none(values: Any) -> str | None:
    return None if values is None else fingerprint(values.to_numpy() if hasattr(values, "to_numpy") else values)


# what has changed


def check_same(what: str, saved: Mapping[str, Any], now: Mapping[str, Any], advice: str = "") -> None:
    """Refuse to go on with something else than what was saved.

    Args:
        what: what the entries belong to, as it reads in the message.
        saved: entries of the checkpoint by name; those that only one side knows are left out.
        now: the entries as they are.
        advice: a sentence that the message ends with.

    Raises:
        CheckpointError: it names what has changed, with both values.
    """
    hashed = [
        f"the {name} are others" for name in _HASHES if name in saved and saved[name] != now.get(name, saved[name])
    ]
    rest = {name: value for name, value in saved.items() if name not in _HASHES}
    changed = hashed + differences(rest, now)
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise CheckpointError(
            f"{what} is not as it was when the checkpoint was taken: {'; '.join(changed[:_SHOWN])}{more}. Resume with "
            f"what the run was started with, or start a new fit.{advice and ' '}{advice}"
        )
