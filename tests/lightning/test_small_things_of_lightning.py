"""What Lightning's users expect beside training: reasons, default checkpoints, warnings of what was forgotten."""

import enum
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from torchloops import Callback, CSVLogger, EarlyStopping, LoopModule, ModelCheckpoint, Trainer
from torchloops.callbacks import EarlyStoppingReason
from torchloops.errors import CheckpointError, ConfigurationError, PossibleUserWarning, ResumeWarning
from torchloops.testing import TinyClassifier, random_loader

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


def test_the_reasons_of_early_stopping_are_those_of_lightning():
    theirs = pl.callbacks.early_stopping.EarlyStoppingReason
    assert issubclass(EarlyStoppingReason, enum.Enum)
    assert {one.name: one.value for one in EarlyStoppingReason} == {one.name: one.value for one in theirs}


@pytest.mark.parametrize(
    "options",
    [{}, {"patience": 1}, {"stopping_threshold": 5.0}, {"divergence_threshold": -1.0}, {"mode": "max", "patience": 2}],
)
def test_reason_and_epoch_of_a_stop(options):
    stops = []
    for base, engine, kind in (
        (pl.LightningModule, pl.Trainer, pl.callbacks.EarlyStopping),
        (LoopModule, Trainer, EarlyStopping),
    ):

        class Net(base):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(32, 1)

            def training_step(self, batch, batch_idx):
                self.log("loss", [3.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0][self.current_epoch], on_epoch=True)
                return self.layer(batch[0]).mean()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        stopping = kind("loss", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine(max_epochs=8, callbacks=[stopping], enable_checkpointing=False, **QUIET).fit(Net(), random_loader())
        stops.append((stopping.stopping_reason.name, stopping.stopped_epoch, stopping.stopping_reason_message is None))
    assert stops[0] == stops[1]


# the checkpoint that is kept without a ModelCheckpoint


def test_the_kept_state_stands_for_a_model_checkpoint(tmp_path):
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    assert trainer.checkpoint_callback.best_model_path == ""
    assert trainer.checkpoint_callback.dirpath is None
    trainer.fit(TinyClassifier(), random_loader())
    kept = trainer.checkpoint_callback
    assert kept.best_model_path == kept.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")
    assert (kept.dirpath, kept.monitor, kept.best_model_score) == (str(tmp_path / "checkpoints"), None, None)
    with pytest.warns(UserWarning, match="no ModelCheckpoint says what is best"):
        trainer.test(dataloaders=random_loader(), ckpt_path="best", verbose=False)
    assert trainer.checkpoint_callbacks == []
    assert Trainer(enable_checkpointing=False, **QUIET).checkpoint_callback is None
    given = ModelCheckpoint()
    assert Trainer(callbacks=[given], **QUIET).checkpoint_callback is given
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        Trainer(default_root_dir=tmp_path, **QUIET).test(TinyClassifier(), random_loader(), ckpt_path="best")


# what may have been forgotten


def test_validation_data_without_a_step_and_a_step_without_data():
    class NoStep(LoopModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(module, *data, **options):
        Trainer(max_epochs=1, enable_checkpointing=False, **QUIET, **options).fit(module, *data)

    with pytest.warns(PossibleUserWarning, match="NoStep has no `validation_step`"):
        fit(NoStep(), random_loader(), random_loader(seed=1))
    with pytest.warns(PossibleUserWarning, match="TinyClassifier has a `validation_step`"):
        fit(TinyClassifier(), random_loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(TinyClassifier(), random_loader(), random_loader(seed=1))
        fit(NoStep(), random_loader())
        fit(TinyClassifier(), random_loader(), limit_val_batches=0)


class Counting(Callback):
    def __init__(self):
        self.count = 0

    def on_train_batch_end(self, trainer, module, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_a_resume_without_a_callback_that_has_a_state_says_so(tmp_path):
    def fit(epochs, *callbacks):
        options = {"max_epochs": epochs, "default_root_dir": tmp_path, "callbacks": list(callbacks)}
        Trainer(**options, **QUIET).fit(TinyClassifier(), random_loader(), ckpt_path="last" if epochs > 1 else None)

    fit(1, Counting())
    with pytest.warns(ResumeWarning, match="state of callbacks that are not here: Counting"):
        fit(2)
    fit(3, Counting())


# what is not here


@pytest.mark.parametrize("address", ["s3://bucket/run", "memory://run", "gs://b", Path("s3://bucket/run")])
def test_addresses_of_storages_are_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = pytest.raises(ConfigurationError, match="is an address of a storage")
    with refused:
        Trainer(default_root_dir=address)
    with refused:
        CSVLogger(address)
    with refused:
        ModelCheckpoint(dirpath=address)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    with refused:
        trainer.fit(TinyClassifier(), random_loader(), ckpt_path=address)
    with refused:
        trainer.save_checkpoint(f"{address}/last.ckpt")
    with refused:
        TinyClassifier.load_from_checkpoint(f"{address}/last.ckpt")
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoints"}
