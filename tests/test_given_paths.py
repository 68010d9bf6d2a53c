"""An empty path never means the working folder: every option that takes a path refuses it by name."""

import os
from pathlib import Path

import pytest

from torchloops import KFoldDataModule, KFoldLoop, Trainer
from torchloops.callbacks import ModelCheckpoint
from torchloops.cli import main
from torchloops.errors import ConfigurationError
from torchloops.files import given_path
from torchloops.loggers import CSVLogger
from torchloops.report import RunFolder
from torchloops.shipped import load_dataset
from torchloops.testing import TinyClassifier, random_dataset


def fit_folds_into(folder):
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, default_root_dir="cv")
    loop = KFoldLoop(num_folds=2, splitter="kfold", export_path=folder)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(TinyClassifier(), KFoldDataModule(random_dataset(8), batch_size=4))


def resume_fit_from(path):
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, default_root_dir="fit")
    trainer.fit(TinyClassifier(), random_dataset(8), ckpt_path=path)


@pytest.mark.parametrize(
    ("name", "call"),
    {
        "default_root_dir": lambda: Trainer(default_root_dir=""),
        "dirpath": lambda: ModelCheckpoint(dirpath=""),
        "save_dir": lambda: CSVLogger(""),
        "out": lambda: RunFolder.create("", "kfold"),
        "data_dir": lambda: load_dataset("digits", ""),
        "export_path": lambda: fit_folds_into(""),
        "ckpt_path": lambda: resume_fit_from(""),
    }.items(),
)
def test_an_empty_path_is_refused_by_the_name_of_its_option(tmp_path, monkeypatch, name, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"^{name} is an empty path"):
        call()
    assert not set(os.listdir(tmp_path)) - {"cv", "fit"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["resume", ""], "RUN_DIR"),
        (["run", ""], "RECIPE"),
        (["run", "kfold", "--fast", "--out", ""], "out"),
        (["run", "kfold", "--dry-run", "-c", ""], "--config"),
        (["run", "kfold", "--fast", "--data-dir", ""], "data_dir"),
    ],
)
def test_an_empty_path_on_the_command_line_is_refused(tmp_path, monkeypatch, capsys, words, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text("def main(run):\n    raise AssertionError('the working folder ran')\n")
    assert main(words) in (1, 2)
    assert f"{name} is an empty path" in " ".join(capsys.readouterr().err.split())


def test_a_path_that_is_given_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/a", "path") == tmp_path / "a"
    assert given_path(Path("b"), "path") == Path("b")
    assert given_path("~no_such_user/c", "path") == Path("~no_such_user/c")
