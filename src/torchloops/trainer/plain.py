"""Plain data: what a safe load accepts, and nothing else."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch

from torchloops.errors import CheckpointError
from torchloops.named import Named

__all__ = ["plain", "plain_or_none"]

_PLAIN = (bytes, bytearray, type(None), torch.Tensor, torch.Size, torch.dtype, torch.device)
_SCALARS = (bool, int, float, str)
_KINDS = {*_SCALARS, type(None)}


def plain(value: Any, path: str) -> Any:
    """``value`` with numpy's numbers and arrays, paths and the like made plain; nothing else than plain data passes.

    Args:
        value: numbers, strings, tensors, and lists, tuples, sets and dicts of them.
        path: how a message calls it.

    Raises:
        CheckpointError: something in it is no plain data.
    """
    if isinstance(value, Enum):
        return plain(value.value, path)
    if isinstance(value, bytes) and not value:
        return bytearray()  # a safe load refuses empty bytes
    if type(value) in _SCALARS or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Named):
        return Named(value.name, plain(value.call, path), value.shown)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _SCALARS):  # of a class of its own, which a safe load refuses
        return next(kind for kind in _SCALARS if isinstance(value, kind))(value)
    if isinstance(value, np.ndarray):
        return _tensor_or_list(value, path)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        items = {plain(key, path): plain(item, f"{path}.{key}") for key, item in value.items()}
        kind: Any = next((kind for kind in (OrderedDict, Counter) if isinstance(value, kind)), dict)
        mapping = kind(items)
        if isinstance(value, OrderedDict) and hasattr(value, "_metadata"):  # versions of the parts of a module
            mapping._metadata = plain(value._metadata, f"{path}._metadata")
        return mapping
    if isinstance(value, list | tuple | set):
        if type(value) in (list, tuple, set) and set(map(type, value)) <= _KINDS:
            return value.copy() if isinstance(value, list | set) else value
        kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
        return kind([plain(item, f"{path}[{index}]") for index, item in enumerate(value)])
    raise CheckpointError(
        f"The checkpoint cannot hold {path}: it is a {type(value).__name__}, and only plain data (numbers, strings, "
        "tensors, lists, dicts) can be loaded safely. Save a description of it in on_save_checkpoint instead."
    )


def _tensor_or_list(array: np.ndarray, path: str) -> Any:
    try:
        return torch.from_numpy(array.copy())
    except TypeError:  # text, times or objects
        return plain(array.tolist(), path)


def plain_or_none(value: Any) -> Any:
    """``value`` as plain data; None where it is something else."""
    try:
        return plain(value, "")
    except CheckpointError:
        return None
