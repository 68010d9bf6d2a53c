"""Describe simple layers as plain data and build them again, so that a checkpoint can hold a head.

Only layers of the list below are known. Anything else has no description, and whoever loads the checkpoint
passes the module again.
"""

from typing import Any

from torch import nn

__all__ = ["build_layer", "describe_layer"]

_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.Dropout: ("p", "inplace"),
    nn.ELU: ("alpha", "inplace"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.GELU: ("approximate",),
    nn.Hardswish: ("inplace",),
    nn.Identity: (),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.Linear: ("in_features", "out_features"),
    nn.ReLU: ("inplace",),
    nn.SiLU: ("inplace",),
    nn.Sigmoid: (),
    nn.Tanh: (),
}
_BY_NAME = {layer.__name__: layer for layer in _ARGUMENTS}


def describe_layer(layer: nn.Module) -> dict[str, Any] | None:
    """Return plain data from which `build_layer` makes a layer of the same shape, or None."""
    if type(layer) is nn.Sequential:
        parts = {name: describe_layer(part) for name, part in layer.named_children()}
        return None if None in parts.values() else {"layer": "Sequential", "parts": parts}
    names = _ARGUMENTS.get(type(layer))
    if names is None:
        return None
    arguments = {name: _plain(getattr(layer, name)) for name in names}
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        arguments["bias"] = layer.bias is not None
    return {"layer": type(layer).__name__, "arguments": arguments}


def build_layer(description: dict[str, Any]) -> nn.Module:
    """Build the layer that `describe_layer` described, with fresh weights."""
    if description["layer"] == "Sequential":
        built = nn.Sequential()
        for name, part in description["parts"].items():
            built.add_module(name, build_layer(part))
        return built
    return _BY_NAME[description["layer"]](**description["arguments"])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
