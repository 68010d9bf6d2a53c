"""What an outer loop goes back to: the module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchloops.data.fingerprint import fingerprint
from torchloops.errors import ConfigurationError
from torchloops.trainer.attributes import Attributes
from torchloops.trainer.hook_changes import HookChanges
from torchloops.values import register_kind

__all__ = ["Snapshot", "hash_of_weights"]


class Snapshot:
    """Everything a module is, copied: weights and buffers (to the CPU), ``requires_grad`` flags, train and eval modes,
    and the Python attributes of all its parts.

    Optimizers that a module keeps are no part of it: `Run` puts those back that ``configure_optimizers`` returns again.

    Args:
        module: the module to copy from.
        hooks: what hooks of the current run have filled, which the copy is to be without; None: nothing.

    Attributes:
        hash: first 16 hexadecimal digits of SHA-256 over the weights and buffers, to compare runs by.

    Raises:
        ConfigurationError: it has lazy parameters, which are not initialised before the first batch.
    """

    def __init__(self, module: nn.Module, hooks: HookChanges | None = None) -> None:
        lazy = [name for name, value in _tensors(module) if is_lazy(value)]
        if lazy:
            raise ConfigurationError(
                f"{type(module).__name__} has lazy parts ({lazy[0]} and {len(lazy) - 1} more), whose weights are drawn "
                "at the first batch, so there is nothing to start from. Show it a batch before the fit: "
                "module(inputs), with inputs of the right shape."
            )
        self.weights = {name: value.detach().cpu().clone() for name, value in _tensors(module)}
        self.requires_grad = {name: p.requires_grad for name, p in module.named_parameters()}
        self.modes = {name: part.training for name, part in module.named_modules()}
        self.attributes: Attributes | None = None
        self.empty_buffers: set[str] = set()
        self.complete(module, hooks)

    @property
    def hash(self) -> str:
        return fingerprint(self.weights)

    def restore(self, module: nn.Module, keep_records: bool = False) -> None:
        """Put the module back; optimizers that hold its parameters keep pointing at them.

        Args:
            module: the module.
            keep_records: leave what a module has written into lists, dicts and sets that were empty, to be looked at
                until the next fit.

        Raises:
            ConfigurationError: the module has other parameters now.
        """
        _drop_new_buffers(module, set(self.weights), self.empty_buffers)
        with torch.no_grad():
            for name, value in _tensors(module):
                saved = self.weights.get(name)
                if saved is None or (saved.shape != value.shape and name in self.requires_grad):
                    raise ConfigurationError(
                        f"{type(module).__name__} has another parameter {name!r} than when the run began, so it cannot "
                        "be put back. Build all layers in __init__ or configure_model."
                    )
                if saved.shape != value.shape:
                    value.data = value.new_empty(saved.shape)
                value.copy_(saved)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(self.requires_grad[name])
            parameter.grad = None
        for name, part in module.named_modules():
            part.training = self.modes.get(name, part.training)
        if self.attributes is not None:
            self.attributes.restore(module, keep_records)

    def refill(self, module: nn.Module, before: dict[str, torch.Tensor]) -> None:
        """Give the weights of the start to parts that took the place of others.

        Parameters count, and the buffers beside them in a part; a buffer of its own is what a hook has computed.

        Args:
            module: as it is now.
            before: the module's parameters and buffers before, by name.
        """
        new = {name.rpartition(".")[0] for name, p in module.named_parameters() if p is not before.get(name)}
        with torch.no_grad():
            for name, value in _tensors(module):
                saved = self.weights.get(name)
                is_new = value is not before.get(name) and name.rpartition(".")[0] in new
                if is_new and saved is not None and saved.shape == value.shape:
                    value.copy_(saved)

    def complete(self, module: nn.Module, hooks: HookChanges | None = None) -> None:
        """Take over the attributes of ``module``, built again as it was; checkpoints and pickles do not hold them."""
        if self.attributes is not None:
            return
        self.attributes = Attributes(module)
        if hooks is not None:
            hooks.undo(self.attributes.values)
            for (path, name), is_registered in hooks.filled_buffers.items():
                full_name = f"{path}.{name}".removeprefix(".")
                self.weights.pop(full_name, None)
                if is_registered:
                    self.empty_buffers.add(full_name)

    def state_dict(self) -> dict[str, Any]:
        """The snapshot as plain data, without attributes."""
        return {"weights": self.weights, "requires_grad": self.requires_grad, "modes": self.modes}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "attributes": None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Snapshot:
        """The snapshot that `state_dict` described."""
        snapshot = cls.__new__(cls)
        snapshot.weights, snapshot.requires_grad = state["weights"], state["requires_grad"]
        snapshot.modes = state["modes"]
        snapshot.attributes, snapshot.empty_buffers = None, set()
        return snapshot


register_kind(Snapshot, Snapshot.state_dict, Snapshot.from_state_dict)


def hash_of_weights(module: nn.Module) -> str:
    """The `Snapshot.hash` of a module as it is now."""
    return fingerprint(dict(_tensors(module)))


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _drop_new_buffers(module: nn.Module, known: set[str], empty: set[str]) -> None:
    """Take away buffers that were registered since, and empty those that were empty."""
    for prefix, part in module.named_modules():
        for name in [name for name in part._buffers if part._buffers[name] is not None]:
            full_name = f"{prefix}.{name}".removeprefix(".")
            if full_name in empty:
                part._buffers[name] = None
            elif full_name not in known:
                delattr(part, name)
