"""What a logger gets beside values: hyper-parameters, the module, and word of each checkpoint."""

import copy

import pytest
import torch
from torch import nn

import torchloops
from torchloops import LoopModule, ModelCheckpoint
from torchloops.errors import ConfigurationError
from torchloops.loops import Loop

pl = pytest.importorskip("pytorch_lightning")
yaml = pytest.importorskip("yaml")

LOADER = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=4)
KINDS = pytest.mark.parametrize("base", [LoopModule, pl.LightningModule])


class Listens(pl.loggers.CSVLogger):
    """Lightning's logger, which writes down what it is told."""

    def __init__(self, folder):
        super().__init__(folder)
        self.told = []

    def log_hyperparams(self, params=None):
        self.told.append(("hparams", dict(params)))

    def log_graph(self, model, input_array=None):
        self.told.append(("graph", type(model).__name__))

    def after_save_checkpoint(self, checkpoint_callback):
        self.told.append(("file", checkpoint_callback.best_model_path.rpartition("/")[2]))


def net(base, **keeps):
    class Net(base):
        def __init__(self, lr=0.1, act=nn.Tanh):
            super().__init__()
            self.save_hyperparameters(**keeps)
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).square().mean()
            self.log("loss", loss, on_epoch=True)
            self.log("kept", float(batch_idx), logger=False)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    return Net


@pytest.fixture
def fit_both(fit_ours, fit_theirs, tmp_path):
    """Fit under both Trainers; returns what each logger was told."""

    def fit(module, **options):
        told = []
        for name, run, checkpoint in (
            ("theirs", fit_theirs, pl.callbacks.ModelCheckpoint),
            ("ours", fit_ours, ModelCheckpoint),
        ):
            logger = Listens(tmp_path / f"{name} log")
            keep = checkpoint(monitor="loss", save_top_k=-1, dirpath=tmp_path / f"{name} files", filename="{epoch}")
            run(
                copy.deepcopy(module),
                LOADER,
                logger=logger,
                callbacks=[keep],
                max_epochs=3,
                enable_checkpointing=True,
                **options,
            )
            told.append(logger.told)
        return told

    return fit


def test_a_logger_is_told_what_lightning_tells_it(fit_both):
    theirs, ours = fit_both(net(pl.LightningModule)(lr=0.2))
    assert ours == theirs
    assert ours[0] == ("hparams", {"lr": 0.2, "act": nn.Tanh})
    assert [kind for kind, _ in ours] == ["hparams", "graph", "file", "file", "file"]


def test_what_was_kept_from_loggers_stays_so(fit_both):
    theirs, ours = fit_both(net(pl.LightningModule, logger=False)())
    assert ours == theirs
    assert "hparams" not in dict(ours)


@KINDS
def test_loggers_may_be_left_alone(fit_ours, tmp_path, base):
    logger = Listens(tmp_path / "log")
    fit_ours(net(base)(), LOADER, logger=logger, max_epochs=1, enable_autolog_hparams=False)
    assert logger.told == []


@KINDS
def test_the_default_logger_writes_them_as_they_are_when_the_fit_begins(fit_ours, base):
    module = net(base)()
    module.hparams.lr = 0.3
    trainer = fit_ours(module, LOADER, logger=True, max_epochs=1)
    written = yaml.safe_load((trainer.run_dir / "hparams.yaml").read_text())
    assert written["lr"] == 0.3
    assert "Tanh" in written["act"]


@KINDS
def test_hyperparameters_of_data_are_added_and_must_agree(fit_ours, tmp_path, base):
    class Data(pl.LightningDataModule):
        def __init__(self, batch_size=4, lr=0.1):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return LOADER

    logger = Listens(tmp_path / "log")
    fit_ours(net(base)(), logger=logger, max_epochs=1, fit_options={"datamodule": Data()})
    assert logger.told[0] == ("hparams", {"lr": 0.1, "act": nn.Tanh, "batch_size": 4})
    with pytest.raises(ConfigurationError, match=r"\['lr'\] have one value in Net and another in Data"):
        fit_ours(net(base)(), logger=logger, max_epochs=1, fit_options={"datamodule": Data(lr=0.2)})


@KINDS
def test_a_resumed_fit_tells_them_again(fit_ours, tmp_path, base):
    module = net(base)()
    trainer = fit_ours(module, LOADER, max_epochs=1, enable_checkpointing=True)
    logger = Listens(tmp_path / "log")
    last = trainer.run_dir / "checkpoints" / "last.ckpt"
    fit_ours(module, LOADER, max_epochs=2, logger=logger, fit_options={"ckpt_path": last})
    assert [kind for kind, _ in logger.told] == ["hparams", "graph"]


def test_inner_runs_tell_of_their_files_and_not_of_hyperparameters(tmp_path, make_ours):
    class Twice(Loop):
        def on_run_start(self):
            self.n = 0

        @property
        def done(self):
            return self.n == 2

        def advance(self):
            with self.trainer.isolated(f"turn_{self.n}"):
                self.fit_loop.run()
            self.n += 1

    logger = Listens(tmp_path / "log")
    keep = ModelCheckpoint(monitor="loss", filename="{epoch}")
    trainer = make_ours(max_epochs=1, logger=logger, callbacks=[keep], enable_checkpointing=True)
    outer = Twice()
    outer.connect(fit_loop=trainer.fit_loop)
    trainer.fit_loop = outer
    trainer.fit(net(LoopModule)(), LOADER)
    assert [kind for kind, _ in logger.told] == ["hparams", "graph", "file", "file"]


@pytest.mark.parametrize("options", [{}, {"log_every_n_steps": 1}])
def test_logged_metrics_are_lightnings(fit_ours, fit_theirs, tmp_path, options):
    found = []
    for name, fit in (("theirs", fit_theirs), ("ours", fit_ours)):
        torchloops.seed_everything(0)
        logger = Listens(tmp_path / name)
        trainer = fit(net(pl.LightningModule)(), LOADER, max_epochs=2, logger=logger, **options)
        found.append({name: float(value) for name, value in trainer.logged_metrics.items()})
    assert found[1] == pytest.approx({name: value for name, value in found[0].items() if name != "epoch"})
    assert found[1].keys() == {"loss_step", "loss_epoch"}


class _Momentum(net(pl.LightningModule)):
    def configure_optimizers(self):
        groups = [{"params": [self.layer.weight], "weight_decay": 0.5}, {"params": [self.layer.bias], "momentum": 0.7}]
        sgd = torch.optim.SGD(groups, lr=self.hparams.lr, momentum=0.9)
        adam = torch.optim.Adam(self.parameters(), betas=(0.8, 0.99), weight_decay=0.1)
        return [sgd, adam], [torch.optim.lr_scheduler.StepLR(sgd, 1)]

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            optimizer.step()


def test_momentum_and_weight_decay_have_lightnings_names(fit_ours, fit_theirs, tmp_path):
    found = []
    for name, fit, callbacks in (("theirs", fit_theirs, pl.callbacks), ("ours", fit_ours, torchloops)):
        monitor = callbacks.LearningRateMonitor("epoch", log_momentum=True, log_weight_decay=True)
        trainer = fit(_Momentum(), LOADER, max_epochs=1, logger=Listens(tmp_path / name), callbacks=[monitor])
        found.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    assert found[1] == pytest.approx(found[0])
    assert len(found[1]) == 9
