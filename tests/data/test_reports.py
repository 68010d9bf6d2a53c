"""Situations that people report, each with its right value: labels, inputs, outputs, loaders and hooks in folds and
rounds."""

import contextlib
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from data.oracle_parts import Loaders, Rounds, train
from sklearn import model_selection
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    DataModule,
    KFoldDataModule,
    KFoldLoop,
    LoopModule,
    Trainer,
    ValidationGuidedLoop,
)
from torchloops.errors import ConfigurationError, DataError
from torchloops.testing import TinyClassifier, random_dataset


def blobs(n=60, classes=3, seed=0):
    """Points of four numbers, and a class that depends on the first; the samples of the classes are equally many."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x, torch.div(x[:, 0].argsort().argsort() * classes, n, rounding_mode="floor")


class Net(LoopModule):
    def __init__(self, columns=3, inputs=4, dropout=0.0, norm=False, lr=0.05):
        super().__init__()
        middle = [*([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), *middle, nn.Linear(16, columns))
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        output = self(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(output, batch[1]))
        self.log("val/accuracy", (output.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Counting(Callback):
    """Counts training batches, also in copies of itself."""

    def __init__(self):
        self.batches = []

    def __deepcopy__(self, memo):
        return self

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch_idx)


def validate(folder, module, data, *, num_folds=3, fit=None, **options):
    """Cross-validate; returns the loop."""
    loop = KFoldLoop(num_folds, **options)
    train(folder / "folds", loop, module, data, **(fit or {}))
    return loop


def study(folder, module, data, *, rounds=2, fit=None, loop=None, heuristic="entropy", start=12, query=6, **options):
    """Run active learning; returns the loop, what its rounds left behind, and the data module."""
    data = ActiveLearningDataModule(data, heuristic, initial_num_labels=start, query_size=query, **options)
    made, kept = ActiveLearningLoop(max_rounds=rounds, **(loop or {})), Rounds()
    train(folder / "rounds", made, module, data, callbacks=[kept.callback], **(fit or {}))
    return SimpleNamespace(loop=made, queries=made.queries, rounds=made.rounds, taken=kept.taken, data=data)


def asked_first(found):
    """Ids that the first query asked, in order."""
    return found.queries.query("round == 0")["sample_id"].tolist()


def highest(scores, ids, count):
    """The ids of the highest scores, in order."""
    return [ids[place] for place in np.argsort(-np.asarray(scores), kind="stable")[:count]]


def entropy(probabilities):
    return torch.special.entr(probabilities.double()).sum(1)


def with_weights(module, weights):
    module.load_state_dict(weights)
    return module.eval()


def accuracy(table):
    return float((table["prediction"] == table["target"]).mean())


# optimizers and attributes of the module


class Prebuilt(Net):
    """Hands back an optimizer and a scheduler that were made outside, or makes them."""

    def __init__(self, given):
        super().__init__(dropout=0.1, lr=0.1)
        self.given = self.made() if given else None

    def made(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)}

    def configure_optimizers(self):
        return self.given or self.made()


class NoteRates(Callback):
    def __init__(self, rates):
        self.rates = rates

    def __deepcopy__(self, memo):
        return self

    def on_train_epoch_start(self, trainer, module):
        optimizer = trainer.optimizers[0]
        self.rates.append((round(optimizer.param_groups[0]["lr"], 9), len(optimizer.state)))


def test_an_optimizer_made_outside_starts_afresh_in_every_fold_and_round(tmp_path):
    losses, tested = [], []
    for given in (False, True):
        rates, folder = [], tmp_path / str(given)
        fit = {"callbacks": [NoteRates(rates)]}
        torch.manual_seed(0)
        loop = validate(folder, Prebuilt(given), KFoldDataModule(TensorDataset(*blobs()), 16), fit=fit)
        assert rates == [(0.1, 0), (0.01, 4)] * 3
        losses.append(loop.folds["val/loss"].tolist())
        rates.clear()
        data = ActiveLearningDataModule(
            TensorDataset(*blobs()), "entropy", 12, 6, test_dataset=TensorDataset(*blobs(seed=1))
        )
        rounds = ActiveLearningLoop(max_rounds=3)
        torch.manual_seed(0)
        train(folder / "rounds", rounds, Prebuilt(given), data, **fit)
        assert rates == [(0.1, 0), (0.01, 4)] * 3
        tested.append(rounds.rounds["test/accuracy"].tolist())
    assert losses[0] == losses[1]
    assert tested[0] == tested[1]


class Halving(Net):
    """Keeps its own learning rate and halves it each epoch."""

    def __init__(self):
        super().__init__(lr=0.5)

    def on_train_epoch_start(self):
        for group in self.optimizers().param_groups:
            group["lr"] = self.lr

    def on_train_epoch_end(self):
        self.lr *= 0.5


def halved(folder, **options):
    torch.manual_seed(0)
    return validate(folder, Halving(), KFoldDataModule(TensorDataset(*blobs()), 16), threads=1, **options)


def same_weights(one, other):
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_an_attribute_of_the_module_starts_afresh_in_every_fold_and_round(tmp_path):
    whole, alone = halved(tmp_path / "whole"), halved(tmp_path / "alone", folds=[2])
    assert same_weights(whole.results[2], alone.results[0])
    rates = []

    class Note(Callback):
        def on_round_end(self, trainer, module, row):
            rates.append(module.lr)

    loop, data = ActiveLearningLoop(max_rounds=3), ActiveLearningDataModule(TensorDataset(*blobs()), "entropy", 12, 6)
    train(tmp_path / "rounds", loop, Halving(), data, callbacks=[Note()])
    assert rates == [0.125] * 3


@pytest.mark.slow
def test_an_attribute_of_the_module_is_the_same_in_folds_that_run_elsewhere(tmp_path):
    whole, elsewhere = halved(tmp_path / "whole"), halved(tmp_path / "elsewhere", n_jobs=2)
    assert all(same_weights(*pair) for pair in zip(whole.results, elsewhere.results, strict=True))


# what outputs mean


class Autoencoder(LoopModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/mse", (self(batch[0]) - batch[0]).square().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/mse", (self(batch[0]) - batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def test_what_an_autoencoder_returns_is_no_probability_of_a_class(tmp_path):
    x, y = torch.randn(45, 12), torch.arange(45) % 3
    data = Loaders(DataLoader(TensorDataset(x, y), 10), DataLoader(TensorDataset(x[:15], y[:15]), 10))
    module = Autoencoder()
    with pytest.warns(UserWarning, match="12"):
        loop = validate(tmp_path, module, KFoldDataModule(data))
    assert not [name for name in loop.oof.columns if name.startswith("prob_")]
    assert loop.ensemble_scores == {}
    with torch.no_grad():
        mean = torch.stack([with_weights(module, result.weights)(x) for result in loop.results]).mean(0)
        torch.testing.assert_close(loop.ensemble("soft")(x), mean)
    for result, value in zip(loop.results, loop.folds["val/mse"], strict=True):
        rows = x[result.sample_ids]
        found = (with_weights(module, result.weights)(rows) - rows).square().mean().item()
        assert value == pytest.approx(found, rel=1e-4)


class Binary(LoopModule):
    """Two classes by one column."""

    def __init__(self, sigmoid=False, bias=None, lr=0.05):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), *([nn.Sigmoid()] if sigmoid else []))
        self.sigmoid, self.lr = sigmoid, lr
        if bias is not None:
            nn.init.uniform_(self.net[2].weight, -0.01, 0.01)
            nn.init.constant_(self.net[2].bias, bias)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        plain, logits = nn.functional.binary_cross_entropy, nn.functional.binary_cross_entropy_with_logits
        return (plain if self.sigmoid else logits)(self(batch[0])[:, 0], batch[1].float())

    def validation_step(self, batch, batch_idx):
        positive = self(batch[0])[:, 0] > (0.5 if self.sigmoid else 0)
        self.log("val/accuracy", (positive == batch[1].bool()).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@pytest.mark.parametrize("heuristic", ["entropy", "margin", "certainty"])
@pytest.mark.parametrize("sigmoid", [False, True], ids=["logit", "sigmoid"])
def test_a_binary_classifier_asks_where_its_probability_is_nearest_to_a_half(tmp_path, sigmoid, heuristic):
    x, y = blobs(classes=2)
    found = study(
        tmp_path, Binary(sigmoid), TensorDataset(x, y), heuristic=heuristic, fit={"max_epochs": 15}, batch_size=16
    )
    taken, asked = found.taken[0], asked_first(found)
    with torch.no_grad():
        output = with_weights(Binary(sigmoid), taken["weights"])(x)[:, 0]
    positive = output if sigmoid else output.sigmoid()
    assert asked == highest(-(positive[taken["pool"]] - 0.5).abs(), taken["pool"], 6)
    predicted = found.queries.query("round == 0")["prediction"].tolist()
    assert predicted == (positive[asked] > 0.5).long().tolist()


def test_small_logits_of_a_fold_are_still_logits(tmp_path):
    x = 0.3 * torch.randn(100, 4)
    y = (torch.arange(100) % 5 > 0).long()
    data = KFoldDataModule(TensorDataset(x, y), 16, test_dataset=TensorDataset(x[:40], y[:40]))
    loop = validate(tmp_path, Binary(bias=0.2, lr=1e-3), data, num_folds=5)
    module = Binary()
    for result in loop.results:
        with torch.no_grad():
            logits = with_weights(module, result.weights)(x[result.sample_ids])
        assert ((logits > 0) & (logits < 1)).all(), "the situation that is meant"
    assert loop.folds["val/accuracy"].tolist() == pytest.approx([0.8] * 5)
    assert loop.oof.groupby("fold")[["prediction", "target"]].apply(accuracy).tolist() == pytest.approx([0.8] * 5)
    assert loop.ensemble_scores["ensemble/accuracy"] == pytest.approx(float(y[:40].float().mean()))
    assert loop.ensemble_scores["ensemble/log_loss"] < 0.69
    assert len({result.kind for result in loop.results}) == 1


class ManyLabels(LoopModule):
    def __init__(self, sigmoid=False, columns=5):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, columns), *([nn.Sigmoid()] if sigmoid else []))
        self.sigmoid = sigmoid

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        plain, logits = nn.functional.binary_cross_entropy, nn.functional.binary_cross_entropy_with_logits
        return (plain if self.sigmoid else logits)(self(batch[0]), batch[1].float())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


def many_labels(n=80, columns=5):
    x = torch.randn(n, 4)
    return x, (x @ torch.randn(4, columns) + 0.5 * torch.randn(n, columns) > 0.7).float()


@pytest.mark.parametrize("sigmoid", [False, True], ids=["logits", "sigmoid"])
def test_multi_label_asks_by_the_mean_entropy_of_its_labels(tmp_path, sigmoid):
    x, y = many_labels()
    found = study(tmp_path, ManyLabels(sigmoid), TensorDataset(x, y), start=20, fit={"max_epochs": 20}, batch_size=16)
    taken = found.taken[0]
    with torch.no_grad():
        output = with_weights(ManyLabels(sigmoid), taken["weights"])(x[taken["pool"]])
    p = (output if sigmoid else output.sigmoid()).double()
    scores = (torch.special.entr(p) + torch.special.entr(1 - p)).mean(1)
    assert asked_first(found) == highest(scores, taken["pool"], 6)


# splitters


class MultilabelStratifiedKFold:
    """As in iterative-stratification: cuts a table of labels by itself."""

    def get_n_splits(self, X=None, y=None, groups=None):
        return 4

    def split(self, X, y, groups=None):
        assert np.asarray(y).ndim == 2
        parts = np.argsort(np.asarray(y).sum(1), kind="stable") % 4
        return [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(4)]


@pytest.mark.parametrize("dtype", [torch.long, torch.float])
@pytest.mark.parametrize("name", ["one's own", "iterative-stratification"])
def test_a_splitter_of_multi_label_targets_gets_them(tmp_path, dtype, name):
    splitter = MultilabelStratifiedKFold()
    if name != "one's own":
        made = pytest.importorskip("iterstrat.ml_stratifiers").MultilabelStratifiedKFold
        splitter = made(n_splits=4, shuffle=True, random_state=0)
    x, y = many_labels(columns=4)
    expected = [test.tolist() for _, test in splitter.split(np.zeros(80), y.long().numpy())]
    data = KFoldDataModule(TensorDataset(x, y.to(dtype)), 16)
    loop = validate(tmp_path, ManyLabels(columns=4), data, num_folds=None, splitter=splitter)
    assert [split.test for split in loop.splits.folds] == expected
    names = [f"{what}_{k}" for what in ("target", "prediction", "prob") for k in range(4)]
    assert loop.oof.columns.tolist() == ["sample_id", "fold", *names]
    assert (loop.oof[names[:4]].to_numpy() == y.numpy()).all()
    assert {result.kind for result in loop.results} == {"multilabel_logits"}


class ContinuousStratifiedKFold(model_selection.StratifiedKFold):
    """Stratifies by quarters of a number."""

    def split(self, X, y, groups=None):
        return super().split(X, np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75])), groups)


class Regression(ManyLabels):
    def __init__(self):
        super().__init__(columns=1)

    def loss(self, batch):
        return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])


def test_a_stratified_splitter_that_bins_a_number_gets_the_number(tmp_path):
    x = torch.randn(60, 4)
    y = x.sum(1)
    splitter = ContinuousStratifiedKFold(3, shuffle=True, random_state=0)
    loop = validate(tmp_path, Regression(), KFoldDataModule(TensorDataset(x, y), 16), num_folds=None, splitter=splitter)
    expected = [test.tolist() for _, test in splitter.split(np.zeros(60), y.numpy())]
    assert [split.test for split in loop.splits.folds] == expected
    np.testing.assert_allclose(loop.oof["target"], y, rtol=1e-6)


class Rows(Dataset):
    """Items of another data set, and nothing beside them."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


X, Y = blobs(63)
WHOLE = TensorDataset(X, Y)
GROUPS = np.repeat([f"patient {k}" for k in range(9)], 7)
PREDEFINED = np.where(np.arange(63) < 9, -1, np.arange(63) % 3)
CONTAINERS = {
    "a TensorDataset": (WHOLE, range(63)),
    "a part of a part": (Subset(Subset(WHOLE, list(range(9, 63))), list(range(0, 54, 2))), range(9, 63, 2)),
    "a part by a tensor": (Subset(WHOLE, torch.arange(5, 50)), range(5, 50)),
    "a part by an array": (Subset(WHOLE, np.arange(5, 50)), range(5, 50)),
    "two data sets": (
        ConcatDataset([TensorDataset(X[:30], Y[:30]), Subset(WHOLE, list(range(30, 63)))]), range(63)
    ),
    "a random split": (random_split(WHOLE, [43, 20], torch.Generator().manual_seed(1))[0], None),
    "items alone": (Rows(WHOLE), range(63)),
    "a loader": (DataLoader(WHOLE, 16, shuffle=True), range(63)),
    "a data module": (Loaders(DataLoader(WHOLE, 16, shuffle=True)), range(63)),
}  # fmt: skip
SPLITTERS = {
    "stratified": (model_selection.StratifiedKFold(3, shuffle=True, random_state=0), {}),
    "kfold": (model_selection.KFold(3, shuffle=True, random_state=0), {}),
    "time_series": (model_selection.TimeSeriesSplit(3), {}),
    "group": (model_selection.GroupKFold(3, shuffle=True, random_state=0), {"groups": GROUPS}),
    "stratified_group": (
        model_selection.StratifiedGroupKFold(3, shuffle=True, random_state=0), {"groups": GROUPS.tolist()}
    ),
    "predefined": (model_selection.PredefinedSplit(PREDEFINED), {"groups": PREDEFINED}),
    "leave_one_group_out": (model_selection.LeaveOneGroupOut(), {"groups": GROUPS}),
}  # fmt: skip


def check_by_hand(loop, reference, ids, groups=None):
    """Splits are scikit-learn's, and the out-of-fold table and the scores are those of the saved weights."""
    x, y = X[list(ids)], Y[list(ids)]
    expected = [(a.tolist(), b.tolist()) for a, b in reference.split(np.zeros(len(y)), y.numpy(), groups)]
    assert [(split.train, split.test) for split in loop.splits.folds] == expected
    module, table = Net(), loop.oof
    for result, (_, held) in zip(loop.results, expected, strict=True):
        with torch.no_grad():
            p = with_weights(module, result.weights)(x[held]).softmax(1)
        rows = table[table["fold"] == result.fold].set_index("sample_id").loc[held]
        np.testing.assert_allclose(rows[["prob_0", "prob_1", "prob_2"]], p, atol=1e-5)
        assert rows["prediction"].tolist() == p.argmax(1).tolist()
        assert rows["target"].tolist() == y[held].tolist()
        right = (p.argmax(1) == y[held]).float().mean().item()
        assert loop.folds["val/accuracy"][result.fold] == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("name", CONTAINERS)
def test_folds_of_every_container_are_those_of_scikit_learn(tmp_path, name):
    data, ids = CONTAINERS[name]
    reference = model_selection.StratifiedKFold(3, shuffle=True, random_state=0)
    loop = validate(tmp_path, Net(), data if name == "a loader" else KFoldDataModule(data), splitter="stratified")
    check_by_hand(loop, reference, data.indices if ids is None else ids)


@pytest.mark.parametrize("name", SPLITTERS)
def test_folds_of_every_splitter_are_those_of_scikit_learn(tmp_path, name):
    reference, options = SPLITTERS[name]
    folds = None if name in ("predefined", "leave_one_group_out") else 3
    loop = validate(tmp_path, Net(), KFoldDataModule(WHOLE, 16, **options), num_folds=folds, splitter=name)
    check_by_hand(loop, reference, range(63), None if name == "predefined" else options.get("groups"))


def test_the_epoch_on_record_is_the_one_whose_weights_are_scored(tmp_path):
    values = {}

    class Watch(Callback):
        def on_validation_end(self, trainer, module):
            if trainer.run_name:
                value = float(trainer.callback_metrics["val/loss"])
                values.setdefault(trainer.run_name, []).append((value, module.net[1].weight.detach().clone()))

    options = {"inner_split": 0.2, "checkpoint": "best", "monitor": "val/loss"}
    fit = {"max_epochs": 8, "callbacks": [Watch()], "num_sanity_val_steps": 0}
    data = KFoldDataModule(TensorDataset(*blobs(90)), 16)
    loop = validate(tmp_path, Net(lr=0.4), data, num_folds=4, fit=fit, **options)
    best = []
    for result in loop.results:
        watched = values[f"fold_{result.fold}"][:8]
        best.append(min(range(8), key=lambda epoch: watched[epoch][0]))
        assert torch.equal(result.weights["net.1.weight"], watched[best[-1]][1])
        assert result.row["checkpoint"].endswith(f"epoch {best[-1]}")
    assert set(best) != {7}, "the situation that is meant"


# loaders and samplers


def numbered(n=60, positive=6):
    """Samples whose first number is their id, of two classes, the second of which is rare."""
    x = torch.randn(n, 4)
    x[:, 0] = torch.arange(n)
    return x, (torch.arange(n) >= n - positive).long()


class Epochs(Callback):
    """The ids of each training epoch of samples that are numbered."""

    def __init__(self):
        self.seen = []

    def __deepcopy__(self, memo):
        return self

    def on_train_epoch_start(self, trainer, module):
        self.seen.append([])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen[-1] += batch[0][:, 0].long().tolist()


NUMBERED = numbered(100, 10)
CHANCES = torch.where(NUMBERED[1] == 1, 9.0, 1.0)
SAMPLERS = {  # draws of an epoch of a fold of 80 of 100 samples, whether all are different, and those that may come
    "weighted, fewer": (lambda: WeightedRandomSampler(CHANCES, 30), 30, False),
    "weighted, fewer, without replacement": (lambda: WeightedRandomSampler(CHANCES, 30, replacement=False), 30, True),
    "weighted, as many": (lambda: WeightedRandomSampler(CHANCES, 100), 80, False),
    "weighted, more": (lambda: WeightedRandomSampler(CHANCES, 250), 250, False),
    "random, fewer": (lambda: RandomSampler(range(100), num_samples=30), 30, True),
    "random, more": (lambda: RandomSampler(range(100), replacement=True, num_samples=200), 200, False),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_fold_draws_as_many_samples_as_the_sampler_says(tmp_path, name):
    make, count, different = SAMPLERS[name]
    epochs = Epochs()
    loader = DataLoader(TensorDataset(*NUMBERED), 20, sampler=make())
    fit = {"callbacks": [epochs], "max_epochs": 3}
    loop = validate(tmp_path, Net(2), KFoldDataModule(loader), num_folds=5, splitter="kfold", predict=False, fit=fit)
    assert len(epochs.seen) == 15
    for index, seen in enumerate(epochs.seen):
        assert len(seen) == count
        assert (len(set(seen)) == count) is different
        assert set(seen) <= set(loop.splits[index // 3].train)
    share = np.mean([sample >= 90 for seen in epochs.seen for sample in seen])
    is_balanced = name.startswith("weighted") and not different
    assert share > 0.35 if is_balanced else share > 0


def test_a_restricted_sampler_says_what_the_folds_are_made_of(tmp_path):
    epochs = Epochs()
    allowed = list(range(40, 100))
    loader = DataLoader(TensorDataset(*NUMBERED), 20, sampler=SubsetRandomSampler(allowed))
    fit = {"callbacks": [epochs]}
    loop = validate(tmp_path, Net(2), KFoldDataModule(loader), num_folds=3, splitter="kfold", fit=fit)
    assert loop.oof["sample_id"].tolist() == allowed
    assert loop.oof["target"].tolist() == NUMBERED[1][40:].tolist()
    for index, seen in enumerate(epochs.seen):
        assert sorted(seen) == sorted(set(allowed) - set(loop.splits[index // 2].test))


def test_validation_samples_of_a_split_by_samplers_never_enter_the_pool(tmp_path):
    x, y = blobs(100)
    order = np.random.RandomState(0).permutation(100).tolist()
    allowed, held = order[:75], order[75:]

    class Data(DataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(x, y), 16, sampler=SubsetRandomSampler(allowed))

        def val_dataloader(self):
            return DataLoader(TensorDataset(x, y), 16, sampler=SubsetRandomSampler(held))

    found = study(tmp_path, Net(), Data(), rounds=4, start=15, query=20)
    assert set(found.queries["sample_id"]) == set(allowed)
    for taken in found.taken:
        assert set(taken["pool"]) | set(taken["labelled"]) == set(allowed)
    assert found.rounds["n_pool"].tolist() == [60, 40, 20, 0]


def initialise(worker):
    """Nothing."""


class OneByOne(Sampler):
    def __len__(self):
        return 60

    def __iter__(self):
        return iter(range(60))


def both_loaders(**settings):
    """The training loaders that both data modules make of a loader."""
    data = Loaders(DataLoader(TensorDataset(*numbered()), 8, **settings))
    return KFoldDataModule(data).train_dataloader(), ActiveLearningDataModule(
        data, initial_num_labels=60
    ).train_dataloader()


def test_settings_of_a_loader_are_kept_in_folds_and_in_rounds():
    for loader in both_loaders(drop_last=True, worker_init_fn=initialise, shuffle=True):
        assert loader.drop_last
        assert loader.worker_init_fn is initialise
        assert [len(batch[0]) for batch in loader] == [8] * 7
    for loader in both_loaders():
        assert torch.cat([batch[0][:, 0] for batch in loader]).tolist() == list(range(60))
    chances = torch.where(numbered()[1] == 1, 9.0, 1.0)
    for loader in both_loaders(sampler=WeightedRandomSampler(chances, 60)):
        drawn = torch.cat([batch[1] for _ in range(20) for batch in loader])
        assert 0.4 < drawn.float().mean() < 0.6


def test_a_sampler_of_ones_own_is_refused_by_name_in_both():
    data = Loaders(DataLoader(TensorDataset(*numbered()), 8, sampler=OneByOne()))
    with pytest.raises(ConfigurationError, match="OneByOne"):
        KFoldDataModule(data).train_dataloader()
    with pytest.raises(ConfigurationError, match="OneByOne"):
        ActiveLearningDataModule(data, initial_num_labels=60).train_dataloader()


def test_batch_norm_trains_in_rounds_and_folds_where_the_last_batch_is_left_out(tmp_path):
    data = Loaders(DataLoader(TensorDataset(*blobs(64)), 16, shuffle=True, drop_last=True))
    found = study(tmp_path, Net(norm=True), data, start=20, query=13, rounds=2)
    assert found.rounds["n_labelled"].tolist() == [20, 33]
    loop = validate(tmp_path, Net(norm=True), KFoldDataModule(Loaders(_first(data, 51))), splitter="kfold", num_folds=3)
    assert loop.folds["steps"].tolist() == [4] * 3


def _first(data, count):
    loader = data.train_dataloader()
    return DataLoader(Subset(loader.dataset, range(count)), 16, shuffle=True, drop_last=True)


def test_drop_last_that_leaves_no_batch_is_found_before_anything_is_trained(tmp_path):
    data = Loaders(DataLoader(TensorDataset(*blobs(30)), 32, shuffle=True, drop_last=True))
    counting = Counting()
    with pytest.raises(DataError, match="drop_last"):
        validate(tmp_path, Net(norm=True), KFoldDataModule(data), fit={"callbacks": [counting]})
    data = ActiveLearningDataModule(data, "entropy", initial_num_labels=20, query_size=5)
    with pytest.raises(DataError, match="drop_last"):
        train(tmp_path / "rounds", ActiveLearningLoop(max_rounds=2), Net(norm=True), data, callbacks=[counting])
    assert counting.batches == []


# batches and inputs


class Scale:
    """Scales bytes where a batch has reached its device, as everybody's preprocessing on the GPU does."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if isinstance(batch, list | tuple):
            return [scaled(batch[0]), *batch[1:]]
        return scaled(batch)


def scaled(images):
    return (images.float() - 127) / 64 if images.dtype == torch.uint8 else images


class Images(Net):
    def __init__(self):
        super().__init__(inputs=16)

    def forward(self, x):
        return self.net(x.float())


class ScalingImages(Scale, Images):
    pass


class ScalingLoaders(Scale, Loaders):
    pass


@pytest.mark.parametrize("owner", ["module", "data module"])
def test_preprocessing_of_batches_comes_before_scoring_and_testing(tmp_path, owner):
    x = torch.randint(0, 256, (150, 1, 4, 4), dtype=torch.uint8)
    y = (scaled(x).flatten(1)[:, :4].sum(1).argsort().argsort() * 3) // 150
    loaders = DataLoader(TensorDataset(x[:110], y[:110]), 16), DataLoader(TensorDataset(x[110:], y[110:]), 20)
    in_module = owner == "module"
    data, module = (Loaders if in_module else ScalingLoaders)(*loaders), ScalingImages() if in_module else Images()
    found = study(tmp_path, module, data, start=40, query=20, fit={"max_epochs": 10})
    net = with_weights(Images(), found.taken[0]["weights"])
    pool = found.taken[0]["pool"]
    with torch.no_grad():
        p, test = net(scaled(x[pool])).softmax(1), net(scaled(x[110:])).argmax(1)
    assert asked_first(found) == highest(entropy(p), pool, 20)
    assert found.rounds["test/accuracy"][0] == pytest.approx((test == y[110:]).float().mean().item(), abs=1e-5)


class WithMask(LoopModule):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, ids, mask=None):
        mask = (torch.ones_like(ids) if mask is None else mask)[..., None]
        return self.head((self.words(ids) * mask).sum(1) / mask.sum(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0], batch[1]), batch[2])

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0], batch[1]).argmax(1) == batch[2]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.03)


def masked_words(n=90):
    ids, lengths = torch.randint(0, 30, (n, 9)), torch.randint(2, 6, (n,))
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    return ids, mask, (2 * ((ids < 12) * mask).sum(1) > lengths).long()


def test_a_mask_beside_the_inputs_goes_to_the_model_and_is_not_taken_for_the_label(tmp_path):
    ids, mask, y = masked_words()
    data, counting = TensorDataset(ids, mask, y), Counting()
    fit = {"max_epochs": 10, "callbacks": [counting]}
    with pytest.raises(ConfigurationError, match="target_key"):
        validate(tmp_path, WithMask(), KFoldDataModule(data, 16), splitter="kfold", fit=fit)
    with pytest.raises(ConfigurationError, match="target_key"):
        train(
            tmp_path / "rounds", ActiveLearningLoop(max_rounds=2), WithMask(),
            ActiveLearningDataModule(data, "entropy", 30, 12, batch_size=16), **fit,
        )  # fmt: skip
    assert counting.batches == []
    loop = validate(tmp_path / "k", WithMask(), KFoldDataModule(data, 16, target_key=2), fit={"max_epochs": 10})
    assert loop.oof["target"].tolist() == y.tolist()
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    found = study(
        tmp_path / "a", WithMask(), data, start=30, query=12, batch_size=16, target_key=2, fit={"max_epochs": 10}
    )
    pool = found.taken[0]["pool"]
    with torch.no_grad():
        p = with_weights(WithMask(), found.taken[0]["weights"])(ids[pool], mask[pool]).softmax(1)
    assert asked_first(found) == highest(entropy(p), pool, 12)


class Weighted(Net):
    """Uses the third entry of a batch in its loss."""

    def training_step(self, batch, batch_idx):
        losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return (losses * batch[2].float().clamp_max(1)).mean()


THIRD = {
    "a weight": torch.rand(60, generator=torch.Generator().manual_seed(0)),
    "an index": torch.arange(60),
    "a patient's number": torch.arange(60) // 12,
}


@pytest.mark.parametrize("name", THIRD)
def test_the_third_tensor_is_not_the_label(tmp_path, name):
    x, y = blobs()
    data = TensorDataset(x, y, THIRD[name])
    test = TensorDataset(x[:20], y[:20], THIRD[name][:20])
    with pytest.warns(UserWarning, match="entr"):
        loop = validate(tmp_path, Weighted(), KFoldDataModule(data, 16, test_dataset=test))
    assert loop.splits.splitter == "StratifiedKFold"
    assert loop.oof["target"].tolist() == y.tolist()
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    assert {result.kind for result in loop.results} == {"logits"}
    assert set(loop.ensemble_scores) == {"ensemble/accuracy", "ensemble/log_loss"}
    with pytest.warns(UserWarning, match="entr"):
        found = study(tmp_path, Weighted(), data, batch_size=16)
    assert found.queries["label"].tolist() == y[found.queries["sample_id"].tolist()].tolist()
    assert found.queries["label"][:12].value_counts().tolist() == [4, 4, 4]


class Pair(LoopModule):
    """In evaluation the answers of both members below each other; sure where ``abs(x)`` is large."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        one = torch.cat([x * self.weight, -x * self.weight], 1)
        return one if self.training else torch.cat([one, 1.1 * one])

    def training_step(self, batch, batch_idx):
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def test_several_rows_a_sample_are_refused_unless_they_are_said_to_be_members(tmp_path):
    for seed in range(4):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        x = torch.linspace(-3, 3, 200)[order][:, None]
        data = TensorDataset(x, (x[:, 0] > 0).long())
        options = {"heuristic": "margin", "start": 4, "query": 3, "batch_size": 8, "seed": seed}
        counting = Counting()
        with pytest.raises(ConfigurationError, match="num_estimators"):
            train(
                tmp_path / f"refused_{seed}", ActiveLearningLoop(max_rounds=2), Pair(),
                ActiveLearningDataModule(data, "margin", 4, 3, batch_size=8, seed=seed), callbacks=[counting],
            )  # fmt: skip
        assert counting.batches == []
        found = study(tmp_path / str(seed), Pair(), data, loop={"num_estimators": 2}, **options)
        distances = x[:, 0].abs()  # two samples each, either of which may be asked first
        unsure = distances[found.taken[0]["pool"]].sort().values[:3]
        torch.testing.assert_close(distances[asked_first(found)], unsure)
    with pytest.raises(ConfigurationError, match="num_estimators"):
        validate(tmp_path, Pair(), KFoldDataModule(data, 16))


class Flipped(TinyClassifier):
    """`predict_step` is far from ``forward``: it turns all classes round."""

    def predict_step(self, batch, batch_idx=0, dataloader_idx=0):
        return self(batch[0]).softmax(1).flip(1)


def flip(module, batch):
    return module(batch[0]).softmax(1).flip(1)


@pytest.mark.parametrize("way", ["predict_step", "predict="])
def test_the_ensemble_that_one_gets_asks_as_the_one_that_was_scored(tmp_path, way):
    torch.manual_seed(0)
    test = random_dataset(40, seed=1)
    module, options = (Flipped(), {}) if way == "predict_step" else (TinyClassifier(), {"predict": flip})
    data = KFoldDataModule(random_dataset(60), 10, test_dataset=test)
    loop = validate(tmp_path, module, data, fit={"max_epochs": 15}, **options)
    x, y = test.tensors
    plain = TinyClassifier()
    with torch.no_grad():
        members = [with_weights(plain, result.weights)(x).softmax(1).flip(1) for result in loop.results]
        mean = torch.stack(members).mean(0)
        ensemble = loop.ensemble("soft")
        torch.testing.assert_close(ensemble(x), mean)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                      default_root_dir=tmp_path)  # fmt: skip
    torch.testing.assert_close(torch.cat(trainer.predict(ensemble, DataLoader(test, 20))), mean)
    right = (mean.argmax(1) == y).float().mean().item()
    assert loop.ensemble_scores["ensemble/accuracy"] == pytest.approx(right)
    assert right < 0.5 < loop.folds["val/accuracy"].mean(), "the situation that is meant"


# random views


class Erased(Dataset):
    """Samples a half of whose numbers are erased at random, as an augmentation does."""

    def __init__(self, x, y):
        self.x, self.targets = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] * torch.randint(0, 2, (4,)), int(self.targets[index])


def clean_accuracies(loop, x, y, make=Net):
    """The accuracy of each fold on clean held-out samples, and of all of them."""
    module, found = make(), []
    for result in loop.results:
        with torch.no_grad():
            output = with_weights(module, result.weights)(x[result.sample_ids])
        found.append((output.argmax(1) == y[result.sample_ids]).float().mean().item())
    return found


def test_held_out_samples_read_with_augmentation_give_a_warning_in_folds_as_in_rounds(tmp_path):
    x, y = blobs()
    data = Loaders(DataLoader(Erased(x, y), 16, shuffle=True))
    with pytest.warns(UserWarning, match=r"random.*eval_dataset"):
        validate(tmp_path, Net(), KFoldDataModule(data))
    with pytest.warns(UserWarning, match=r"random.*eval_dataset"):
        study(tmp_path, Net(), data)


def test_held_out_samples_and_the_pool_are_clean_where_a_clean_view_is_given(tmp_path):
    x, y = blobs()
    clean = TensorDataset(x, y)
    loop = validate(
        tmp_path, Net(), KFoldDataModule(DataLoader(Erased(x, y), 16, shuffle=True), eval_dataset=clean),
        fit={"max_epochs": 6},
    )  # fmt: skip
    expected = clean_accuracies(loop, x, y)
    assert loop.folds["val/accuracy"].tolist() == pytest.approx(expected, abs=1e-5)
    assert accuracy(loop.oof) == pytest.approx(np.mean(expected), abs=1e-5)
    data = Loaders(DataLoader(Erased(x, y), 16, shuffle=True))
    found = study(tmp_path, Net(), data, eval_dataset=clean)
    pool = found.taken[0]["pool"]
    with torch.no_grad():
        p = with_weights(Net(), found.taken[0]["weights"])(x[pool]).softmax(1)
    assert asked_first(found) == highest(entropy(p), pool, 6)


def mixed_up(items):
    """MixUp: a batch of mixtures, with labels to match."""
    x, y = torch.utils.data.default_collate(items)
    share, order = 0.5 + 0.5 * torch.rand(()).item(), torch.randperm(len(x))
    labels = nn.functional.one_hot(y, 3).float()
    return share * x + (1 - share) * x[order], share * labels + (1 - share) * labels[order]


@pytest.mark.parametrize("given", [False, True], ids=["torch's own", "eval_collate_fn"])
def test_mixtures_of_a_collate_function_train_and_are_never_scored(tmp_path, given):
    x, y = blobs()
    data = Loaders(DataLoader(TensorDataset(x, y), 16, shuffle=True, collate_fn=mixed_up))
    options = {"eval_collate_fn": torch.utils.data.default_collate} if given else {}

    def warned():
        return contextlib.nullcontext() if given else pytest.warns(UserWarning, match="mixed_up")

    with warned():
        loop = validate(tmp_path, Net(), KFoldDataModule(data, **options), fit={"max_epochs": 6})
    expected = clean_accuracies(loop, x, y)
    assert loop.folds["val/accuracy"].tolist() == pytest.approx(expected, abs=1e-5)
    assert loop.oof["target"].tolist() == y.tolist()
    assert accuracy(loop.oof) == pytest.approx(np.mean(expected), abs=1e-5)
    with warned():
        found = study(tmp_path, Net(), data, **options)
    pool = found.taken[0]["pool"]
    with torch.no_grad():
        p = with_weights(Net(), found.taken[0]["weights"])(x[pool]).softmax(1)
    assert asked_first(found) == highest(entropy(p), pool, 6)
    assert found.queries["label"].tolist() == y[found.queries["sample_id"].tolist()].tolist()


# labels


class Samples(Dataset):
    """Items with the right label; attributes as given."""

    def __init__(self, x, y, **attributes):
        self.x, self.y = x, y
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        label = self.y[index]
        return self.x[index], label.item() if isinstance(label, torch.Tensor) and label.ndim == 0 else label


class Digits(Dataset):
    """As torchvision's data sets: ``targets`` keeps the digits, and a transform changes the label of an item."""

    def __init__(self, n, target_transform, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(n)[torch.randperm(n, generator=generator)] % 10
        self.data = torch.randn(n, 10, generator=generator) + 4 * nn.functional.one_hot(self.targets, 10)
        self.target_transform = target_transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index], self.target_transform(int(self.targets[index]))


def test_the_label_is_what_a_target_transform_made_of_it(tmp_path):
    odd = lambda digit: digit % 2  # noqa: E731
    data = Subset(Digits(120, odd), range(90))
    truth = [data[index][1] for index in range(90)]
    test = Digits(40, odd, seed=1)
    folds = KFoldDataModule(data, 16, test_dataset=test)
    loop = validate(tmp_path, Net(2, inputs=10), folds, splitter="stratified", fit={"max_epochs": 8})
    assert loop.oof["target"].tolist() == truth
    assert {result.kind for result in loop.results} == {"logits"}
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    reference = model_selection.StratifiedKFold(3, shuffle=True, random_state=0).split(np.zeros(90), truth)
    assert [split.test for split in loop.splits.folds] == [held.tolist() for _, held in reference]
    found = study(tmp_path, Net(2, inputs=10), data, batch_size=16, test_dataset=test)
    assert found.data.num_classes == 2
    assert found.queries["label"].tolist() == [truth[index] for index in found.queries["sample_id"]]


def test_labels_that_a_target_transform_turns_round_are_scored_as_they_are_trained(tmp_path):
    data = Digits(120, lambda digit: 9 - digit)
    truth = [data[index][1] for index in range(120)]
    loop = validate(tmp_path, Net(10, inputs=10), KFoldDataModule(data, 16), fit={"max_epochs": 12})
    assert loop.oof["target"].tolist() == truth
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    assert accuracy(loop.oof) > 0.5


CLASSES = [0] * 16 + [1] * 8
PLACES = np.random.RandomState(3).permutation(24)
MIXED = [CLASSES[place] for place in PLACES]
FEATURES = torch.arange(24.0)[:, None] + torch.zeros(1, 4)
KEPT = {
    "_labels": Samples(FEATURES, MIXED, _labels=MIXED),
    "samples": Samples(FEATURES, MIXED, samples=[(f"{k}.jpg", label) for k, label in enumerate(MIXED)]),
    "a column with a permuted index": Samples(FEATURES, MIXED, targets=pd.Series(MIXED, index=PLACES)),
    "a column with another index": Samples(FEATURES, MIXED, targets=pd.Series(MIXED, index=PLACES + 100)),
    "the second of three tensors": TensorDataset(FEATURES, torch.tensor(MIXED), torch.arange(24) % 3),
}


@pytest.mark.filterwarnings("ignore:.*entr")
@pytest.mark.parametrize("name", KEPT)
def test_labels_kept_in_any_place_are_the_same_to_everybody(tmp_path, name):
    data = KEPT[name]
    loop = validate(tmp_path, Net(2), KFoldDataModule(data, 8), splitter="stratified")
    assert loop.oof["target"].tolist() == MIXED
    assert loop.oof.groupby("fold")["target"].sum().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    found = study(tmp_path, Net(2), data, batch_size=8, start=6, query=3)
    assert found.queries["label"].tolist() == [MIXED[index] for index in found.queries["sample_id"]]
    assert found.queries["label"][:6].sum() == 2
    assert [MIXED[index] for index in guided(tmp_path, data).guide_indices].count(1) == 2


def guided(folder, data, columns=2, count=6):
    loop = ValidationGuidedLoop(guide_split=count)
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                      enable_checkpointing=False, default_root_dir=folder)  # fmt: skip
    trainer.fit_loop.replace(epoch_loop=loop)
    trainer.fit(Net(columns), DataLoader(data, 6, shuffle=True))
    return loop


def test_a_shuffled_table_that_keeps_its_index_is_read_by_position(tmp_path):
    table = pd.DataFrame({"x": np.arange(60.0), "y": [0] * 40 + [1] * 20}).sample(frac=1, random_state=0)
    x = torch.tensor(table["x"].to_numpy(), dtype=torch.float32)[:, None] + torch.zeros(1, 4)
    y = table["y"].tolist()
    data = Samples(x, y, frame=table, targets=table["y"])
    found = study(tmp_path, Net(2), data, rounds=3, batch_size=6)
    assert found.queries["label"].tolist() == [y[index] for index in found.queries["sample_id"]]
    assert [y[index] for index in found.queries["sample_id"][:12]].count(1) == 4
    assert [y[index] for index in guided(tmp_path, data, count=12).guide_indices].count(1) == 4
    assert validate(tmp_path, Net(2), KFoldDataModule(data, 16)).oof["target"].tolist() == y


NAMES = ["cat", "dog", "emu"]
PX, PY = blobs()
ORDER = np.random.RandomState(2).permutation(60)
MISSING = torch.arange(60) % 4 == 0
FORMS = {  # a data set, the label of every sample
    "a list": (Samples(PX, PY, targets=PY.tolist()), PY),
    "an array": (Samples(PX, PY, targets=PY.numpy()), PY),
    "a tensor": (Samples(PX, PY, targets=PY), PY),
    "a column of a shuffled table": (
        Samples(PX[ORDER], PY[ORDER], targets=pd.Series(PY.numpy()).iloc[ORDER]), PY[ORDER]
    ),
    "a column of a filtered table": (Samples(PX, PY, targets=pd.Series(PY.numpy(), index=np.arange(60) * 2 + 1)), PY),
    "raw classes, binary items": (Samples(PX, (PY == 2).long(), targets=PY.tolist()), (PY == 2).long()),
    "names, items encoded": (Samples(PX, PY, targets=[NAMES[int(label)] for label in PY]), PY),
    "floats, items encoded": (Samples(PX, PY, targets=PY.float().tolist()), PY),
    "bools": (Samples(PX, (PY == 2).tolist(), targets=(PY == 2).tolist()), (PY == 2).long()),
    "-1 for some, items complete": (Samples(PX, PY, targets=torch.where(MISSING, -1, PY)), PY),
    "NaN for some, items complete": (
        Samples(PX, PY, targets=[float("nan") if k % 4 == 0 else float(label) for k, label in enumerate(PY)]), PY
    ),
    "None for some, items complete": (
        Samples(PX, PY, targets=[None if k % 4 == 0 else int(label) for k, label in enumerate(PY)]), PY
    ),
    "one-hot": (
        Samples(PX, nn.functional.one_hot(PY, 3).float(), targets=nn.functional.one_hot(PY, 3)), PY
    ),
}  # fmt: skip


class Lenient(Net):
    """Trains on labels of any of these forms."""

    def training_step(self, batch, batch_idx):
        label = batch[1] if batch[1].ndim == 2 else batch[1].long()
        return nn.functional.cross_entropy(self(batch[0]), label)

    def validation_step(self, batch, batch_idx):
        label = batch[1].argmax(1) if batch[1].ndim == 2 else batch[1].long()
        self.log("val/accuracy", (self(batch[0]).argmax(1) == label).float().mean())

    test_step = None


@pytest.mark.parametrize("name", FORMS)
def test_labels_in_every_form_are_those_of_the_items(tmp_path, name):
    data, truth = FORMS[name]
    columns = int(truth.max()) + 1
    found = study(tmp_path, Lenient(columns), data, batch_size=16)
    assert [int(label) for label in found.queries["label"]] == truth[found.queries["sample_id"].tolist()].tolist()
    counts = torch.bincount(truth).tolist()
    initial = [int(label) for label in found.queries["label"][:12]]
    assert [initial.count(label) for label in range(columns)] == [count // 5 for count in counts]
    loop = validate(tmp_path, Lenient(columns), KFoldDataModule(data, 16), splitter="stratified")
    assert [int(label) for label in loop.oof["target"]] == truth.tolist()
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    assert {result.kind for result in loop.results} == {"logits"}


class ByName(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0], self.encoded(batch[1])), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch[0], self.encoded(batch[1])), batch_idx)

    def encoded(self, names):
        return torch.tensor([NAMES.index(name) for name in names])


def test_names_as_labels_need_the_order_of_the_classes_and_stay_in_the_tables(tmp_path):
    words = [NAMES[int(label)] for label in PY]
    data, counting = Samples(PX, words), Counting()
    fit = {"callbacks": [counting]}
    with pytest.raises(DataError, match="classes="):
        validate(tmp_path, ByName(), KFoldDataModule(data, 16), splitter="stratified", fit=fit)
    assert counting.batches == []
    loop = validate(tmp_path / "k", ByName(), KFoldDataModule(data, 16, classes=NAMES), splitter="stratified")
    assert loop.oof["target"].tolist() == words
    assert set(loop.oof["prediction"]) <= set(NAMES)
    assert accuracy(loop.oof) == pytest.approx(loop.folds["val/accuracy"].mean(), abs=1e-5)
    found = study(tmp_path, ByName(), data, batch_size=16, classes=NAMES)
    assert found.queries["label"].tolist() == [words[index] for index in found.queries["sample_id"]]
    assert found.queries["label"][:12].value_counts().tolist() == [4, 4, 4]


class FromOne(Net):
    """Labels count from 1, its columns from 0."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0], batch[1] - 1), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch[0], batch[1] - 1), batch_idx)


def test_labels_that_count_from_one_are_no_silent_mistake(tmp_path):
    data = TensorDataset(PX, PY + 1)
    counting = Counting()
    with pytest.raises(ConfigurationError, match="labels run from 1 to 3"):
        validate(tmp_path, FromOne(), KFoldDataModule(data, 16), fit={"callbacks": [counting]})
    with pytest.raises(ConfigurationError, match="labels run from 1 to 3"):
        train(
            tmp_path / "rounds", ActiveLearningLoop(max_rounds=2), FromOne(),
            ActiveLearningDataModule(data, "entropy", 12, 6, batch_size=16), callbacks=[counting],
        )  # fmt: skip
    assert counting.batches == []


# active learning by one's own heuristic


def named_and_own():
    from torchloops.advanced.active_learning import Heuristic

    class First(Heuristic):
        def compute_score(self, probabilities):
            return probabilities.mean(-1)[:, 0]

    return {"entropy": "entropy", "margin": "margin", "certainty": "certainty", "own": First()}


def from_baal():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heuristics = pytest.importorskip("baal.active.heuristics")

    class First(heuristics.AbstractHeuristic):
        def __init__(self, reverse):
            super().__init__(reverse=reverse)

        def compute_score(self, predictions, target_predictions=None):
            return predictions.mean(-1)[:, 0]

    return {
        "entropy": heuristics.Entropy(), "margin": heuristics.Margin(), "certainty": heuristics.Certainty(),
        "own": First(True), "own, low first": First(False),
    }  # fmt: skip


SCORES = {
    "entropy": lambda p: entropy(p),
    "margin": lambda p: -(p.sort(1).values[:, -1] - p.sort(1).values[:, -2]),
    "certainty": lambda p: -p.amax(1),
    "own": lambda p: p[:, 0],
    "own, low first": lambda p: -p[:, 0],
}


@pytest.mark.parametrize("make", [named_and_own, from_baal])
def test_every_round_asks_and_tests_as_the_weights_say(tmp_path, make):
    x, y = blobs(90)
    for name, heuristic in make().items():
        found = study(
            tmp_path / name, Net(), TensorDataset(x[:60], y[:60]), rounds=3, heuristic=heuristic, batch_size=16,
            test_dataset=TensorDataset(x[60:], y[60:]),
        )  # fmt: skip
        for index, taken in enumerate(found.taken):
            with torch.no_grad():
                net = with_weights(Net(), taken["weights"])
                p, test = net(x[taken["pool"]]).softmax(1), net(x[60:]).argmax(1)
            assert found.rounds["test/accuracy"][index] == pytest.approx((test == y[60:]).float().mean().item())
            asked = found.queries[found.queries["round"] == index]["sample_id"].tolist()
            assert asked == ([] if index == 2 else highest(SCORES[name](p), taken["pool"], 6))
            assert not set(asked) & set(taken["labelled"])


# hooks in folds and rounds


SEEN_IN: list = []


def note(who, hook, trainer):
    if trainer.run_name:
        seen = trainer.train_dataloader.dataset
        ids = {int(seen[index][0][0]) for index in range(len(seen))}
        SEEN_IN.append((trainer.run_name, f"{who}.{hook}", ids, trainer.estimated_stepping_batches))


class Noting:
    """The hooks in which people look at the training data, each noting what it sees."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)

    def setup(self, stage=None):
        if stage == "fit":
            note("module", "setup", self.trainer)

    def on_fit_start(self):
        note("module", "on_fit_start", self.trainer)

    def on_train_start(self):
        note("module", "on_train_start", self.trainer)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        note("module", "configure_optimizers", self.trainer)
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Looking(Callback):
    def setup(self, trainer, module, stage):
        if stage == "fit":
            note("callback", "setup", trainer)

    def on_fit_start(self, trainer, module):
        note("callback", "on_fit_start", trainer)

    def on_train_start(self, trainer, module):
        note("callback", "on_train_start", trainer)


LOOKED = {
    "module.setup", "module.on_fit_start", "module.on_train_start", "module.configure_optimizers", "callback.setup",
    "callback.on_fit_start", "callback.on_train_start",
}  # fmt: skip


def noting_module(kind):
    if kind == "torchloops":
        return type("Own", (Noting, LoopModule), {})()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl = pytest.importorskip("pytorch_lightning")
    return type("Light", (Noting, pl.LightningModule), {})()


@pytest.mark.parametrize("kind", ["torchloops", "Lightning"])
def test_every_hook_of_a_fold_or_round_sees_its_training_part_and_nothing_else(tmp_path, kind):
    SEEN_IN.clear()
    x, _ = numbered(45)
    y = torch.arange(45) % 3
    data = Loaders(DataLoader(TensorDataset(x, y), 10, shuffle=True))
    loop = validate(tmp_path, noting_module(kind), data, fit={"callbacks": [Looking()], "max_epochs": 1})
    for split in loop.splits.folds:
        own = [entry for entry in SEEN_IN if entry[0] == f"fold_{split.fold}"]
        assert {hook for _, hook, _, _ in own} == LOOKED
        assert all(ids == set(split.train) and steps == 3 for _, _, ids, steps in own)
    SEEN_IN.clear()
    fit = {"callbacks": [Looking()], "max_epochs": 1}
    kept = ActiveLearningDataModule(data, "entropy", initial_num_labels=12, query_size=9)
    rounds = ActiveLearningLoop(max_rounds=2)
    train(tmp_path / "rounds", rounds, noting_module(kind), kept, **fit)
    for index, count in enumerate((12, 21)):
        own = [entry for entry in SEEN_IN if entry[0] == f"round_{index}"]
        assert {hook for _, hook, _, _ in own} == LOOKED
        assert all(ids == set(kept.labelled_ids[:count]) for _, _, ids, _ in own)
        assert {steps for _, _, _, steps in own} == {(count + 9) // 10}


# data modules inside data modules


MEANS: list = []


class SeesInputs(Net):
    def forward(self, x):
        MEANS.append(float(x.mean()))
        return super().forward(x)


class Normalising(Loaders):
    asked = 0

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if isinstance(batch, list | tuple):
            return [(batch[0] - 1000) / 10, *batch[1:]]
        return (batch - 1000) / 10

    def state_dict(self):
        type(self).asked += 1
        return {"mine": 1}


def test_normalising_in_the_data_module_reaches_every_batch_in_folds_and_rounds(tmp_path):
    x, y = blobs()
    data = Normalising(DataLoader(TensorDataset(1000 + 10 * x, y), 16, shuffle=True))
    MEANS.clear()
    validate(tmp_path, SeesInputs(), KFoldDataModule(data))
    study(tmp_path, SeesInputs(), data)
    assert len(MEANS) > 20
    assert max(map(abs, MEANS)) < 5


def test_the_state_of_the_data_module_inside_is_asked_for():
    x, y = blobs()
    data = Normalising(DataLoader(TensorDataset(x, y), 16, shuffle=True))
    for make in (KFoldDataModule, lambda inner: ActiveLearningDataModule(inner, initial_num_labels=20)):
        Normalising.asked = 0
        make(data).state_dict()
        assert Normalising.asked == 1


TESTED: set = set()


class NotesTests(Net):
    def test_step(self, batch, batch_idx):
        TESTED.update(batch[0][:, 0].long().tolist())
        super().test_step(batch, batch_idx)


class Splitting(DataModule):
    """Splits in ``setup``, as Lightning's own examples do."""

    def setup(self, stage):
        self.train, self.test = random_split(TensorDataset(*numbered(80, 40)), [60, 20])

    def train_dataloader(self):
        return DataLoader(self.train, 16, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test, 20)


def test_a_setup_that_splits_does_not_put_training_samples_into_the_test_set(tmp_path):
    epochs = Epochs()
    data = ActiveLearningDataModule(Splitting(), "entropy", initial_num_labels=40, query_size=10)
    TESTED.clear()
    train(tmp_path / "again", ActiveLearningLoop(max_rounds=2), NotesTests(2), data, callbacks=[epochs])
    assert len(TESTED) == 20
    assert len(epochs.seen[0]) == 40
    assert not {sample for seen in epochs.seen for sample in seen} & TESTED
    TESTED.clear()
    epochs = Epochs()
    validate(tmp_path, NotesTests(2), KFoldDataModule(Splitting()), test_each_fold=True, fit={"callbacks": [epochs]})
    assert len(TESTED) == 20
    assert not {sample for seen in epochs.seen for sample in seen} & TESTED
