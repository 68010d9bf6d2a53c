"""The buffers that ``state_dict`` leaves out: training may change them all the same."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["collect_buffers", "restore_buffers"]


def collect_buffers(module: Any) -> dict[str, torch.Tensor]:
    """The buffers registered with ``persistent=False``, by their path in ``module``."""
    return {
        f"{path}.{name}" if path else name: part._buffers[name]
        for path, part in module.named_modules()
        for name in sorted(part._non_persistent_buffers_set)
        if part._buffers.get(name) is not None
    }


def restore_buffers(module: Any, buffers: dict[str, torch.Tensor]) -> None:
    """Put back what `collect_buffers` returned; buffers of parts that are not there now are left alone."""
    parts = dict(module.named_modules())
    for path, value in buffers.items():
        owner, _, name = path.rpartition(".")
        if owner not in parts or name not in parts[owner]._buffers:
            continue
        now = parts[owner]._buffers[name]
        if now is None or now.shape != value.shape:
            parts[owner]._buffers[name] = value if now is None else value.to(now.device)
        elif not torch.equal(now, value.to(now.device)):
            now.copy_(value)
