"""Fetch a file, check it, and unpack it without letting anything leave the target folder."""

import hashlib
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from torchloops.errors import ConfigurationError, DataError
from torchloops.files import given_path
from torchloops.vision.unpacking import is_archive, unpack

__all__ = ["download_data"]

_CHUNK = 1 << 18
_SCHEMES = ("http", "https", "file")
_PAUSE = 0.5


def download_data(
    url: str,
    path: str | os.PathLike[str] = "data",
    *,
    sha256: str | None = None,
    md5: str | None = None,
    extract: bool = True,
    timeout: float = 30.0,
    retries: int = 2,
    max_bytes: int = 20 * 2**30,
    progress: bool = True,
) -> Path:
    """Download ``url`` into the folder ``path`` and unpack it there if it is an archive.

    The file is written under a temporary name and renamed when it is complete and its checksum is right. A
    connection that breaks is taken up where it broke, where the server allows that. A file that is there
    already (with a checksum: the right one) is not fetched again. Unpacking refuses archives with members
    outside of the target, links that lead out of it, and devices; it unpacks into a temporary folder first,
    so an archive that is refused leaves nothing behind.

    Args:
        url: http, https or file.
        path: folder; made if it does not exist.
        sha256: expected checksum, in hexadecimal.
        md5: likewise.
        extract: unpack .zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz.
        timeout: seconds without an answer or data until an attempt is given up.
        retries: further attempts after a broken connection.
        max_bytes: largest size of the file, and of everything unpacked from it.
        progress: show a bar.

    Returns:
        The downloaded file.

    Raises:
        DataError: the download failed, is too large, has another checksum, or holds an unsafe archive.
        ConfigurationError: a URL that is not http, https or file.
    """
    name = _file_name(url)
    target = given_path(path, "path") / name
    target.parent.mkdir(parents=True, exist_ok=True)
    checksums = {kind: value.lower() for kind, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    if not (target.is_file() and _matches(target, checksums)):
        _fetch(url, target, checksums, progress, timeout=timeout, retries=retries, max_bytes=max_bytes)
    if extract and is_archive(target):
        unpack(target, target.parent, max_bytes=max_bytes)
    return target


@dataclass
class _Transfer:
    """One file on its way: from ``url`` to ``file``, over as many connections as ``retries`` allows."""

    url: str
    file: BinaryIO
    report: Callable[[int, int | None], None]
    timeout: float
    retries: int
    max_bytes: int
    etag: str | None = None

    def run(self) -> None:
        for attempt in range(self.retries + 1):
            try:
                return self._attempt()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and attempt < self.retries:
                    self._start_over()
                elif error.code < 500 or attempt == self.retries:
                    raise DataError(
                        f"{self.url} could not be downloaded: HTTP {error.code} {error.reason}. Check the URL."
                    ) from error
            except (OSError, HTTPException) as error:
                if attempt == self.retries:
                    reason = getattr(error, "reason", None) or error
                    raise DataError(
                        f"{self.url} could not be downloaded: {reason} ({attempt + 1} attempts). Check the "
                        "network, "
                        "or fetch the file by other means and put it into the folder: it is then not "
                        "downloaded."
                    ) from error
            time.sleep(_PAUSE)
        return None

    def _attempt(self) -> None:
        done = self.file.tell()
        request = urllib.request.Request(self.url, headers={"User-Agent": "torchloops"})
        if done and self.etag is not None:  # without it nobody can tell whether the file is still the same
            request.add_header("Range", f"bytes={done}-")
            request.add_header("If-Range", self.etag)
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            if done and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                self._start_over()
            etag = answer.headers.get("ETag", "")
            self.etag = etag if etag.startswith('"') else None
            length = answer.headers.get("Content-Length")
            self._copy(answer, None if length is None else self.file.tell() + int(length))

    def _start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def _copy(self, answer: Any, total: int | None) -> None:
        if total is not None and total > self.max_bytes:
            raise DataError(f"{self.url} has {total:,} bytes, more than max_bytes={self.max_bytes:,}. Raise max_bytes.")
        while chunk := answer.read(_CHUNK):
            self.file.write(chunk)
            if self.file.tell() > self.max_bytes:
                raise DataError(f"{self.url} has more than max_bytes={self.max_bytes:,} bytes. Raise max_bytes.")
            self.report(self.file.tell(), total)
        if total is not None and self.file.tell() < total:
            raise ConnectionError(f"the connection broke after {self.file.tell():,} of {total:,} bytes")


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"{url!r} is no http, https or file URL. Write https://...")
    name = unquote(parts.path).replace("\\", "/").rpartition("/")[2]
    if name in ("", ".", "..") or "\0" in name:
        raise ConfigurationError(f"{url} names no file. Give the URL of one file.")
    return name


def _fetch(url: str, target: Path, checksums: dict[str, str], progress: bool, **limits: Any) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, _bar(target.name, progress) as report:
            _Transfer(url, file, report, **limits).run()
            file.flush()
            os.fsync(file.fileno())
        _check(part, url, checksums)
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _matches(path: Path, checksums: dict[str, str]) -> bool:
    return all(_digest(path, kind) == value for kind, value in checksums.items())


def _check(path: Path, url: str, checksums: dict[str, str]) -> None:
    for kind, expected in checksums.items():
        found = _digest(path, kind)
        if found != expected:
            raise DataError(
                f"{url} has another {kind}: expected {expected}, got {found}. The file was changed or "
                "damaged; "
                "it was not kept. Check the source before you change the checksum."
            )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Any]:
    """Yield ``update(done, total)`` of a progress bar; without a terminal nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
