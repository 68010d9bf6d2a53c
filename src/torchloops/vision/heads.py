"""The last part of a classifier: from features ``(B, num_features)`` to logits ``(B, num_classes)``."""

import torch
from torch import nn

from torchloops.errors import ConfigurationError
from torchloops.module import evaluating

__all__ = ["build_head", "mismatch"]


def build_head(
    head: nn.Module | None, num_features: int | None, num_classes: int | None, backbone: str, dropout: float = 0.0
) -> tuple[nn.Module, int]:
    """Return the head and its number of classes, after a trial run on zeros.

    Args:
        head: the user's, or None for one linear layer.
        num_features: of the backbone; None where it is not known: then nothing is tried.
        num_classes: expected outputs; None: taken from the head.
        backbone: its name, for messages.
        dropout: probability of a dropout before the default head's linear layer.

    Raises:
        ConfigurationError: neither a head nor a number of classes, or parts that do not fit together.
    """
    if not 0 <= dropout < 1:
        raise ConfigurationError(f"head_dropout is a probability from 0 to below 1, got {dropout}.")
    if head is None:
        linear, num_classes = _linear_head(num_features, num_classes, backbone)
        return (nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear), num_classes
    if dropout:
        raise ConfigurationError("head_dropout is of the default head: put a Dropout into yours, or leave head out.")
    outputs = _try_head(head, num_features, backbone) if num_features is not None else _last_width(head)
    if num_classes is None:
        num_classes = outputs
    if num_classes is None:
        raise ConfigurationError("num_classes is needed: it cannot be read off this head. Give num_classes=...")
    if outputs is not None and outputs != num_classes:
        raise ConfigurationError(
            f"The head has {outputs} outputs, but num_classes={num_classes}. Make its last layer "
            f"Linear(..., {num_classes}), or leave num_classes out."
        )
    return head, num_classes


def mismatch(head: nn.Module, features: torch.Tensor, backbone: str) -> str | None:
    """Say why ``head`` does not take ``features``, as the text of an error; None where their sizes do fit."""
    if features.ndim != 2:
        return (
            f"The backbone {backbone} gives features of shape {tuple(features.shape)}, but the head "
            f"{_name(head)} "
            "failed on them. Expected (batch, num_features): end the backbone with pooling and Flatten()."
        )
    first = _first_width(head)
    if first is None or first == features.shape[1]:
        return None
    return (
        f"The backbone {backbone} gives {features.shape[1]} features, but the head {_name(head)} takes "
        f"{first}. "
        f"Make its first layer Linear({features.shape[1]}, ...)."
    )


def _linear_head(num_features: int | None, num_classes: int | None, backbone: str) -> tuple[nn.Module, int]:
    if num_classes is None:
        raise ConfigurationError("Neither head nor num_classes was given. Give num_classes=datamodule.num_classes.")
    if num_classes < 2:
        raise ConfigurationError(f"num_classes must be 2 or more, got {num_classes}.")
    if num_features is None:
        raise ConfigurationError(
            f"The number of features of the backbone {backbone} is not known. Set its attribute "
            "num_features, "
            "or give head=Linear(num_features, num_classes); head=Identity() if it gives logits itself."
        )
    return nn.Linear(num_features, num_classes), num_classes


def _try_head(head: nn.Module, num_features: int, backbone: str) -> int:
    parameter = next(iter(head.parameters()), None)
    place = None if parameter is None else parameter.device
    features = torch.zeros(1, num_features, device=place)
    try:
        with evaluating(head), torch.no_grad():
            logits = head(features)
    except (RuntimeError, ValueError) as error:
        reason = mismatch(head, features, backbone) or f"The head {_name(head)} failed on {num_features} features."
        raise ConfigurationError(reason) from error
    if logits.ndim != 2:
        raise ConfigurationError(
            f"The head {_name(head)} must turn (batch, {num_features}) into (batch, num_classes), "
            f"but gives {logits.ndim} dimensions: {tuple(logits.shape)}."
        )
    return logits.shape[1]


def _first_width(head: nn.Module) -> int | None:
    return next((layer.in_features for layer in head.modules() if isinstance(layer, nn.Linear)), None)


def _last_width(head: nn.Module) -> int | None:
    widths = [layer.out_features for layer in head.modules() if isinstance(layer, nn.Linear)]
    return widths[-1] if widths else None


def _name(head: nn.Module) -> str:
    return f"({', '.join(type(layer).__name__ for layer in head.modules() if not list(layer.children()))})"
