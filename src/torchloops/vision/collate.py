"""Join samples to a batch; the conversion to float and the normalisation happen here, once per batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import DataError
from torchloops.vision.datasets import GatheredBatch
from torchloops.vision.preprocessing import Preprocessing

__all__ = ["ImageCollator"]


@dataclass(frozen=True)
class ImageCollator:
    """Collate function: samples ``(image, target)`` become ``(images, targets)``, lone images become
    ``images``.

    ``images`` is a float tensor ``(B, C, H, W)``: uint8 images are scaled to 0 to 1 and normalised with the
    settings of ``preprocessing``, float images stay as they are. ``targets`` is an int64 tensor ``(B,)``.
    """

    draws_random_numbers = False

    preprocessing: Preprocessing

    def __call__(self, samples: Sequence[Any]) -> Any:
        if isinstance(samples, GatheredBatch):
            return self.preprocessing.normalise(samples.images), samples.targets.long()
        if isinstance(samples[0], Tensor):
            return self.preprocessing.normalise(_stack(samples))
        images = _stack([sample[0] for sample in samples])
        return self.preprocessing.normalise(images), torch.tensor([int(sample[1]) for sample in samples])


def _stack(images: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"The images of one batch must have one shape, got {sorted(shapes)}. "
            "Give image_size=..., or end the transform with a resize to a fixed (height, width)."
        )
    return torch.stack(list(images))
