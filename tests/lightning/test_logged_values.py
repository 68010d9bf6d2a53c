"""What ``self.log`` keeps, beside Lightning's values where those are right, and beside sums by hand where not."""

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pandas
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from torchloops import LoopModule, Trainer
from torchloops.errors import ConfigurationError

pl = pytest.importorskip("pytorch_lightning")

BASES = [LoopModule, pl.LightningModule]


def numbers(n_batches=4):
    return DataLoader(TensorDataset(torch.arange(n_batches, dtype=torch.float32)), batch_size=1)


def make(base, **methods):
    class Tiny(base):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            return (self.weight - 1).square().sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    for name, method in methods.items():
        setattr(Tiny, name, method)
    return Tiny()


def quiet(tmp_path, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False, **options}
    return Trainer(accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path, **options)


def values(trainer):
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def loss_of(module):
    return (module.weight - 1).square().sum()


@pytest.mark.parametrize("base", BASES)
def test_what_was_logged_is_the_value_of_that_moment(base, tmp_path, fit_theirs):
    def step(self, batch, batch_idx):
        loss = loss_of(self)
        self.log("loss", loss, on_step=True, on_epoch=True)
        plain = torch.tensor(float(batch_idx))
        self.log("index", plain, on_epoch=True)
        loss += 100.0
        plain += 100.0
        return loss

    trainer = quiet(tmp_path)
    trainer.fit(make(base, training_step=step), numbers())
    weight, losses = 0.0, []
    for _ in range(4):
        losses.append((weight - 1) ** 2)
        weight -= 0.1 * 2 * (weight - 1)
    found = values(trainer)
    assert found["loss_epoch"] == pytest.approx(np.mean(losses))
    assert found["loss_step"] == pytest.approx(losses[-1])
    assert found["index"] == 1.5
    assert found["index_step"] == 3
    theirs = fit_theirs(make(pl.LightningModule, training_step=step), numbers(), max_epochs=1)
    assert {name: float(value) for name, value in theirs.callback_metrics.items()} == pytest.approx(found)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("how", ["made again", "another part", "a number, then a metric"])
def test_a_metric_may_be_another_object_in_each_epoch(base, how, tmp_path):
    class Counting(base):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.metric = torchmetrics.MeanMetric()
            self.parts = nn.ModuleList([torchmetrics.MeanMetric() for _ in range(3)])

        def training_step(self, batch, batch_idx):
            return loss_of(self)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_validation_epoch_start(self):
            if how == "made again":
                self.metric = torchmetrics.MeanMetric()
            elif how == "another part":
                self.metric = self.parts[self.current_epoch]

        def validation_step(self, batch, batch_idx):
            value = float(self.current_epoch * 10 + batch_idx)
            if how == "a number, then a metric" and self.current_epoch == 0:
                self.log("val/x", value)
            else:
                self.metric.update(value)
                self.log("val/x", self.metric)

    trainer = quiet(tmp_path, max_epochs=3)
    trainer.fit(Counting(), numbers(1), numbers(3))
    assert pandas.read_csv(tmp_path / "metrics.csv")["val/x"].tolist() == [1, 11, 21]


@pytest.mark.parametrize("base", BASES)
def test_two_metric_objects_in_one_epoch_are_refused(base, tmp_path):
    def step(self, batch, batch_idx):
        metric = torchmetrics.MeanMetric()
        metric.update(float(batch_idx))
        self.log("val/x", metric)

    with pytest.raises(ConfigurationError, match=r"'val/x'.*got two MeanMetric objects in one epoch"):
        quiet(tmp_path).fit(make(base, validation_step=step), numbers(1), numbers(3))


def test_a_metric_that_is_logged_per_step_alone_starts_over_in_each_epoch(tmp_path):
    metric, totals = torchmetrics.SumMetric(), []

    def step(self, batch, batch_idx):
        metric(1.0)
        self.log("n", metric, on_step=True, on_epoch=False)
        totals.append(float(metric.compute()))
        return loss_of(self)

    quiet(tmp_path, max_epochs=2).fit(make(LoopModule, training_step=step), numbers(2))
    assert totals == [1, 2, 1, 2]


def test_one_metric_for_two_loaders_is_refused_or_measures_both(tmp_path):
    def logging(**options):
        metric = torchmetrics.MeanMetric()

        def step(self, batch, batch_idx, dataloader_idx=0):
            metric.update(batch[0] + 10 * dataloader_idx)
            self.log("x", metric, **options)

        return make(LoopModule, validation_step=step)

    with pytest.raises(ConfigurationError, match="in which the data of two loaders mix"):
        quiet(tmp_path).validate(logging(), [numbers(2), numbers(2)])
    both = quiet(tmp_path).validate(logging(add_dataloader_idx=False), [numbers(2), numbers(2)])
    assert both == [{"x": 5.5}, {"x": 5.5}]  # the mean of 0, 1, 10, 11


def test_one_name_for_two_loaders_is_refused(tmp_path):
    def step(self, batch, batch_idx, dataloader_idx=0):
        self.log("x", 1.0, add_dataloader_idx=False)

    with pytest.raises(ConfigurationError, match="of which only the last value would be kept"):
        quiet(tmp_path).validate(make(LoopModule, validation_step=step), [numbers(1), numbers(1)])


def test_each_loader_has_its_own_values_in_what_is_returned(tmp_path, make_ours):
    def step(self, batch, batch_idx, dataloader_idx=0):
        self.log("both", 1.0)
        self.log(f"own_{dataloader_idx}", 2.0 + dataloader_idx, add_dataloader_idx=False)

    def end(self):
        self.log("at the end", 9.0)

    module = make(pl.LightningModule, test_step=step, on_test_epoch_end=end)
    found = make_ours().test(module, [numbers(1), numbers(2)])
    shared = {"at the end": 9.0}
    assert found == [
        {"both/dataloader_idx_0": 1.0, "own_0": 2.0, **shared},
        {"both/dataloader_idx_1": 1.0, "own_1": 3.0, **shared},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False)
        assert theirs.test(module, [numbers(1), numbers(2)], verbose=False) == found


def log_at(name, value, **options):
    def hook(self, *args):
        self.log(name, value, **options)
        return loss_of(self) if len(args) == 2 else None

    return hook


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        (("training_step", "on_train_epoch_end"), "called in training_step and now in on_train_epoch_end"),
        (("on_train_epoch_start", "training_step"), "called in on_train_epoch_start and now in training_step"),
        (("validation_step", "on_validation_epoch_end"), "in validation_step and now in on_validation_epoch_end"),
        (("on_validation_epoch_start", "validation_step"), "in on_validation_epoch_start and now in validation_step"),
    ],
)
def test_one_name_from_two_places_is_refused(base, hooks, said, tmp_path):
    module = make(base, **{"validation_step": lambda *_: None, **{name: log_at("x", 1.0) for name in hooks}})
    with pytest.raises(ConfigurationError, match=said):
        quiet(tmp_path).fit(module, numbers(2), numbers(2))


@pytest.mark.parametrize("base", BASES)
def test_one_name_from_a_step_and_the_hook_after_it_is_refused(base, tmp_path):
    def after(self, outputs, batch, batch_idx):
        self.log("x", 2.0)

    module = make(base, training_step=log_at("x", 1.0), on_train_batch_end=after)
    with pytest.raises(ConfigurationError, match="called in training_step and now in on_train_batch_end"):
        quiet(tmp_path).fit(module, numbers(2))


@pytest.mark.parametrize("base", BASES)
def test_other_options_than_before_are_refused(base, tmp_path):
    def step(self, batch, batch_idx):
        self.log("x", 1.0, prog_bar=bool(batch_idx))
        return loss_of(self)

    with pytest.raises(ConfigurationError, match="prog_bar=True after prog_bar=False"):
        quiet(tmp_path).fit(make(base, training_step=step), numbers(2))


@pytest.mark.parametrize("base", BASES)
def test_one_name_in_training_and_validation_is_warned_of_and_the_latest_is_known(base, tmp_path, fit_theirs):
    methods = {"training_step": log_at("x", 1.0), "validation_step": lambda self, b, i: self.log("x", 50.0)}
    trainer = quiet(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match="'x'.* is called in training and in validation"):
        trainer.fit(make(base, **methods), numbers(2), numbers(2))
    assert values(trainer)["x"] == 50
    theirs = fit_theirs(make(pl.LightningModule, **methods), numbers(2), numbers(2), max_epochs=2)
    assert float(theirs.callback_metrics["x"]) == 50


@dataclass
class Pair:
    inputs: torch.Tensor
    targets: torch.Tensor


Named = namedtuple("Named", "inputs targets")


class Graphs:
    """Says its size by an attribute."""

    def __init__(self, number):
        self.batch_size = number


def inputs(number):
    return torch.zeros(number, 3)


SURE = {
    "tensor": inputs,
    "list": lambda n: [inputs(n), torch.zeros(n)],
    "names first": lambda n: {"id": ["name"] * n, "x": inputs(n)},
    "number first": lambda n: {"index": 7, "x": inputs(n)},
    "nothing first": lambda n: {"mask": None, "x": inputs(n)},
    "tuple of names first": lambda n: (("name",) * n, inputs(n)),
    "scalar tensor first": lambda n: (torch.tensor(3), inputs(n)),
    "empty list first": lambda n: ([], inputs(n)),
    "nested": lambda n: {"inputs": {"ids": inputs(n)}, "y": torch.zeros(n)},
    "dataclass": lambda n: Pair(inputs(n), torch.zeros(n)),
    "namedtuple": lambda n: Named(inputs(n), torch.zeros(n)),
    "UserDict": lambda n: UserDict(x=inputs(n)),
    "array": lambda n: inputs(n).numpy(),
    "graphs": Graphs,
    "packed": lambda n: pack_sequence([torch.zeros(2)] * n),
}
UNSURE = {
    "images of different sizes": lambda n: (
        [torch.zeros(3, 5 + i, 5) for i in range(n)],
        [{"boxes": torch.zeros(2)}] * n,
    ),
    "a dict a sample": lambda n: [{"image": torch.zeros(3, 4, 4)} for _ in range(n)],
    "lists of numbers": lambda n: [[1, 2, 3] for _ in range(n)],
    "object": lambda n: object(),
    "time first": lambda n: [torch.zeros(7, n), torch.zeros(n)],
}
SIZES, VALUES = (4, 4, 1), (1.0, 1.0, 10.0)  # weighed by sizes the mean is 18 / 9 = 2


class Batches:
    def __init__(self, make_batch):
        self.make_batch = make_batch

    def __len__(self):
        return len(SIZES)

    def __iter__(self):
        return (self.make_batch(size) for size in SIZES)


@pytest.mark.parametrize("name", SURE)
def test_a_mean_over_the_epoch_is_weighed_by_the_size_of_the_batches(name, tmp_path):
    module = make(LoopModule, validation_step=lambda self, batch, i: self.log("x", VALUES[i]))
    assert quiet(tmp_path).validate(module, Batches(SURE[name])) == [{"x": pytest.approx(2.0)}]


@pytest.mark.parametrize("name", UNSURE)
def test_a_size_that_cannot_be_known_is_asked_for(name, tmp_path):
    module = make(LoopModule, validation_step=lambda self, batch, i: self.log("x", VALUES[i]))
    with pytest.warns(UserWarning, match=r"Say it: self.log\('x', ..., batch_size=...\)"):
        quiet(tmp_path).validate(module, Batches(UNSURE[name]))

    def step(self, batch, batch_idx):
        self.log("x", VALUES[batch_idx], batch_size=SIZES[batch_idx])

    told = make(LoopModule, validation_step=step)
    assert quiet(tmp_path).validate(told, Batches(UNSURE[name])) == [{"x": pytest.approx(2.0)}]
