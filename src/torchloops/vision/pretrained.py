"""Networks of torchvision and timm, without their classifiers, with or without pretrained weights."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import nn
from torchvision import models

from torchloops.errors import ConfigurationError, require
from torchloops.vision.weights import load_weights

__all__ = ["Backbone", "build_timm", "build_torchvision", "is_timm_name", "timm_names", "torchvision_names"]

Weights = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    ``num_features`` is the width of its output ``(B, num_features)``, None where it is not known; ``mean``
    and ``std`` are what its pretrained weights expect of the normalisation, None where that is not known.
    """

    module: nn.Module
    name: str
    num_features: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def torchvision_names() -> list[str]:
    """Return the names of torchvision's image classification models."""
    return models.list_models(module=models)


def timm_names() -> list[str]:
    """Return the names of timm's models; empty where timm is not installed."""
    return require("timm", extra="timm", needed_by="A timm backbone").list_models() if _has_timm() else []


def is_timm_name(name: str, *, required: bool) -> bool:
    """Tell whether timm has the model; a tag of weights ("resnet18.a1_in1k") is part of the name.

    Raises:
        MissingDependencyError: timm is not installed, and ``required``.
    """
    if not required and not _has_timm():
        return False
    return require("timm", extra="timm", needed_by=f'The backbone "timm/{name}"').is_model(name)


def build_torchvision(name: str, weights: Weights, options: dict[str, Any]) -> Backbone:
    """Build a torchvision model and replace its last layer by Identity.

    Raises:
        ConfigurationError: weights that cannot be had or do not fit.
    """
    choice = _torchvision_weights(name, weights)
    model = _download(name, lambda: models.get_model(name, weights=choice, **_extra(name), **options))
    classifier, num_features = _take_off_classifier(model, name)
    if weights is not None and choice is None:
        load_weights(model, weights, ignore=(f"{classifier}.", "aux1.", "aux2.", "AuxLogits."), name=name)
    if choice is None:
        return Backbone(model, name, num_features)
    preset = choice.transforms()
    return Backbone(model, name, num_features, tuple(preset.mean), tuple(preset.std))


def build_timm(name: str, weights: Weights, options: dict[str, Any]) -> Backbone:
    """Build a timm model without its classifier.

    Raises:
        ConfigurationError: weights that cannot be had or do not fit.
    """
    timm = require("timm", extra="timm", needed_by=f'The backbone "{name}"')
    pretrained = weights == "DEFAULT"
    model = _download(name, lambda: timm.create_model(name, pretrained=pretrained, num_classes=0, **options))
    settings: Any = model.pretrained_cfg
    if weights is not None and not pretrained:
        classifier = settings.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_weights(model, weights, ignore=tuple(f"{part}." for part in names), name=name)
    num_features = _width(model)
    if weights is None or settings.get("mean") is None:
        return Backbone(model, name, num_features)
    return Backbone(model, name, num_features, tuple(settings["mean"]), tuple(settings["std"]))


def _width(model: Any) -> int:
    # some models of timm have one more layer between the pooled features and the classifier
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def _has_timm() -> bool:
    return find_spec("timm") is not None


def _extra(name: str) -> dict[str, Any]:
    """Return arguments that switch off a second, auxiliary classifier, and the warning about its removal."""
    accepted = inspect.signature(models.get_model_builder(name)).parameters
    if "kwargs" in accepted and name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _torchvision_weights(name: str, weights: Weights) -> Any:
    if weights is None or not isinstance(weights, str):
        return None
    members = models.get_model_weights(name)
    return members[weights] if weights in members.__members__ else None


def _download(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except TypeError as error:
        raise ConfigurationError(f"The backbone {name} does not take these backbone_options: {error}") from error
    except Exception as error:  # every library below raises errors of its own where there is no network
        raise ConfigurationError(
            f"The backbone {name} could not be built: {type(error).__name__}: {error}\n"
            "If its weights could not be downloaded: fetch the file on a machine with a network and give "
            "weights=<path to the .safetensors or .pth file>, or weights=None for random weights."
        ) from error


def _take_off_classifier(model: nn.Module, name: str) -> tuple[str, int]:
    """Replace the last linear (or convolution) layer by Identity; return its name and input width."""
    last_child = [child for child, _ in model.named_children()][-1]
    layers = [
        (path, layer)
        for path, layer in model.named_modules()
        if path.split(".")[0] == last_child and isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        raise ConfigurationError(
            f"The classifier of {name} was not found. Build the network yourself and hand it over."
        )
    path, layer = layers[-1]
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return path, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
