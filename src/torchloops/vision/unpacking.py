"""Unpack zip and tar archives without letting anything leave the target folder.

All members are checked before one is written, and everything goes to a temporary folder beside the target
first, so an archive that is refused changes nothing. What is written is counted, whatever sizes the archive
claims. No
link is ever made: one to a file of the same archive becomes a copy of it, every other link is refused.
"""

import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from torchloops.errors import DataError

__all__ = ["is_archive", "unpack"]

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_MAX_MEMBERS = 5_000_000
_MAX_LINKS = 20
_DRIVE = re.compile("[A-Za-z]:")
_CHUNK = 1 << 18


class _Member(NamedTuple):
    name: str
    is_folder: bool
    size: int
    problem: str | None
    source: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    """Tell by its name whether `unpack` knows the format."""
    return path.name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack ``archive`` into ``folder``.

    Where all files are there already, in their sizes, nothing is done; else those that are there are
    replaced.

    Args:
        archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        folder: the target.
        max_bytes: largest total size of the unpacked files.

    Raises:
        DataError: not a readable archive, or one with a member outside of the target, a link to somewhere
            else, a device, or more than ``max_bytes``.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{archive.name}.", dir=folder))
    try:
        _unpack_into(archive, staging, max_bytes)
        _move_content(staging, folder)
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, LZMAError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive} cannot be unpacked: {error}. Delete it and download it again.") from error
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{archive} is no sound archive: {error}. Delete it and download it again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_into(archive: Path, staging: Path, max_bytes: int) -> None:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            members = [_zip_member(info) for info in opened.infolist()]
            _write_all(archive, staging, members, opened.open, max_bytes)
        return
    with tarfile.open(archive) as opened_tar:
        infos = list(_bounded(opened_tar, archive))
        by_name = {posixpath.normpath(info.name): info for info in infos}
        members = [_tar_member(info, by_name) for info in infos]
        _write_all(archive, staging, members, opened_tar.extractfile, max_bytes)


def _bounded(opened: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    for count, info in enumerate(opened):
        if count >= _MAX_MEMBERS:
            raise DataError(f"{archive} has more than {_MAX_MEMBERS:,} members; it is not unpacked.")
        yield info


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    problem = "is a symbolic link" if kind == stat.S_IFLNK else None
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        problem = "is neither a file nor a folder"
    return _Member(info.filename, info.is_dir(), info.file_size, problem, info)


def _tar_member(info: tarfile.TarInfo, by_name: dict[str, tarfile.TarInfo]) -> _Member:
    source, problem = info, None
    if info.issym() or info.islnk():
        found = _link_target(info, by_name)
        problem = f"is a link to {info.linkname}, which is no file of the archive" if found is None else None
        source = found or info
    elif not info.isfile() and not info.isdir():
        problem = "is neither a file nor a folder"
    return _Member(info.name, info.isdir(), source.size, problem, source)


def _link_target(info: tarfile.TarInfo, by_name: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    for _ in range(_MAX_LINKS):
        base = posixpath.dirname(info.name) if info.issym() else ""
        found = by_name.get(posixpath.normpath(posixpath.join(base, info.linkname)))
        if found is None or found.isfile():
            return found
        if not (found.issym() or found.islnk()):
            return None
        info = found
    return None


def _write_all(archive: Path, staging: Path, members: list[_Member], opener: object, max_bytes: int) -> None:
    claimed = sum(member.size for member in members)
    if claimed > max_bytes:
        raise DataError(f"{archive} unpacks to {claimed:,} bytes, more than max_bytes={max_bytes:,}.")
    places = [staging.joinpath(*_safe_parts(archive, member)) for member in members]
    if all(
        _is_there(staging.parent, place.relative_to(staging), member)
        for place, member in zip(places, members, strict=True)
    ):
        return
    left = max_bytes
    for member, place in zip(members, places, strict=True):
        if member.is_folder:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with opener(member.source) as source, place.open("wb") as file:  # type: ignore[operator]
            left -= _copy(archive, source, file, left)


def _is_there(folder: Path, place: Path, member: _Member) -> bool:
    """Tell whether a member has been unpacked before, by its size."""
    target = folder / place
    if member.is_folder:
        return target.is_dir()
    return target.is_file() and target.stat().st_size == member.size


def _safe_parts(archive: Path, member: _Member) -> tuple[str, ...]:
    if member.problem is not None:
        raise DataError(_refused(archive, member.name, member.problem))
    name = member.name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or name.startswith("/") or ".." in parts or _DRIVE.match(name):
        raise DataError(_refused(archive, member.name, "leads out of the target folder"))
    return parts


def _refused(archive: Path, name: str, reason: str) -> str:
    return (
        f"{archive} is not unpacked: its member {name!r} {reason}. Nothing was written. "
        "If you trust the archive, unpack it by hand."
    )


def _copy(archive: Path, source: IO[bytes], file: IO[bytes], left: int) -> int:
    written = 0
    while chunk := source.read(_CHUNK):
        written += len(chunk)
        if written > left:
            raise DataError(f"{archive} unpacks to more bytes than it says or max_bytes allows; it is not unpacked.")
        file.write(chunk)
    return written


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
