"""Load a file of weights into a backbone, strictly, without running code from the file."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.errors import ConfigurationError, require
from torchloops.files import given_path

__all__ = ["load_weights"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_SHOWN = 8


def load_weights(
    module: nn.Module, path: str | os.PathLike[str], *, ignore: Sequence[str] = (), name: str = "the backbone"
) -> None:
    """Load ``path`` into ``module``; every weight must be there and have the right shape.

    A file may hold the state dict itself, or hold it under "state_dict" or "model"; a prefix "module." (of
    DistributedDataParallel) is taken off, and of a saved `ImageClassifier` the part "backbone." is used.

    Args:
        module: network without its classifier.
        path: .safetensors, or a PyTorch file (.pt, .pth, .ckpt, .bin), which is read with
            ``weights_only=True``.
        ignore: prefixes of names that may be there and are left out: those of the classifier.
        name: of the network, for messages.

    Raises:
        ConfigurationError: no such file, an unreadable or unsafe one, or weights of another network.
        MissingDependencyError: safetensors is not installed.
    """
    place = given_path(path, "weights")
    state = _strip(_tensors(_read(place, name), place))
    state = {key: value for key, value in state.items() if not key.startswith(tuple(ignore))}
    _check_shapes(module, state, place, name)
    keys = module.load_state_dict(state, strict=False)
    problems = [
        f"  {label} ({len(names)}): {_shorten(names)}"
        for label, names in (("missing", keys.missing_keys), ("unexpected", keys.unexpected_keys))
        if names
    ]
    if problems:
        listed = "\n".join(problems)
        raise ConfigurationError(f"The weights in {place} are not those of {name}:\n{listed}\nGive the file of {name}.")


def _read(place: Path, name: str) -> Any:
    if not place.is_file():
        raise ConfigurationError(
            f'There are no weights "{place}" of {name}: neither the name of pretrained weights ("DEFAULT") '
            "nor a "
            f"file. Expected an existing file ({', '.join(_SUFFIXES)})."
        )
    if place.suffix == ".safetensors":
        safetensors = require("safetensors.torch", extra="timm", needed_by=f"Reading {place.name}")
        try:
            return safetensors.load_file(place)
        except Exception as error:  # safetensors' own error class is no OSError
            raise ConfigurationError(f"{place} is not a readable safetensors file: {error}") from error
    try:
        return torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigurationError(
            f"{place} holds more than plain tensors, so it is not loaded: it could run code. "
            "Expected a state dict. Save one: torch.save(model.state_dict(), path)."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ConfigurationError(f"{place} is not a readable PyTorch file: {error}") from error


def _tensors(content: Any, place: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigurationError(f"{place} holds no state dict. Expected a dictionary of tensors by name.")
    return content


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("backbone.") for key in state) and any(key.startswith("head.") for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return state


def _check_shapes(module: nn.Module, state: dict[str, Tensor], place: Path, name: str) -> None:
    wrong = [
        f"{key} (expected {tuple(own.shape)}, got {tuple(state[key].shape)})"
        for key, own in module.state_dict().items()
        if key in state and state[key].shape != own.shape
    ]
    if wrong:
        raise ConfigurationError(
            f"The weights in {place} have other shapes than {name}: {_shorten(wrong)}. Give the file of {name}."
        )


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
