"""Read folders of images, one sub-folder per class, and report everything that is wrong with them at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchloops.errors import DataError, did_you_mean
from torchloops.files import given_path
from torchloops.vision.checking import find_broken_images
from torchloops.vision.depth import ValueRange
from torchloops.vision.reading import IMAGE_EXTENSIONS, Identity, list_images, walk_images

__all__ = ["FolderScan", "LabelledFiles", "targets_of"]

_SHOWN = 20


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with the class index of each; ``targets`` is None for files without labels."""

    paths: list[Path]
    targets: list[int] | None
    classes: list[str]


@dataclass
class FolderScan:
    """Collects files and problems over all folders of one data module.

    Example:
        >>> scan = FolderScan()
        >>> files = scan.labelled("train_folder", "no/such/folder")
        >>> scan.problems
        ['train_folder: there is no folder no/such/folder.']
    """

    problems: list[str] = field(default_factory=list)
    found: dict[str, LabelledFiles] = field(default_factory=dict)

    def labelled(self, role: str, folder: str | os.PathLike[str] | None) -> LabelledFiles | None:
        """Read ``folder/<class>/**/<image>``; classes are the sub-folders in alphabetical order."""
        place = self._existing(role, folder)
        if place is None:
            return None
        class_folders = sorted(entry for entry in place.iterdir() if entry.is_dir() and entry.name[0] != ".")
        names = [class_folder.name for class_folder in class_folders]
        found = [list(walk_images(class_folder)) for class_folder in class_folders]
        images = [sorted(path for _, path in of_class) for of_class in found]
        if not any(images):
            self.problems.append(f"{role}: no image in a class folder of {place}. {_what_is_there(place, names)}")
            return None
        self._check_classes(role, place, names, images)
        self._check_links(role, names, found)
        files = LabelledFiles(
            paths=[path for paths in images for path in paths],
            targets=[target for target, paths in enumerate(images) for _ in paths],
            classes=names,
        )
        self.found[role] = files
        return files

    def given(self, role: str, paths: list[Path]) -> None:
        """Take files without labels that somebody else has found."""
        if not paths:
            self.problems.append(f"{role}: no image in it (looked for {' '.join(IMAGE_EXTENSIONS)}).")
        self.found[role] = LabelledFiles(paths, None, [])

    def unlabelled(self, role: str, folder: str | os.PathLike[str] | None) -> LabelledFiles | None:
        """Read all images under ``folder``, sorted by path."""
        place = self._existing(role, folder)
        if place is None:
            return None
        paths = list_images(place)
        if not paths:
            self.problems.append(f"{role}: no image in {place} (looked for {' '.join(IMAGE_EXTENSIONS)}).")
            return None
        self.found[role] = LabelledFiles(paths, None, [])
        return self.found[role]

    def compare_classes(self) -> None:
        """Note where the classes of a folder differ from those of the first labelled folder."""
        labelled = [(role, files) for role, files in self.found.items() if files.targets is not None]
        for role, files in labelled[1:]:
            first_role, first = labelled[0]
            missing = sorted(set(first.classes) - set(files.classes))
            extra = sorted(set(files.classes) - set(first.classes))
            if missing:
                self.problems.append(f"{role}: lacks the classes {missing} of {first_role}.")
            if extra:
                self.problems.append(f"{role}: has the classes {extra}, which {first_role} does not have.")

    def check_images(self, value_range: ValueRange | None = None) -> None:
        """Note every file that is no readable image; for ``value_range`` see `read_image`."""
        for role, files in self.found.items():
            broken = [f"{path} ({reason})" for path, reason in find_broken_images(files.paths, value_range).items()]
            if broken:
                listed = "".join(f"\n      {line}" for line in broken[:_SHOWN])
                more = f"\n      and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
                self.problems.append(f"{role}: {_count(len(broken))} cannot be read:{listed}{more}")

    def raise_problems(self) -> None:
        """Raise one DataError with all problems noted so far; return if there is none."""
        if self.problems:
            listed = "".join(f"\n  - {problem}" for problem in self.problems)
            raise DataError(
                f"The image folders cannot be used as they are:{listed}\n"
                "Expected <folder>/<class>/<image>, the same two or more classes in every folder."
            )

    def _existing(self, role: str, folder: str | os.PathLike[str] | None) -> Path | None:
        if folder is None:
            return None
        place = given_path(folder, role)
        if place.is_dir():
            return place
        if place.exists():
            self.problems.append(f"{role}: {place} is a file, not a folder.")
        else:
            self.problems.append(f"{role}: there is no folder {place}.{_nearest(place)}")
        return None

    def _check_classes(self, role: str, place: Path, names: list[str], images: list[list[Path]]) -> None:
        empty = [name for name, paths in zip(names, images, strict=True) if not paths]
        if empty:
            self.problems.append(f"{role}: no image in the class folders {empty} of {place}. Fill or remove them.")
        if len(names) == 1:
            self.problems.append(f"{role}: only one class, {names[0]!r}, in {place}; two or more are needed.")

    def _check_links(self, role: str, names: list[str], found: list[list[tuple[Identity, Path]]]) -> None:
        """Note folders that links make belong to two classes."""
        owners: dict[Identity, tuple[str, Path]] = {}
        for name, of_class in zip(names, found, strict=True):
            for identity, folder in {identity: path.parent for identity, path in of_class}.items():
                other, first = owners.setdefault(identity, (name, folder))
                if other != name:
                    self.problems.append(f"{role}: {folder} and {first} are one folder, in two classes. Remove a link.")


def targets_of(files: LabelledFiles, classes: Sequence[str]) -> list[int]:
    """Class indices of files whose folders are named after some of these classes, in an order of their own.

    Raises:
        DataError: a folder is no class.
    """
    strangers = sorted(set(files.classes) - set(classes))
    if strangers:
        raise DataError(
            f"The test folder has the classes {strangers}, which are none of {list(classes)}."
            f"{did_you_mean(strangers[0], classes)} Rename its folders, or give classes=[...] that hold them."
        )
    return [list(classes).index(files.classes[target]) for target in files.targets or []]


def _what_is_there(place: Path, names: list[str]) -> str:
    if names:
        return f"The class folders {names} hold no {' '.join(IMAGE_EXTENSIONS)} file."
    loose = len(list_images(place))
    if loose:
        return f"{_count(loose)} lie in it directly: move each into a folder named after its class."
    return "It has no sub-folder."


def _nearest(place: Path) -> str:
    parent = next((folder for folder in place.parents if folder.is_dir()), None)
    if parent is None or parent == Path():
        return ""
    return f" {parent} exists."


def _count(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
