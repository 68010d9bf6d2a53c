"""Weights of a fold: drawn anew where every fold is to have its own, copied, and loaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchloops.errors import ConfigurationError

__all__ = ["draw_weights", "load_weights", "weights_of"]

_NAMES = ("reset_parameters", "_reset_parameters")


def draw_weights(module: nn.Module) -> None:
    """Draw all weights anew from torch's global generator.

    A module that defines ``reset_parameters`` is asked alone; else every part of it that owns parameters or
    buffers is asked for its ``reset_parameters``, as torch's own layers have it.

    Raises:
        ConfigurationError: a part owns parameters and has no ``reset_parameters``.
    """
    own: Any = getattr(module, "reset_parameters", None)
    if callable(own):
        own()
        return
    parts = [(name, part, _reset_of(part)) for name, part in module.named_modules()]
    helpless = [
        f"{name or 'the module itself'} ({type(part).__name__})"
        for name, part, reset in parts
        if reset is None and any(True for _ in part.parameters(recurse=False))
    ]
    if helpless:
        raise ConfigurationError(
            f"new_weights=True draws new initial weights for every fold, but {helpless[0]} owns parameters and has no "
            f"reset_parameters() ({len(helpless)} such parts). Define reset_parameters() on it or on "
            f"{type(module).__name__}, or leave new_weights out."
        )
    for _, _, reset in parts:
        if reset is not None:
            reset()


def _reset_of(part: nn.Module) -> Any:
    for name in _NAMES:
        if callable(getattr(part, name, None)):
            return getattr(part, name)
    return None


def weights_of(module: nn.Module) -> dict[str, Any]:
    """The state of a module, copied to the CPU."""
    return {
        name: value.detach().cpu().clone() if hasattr(value, "detach") else value
        for name, value in module.state_dict().items()
    }


def load_weights(module: nn.Module, weights: dict[str, Any]) -> None:
    """Load what `weights_of` copied, buffers included that the module does not have before its ``setup`` for a fit."""
    parts = dict(module.named_modules())
    for name, value in weights.items():
        path, _, leaf = name.rpartition(".")
        part = parts.get(path)
        if isinstance(value, Tensor) and part is not None and _lacks(part, leaf):
            part.register_buffer(leaf, value.detach().clone())
    module.load_state_dict(weights)


def _lacks(part: nn.Module, name: str) -> bool:
    return part._buffers.get(name) is None and name not in part._parameters and not hasattr(type(part), name)
