"""Runs that several tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_runs import torchloops


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """``fast_run(recipe)``: the run folder of ``--fast`` and what it printed; made once."""
    made: dict[str, tuple[Path, str]] = {}

    def run(recipe: str) -> tuple[Path, str]:
        if recipe not in made:
            place = tmp_path_factory.mktemp("fast")
            printed = torchloops("run", recipe, "--fast", cwd=place)
            made[recipe] = place / "runs" / recipe / "001", printed
        return made[recipe]

    return run
