"""A recipe on disk: where it stands, what it says of itself, its ``main``. Imports no torch."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.files import given_path
from torchloops.shipped import load_file, shipped_folder, shipped_names

__all__ = ["Recipe", "find_recipe", "shipped_recipes"]


@dataclass(frozen=True)
class Recipe:
    """A file with a ``main`` function, with or without a folder of its own around it."""

    name: str
    file: Path

    @property
    def folder(self) -> Path | None:
        """The folder that belongs to the recipe, or None for a lone ``.py`` file."""
        return self.file.parent if self.file.name == "recipe.py" else None

    @property
    def configs(self) -> dict[str, Path]:
        """The YAML files of the recipe's folder by their names without ``.yaml``."""
        return {path.stem: path for path in sorted(self.folder.glob("*.yaml"))} if self.folder else {}

    @property
    def expected(self) -> dict[str, Any]:
        """What ``expected.json`` promises; empty where there is none."""
        path = self.folder / "expected.json" if self.folder else None
        return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}

    @property
    def description(self) -> str:
        """The first line of the file's docstring, read without importing the file."""
        docstring = ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or ""
        return docstring.partition("\n")[0]

    @property
    def extendable(self) -> tuple[str, ...]:
        """Options that a resumed run may raise to go on further: the file's ``EXTENDABLE``; it is imported."""
        return tuple(getattr(load_file(self.file), "EXTENDABLE", ()))

    def load_main(self) -> Callable[..., Any]:
        """Import the file and return its ``main``.

        Raises:
            ConfigurationError: the file has no function of that name.
        """
        main = getattr(load_file(self.file), "main", None)
        if not callable(main):
            raise ConfigurationError(f"{self.file} is no recipe: expected a function main(run, *, ...).")
        return main


def shipped_recipes() -> list[Recipe]:
    """The recipes that come with torchloops, by name."""
    folder = shipped_folder("recipes")
    return [Recipe(name, folder / name / "recipe.py") for name in shipped_names("recipes")]


def find_recipe(recipe: str) -> Recipe:
    """Find a recipe by name, folder or ``.py`` file. A shipped name wins over a folder of that name.

    Raises:
        CycloptsError: there is none; the message suggests the closest name.
    """
    names = shipped_names("recipes")
    if recipe in names:
        return Recipe(recipe, shipped_folder("recipes") / recipe / "recipe.py")
    path = given_path(recipe, "RECIPE")
    if path.is_dir() and (path / "recipe.py").is_file():
        path = path / "recipe.py"
    if path.suffix == ".py" and path.is_file():
        path = path.resolve()
        return Recipe(path.parent.name if path.name == "recipe.py" else path.stem, path)
    raise CycloptsError(_not_found(recipe, names))


def _not_found(recipe: str, names: list[str]) -> str:
    if Path(recipe).is_dir():
        return f"The folder {recipe} is no recipe: expected a file recipe.py in it."
    return (
        f'No recipe "{recipe}": expected a name ({", ".join(names)}), a folder with a recipe.py, '
        f"or a .py file.{did_you_mean(recipe, names)}"
    )
