"""Processes that work for another one end when that one has ended, however it did. Imports no torch."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Sender", "ending_with"]

_EVERY = 0.1  # seconds between two looks
_parents: set[Sender] = set()  # that this process ends with, whatever it does


@dataclass(frozen=True)
class Sender:
    """A process that has others work for it.

    Args:
        process: its number.
        machine: name of the machine it runs on.
        are_children: it starts those processes itself.
    """

    process: int
    machine: str
    are_children: bool


@contextmanager
def ending_with(sender: Sender) -> Iterator[None]:
    """A context in which this process ends as soon as ``sender`` is no more, in the middle of whatever it does.

    A child ends at once where its parent was gone already, and also later, when it has nothing to do. A sender that
    cannot be seen from here, on another machine or in another container, is not watched.
    """
    is_there = None if sender in _parents else _watch(sender)
    if is_there is None:
        yield
        return
    if sender.are_children:
        _parents.add(sender)
    finished = threading.Event()
    watching = threading.Thread(target=_watch_until, args=(finished, is_there), daemon=True)
    watching.start()
    try:
        yield
    finally:
        if not sender.are_children:
            finished.set()
            watching.join()


def _watch(sender: Sender) -> Callable[[], bool] | None:
    """What says whether the sender is there; None: nothing can."""
    if os.name != "posix" or sender.process == os.getpid():
        return None
    if sender.are_children:
        return lambda: os.getppid() == sender.process
    visible = sender.machine == platform.node() and _is_running(sender.process)
    return (lambda: _is_running(sender.process)) if visible else None


def _watch_until(finished: threading.Event, is_there: Callable[[], bool]) -> None:
    while is_there():
        if finished.wait(_EVERY):
            return
    os._exit(1)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
