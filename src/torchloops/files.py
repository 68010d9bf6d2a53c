"""Writing small files so that a crash never leaves a part of one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["sync_folder", "write_whole"]


def write_whole(path: Path, content: str | bytes, durable: bool = True) -> Path:
    """Write a file so that it holds the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        content: text is written as UTF-8.
        durable: wait until it is on the disk, so that a power cut leaves it too; False: do not, which is faster.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk, where the system can; the files themselves are there already."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
