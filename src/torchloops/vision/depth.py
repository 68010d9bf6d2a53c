"""Pictures with more than 8 bits a channel: what their values stand for, and 8 bits of it."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from PIL import Image

from torchloops.errors import ConfigurationError, DataError

__all__ = ["Depth", "ValueRange", "check_value_range"]

ValueRange = tuple[float, float]

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF."""
_DEEP_COLOUR = re.compile(r"(LA|RGB|CMYK)\w*;16[BLN]")
_FULL_16_BITS = (0.0, 65535.0)


class Depth(NamedTuple):
    """How a picture's values are stored; known before it is decoded, not after.

    Args:
        raw: Pillow's name of the format in the file, "" for a picture that comes from no file.
        bits: of a channel, as a TIFF says; None: not said.
        signed: whole numbers that may be negative.
        inverted: the lowest value is white.
    """

    mode: str
    raw: str = ""
    bits: int | None = None
    signed: bool = False
    inverted: bool = False

    @classmethod
    def of(cls, picture: Image.Image) -> "Depth":
        """The depth of an opened picture."""
        tiles = getattr(picture, "tile", None)
        arguments = tiles[0][3] if tiles else ""
        if picture.format == "PPM" and picture.mode == "I" and isinstance(arguments, tuple):
            return cls("I", "scaled")  # Pillow has brought the maximum that the file states to 65535
        raw = arguments if isinstance(arguments, str) else str((arguments or [""])[0])
        bits, photometric, sample_format = (_tag(picture, number) for number in (_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT))
        return cls(picture.mode, raw, bits, sample_format == 2, photometric == 0)

    @property
    def is_plain(self) -> bool:
        """Whether 8 bits a channel are all there is."""
        return self.mode[0] not in "IF" and not (self.signed and self.mode == "L") and not _DEEP_COLOUR.match(self.raw)

    def to_8_bits(self, picture: Image.Image, value_range: ValueRange | None) -> Image.Image:
        """Return the decoded picture with 8 bits a channel: black is 0, white is 255, what is between is rounded.

        Args:
            picture: as it was decoded.
            value_range: values of black and white; default: as file and type say.

        Raises:
            DataError: nobody knows what is black and white, or values outside of it.
        """
        if self.is_plain:
            return picture
        if _DEEP_COLOUR.match(self.raw):
            return self._upper_8_bits(picture, value_range)
        values = self._values(picture)
        low, high = value_range or self._known_range(values)
        if not low <= values.min() <= values.max() <= high:
            raise DataError(f"{_extent(values)}, outside of value_range=({low:g}, {high:g}). Give one that holds all")
        scaled = (values - low) * (255 / (high - low))
        return Image.fromarray(numpy.rint(255 - scaled if self.inverted else scaled).astype(numpy.uint8))

    def _upper_8_bits(self, picture: Image.Image, value_range: ValueRange | None) -> Image.Image:
        brightest = int(numpy.asarray(picture.convert("RGB")).max())
        if value_range not in (None, _FULL_16_BITS) or (value_range is None and 0 < brightest < 128):
            raise DataError(
                "it has colours of 16 bits, of which the upper 8 are read, and these reach "
                f"{brightest} of 255. Convert it to 8 bits, or give value_range=(0, 65535) if it is meant to be so dark"
            )
        return picture

    def _values(self, picture: Image.Image) -> numpy.ndarray:
        stored = numpy.asarray(picture)
        if self.mode == "L":
            stored = stored.view(numpy.int8)
        elif self.raw.startswith("I;32") and not self.signed:
            stored = stored.view(numpy.uint32)
        if not numpy.isfinite(stored).all():
            raise DataError("it holds values that are no numbers (NaN or infinite)")
        return stored.astype(numpy.float64)

    def _known_range(self, values: numpy.ndarray) -> ValueRange:
        if self.raw == "scaled":
            return _FULL_16_BITS
        if self.mode == "F":
            if values.min() >= 0 and values.max() <= 1:
                return (0.0, 1.0)
        elif self.mode.startswith("I;16") or self.raw in ("I;16B", "I;16"):
            if self.bits is not None and self.bits < 16:
                return (0.0, 2.0**self.bits - 1)
            if values.max() >= 2**15 or values.max() == 0:
                return _FULL_16_BITS
            raise DataError(
                f"it has 16 bits, but {_extent(values)}, so nobody knows which is white. Give "
                "value_range=(black, white): (0, 4095) for 12 bits, (0, 65535) for a picture meant to be so dark"
            )
        raise DataError(
            f"{_extent(values)}, and nobody knows which are black and white. Give value_range=(black, white), "
            "for instance (0, 255)"
        )


def _tag(picture: Image.Image, number: int) -> int | None:
    value = getattr(picture, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _extent(values: numpy.ndarray) -> str:
    return f"its values go from {values.min():g} to {values.max():g}"


def check_value_range(value_range: Sequence[float] | None) -> ValueRange | None:
    """Return ``(black, white)`` as floats; None stays None.

    Raises:
        ConfigurationError: not two numbers, or not in rising order.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (low < high and math.isfinite(high - low)):
        raise ConfigurationError(
            f"value_range must be the values that are black and white, such as (0, 4095), got {value_range!r}."
        )
    return low, high
