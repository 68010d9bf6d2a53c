"""Splitters by name and object, labels and groups, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import model_selection
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from torchloops.advanced.kfold import SPLITTERS, Split, Splits
from torchloops.advanced.kfold.inner_split import draw_inner_split
from torchloops.advanced.kfold.labels import known_values, read_targets
from torchloops.advanced.kfold.splitters import make_splits, resolve_splitter
from torchloops.errors import ConfigurationError, DataError

LABELS = np.arange(60) % 3
GROUPS = np.arange(60) // 4


def split(splitter, num_folds=None, num_repeats=None, labels=LABELS, groups=None, n_samples=60, seed=0):
    found = resolve_splitter(splitter, num_folds, num_repeats, seed, lambda: labels, groups)
    return make_splits(found, n_samples, labels, groups, num_folds, seed)


@pytest.mark.parametrize("name", SPLITTERS)
def test_every_name_makes_folds(name):
    groups = np.arange(60) % 5 if name == "predefined" else GROUPS if "group" in name else None
    splits = split(name, num_repeats=2 if "repeated" in name else None, groups=groups)
    expected = {"leave_one_out": 60, "leave_one_group_out": 15, "repeated": 10, "repeated_stratified": 10}
    assert len(splits) == expected.get(name, 5)
    assert splits.num_repeats == (2 if "repeated" in name else 1)


@pytest.mark.parametrize(
    "splitter",
    [
        model_selection.KFold(4),
        model_selection.StratifiedKFold(4),
        model_selection.RepeatedKFold(n_splits=4, n_repeats=1),
        model_selection.TimeSeriesSplit(4),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_objects_split_as_they_do_by_themselves(splitter):
    if hasattr(splitter, "random_state"):
        splitter.random_state = 0 if getattr(splitter, "shuffle", True) else None
    found = split(splitter, num_folds=4)
    own = [(train.tolist(), test.tolist()) for train, test in splitter.split(np.zeros(60), LABELS)]
    assert [(fold.train, fold.test) for fold in found.folds] == own


def test_default_splitter_follows_labels_and_groups():
    numbers = np.linspace(0, 1, 60)
    assert split(None).splitter == "StratifiedKFold"
    assert split(None, labels=numbers).splitter == split(None, labels=None).splitter == "KFold"
    assert split(None, groups=GROUPS).splitter == "StratifiedGroupKFold"
    assert split(None, groups=GROUPS, labels=None).splitter == "GroupKFold"


def test_seed_decides():
    assert split("kfold").hash == split("kfold").hash != split("kfold", seed=1).hash


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"splitter": "stratifed"}, ConfigurationError, 'Did you mean "stratified"'),
        ({"splitter": model_selection.KFold}, ConfigurationError, "Give an instance"),
        ({"splitter": model_selection.KFold(3), "num_folds": 5}, ConfigurationError, "makes 3 folds"),
        ({"splitter": "kfold", "num_repeats": 3}, ConfigurationError, "repeated_stratified"),
        ({"splitter": "group"}, ConfigurationError, "groups=..."),
        ({"splitter": "predefined"}, ConfigurationError, "fold of every sample"),
        ({"splitter": "kfold", "num_folds": 61}, DataError, "61 folds need 61 samples"),
        ({"splitter": "stratified", "num_folds": 21}, DataError, "class 0 has 20"),
        ({"splitter": "group", "num_folds": 16, "groups": GROUPS}, DataError, "16 groups or more, but there are 15"),
        ({"splitter": "stratified", "labels": np.linspace(0, 1, 60)}, DataError, "one class label a sample"),
        ({"splitter": "kfold", "groups": GROUPS}, DataError, "both sides of fold 0"),
        ({"splitter": model_selection.ShuffleSplit(3, test_size=0.5, random_state=0)}, DataError, "twice"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_refused(given, error, words):
    with pytest.raises(error, match=words):
        split(**given)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([Split(0, [0, 1], [])], "empty test part"),
        ([Split(0, [], [1])], "empty train part"),
        ([Split(0, [0, 1], [1, 2])], "trains on sample 1 and holds it out"),
        ([Split(0, [0], [1, 1])], "twice in its test part"),
        ([Split(0, [0], [9])], "there are 4 samples"),
        ([Split(0, [0, 1], [2, 3]), Split(1, [0, 1], [3])], "Sample 3 is held out by folds 0 and 1"),
    ],
)
def test_bad_splits_are_refused(folds, words):
    with pytest.raises(DataError, match=words):
        Splits(4, folds).check()


def test_repeats_may_hold_a_sample_out_once_each():
    folds = [Split(0, [1], [0]), Split(1, [0], [1]), Split(2, [1], [0]), Split(3, [0], [1])]
    splits = Splits(2, folds, num_repeats=2).check()
    assert [splits.repeat(fold) for fold in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["kfold", "time_series", "repeated"])
def test_splits_survive_their_dictionary(name):
    splits = split(name, num_repeats=2 if name == "repeated" else None)
    state = splits.to_dict()
    assert Splits.from_dict(state) == splits
    assert (state["folds"][0]["train"] == "all others") == (name != "time_series")


@pytest.mark.parametrize("change", [{"folds": 3}, {"n_samples": "many"}, {"folds": [{"test": [0.5], "train": [1]}]}])
def test_unreadable_splits_are_refused(change):
    with pytest.raises(DataError, match="cannot be read"):
        Splits.from_dict({**split("kfold").to_dict(), **change})


# labels


class Unreadable(Dataset):
    """Inputs that must not be looked at."""

    def __init__(self, **columns):
        self.__dict__.update(columns)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError("an input was read")


@pytest.mark.parametrize(
    ("dataset", "given"),
    [
        (Unreadable(targets=[0, 1, 0, 1]), None),
        (Unreadable(labels=torch.tensor([0, 1, 0, 1])), None),
        (Unreadable(samples=[("a.png", 0), ("b.png", 1), ("c.png", 0), ("d.png", 1)]), None),
        (Unreadable(species=[0, 1, 0, 1]), "species"),
        (Unreadable(frame=pd.DataFrame({"species": [0, 1, 0, 1]})), "species"),
        (Unreadable(), lambda dataset: [0, 1, 0, 1]),
        (Unreadable(), [0, 1, 0, 1]),
        (Subset(Unreadable(targets=[0, 1, 0, 1]), [0, 1, 2, 3]), None),
        (Subset(Unreadable(frame=pd.DataFrame({"species": [0, 1, 0, 1]})), [0, 1, 2, 3]), "species"),
        (TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), None),
    ],
)
def test_labels_are_found_without_reading_inputs(dataset, given):
    assert known_values(dataset, given).tolist() == [0, 1, 0, 1]


def test_labels_of_joined_data():
    part = Unreadable(targets=[0, 1, 0, 1])
    assert known_values(ConcatDataset([part, part])).tolist() == [0, 1, 0, 1] * 2


def test_unknown_labels():
    assert known_values(Unreadable()) is None
    with pytest.raises(DataError, match='Did you mean "species"'):
        known_values(Unreadable(frame=pd.DataFrame({"species": [0] * 4})), "specie")
    with pytest.raises(DataError, match="expected 4, got 3"):
        known_values(Unreadable(), [0, 1, 2], "groups")


def test_labels_out_of_items():
    assert read_targets([(torch.zeros(2), 1), (torch.zeros(2), 0)]).tolist() == [1, 0]
    assert read_targets([{"input": 1, "label": torch.tensor(2)}]).tolist() == [2]
    with pytest.raises(DataError, match="No target was found in sample 0"):
        read_targets([torch.zeros(2)])


# inner split


def test_inner_split_keeps_classes_groups_and_time():
    ids = list(range(0, 60, 2))
    rest, drawn = draw_inner_split(ids, 0.2, 0, LABELS, None)
    assert sorted(rest + drawn) == ids
    assert np.bincount(LABELS[drawn]).tolist() == [2, 2, 2]
    rest, drawn = draw_inner_split(ids, 0.2, 0, LABELS, GROUPS)
    assert not set(GROUPS[rest]) & set(GROUPS[drawn])
    assert draw_inner_split(range(20), 5, 0, LABELS, None, range(20, 30))[1] == [15, 16, 17, 18, 19]
    with pytest.raises(DataError, match="leaves 0 of 30"):
        draw_inner_split(ids, 30, 0, LABELS, None)
