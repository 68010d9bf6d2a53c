"""What files of labels have in common: a row a sample, and how its picture is found in the pool."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from torchloops.annotation.events import Event
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError

__all__ = ["Row", "Samples", "composed", "decided", "relative_to_pool", "text_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """A label as a file has it.

    Args:
        place: where in the file, for messages.
        keys: what may name the sample, tried in this order: its name, a path, or the name of its file alone.
        label: name of the class, with the action "label".
        action: "label", "skip" or "flag".
    """

    place: str
    keys: tuple[str, ...]
    label: str | None
    action: str = "label"

    @property
    def says(self) -> tuple[str, str | None]:
        """What is decided: two rows that say the same do not contradict each other."""
        return self.action, self.label


class Samples:
    """Finds the sample that a row means.

    Args:
        store: has looked through the pool.
        folder: of the file, for paths that are relative to it; those relative to the pool come first.
    """

    def __init__(self, store: LabelStore, folder: Path) -> None:
        self.names = store.numbers()
        self.bases = [os.path.abspath(place) for place in (store.setting("pool"), folder) if place]
        self.paths: dict[str, str] = {}
        self.file_names: dict[str, set[str]] = {}
        for path, name in store.files().items():
            self.paths[composed(path)] = name
            self.file_names.setdefault(composed(os.path.basename(path)), set()).add(name)

    def find(self, row: Row) -> str | None:
        """The name of the sample; None: there is none in the pool.

        Raises:
            AnnotationError: a file name alone says which, and the pool has several pictures of that name.
        """
        for key in row.keys:
            found = self._find(key, row)
            if found is not None:
                return found
        return None

    def _find(self, key: str, row: Row) -> str | None:
        if key in self.names:
            return key
        for spelling in (composed(key), composed(key.replace("\\", "/"))):  # written on Windows
            for base in self.bases:
                if (found := self.paths.get(os.path.normpath(os.path.join(base, spelling)))) is not None:
                    return found
        alike = self.file_names.get(composed(key), set())
        if len(alike) > 1:
            raise AnnotationError(
                f"{row.place}: the pool has {len(alike)} different pictures of the name {key!r}. Nothing was imported: "
                "give paths that tell them apart."
            )
        return next(iter(alike), None)


def composed(text: str) -> str:
    """Text with each accented letter as one character: some systems write names of files as two."""
    return unicodedata.normalize("NFC", text)


def text_of(path: Path) -> str:
    """What a text file holds, without a byte order mark.

    Raises:
        AnnotationError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not written in UTF-8: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}.") from error


def decided(store: LabelStore) -> list[tuple[Event, Path | None]]:
    """Decisions in order of the samples' numbers, each with a file of the sample; None: all its files are gone."""
    files: dict[str, Path] = {}
    for text, name in sorted(store.files().items()):
        if name not in files and (path := Path(text)).is_file():
            files[name] = path
    numbers = store.numbers()
    events = sorted(store.decisions().values(), key=lambda event: (numbers.get(event.sample, len(numbers)), event.id))
    return [(event, files.get(event.sample)) for event in events]


def relative_to_pool(file: Path, store: LabelStore) -> str:
    """The path as a file of labels has it: within the pool, or whole where the file is elsewhere."""
    pool = store.setting("pool")
    return file.relative_to(pool).as_posix() if pool and file.is_relative_to(pool) else str(file)
