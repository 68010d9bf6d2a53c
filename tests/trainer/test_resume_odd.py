"""Odd code around a fit, cut between batches: it goes on with the same bytes in a process with another seed."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from torchloops import seed_everything
from torchloops.callbacks import Callback
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_dataset, random_loader


def shuffled():
    return DataLoader(random_dataset(64), batch_size=16, shuffle=True)


class Cut(Callback):
    """Raises an error in the n-th call of a hook."""

    def __init__(self, hook, at, error):
        self.left, self.error = at, error
        setattr(self, hook, self.count)

    def count(self, *args):
        self.left -= 1
        if not self.left:
            raise self.error


@pytest.fixture
def ends_the_same(make_trainer, tmp_path):
    """``ends_the_same(make_module, hook, at)``: a fit that is cut there, and resumed, ends as one that was not."""

    def fit(folder, make_module, callbacks=(), ckpt_path=None, make_callbacks=list, **arguments):
        trainer = make_trainer(
            **{"enable_checkpointing": True, "checkpoint_every": "0 seconds", "max_epochs": 3, "logger": True}
            | arguments,
            default_root_dir=folder,
            callbacks=[*make_callbacks(), *callbacks],
        )
        module = make_module()
        trainer.fit(module, shuffled(), random_loader(16), ckpt_path=ckpt_path)
        optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        table = (folder / "metrics.csv").read_text() if arguments.get("logger", True) else ""
        return {"weights": module.state_dict(), "optimizers": optimizers}, trainer.callback_metrics, table

    def check(make_module, hook="on_train_batch_start", at=6, error=RuntimeError, **options):
        error = error("a power cut")
        seed_everything(1)
        whole = fit(tmp_path / "whole", make_module, **options)
        seed_everything(1)
        with pytest.raises(type(error)):
            fit(tmp_path / "cut", make_module, [Cut(hook, at, error)], **options)
        seed_everything(2)
        resumed = fit(tmp_path / "cut", make_module, ckpt_path="last", **options)
        torch.testing.assert_close(resumed[0], whole[0], rtol=0, atol=0)
        torch.testing.assert_close(resumed[1], whole[1], rtol=0, atol=0)
        assert resumed[2] == whole[2]

    return check


class Planned(TinyClassifier):
    """Asks for the number of batches while it configures its optimizer."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedule = OneCycleLR(optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class PlannedEarly(TinyClassifier):
    def setup(self, stage):
        assert self.trainer.num_training_batches == 4


class Counting(TinyClassifier):
    """A buffer that is not in ``state_dict`` changes the loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def training_step(self, batch, batch_idx):
        self.mean.lerp_(batch[0].mean(), 0.5)
        return super().training_step(batch, batch_idx) * (1 + self.mean)


class Dropping(TinyClassifier):
    def forward(self, inputs):
        return self.head(nn.functional.dropout(self.backbone(inputs), 0.3, self.training))


class AccumulateLater(Callback):
    def on_train_start(self, trainer, module):
        assert trainer.accumulate_grad_batches == 1

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            trainer.accumulate_grad_batches, trainer.gradient_clip_val = 2, 0.1


@pytest.mark.parametrize("at", [2, 6, 9])
@pytest.mark.parametrize("make_module", [Planned, PlannedEarly, Counting])
def test_modules_that_look_around(ends_the_same, make_module, at):
    ends_the_same(make_module, at=at)


@pytest.mark.parametrize("at", [6, 9])
def test_arguments_that_a_callback_changes_on_the_way(ends_the_same, at):
    ends_the_same(TinyClassifier, at=at, make_callbacks=lambda: [AccumulateLater()])


@pytest.mark.parametrize("share", [2, 0.5])
def test_the_first_batches_are_drawn_again(ends_the_same, share):
    ends_the_same(Dropping, at=3, overfit_batches=share)


ENDS = ["on_validation_epoch_end", "on_validation_end", "on_train_epoch_end"]


@pytest.mark.parametrize("hook", ENDS)
def test_an_interrupt_in_a_hook_that_ends_an_epoch(ends_the_same, hook):
    """The callback that interrupts is not there when the fit goes on."""
    ends_the_same(Dropping, hook, at=2, error=KeyboardInterrupt)


@pytest.mark.parametrize("hook", ENDS)
def test_a_file_that_a_callback_saves_where_an_epoch_ends(make_trainer, tmp_path, hook):
    def fit(folder, make_module=Dropping, callbacks=(), ckpt_path=None):
        seed_everything(1)
        trainer = make_trainer(max_epochs=3, logger=True, default_root_dir=folder, callbacks=list(callbacks))
        module = make_module()
        trainer.fit(module, shuffled(), random_loader(16), ckpt_path=ckpt_path)
        return module.state_dict(), trainer.callback_metrics, (folder / "metrics.csv").read_text()

    def save(self, trainer, module):
        trainer.save_checkpoint(tmp_path / f"{trainer.sanity_checking}_{trainer.current_epoch}.ckpt")

    saving = type("Saving", (Callback,), {hook: save})()
    whole = fit(tmp_path / "whole", callbacks=[saving])
    for path in sorted(tmp_path.glob("*.ckpt")):
        resumed = fit(tmp_path / path.stem, ckpt_path=path)
        torch.testing.assert_close(resumed[:2], whole[:2], rtol=0, atol=0)
        if path.stem.startswith("False"):
            assert resumed[2] == whole[2]


def test_a_file_where_the_folder_of_checkpoints_should_be(make_trainer, tmp_path):
    (tmp_path / "checkpoints").write_text("notes")
    with pytest.raises(ConfigurationError, match="a file is in its way"):
        make_trainer(enable_checkpointing=True, max_epochs=1).fit(TinyClassifier(), random_loader(16))
    assert (tmp_path / "checkpoints").read_text() == "notes"
