"""`torchloops resume`: what is found in the folder, what may change, what is said. The recipes here train nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from torchloops.cli import main
from torchloops.cli.recipes import find_recipe
from torchloops.cli.record import RunRecord
from torchloops.report import RunFolder, to_yaml

RECIPE = '''
"""Count rounds in a file, and stop where the file `cut` says so."""

import time
from pathlib import Path

EXTENDABLE = ("rounds",)


def main(
    run,
    *,
    rounds: int = 3,
    batch_size: int = 8,
    lr: float | None = None,
    folds: list[int] | None = None,
    data_dir: str | None = None,
    seed: int = 0,
):
    """Count rounds.

    Args:
        rounds: how far to count.
        batch_size: samples in a batch.
        data_dir: where the data is.
    """
    counter = run.path / "counter.txt"
    done = int(counter.read_text()) if run.resumed and counter.is_file() else 0
    cut = Path("cut").read_text().split() if Path("cut").is_file() else []
    for number in range(done, rounds):
        if cut and int(cut[1]) == number:
            if cut[0] == "sleep":
                Path("asleep").touch()
                time.sleep(60)
            raise {"ctrl-c": KeyboardInterrupt, "bug": RuntimeError}[cut[0]]("cut")
        counter.write_text(str(number + 1))
        run.say(f"round {number}")
    options = {"rounds": rounds, "batch_size": batch_size, "lr": lr, "folds": folds, "data_dir": data_dir}
    run.write_json("options.json", options)
'''
RUN = "runs/mine/001"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe folder `mine`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.py").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def cut(workplace: Path) -> Path:
    """The folder of a run that was interrupted in its round 2."""
    (workplace / "cut").write_text("ctrl-c 2")
    assert main(["run", "./mine", "--lr", "0.5", "--folds", "1"]) == 130
    (workplace / "cut").unlink()
    return workplace / RUN


def options_of(folder: Path) -> dict:
    return json.loads((folder / "options.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cut_run_goes_on_with_its_options(cut, capsys):
    capsys.readouterr()
    assert main(["resume", RUN]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"resume mine - {RUN} - seed 0 - cpu")
    assert printed[1:] == ["round 2"]
    assert options_of(cut) == {"rounds": 3, "batch_size": 8, "lr": 0.5, "folds": [1], "data_dir": None}


def test_an_interrupted_run_prints_what_to_type(workplace, capsys):
    (workplace / "cut").write_text("ctrl-c 1")
    assert main(["run", "./mine", "-q", "--name", "a"]) == 130
    assert capsys.readouterr().out == (
        "What was done so far is in runs/mine/001_a\nresume torchloops resume runs/mine/001_a\n"
    )


def test_a_run_that_failed_prints_what_to_type(workplace, capsys):
    (workplace / "cut").write_text("bug 1")
    with pytest.raises(RuntimeError):
        main(["run", "./mine"])
    assert f"resume torchloops resume {RUN}" in capsys.readouterr().out
    (workplace / "cut").unlink()
    assert main(["resume", RUN]) == 0
    assert options_of(workplace / RUN)["rounds"] == 3


def test_log_and_commands_are_continued(cut):
    before = (cut / "log.txt").read_text()
    (cut.parents[2] / "cut").write_text("ctrl-c 4")
    assert main(["resume", RUN, "--rounds", "5"]) == 130
    (cut.parents[2] / "cut").unlink()
    assert main(["resume", RUN]) == 0
    log = (cut / "log.txt").read_text()
    assert log.startswith(before)
    assert [line for line in log.splitlines() if line.startswith("round")] == [f"round {n}" for n in range(5)]
    assert (cut / "command.txt").read_text().splitlines() == [
        "torchloops run ./mine --lr 0.5 --folds 1",
        f"torchloops resume {RUN} --rounds 5",
        f"torchloops resume {RUN}",
    ]


def test_a_limit_can_be_raised_and_the_run_remembers_it(cut):
    assert main(["resume", RUN, "--rounds", "5", "--data-dir", "elsewhere"]) == 0
    assert options_of(cut)["rounds"] == 5
    written = yaml.safe_load((cut / "config.yaml").read_text())
    assert written["rounds"] == 5
    assert written["data_dir"] == "elsewhere"
    assert written["lr"] == 0.5


def test_a_finished_run_says_so_and_nothing_is_written(workplace, capsys):
    assert main(["run", "./mine"]) == 0
    before = contents(workplace / RUN)
    capsys.readouterr()
    assert main(["resume", RUN]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{RUN} is finished: nothing is left to do.\n")
    assert f"torchloops resume {RUN} with a higher --rounds goes on further" in printed
    assert contents(workplace / RUN) == before


def test_a_finished_run_can_be_extended(workplace):
    assert main(["run", "./mine"]) == 0
    assert main(["resume", RUN, "--rounds", "4"]) == 0
    assert (workplace / RUN / "counter.txt").read_text() == "4"
    assert json.loads((workplace / RUN / "run.json").read_text())["finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "16"], "batch_size was 8 and may not become 16: that would change the result."),
        (["--lr", "0.1"], "lr was 0.5 and may not become 0.1: that would change the result."),
        (["--folds", "2"], "folds was [1] and may not become [2]"),
        (["--rounds", "2"], "rounds was 3 and may not become 2: it can only be raised."),
        (["--batch-sze", "16"], "Did you mean --batch-size?"),
        (["--rounds", "many"], 'unable to convert "many" into int'),
        (["-c", "other.yaml"], "-c"),
    ],
)
def test_what_may_not_change_is_refused_by_name(cut, capsys, words, message):
    before = contents(cut)
    assert main(["resume", RUN, *words]) == 2
    assert message in capsys.readouterr().err
    assert contents(cut) == before


def test_all_refused_options_are_named_together_with_what_may_change(cut, capsys):
    assert main(["resume", RUN, "--seed", "4", "--batch-size", "16"]) == 2
    error = capsys.readouterr().err
    assert "seed was 0" in error
    assert "batch_size was 8" in error
    assert "Options that may change: rounds, data_dir." in error
    assert f"torchloops run {cut.parents[2] / 'mine' / 'recipe.py'} -c {RUN}/config.yaml" in error


def test_quiet_prints_no_more_than_results(cut, capsys):
    capsys.readouterr()
    assert main(["resume", RUN, "-q", "-v"]) == 0
    assert capsys.readouterr().out == ""


def test_the_same_value_again_is_no_change(cut):
    assert main(["resume", RUN, "--batch-size", "8", "--lr", "0.5", "--folds", "1", "--seed", "0"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [("null", 5, False), ("-1", 5, False), ("5", -1, True), ("5", 5, True)],
)
def test_no_limit_is_the_highest_limit(workplace, capsys, old, new, allowed):
    recipe = (workplace / "mine" / "recipe.py").read_text().replace("rounds: int = 3", "rounds: int | None = 3")
    (workplace / "mine" / "recipe.py").write_text(recipe)
    (workplace / "cut").write_text("ctrl-c 0")
    main(["run", "./mine"])
    config = workplace / RUN / "config.yaml"
    config.write_text(config.read_text().replace("rounds: 3", f"rounds: {old}"))
    assert (main(["resume", RUN, "--rounds", str(new)]) != 2) == allowed


def test_help_lists_what_may_change(cut, capsys):
    capsys.readouterr()
    assert main(["resume", RUN, "--help"]) == 0
    text = capsys.readouterr().out
    assert "how far to count" in text
    assert "--data-dir" in text
    assert "--quiet" in text
    assert "--batch-size" not in text
    assert "--seed" not in text


def test_help_of_a_shipped_recipe_imports_nothing_heavy(tmp_path):
    recipe = find_recipe("kfold")
    RunRecord.of(recipe).write(tmp_path, finished=False)
    (tmp_path / "config.yaml").write_bytes(recipe.configs["config"].read_bytes())
    code = f"""
import sys
from torchloops.cli import main
code = main(["resume", {str(tmp_path)!r}, "--help"])
sys.exit(str(heavy) if (heavy := {{"torch", "numpy", "pandas"}} & set(sys.modules)) else code)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--n-jobs" in result.stdout


def test_a_folder_that_is_no_run_is_refused(workplace, capsys):
    assert main(["resume", "mine"]) == 2
    assert "mine is no run folder: it holds no run.json" in capsys.readouterr().err
    assert main(["resume", "runs/kfold/009"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_part_of_a_run_names_the_run(cut, capsys):
    (cut / "fold_0").mkdir()
    assert main(["resume", f"{RUN}/fold_0"]) == 2
    assert f"torchloops resume {RUN}" in capsys.readouterr().err


def test_a_damaged_record_is_named(cut, capsys):
    (cut / "run.json").write_text('{"recipe": "mine"')
    assert main(["resume", RUN]) == 2
    assert f"{RUN}/run.json is damaged" in capsys.readouterr().err


def test_a_missing_configuration_is_named(cut, capsys):
    (cut / "config.yaml").unlink()
    assert main(["resume", RUN]) == 2
    assert "nobody knows the options" in capsys.readouterr().err


def test_a_recipe_that_is_gone_is_named(cut, capsys):
    (cut.parents[2] / "mine" / "recipe.py").unlink()
    assert main(["resume", RUN]) == 2
    assert "The recipe of runs/mine/001 is not there any more: expected /" in capsys.readouterr().err


def test_a_shipped_recipe_that_is_gone_is_named(cut, capsys):
    record = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**record, "recipe": "kfolds", "file": None}))
    assert main(["resume", RUN]) == 2
    assert 'Did you mean "kfold"?' in capsys.readouterr().err


def test_the_recipe_is_found_from_another_directory(cut, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["resume", str(cut)]) == 0
    assert options_of(cut)["rounds"] == 3


def change_recipe(folder: Path, old: str, new: str) -> None:
    """Change the file as another process would find it: it is imported anew."""
    file = folder.parents[2] / "mine" / "recipe.py"
    file.write_text(file.read_text().replace(old, new))
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(file)]:
        del sys.modules[name]


def test_an_option_the_recipe_does_not_take_any_more_is_named(cut, capsys):
    change_recipe(cut, "lr", "rate")
    assert main(["resume", RUN]) == 2
    error = capsys.readouterr().err
    assert 'Unknown option: "[lr]"' in error
    assert "does not fit the recipe" in error


@pytest.mark.filterwarnings("always")
def test_a_new_option_has_its_default_and_the_change_is_warned_of(cut):
    change_recipe(cut, "seed: int = 0,", "seed: int = 0,\n    more: int = 1,")
    assert main(["resume", RUN]) == 0
    assert "ResumeWarning: The recipe has changed since this run began" in (cut / "log.txt").read_text()


@pytest.mark.filterwarnings("always")
def test_a_changed_recipe_is_warned_of_also_where_it_is_quiet(cut, capsys):
    change_recipe(cut, "seed: int = 0,", "seed: int = 0,\n    more: int = 1,")
    capsys.readouterr()
    assert main(["resume", RUN, "-q"]) == 0
    assert "Warning: The recipe has changed since this run began" in capsys.readouterr().out


WITH_A_KEYWORD = """
from pathlib import Path

EXTENDABLE = ("lambda_",)

def main(run, *, lambda_: float = 0.5, seed: int = 0):
    run.write_json("options.json", {"lambda_": lambda_})
    if Path("cut").is_file():
        raise KeyboardInterrupt
"""


def test_an_option_that_is_named_like_a_keyword(workplace, capsys):
    (workplace / "mine" / "recipe.py").write_text(WITH_A_KEYWORD)
    (workplace / "mine" / "config.yaml").write_text("lambda_: 0.25\nseed: 0\n")
    (workplace / "other.yaml").write_text("lambda: 0.125\n")
    found = []
    for words in ([], ["--lambda", "2"], ["-c", "other.yaml"]):
        assert main(["run", "./mine", "-q", *words]) == 0
        found.append(options_of(workplace / f"runs/mine/00{len(found) + 1}")["lambda_"])
    assert found == [0.25, 2.0, 0.125]
    (workplace / "cut").touch()
    assert main(["run", "./mine", "-q", "--lambda", "2"]) == 130
    (workplace / "cut").unlink()
    cut = "runs/mine/004"
    assert main(["resume", cut, "-q"]) == 0
    assert options_of(workplace / cut) == {"lambda_": 2.0}
    assert main(["resume", cut, "-q", "--lambda", "4"]) == 0
    assert options_of(workplace / cut) == {"lambda_": 4.0}
    capsys.readouterr()
    assert main(["resume", cut]) == 0
    assert "with a higher --lambda goes on" in capsys.readouterr().out


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_while_it_is_described_can_be_resumed_or_has_not_begun(workplace, capsys, number, after):
    code = f"""
import os, signal, sys
replace, count = os.replace, 0
def killing(*names):
    global count
    count += 1
    if count == {number} and not {after}: os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
    if count == {number} and {after}: os.kill(os.getpid(), signal.SIGKILL)
os.replace = killing
from torchloops.cli import main
main(["run", "./mine", "--rounds", "2", "-q"])
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == -signal.SIGKILL
    ended = main(["resume", RUN, "-q"])
    if (workplace / RUN / "run.json").is_file():
        assert ended == 0
        assert options_of(workplace / RUN)["rounds"] == 2
    else:
        assert ended == 2
        assert "A run that was ended before it wrote anything is started again" in capsys.readouterr().err


@pytest.mark.filterwarnings("always")
def test_another_environment_is_warned_of(cut):
    environment = json.loads((cut / "env.json").read_text())
    (cut / "env.json").write_text(json.dumps({**environment, "threads": 77}))
    assert main(["resume", RUN]) == 0
    assert "ResumeWarning: Since this run began, threads 77 is 1 now" in (cut / "log.txt").read_text()
    assert json.loads((cut / "env.json").read_text())["threads"] == 77


def test_one_process_at_a_time_works_in_a_folder(cut, capsys):
    code = (
        "from torchloops.report import RunFolder; from pathlib import Path\n"
        f"with RunFolder(Path({RUN!r})) as run: run.file('log.txt').read_text(); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        log, deadline = cut / "log.txt", time.monotonic() + 60
        while log.read_text():  # the other process begins the log anew
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        log.unlink()
        assert main(["resume", RUN]) == 1
        assert f"Another process or thread works in {RUN}" in capsys.readouterr().err
    finally:
        other.communicate(b"\n", timeout=60)
    assert main(["resume", RUN]) == 0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGUSR1, 138, "Terminated"),
        (signal.SIGXCPU, 152, "Terminated"),
    ],
)
def test_a_signal_ends_the_run_with_what_to_type(workplace, number, code, word):
    (workplace / "cut").write_text("sleep 1")
    command = [sys.executable, "-m", "torchloops", "run", "./mine"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(workplace / "asleep")
    os.kill(process.pid, number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"resume torchloops resume {RUN}" in printed
    assert errors.strip() == f"{word}."
    log = (workplace / RUN / "log.txt").read_text()
    said = f"round 0\nInterrupted.\nWhat was done so far is in {RUN}\nresume torchloops resume {RUN}\n"
    assert log.endswith(said)


def test_killed_runs_go_on(workplace):
    (workplace / "cut").write_text("sleep 2")
    command = [sys.executable, "-m", "torchloops", "run", "./mine"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(workplace / "asleep")
    process.kill()
    process.wait(timeout=60)
    (workplace / "cut").unlink()
    assert main(["resume", RUN]) == 0
    assert (workplace / RUN / "counter.txt").read_text() == "3"


def test_killed_before_the_environment_was_written(workplace):
    recipe = find_recipe("./mine")
    run = RunFolder.create("runs", "mine")
    RunRecord.of(recipe).write(run.path, finished=False)
    run.describe({"rounds": 2}, "torchloops run ./mine")
    assert main(["resume", RUN]) == 0
    assert options_of(run.path)["rounds"] == 2
    assert (run.path / "env.json").is_file()
    assert (run.path / "config.yaml").read_text().startswith(to_yaml({"rounds": 2}))


def test_training_goes_on_only_where_one_began(tmp_path):
    training = tmp_path / "trainings" / "a"
    assert RunFolder(tmp_path, resumed=True).ckpt_path(training) is None
    (training / "checkpoints").mkdir(parents=True)
    (training / "checkpoints" / "last.previous.ckpt").touch()
    assert RunFolder(tmp_path, resumed=True).ckpt_path(training) == "last"
    assert RunFolder(tmp_path).ckpt_path(training) is None


@pytest.mark.parametrize("where", ["in the folder", "from the working directory", "as the name of what ships"])
def test_code_that_a_run_folder_names_is_not_run(cut, where, capsys):
    evil = cut / "evil.py"
    evil.write_text("raise SystemExit('it ran')")
    record = json.loads((cut / "run.json").read_text())
    record |= {
        "in the folder": {"file": str(evil)},
        "from the working directory": {"file": f"{RUN}/evil.py"},
        "as the name of what ships": {"recipe": str(evil), "file": None},
    }[where]
    (cut / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["resume", RUN]) == 2
    assert re.search(r"run\.json names the recipe .*evil\.py", capsys.readouterr().err)
