"""The file of a checkpoint: written so that no instant loses one, read so that nothing unsafe or damaged gets in.

The file is what ``torch.save`` writes, a zip archive, with a comment at its end: ``torchloops crc32 1c291ca3``, the
checksum of all bytes before. ``torch.load``, ``zipfile`` and Lightning read it as ever. CRC-32 was the fastest of the
checksums measured (2.2 GB/s; sha256 1.2, blake2b 1.0), and damage is what it is made for; a checkpoint that somebody
changed on purpose is harmless, because only plain data is loaded.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from torchloops.errors import CheckpointError, CheckpointWriteError, DamagedCheckpointError, ResumeWarning
from torchloops.files import given_path, sync_folder
from torchloops.trainer.checkpoint_formats import upgraded
from torchloops.trainer.temporary_files import remove_abandoned, temporary_name

__all__ = ["previous_path", "read_checkpoint", "read_newest", "write_checkpoint"]

_COMMENT = b"torchloops crc32 %08x"
_TAIL_LENGTH = 2 + len(_COMMENT % 0)  # the zip archive's length of the comment (two bytes), and the comment
_TAIL_START = struct.pack("<H", _TAIL_LENGTH - 2) + _COMMENT.partition(b"%")[0]
_NO_COMMENT = b"\0\0"  # what stood in place of the length when the checksum was taken
_CHUNK = 1 << 18  # bytes

_known_whole: dict[str, tuple[int, ...]] = {}  # from a path to the identity of the file that was written or read there


# writing


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path, keep_previous: bool = False) -> Path:
    """Write a checkpoint so that ``path`` holds, at every instant, the old file or the new one and never a part.

    The new file is written under another name in the same folder, is on the disk (fsync) before it takes its place,
    and carries a checksum. What a killed process left unfinished for the same ``path`` is removed.

    Args:
        checkpoint: plain data.
        path: where to; missing folders are made.
        keep_previous: the file that is there now stays as `previous_path`; a damaged one does not.

    Raises:
        CheckpointWriteError: the disk is full, the folder is not writable or the like; the old file is as it was.
    """
    path = given_path(path, "path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        with temporary_name(path) as name:
            identity = _write(checkpoint, name)
            if keep_previous:
                _keep_previous(path)
            os.replace(name, path)
        _known_whole[os.path.abspath(path)] = identity
        sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    return path


def previous_path(path: str | Path) -> Path:
    """Where `write_checkpoint` keeps the file before: ``last.ckpt`` becomes ``last.previous.ckpt``."""
    path = given_path(path, "path")
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _write(checkpoint: dict[str, Any], name: Path) -> tuple[int, ...]:
    """Write the whole file, down to the disk; returns its identity."""
    with open(name, "xb") as file:
        stream = _Checksummed(file)
        try:
            torch.save(checkpoint, cast(BinaryIO, stream))
        except RuntimeError as error:
            if stream.error is not None:  # torch hides why a write failed
                raise stream.error from error
            raise
        stream.seal()
        file.flush()
        os.fsync(file.fileno())
        return _identity(file)


class _Checksummed:
    """A file for ``torch.save`` to write to, that takes the checksum of what goes by."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.checksum = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def seal(self) -> None:
        """Put the checksum into the comment of the zip archive, whose length is the archive's last two bytes."""
        self.file.seek(-len(_NO_COMMENT), os.SEEK_END)
        self.file.write(_tail(self.checksum))


def _tail(checksum: int) -> bytes:
    comment = _COMMENT % checksum
    return struct.pack("<H", len(comment)) + comment


def _keep_previous(path: Path) -> None:
    """Give the present file a second name before its own goes to the new one."""
    if not path.is_file() or not _is_whole(path):
        return
    with temporary_name(path) as name:
        try:
            os.link(os.path.realpath(path), name)
        except OSError:  # a file system without links
            shutil.copyfile(path, name)
            with open(name, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(name, previous_path(path))


def _is_whole(path: Path) -> bool:
    """Whether a file can be read back; one that this process wrote or read before is not looked at again."""
    try:
        with open(path, "rb") as file:
            if _known_whole.get(os.path.abspath(path)) == _identity(file) or _has_checksum(file, path):
                return True
        return bool(read_checkpoint(path))
    except (CheckpointError, OSError):
        return False


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_NO_SPACE = "Free space on its disk, or give a folder on another disk as default_root_dir."
_NOT_WRITABLE = "Make its folder writable, or give another one as default_root_dir."
_NO_FILE = "Give the path of a file in a folder."
_ADVICE = {
    errno.ENOSPC: _NO_SPACE,
    getattr(errno, "EDQUOT", errno.ENOSPC): _NO_SPACE,
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or save to another disk.",
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EROFS: _NOT_WRITABLE,
    errno.EISDIR: _NO_FILE,
    errno.ENOTDIR: _NO_FILE,
    errno.EEXIST: _NO_FILE,
    errno.ENAMETOOLONG: "Give a shorter name.",
}


def _write_error(path: Path, error: OSError) -> CheckpointWriteError:
    before = "The file that was there is as it was. " if path.is_file() else ""
    advice = _ADVICE.get(error.errno or 0, "Look after its disk, or give a folder on another disk as default_root_dir.")
    return CheckpointWriteError(
        f"The checkpoint {path} could not be written: {error.strerror or error}. {before}{advice}"
    )


# reading


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, refusing anything but plain data, and a file that is not as it was written.

    The checksum is verified before anything is unpickled. Files of format 1 and Lightning's have none; they load.

    Args:
        path: the file.
        map_location: the device to load tensors to, as in ``torch.load``.

    Raises:
        DamagedCheckpointError: the file was cut or changed, or is no checkpoint.
        CheckpointError: no such file, one that may not be read, unsafe, or of a newer version.
    """
    path = given_path(path, "path")
    with _open(path) as file:
        try:
            verified = _has_checksum(file, path)
            checkpoint = _load(file, path, map_location, verified)
        except OSError as error:
            raise DamagedCheckpointError(
                f"{path} is damaged: reading it failed: {error.strerror or error}. Look after its disk."
            ) from error
        checkpoint = upgraded(checkpoint, path, verified)
        _known_whole[os.path.abspath(path)] = _identity(file)
    return checkpoint


def read_newest(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint or, when it is damaged or missing, the one before it (`previous_path`), with a warning.

    Args:
        path: the file.
        map_location: the device to load tensors to, as in ``torch.load``.

    Raises:
        CheckpointError: as `read_checkpoint`; neither of the two files can be used.
    """
    path = given_path(path, "path")
    previous = previous_path(path)
    try:
        return read_checkpoint(path, map_location)
    except CheckpointError as error:
        lost = isinstance(error, DamagedCheckpointError) or not path.exists()
        if not lost or not previous.is_file():
            raise
        problem = error
    try:
        checkpoint = read_checkpoint(previous, map_location)
    except CheckpointError as error:
        raise type(error)(f"{problem} The one before it cannot be used either: {error}") from error
    warnings.warn(f"{problem} Going on from the one before it, {previous}.", ResumeWarning, stacklevel=2)
    return checkpoint


def _open(path: Path) -> BinaryIO:
    if path.is_dir():
        names = ", ".join(sorted(file.name for file in path.glob("*.ckpt"))) or "it has none that ends in .ckpt"
        raise CheckpointError(f"{path} is a folder and no checkpoint. Give the path of a file in it: {names}.")
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Give the path of a file that save_checkpoint wrote.")
    try:
        return open(path, "rb")
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read: {error.strerror}. Make it readable, or copy it to where it is."
        ) from error


def _has_checksum(file: BinaryIO, path: Path) -> bool:
    """Verify the checksum of a file, if it has one.

    Raises:
        DamagedCheckpointError: it does not match.
    """
    size = file.seek(0, os.SEEK_END)
    if size < _TAIL_LENGTH:
        return False
    file.seek(-_TAIL_LENGTH, os.SEEK_END)
    tail = file.read()
    if not tail.startswith(_TAIL_START):
        return False
    if tail != _tail(zlib.crc32(_NO_COMMENT, _checksum(file, size - _TAIL_LENGTH))):
        raise DamagedCheckpointError(
            f"{path} is damaged: its checksum does not match, so it was changed after it was written. "
            "Take the checkpoint before it, or a copy."
        )
    return True


def _checksum(file: BinaryIO, size: int) -> int:
    """The checksum of the first ``size`` bytes."""
    checksum, left = 0, size
    file.seek(0)
    while left and (chunk := file.read(min(left, _CHUNK))):
        checksum = zlib.crc32(chunk, checksum)
        left -= len(chunk)
    return checksum


def _load(file: BinaryIO, path: Path, map_location: Any, verified: bool) -> Any:
    file.seek(0)
    start = file.read(4)
    if not start.startswith((b"PK\3\4", b"\x80")):
        what = f"it begins with {start!r}" if start else "it is empty"
        raise DamagedCheckpointError(
            f"{path} is no checkpoint: {what}. Give the path of a file that save_checkpoint wrote."
        )
    file.seek(0)
    try:
        if start[:1] == b"P":
            _check_archive(file)
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol of files torch did not write
            return torch.load(file, map_location=map_location, weights_only=True)
    except (OSError, MemoryError, DamagedCheckpointError):
        raise
    except Exception as error:  # damage can raise anything where no checksum found it
        raise _load_error(path, error, verified, is_pickle=start[:1] == b"\x80") from error


def _check_archive(file: BinaryIO) -> None:
    """Refuse an archive that unfolds to more than its file is, or that says two things by one name.

    Raises:
        DamagedCheckpointError: members are compressed, share their bytes, or have the same name.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    names = {member.filename for member in members}
    if sum(member.file_size for member in members) > size or len(names) != len(members):
        raise DamagedCheckpointError(
            f"{file.name} is no checkpoint: its archive holds compressed, overlapping or doubled members, which nobody "
            "writes who saves one. Take another copy."
        )


_UNSAFE = re.compile(r"nsupported (global|class)|unrecognized function|blocklisted|Can only|Trying to")


def _load_error(path: Path, error: Exception, verified: bool, is_pickle: bool) -> CheckpointError:
    reason = _reason(error)
    if isinstance(error, pickle.UnpicklingError) and (verified or is_pickle or _UNSAFE.search(reason)):
        return CheckpointError(
            f"{path} holds more than plain data, so loading it could run code and is refused: {reason} "
            "Save it again with plain data only (numbers, strings, tensors, lists, dicts)."
        )
    if verified or "map_location" in str(error):
        return CheckpointError(f"{path} is whole, but could not be loaded: {error}")
    return DamagedCheckpointError(
        f"{path} is damaged or is no checkpoint: {reason} Take the checkpoint before it, or a copy."
    )


def _reason(error: Exception) -> str:
    """The first sentence of what torch says, without its advice to load the file unsafely."""
    said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    sentence = said.splitlines()[0].partition(". ")[0] if said else type(error).__name__
    return f"{sentence.rstrip('.')}."
