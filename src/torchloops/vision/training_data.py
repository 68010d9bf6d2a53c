"""What a model takes over from the data module it is trained with."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchloops.vision.preprocessing import Preprocessing

__all__ = ["ImageSettings", "check_normalisation", "image_settings"]

_WRAPPED_AS = ("labelled", "datamodule")


@dataclass(frozen=True)
class ImageSettings:
    """Class names, preprocessing, and the evaluation transform where it is the user's own."""

    classes: list[str]
    preprocessing: Preprocessing
    custom_transform: Callable[[Tensor], Tensor] | None


def image_settings(datamodule: Any) -> ImageSettings | None:
    """Return the settings of an ImageClassificationData, also inside data modules that wrap it; else None."""
    while datamodule is not None:
        preprocessing = getattr(datamodule, "preprocessing", None)
        if isinstance(preprocessing, Preprocessing):
            transform = getattr(datamodule, "eval_transform", None) if preprocessing.custom else None
            return ImageSettings(list(datamodule.classes), preprocessing, transform)
        inner = (getattr(datamodule, name, None) for name in _WRAPPED_AS)
        datamodule = next((found for found in inner if found is not None), None)
    return None


def check_normalisation(
    preprocessing: Preprocessing,
    expected: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    backbone: str,
) -> None:
    """Warn where pretrained weights expect another normalisation than the data module does."""
    mean, std = expected
    if mean is None or preprocessing.custom or (preprocessing.mean, preprocessing.std) == (mean, std):
        return
    if preprocessing.image_size is None:
        return
    warnings.warn(
        f"The weights of {backbone} expect mean={mean} and std={std}, but the data is normalised with "
        f"mean={preprocessing.mean} and std={preprocessing.std}. Give the data module mean={mean}, "
        f"std={std}.",
        stacklevel=2,
    )
