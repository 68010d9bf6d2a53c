"""Every recipe through the real command: killed, resumed, and compared with the run that nobody disturbed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from recipe_runs import files_in, torchloops


@dataclass(frozen=True)
class Case:
    """A run that is begun with lower limits, killed, resumed with those of ``--fast``, killed and resumed again.

    Args:
        lower, higher: options.
        first, second: files; a kill comes when one is there, or has changed.
    """

    lower: str
    first: str
    higher: str
    second: str


CASES = {
    "active_learning": Case(
        "--rounds 3", "trainings/random_0/round_1/metrics.csv", "--rounds 5", "trainings/random_0/round_3/metrics.csv"
    ),
    "kfold": Case("--folds 1", "checkpoints/last.ckpt", "--folds 0 --folds 1 --folds 2", "fold_2/metrics.csv"),
    "validation_guided": Case(
        "--max-epochs 7", "trainings/inverse_0/metrics.csv", "--max-epochs 10", "trainings/reweight_0/metrics.csv"
    ),
    "yielding": Case("--max-epochs 8 --turns 1", "turns.csv", "--max-epochs 15 --turns 2", "samples/epoch_011.png"),
}

SAID = {"command.txt", "log.txt", "report.html", "env.json", "run.json"}
"""Files that tell how the run went."""


def run_until(moment: Path, number: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a command and send it a signal once a file has changed, or is there."""
    before = stamp(moment)
    command = [sys.executable, "-m", "torchloops", *words]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while stamp(moment) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_ino) if path.is_file() else None


def check_same(whole: Path, resumed: Path, apart_from: Iterable[str] = ()) -> None:
    """The folders hold the same files, and in them all that is computed is the same to the last bit."""
    names = {name for name in files_in(whole) if not name.endswith("last.previous.ckpt")}
    assert {name for name in files_in(resumed) if not name.endswith("last.previous.ckpt")} == names
    assert any(name.endswith(".csv") for name in names)
    for name in sorted(names - SAID - set(apart_from)):
        assert content(resumed / name) == content(whole / name), name


def content(path: Path) -> Any:
    """What a file holds, without measured times."""
    if path.suffix == ".csv":
        table = pandas.read_csv(path, dtype=str)
        return table.drop(columns=[name for name in table if name.startswith("seconds")]).to_csv()
    if path.suffix == ".ckpt":
        weights = torch.load(path, weights_only=True)["state_dict"]
        return {name: value.cpu().numpy().tobytes() for name, value in weights.items()}
    if path.name == "summary.json":
        return without_times(json.loads(path.read_text()))
    return path.read_bytes()


def without_times(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: without_times(item)
        for name, item in value.items()
        if "seconds" not in name and not name.startswith("forward passes")
    }


@pytest.mark.parametrize("recipe", CASES)
def test_killed_extended_killed_and_resumed_it_ends_the_same(fast_run, recipe, tmp_path):
    case, folder = CASES[recipe], f"runs/{recipe}/001"
    begin = ["run", recipe, "--fast", "-q", *case.lower.split()]
    killed = run_until(tmp_path / folder / case.first, signal.SIGKILL, *begin, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / folder).rglob("last.ckpt"))
    go_on = ["resume", folder, "-q", *case.higher.split()]
    killed = run_until(tmp_path / folder / case.second, signal.SIGKILL, *go_on, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    printed = torchloops("resume", folder, cwd=tmp_path)
    assert "Warning" not in printed
    named = {"config.yaml"} if recipe == "kfold" else set()  # it names all folds; None is all, too
    check_same(fast_run(recipe)[0], tmp_path / folder, apart_from=named)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_what_to_type(number, code, tmp_path):
    folder = tmp_path / "runs" / "yielding" / "001"
    words = ["run", "yielding", "--fast", "-q", "--checkpoint-every", "1 hour"]
    ended = run_until(folder / "samples" / "epoch_002.png", number, *words, cwd=tmp_path)
    assert ended.returncode == code
    assert "resume torchloops resume runs/yielding/001" in ended.stdout
    assert "Traceback" not in ended.stderr
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)  # by the signal: none else was due
    assert 2 <= saved["epoch"] < 15


def test_a_run_cut_before_its_first_checkpoint_begins_again(fast_run, tmp_path):
    folder = tmp_path / "runs" / "kfold" / "001"
    run_until(folder / "fold_1" / "metrics.csv", signal.SIGKILL, "run", "kfold", "--fast", "-q", cwd=tmp_path)
    assert (folder / "fold_0" / "result.ckpt").is_file()
    shutil.rmtree(folder / "checkpoints")  # as if none had been due
    torchloops("resume", "runs/kfold/001", "-q", cwd=tmp_path)
    check_same(fast_run("kfold")[0], folder)
