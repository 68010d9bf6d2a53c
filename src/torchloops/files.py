"""Writing small files so that a crash never leaves a part of one."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from torchloops.errors import ConfigurationError

__all__ = ["given_path", "readable", "sync_folder", "write_whole"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of a storage; a Path folds the two slashes, a drive is one letter


def given_path(path: str | os.PathLike[str], name: str) -> Path:
    """A path that a user gave, with ``~`` replaced by the home folder.

    Args:
        path: not empty: nobody who leaves a name empty means the working folder.
        name: of the argument, for the message.

    Raises:
        ConfigurationError: the path is empty, or an address such as ``s3://...``.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text):
        raise ConfigurationError(
            f"{name}={text!r} is an address of a storage, and files are written to and read from folders only. Give a "
            "folder, mount the storage, or copy files there in a logger's after_save_checkpoint(callback)."
        )
    if not text:
        raise ConfigurationError(f'{name} is an empty path. Name a file or folder; "." is the working folder.')
    return Path(os.path.expanduser(text))


def write_whole(path: Path, content: str | bytes, durable: bool = True) -> Path:
    """Write a file so that it holds the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        content: text is written as UTF-8, as `readable` makes it.
        durable: wait until it is on the disk, so that a power cut leaves it too; False: do not, which is faster.

    Raises:
        OSError: the disk is full or the like; it names ``path``, which is as it was, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(readable(content).encode("utf-8") if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    if durable:
        sync_folder(path.parent)
    return path


def readable(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte of a file name that is not UTF-8 is written as ``\xff``."""
    return re.sub("[\ud800-\udfff]", lambda found: _escaped(found[0]), text)


def _escaped(surrogate: str) -> str:
    code = ord(surrogate)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk, where the system can; the files themselves are there already."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
