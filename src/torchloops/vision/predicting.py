"""From what a user hands to `ImageClassifier.predict` to batches of network inputs."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from torchloops.errors import ConfigurationError, DataError
from torchloops.files import given_path
from torchloops.vision.preprocessing import Preprocessing
from torchloops.vision.reading import as_image_tensor, list_images, read_image

__all__ = ["input_batches", "join_logits", "list_inputs"]


def list_inputs(inputs: Any) -> tuple[list[Any], bool]:
    """Return the single images in ``inputs``, and whether ``inputs`` was one image alone.

    A folder stands for all images under it, sorted by path; a tensor ``(B, C, H, W)`` for its B images.

    Raises:
        DataError: no image at all, or an input that is no image.
        ConfigurationError: an empty path.
    """
    if isinstance(inputs, str | os.PathLike) and not given_path(inputs, "inputs").is_dir():
        return [given_path(inputs, "inputs")], True
    if isinstance(inputs, Image.Image | numpy.ndarray) or (isinstance(inputs, Tensor) and inputs.ndim <= 3):
        return [inputs], True
    images = list(_expand(inputs))
    if not images:
        raise DataError(f"There is no image to predict in {inputs!r}.")
    return images, False


def _expand(inputs: Any) -> Iterator[Any]:
    if isinstance(inputs, str | os.PathLike):
        place = given_path(inputs, "inputs")
        yield from list_images(place) if place.is_dir() else [place]
    elif isinstance(inputs, Tensor) and inputs.ndim == 4:
        yield from inputs
    elif isinstance(inputs, Tensor | Image.Image | numpy.ndarray):
        yield inputs
    elif isinstance(inputs, Sequence):
        for entry in inputs:
            yield from _expand(entry)
    else:
        raise DataError(
            f"predict takes a path, a folder, a PIL image, a tensor, or a list of these, got {type(inputs).__name__}."
        )


def input_batches(
    images: Sequence[Any],
    batch_size: int,
    preprocessing: Preprocessing | None,
    transform: Callable[[Tensor], Tensor] | None,
) -> Iterator[Tensor]:
    """Yield batches ``(B, C, H, W)`` for the network, in the order of ``images``.

    uint8 images go through the transform and are normalised; float tensors are inputs already.
    """
    for start in range(0, len(images), batch_size):
        batch = [_one_input(image, preprocessing, transform) for image in images[start : start + batch_size]]
        shapes = {tuple(image.shape) for image in batch}
        if len(shapes) > 1:
            raise DataError(f"Inputs of one call must have one shape, got {sorted(shapes)}. Give transform=...")
        stacked = torch.stack(batch)
        yield stacked if preprocessing is None else preprocessing.normalise(stacked)


def _one_input(image: Any, preprocessing: Preprocessing | None, transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    if isinstance(image, Tensor) and image.is_floating_point():
        return image
    if preprocessing is None:
        raise ConfigurationError(
            "The model does not know how to turn a picture into an input: it was not trained with an image "
            "data "
            "module. Give float tensors, or set model.preprocessing."
        )
    if transform is None:
        transform = _known_transform(preprocessing)
    read = read_image if isinstance(image, Path) else as_image_tensor
    picture = read(image, preprocessing.channels, preprocessing.value_range)
    return picture if transform is None else transform(picture)


def _known_transform(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor] | None:
    if preprocessing.custom:
        raise ConfigurationError(
            "The model was trained with an eval_transform of your own, which a checkpoint does not hold. "
            "Give it again: model.predict(..., transform=eval_transform)."
        )
    return preprocessing.eval_transform()


def join_logits(parts: Iterable[Tensor]) -> Tensor:
    """Return the logits ``(n_images, num_classes)`` of all batches, on the CPU."""
    return torch.cat([part.float().cpu() for part in parts])
