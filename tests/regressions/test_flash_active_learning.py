"""Defects of Lightning Flash's active learning (and of what it took from baal): one test each.

Flash had no human path either; annotators are a part of their own (`torchloops.annotation`).
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from torchloops import Callback, LoopModule, Trainer
from torchloops.advanced.active_learning import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    resolve_heuristic,
    score_pool,
)
from torchloops.advanced.active_learning.baal_import import import_baal
from torchloops.advanced.active_learning.stochastic import StochasticForward, mc_dropout
from torchloops.data import Asker, Reader


class Classifier(LoopModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def samples(n=60, seed=0):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


def make_data(**settings):
    settings = {"initial_num_labels": 10, "query_size": 4, "batch_size": 8, **settings}
    return ActiveLearningDataModule(samples(), test_dataset=samples(40, seed=1), **settings)


def run_study(tmp_path, data=None, loop=None, module=None, callbacks=(), ckpt_path=None):
    torch.manual_seed(0)
    loop, data, module = loop or ActiveLearningLoop(max_rounds=3), data or make_data(), module or Classifier()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=list(callbacks), accelerator="cpu", **quiet)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return loop, data, module


@pytest.mark.parametrize("name", ["Margin", "Certainty"])
@pytest.mark.parametrize("by_object", [False, True])
def test_margin_and_certainty_label_the_unsure_and_not_the_surest(name, by_object):
    """Flash took ``argsort(score)[-k:]`` whatever the heuristic's direction."""
    heuristic = getattr(import_baal("heuristics", "this test"), name)() if by_object else name
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    inputs = torch.tensor([[5.0], [0.1], [-4.0], [-0.2]])
    scores = score_pool(model, [(torch.arange(4), inputs)], resolve_heuristic(heuristic), draws=2)
    assert scores.best(2).sample_ids == [1, 3]


def test_every_sample_of_a_batch_is_scored(tmp_path):
    """Flash scored only the first sample of each batch."""
    data = make_data(pool_batch_size=16)
    scores = score_pool(Classifier(), data.pool_dataloader(), data.heuristic)
    assert scores.sample_ids == data.pool_ids
    assert scores.scores.unique().numel() == data.n_pool


def test_draws_differ_also_with_baals_consistent_dropout():
    """One mask kept over passes gives zero variance, and so equal scores for the whole pool."""
    import_baal("heuristics", "this test")  # baal's imports warn unless they go through it
    from baal.bayesian.consistent_dropout import ConsistentDropout

    model = nn.Sequential(nn.Linear(4, 16), ConsistentDropout(0.5), nn.Linear(16, 3))
    reader = Reader(Asker(model), outputs="logits")
    reader.is_tried = True
    for way in ("vmapped", "looped"):
        forward = StochasticForward(reader, 5)
        forward._ways = [getattr(forward, f"_{way}")]
        with mc_dropout(model):
            draws = forward(torch.randn(3, 4), 3)
        assert all(not torch.equal(draws[..., 0], draws[..., i]) for i in range(1, 5))


def test_dropout_is_off_in_validation_and_test_after_scoring(tmp_path):
    """Flash left dropout patched in after scoring."""

    class Modes(Classifier):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def validation_step(self, batch, batch_idx):
            self.seen.add(("validate", self.net[2].training, type(self.net[2])))
            assert torch.equal(self(batch[0]), self(batch[0]))

        def test_step(self, batch, batch_idx):
            self.seen.add(("test", self.net[2].training, type(self.net[2])))
            assert torch.equal(self(batch[0]), self(batch[0]))

    *_, module = run_study(tmp_path, make_data(val_split=6), module=Modes())
    assert module.seen == {("validate", False, nn.Dropout), ("test", False, nn.Dropout)}


def test_initial_labels_depend_on_the_seed_only():
    """Flash drew them from the global generators."""
    drawn = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        drawn.append(make_data().labelled_ids)
    assert drawn[0] == drawn[1] != make_data(seed=1).labelled_ids


def test_a_validation_sample_never_becomes_a_training_sample(tmp_path):
    """Flash split the labelled samples anew as they grew."""
    seen = {"train": set(), "val": []}

    class Watcher(Callback):
        def on_train_epoch_end(self, trainer, module):
            seen["train"] |= set(trainer.datamodule.train_dataloader().dataset.indices.tolist())
            seen["val"].append(tuple(trainer.datamodule.val_dataloader().dataset.indices.tolist()))

    run_study(tmp_path, make_data(val_split=6), ActiveLearningLoop(max_rounds=4), callbacks=[Watcher()])
    assert len(set(seen["val"])) == 1
    assert not seen["train"] & set(seen["val"][0])


def test_the_pool_is_scored_without_training_augmentation():
    """Flash read the pool through the training transforms."""

    class View(Dataset):
        def __init__(self, shift):
            self.shift, self.targets = shift, [i % 2 for i in range(20)]

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.full((2,), index + self.shift), self.targets[index]

    data = ActiveLearningDataModule(View(0.5), initial_num_labels=4, eval_dataset=View(0.0))
    pool = torch.cat([inputs[:, 0] for _, (inputs, _) in data.pool_dataloader()])
    train = torch.cat([inputs[:, 0] for inputs, _ in data.train_dataloader()])
    assert pool.tolist() == [float(i) for i in data.pool_ids]
    assert sorted(train.tolist()) == sorted(i + 0.5 for i in data.labelled_ids)


def test_the_optimizer_starts_fresh_in_every_round(tmp_path):
    """Flash reset the weights and kept Adam's moments."""
    sizes = []

    class Watcher(Callback):
        def on_train_start(self, trainer, module):
            sizes.append(sum(len(optimizer.state) for optimizer in trainer.optimizers))

    run_study(tmp_path, callbacks=[Watcher()])
    assert sizes == [0, 0, 0]


def test_label_state_is_in_the_checkpoint(tmp_path):
    """A resumed Flash run had forgotten which samples were labelled."""
    saved = []

    class Saver(Callback):
        def on_round_end(self, trainer, module, row):
            if row["round"] == 1:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")
                saved.append(list(trainer.datamodule.labelled_ids))

    run_study(tmp_path, callbacks=[Saver()])
    checkpoint = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    state = checkpoint["loop_tree"]["state_dict"]["data"]
    restored = make_data()
    restored.load_state_dict(state)
    assert restored.labelled_ids == saved[0]
