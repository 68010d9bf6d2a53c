"""A KeyboardInterrupt raised by code, in every hook there is: the fit that goes on ends as if there had been none."""

import os
import random
import warnings
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    DataModule,
    FitLoop,
    KFoldDataModule,
    KFoldLoop,
    Loop,
    LoopModule,
    seed_everything,
)
from torchloops.callbacks import Callback, EarlyStopping
from torchloops.callbacks.callback import HOOKS
from torchloops.errors import ResumeWarning
from torchloops.loops.tree import loops_in
from torchloops.testing import TinyClassifier, random_dataset

LOOP_HOOKS = ("done", "reset", "on_run_start", "on_advance_start", "advance", "on_advance_end", "on_run_end")
STEPS = (
    "forward", "training_step", "validation_step", "test_step", "predict_step", "configure_optimizers", "backward",
    "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step",
)  # fmt: skip
ALL_COUNTS = "FAULTS_KILLS" in os.environ  # `make faults`: the first call, one in the middle and the last


class Points:
    """Counts calls by name; raises KeyboardInterrupt at one of them."""

    def __init__(self):
        self.counts, self.strike = Counter(), None

    def come(self, name):
        self.counts[name] += 1
        if self.strike == (name, self.counts[name]):
            raise KeyboardInterrupt(name)


POINTS = Points()


def hooked(cls, names, label):
    """A class whose methods of these names are points; the end of a training batch is one after the hook's work."""

    def hook(name, original):
        def call(self, *args, **kwargs):
            last = name == "on_train_batch_end"
            if not last:
                POINTS.come(f"{label}.{name}")
            value = original(self, *args, **kwargs)
            if last:
                POINTS.come(f"{label}.{name}")
            return value

        return call

    members = {name: hook(name, getattr(cls, name)) for name in names if callable(getattr(cls, name, None))}
    for name in names:
        if isinstance(getattr(cls, name, None), property):
            members[name] = property(hook(name, getattr(cls, name).fget))
    return type(cls)(cls.__name__, (cls,), {**members, "__module__": cls.__module__, "__qualname__": cls.__qualname__})


class Drawing(TinyClassifier):
    """Draws numbers wherever it is called."""

    def __init__(self):
        super().__init__(in_features=4, hidden=4, num_classes=2)
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.3), self.head)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + 0.1 * random.random())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}]


class Counting(Callback):
    """Counts its hooks."""

    def __init__(self):
        self.counts = {}

    def note(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self):
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state_dict):
        self.counts = dict(state_dict["counts"])

    def on_train_end(self, trainer, module):
        RESULTS.append((trainer.run_name, sorted(self.counts.items())))


def _noting(name):
    def hook(self, *args, **kwargs):
        self.note(name)

    return hook


COUNTED = [name for name in HOOKS if name.partition("_")[0] == "on" and "train" in name and name != "on_train_end"]
COUNTED.remove("on_train_start")  # it comes again
for _name in (*COUNTED, "on_validation_end", "on_validation_batch_end"):
    setattr(Counting, _name, _noting(_name))
RESULTS = []


class Augmented(Dataset):
    def __init__(self, n_samples, noise=0.1):
        self.inputs, self.targets = random_dataset(n_samples, in_features=4, num_classes=2).tensors
        self.noise = noise

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        POINTS.come("data.__getitem__")
        return self.inputs[index] + self.noise * torch.randn(4), self.targets[index]


def collate(samples):
    POINTS.come("data.collate_fn")
    return default_collate(samples)


class Data(DataModule):
    def train_dataloader(self):
        return DataLoader(Augmented(20), batch_size=8, shuffle=True, collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(Augmented(12), batch_size=6)


class Rounds(Loop):
    """Two fits and what comes after them, going on with the weights."""

    def __init__(self):
        super().__init__()
        self.fit_loop = FitLoop()
        self.scores = []

    @property
    def done(self):
        return self.progress.current == 2

    def reset(self):
        if not self.restarting:
            self.scores = []

    def advance(self):
        trainer, index = self.trainer, self.progress.current
        with trainer.isolated(f"round_{index}", seed=10 + index) as run:
            run.once("fit", self.fit_loop.run)
            run.once("test", lambda: trainer.evaluate("validate"))
        self.scores.append(torch.rand(1).item())

    def on_save_checkpoint(self):
        return {"scores": list(self.scores)}

    def on_load_checkpoint(self, state_dict):
        self.scores = list(state_dict["scores"])


def one_fit(trainer):
    return Data(), lambda: None


def rounds(trainer):
    trainer.fit_loop = loop = Rounds()
    return Data(), lambda: loop.scores


def folds(trainer):
    loop = KFoldLoop(num_folds=2, splitter="kfold", outputs="logits")
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    data = KFoldDataModule(Augmented(30), batch_size=6, eval_dataset=Augmented(30, noise=0.0))
    return data, lambda: [loop.folds.drop(columns="seconds").to_csv(), loop.oof.to_csv()]


def active_learning(trainer):
    loop = ActiveLearningLoop(max_rounds=2, inference_iteration=2, should_reset_weights=False, outputs="logits")
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    data = ActiveLearningDataModule(
        Augmented(30),
        heuristic="bald",
        initial_num_labels=12,
        query_size=6,
        batch_size=6,
        eval_dataset=Augmented(30, noise=0.0),
        test_dataset=Augmented(8),
    )
    times = ["seconds_train", "seconds_query", "seconds_label"]
    return data, lambda: [loop.rounds.drop(columns=times).to_csv(), loop.queries.drop(columns="seconds").to_csv()]


STUDIES = {"fit": one_fit, "rounds": rounds, "folds": folds, "active learning": active_learning}


@pytest.fixture
def study(make_trainer, tmp_path, monkeypatch):
    """``study(name, folder, seed, strike, ckpt_path)``: what a study ended with."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here

    def run(name, folder, seed=1, strike=None, ckpt_path=None, saving="0 seconds"):
        seed_everything(seed)
        callback = hooked(Counting, HOOKS, "callback")()
        trainer = make_trainer(
            enable_checkpointing=True,
            checkpoint_every=saving,
            max_epochs=2,
            callbacks=[callback, EarlyStopping("train/loss", patience=9)],
            default_root_dir=tmp_path / folder,
            logger=True,
            log_every_n_steps=1,
        )
        data, tables = STUDIES[name](trainer)
        for loop in [part for slot in trainer._loops.values() for part in loops_in(slot)]:
            cls = hooked(type(loop), LOOP_HOOKS, f"loop {type(loop).__name__}")
            object.__setattr__(loop, "__class__", cls)
        own = [hook for hook in HOOKS if callable(getattr(LoopModule, hook, None))]
        module = hooked(Drawing, (*own, *STEPS), "module")()
        POINTS.counts.clear()
        RESULTS.clear()
        POINTS.strike = strike
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        files = sorted((tmp_path / folder).rglob("metrics.csv"))
        return {
            "weights": {key: value.tolist() for key, value in module.state_dict().items()},
            "values": {key: float(value) for key, value in trainer.callback_metrics.items()},
            "step": trainer.global_step,
            "counts": RESULTS[-1:],
            "tables": tables(),
            "files": [file.read_text() for file in files],
        }

    return run


def places(counts, every):
    """Points, which call, and how often to save: every second point or so, by turns in all ways, or all of them."""
    savings = ("1 epoch", "2 steps", "0 seconds")
    for index, (point, count) in enumerate(counts.items()):
        numbers = (1, count // 2 or 1, count)
        if ALL_COUNTS:
            yield from ((point, number, saving) for number in sorted(set(numbers)) for saving in savings)
        elif index % every == 0:
            turn = index // every
            yield point, numbers[turn % 3], savings[turn // 3 % 3]


@pytest.mark.parametrize(("name", "every"), [("fit", 1), ("rounds", 2), ("folds", 4), ("active learning", 4)])
def test_an_interrupt_of_code_in_any_hook_is_gone_on_from_exactly(study, tmp_path, name, every):
    whole = study(name, "whole")
    wrong = []
    for index, (point, number, saving) in enumerate(places(dict(POINTS.counts), every)):
        folder = f"cut_{index}"
        try:
            study(name, folder, strike=(point, number), saving=saving)
        except KeyboardInterrupt:
            pass
        else:
            continue  # with that way of saving it comes less often
        has_file = (tmp_path / folder / "checkpoints" / "last.ckpt").is_file()
        with warnings.catch_warnings():
            warnings.simplefilter("error" if has_file else "ignore", ResumeWarning)  # of a batch that comes again
            resumed = study(name, folder, seed=2 if has_file else 1, ckpt_path="last", saving=saving)
        different = [key for key in whole if resumed[key] != whole[key]]
        if resumed["counts"] == [] and "counts" in different:
            different.remove("counts")  # no fit was left to do
        if different:
            wrong.append(f"{point}, call {number}, saved every {saving}: {different}")
    assert not wrong, f"{len(wrong)} of {index + 1} differ:\n" + "\n".join(wrong)
