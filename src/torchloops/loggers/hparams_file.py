"""Hyper-parameters in ``hparams.yaml``, as loggers write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from torchloops.files import write_whole

__all__ = ["as_dict", "is_first_process", "write_hparams"]


def as_dict(params: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as a dict, given as one, as a namespace or by name."""
    given = params if isinstance(params, Mapping) else vars(params) if params is not None else {}
    return {**given, **others}


def write_hparams(folder: str | Path, params: Mapping[str, Any]) -> None:
    """Write them to ``folder``; what YAML does not know is written as text."""
    import yaml

    text = yaml.safe_dump(_plain(params), sort_keys=False, allow_unicode=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_whole(Path(folder, "hparams.yaml"), text.encode(), durable=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    kinds = (bool, int, float, str)  # YAML refuses classes of one's own that are such
    kind: Any = next((kind for kind in kinds if isinstance(value, kind)), None if value is None else str)
    return value if kind is None else kind(value)


def is_first_process() -> bool:
    """Whether this is the process that writes."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank())
