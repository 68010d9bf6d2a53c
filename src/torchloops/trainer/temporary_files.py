"""Names for files that are being written, told from those that a killed process left behind."""

from __future__ import annotations

import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_abandoned", "temporary_name"]

_ABANDONED_AFTER = 3600  # seconds
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]+\.tmp$")

_being_written: set[str] = set()


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that says who writes; whatever has it at the end is removed."""
    name = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    _being_written.add(name.name)
    try:
        yield name
    finally:
        with suppress(OSError):
            name.unlink(missing_ok=True)
        _being_written.discard(name.name)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone had begun to write for ``path``."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{path.name}.") and entry.name.endswith(".tmp") and _is_abandoned(entry):
                os.unlink(entry)


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    """Whether nobody writes this temporary file any more: its process is gone, or it has not grown for an hour."""
    if entry.name in _being_written:
        return False
    found = _TEMPORARY.search(entry.name)
    if found and found[1] == _HOST and not _is_running(int(found[2])):
        return True
    return time.time() - entry.stat().st_mtime > _ABANDONED_AFTER


def _is_running(process: int) -> bool:
    """Whether another process of this machine has this number. An earlier process may have had our own."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True  # not known; asking would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
