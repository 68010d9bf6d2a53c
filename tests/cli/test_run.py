"""`torchloops run`: options, chained files, errors, exit codes. The recipes here train nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from torchloops.cli import main

RECIPE = '''
"""Write what was asked for."""

from typing import Literal


Heuristic = Literal["bald", "random"]


def main(run, *, rounds: int = 3, heuristic: Heuristic = "bald", lr: float | None = None, seed: int = 0):
    """Write what was asked for.

    Args:
        rounds: how often to ask.
        lr: learning rate.
    """
    if rounds == 13:
        from torchloops.errors import DataError
        raise DataError("Round 13 has no data.")
    if rounds == 14:
        raise KeyboardInterrupt
    if rounds == 15:
        raise RuntimeError("a bug")
    run.write_json("options.json", {"rounds": rounds, "heuristic": heuristic, "lr": lr, "seed": seed})
    run.say("the table", result=True)
'''


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe folder `mine`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.py").write_text(RECIPE)
    return tmp_path


def options_of(workplace: Path, run: str = "mine/001") -> dict:
    return json.loads((workplace / "runs" / run / "options.json").read_text())


def test_run_passes_the_options_on(workplace):
    assert main(["run", "./mine", "--rounds", "5", "--heuristic", "random"]) == 0
    assert options_of(workplace) == {"rounds": 5, "heuristic": "random", "lr": None, "seed": 0}


def test_a_lone_python_file_is_a_recipe(workplace):
    (workplace / "lone.py").write_text(RECIPE)
    assert main(["run", "lone.py"]) == 0
    assert options_of(workplace, "lone/001")["rounds"] == 3


def test_later_files_win_and_options_win_over_all(workplace):
    (workplace / "mine" / "config.yaml").write_text("rounds: 1\nheuristic: random\nlr: 0.1\nseed: 1\n")
    (workplace / "a.yaml").write_text("rounds: 2\nlr: 0.2\nseed: 2\n")
    (workplace / "b.yaml").write_text("lr: 0.3\nseed: 3\n")
    (workplace / "mine" / "fast.yaml").write_text("rounds: 4\n")
    assert main(["run", "./mine", "-c", "a.yaml", "-c", "b.yaml", "--seed", "9"]) == 0
    assert options_of(workplace) == {"rounds": 2, "heuristic": "random", "lr": 0.3, "seed": 9}
    assert main(["run", "./mine", "-c", "a.yaml", "--fast", "--config", "b.yaml"]) == 0
    assert options_of(workplace, "mine/002")["rounds"] == 4


def test_a_file_of_the_recipe_is_found_by_its_name(workplace):
    (workplace / "mine" / "large.yaml").write_text("rounds: 99\n")
    assert main(["run", "./mine", "-c", "large"]) == 0
    assert options_of(workplace)["rounds"] == 99


def test_the_run_folder_can_be_run_again(workplace):
    assert main(["run", "./mine", "--rounds", "7", "--lr", "0.5"]) == 0
    assert main(["run", "./mine", "-c", "runs/mine/001/config.yaml"]) == 0
    assert options_of(workplace, "mine/002") == options_of(workplace, "mine/001")
    assert (workplace / "runs/mine/002/command.txt").read_text().startswith("torchloops run ./mine -c runs/")


def test_run_folder_holds_environment_and_log(workplace, capsys):
    assert main(["run", "./mine", "--name", "first-try", "--out", "elsewhere"]) == 0
    folder = workplace / "elsewhere" / "mine" / "001_first-try"
    assert "torch" in json.loads((folder / "env.json").read_text())
    log = (folder / "log.txt").read_text()
    assert log.splitlines()[0].startswith("recipe mine - elsewhere/mine/001_first-try - seed 0 - ")
    assert log.splitlines()[1] == "the table"
    assert capsys.readouterr().out == log


def test_quiet_prints_the_results_alone(workplace, capsys):
    assert main(["run", "./mine", "-q"]) == 0
    assert capsys.readouterr().out == "the table\n"


def test_dry_run_prints_yaml_and_makes_no_folder(workplace, capsys):
    assert main(["run", "./mine", "--rounds", "5", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "rounds": 5,
        "heuristic": "bald",
        "lr": None,
        "seed": 0,
    }
    assert not (workplace / "runs").exists()


def test_help_shows_the_options_with_the_defaults_of_the_folder(workplace, capsys):
    (workplace / "mine" / "config.yaml").write_text("rounds: 17\n")
    assert main(["run", "./mine", "--help"]) == 0
    text = capsys.readouterr().out
    assert "how often to ask" in text
    assert "17" in text
    assert "--dry-run" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heuristc", "bald"], "Unknown option: --heuristc. Did you mean --heuristic?"),
        (["--heuristic", "bold"], 'Did you mean "bald"?'),
        (["--rounds", "many"], 'unable to convert "many" into int'),
        (["-c", "missing.yaml"], "--config missing.yaml: there is no such file"),
        (["-c", "typo.yaml"], 'Unknown option: "[roundz]" from typo.yaml. Did you mean --rounds?'),
        (["-c", "broken.yaml"], "broken.yaml is no valid YAML"),
        (["-c", "list.yaml"], "must hold `option: value` lines, but holds a list"),
        (["-c", "nested.yaml"], "nested.yaml sets config, which only the command line can"),
        (["--fast"], "--fast needs a fast.yaml"),
        (["stray"], "stray"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(workplace, capsys, words, message):
    (workplace / "typo.yaml").write_text("roundz: 3\n")
    (workplace / "broken.yaml").write_text("rounds: [1\n")
    (workplace / "list.yaml").write_text("- 1\n")
    (workplace / "nested.yaml").write_text("config: other.yaml\n")
    assert main(["run", "./mine", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("Error: ")
    assert not (workplace / "runs").exists()


def test_an_error_of_ours_is_one_line_and_goes_to_the_log(workplace, capsys):
    assert main(["run", "./mine", "--rounds", "13"]) == 1
    assert capsys.readouterr().err == "Error: Round 13 has no data.\n"
    assert "Traceback" in (workplace / "runs/mine/001/log.txt").read_text()


def test_verbose_shows_the_traceback_of_an_error_of_ours(workplace):
    with pytest.raises(ValueError, match="Round 13"):
        main(["run", "./mine", "--rounds", "13", "-v"])


def test_a_bug_keeps_its_traceback(workplace):
    with pytest.raises(RuntimeError, match="a bug"):
        main(["run", "./mine", "--rounds", "15"])


def test_interrupted_ends_with_130_and_says_where_things_are(workplace, capsys):
    assert main(["run", "./mine", "--rounds", "14"]) == 130
    assert "What was done so far is in runs/mine/001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("activ_learning", 'Did you mean "active_learning"?'),
        ("./empty", "expected a file recipe.py in it"),
        ("mainless.py", "expected a function main(run, *, ...)"),
        ("clash.py", "takes out, which every recipe has"),
    ],
)
def test_a_recipe_that_is_none_is_a_clear_error(workplace, capsys, recipe, message):
    (workplace / "empty").mkdir()
    (workplace / "mainless.py").write_text("x = 1\n")
    (workplace / "clash.py").write_text("def main(run, *, out: str = ''):\n    pass\n")
    assert main(["run", recipe]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_wrong_name_for_the_run_is_refused(workplace, capsys):
    assert main(["run", "./mine", "--name", "../up"]) == 1
    assert 'got "../up"' in capsys.readouterr().err


FILLS_THE_DISK = """
def main(run, *, size: int = 100_000, seed: int = 0):
    run.write_json("small.json", {})
    run.say("a long line " * 1000)
    run.say("done", result=True)
    run.write_json("large.json", {"text": "x" * size})
"""


def test_a_full_disk_ends_a_run_with_the_name_of_the_file(workplace):
    (workplace / "mine" / "recipe.py").write_text(FILLS_THE_DISK)
    for path in (workplace / "mine").glob("*.yaml"):
        path.unlink()
    code = (
        "import resource, sys\nfrom torchloops.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\nsys.exit(main(['run', './mine']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: [Errno 27] File too large: 'runs/mine/001/large.json'\n"
    assert done.stdout.count("Warning: The run goes on, but runs/mine/001/log.txt does not: File too large.") <= 1
    assert "done" in done.stdout
    assert not list((workplace / "runs").rglob("*.tmp"))
    assert not (workplace / "runs/mine/001/large.json").exists()
