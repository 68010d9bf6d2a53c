"""Folders of runs: counted up, and one run at a time works in each. Imports no torch."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torchloops.errors import ConfigurationError

__all__ = ["make_next_folder", "next_folder", "working_in"]

_PATIENCE = 2.0  # seconds that a process which was killed has to be gone
_TAKEN = {errno.EACCES, errno.EAGAIN}

_held: dict[tuple[int, int, int], int] = {}  # from a thread and the identity of a folder to what holds its lock


def next_folder(parent: Path, first: int = 0) -> Path:
    """The folder ``parent/NNN`` after the highest number there is; nothing is made."""
    paths = parent.iterdir() if parent.is_dir() else ()
    taken = [int(match[0]) for path in paths if (match := re.match(r"[0-9]+", path.name))]
    return parent / f"{max([first - 1, *taken]) + 1:03d}"


def make_next_folder(parent: Path, first: int = 0, name: str | None = None) -> Path:
    """Make the folder ``parent/NNN``, or ``parent/NNN_name``; runs that start together get one each.

    Args:
        parent: made if missing.
        first: the lowest number.
        name: added to the number.
    """
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = next_folder(parent, first)
        path = path.with_name(f"{path.name}_{name}") if name else path
        with suppress(FileExistsError):  # another run started at the same moment
            path.mkdir()
            return path


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """A context in which this thread alone works in a folder; it may enter the context again inside.

    The lock is the system's, on the folder itself: it is no file that could be removed, it ends with the process,
    however that ends, and processes started inside do not hold it. Where the system cannot lock, or the folder cannot
    be made, nothing is locked.

    Args:
        folder: made if missing.

    Raises:
        ConfigurationError: another process or thread works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = os.stat(folder)
        key = threading.get_ident(), status.st_dev, status.st_ino
        lock = None if key in _held else _wait_for_lock(folder)
    except (ImportError, OSError):  # no POSIX system; no folder; a file system without locks
        lock = None
    if lock is None:
        yield
        return
    _held[key] = lock
    try:
        yield
    finally:
        os.close(_held.pop(key))


def _wait_for_lock(folder: Path) -> int:
    end = time.monotonic() + _PATIENCE
    while (lock := _lock(folder)) is None:
        if time.monotonic() > end:
            raise ConfigurationError(
                f"Another process or thread works in {folder}, and two would overwrite each other's files. Wait until "
                "it has ended, or end it, and then resume the run. A run of its own needs another folder."
            )
        time.sleep(0.05)
    return lock


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock until it is closed; None: somebody else has it.

    Raises:
        OSError: it cannot be locked.
    """
    import fcntl

    file = folder / ".lock"  # network file systems lock what can be written to, and no folders
    for path, flags in ((folder, os.O_RDONLY), (file, os.O_RDWR | os.O_CREAT)):
        opened = os.open(path, flags, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(opened)
            if error.errno in _TAKEN:
                return None
        else:
            return opened
    raise OSError(errno.ENOLCK, f"{folder} cannot be locked")


def _let_go() -> None:
    """In a process that was forked: the parent holds its locks alone."""
    while _held:
        os.close(_held.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
