"""Pictures as a browser can show them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from torchloops.errors import AnnotationError

__all__ = ["as_shown"]

_SHOWN = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}
_LARGEST_SIDE = 4096
_LARGEST_FILE = 20 * 2**20


def as_shown(path: Path) -> tuple[bytes, str]:
    """The bytes of a picture and their media type: the file itself where browsers know it, else a PNG.

    A picture with more than 4,096 pixels a side is made smaller, and one of more than 8 bits is stretched from its
    darkest to its brightest value.

    Raises:
        AnnotationError: it cannot be read, or is too large to be opened safely.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                kind = _SHOWN.get(path.suffix.lower())
                fits = max(picture.size) <= _LARGEST_SIDE and path.stat().st_size <= _LARGEST_FILE
                if kind is not None and fits and picture.format in ("JPEG", "PNG", "GIF", "WEBP"):
                    picture.load()
                    return path.read_bytes(), f"image/{picture.format.lower()}"
                upright = ImageOps.exif_transpose(picture)
                if upright.mode.startswith(("I", "F")):
                    values = np.asarray(upright, dtype=np.float64)
                    low, high = float(values.min()), float(values.max())
                    upright = Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))
                upright = upright.convert("RGBA" if upright.mode in ("P", "LA", "RGBA") else "RGB")
                upright.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    except FileNotFoundError as error:
        raise AnnotationError("The file of this picture is gone. Put it back into the pool, or skip it.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AnnotationError("This picture cannot be read. Flag or skip it.") from error
    buffer = io.BytesIO()
    upright.save(buffer, "PNG")
    return buffer.getvalue(), "image/png"
