"""LabelledMap: ids for ever, plain state, and the way to baal and back."""

import io

import pytest
import torch
from torch.utils.data import TensorDataset

from torchloops.advanced.active_learning import LabelledMap
from torchloops.advanced.active_learning.baal_import import import_baal
from torchloops.errors import ConfigurationError, DataError


@pytest.fixture
def labelled() -> LabelledMap:
    labelled = LabelledMap(10, excluded=[8, 9])
    labelled.label([3, 1], round=-1, source="initial", labels=[0, 1])
    labelled.label([5], round=0, scores=[0.5], predictions=[1], labels=[0], seconds=2.0)
    return labelled


def test_labelled_pool_and_excluded_are_disjoint_and_complete(labelled):
    assert labelled.labelled_ids == [3, 1, 5]
    assert labelled.pool_ids == [0, 2, 4, 6, 7]
    assert (labelled.n_labelled, labelled.n_pool) == (3, 5)
    assert sorted([*labelled.labelled_ids, *labelled.pool_ids, *labelled.excluded]) == list(range(10))


def test_ids_do_not_shift_when_samples_are_labelled(labelled):
    labelled.label([6], round=1)
    assert labelled.is_labelled(6)
    assert not labelled.is_labelled(7)
    assert 7 in labelled.pool_ids


def test_every_label_is_on_record(labelled):
    record = labelled.records[2]
    assert (record.sample_id, record.round, record.rank, record.source) == (5, 0, 0, "truth")
    assert (record.score, record.prediction, record.label, record.seconds) == (0.5, 1, 0, 2.0)
    initial = [(r.round, r.rank, r.source) for r in labelled.records[:2]]
    assert initial == [(-1, 0, "initial"), (-1, 1, "initial")]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([10], "no sample 10"),
        ([-1], "no sample -1"),
        ([8], "validation split"),
        ([3], r"labelled already, in round -1 by 'initial'"),
        ([0, 0], "given twice"),
    ],
)
def test_a_wrong_id_is_refused_and_nothing_is_labelled(labelled, ids, message):
    with pytest.raises(DataError, match=message):
        labelled.label([2, *ids], round=1)
    assert labelled.n_labelled == 3
    assert 2 in labelled.pool_ids


def test_lists_of_another_length_are_refused(labelled):
    with pytest.raises(ConfigurationError, match="scores has 1 entries; expected 2"):
        labelled.label([0, 2], round=1, scores=[0.1])


def test_unknown_excluded_ids_are_refused():
    with pytest.raises(ConfigurationError, match=r"excluded holds the ids \[4\]"):
        LabelledMap(4, excluded=[4])


def test_state_survives_a_safe_load(labelled):
    file = io.BytesIO()
    torch.save(labelled.state_dict(), file)
    file.seek(0)
    other = LabelledMap(10)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.records == labelled.records
    assert other.pool_ids == labelled.pool_ids
    assert other.excluded == labelled.excluded


def test_loading_drops_what_was_cached():
    one, other = LabelledMap(4), LabelledMap(4)
    other.label([2], round=0)
    assert one.pool_ids == [0, 1, 2, 3]
    one.load_state_dict(other.state_dict())
    assert one.pool_ids == [0, 1, 3]


def test_state_of_another_data_set_is_refused(labelled):
    with pytest.raises(DataError, match="10 samples, this one has 11"):
        LabelledMap(11).load_state_dict(labelled.state_dict())


def test_lists_are_copies(labelled):
    labelled.pool_ids.clear()
    labelled.labelled_ids.clear()
    assert labelled.n_pool == len(labelled.pool_ids) == 5


@pytest.mark.parametrize("excluded", [(), (8, 9)])
def test_to_baal_and_back(excluded):
    import_baal("dataset", "this test")
    labelled = LabelledMap(10, excluded=excluded)
    labelled.label([3, 1], round=-1, source="initial")
    labelled.label([5], round=0)
    active = labelled.to_baal(TensorDataset(torch.arange(10.0), torch.arange(10)))
    assert len(active) == 3
    assert sorted(int(active[i][1]) for i in range(3)) == [1, 3, 5]
    assert len(active.pool) == labelled.n_pool
    back = LabelledMap.from_baal(active, excluded=excluded)
    assert sorted(back.labelled_ids) == [1, 3, 5]
    assert back.pool_ids == labelled.pool_ids
    assert {r.sample_id: r.round for r in back.records} == {1: -1, 3: -1, 5: 0}
