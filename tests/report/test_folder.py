"""Run folders: counted up, never overwritten, re-runnable."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest
import yaml

from torchloops.errors import ConfigurationError
from torchloops.report import RunFolder, to_yaml


def test_folders_are_counted_up_from_the_highest(tmp_path):
    assert RunFolder.create(tmp_path, "kfold").path == tmp_path / "kfold" / "001"
    (tmp_path / "kfold" / "017_old").mkdir()
    assert RunFolder.create(tmp_path, "kfold").path.name == "018"
    assert RunFolder.create(tmp_path, "kfold", name="again").path.name == "019_again"


def test_runs_that_start_together_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(tmp_path, "x").path, range(32)))
    assert len(set(folders)) == 32


@pytest.mark.parametrize("name", ["a/b", "", "a b", "../c"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="The name of a run"):
        RunFolder.create(tmp_path, "x", name=name)


def test_options_survive_yaml():
    options = {"data_dir": Path("some/where"), "rounds": 3, "lr": None, "tags": ("a", "b"), "on": True}
    assert yaml.safe_load(to_yaml(options)) == {
        "data_dir": "some/where",
        "rounds": 3,
        "lr": None,
        "tags": ["a", "b"],
        "on": True,
    }


def test_what_is_said_and_warned_is_in_the_log(tmp_path, capsys):
    with RunFolder.create(tmp_path, "x", quiet=True) as run, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = run._warn  # catch_warnings has put its own in place
        run.say("hidden [not markup]")
        run.say("shown", result=True)
        warnings.warn("look out", UserWarning, stacklevel=1)
    log = (run.path / "log.txt").read_text()
    assert "hidden [not markup]\nshown\n" in log
    assert "UserWarning: look out" in log
    assert capsys.readouterr().out == "shown\n"


def test_tables_are_written_without_an_index(tmp_path):
    run = RunFolder.create(tmp_path, "x")
    path = run.write_table("rounds.csv", pandas.DataFrame({"round": [0, 1], "test/accuracy": [0.5, 0.75]}))
    assert path.read_text() == "round,test/accuracy\n0,0.5\n1,0.75\n"
