"""A recipe's ``main`` in its run folder: what ``run`` and ``resume`` have in common."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Sequence
from typing import Any

from torchloops.cli.config import read_yaml
from torchloops.cli.recipes import Recipe
from torchloops.cli.record import RunRecord
from torchloops.errors import ResumeWarning
from torchloops.report import RunFolder, compare_with_expected, describe_device
from torchloops.signals import signals_raise

__all__ = ["launch", "resume_command", "set_environment"]


def set_environment() -> None:
    """Set what torch reads when it loads: threads that wait by spinning make small models slow on a busy machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def resume_command(folder: Any) -> str:
    """What to type to go on with the run in ``folder``."""
    return shlex.join(["torchloops", "resume", str(folder)])


def launch(recipe: Recipe, record: RunRecord, run: RunFolder, options: dict[str, Any], command: Sequence[str]) -> None:
    """Run ``main`` in the folder, from its beginning or from where it was cut.

    Args:
        recipe: what to run.
        record: of the folder; says afterwards that the run is finished.
        run: the folder.
        options: of ``main``.
        command: the words that were typed.
    """
    run.resume_command = resume_command(run.path)
    with signals_raise(), run:
        run.describe(options, shlex.join(command))
        record.write(run.path, finished=False)  # last: a folder that has it can be resumed
        run.describe_environment()
        verb = "resume" if run.resumed else "recipe"
        if record.has_changed(recipe):
            warnings.warn(
                f"The recipe has changed since this run began: {recipe.file}. What comes now may differ.",
                ResumeWarning,
                stacklevel=2,
            )
        run.say(f"{verb} {recipe.name} - {run.path} - seed {options.get('seed')} - {describe_device(options)}")
        recipe.load_main()(run, **options)
        _compare(run, recipe, options)
        record.write(run.path, finished=True)


def _compare(run: RunFolder, recipe: Recipe, options: dict[str, Any]) -> None:
    """After a run with the recipe's own options, say whether the scores are those it promises."""
    settings: dict[str, Any] = {}
    for name in ("config", "fast"):
        settings |= read_yaml(recipe.configs[name]) if name in recipe.configs else {}
        if name in recipe.expected and settings == options:
            summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
            differences = compare_with_expected(summary, recipe.expected[name])
            run.say("check  " + ("; ".join(differences) or "the scores are as expected"))
            return
