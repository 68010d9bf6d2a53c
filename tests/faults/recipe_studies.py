"""The recipes as scenarios: the words that a user types, in a process that has everything imported already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

__all__ = ["RECIPES", "RecipeStudy", "words_of"]

RECIPES = {
    "active_learning": ["--rounds", "3", "--max-steps", "40", "--draws", "5"],
    "kfold": ["--max-epochs", "2"],
    "validation_guided": ["--max-epochs", "3"],
    "yielding": ["--max-epochs", "4"],
}
"""Options that make ``--fast`` faster, by recipe."""


def words_of(recipe: str, out: str, saving: str | None = None) -> list[str]:
    """What follows ``torchloops`` to start a run."""
    every = [] if saving is None else ["--checkpoint-every", saving]
    return ["run", recipe, "--fast", "--quiet", "--out", out, *RECIPES[recipe], *every]


class RecipeStudy:
    """A recipe in the place of a `scenarios.Study`."""

    trainer = None

    def __init__(self, recipe: str, folder: Path, saving: str | None) -> None:
        self.recipe, self.folder, self.saving = recipe, folder, saving

    def fit(self, ckpt_path: str | None) -> None:
        """``torchloops run``, or ``torchloops resume`` where there is a run to resume."""
        from torchloops.cli import main

        run = self.folder / self.recipe / "001"
        if ckpt_path is not None and (run / "run.json").is_file():
            words = ["resume", str(run), "--quiet"]
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # killed before the run was on record
            words = words_of(self.recipe, str(self.folder), self.saving)
        code = main(words)
        if code:
            raise RuntimeError(f"torchloops {' '.join(words)} ended with {code}")

    def results(self) -> dict[str, Any]:
        """All results are files."""
        return {}
