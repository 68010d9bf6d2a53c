"""Fetch a file, check it, and unpack it: in bounded time and memory, and whole or not at all."""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from torchloops.errors import ConfigurationError, DataError
from torchloops.files import given_path
from torchloops.vision.unpacking import is_archive, unpack

__all__ = ["download_data"]

_CHUNK = 1 << 16
_SCHEMES = ("http", "https", "file")
_PAUSE = 0.5
_LONGEST_NAME = 255
_SHOWN = 200


def download_data(
    url: str,
    path: str | os.PathLike[str] = "data",
    *,
    sha256: str | None = None,
    md5: str | None = None,
    extract: bool = True,
    timeout: float = 30.0,
    max_seconds: float = 3600.0,
    retries: int = 2,
    max_bytes: int = 20 * 2**30,
    progress: bool = True,
) -> Path:
    """Download ``url`` into the folder ``path`` and unpack it there if it is an archive.

    The file is written under a temporary name and renamed when it is complete and its checksum is right. A file that
    is there already (with a checksum: the right one) is not fetched again. Redirects are followed, to other servers
    too, but not from https to http. Unpacking refuses archives with members outside of the target, links and devices;
    it unpacks into a temporary folder first, so an archive that is refused leaves nothing behind.

    Args:
        url: http, https or file.
        path: folder; made if it does not exist.
        sha256: expected checksum, in hexadecimal.
        md5: likewise.
        extract: unpack .zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz.
        timeout: seconds without an answer or data until an attempt is given up.
        max_seconds: for the whole download, all attempts together.
        retries: further attempts after a broken connection, each from the start.
        max_bytes: largest size of the file, and of everything unpacked from it.
        progress: show a bar.

    Returns:
        The downloaded file.

    Raises:
        DataError: the download failed, is too large or too slow, has another checksum, is an unsafe archive, or cannot
            be written.
        ConfigurationError: a URL that is not http, https or file, or names no file; an empty path.
    """
    target = given_path(path, "path") / _file_name(url)
    checksums = {kind: value.lower() for kind, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    part = target.with_name(f".download.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and all(_digest(target, kind) == value for kind, value in checksums.items())):
            with part.open("xb") as file:
                transfer = _Transfer(url, file, timeout, max_bytes, progress)
                _within(max_seconds, url, lambda: transfer.run(1 + retries))
                os.fsync(file.fileno())
            _check(part, url, checksums)
            part.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}. Give another path.") from error
    finally:
        with suppress(OSError):
            part.unlink()
    if extract and is_archive(target):
        unpack(target, target.parent, max_bytes=max_bytes)
    return target


class _Transfer(NamedTuple):
    """One file on its way, from ``url`` to ``file``."""

    url: str
    file: BinaryIO
    timeout: float
    max_bytes: int
    progress: bool

    def run(self, attempts: int) -> None:
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt()
            except DataError:
                raise
            except (OSError, HTTPException, ValueError) as error:
                if isinstance(error, HTTPError):
                    error.close()
                if attempt == attempts or (isinstance(error, HTTPError) and error.code < 500):
                    raise DataError(_failed(self.url, error, attempt)) from error
            time.sleep(_PAUSE)
        return None

    def _attempt(self) -> None:
        done = self.file.seek(0)
        self.file.truncate()
        request = Request(self.url, headers={"User-Agent": "torchloops"})
        with build_opener(_Redirects).open(request, timeout=self.timeout) as answer:
            if answer.status not in (None, HTTPStatus.OK):  # None: of a file
                raise DataError(f"{self.url} was answered with HTTP {answer.status}, not with a file. Check the URL.")
            total = self._length(answer.headers)
            with _with_bar(answer, total, self.progress) as reader:
                while chunk := reader.read(_CHUNK):
                    done += len(chunk)
                    self._write(chunk, done)
        if total is not None and done < total:
            raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")

    def _length(self, headers: Any) -> int | None:
        lengths = set(headers.get_all("Content-Length", ()))
        if not lengths or headers.get("Transfer-Encoding", "").lower() == "chunked":
            return None
        length = lengths.pop()
        if lengths or not re.fullmatch("[0-9]{1,20}", length):
            raise DataError(f"{self.url} is announced with a length of {length[:_SHOWN]!r} bytes. Try another server.")
        if int(length) > self.max_bytes:
            raise DataError(f"{self.url} has {length} bytes, more than max_bytes={self.max_bytes:,}. Raise max_bytes.")
        return int(length)

    def _write(self, chunk: bytes, done: int) -> None:
        if done > self.max_bytes:
            raise DataError(f"{self.url} has more than max_bytes={self.max_bytes:,} bytes. Raise max_bytes.")
        try:
            self.file.write(chunk)
        except OSError as error:
            raise DataError(f"{self.url} cannot be kept: {error.strerror or error}. Free some space.") from error


def _with_bar(answer: Any, total: int | None, progress: bool) -> Any:
    from rich.console import Console
    from rich.progress import wrap_file

    console = Console(stderr=True)
    hidden = not (progress and console.is_terminal)
    return wrap_file(answer, total or 0, console=console, disable=hidden, description="Downloading")


class _Redirects(HTTPRedirectHandler):
    """Redirects lead to https, or from http to http; the library ends loops."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # the library leaves the answer open
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in {"https", req.type}:
            raise DataError(f"{req.full_url} leads to {newurl[:_SHOWN]!r}, which is not followed. Check the URL.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _failed(url: str, error: Exception, attempts: int) -> str:
    if isinstance(error, HTTPError):
        return f"{url} could not be downloaded: HTTP {error.code} {error.reason[:_SHOWN]}. Check the URL."
    reason = str(getattr(error, "reason", None) or error or type(error).__name__)[:_SHOWN]
    return (
        f"{url} could not be downloaded: {reason} ({attempts} attempts). Check the network, or fetch the file by other "
        "means and put it into the folder: it is then not downloaded."
    )


def _within(seconds: float, url: str, work: Callable[[], None]) -> None:
    """Work in a thread that is left behind when its time is over: names, headers and data can all come too slowly."""
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=attempt, name="download", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise DataError(f"{url} took longer than max_seconds={seconds:g}. Raise max_seconds, or try another server.")
    if errors:
        raise errors[0]


def _file_name(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}. Write https://...") from error
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"{url!r} is no http, https or file URL. Write https://...")
    name = unquote(parts.path).replace("\\", "/").rpartition("/")[2]
    if name in ("", ".", "..") or not name.isprintable():
        raise ConfigurationError(f"{url!r} names no file. Give the URL of one file.")
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{url} names a file of more than {_LONGEST_NAME} bytes. Give a URL with a shorter name."
        )
    return name


def _check(part: Path, url: str, checksums: dict[str, str]) -> None:
    for kind, expected in checksums.items():
        found = _digest(part, kind)
        if found != expected:
            raise DataError(
                f"{url} has another {kind}: expected {expected}, got {found}. The file was changed or damaged; it was "
                "not kept. Check the source before you change the checksum."
            )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
