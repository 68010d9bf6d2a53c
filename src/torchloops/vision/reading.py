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
from torchloops.files import given_path
from torchloops.vision.depth import Depth, ValueRange

__all__ = ["IMAGE_EXTENSIONS", "as_image_tensor", "is_image_file", "list_images", "read_image", "walk_images"]

Identity = tuple[int, int]
"""Device and number of a folder: the same under whatever name it is reached."""

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

_JPEG_START = b"\xff\xd8\xff"


def is_image_file(path: Path) -> bool:
    """Tell by its name whether ``path`` is an image; hidden files (``._photo.jpg``) are not."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return all images under ``folder``, at any depth, sorted; hidden files and folders are left out.

    Links to folders are followed, but every folder is walked once, under its own name where it has one in ``folder``.
    """
    return sorted(path for _, path in walk_images(folder))


def walk_images(folder: Path) -> Iterator[tuple[Identity, Path]]:
    """Yield each image under ``folder`` with the identity of the folder it is in; see `list_images`."""
    walked: set[Identity] = set()
    starts = [os.fspath(folder)]
    while starts:
        links: list[str] = []
        for place, folders, files in (found for start in sorted(starts) for found in os.walk(start, onerror=_refuse)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            status = os.stat(place)
            identity = (status.st_dev, status.st_ino)
            if identity in walked:
                folders.clear()
                continue
            walked.add(identity)
            links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
            yield from ((identity, Path(place, name)) for name in files if is_image_file(Path(name)))
        starts = links


def _refuse(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be read: {error.strerror}. Mend or remove it.") from error


def read_image(path: str | os.PathLike[str], channels: int = 3, value_range: ValueRange | None = None) -> Tensor:
    """Decode one image file, turned upright as its EXIF orientation says.

    Args:
        path: the file.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        value_range: the values that are black and white in pictures of more than 8 bits, such as ``(0, 4095)``; 8 bits
            are read as they are. Default: as the file says; whole 16 bits; 0 to 1 for floats. Where the values do
            not fit that, the picture is refused.

    Returns:
        uint8 tensor of shape ``(channels, height, width)``.

    Raises:
        DataError: the file is missing, no readable image, or one whose values have no known range.
        ConfigurationError: the path is empty.
    """
    place = given_path(path, "path")
    try:
        return _decode(place, channels, value_range)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {place}. Check the path.") from error
    except DataError as error:
        raise DataError(f"{place} cannot be read as it is: {error}.") from None
    except (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else _first_line(error)
        raise DataError(f"{place} is not a readable image: {reason}. Replace or remove the file.") from error


def _decode(place: Path, channels: int, value_range: ValueRange | None) -> Tensor:
    content = place.read_bytes()
    if content.startswith(_JPEG_START) and hasattr(torch.ops.image, "decode_jpeg"):
        mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        try:
            # the operator itself: its wrapper in torchvision.io warns that it will move elsewhere
            return torch.ops.image.decode_jpeg(_as_bytes(content), mode.value, True)
        except RuntimeError:  # a variant it does not know, or a broken file: PIL decides
            pass
    with Image.open(io.BytesIO(content)) as picture:
        return _from_pil(picture, channels, value_range)


def _as_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def as_image_tensor(image: Any, channels: int | None = None, value_range: ValueRange | None = None) -> Tensor:
    """Turn a PIL image, a numpy array or a tensor into a tensor ``(channels, height, width)``.

    Args:
        image: a PIL image (becomes uint8, upright), an array ``[H, W]`` or ``[H, W, 1 | 3]`` (its data type
            is kept), or a tensor (returned as it is).
        channels: for PIL images: 3 for RGB, 1 for grey; None keeps grey images grey.
        value_range: for PIL images, see `read_image`.

    Raises:
        DataError: something else came, or a PIL image whose values have no known range.
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        try:
            return _from_pil(image, channels, value_range)
        except DataError as error:
            raise DataError(f"A PIL image cannot be read as it is: {error}.") from None
    if isinstance(image, numpy.ndarray):
        return _from_array(image)
    raise DataError(
        f"An image must be a PIL image, a numpy array or a tensor, got {type(image).__name__}. "
        "Convert it in the data set."
    )


def _from_pil(picture: Image.Image, channels: int | None, value_range: ValueRange | None) -> Tensor:
    depth = Depth.of(picture)
    upright = depth.to_8_bits(ImageOps.exif_transpose(picture), value_range)
    if upright.mode == "P":
        upright = upright.convert("RGBA")  # straight to RGB, Pillow warns about transparent colours
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
