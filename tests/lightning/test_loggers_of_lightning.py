"""CSVLogger and TensorBoardLogger take Lightning's arguments; a Trainer has its loggers before it fits."""

import inspect
import warnings

import pytest
import torch
from torch import nn

from torchloops import CSVLogger, LoopModule, TensorBoardLogger, Trainer
from torchloops.testing import TinyClassifier, random_loader

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [(CSVLogger, pl.loggers.CSVLogger), (TensorBoardLogger, pl.loggers.TensorBoardLogger)]
)
def test_arguments_are_those_of_lightning_in_its_order(ours, theirs, tmp_path):
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    public = {name for name in dir(theirs) if not name.startswith("_") and name != name.upper()}
    assert public - set(dir(ours(tmp_path))) - {"after_save_checkpoint", "group_separator"} == set()


def events_in(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


class WithInput(TinyClassifier):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(1, 32)


def test_tensorboard_has_values_hyperparameters_and_the_graph(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(save_dir=tmp_path, name="study", log_graph=True)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(max_epochs=2, logger=logger, log_every_n_steps=1, **QUIET).fit(WithInput(5), random_loader())
    assert logger.log_dir == str(tmp_path / "study" / "version_0")
    assert "width: 5" in (tmp_path / "study" / "version_0" / "hparams.yaml").read_text()
    events = events_in(logger.log_dir)
    assert [event.step for event in events.Scalars("train/loss")] == list(range(6))
    assert events.Tags()["graph"]
    assert TensorBoardLogger(tmp_path, "study").log_dir == str(tmp_path / "study" / "version_1")


def test_a_graph_without_an_input_is_warned_of(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.warns(UserWarning, match="set self.example_input_array"):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(nn.Linear(1, 1))
    TensorBoardLogger(tmp_path).log_graph(nn.Linear(1, 1))


def test_loggers_are_there_before_the_first_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = CSVLogger("logs")
    assert Trainer(logger=given, **QUIET).loggers == [given]
    assert Trainer(logger=False, **QUIET).logger is None
    trainer, other = Trainer(max_epochs=1, **QUIET), Trainer(max_epochs=1, **QUIET)
    first = trainer.logger
    assert hasattr(other, "logger")
    assert not (tmp_path / "runs").exists()  # asking for a logger makes no folder yet
    first.log_hyperparams({"note": "before"})
    assert other.logger.log_dir != first.log_dir
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(TinyClassifier(), random_loader())
    assert trainer.logger is first
    assert str(trainer.run_dir) == first.log_dir
    assert {path.name for path in trainer.run_dir.iterdir()} >= {"hparams.yaml", "metrics.csv"}
    trainer.fit(TinyClassifier(), random_loader())
    assert trainer.logger is not first
    assert str(trainer.run_dir) == trainer.logger.log_dir != first.log_dir
    third = Trainer(max_epochs=1, **QUIET)
    early = third.logger
    third.fit(TinyClassifier(), random_loader())
    assert third.logger is early
    assert early.log_dir == str(third.run_dir)
    assert sorted(path.name for path in (tmp_path / "runs" / "fit").iterdir()) == ["000", "001", "002", "003"]


def test_a_test_without_a_fit_reaches_the_loggers_given(tmp_path):
    class Net(LoopModule):
        def test_step(self, batch, batch_idx):
            self.log("test/mean", batch[0].mean())

    logger = CSVLogger(tmp_path)
    trainer = Trainer(logger=logger, **QUIET)
    trainer.test(Net(), random_loader(), verbose=False)
    assert [set(row) for row in logger.rows] == [{"test/mean", "step"}]
    assert trainer.logger is logger


def test_pictures_from_a_step(tmp_path):
    class Net(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            self.logger.experiment.add_scalar("seen", batch_idx, self.global_step)

    pytest.importorskip("tensorboard")
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, num_sanity_val_steps=0, **QUIET)
    trainer.fit(Net(), random_loader(), random_loader(seed=1))
    assert [event.value for event in events_in(tmp_path).Scalars("seen")] == [0, 1, 2]
