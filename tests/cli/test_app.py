"""The commands that need no recipe, and what they import."""

import subprocess
import sys

import pytest

from torchloops.cli import main

LIGHT = """
import sys
from torchloops.cli import main
code = main({words!r})
heavy = sorted({{"torch", "numpy", "pandas", "matplotlib", "sklearn", "baal"}} & set(sys.modules))
sys.exit(f"imported {{heavy}}" if heavy else code)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["ls"],
        ["ls", "active_learning"],
        ["run", "--help"],
        ["run", "active_learning", "--help"],
    ],
)
def test_quick_commands_import_nothing_heavy(words):
    result = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_dry_run_of_a_shipped_recipe_imports_no_torch():
    words = ["run", "active_learning", "--fast", "--dry-run"]
    result = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "dataset: digits" in result.stdout


def test_module_answers_like_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "torchloops", "--version"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert result.stdout.strip()


def test_ls_lists_the_recipe_with_its_line(capsys):
    assert main(["ls"]) == 0
    text = capsys.readouterr().out
    assert "active_learning" in text


def test_ls_of_one_recipe_says_what_to_type(capsys):
    assert main(["ls", "active_learning"]) == 0
    text = capsys.readouterr().out
    assert "torchloops run active_learning" in text
    assert "ants_bees, config, fast, mnist" in text


def test_env_prints_versions(capsys):
    assert main(["env"]) == 0
    keys = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"python", "torch", "torchloops", "git_commit", "threads"} <= set(keys)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["rn"], 'Did you mean "run"?'), (["run"], "requires an argument"), (["ls", "--al"], "--al")],
)
def test_wrong_usage_ends_with_2(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_ls_of_an_unknown_recipe_suggests_one(capsys):
    assert main(["ls", "active_lerning"]) == 2
    assert 'Did you mean "active_learning"?' in capsys.readouterr().err
