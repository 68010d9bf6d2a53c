"""SIGTERM as an exception, so that a program that is told to end can say where its work is. Imports no torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["end_process", "sigterm_raises"]


def end_process(number: int, frame: Any) -> None:
    """A handler that raises ``SystemExit`` with the code of the signal: 143 for SIGTERM."""
    raise SystemExit(128 + number)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """A context in which SIGTERM raises ``SystemExit(143)``; a Trainer that fits inside saves first.

    Outside of the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
