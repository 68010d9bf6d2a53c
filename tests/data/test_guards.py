"""What hooks compute once from the training data is computed anew in every fold and round, also where they guard it."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    KFoldDataModule,
    KFoldLoop,
    Loop,
    LoopModule,
)
from torchloops.advanced.kfold.left_behind import LostAttributesWarning

N = 36
TARGETS = torch.arange(N) % 3
INPUTS = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)) + 3 * nn.functional.one_hot(TARGETS, 4)
SEEN: list = []


def training_mean(trainer):
    dataset = trainer.train_dataloader.dataset
    return torch.stack([dataset[i][0] for i in range(len(dataset))]).mean(0)


class Net(LoopModule):
    """Centres its inputs; subclasses say when they look for the centre."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x - self.mean)

    def look(self):
        self.mean = training_mean(self.trainer)

    def training_step(self, batch, batch_idx):
        if batch_idx == 0 and self.trainer.current_epoch == 0:
            SEEN.append((self.trainer.run_name, self.mean.clone(), training_mean(self.trainer)))
        return cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class NoneInSetup(Net):
    def __init__(self):
        super().__init__()
        self.mean = None

    def setup(self, stage):
        if self.mean is None:
            self.look()


class AbsentAtStart(Net):
    def on_fit_start(self):
        if not hasattr(self, "mean"):
            self.look()


class EmptyBuffer(NoneInSetup):
    def __init__(self):
        super().__init__()
        del self.mean
        self.register_buffer("mean", None)


class NewBuffer(AbsentAtStart):
    def look(self):
        self.register_buffer("mean", training_mean(self.trainer))


class FlagAndList(Net):
    """Fills a list in place, once."""

    def __init__(self):
        super().__init__()
        self.kept, self.is_fitted = [], False

    @property
    def mean(self):
        return self.kept[0]

    def setup(self, stage):
        if not self.is_fitted:
            self.kept.append(training_mean(self.trainer))
            self.is_fitted = True


class InAPart(Net):
    def __init__(self):
        super().__init__()
        self.part = nn.Identity()

    @property
    def mean(self):
        return self.part.mean

    def on_fit_start(self):
        if getattr(self.part, "mean", None) is None:
            self.part.mean = training_mean(self.trainer)


class FilledFromOutside(Net):
    mean = None


class Fill(Callback):
    def setup(self, trainer, module, stage):
        if isinstance(module, FilledFromOutside) and module.mean is None:
            module.look()


GUARDS = [NoneInSetup, AbsentAtStart, EmptyBuffer, NewBuffer, FlagAndList, InAPart, FilledFromOutside]


@pytest.fixture(autouse=True)
def nothing_was_seen():
    SEEN.clear()


def run(make_trainer, module, loop, data, fit_loop=None, **settings):
    trainer = make_trainer(**{"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [Fill()], **settings})
    loop.connect(fit_loop or trainer.fit_loop)
    if fit_loop is not None:
        fit_loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=data)
    return trainer


def pool(**settings):
    return ActiveLearningDataModule(
        TensorDataset(INPUTS, TARGETS), "entropy", initial_num_labels=9, query_size=6, batch_size=8, **settings
    )


@pytest.mark.parametrize("cls", GUARDS)
@pytest.mark.parametrize("way", ["folds", "rounds", "rounds in folds", "folds in folds"])
def test_each_run_computes_from_its_own_training_data(way, cls, make_trainer):
    folds = KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8)
    loop, data, inner, runs = {
        "folds": (KFoldLoop(3), folds, None, 3),
        "rounds": (ActiveLearningLoop(max_rounds=3), pool(), None, 3),
        "rounds in folds": (KFoldLoop(2), pool(), ActiveLearningLoop(max_rounds=2), 4),
        "folds in folds": (KFoldLoop(2), folds, KFoldLoop(2), 6),
    }[way]
    module = cls()
    run(make_trainer, module, loop, data, inner)
    assert len(SEEN) == runs
    for name, used, own in SEEN:
        assert torch.equal(used, own), name
    assert len({tuple(used.tolist()) for _, used, _ in SEEN}) == runs


@pytest.mark.parametrize("cls", [NoneInSetup, EmptyBuffer, FlagAndList])
def test_folds_in_other_processes_compute_from_their_own_training_data(cls, make_trainer):
    found = []
    for jobs in (1, 2):
        torch.manual_seed(0)
        loop = KFoldLoop(2, n_jobs=jobs, threads=1)
        data = KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8, test_dataset=TensorDataset(INPUTS, TARGETS))
        run(make_trainer, cls(), loop, data)
        found.append(loop)
    for one, other in zip(found[0].results, found[1].results, strict=True):
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    one, other = (loop.ensemble()(INPUTS) for loop in found)
    assert torch.equal(one, other)
    assert found[0].ensemble_scores == found[1].ensemble_scores


@pytest.mark.parametrize("cls", GUARDS)
def test_the_ensembles_members_centre_as_their_folds_did(cls, make_trainer):
    loop = KFoldLoop(3)
    run(make_trainer, cls(), loop, KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8))
    scores = []
    for (_, mean, _), result in zip(SEEN, loop.results, strict=True):
        weights = result.weights
        scores.append(torch.softmax((INPUTS - mean) @ weights["layer.weight"].T + weights["layer.bias"], 1))
    assert torch.allclose(loop.ensemble()(INPUTS), torch.stack(scores).mean(0), atol=1e-6)


class Aliases(Net):
    """Asks its parts through a list, and keeps an optimizer."""

    mean = torch.zeros(())

    def __init__(self):
        super().__init__()
        self.chain = [self.layer]
        self.watched = {"bias": self.layer.bias}
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def forward(self, x):
        return self.chain[0](x) + 0 * self.watched["bias"]

    def configure_optimizers(self):
        return self.optimizer


def test_members_ask_their_own_parts_and_leave_optimizers_alone(make_trainer):
    loop, module = KFoldLoop(3), Aliases()
    run(make_trainer, module, loop, KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8))
    assert not module.optimizer.state_dict()["state"], "it is as it was before the fit"
    ensemble = loop.ensemble()
    assert not module.optimizer.state_dict()["state"]
    scores = []
    for member, result in zip(ensemble.members, loop.results, strict=True):
        weights = result.weights
        assert member.chain[0] is member.layer
        assert member.watched["bias"] is member.layer.bias
        scores.append(torch.softmax(INPUTS @ weights["layer.weight"].T + weights["layer.bias"], 1))
    assert torch.allclose(ensemble(INPUTS), torch.stack(scores).mean(0), atol=1e-6)


class Scaler:
    """Neither plain data nor known to a checkpoint."""

    def __init__(self, mean):
        self.mean = mean


class Scaled(Net):
    def __init__(self):
        super().__init__()
        self.scaler = None

    @property
    def mean(self):
        return self.scaler.mean

    def setup(self, stage):
        if self.scaler is None:
            self.scaler = Scaler(training_mean(self.trainer))


def test_what_members_from_other_processes_lack_is_named(make_trainer):
    loop = KFoldLoop(2, n_jobs=2, threads=1)
    run(make_trainer, Scaled(), loop, KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8))
    with pytest.warns(LostAttributesWarning, match="scaler"):
        loop.ensemble()
    loop = KFoldLoop(2)
    run(make_trainer, Scaled(), loop, KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.ensemble()


class Settings(Net):
    mean = 0.0

    def __init__(self):
        super().__init__()
        self.rate, self.config = 0.5, {"rate": 0.5}

    def on_fit_start(self):
        self.rate = self.rate or 1.0
        if not hasattr(self, "seen"):
            self.seen = []

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        SEEN.append((self.rate, self.config["rate"], list(self.seen)))
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Rates(Loop):
    """A search around folds, which sets attributes of the module before each of its runs."""

    def __init__(self):
        super().__init__()
        self.tried = []

    @property
    def done(self):
        return len(self.tried) == 2

    def advance(self):
        rate = 0.1 * (len(self.tried) + 1)
        module = self.trainer.module
        module.rate, module.config["rate"], module.seen = rate, rate, ["set by the loop"]
        with self.trainer.isolated(f"try_{len(self.tried)}", start=self.trainer.snapshot()):
            self.fit_loop.run()
        self.tried.append(rate)


def test_what_an_outer_loop_sets_stays(make_trainer):
    search, folds = Rates(), KFoldLoop(2)
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=0)
    folds.connect(trainer.fit_loop)
    search.connect(fit_loop=folds)
    trainer.fit_loop = search
    trainer.fit(Settings(), datamodule=KFoldDataModule(TensorDataset(INPUTS, TARGETS), 8))
    rates = [0.1] * 3 + [0.2] * 3  # two folds and the last model of each try
    assert [(rate, rate, ["set by the loop"]) for rate in rates] == SEEN
