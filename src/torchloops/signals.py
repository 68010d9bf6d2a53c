"""What SIGINT and SIGTERM do while a program works: its state is saved, and it says where. Imports no torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["end_process", "signals_to", "sigterm_raises"]

_PATIENCE = 10  # seconds that a worker process has to finish after SIGTERM


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


@contextmanager
def signals_to(take: Callable[[int], None]) -> Iterator[dict[int, Any]]:
    """A context in which SIGINT and SIGTERM call ``take(number)`` instead of their handlers, which it gives by number.

    A signal that is ignored stays so. Worker processes forked inside go on for a while, so that a batch can be
    finished when a signal goes to the whole process group. Outside of the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            take(number)
        elif number == signal.SIGTERM:
            signal.alarm(_PATIENCE)

    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: before for number, before in handlers.items() if before not in (signal.SIG_IGN, None)}
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield handlers
    finally:
        for number, before in handlers.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, before)
