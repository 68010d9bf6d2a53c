"""Fresh callbacks for inner runs."""

from __future__ import annotations

import copy
from typing import Any

from torchloops.errors import ConfigurationError

__all__ = ["CallbackCopies"]


class CallbackCopies:
    """Copies of callbacks, made before a run touches them.

    A callback that cannot be copied is an error only when an inner run asks for copies.

    Args:
        callbacks: the callbacks of a fit; ``fresh()`` of a callback says what its copy is, else it is a deep copy.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self._error: Exception | None = None
        self._originals: list[Any] = []
        try:
            self._originals = _copy_each(callbacks)
        except Exception as error:  # of any kind: copying runs the callbacks' own code
            self._error = error

    def make(self) -> list[Any]:
        """New copies, as the callbacks were.

        Raises:
            ConfigurationError: one of them cannot be copied.
        """
        if self._error is not None:
            raise ConfigurationError(
                f"An inner run needs fresh copies of the callbacks, and one cannot be copied: {self._error}. "
                "Define `fresh()` on it."
            ) from self._error
        return _copy_each(self._originals)


def _copy_each(callbacks: list[Any]) -> list[Any]:
    return [callback.fresh() if hasattr(callback, "fresh") else copy.deepcopy(callback) for callback in callbacks]
