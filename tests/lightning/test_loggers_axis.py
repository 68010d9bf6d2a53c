"""Every call that a logger gets, values and step, is the one that pytorch-lightning makes."""

import contextlib
import warnings

import pytest
import torch
import torchmetrics
from lightning_models import loader
from torch import nn

from torchloops import Callback, LearningRateMonitor, Trainer
from torchloops.loggers import CSVLogger

pl = pytest.importorskip("pytorch_lightning")


class Recorder(pl.loggers.logger.Logger):
    """Keeps what it gets; both libraries call it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    name = version = "recorder"

    def log_hyperparams(self, *args, **kwargs):
        """Nothing."""

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))


class Net(pl.LightningModule):
    def __init__(self, scheduler=False, several=False, manual=False, val_step=True):
        super().__init__()
        self.scheduler, self.several, self.val_step = scheduler, several, val_step
        self.automatic_optimization = not manual
        self.layer = nn.Linear(8, 3)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)

    def loss(self, batch):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/max", batch[0].max())
        self.accuracy(self.layer(batch[0]), batch[1])
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        if batch_idx % 3 == 0:
            self.log("train/now_and_then", float(batch_idx))
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def on_train_epoch_end(self):
        self.log("train/end", float(self.current_epoch))

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch), on_step=self.val_step, on_epoch=True)
        self.log("val/mean", batch[0].mean())

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch), on_step=True, on_epoch=True)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if not self.scheduler:
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.scheduler}}

    def train_dataloader(self):
        return loader(40, 8)

    def val_dataloader(self):
        return [loader(24, 8, seed=1), loader(16, 4, seed=2)] if self.several else loader(24, 8, seed=1)

    def test_dataloader(self):
        return loader(16, 8, seed=3)


class Axis(Net):
    """Says itself where its values belong."""

    def on_train_epoch_end(self):
        self.log("step", float(self.current_epoch * 100))
        self.log("epoch_squared", float(self.current_epoch**2))


class Stopping(Net):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 7:
            self.trainer.should_stop = True


def calls(engine, make, monitor=None, **options):
    torch.manual_seed(0)
    net, recorder = make(), Recorder()
    options = {"max_epochs": 3, "log_every_n_steps": 1, "num_sanity_val_steps": 2, **options}
    ours = engine is Trainer
    kind = LearningRateMonitor if ours else pl.callbacks.LearningRateMonitor
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = engine(
        logger=recorder, callbacks=[] if monitor is None else [kind(**monitor)], accelerator="cpu", **quiet, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net)
        trainer.validate(net, verbose=False)
        trainer.test(net, verbose=False)
    return recorder.calls


SITUATIONS = {
    "plain": (Net, {}),
    "every third batch": (Net, {"log_every_n_steps": 3}),
    "more than an epoch has": (Net, {"log_every_n_steps": 7}),
    "accumulated": (Net, {"accumulate_grad_batches": 2}),
    "accumulated, every second step": (Net, {"accumulate_grad_batches": 2, "log_every_n_steps": 2}),
    "validation in the middle": (Net, {"val_check_interval": 2}),
    "validation in an accumulation": (Net, {"val_check_interval": 1, "accumulate_grad_batches": 3}),
    "two validation loaders": (lambda: Net(several=True), {}),
    "two loaders, half of each": (lambda: Net(several=True), {"limit_val_batches": 0.5, "val_check_interval": 0.5}),
    "validation by epoch only": (lambda: Net(val_step=False), {"check_val_every_n_epoch": 2}),
    "manual": (lambda: Net(manual=True), {"log_every_n_steps": 2}),
    "max_steps": (Net, {"max_steps": 7, "max_epochs": -1, "log_every_n_steps": 2}),
    "own step": (Axis, {}),
    "stopped": (Stopping, {"log_every_n_steps": 50}),
    "rates by epoch": (lambda: Net(scheduler="epoch"), {"monitor": {"logging_interval": "epoch"}}),
    "rates by step": (
        lambda: Net(scheduler="step"),
        {"monitor": {"logging_interval": "step", "log_momentum": True}, "log_every_n_steps": 2},
    ),
    "rates as schedulers step": (lambda: Net(scheduler="step"), {"monitor": {}, "accumulate_grad_batches": 2}),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_calls_are_those_of_lightning(name):
    make, options = SITUATIONS[name]
    theirs, ours = calls(pl.Trainer, make, **options), calls(Trainer, make, **options)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [set(metrics) for _, metrics in ours] == [set(metrics) for _, metrics in theirs]
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        assert {k: pytest.approx(v, abs=0, rel=1e-6) for k, v in other.items()} == one


@pytest.mark.parametrize("several", [False, True])
def test_the_csv_file_of_lightning_has_the_same_rows(tmp_path, several):
    files = []
    for engine in (pl.Trainer, Trainer):
        torch.manual_seed(0)
        logger = pl.loggers.CSVLogger(tmp_path, name=engine.__module__)
        options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = engine(max_epochs=3, logger=logger, log_every_n_steps=2, accelerator="cpu", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = Net(several=several, scheduler="epoch")
            trainer.fit(net)
            trainer.test(net, verbose=False)
        logger.finalize("success")
        files.append((tmp_path / engine.__module__ / "version_0" / "metrics.csv").read_text().splitlines())
    theirs, ours = ([line.split(",") for line in lines] for lines in files)
    assert ours[0] == theirs[0]
    assert [[bool(cell) for cell in row] for row in ours] == [[bool(cell) for cell in row] for row in theirs]
    # means of epochs are added up in double precision here, so that last digits may differ
    cells = ([float(cell) for row in rows[1:] for cell in row if cell] for rows in (ours, theirs))
    assert next(cells) == pytest.approx(next(cells), rel=1e-6)
    assert len(ours) > 10


class Stop(Exception):
    """Ends a fit."""


class StopAt(Callback):
    order = 9

    def __init__(self, hook, number):
        self.number, self.hook = number, hook
        setattr(self, hook, self._count)

    def _count(self, trainer, *_):
        self.number -= 1
        if self.number == 0:
            trainer.save_checkpoint(trainer.default_root_dir / "cut.ckpt")
            raise Stop


@pytest.mark.parametrize(
    ("hook", "number"),
    [("on_train_batch_end", 7), ("on_validation_end", 2), ("on_train_epoch_end", 2)],
)
def test_a_resumed_run_goes_on_with_the_same_steps(tmp_path, hook, number):
    def run(folder, callbacks=(), **options):
        torch.manual_seed(0)
        recorder = Recorder()
        trainer = Trainer(
            max_epochs=3, logger=recorder, log_every_n_steps=2, accumulate_grad_batches=2, enable_progress_bar=False,
            default_root_dir=folder, callbacks=list(callbacks), val_check_interval=3, num_sanity_val_steps=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Stop):
                trainer.fit(Net(several=True), **options)
        return recorder.calls

    whole = run(tmp_path / "whole")
    cut = run(tmp_path / "cut", [StopAt(hook, number)])
    rest = run(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "cut.ckpt")
    joined = [call for call in cut if call in whole]
    assert joined == cut
    assert [call for call in cut + rest if call[1]] == [call for call in whole if call[1]]


def test_the_csv_file_has_the_last_values_of_every_epoch(tmp_path):
    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=2, default_root_dir=tmp_path, enable_progress_bar=False, logger=CSVLogger(tmp_path),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Net())
    rows = trainer.logger.rows
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 4), (1, 9)]
    assert all(
        {"train/loss_step", "train/loss_epoch", "train/max", "val/loss_step", "val/mean"} <= set(r) for r in rows
    )
