"""Callbacks in fits that are cut at every batch: what follows is what would have followed."""

import copy
import io
import re

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from torchloops.advanced.kfold.best import KeepBest
from torchloops.callbacks import (
    Callback,
    EarlyStopping,
    Freeze,
    FreezeUnfreeze,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer

EPOCHS = 3


class Normed(TinyClassifier):
    """With batch norm, dropout, an epoch's mean of the loss, and an optimizer that gets what is to be trained."""

    def __init__(self):
        super().__init__(optimizer="Adam")
        self.backbone = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, 0.5)}


class SaveEachBatch(Callback):
    """Saves after every batch, when all others are done with it."""

    order = 9

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def fresh(self):
        return self

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{self.count}.ckpt")
        self.count += 1


class Watch(Callback):
    """The modes and flags of the backbone at every batch, by epoch and batch."""

    def __init__(self):
        self.seen = {}

    def fresh(self):
        return self

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        flags = [parameter.requires_grad for parameter in module.backbone.parameters()]
        modes = [part.training for part in module.backbone.modules()]
        self.seen[trainer.run_name, trainer.current_epoch, batch_idx] = flags, modes


def fit(folder, make_callbacks, strategy=None, ckpt_path=None, log_every=1):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    callbacks = make_callbacks()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        callbacks=callbacks,
        log_every_n_steps=log_every,
        enable_progress_bar=False,
        checkpoint_every="1000 epochs",
    )
    module = Normed()
    data = random_loader(), random_loader(seed=1)
    if strategy is not None:
        trainer.finetune(module, *data, strategy=strategy(), ckpt_path=ckpt_path)
    else:
        trainer.fit(module, *data, ckpt_path=ckpt_path)
    return trainer, module, callbacks


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def rows(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("metrics.csv")}


def test_freezing_cut_at_every_batch(tmp_path):
    check_finetuning(tmp_path, Freeze)


@pytest.mark.parametrize("lr_factor", [1.0, 0.1])
def test_unfreezing_cut_at_every_batch(tmp_path, lr_factor):
    check_finetuning(tmp_path, lambda: FreezeUnfreeze(1, lr_factor))


def check_finetuning(tmp_path, strategy):
    saver, watch = SaveEachBatch(tmp_path / "saved"), Watch()
    _, whole, _ = fit(tmp_path / "whole", lambda: [watch, saver], strategy)
    assert saver.count == 9
    for cut in range(saver.count):
        seen = Watch()
        checkpoint = tmp_path / "saved" / f"{cut}.ckpt"
        _, module, _ = fit(tmp_path / str(cut), lambda seen=seen: [seen], strategy, checkpoint)
        assert same(module.state_dict(), whole.state_dict()), f"cut after batch {cut}"
        assert seen.seen == dict(list(watch.seen.items())[cut + 1 :])
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert all(part.training for part in module.modules())
        assert rows(tmp_path / str(cut)) == rows(tmp_path / "whole")


def test_an_inner_run_that_is_resumed_puts_back_what_it_found():
    """The module is not as it was when the run began: it was unfrozen in the meantime."""

    class Run:
        run_name, current_epoch, optimizers, lr_scheduler_configs = "round_0", 1, (), ()

    first, module = FreezeUnfreeze(1), Normed()
    first.setup(Run, module, "fit")
    state = first.state_dict()
    second, module = FreezeUnfreeze(1), Normed()
    for parameter in module.backbone.parameters():
        parameter.requires_grad_(False)
    module.backbone.eval()
    second.setup(Run, module, "fit")
    second.load_state_dict(state)
    second.teardown(Run, module, "fit")
    assert all(parameter.requires_grad for parameter in module.backbone.parameters())
    assert module.backbone[1].training


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_run_resumed_from_the_checkpoint_of_any_step(tmp_path, log_every):
    """`ModelCheckpoint` saves before the step is logged and before the validation that comes next."""

    def callbacks():
        return [ModelCheckpoint(every_n_train_steps=1, save_top_k=-1, filename="{step}"), LearningRateMonitor("step")]

    _, whole, (_, monitor) = fit(tmp_path / "whole", callbacks, log_every=log_every)
    saved = sorted((tmp_path / "whole" / "checkpoints").glob("step=*.ckpt"))
    assert len(saved) == 9
    for checkpoint in saved:
        folder = tmp_path / checkpoint.stem
        _, module, (_, other) = fit(folder, callbacks, ckpt_path=checkpoint, log_every=log_every)
        assert same(module.state_dict(), whole.state_dict()), checkpoint.stem
        assert rows(folder) == rows(tmp_path / "whole"), checkpoint.stem
        assert other.lrs == monitor.lrs


def test_early_stopping_and_the_best_weights_cut_at_every_batch(tmp_path):
    def callbacks():
        return [EarlyStopping("train/mean", mode="max", patience=2), KeepBest("val/loss", "min")]

    saver = SaveEachBatch(tmp_path / "saved")
    _, whole, (stopper, best, _) = fit(tmp_path / "whole", lambda: [*callbacks(), saver])
    assert stopper.stopped_epoch == 2
    for cut in range(saver.count):
        folder = tmp_path / str(cut)
        _, module, (other, found) = fit(folder, callbacks, ckpt_path=tmp_path / "saved" / f"{cut}.ckpt")
        assert same(module.state_dict(), whole.state_dict())
        assert repr(other.state_dict()) == repr(stopper.state_dict())
        assert (found.epoch, found.score) == (best.epoch, best.score)
        module.head.weight.data.zero_()
        found.finish(module)
        best.finish(whole)
        assert same(module.state_dict(), whole.state_dict())
        assert rows(folder) == rows(tmp_path / "whole")


def test_the_best_weights_do_not_change_with_the_module_after_saving():
    keeper, module = KeepBest("val/loss", "min"), nn.Linear(2, 2)

    class Run:
        sanity_checking, current_epoch, callback_metrics = False, 3, {"val/loss": torch.tensor(0.5)}

        class engine:
            broadcast = staticmethod(lambda value: value)

    keeper.on_validation_end(Run, module)
    before, state = copy.deepcopy(module.state_dict()), keeper.state_dict()
    module.weight.data.zero_()
    other = KeepBest("val/loss", "min")
    other.load_state_dict(state)
    Run.callback_metrics["val/loss"] = torch.tensor(0.6)
    other.on_validation_end(Run, module)
    other.finish(module)
    assert same(module.state_dict(), before)
    Run.callback_metrics["val/loss"], Run.current_epoch = torch.tensor(0.1), 4
    other.on_validation_end(Run, module)
    assert (other.epoch, other.score) == (3, 0.5), "the validation that scores a fold is no epoch to choose"


def bar_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, legacy_windows=False, color_system=None)
    return RichProgressBar(console=console, refresh_rate=0.0)


def text_of(bar):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bar.console.file.getvalue())


def test_a_bar_shows_where_a_resumed_epoch_is(tmp_path):
    saver = SaveEachBatch(tmp_path / "saved")
    fit(tmp_path / "whole", lambda: [saver])
    _, _, (bar,) = fit(tmp_path / "again", lambda: [bar_on_a_terminal()], ckpt_path=tmp_path / "saved" / "4.ckpt")
    first = text_of(bar).split("validate")[0]
    assert "1/3" in first  # epochs, although none has begun
    assert "0/3" not in first
    assert "3/3" in first  # the third batch comes next
    assert "2/3" not in first


def test_a_bar_counts_the_batches_of_a_pass_that_were_seen_before():
    class Run:
        class run:
            @staticmethod
            def batches(stage):
                class Five:
                    num_batches = 5

                class Unknown:
                    num_batches = float("inf")

                return [Five, Five, Unknown]

    bar = bar_on_a_terminal()
    bar._next_drawing = float("inf")
    bar.on_test_batch_end(Run, None, None, None, 3, 1)
    assert bar._number_seen(Run, "test") == 9
    bar.on_test_batch_end(Run, None, None, None, 4, 1)
    bar.on_test_batch_end(Run, None, None, None, 0, 2)
    assert bar._number_seen(Run, "test") == 11
    bar.on_test_start(Run, None)
    assert bar._number_seen(Run, "test") == 0
