"""What an outer loop goes back to: the module as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["Snapshot"]


class Snapshot:
    """Weights, buffers, ``requires_grad`` flags and train/eval modes of a module, copied to the CPU.

    Args:
        module: the module to copy from.

    Attributes:
        hash: first 16 hexadecimal digits of SHA-256 over the weights and buffers, to compare runs by.
    """

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: value.detach().cpu().clone() for name, value in _tensors(module)}
        self.requires_grad = {name: p.requires_grad for name, p in module.named_parameters()}
        self.modes = {name: part.training for name, part in module.named_modules()}

    @property
    def hash(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            digest.update(name.encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def restore(self, module: nn.Module) -> None:
        """Put the module back; optimizers that hold its parameters keep pointing at them."""
        with torch.no_grad():
            for name, value in _tensors(module):
                value.copy_(self.weights[name])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(self.requires_grad[name])
            parameter.grad = None
        for name, part in module.named_modules():
            part.training = self.modes[name]

    def state_dict(self) -> dict[str, Any]:
        """The snapshot as plain data."""
        return {"weights": self.weights, "requires_grad": self.requires_grad, "modes": self.modes}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Snapshot:
        """The snapshot that `state_dict` described."""
        snapshot = cls.__new__(cls)
        snapshot.weights, snapshot.requires_grad = state["weights"], state["requires_grad"]
        snapshot.modes = state["modes"]
        return snapshot


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
