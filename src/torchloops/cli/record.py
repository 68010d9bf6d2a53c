"""``run.json``: which recipe a run folder belongs to, and whether the run is finished."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from cyclopts import CycloptsError

from torchloops.cli.recipes import Recipe, find_recipe
from torchloops.errors import did_you_mean
from torchloops.files import write_whole
from torchloops.paths import is_inside
from torchloops.schema import read_json
from torchloops.shipped import shipped_folder, shipped_names

__all__ = ["RunRecord"]

_FILE = "run.json"
_STATE = {"recipe": str, "file": str | None, "sha256": str, "finished?": bool}


@dataclass(frozen=True)
class RunRecord:
    """What a run folder knows of its recipe.

    Args:
        recipe: name of the recipe.
        file: absolute path of its ``.py`` file; None: it ships with torchloops.
        sha256: of the file, as it was when the run began.
        finished: whether the run came to its end.
    """

    recipe: str
    file: str | None
    sha256: str
    finished: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> RunRecord:
        """The record of a run that begins."""
        shipped = recipe.file == shipped_folder("recipes") / recipe.name / "recipe.py"
        return cls(recipe.name, None if shipped else str(recipe.file), _digest(recipe.file))

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record of a run folder.

        Raises:
            CycloptsError: it is no run folder; the message names the one around it, if there is one.
        """
        path = folder / _FILE
        if not path.is_file():
            raise CycloptsError(_no_run_folder(folder))
        state = read_json(path, _STATE, CycloptsError, "Expected what `torchloops run` wrote.")
        return cls(**{each.name: state[each.name] for each in fields(cls) if each.name in state})

    def write(self, folder: Path, *, finished: bool) -> None:
        """Write the record into its folder."""
        state = asdict(replace(self, finished=finished))
        write_whole(folder / _FILE, json.dumps(state, indent=2) + "\n")

    def find_recipe(self, folder: Path) -> Recipe:
        """The recipe of the run.

        Raises:
            CycloptsError: it is not there any more, or the record names what `torchloops run` cannot have written.
        """
        if self.file is None:
            shipped = shipped_names("recipes")
            if self.recipe not in shipped:
                raise CycloptsError(
                    f'{folder / _FILE} names the recipe "{self.recipe}" and no file of it, and none of that name ships '
                    f"with torchloops: there are {', '.join(shipped)}.{did_you_mean(self.recipe, shipped)}"
                )
            return find_recipe(self.recipe)
        if not Path(self.file).is_absolute() or is_inside(self.file, folder):
            raise CycloptsError(
                f"{folder / _FILE} names the recipe {self.file}. Expected an absolute path outside of the run folder, "
                "as `torchloops run` writes it: code that comes with a folder is not run. Start a new run of the "
                "recipe if you trust it."
            )
        if not Path(self.file).is_file():
            raise CycloptsError(
                f"The recipe of {folder} is not there any more: expected {self.file}. Put the file back, or correct "
                f'"file" in {folder / _FILE}.'
            )
        return find_recipe(self.file)

    def has_changed(self, recipe: Recipe) -> bool:
        """Whether the recipe's file is another one than when the run began."""
        return _digest(recipe.file) != self.sha256


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _no_run_folder(folder: Path) -> str:
    around = [parent for parent in folder.parents if (parent / _FILE).is_file()]
    if around:
        return f"{folder} is a part of the run {around[0]}: torchloops resume {around[0]}"
    is_there = f"it holds no {_FILE}" if folder.is_dir() else "there is no such folder"
    return (
        f"{folder} is no run folder: {is_there}. Expected one that `torchloops run` made, such as runs/kfold/001. "
        "A run that was ended before it wrote anything is started again with `torchloops run`."
    )
