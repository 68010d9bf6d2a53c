"""ActiveLearningDataModule: three parts that never overlap, hidden labels, two views, seeds, state."""

import io
from collections import Counter

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from torchloops.advanced.active_learning import (
    ActiveLearningDataModule,
    PoolScores,
    SmallLabelledSetWarning,
)
from torchloops.data import DataModule, RandomViewWarning
from torchloops.data.draws import draw_samples
from torchloops.errors import CheckpointError, ConfigurationError, DataError

N = 60
LABELS = [index % 3 for index in range(N)]


class Recording(Dataset):
    """Inputs and labels whose every reading is noted; an item's label is an object that notes its use."""

    def __init__(self, with_targets=True):
        self.items_read, self.labels_read = [], []
        if with_targets:
            self.targets = RecordingLabels(self.labels_read)

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.items_read.append(index)
        return torch.tensor([float(index)]), Secret(index, self.labels_read)


class RecordingLabels:
    def __init__(self, log):
        self.log = log

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.log.append(index)
        return LABELS[index]


class Secret:
    """A label that can only be known by asking it for its value."""

    def __init__(self, index, log):
        self.index, self.log = index, log

    def __index__(self):
        self.log.append(self.index)
        return LABELS[self.index]


def tensors(n=N):
    return TensorDataset(torch.arange(float(n)).unsqueeze(1), torch.tensor([i % 3 for i in range(n)]))


def make(dataset=None, **settings):
    settings = {"initial_num_labels": 12, "val_split": 9, **settings}
    return ActiveLearningDataModule(tensors() if dataset is None else dataset, **settings)


def ask(data, ids):
    data.label(PoolScores(ids, torch.zeros(len(ids)), None))


def ids_in(loader):
    """Ids are the values of the inputs."""
    return [int(value) for x, _ in loader for value in x[:, 0]]


# parts


def test_the_three_parts_are_disjoint_for_ever():
    data = make(val_split=0.15)
    validation = data.val_ids
    for _ in range(4):
        ask(data, data.pool_ids[:5])
        assert data.val_ids == validation
        assert sorted([*data.labelled_ids, *data.pool_ids, *validation]) == list(range(N))
        assert set(ids_in(data.val_dataloader())) == set(validation)
        assert sorted(ids_in(data.train_dataloader())) == sorted(data.labelled_ids)
        assert [int(i) for ids, _ in data.pool_dataloader() for i in ids] == data.pool_ids


def test_draws_are_stratified_and_depend_on_the_seed_alone():
    data, same = make(), make()
    torch.rand(5)
    assert Counter(LABELS[i] for i in data.labelled_ids) == {0: 4, 1: 4, 2: 4}
    assert Counter(LABELS[i] for i in data.val_ids) == {0: 3, 1: 3, 2: 3}
    assert (data.labelled_ids, data.val_ids) == (same.labelled_ids, same.val_ids)
    assert make(seed=1).labelled_ids != data.labelled_ids


def test_the_heuristic_does_not_change_the_draws():
    assert make(heuristic="random").labelled_ids == make(heuristic="bald").labelled_ids


def test_drawing_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    data = make()
    _ = data.labelled_ids
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("count", "expected"), [(4, [2, 1, 1]), (10, [6, 3, 1]), (20, [12, 7, 1])])
def test_rare_classes_get_one_label_where_there_are_enough(count, expected):
    labels = [0] * 60 + [1] * 35 + [2] * 1
    drawn = draw_samples(range(96), count, torch.Generator().manual_seed(0), labels)
    assert [sum(labels[i] == label for i in drawn) for label in range(3)] == expected
    assert len(set(drawn)) == count


def test_fewer_labels_than_classes_are_of_different_classes():
    labels = [i % 10 for i in range(100)]
    drawn = draw_samples(range(100), 4, torch.Generator().manual_seed(0), labels)
    assert len({labels[i] for i in drawn}) == 4


def test_a_split_leaves_one_sample_of_every_class():
    labels = [0, 0, 1, 1, 2]
    drawn = draw_samples(range(5), 2, torch.Generator().manual_seed(0), labels, leave_one=True)
    assert sorted(labels[i] for i in drawn) == [0, 1]


def test_without_initial_labels_there_is_nothing_to_train_on():
    data = make(initial_num_labels=None, val_split=None)
    assert (data.n_labelled, data.n_pool) == (0, N)
    assert data.train_dataloader() is None


def test_reset_starts_over():
    data = make()
    initial, validation = data.labelled_ids, data.val_ids
    ask(data, data.pool_ids[:3])
    data.reset()
    assert (data.labelled_ids, data.val_ids, data.round) == (initial, validation, 0)


# the warning of the page's demo: 5 labels, val_split=0.1 of 244 samples is 24


def test_a_validation_set_larger_than_the_labelled_set_is_warned_about_once():
    data = ActiveLearningDataModule(tensors(244), initial_num_labels=5, val_split=0.1)
    with pytest.warns(SmallLabelledSetWarning, match=r"\(24 samples\) is larger than the labelled set \(5\)"):
        data.setup("fit")
    data.setup("fit")  # a second warning would be an error here
    data.reset()
    assert len(data.val_ids) == 24
    assert issubclass(SmallLabelledSetWarning, UserWarning)


# hidden labels


def test_labels_of_the_pool_are_not_read_before_they_are_asked_for():
    dataset = Recording()
    data = ActiveLearningDataModule(dataset, initial_num_labels=6, val_split=5, stratify=False)
    data.setup("fit")
    assert sorted(dataset.labels_read) == sorted(data.labelled_ids)
    list(data.pool_dataloader())
    list(data.predict_dataloader())
    assert sorted(dataset.labels_read) == sorted(data.labelled_ids)
    asked = data.pool_ids[3:5]
    ask(data, asked)
    assert sorted(dataset.labels_read) == sorted(data.labelled_ids)
    assert [record.label for record in data.labelled_map.records[-2:]] == [LABELS[i] for i in asked]


def test_without_targets_an_item_is_read_only_when_its_label_is_asked_for():
    dataset = Recording(with_targets=False)
    data = ActiveLearningDataModule(dataset, eval_dataset=dataset, stratify=False)
    data.setup("fit")
    assert dataset.items_read == []
    ask(data, [7])
    assert dataset.items_read == dataset.labels_read == [7]


def test_no_input_is_read_where_the_labels_are_at_hand():
    dataset = Recording()
    data = ActiveLearningDataModule(dataset, initial_num_labels=6, val_split=5, eval_dataset=dataset)
    data.setup("fit")
    assert data.num_classes == 3
    assert 0 < len(dataset.items_read) < 15, "only a few are compared"


def test_a_batch_of_the_pool_has_ids_and_what_the_module_gets():
    for ids, (inputs, labels) in make().pool_dataloader():
        assert ids.dtype == torch.int64
        assert inputs.shape == (len(ids), 1)
        assert labels.tolist() == [LABELS[index] for index in ids]


def test_samples_of_the_pool_may_have_no_label():
    pairs = [(torch.tensor([float(index)]), None) for index in range(6)]
    data = ActiveLearningDataModule(pairs, labelled_ids={0: 1, 4: 0}, batch_size=2)
    ids, batch = next(iter(data.pool_dataloader()))
    assert ids.tolist() == batch[0].flatten().tolist() == [1, 2, 3, 5]
    assert batch[1] is None


@pytest.mark.parametrize(
    "dataset",
    [
        Subset(tensors(120), list(range(60, 120))),
        ConcatDataset([tensors(30), tensors(30)]),
        Subset(ConcatDataset([tensors(30), tensors(60)]), list(range(30, 90))),
    ],
    ids=["subset", "concat", "subset of concat"],
)
def test_labels_are_found_through_wrappers(dataset):
    data = ActiveLearningDataModule(dataset, initial_num_labels=6)
    records = data.labelled_map.records
    assert [record.label for record in records] == [int(dataset[record.sample_id][1]) for record in records]


def test_labels_of_dictionaries():
    class Items(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, index):
            return {"image": torch.tensor([float(index)]), "label": index % 3}

    data = ActiveLearningDataModule(Items(), initial_num_labels=3)
    assert sorted(record.label for record in data.labelled_map.records) == [0, 1, 2]
    _, batch = next(iter(data.pool_dataloader()))
    assert list(batch) == ["image", "label"]
    assert list(next(iter(data.predict_dataloader()))) == ["image"]
    assert data.num_classes == 3


def test_a_data_set_without_labels_is_a_clear_error():
    data = ActiveLearningDataModule([torch.zeros(1)] * 5, initial_num_labels=2)
    with pytest.raises(DataError, match="No label was found in sample 0"):
        data.setup("fit")


# views


class Views(DataModule):
    """A data module whose training view adds 1000 to the inputs."""

    def __init__(self, with_eval_view=True, noisy=False):
        self.stages = []
        self.train = Shifted(1000, noisy)
        if with_eval_view:
            self.train_dataset_eval = Shifted(0, False)

    num_classes = 3
    classes = ("a", "b", "c")

    def setup(self, stage):
        self.stages.append(stage)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=7, shuffle=True)

    def test_dataloader(self):
        return DataLoader(Shifted(0, False), batch_size=7)


class Shifted(Dataset):
    def __init__(self, shift, noisy):
        self.shift, self.noisy = shift, noisy
        self.targets = LABELS

    def __len__(self):
        return N

    def __getitem__(self, index):
        noise = torch.rand(()).item() if self.noisy else 0
        return torch.tensor([index + self.shift + noise]), LABELS[index]


def test_training_has_the_training_view_and_the_pool_and_validation_the_other():
    data = make(Views())
    assert sorted(i - 1000 for i in ids_in(data.train_dataloader())) == sorted(data.labelled_ids)
    assert set(ids_in(data.val_dataloader())) == set(data.val_ids)
    assert [int(x) for _, batch in data.pool_dataloader() for x in batch[0]] == data.pool_ids
    assert {len(x) for x, _ in data.train_dataloader()} == {7, 5}


def test_what_the_labelled_module_knows_is_taken_over():
    data = make(Views())
    assert (data.num_classes, data.classes) == (3, ["a", "b", "c"])
    assert len(list(data.test_dataloader())) == 9
    assert data.labelled.stages == ["fit"], "set up again for a loader that was there"


def test_a_random_pool_is_warned_about_and_eval_dataset_helps():
    with pytest.warns(RandomViewWarning, match="eval_dataset"):
        make(Views(with_eval_view=False, noisy=True)).setup("fit")
    data = make(Views(with_eval_view=False, noisy=True), eval_dataset=Shifted(0, False))
    assert [int(x) for _, batch in data.pool_dataloader() for x in batch[0]] == data.pool_ids


def test_views_of_different_length_are_refused():
    with pytest.raises(DataError, match="59 samples and the training data 60"):
        make(eval_dataset=tensors(59)).setup("fit")


def test_a_custom_collate_function_makes_the_batches_of_the_pool():
    class Custom(Views):
        def train_dataloader(self):
            return DataLoader(self.train, batch_size=4, collate_fn=collate)

    def collate(items):
        return torch.stack([x for x, _ in items]) * 2, torch.tensor([y for _, y in items])

    data = make(Custom())
    ids, (inputs, labels) = next(iter(data.pool_dataloader()))
    assert torch.equal(inputs[:, 0], 2.0 * ids)
    assert labels.tolist() == [LABELS[index] for index in ids]


def test_samples_are_gathered_at_once_where_the_data_set_can():
    class Gathering(Shifted):
        calls = 0

        def __getitems__(self, indices):
            Gathering.calls += 1
            return [self[index] for index in indices]

    data = make(Gathering(0, False), pool_batch_size=10)
    assert len(list(data.pool_dataloader())) == 4
    assert Gathering.calls == 4


def test_a_lightning_data_module_works():
    lightning = pytest.importorskip("pytorch_lightning")

    class Lightning(lightning.LightningDataModule):
        def setup(self, stage):
            self.train = tensors()

        def train_dataloader(self):
            return DataLoader(self.train, batch_size=5)

    data = make(Lightning())
    assert data.n_labelled == 12
    assert data.num_classes == 3
    assert data.test_dataloader() is None
    assert [len(x) for x in data.predict_dataloader()] == [32, 7]


# order of batches


def test_the_order_of_training_batches_is_set_by_seed_and_round():
    data, same = make(), make()
    first = ids_in(data.train_dataloader())
    torch.rand(3)
    assert first == ids_in(data.train_dataloader()) == ids_in(same.train_dataloader())
    loader = data.train_dataloader()
    assert ids_in(loader) != ids_in(loader), "epochs have the same order"
    data.round = 1
    assert ids_in(data.train_dataloader()) != first


# state


def test_state_survives_a_safe_load():
    data = make()
    ask(data, data.pool_ids[4:6])
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.labelled_ids, other.val_ids, other.round) == (data.labelled_ids, data.val_ids, 1)
    assert other.labelled_map.records == data.labelled_map.records
    assert ids_in(other.train_dataloader()) == ids_in(data.train_dataloader())


def relabelled():
    labels = torch.tensor(LABELS)
    labels[-1] = 0
    return TensorDataset(tensors().tensors[0], labels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": lambda: tensors(61)}, "number of samples was 60 and is 61"),
        ({"dataset": relabelled}, "labels .hash. was"),
        ({"seed": 9}, "seed was 0 and is 9"),
        ({"query_size": 3}, "query_size was 1 and is 3"),
        ({"val_split": 8}, "val_split was 9 and is 8"),
        ({"heuristic": "entropy"}, "heuristic was {'type': 'BALD'} and is {'type': 'Entropy'}"),
        ({"batch_size": 7}, "batch_size was"),
    ],
)
def test_a_state_of_another_study_is_refused_by_name(settings, words):
    arguments = {name: value() if name == "dataset" else value for name, value in settings.items()}
    with pytest.raises(CheckpointError, match=words):
        make(**arguments).load_state_dict(make().state_dict())


# errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_size": 0}, "query_size must be 1 or more"),
        ({"initial_num_labels": -1}, "initial_num_labels must be 0 or more"),
        ({"val_split": 0}, "val_split must be a share"),
        ({"val_split": 1.5}, "val_split must be a share"),
        ({"heuristic": "blad"}, 'Did you mean "bald"'),
    ],
)
def test_wrong_settings_are_clear_errors(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**settings)


def test_more_labels_than_samples_are_refused():
    with pytest.raises(DataError, match=r"initial_num_labels asks for 52 samples, but there are 51 outside"):
        make(initial_num_labels=52).setup("fit")
    with pytest.raises(DataError, match="val_split asks for 60 samples"):
        make(val_split=60).setup("fit")


def test_two_validation_sets_are_refused_and_one_of_the_module_is_used():
    class WithValidation(Views):
        def val_dataloader(self):
            return DataLoader(Shifted(0, False), batch_size=30)

    with pytest.raises(ConfigurationError, match="validation data of its own"):
        make(WithValidation()).setup("fit")
    assert len(list(make(WithValidation(), val_split=None).val_dataloader())) == 2


def test_data_without_ids_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(DataError, match="has no sample ids"):
        make(Stream()).setup("fit")
    with pytest.raises(DataError, match="is empty"):
        make([]).setup("fit")


def test_data_modules_without_a_plain_loader_are_refused():
    class NoTraining(DataModule):
        pass

    with pytest.raises(ConfigurationError, match="no training data from NoTraining"):
        make(NoTraining()).setup("fit")
