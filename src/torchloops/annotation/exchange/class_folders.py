"""Labels as folders: ``<class>/<picture>``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from torchloops.annotation.exchange.rows import Row, decided
from torchloops.annotation.pool import content_hash, image_files
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError
from torchloops.files import given_path, write_whole

__all__ = ["export_class_folders", "files_by_class", "folder_name", "rows_of_class_folders"]

_OURS = ".torchloops.json"
"""File in an exported folder that lists the pictures copied there: those alone may be replaced or removed."""

_UNFINISHED = ".copying"
_SAFE = " !#$&'()+,;=@[]^_`{}~"
_LONGEST = 200  # bytes that the name of a folder may have; most systems allow 255


def files_by_class(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each picture in a folder of class folders, with the name of that folder.

    Raises:
        AnnotationError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise AnnotationError(f"There is no folder {folder} of class folders.")
    n_files = 0
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in image_files(place):
            n_files += 1
            yield path, place.name
    if not n_files:
        raise AnnotationError(
            f"There is no picture in a class folder of {folder}. Expected {folder}/<class>/<picture>."
        )


def rows_of_class_folders(folder: Path, classes: Iterable[str]) -> list[Row]:
    """The labels of a folder of class folders, such as `export_class_folders` writes.

    Raises:
        AnnotationError: there is no picture, or one cannot be read.
    """
    names = {folder_name(label): label for label in classes}
    rows = []
    for path, name in files_by_class(folder):
        try:
            rows.append(Row(str(path), (content_hash(path),), names.get(name, unquote(name))))
        except OSError as error:
            raise AnnotationError(f"{path} cannot be read: {error.strerror}. Mend or remove it.") from error
    return rows


def folder_name(label: str) -> str:
    """A class as the name of a folder, on any system; `unquote` gives it back, unless it is too long and was cut."""
    name = quote(label, safe=_SAFE + "".join(character for character in label if ord(character) > 127))
    name = re.sub(r"^\.|\.$", "%2E", name)
    if len(name.encode()) <= _LONGEST:
        return name
    mark = hashlib.blake2b(label.encode(), digest_size=8).hexdigest()
    return f"{name.encode()[: _LONGEST - 20].decode(errors='ignore')}-{mark}"


def export_class_folders(store: LabelStore, folder: str | os.PathLike[str]) -> int:
    """Copy the labelled pictures to ``folder/<class>/<file name>``; return how many there are.

    Characters of a class that the name of a folder cannot have are written as in a web address: ``a/b`` is ``a%2Fb``.
    A file name that is taken gets ``-2``. A folder that was filled before is brought up to date; files that were put
    there by others are left as they are.

    Raises:
        AnnotationError: the folder holds something else, or a picture is gone.
    """
    folder = given_path(folder, "folder")
    labelled = [(event, file) for event, file in decided(store) if event.action == "label"]
    gone = [event.sample for event, file in labelled if file is None]
    if gone:
        raise AnnotationError(
            f"{len(gone)} labelled pictures are no longer in the pool, the first is sample {gone[0]}. Nothing was "
            "copied: put the files back."
        )
    before = _copied_before(folder)
    wanted = _places(folder, [(str(event.label), file) for event, file in labelled if file is not None], before)
    folder.mkdir(parents=True, exist_ok=True)
    _write_list(folder, before | wanted.keys())  # an export that is cut short knows what it made
    for place in before - wanted.keys():
        (folder / place).unlink(missing_ok=True)
    for name in store.classes:
        (folder / folder_name(name)).mkdir(exist_ok=True)
    for place, file in wanted.items():
        if not (folder / place).is_file() or content_hash(folder / place) != content_hash(file):
            shutil.copyfile(file, folder / _UNFINISHED)
            os.replace(folder / _UNFINISHED, folder / place)
    _write_list(folder, wanted)
    return len(wanted)


def _copied_before(folder: Path) -> set[str]:
    """Pictures that an earlier export has copied to the folder, by their paths in it.

    Raises:
        AnnotationError: the folder has files and none of them says so.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return set()
    try:
        return {str(place) for place in json.loads((folder / _OURS).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        raise AnnotationError(f"{folder} is not empty. Name a new folder for the class folders.") from None


def _write_list(folder: Path, places: Iterable[str]) -> None:
    write_whole(folder / _OURS, json.dumps(sorted(places), indent=0))


def _places(folder: Path, labelled: Iterable[tuple[str, Path]], ours: set[str]) -> dict[str, Path]:
    """Where each picture goes: to a name that no other picture and no file of somebody else has."""
    wanted: dict[str, Path] = {}
    taken: set[str] = set()  # in lower case: some systems take A.jpg and a.jpg for one
    for label, file in labelled:
        stem, suffix = os.path.splitext(f"{folder_name(label)}/{file.name}")
        count, place = 1, stem + suffix
        while place.lower() in taken or (place not in ours and os.path.lexists(folder / place)):
            count += 1
            place = f"{stem}-{count}{suffix}"
        taken.add(place.lower())
        wanted[place] = file
    return wanted
