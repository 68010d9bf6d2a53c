"""LightningCLI and Hydra build what a loop here runs."""

import sys

import pytest
import torch
from lightning_models import loader
from torch import nn

from torchloops import EarlyStopping, KFoldLoop, Trainer

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Net(pl.LightningModule):
    def __init__(self, width: int = 4, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return loader(32, self.batch_size)

    def val_dataloader(self):
        return loader(16, self.batch_size, seed=1)


@pytest.mark.filterwarnings("ignore")
def test_lightning_cli_hands_module_and_data_to_a_loop(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    from pytorch_lightning.cli import LightningCLI

    monkeypatch.chdir(tmp_path)
    arguments = ["--model.width=5", "--data.batch_size=16", "--trainer.max_epochs=2"]
    monkeypatch.setattr(sys, "argv", ["fit.py", *arguments])
    cli = LightningCLI(Net, Data, run=False, trainer_defaults={"logger": False, "accelerator": "cpu"})
    trainer = Trainer(**{name: cli.config["trainer"][name] for name in ("max_epochs", "precision")}, **QUIET)
    trainer.fit(cli.model, datamodule=cli.datamodule)
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    assert cli.model.hparams.width == 5

    folds = KFoldLoop(2)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    folds.connect(trainer.fit_loop)
    trainer.fit_loop = folds
    trainer.fit(cli.model, cli.datamodule.train_dataloader())
    assert len(folds.folds) == 2


def test_hydra_builds_module_data_callbacks_and_trainer(tmp_path):
    hydra = pytest.importorskip("hydra")
    from omegaconf import OmegaConf

    text = f"""
    model: {{_target_: {__name__}.Net, width: 6}}
    data: {{_target_: {__name__}.Data, batch_size: 4}}
    trainer:
      _target_: torchloops.Trainer
      max_epochs: 2
      default_root_dir: {tmp_path}
      enable_progress_bar: false
      enable_model_summary: false
      accelerator: cpu
      callbacks:
        - {{_target_: torchloops.EarlyStopping, monitor: val/loss}}
      logger:
        - {{_target_: torchloops.CSVLogger, save_dir: {tmp_path}/logs}}
    """
    config = OmegaConf.create(text)
    trainer = hydra.utils.instantiate(config.trainer)
    module, data = hydra.utils.instantiate(config.model), hydra.utils.instantiate(config.data)
    trainer.fit(module, datamodule=data)
    assert any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)
    assert len(trainer.logger.rows) == 2
    again = Net.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert again.hparams.width == 6


def test_a_list_of_omegaconf_is_a_list_of_callbacks_and_of_loggers():
    omegaconf = pytest.importorskip("omegaconf")
    flags = {"allow_objects": True}
    callbacks = omegaconf.ListConfig([EarlyStopping("val/loss")], flags=flags)
    trainer = Trainer(callbacks=callbacks, logger=omegaconf.ListConfig([]), **QUIET)
    assert any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)
    assert trainer.loggers == []
