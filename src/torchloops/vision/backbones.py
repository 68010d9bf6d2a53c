"""Backbones: networks that turn images into features, by name or as a module of your own."""

import os
from collections.abc import Callable
from typing import Any

from torch import nn

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.vision.pretrained import (
    Backbone,
    build_timm,
    build_torchvision,
    is_timm_name,
    timm_names,
    torchvision_names,
)
from torchloops.vision.small import MLP, SmallCNN
from torchloops.vision.weights import load_weights

__all__ = ["Backbone", "build_backbone"]

_SMALL: dict[str, Callable[..., MLP | SmallCNN]] = {"mlp": MLP, "small_cnn": SmallCNN}
_TIMM_PREFIX = "timm/"


def build_backbone(
    backbone: str | nn.Module,
    weights: str | os.PathLike[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Backbone:
    """Build the network, take off its classifier and load weights.

    Args:
        backbone: "mlp" or "small_cnn" for small images, a name of torchvision, a name of timm (write
            "timm/resnet18" where both have it and timm's is wanted), or a module that gives features.
        weights: None for random weights; "DEFAULT" or another member of torchvision's weights enum (timm: its
            pretrained weights) to download; else a file of weights (.safetensors, .pt, .pth).
        options: further arguments of the network's constructor.

    Raises:
        ConfigurationError: an unknown name, or weights that do not fit.
    """
    options = dict(options or {})
    if isinstance(backbone, nn.Module):
        return _own_module(backbone, weights, options)
    if backbone in _SMALL:
        module = _build_small(backbone, options)
        built = Backbone(module, backbone, module.num_features)
        return _with_weights(built, weights)
    if backbone in torchvision_names():
        return build_torchvision(backbone, weights, options)
    name = backbone.removeprefix(_TIMM_PREFIX)
    if is_timm_name(name, required=backbone != name):
        return build_timm(name, weights, options)
    raise ConfigurationError(_unknown(backbone))


def _build_small(name: str, options: dict[str, Any]) -> MLP | SmallCNN:
    try:
        return _SMALL[name](**options)
    except TypeError as error:
        raise ConfigurationError(f"The backbone {name} does not take these backbone_options: {error}") from error


def _own_module(module: nn.Module, weights: str | os.PathLike[str] | None, options: dict[str, Any]) -> Backbone:
    if options:
        raise ConfigurationError(f"backbone_options={options} need a backbone given by name; yours is built already.")
    width = getattr(module, "num_features", None)
    built = Backbone(module, type(module).__name__, width if isinstance(width, int) else None)
    return _with_weights(built, weights)


def _with_weights(built: Backbone, weights: str | os.PathLike[str] | None) -> Backbone:
    if weights == "DEFAULT":
        raise ConfigurationError(f"There are no pretrained weights of {built.name}. Give weights=None or a file.")
    if weights is not None:
        load_weights(built.module, weights, name=built.name)
    return built


def _unknown(backbone: str) -> str:
    names = [*_SMALL, *torchvision_names(), *timm_names()]
    hint = "" if timm_names() else ' Names of timm need: pip install "torchloops[timm]".'
    return (
        f'There is no backbone "{backbone}". Expected "mlp", "small_cnn", a classification model of '
        "torchvision "
        "(resnet18, efficientnet_b0, vit_b_16, ...) or of timm, or an "
        f"nn.Module.{did_you_mean(backbone, names)}{hint}"
    )
