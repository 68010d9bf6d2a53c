"""Checkpoints and files of splits with one thing in them changed at random: they work, or end in a message of ours."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.append(str(FAULTS))

from scenarios import find_scenario  # noqa: E402

from torchloops import seed_everything  # noqa: E402
from torchloops.advanced.kfold.splits import Splits  # noqa: E402
from torchloops.callbacks import Callback  # noqa: E402
from torchloops.errors import DataError, TorchloopsError  # noqa: E402
from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint  # noqa: E402

MUTATIONS = 40
VALUES = [
    None, "abc", "", -1, 0, 3, 10**9, 10**30, 1.5, float("nan"), float("inf"), True, [], {}, [1], {"a": 1}, b"x", (),
    [[[[[]]]]], torch.zeros(3), torch.tensor(2.0), torch.zeros(1).expand(10**12),
]  # fmt: skip
PLAIN = [value for value in VALUES if not isinstance(value, torch.Tensor | bytes)]
DELETED = object()


class CutOffError(BaseException):
    """Ends a fit as a kill does."""


class CutOff(Callback):
    """Ends the fit after so many training batches, counted over all runs."""

    def __init__(self, after):
        self.after = after

    def fresh(self):
        return self

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.after -= 1
        if self.after < 0:
            raise CutOffError


def places(value, path=()):
    """The paths of all that is in nested data; of a long list, of its first entries."""
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list | tuple) else ()
    for key in keys:
        yield from places(value[key], (*path, key))


def changed(value, path, new):
    """A copy of nested data with another value at a path, or without the one that is there."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) > 1:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    elif new is DELETED:
        del copy[path[0]]
    else:
        copy[path[0]] = new
    return copy


def mutations(value, number, values):
    """``(path, new value, mutated data)``; each name at the top has its share."""
    rng = random.Random(0)
    found = list(places(value))
    tops = sorted({path[0] for path in found})
    for _ in range(number):
        top = rng.choice(tops)
        path = rng.choice([path for path in found if path[0] == top])
        new = DELETED if rng.random() < 0.2 else rng.choice(values)
        yield path, new, changed(value, path, new)


def build(name, folder, batches, saving=None):
    study = find_scenario(name)(folder, saving)
    study.trainer._configured_callbacks.append(CutOff(batches))
    return study


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("logged values", 8),
        ("stopping early, keeping the best", 12),
        ("guided every 3 steps", 8),
        ("folds, best by an inner split", 11),
        ("rounds", 9),
    ],
)
def test_a_mutated_checkpoint_works_or_ends_in_a_message(tmp_path, monkeypatch, name, batches):
    monkeypatch.chdir(tmp_path)
    seed_everything(1)
    with pytest.raises(CutOffError):
        build(name, Path("run"), batches, "0 seconds").fit(None)
    whole = read_checkpoint("run/checkpoints/last.ckpt")
    write_checkpoint(whole, "whole.ckpt")
    shutil.copytree("run", "again")
    with pytest.raises(CutOffError):
        build(name, Path("again"), 2).fit("whole.ckpt")
    refused = 0
    for number, (path, new, mutated) in enumerate(mutations(whole, MUTATIONS, VALUES)):
        write_checkpoint(mutated, "mutated.ckpt")
        shutil.copytree("run", f"run {number}")
        try:
            build(name, Path(f"run {number}"), 12).fit("mutated.ckpt")
        except (TorchloopsError, CutOffError) as error:
            refused += isinstance(error, TorchloopsError)
        except Exception as error:
            raise AssertionError(f"{path} changed to {type(new).__name__}") from error
    assert refused > MUTATIONS // 2


SPLITS = {
    "n_samples": 9, "splitter": "KFold", "seed": 0, "num_repeats": 1,
    "folds": [{"test": [0, 1, 2], "train": "all others"}, {"test": [3, 4], "train": [0, 1, 8]}],
}  # fmt: skip


def test_mutated_splits_work_or_end_in_a_message():
    refused = 0
    for _, _, mutated in mutations(SPLITS, 400, PLAIN):
        try:
            Splits.from_dict(mutated).check()
        except DataError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"n_samples": {"1" * 5_000}}}', '{"n_samples": 1e999}', "[]", ""])
def test_a_file_of_splits_that_no_parser_likes_is_named(tmp_path, text):
    from torchloops.advanced.kfold.export import KFoldFolder

    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(DataError, match=r"splits\.json"):
        KFoldFolder(tmp_path).read_splits()
    assert json.dumps(Splits.from_dict(SPLITS).to_dict())
