"""The log of a run, without which the run goes on."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["Log"]


class Log:
    """A text file that is added to line by line; where that fails, it says so once and no more is written.

    Args:
        path: the file.
        new: begin it anew.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, new: bool) -> None:
        self.path = path
        self._file = path.open("wb" if new else "ab", buffering=0)
        self._is_broken = False

    def write(self, text: str) -> int:
        """Add a text."""
        if not self._is_broken:
            try:
                self._file.write(text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                self._is_broken = True
                warnings.warn(f"The run goes on, but {self.path} does not: {error.strerror}.", stacklevel=2)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()
