"""Find image files and decode them: torchvision for JPEG, PIL for everything else.

PNG is left to PIL: it is as fast, and torchvision's decoder crashes the process on some damaged files.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional

from torchloops.errors import DataError

__all__ = ["IMAGE_EXTENSIONS", "as_image_tensor", "expand_path", "is_image_file", "list_images", "read_image"]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

_JPEG_START = b"\xff\xd8\xff"
_GREY_16_BIT = ("I", "I;16", "I;16B", "I;16L")


def expand_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a Path with ``~`` replaced by the home folder."""
    return Path(path).expanduser()


def is_image_file(path: Path) -> bool:
    """Tell by its name whether ``path`` is an image; hidden files (``._photo.jpg``) are not."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return all images under ``folder``, at any depth, sorted; hidden files and folders are left out."""
    return sorted(Path(place) for place in _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in files if is_image_file(Path(name)))


def read_image(path: str | os.PathLike[str], channels: int = 3) -> Tensor:
    """Decode one image file, turned upright as its EXIF orientation says.

    Args:
        path: the file.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.

    Returns:
        uint8 tensor of shape ``(channels, height, width)``.

    Raises:
        DataError: the file is missing, or no readable image.
    """
    place = expand_path(path)
    try:
        return _decode(place, channels)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {place}. Check the path.") from error
    except (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else _first_line(error)
        raise DataError(f"{place} is not a readable image: {reason}. Replace or remove the file.") from error


def _decode(place: Path, channels: int) -> Tensor:
    content = place.read_bytes()
    if content.startswith(_JPEG_START) and hasattr(torch.ops.image, "decode_jpeg"):
        mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        try:
            # the operator itself: its wrapper in torchvision.io warns that it will move elsewhere
            return torch.ops.image.decode_jpeg(_as_bytes(content), mode.value, True)
        except RuntimeError:  # a variant it does not know, or a broken file: PIL decides
            pass
    with Image.open(io.BytesIO(content)) as picture:
        return as_image_tensor(picture, channels)


def _as_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def as_image_tensor(image: Any, channels: int | None = None) -> Tensor:
    """Turn a PIL image, a numpy array or a tensor into a tensor ``(channels, height, width)``.

    Args:
        image: a PIL image (becomes uint8, upright), an array ``[H, W]`` or ``[H, W, 1 | 3]`` (its data type
            is kept), or a tensor (returned as it is).
        channels: for PIL images: 3 for RGB, 1 for grey; None keeps grey images grey.

    Raises:
        DataError: something else came.
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        return _from_pil(image, channels)
    if isinstance(image, numpy.ndarray):
        return _from_array(image)
    raise DataError(
        f"An image must be a PIL image, a numpy array or a tensor, got {type(image).__name__}. "
        "Convert it in the data set."
    )


def _from_pil(picture: Image.Image, channels: int | None) -> Tensor:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _GREY_16_BIT:
        upright = Image.fromarray((numpy.asarray(upright).astype(numpy.uint32) >> 8).astype(numpy.uint8))
    if channels is None:
        channels = 1 if upright.mode in ("L", "1", "LA") else 3
    return functional.pil_to_tensor(upright.convert("RGB" if channels == 3 else "L"))


def _from_array(array: numpy.ndarray) -> Tensor:
    tensor = torch.from_numpy(numpy.ascontiguousarray(array))
    if tensor.ndim == 2:
        return tensor.unsqueeze(0)
    if tensor.ndim == 3 and tensor.shape[-1] in (1, 3):
        return tensor.permute(2, 0, 1)
    return tensor


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text or type(error).__name__
