"""What a ModelCheckpoint keeps of a fold or a round: that run alone."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, KFoldLoop, LoopModule, ModelCheckpoint
from torchloops.errors import CheckpointError
from torchloops.trainer.keeper import Keeper


class Small(LoopModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Noting(ModelCheckpoint):
    """Keeps a copy of the weights beside each file."""

    def _write(self, trainer, path):
        is_written = super()._write(trainer, path)
        torch.save(dict(trainer.module.state_dict()), f"{path}.weights")
        return is_written


def study(make_trainer, **arguments):
    """Active learning in each of two folds."""
    trainer = make_trainer(max_epochs=3, enable_checkpointing=True, **arguments)
    inner = ActiveLearningLoop(max_rounds=2, label_epoch_frequency=3)
    inner.connect(trainer.fit_loop)
    outer = KFoldLoop(num_folds=2)
    outer.connect(inner)
    trainer.fit_loop = outer
    return trainer


def data():
    torch.manual_seed(0)
    pool = TensorDataset(torch.randn(400, 4), torch.arange(400) % 2)
    return ActiveLearningDataModule(pool, heuristic="entropy", initial_num_labels=8, query_size=4)


@pytest.fixture
def folder(make_trainer, tmp_path):
    trainer = study(make_trainer, callbacks=[Noting(monitor="loss", save_last=True)])
    trainer.fit(Small(), datamodule=data())
    return tmp_path


def test_it_holds_the_run_alone(folder):
    files = sorted(folder.rglob("fold_*/**/*.ckpt"))
    assert len(files) == 2 * 2 * 2  # folds, rounds, best and last
    whole = (folder / "checkpoints" / "last.ckpt").stat().st_size
    for file in files:
        held = torch.load(file, weights_only=True)
        assert held["inner_run"] == str(file.parent.parent.relative_to(folder))
        assert not {"outer_runs", "loop_tree", "datamodule", "attributes"} & set(held)
        assert file.stat().st_size < whole / 3
        assert len(held["optimizer_states"]) == 1
        weights = torch.load(f"{file}.weights", weights_only=True)
        own = Small.load_from_checkpoint(file).state_dict()
        assert all(torch.equal(own[name], value) for name, value in weights.items())


def test_nothing_goes_on_from_it(folder, make_trainer):
    file = next(folder.rglob("fold_1/round_0/checkpoints/best.ckpt"))
    with pytest.raises(CheckpointError, match=r"holds the run 'fold_1/round_0' only.*checkpoints/last.ckpt.*load_from"):
        make_trainer(max_epochs=3).fit(Small(), datamodule=data(), ckpt_path=file)


def test_the_study_goes_on_from_the_trainers_file(folder, make_trainer):
    class Cut(BaseException):
        pass

    class Stopping(Noting):
        def on_train_epoch_end(self, trainer, module):
            super().on_train_epoch_end(trainer, module)
            if trainer.run_name == "fold_1/round_1" and trainer.current_epoch == 1:
                raise Cut

    def fit(module, callback, ckpt_path=None):
        callbacks = [callback(monitor="loss", save_last=True)]
        root = folder / "cut"
        trainer = study(make_trainer, default_root_dir=root, checkpoint_every="1 epoch", callbacks=callbacks)
        trainer.fit(module, datamodule=data(), ckpt_path=ckpt_path)

    torch.manual_seed(0)
    with pytest.raises(Cut):
        fit(Small(), Stopping)
    fit(Small(), Noting, "last")
    for name in ("best", "last"):
        file = Path("fold_1", "round_1", "checkpoints", f"{name}.ckpt")
        whole, cut = (Small.load_from_checkpoint(root / file).state_dict() for root in (folder, folder / "cut"))
        assert all(torch.equal(cut[name], value) for name, value in whole.items())


def test_a_loop_that_asks_to_save_does_not_save_more_than_a_part_of_the_time(make_trainer, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("torchloops.trainer.keeper.monotonic", lambda: now[0])
    taken = []

    def collect(trainer):
        taken.append(now[0])
        now[0] += 1.0  # what a save takes
        return {}

    monkeypatch.setattr("torchloops.trainer.keeper.collect_checkpoint", collect)
    monkeypatch.setattr("torchloops.trainer.keeper.write_checkpoint", lambda *args, **options: None)
    for every, expected in ((None, [0.0, 31.0]), ("1 epoch", [0.0, 11.0, 22.0, 33.0])):
        trainer = make_trainer(checkpoint_every=every, enable_checkpointing=True)
        now[0], taken[:] = 0.0, []
        keeper: Keeper = trainer.keeper
        keeper._begin()
        keeper._keeps = True
        monkeypatch.setattr(keeper, "attach", lambda: None)
        for _ in range(4):
            keeper.ask()
            keeper.safe_point("round")
            now[0] += 10.0
        assert taken == expected
