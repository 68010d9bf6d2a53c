"""What signals do that ask a program to end: its state is saved, and it says where. Imports no torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ENDING_CODES", "end_process", "signals_raise", "signals_to"]

_PATIENCE = 10  # seconds that a worker process has to finish after SIGTERM
_OF_CLUSTERS: list[int] = [  # a time limit is near, as Slurm and submitit say it, or CPU time is used up
    signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2", "SIGXCPU") if name in signal.Signals.__members__
]
ENDING_CODES: set[int] = {128 + number for number in (signal.SIGTERM, *_OF_CLUSTERS)}
"""Exit codes of processes that such signals ended; SIGINT raises KeyboardInterrupt."""


def end_process(number: int, frame: Any) -> None:
    """A handler that raises ``SystemExit`` with the code of the signal: 143 for SIGTERM, 138 for SIGUSR1."""
    raise SystemExit(128 + number)


@contextmanager
def signals_raise() -> Iterator[None]:
    """A context in which SIGTERM raises ``SystemExit(143)``; a Trainer that fits inside saves first.

    So do SIGUSR1, SIGUSR2 and SIGXCPU with their codes, where they have no handler. Outside of the main thread nothing
    is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *(number for number in _OF_CLUSTERS if signal.getsignal(number) == signal.SIG_DFL)]
    before = {number: signal.signal(number, end_process) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def signals_to(take: Callable[[int], None]) -> Iterator[dict[int, Any]]:
    """A context in which signals call ``take(number)`` instead of their handlers, which it gives by number.

    They are SIGINT and SIGTERM, and SIGUSR1, SIGUSR2 and SIGXCPU where the program has no handler of its own for them,
    which would end it at once. A signal that is ignored stays so. Worker processes forked inside go on for a while, so
    that a batch can be finished when a signal goes to the whole process group. Outside of the main thread nothing is
    done.
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
    for number in _OF_CLUSTERS:
        if (before := signal.getsignal(number)) in (signal.SIG_DFL, end_process):
            handlers[number] = before
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield handlers
    finally:
        for number, before in handlers.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, before)
