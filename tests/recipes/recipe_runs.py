"""Recipes through the real command, as a user types it."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from torchloops.cli.recipes import Recipe


def torchloops(*words: str, cwd: Path) -> str:
    """Run the command in ``cwd`` and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "torchloops", *words], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_in(folder: Path) -> set[str]:
    """Every file below a folder, as relative paths."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check_options(recipe: Recipe) -> None:
    """``config.yaml`` holds the defaults, and the options that every recipe has are there."""
    parameters: Any = list(inspect.signature(recipe.load_main(), eval_str=True).parameters.values())[1:]
    defaults = {parameter.name: parameter.default for parameter in parameters}
    assert yaml.safe_load(recipe.configs["config"].read_text()) == defaults
    assert {"seed", "accelerator", "devices", "max_epochs", "batch_size", "lr"} <= set(defaults)
    for name, path in recipe.configs.items():
        assert set(yaml.safe_load(path.read_text())) <= set(defaults), name


COMMON_FILES = {
    "config.yaml",
    "command.txt",
    "env.json",
    "log.txt",
    "metrics.csv",
    "summary.json",
    "report.html",
}
