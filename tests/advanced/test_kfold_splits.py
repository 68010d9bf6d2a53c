"""Splitters by name and object, labels and groups, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import model_selection
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from torchloops.advanced.kfold import SPLITTERS, Split, Splits
from torchloops.advanced.kfold.inner_split import draw_inner_split
from torchloops.advanced.kfold.splitters import make_splits, resolve_splitter
from torchloops.data.columns import read_column
from torchloops.data.labels import Labels
from torchloops.errors import ConfigurationError, DataError

LABELS = np.arange(60) % 3
GROUPS = np.arange(60) // 4


def split(splitter, num_folds=None, num_repeats=None, labels=LABELS, groups=None, n_samples=60, seed=0):
    found = resolve_splitter(splitter, num_folds, num_repeats, seed, lambda: labels, groups)
    return make_splits(found, n_samples, range(n_samples), labels, groups, num_folds, seed)


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


class Held(Dataset):
    """100 samples whose labels, 0 and 1 in turn, are kept beside them; it counts how often a sample is read."""

    def __init__(self, **kept):
        self.__dict__.update(kept)
        self.reads = 0

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(2), index % 2


LABELS_IN_TURN = [0, 1] * 50
FRAME = pd.DataFrame({"species": LABELS_IN_TURN}, index=range(7, 107))


@pytest.mark.parametrize(
    "dataset",
    [
        Held(targets=LABELS_IN_TURN),
        Held(labels=torch.tensor(LABELS_IN_TURN)),
        Held(_labels=LABELS_IN_TURN),
        Held(targets=FRAME["species"]),
        Held(samples=[(f"{index}.png", label) for index, label in enumerate(LABELS_IN_TURN)]),
        Subset(Held(targets=LABELS_IN_TURN), list(range(100))),
        ConcatDataset([Held(targets=LABELS_IN_TURN), Held(labels=np.array(LABELS_IN_TURN))]),
        TensorDataset(torch.zeros(100, 2), torch.tensor(LABELS_IN_TURN)),
    ],
)
def test_labels_beside_the_samples_are_compared_with_a_few(dataset):
    assert Labels(dataset).at_hand.tolist() == LABELS_IN_TURN * (len(dataset) // 100)
    parts = getattr(dataset, "datasets", [getattr(dataset, "dataset", dataset)])
    assert all(0 < part.reads < 15 for part in parts if isinstance(part, Held))


@pytest.mark.parametrize(
    "given", ["species", "frame_species", lambda dataset: LABELS_IN_TURN, LABELS_IN_TURN, FRAME["species"]]
)
def test_given_labels_read_no_sample(given):
    dataset = Held(frame=FRAME.rename(columns={"species": "frame_species"}), species=LABELS_IN_TURN)
    assert read_column(dataset, given, "targets").tolist() == LABELS_IN_TURN
    assert read_column(Subset(dataset, [1, 3]), "frame_species", "targets").tolist() == [1, 1]
    assert dataset.reads == 0


@pytest.mark.parametrize(
    "kept", [{}, {"targets": LABELS_IN_TURN[:50]}, {"targets": [1, 0] * 50}, {"targets": ["a", "b"] * 50}]
)
def test_labels_that_differ_or_are_missing_are_read_out_of_the_samples(kept):
    labels = Labels(Held(**kept))
    assert labels.at_hand is None
    assert labels.all().tolist() == LABELS_IN_TURN


def test_wrong_columns_are_named():
    with pytest.raises(DataError, match='Did you mean "species"'):
        read_column(Held(frame=FRAME), "specie", "targets")
    with pytest.raises(DataError, match="groups must hold one value a sample: expected 100, got 3"):
        read_column(Held(), [0, 1, 2], "groups")
    with pytest.raises(DataError, match="Sample 1 has no value among the groups"):
        read_column(Held(), [0, None] * 50, "groups")


def test_labels_out_of_items():
    assert Labels([(torch.zeros(2), 1), (torch.zeros(2), 0)]).all().tolist() == [1, 0]
    assert Labels([{"input": 1, "label": torch.tensor(2)}]).all().tolist() == [2]
    with pytest.raises(DataError, match="No label was found in sample 0"):
        Labels([torch.zeros(2)]).all()


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
