"""What happens to an image between the file and the network, as plain data.

A sample is read and resized as uint8; the conversion to float and the normalisation run once per batch:

    file -> uint8 [C, H, W] -> transform (per sample, uint8) -> stack -> float, normalise (per batch)

`Preprocessing` holds the settings of the evaluation side, so that a model can keep them in its checkpoint
and treat a new picture exactly as it was treated in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from torchloops.errors import ConfigurationError
from torchloops.vision.depth import ValueRange, check_value_range

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESIZE_PER_CROP = 256 / 224


@dataclass(frozen=True)
class Preprocessing:
    """Settings that turn a decoded image into an input of the network.

    Args:
        image_size: ``(height, width)`` of the network's input in pixels, or None: images stay as large as
            they come.
        mean: per channel, on the scale 0 to 1, or None: images are only scaled to 0 to 1.
        std: per channel, on the scale 0 to 1; None exactly where ``mean`` is None.
        channels: channels of a decoded image: 3 (RGB) or 1 (grey).
        custom: the evaluation transform is the user's own; a checkpoint does not hold it.
        value_range: the values that are black and white in pictures of more than 8 bits, see `read_image`.

    Raises:
        ConfigurationError: sizes or channel counts that do not fit together.
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3
    custom: bool = False
    value_range: ValueRange | None = None

    def __post_init__(self) -> None:
        check_value_range(self.value_range)
        if self.image_size is not None and min(self.image_size) < 1:
            raise ConfigurationError(f"image_size must be positive pixels, got {self.image_size}.")
        if (self.mean is None) != (self.std is None):
            raise ConfigurationError(
                f"mean and std belong together, got mean={self.mean} and std={self.std}. Give both or neither."
            )
        if self.mean is not None and self.std is not None:
            _check_statistics(self.mean, self.std)

    @classmethod
    def create(
        cls,
        image_size: int | Sequence[int] | None,
        mean: Sequence[float] | float | None,
        std: Sequence[float] | float | None,
        *,
        channels: int = 3,
        custom: bool = False,
        value_range: ValueRange | None = None,
    ) -> "Preprocessing":
        """Build from what a user writes: one number for a square image, or for every channel."""
        means, stds = _as_channels(mean, "mean"), _as_channels(std, "std")
        return cls(_as_size(image_size), means, stds, channels, custom, value_range)

    def train_transform(self) -> Callable[[Tensor], Tensor] | None:
        """Return random resized crop and horizontal flip for one uint8 image ``[C, H, W]``; None without a size."""
        if self.image_size is None:
            return None
        return v2.Compose([v2.RandomResizedCrop(self.image_size, antialias=True), v2.RandomHorizontalFlip()])

    def eval_transform(self) -> Callable[[Tensor], Tensor] | None:
        """Return resize (to 8/7 of the crop) and centre crop for one uint8 image ``[C, H, W]``; None without a size."""
        if self.image_size is None:
            return None
        height, width = self.image_size
        if height == width:
            resize = v2.Resize(round(height * _RESIZE_PER_CROP), antialias=True)
        else:
            resize = v2.Resize([round(side * _RESIZE_PER_CROP) for side in self.image_size], antialias=True)
        return v2.Compose([resize, v2.CenterCrop([height, width])])

    def normalise(self, images: Tensor) -> Tensor:
        """Scale a uint8 batch ``[B, C, H, W]`` to 0 to 1 and normalise it; a float batch passes unchanged."""
        if images.dtype != torch.uint8:
            return images
        images = images.to(torch.get_default_dtype())
        if self.mean is None or self.std is None:
            return images.div_(255)
        self._check_channels(images)
        mean = torch.tensor(self.mean, device=images.device, dtype=images.dtype).mul_(255).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device, dtype=images.dtype).mul_(255).view(-1, 1, 1)
        return images.sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and tuples, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Preprocessing":
        """Build from `to_dict`; keys of a later version are ignored."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in state.items()
        }
        return cls(**{key: value for key, value in values.items() if key in known})

    def _check_channels(self, images: Tensor) -> None:
        channels = images.shape[-3]
        if self.mean is not None and len(self.mean) not in (1, channels):
            raise ConfigurationError(
                f"mean and std have {len(self.mean)} channels, but the images have {channels} "
                f"(shape {tuple(images.shape)}). Give one number per channel, or one for all."
            )


def _as_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    if isinstance(image_size, int):
        return (image_size, image_size)
    if len(image_size) != 2:
        raise ConfigurationError(f"image_size must be one number or (height, width), got {image_size!r}.")
    return (int(image_size[0]), int(image_size[1]))


def _as_channels(values: Sequence[float] | float | None, name: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    if isinstance(values, int | float):
        return (float(values),)
    if not len(values):
        raise ConfigurationError(f"{name} must have one number per channel, got {values!r}.")
    return tuple(float(value) for value in values)


def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std):
        raise ConfigurationError(f"mean and std must be equally long, got mean={mean} and std={std}.")
    if min(std) <= 0:
        raise ConfigurationError(f"std must be positive, got {std}.")
    if max(max(map(abs, mean)), max(std)) > 2:
        raise ConfigurationError(
            f"mean and std are on the scale 0 to 1, got mean={mean} and std={std}. Divide them by 255."
        )
