"""Configuration files of a run: which ones, in which order, and reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from cyclopts.config import Dict

from torchloops.cli.recipes import Recipe
from torchloops.files import given_path

__all__ = ["as_source", "configuration_files", "read_yaml"]

_NOT_IN_FILES = {"config", "dry_run", "fast", "help"}


def configuration_files(recipe: Recipe, given: Sequence[str], *, fast: bool) -> list[Path]:
    """The files to read, the strongest last: the recipe's own, those given with ``-c``, the fast one.

    Args:
        recipe: its ``config.yaml`` holds the defaults, its ``fast.yaml`` what ``--fast`` changes.
        given: paths, or names of the recipe's own files, with or without ``.yaml``.
        fast: whether ``--fast`` was asked for.

    Raises:
        CycloptsError: a file does not exist, or the recipe has no ``fast.yaml``.
    """
    own = recipe.configs
    files = [own["config"]] if "config" in own else []
    files += [_resolve(name, recipe) for name in given]
    if fast and "fast" not in own:
        raise CycloptsError(f"--fast needs a fast.yaml beside the recipe; {recipe.file.parent} has none.")
    return [*files, own["fast"]] if fast else files


def as_source(values: Mapping[str, Any], file: Path) -> Dict:
    """Options of a file for cyclopts, which calls ``lambda_`` ``lambda``: Python's keywords are no names there."""
    named = {str(name).strip("_"): value for name, value in values.items()}
    return Dict(named, source=str(file), use_commands_as_keys=False)


def _resolve(name: str, recipe: Recipe) -> Path:
    if given_path(name, "--config").is_file():
        return given_path(name, "--config")
    own = recipe.configs.get(name.removesuffix(".yaml"))
    if own is None:
        known = f" The recipe's own are: {', '.join(recipe.configs)}." if recipe.configs else ""
        raise CycloptsError(f"--config {name}: there is no such file.{known}")
    return own


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of options.

    Raises:
        CycloptsError: the file is no valid YAML, holds no mapping, or sets what only a command line can.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CycloptsError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise CycloptsError(f"{path} must hold `option: value` lines, but holds a {type(values).__name__}.")
    misplaced = sorted(str(key) for key in values if str(key).replace("-", "_") in _NOT_IN_FILES)
    if misplaced:
        raise CycloptsError(f"{path} sets {', '.join(misplaced)}, which only the command line can.")
    return values
