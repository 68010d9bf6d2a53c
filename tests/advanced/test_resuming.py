"""Studies that are cut at every safe point and go on end as if nothing had happened: weights, tables, queries."""

import pytest
import torch
from cutting import check_every_cut, same, state_of, trainer_in
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    EarlyStopping,
    KFoldDataModule,
    KFoldLoop,
    LoopModule,
    ValidationGuidedLoop,
    YieldLoop,
)


def samples(n=48, seed=0):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


class Noisy(Dataset):
    """Samples under random augmentation."""

    def __init__(self, n=48, seed=0):
        self.data = samples(n, seed)
        self.targets = self.data.tensors[1].tolist()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        return inputs + 0.1 * torch.randn(4), target


class Net(LoopModule):
    """A body with batch norm and dropout, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Halves(Net):
    """A step that yields, with an optimizer for each part."""

    def training_step(self, batch, batch_idx):
        features = self.body(batch[0])
        loss = nn.functional.cross_entropy(self.head(features.detach()), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        yield loss, "head"
        yield nn.functional.cross_entropy(self.head(features), batch[1]), "body"

    def configure_optimizers(self):
        return {name: torch.optim.Adam(getattr(self, name).parameters(), lr=1e-2) for name in ("body", "head")}


def guide_step(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


class Rows(Callback):
    """Keeps the rows of rounds and folds as hooks gave them."""

    def __init__(self):
        self.rows = []

    def on_round_end(self, trainer, module, row):
        self.rows.append(("round", {name: value for name, value in row.items() if "seconds" not in name}))

    def on_fold_end(self, trainer, module, row):
        self.rows.append(("fold", {name: value for name, value in row.items() if "seconds" not in name}))

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = list(state["rows"])


# fits


def fit(folder, checkpoint, module, data, place=None, **arguments):
    trainer = trainer_in(folder, **arguments)
    if place is not None:
        place(trainer)
    trainer.fit(module, data, ckpt_path=checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return trainer, {"weights": state_of(module), "metrics": metrics, "steps": trainer.global_step}


def loader(n=36, seed=0, noisy=False, **options):
    return DataLoader(Noisy(n, seed) if noisy else samples(n, seed), batch_size=6, shuffle=True, **options)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_yielding(tmp_path, accumulate, alone):
    class Sometimes(Halves):
        def training_step(self, batch, batch_idx):
            for index, pair in enumerate(super().training_step(batch, batch_idx)):
                if not alone or index == 0 or batch_idx % 2:
                    yield pair

    def study(folder, checkpoint):
        def place(trainer):
            trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())

        module = Sometimes()
        return fit(
            folder, checkpoint, module, loader(42, noisy=True), place, max_epochs=2, accumulate_grad_batches=accumulate
        )

    check_every_cut(study, tmp_path, expect=14)


GUIDES = {
    "one batch": {},
    "two batches": {"guide_batches": 2},
    "all batches": {"guide_batches": None},
    "every second step": {"every_n_steps": 2},
    "in train mode": {"guide_mode": "train"},
    "by history": {"scale": lambda loss, history: 1 / (loss + sum(history))},
    "reweight": {"scale": "reweight"},
    "reweight, every third step": {"scale": "reweight", "every_n_steps": 3, "guide_batches": 2},
}


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_guided(tmp_path, name, accumulate, given):
    def study(folder, checkpoint):
        guide = {"guide_dataloader": loader(15, 3, noisy=True)} if given else {"guide_split": 8}

        def place(trainer):
            trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(**guide, **GUIDES[name]))

        arguments = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
        data = loader(noisy=True)

        class Plain(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return fit(folder, checkpoint, Plain(), data, place, **arguments)

    check_every_cut(study, tmp_path, expect=10)


@pytest.mark.parametrize("scale", ["inverse", "reweight"])
def test_guided_with_workers(tmp_path, scale):
    def study(folder, checkpoint):
        def place(trainer):
            guide = loader(15, 3, noisy=True, num_workers=1)
            trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_dataloader=guide, scale=scale))

        class Plain(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return fit(folder, checkpoint, Plain(), loader(18, noisy=True, num_workers=1), place, max_epochs=2)

    check_every_cut(study, tmp_path, expect=6, step=2)


# studies of active learning


def active_data(dataset=None, **settings):
    settings = {"initial_num_labels": 8, "query_size": 4, "batch_size": 6, "val_split": 6, **settings}
    dataset = samples() if dataset is None else dataset
    return ActiveLearningDataModule(dataset, test_dataset=samples(20, 1), **settings)


def active(folder, checkpoint, loop=None, data=None, module=None, place=None, **arguments):
    module, loop, data = module or Net(), loop or ActiveLearningLoop(max_rounds=3), data or active_data()
    rows = Rows()
    trainer = trainer_in(folder, **{"max_epochs": 2, "callbacks": [rows], **arguments})
    if place is not None:
        place(trainer)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer, {
        "weights": state_of(module), "rounds": loop.rounds, "queries": loop.queries, "rows": rows.rows,
        "labelled": data.labelled_ids, "round": data.round, "random": torch.rand(1),
    }  # fmt: skip


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("heuristic", ["bald", "random"])
def test_active_learning(tmp_path, reset, heuristic):
    def study(folder, checkpoint):
        loop = ActiveLearningLoop(max_rounds=3, should_reset_weights=reset)
        return active(folder, checkpoint, loop, active_data(heuristic=heuristic))

    whole, places = check_every_cut(study, tmp_path, expect=30)
    assert {"", "round_0", "round_1", "round_2"} == set(places)
    assert len(whole["queries"]) == 16


def test_active_learning_without_initial_labels_and_with_early_stopping(tmp_path):
    def study(folder, checkpoint):
        stopping = EarlyStopping("val/loss", patience=1)
        data = active_data(Noisy(), initial_num_labels=None, val_split=6, query_size=8)
        return active(folder, checkpoint, ActiveLearningLoop(budget=20), data, callbacks=[Rows(), stopping])

    check_every_cut(study, tmp_path, expect=20, step=2)


# cross-validation


def folds(folder, checkpoint, loop=None, data=None, module=None, inner=None, place=None, **arguments):
    module, loop = module or Net(), loop or KFoldLoop(3)
    rows = Rows()
    trainer = trainer_in(folder, **{"max_epochs": 2, "callbacks": [rows], **arguments})
    if place is not None:
        place(trainer)
    if inner is not None:
        inner.connect(trainer.fit_loop)
    loop.connect(trainer.fit_loop if inner is None else inner)
    trainer.fit_loop = loop
    trainer.fit(module, data or KFoldDataModule(samples(), batch_size=8, test_dataset=samples(20, 1)),
                ckpt_path=checkpoint)  # fmt: skip
    return trainer, {
        "weights": state_of(module), "folds": loop.folds, "summary": loop.summary, "oof": loop.oof,
        "tables": loop.tables, "members": [result.weights for result in loop.results],
        "ensemble": loop.ensemble_scores, "rows": rows.rows, "random": torch.rand(1),
    }  # fmt: skip


FOLDS = {
    "plain": {},
    "new weights": {"new_weights": True, "test_each_fold": True},
    "best": {"checkpoint": "best", "inner_split": 6, "monitor": "val/loss"},
    "refit": {"refit": True, "new_weights": True, "predict": False},
}


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("export", [False, True])
def test_cross_validation(tmp_path, name, export):
    def study(folder, checkpoint):
        loop = KFoldLoop(3, folder / "out" if export else None, **FOLDS[name])
        if export and checkpoint is not None:
            copy_results(tmp_path / "whole" / "out", folder / "out")
        return folds(folder, checkpoint, loop)

    _, places = check_every_cut(study, tmp_path, expect=40)
    assert {"", "fold_0", "fold_1", "fold_2"} <= set(places)


def copy_results(of, to):
    """The folder of results as a later, killed run left it: with folds that the checkpoint does not know."""
    import shutil

    shutil.copytree(of, to)
