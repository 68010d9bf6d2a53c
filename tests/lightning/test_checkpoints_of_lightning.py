"""A fit that one library began goes on in the other."""

import warnings

import pytest
import torch
from lightning_models import loader
from torch import nn

from torchloops import EarlyStopping, KFoldLoop, ModelCheckpoint, Trainer
from torchloops.errors import CheckpointError, ResumeWarning

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


class Net(pl.LightningModule):
    def __init__(self, manual=False):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = not manual
        self.layer, self.epochs = nn.Linear(8, 3), []

    def on_train_epoch_start(self):
        self.epochs.append((self.current_epoch, self.global_step))

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


def fit(engine, epochs, ckpt_path=None, callbacks=(), manual=False, **options):
    torch.manual_seed(0)
    net = Net(manual)
    options = {"enable_checkpointing": False, **QUIET, **options}
    trainer = engine(max_epochs=epochs, callbacks=list(callbacks), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(net, loader(), loader(16, seed=1), ckpt_path=ckpt_path)
    return net, trainer


def same(net, other):
    return all(torch.equal(*pair) for pair in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("pair", [(Trainer, pl.Trainer), (pl.Trainer, Trainer)], ids=["ours to pl", "pl to ours"])
def test_a_fit_goes_on_from_a_file_of_the_other(tmp_path, pair, manual):
    begins, ends = pair
    whole, finished = fit(pl.Trainer, 5, manual=manual)
    _, trainer = fit(begins, 2, manual=manual)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    rest, other = fit(ends, 5, tmp_path / "end.ckpt", manual=manual)
    assert rest.epochs == whole.epochs[2:]
    assert same(rest, whole)
    assert (other.current_epoch, other.global_step) == (finished.current_epoch, finished.global_step)


@pytest.mark.parametrize(
    ("begins", "kind", "ends"),
    [(Trainer, ModelCheckpoint, pl.Trainer), (pl.Trainer, pl.callbacks.ModelCheckpoint, Trainer)],
    ids=["ours to pl", "pl to ours"],
)
def test_the_file_of_a_model_checkpoint_goes_on(tmp_path, begins, kind, ends):
    whole, _ = fit(pl.Trainer, 4)
    saving = kind(dirpath=tmp_path / "kept", save_top_k=-1, filename="{epoch}")
    fit(begins, 2, callbacks=[saving], enable_checkpointing=True, default_root_dir=tmp_path)
    rest, trainer = fit(ends, 4, tmp_path / "kept" / "epoch=1.ckpt")
    assert rest.epochs == whole.epochs[2:]
    assert same(rest, whole)
    assert trainer.global_step == 20


def test_lightning_refuses_what_it_cannot_go_on_with(tmp_path):
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    loop = KFoldLoop(2)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Net(), loader())
    with pytest.raises(KeyError, match="fit_loop"):
        fit(pl.Trainer, 2, tmp_path / "checkpoints" / "last.ckpt")


def test_callbacks_go_on_or_are_named(tmp_path):
    stopping = pl.callbacks.EarlyStopping("val/loss", patience=9)
    _, trainer = fit(pl.Trainer, 2, callbacks=[stopping, pl.callbacks.Timer()])
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    ours = EarlyStopping("val/loss", patience=9)
    with pytest.warns(ResumeWarning, match=r"goes on with epoch 2.*begin anew: Timer"):
        Trainer(max_epochs=2, callbacks=[ours], enable_checkpointing=False, **QUIET).fit(
            Net(), loader(), loader(16, seed=1), ckpt_path=tmp_path / "end.ckpt"
        )
    assert torch.equal(ours.best_score, stopping.best_score)
    assert ours.wait_count == stopping.wait_count


def test_a_file_from_inside_an_epoch_is_refused(tmp_path):
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, filename="inside")
    fit(pl.Trainer, 1, callbacks=[saving], enable_checkpointing=True, default_root_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"by pytorch-lightning in epoch 0, behind batch 3"):
        fit(Trainer, 2, tmp_path / "inside.ckpt")


def test_ours_from_inside_an_epoch_goes_on_in_lightning_as_its_own_do(tmp_path):
    saves = {}
    for engine, kind in ((Trainer, ModelCheckpoint), (pl.Trainer, pl.callbacks.ModelCheckpoint)):
        folder = tmp_path / engine.__module__
        saving = kind(dirpath=folder, every_n_train_steps=3, filename="inside", save_top_k=1)
        fit(engine, 1, callbacks=[saving], enable_checkpointing=True, default_root_dir=folder)
        rest, trainer = fit(pl.Trainer, 3, folder / "inside.ckpt")
        saves[engine] = rest.epochs, trainer.global_step, trainer.current_epoch
    assert saves[Trainer] == saves[pl.Trainer]


def test_files_that_are_not_whole_are_named(tmp_path):
    _, trainer = fit(pl.Trainer, 1)
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match="holds weights only"):
        fit(Trainer, 2, tmp_path / "weights.ckpt")
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    checkpoint = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    checkpoint["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"] = "one"
    torch.save(checkpoint, tmp_path / "edited.ckpt")
    with pytest.raises(CheckpointError, match="ready"):
        fit(Trainer, 2, tmp_path / "edited.ckpt")
