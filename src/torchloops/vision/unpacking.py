"""Unpack zip and tar archives without letting anything leave the target folder.

All members are checked before one is written, and everything goes to a temporary folder beside the target first, so an
archive that is refused changes nothing. Folders and plain files are unpacked, nothing else. A tar is read twice: first
its headers alone, with a bound on what one of them may take.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torchloops.errors import DataError

__all__ = ["is_archive", "unpack"]

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_DRIVE = re.compile("[A-Za-z]:")
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MAX_HEADER = 1 << 18
"""Bytes of all headers of one member: names, times and what else is said of it."""
_MAX_GLOBALS = 100
"""Statements of a tar about all its members."""


_Member = tuple[str, int, bool, bool]
"""Name, bytes, whether it is a folder, whether it is a plain file."""


def is_archive(path: Path) -> bool:
    """Tell by its name whether `unpack` knows the format."""
    return path.name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack ``archive`` into ``folder``.

    Where all files are there already, in their sizes, nothing is done; else those that are there are replaced.

    Args:
        archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        folder: the target.
        max_bytes: largest total size of the unpacked files.

    Raises:
        DataError: not a readable archive, or one with a member outside of the target, a link, a device, or more than
            ``max_bytes``.
    """
    extract = _unzip if archive.name.lower().endswith(".zip") else _untar
    try:
        with tempfile.TemporaryDirectory(prefix=".unpacking.", dir=folder) as staging:
            extract(archive, folder, Path(staging), max_bytes)
            _move_content(Path(staging), folder)
    except DataError as error:
        raise DataError(f"{archive} is not unpacked: {error} If you trust it, unpack it by hand.") from None
    except Exception as error:  # of many kinds, most of them for damaged or hostile files only
        raise DataError(f"{archive} cannot be unpacked: {error}. Delete it and download it again.") from error


def _unzip(archive: Path, folder: Path, staging: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        for info in infos:
            info.filename = info.filename.replace("\\", "/")
        if not _are_there(map(_of_zip, infos), folder, max_bytes):
            for info in infos:
                opened.extract(info, staging)


def _of_zip(info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return info.filename, info.file_size, info.is_dir(), kind in (0, stat.S_IFREG)


def _untar(archive: Path, folder: Path, staging: Path, max_bytes: int) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise DataError("Python does that safely from 3.11.4 on.")
    with archive.open("rb") as raw:
        start = raw.read(8)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)
    with opener(archive, "rb") as file:
        headers = _Headers(file)
        with tarfile.open(fileobj=headers, mode="r:") as opened:  # type: ignore[call-overload]
            are_there = _are_there(map(_of_tar, _each(opened, headers)), folder, max_bytes)
        if not are_there:
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as opened:
                opened.extractall(staging, members=_each(opened), filter="data")


def _of_tar(info: tarfile.TarInfo) -> _Member:
    return info.name, info.size, info.isdir(), info.isreg() and not info.issparse()


class _Headers:
    """The file under a tar of which only headers are read: no more than `left` bytes of it."""

    def __init__(self, file: Any) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        self.left = _MAX_HEADER

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise DataError("Its headers are endless.")
        return self._read(size)


def _each(opened: Any, headers: _Headers | None = None) -> Iterator[tarfile.TarInfo]:
    """The members one after the other; tarfile would keep them all."""
    while (info := opened.next()) is not None:
        opened.members.clear()
        if len(opened.pax_headers) > _MAX_GLOBALS:
            raise DataError("Its headers are endless.")
        yield info
        if headers is not None:
            headers.left = _MAX_HEADER


def _are_there(members: Iterable[_Member], folder: Path, max_bytes: int) -> bool:
    """Check every member; tell whether all have been unpacked before, by their sizes."""
    left, are_there = max_bytes, True
    for name, size, is_folder, is_file in members:
        if not (is_folder or is_file):
            raise DataError(f"Its member {name!r} is neither a file nor a folder, but a link or a device.")
        if not name or name.startswith("/") or ".." in re.split(r"[/\\]", name) or _DRIVE.match(name):
            raise DataError(f"Its member {name!r} leads out of the target folder.")
        left -= size
        if left < 0 or size < 0:
            raise DataError(f"Its members have more than max_bytes={max_bytes:,} bytes, or sizes below 0.")
        place = folder / name
        there = place.is_dir() if is_folder else place.is_file() and place.stat().st_size == size
        are_there = are_there and there
    return are_there


def _move_content(staging: Path, folder: Path) -> None:
    """Move every file of ``staging`` to ``folder``, never through a link that is there already."""
    for place, folders, files in os.walk(staging):
        target = folder / Path(place).relative_to(staging)
        if target.is_symlink() and target != folder:
            raise DataError(f"{target} is a link; nothing is unpacked through it. Remove the link.")
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            os.replace(Path(place) / name, target / name)
        folders.sort()
