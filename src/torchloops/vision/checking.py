"""Find broken image files before training starts, at a small part of the cost of decoding them."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from torchloops.errors import DataError
from torchloops.vision.depth import Depth, ValueRange
from torchloops.vision.reading import read_image

__all__ = ["find_broken_images"]

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_START_OF_SCAN = 0xDA
_TAIL = 64


def find_broken_images(
    paths: Sequence[Path], value_range: ValueRange | None = None, max_workers: int | None = None
) -> dict[Path, str]:
    """Return the files that cannot be read as images, with the reason.

    A JPEG or PNG of 8 bits with a sound header and its end marker in place counts as whole: that finds empty, cut off
    and zero-filled files and files that are something else, without decoding (about 5,000 files a second). All
    others are decoded, so no whole file is rejected.

    Args:
        paths: image files.
        value_range: see `read_image`.
        max_workers: threads; default: two for each processor, at most 16.
    """
    if max_workers is None:
        max_workers = min(16, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(max_workers) as pool:
        reasons = pool.map(lambda path: _broken_reason(path, value_range), paths)
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def _broken_reason(path: Path, value_range: ValueRange | None) -> str | None:
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        if _looks_whole(path):
            return None
        if _is_cut_off(path.read_bytes()):
            return "the end of the file is missing"
        read_image(path, value_range=value_range)
    except DataError as error:
        start = rf"{re.escape(str(path))} (is not a readable image|cannot be read as it is): "
        return re.sub(rf"^{start}|\.( Replace .*)?$", "", str(error))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _looks_whole(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
        end = file.read(_TAIL)
    if start.startswith(_JPEG_START):
        return end.endswith(_JPEG_END) and _is_plain(path)
    return start == _PNG_START and end.endswith(_PNG_END) and _is_plain(path)


def _is_cut_off(content: bytes) -> bool:
    """Tell whether a JPEG's picture data has no end marker; decoders take zeros there for pixels."""
    place = 2
    while content.startswith(_JPEG_START) and content[place : place + 1] == b"\xff":
        if content[place + 1] == _START_OF_SCAN:
            return content.find(_JPEG_END, place) < 0
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def _is_plain(path: Path) -> bool:
    """Tell whether the header is sound, and says 8 bits a channel."""
    try:
        with Image.open(path) as picture:
            return min(picture.size) > 0 and Depth.of(picture).is_plain
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
