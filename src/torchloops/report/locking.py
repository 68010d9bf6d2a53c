"""One process at a time works in a run folder."""

from __future__ import annotations

import errno
from typing import TextIO

__all__ = ["lock"]

_TAKEN = {errno.EACCES, errno.EAGAIN}


def lock(file: TextIO) -> bool:
    """Lock an open file until it is closed or the process ends, however it ends; False: another process has it.

    Workers that the process starts do not hold the lock. Where the system cannot lock files, nothing is locked.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX system
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN  # others: a file system without locks
    return True
