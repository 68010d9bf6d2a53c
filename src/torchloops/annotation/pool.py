"""The pictures of a folder, known by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError

__all__ = ["IMAGE_SUFFIXES", "Sample", "content_hash", "image_files", "index_pool", "near_duplicates"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_AT_ONCE = 5_000
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture of the pool.

    Args:
        number: id of the sample; it never changes in a store.
        hash: its name, the BLAKE2b hash of the file's bytes (16 bytes, in hexadecimal).
        paths: the files that hold it, sorted; more than one where there are copies.
    """

    number: int
    hash: str
    paths: tuple[Path, ...]


def content_hash(path: Path) -> str:
    """The name of a sample: the hash of its file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_HASH_BYTES)).hexdigest()


def index_pool(store: LabelStore, folder: Path) -> list[Sample]:
    """The pictures under a folder, in order of their numbers; new ones get the next numbers, in order of their hashes.

    A file whose path, size and time are as before is not read again. Hidden files and folders are left out, and
    links to folders are not followed. Whether a picture can be read is not looked at.

    Raises:
        AnnotationError: a file or folder cannot be read.
    """
    folder = Path(os.path.abspath(folder))
    files: dict[str, list[Path]] = {}
    known = {row["path"]: row for row in store.database.connection.execute("SELECT * FROM files")}
    fresh: list[tuple[str, int, int, str]] = []
    for path in image_files(folder):
        try:
            status = path.stat()
            row = known.get(os.fspath(path))
            if row is not None and (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
                name = row["hash"]
            else:
                name = content_hash(path)
                fresh.append((os.fspath(path), status.st_size, status.st_mtime_ns, name))
        except OSError as error:
            raise AnnotationError(f"{path} cannot be read: {error.strerror}. Mend or remove it.") from error
        files.setdefault(name, []).append(path)
        if len(fresh) >= _AT_ONCE:  # an interrupted first look goes on here
            _remember(store, fresh)
            fresh.clear()
    _remember(store, fresh)
    numbers = _numbers(store, files)
    return sorted((Sample(numbers[name], name, tuple(paths)) for name, paths in files.items()), key=lambda s: s.number)


def image_files(folder: Path) -> Iterator[Path]:
    """The pictures under a folder, sorted; hidden files and folders, and links to folders, are left out."""

    def refuse(error: OSError) -> None:
        raise AnnotationError(f"The folder {error.filename} cannot be read: {error.strerror}. Mend or remove it.")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path


def _remember(store: LabelStore, fresh: list[tuple[str, int, int, str]]) -> None:
    if fresh:
        with store.database.writing() as write:
            write.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", fresh)


def _numbers(store: LabelStore, names: dict[str, list[Path]]) -> dict[str, int]:
    with store.database.writing() as write:
        known = dict(write.execute("SELECT hash, number FROM samples").fetchall())
        new = sorted(names.keys() - known.keys())
        rows = [(len(known) + place, name) for place, name in enumerate(new)]
        write.executemany("INSERT INTO samples VALUES (?, ?)", rows)
    return known | {name: number for number, name in rows}


def near_duplicates(samples: list[Sample], max_distance: int = 4) -> list[list[Sample]]:
    """Groups of pictures that look alike, such as one photograph in two sizes.

    Each is shrunk to 9 x 8 grey pixels; a bit says whether a pixel is brighter than its right neighbour. Two look alike
    where at most ``max_distance`` of the 64 bits differ; whoever looks like one of a group is in the group.

    Args:
        samples: of the pool.
        max_distance: bits, 0 to 64.

    Raises:
        AnnotationError: a picture cannot be read.

    References:
        N. Krawetz 2013, "Kind of Like That", difference hash.
    """
    import numpy as np

    if len(samples) < 2:
        return []
    bits = np.array([_difference_hash(sample.paths[0]) for sample in samples], dtype=np.uint64)
    group = list(range(len(samples)))

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for index in range(len(samples) - 1):
        distances = np.bitwise_count(bits[index + 1 :] ^ bits[index])
        for other in np.flatnonzero(distances <= max_distance) + index + 1:
            group[root(int(other))] = root(index)
    found: dict[int, list[Sample]] = {}
    for index, sample in enumerate(samples):
        found.setdefault(root(index), []).append(sample)
    return [members for members in found.values() if len(members) > 1]


def _difference_hash(path: Path) -> int:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L").resize((9, 8)), dtype=np.int16)
    except (OSError, ValueError, SyntaxError) as error:
        raise AnnotationError(f"{path} is not a readable picture: {error}. Replace or remove the file.") from error
    return int("".join("1" if bit else "0" for bit in (grey[:, :-1] > grey[:, 1:]).flat), 2)
