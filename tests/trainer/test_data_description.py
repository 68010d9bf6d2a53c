"""What of the data must be the same on resume, and what is said of data that cannot resume."""

import itertools
import random
import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from loader_parts import Augmented, EagerSampler, Pairs, StatefulLoader, StatefulSampler, Stream
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, Subset, TensorDataset

from torchloops import ImageClassificationData
from torchloops.errors import CheckpointError, ResumeWarning
from torchloops.trainer.data import Batches

PHOTOGRAPHS = Path(__file__).parents[2].parent / "shared" / "data" / "hymenoptera_data" / "train"


def loader(length=12, classes=3, generator=None, **options):
    labels = torch.arange(length) % classes
    dataset = TensorDataset(torch.zeros(length, 2), labels)
    return DataLoader(
        dataset, generator=torch.Generator().manual_seed(0) if generator is None else generator, **options
    )


def changed(before, after):
    with pytest.raises(CheckpointError) as caught:
        Batches(after).load_state_dict(Batches(before).state_dict())
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "others", "message"),
    [
        ({"batch_size": 32}, {"batch_size": 64}, "batch_size was 32 and is 64"),
        ({"length": 12}, {"length": 11}, "number of samples was 12 and is 11"),
        ({"shuffle": True}, {}, "sampler was 'RandomSampler' and is 'SequentialSampler'"),
        ({"batch_size": 8, "drop_last": True}, {"batch_size": 8}, "drop_last was True and is False"),
        ({}, {"classes": 2}, "the labels are others"),
        ({}, {"generator": torch.Generator().manual_seed(5)}, "seed of the loader's generator was 0 and is 5"),
    ],
)
def test_what_has_changed_is_named(options, others, message):
    assert message in changed(loader(**options), loader(**others))


def test_everything_that_has_changed_is_in_one_message():
    assert changed(loader(batch_size=4), loader(batch_size=5, length=9)) == (
        "The training data is not as it was when the checkpoint was taken: the labels are others; batch_size was 4 and "
        "is 5; number of samples was 12 and is 9. Resume with what the run was started with, or start a new fit."
    )


def test_other_samples_of_the_same_data_set_are_refused():
    dataset = TensorDataset(torch.zeros(6), torch.zeros(6))
    first, second = (DataLoader(Subset(dataset, part)) for part in ([0, 1, 2], [3, 4, 5]))
    assert "the chosen samples are others" in changed(first, second)


def test_the_same_data_passes_and_how_it_is_loaded_may_change():
    state = Batches(loader(batch_size=4)).state_dict()
    Batches(loader(batch_size=4, num_workers=2, pin_memory=False, prefetch_factor=3)).load_state_dict(state)


def test_labels_are_found_without_reading_a_sample():
    class Labelled(Augmented):
        def __init__(self, labels):
            super().__init__()
            self.labels = labels

        def __getitem__(self, index):
            raise AssertionError("read")

    def hashed(labels):
        return Batches(DataLoader(Labelled(labels))).describe().get("labels")

    size = len(Labelled([]))
    zeros = [0] * (size - 2)
    assert hashed([0, 1, *zeros]) == hashed(torch.tensor([0, 1, *zeros])) == hashed((0, 1, *zeros))
    assert hashed([0, 1, *zeros]) != hashed([1, 0, *zeros])
    assert hashed(["a", "b", *zeros]) != hashed(["a", "c", *zeros])
    assert hashed([[0, 1], [1], *zeros]) != hashed([[0], [1, 1], *zeros])
    assert hashed([0]) is None, "they are not the labels of these samples"
    assert Batches([torch.zeros(1)] * 3).describe() == {"number of batches": 3}


def test_the_description_is_plain_data_and_made_once(tmp_path):
    batches = Batches(loader())
    assert batches.describe() is batches.describe()
    torch.save(batches.state_dict(), tmp_path / "state.pt")
    Batches(loader()).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_many_labels_are_hashed_in_full():
    numbers = torch.arange(2_000_000)
    found = Batches(DataLoader(TensorDataset(numbers, numbers))).describe()["labels"]
    numbers[1_234_567] = 0
    assert found != Batches(DataLoader(TensorDataset(numbers, numbers))).describe()["labels"]


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="needs the ants and bees photographs in ../shared/data")
def test_photographs_that_were_added_removed_or_renamed_are_noticed(tmp_path):
    def batches():
        data = ImageClassificationData.from_folders(train_folder=tmp_path / "train", batch_size=2, check_images=False)
        return data.train_dataloader()

    for kind in ("ants", "bees"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for path in sorted((PHOTOGRAPHS / kind).iterdir())[:5]:
            shutil.copy(path, tmp_path / "train" / kind)
    state = Batches(batches()).state_dict()
    Batches(batches()).load_state_dict(state)
    ant = sorted((tmp_path / "train" / "ants").iterdir())[0]
    moved = ant.rename(ant.with_name("zzz.jpg"))
    with pytest.raises(CheckpointError, match="when the checkpoint was taken: the files are others"):
        Batches(batches()).load_state_dict(state)
    ant = moved.rename(ant)
    ant.rename(ant.parent.parent / "bees" / ant.name)
    with pytest.raises(CheckpointError, match="the labels are others; the files are others"):
        Batches(batches()).load_state_dict(state)
    (ant.parent.parent / "bees" / ant.name).unlink()
    with pytest.raises(CheckpointError, match="number of samples was 10 and is 9"):
        Batches(batches()).load_state_dict(state)


# what cannot resume


class ByTheClock(Sampler):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        order = list(range(self.length))
        random.Random(time.perf_counter_ns()).shuffle(order)
        return iter(order)


class WhileItGoes(ByTheClock):
    """Draws from a global generator between two batches."""

    def __iter__(self):
        return (random.randrange(self.length) for _ in range(self.length))


class FromAList(ByTheClock):
    """Keeps what it has shuffled, so that each epoch goes on from the last one."""

    def __init__(self, length):
        super().__init__(length)
        self.order, self.generator = list(range(length)), random.Random(0)

    def __iter__(self):
        self.generator.shuffle(self.order)
        return iter(list(self.order))


class OneShotStream(IterableDataset):
    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


class OwnGenerator(Augmented):
    def __init__(self):
        super().__init__()
        self.generator = random.Random(0)


WARNED = {
    "generator": (lambda: (torch.zeros(1) for _ in range(3)), "generator is an iterator that can be gone through once"),
    "iterator": (lambda: iter([torch.zeros(1)]), "list_iterator is an iterator"),
    "one-shot data set": (lambda: DataLoader(OneShotStream()), "OneShotStream is an iterator"),
    "clock": (lambda: DataLoader(Augmented(), sampler=ByTheClock(23)), "ByTheClock does not give the same order twice"),
    "while it goes": (lambda: DataLoader(Augmented(), sampler=WhileItGoes(23)), "WhileItGoes does not give"),
    "inside a batch sampler": (
        lambda: DataLoader(Augmented(), batch_sampler=BatchSampler(ByTheClock(23), 4, False)),
        "ByTheClock does not",
    ),
    "own generator": (
        lambda: DataLoader(OwnGenerator(), num_workers=1),
        r"OwnGenerator has a random generator of its own \(dataset.generator\)",
    ),
    "out of order": (lambda: DataLoader(Augmented(), num_workers=1, in_order=False), "in_order=False"),
}


@pytest.mark.parametrize("way", WARNED)
def test_what_cannot_resume_is_warned_about(way):
    make, message = WARNED[way]
    with pytest.warns(ResumeWarning, match=f"A run over this training data cannot resume exactly: {message}"):
        Batches(make()).warn_if_not_resumable()


SILENT = {
    "list": lambda: [torch.zeros(1)],
    "shuffled": lambda: DataLoader(Augmented(), shuffle=True),
    "eager": lambda: DataLoader(Augmented(), sampler=EagerSampler(23)),
    "eager, own generator": lambda: DataLoader(Augmented(), sampler=EagerSampler(23, torch.Generator())),
    "pairs": lambda: DataLoader(Augmented(), batch_sampler=Pairs(23)),
    "keeps a list": lambda: DataLoader(Augmented(), sampler=FromAList(23)),
    "list of indices": lambda: DataLoader(Augmented(), sampler=[3, 2, 1]),
    "stream": lambda: DataLoader(Stream()),
    "stateful": StatefulLoader,
    "stateful sampler": lambda: DataLoader(Augmented(), sampler=StatefulSampler(23)),
    "own generator, no workers": lambda: DataLoader(OwnGenerator()),
}


@pytest.mark.parametrize("way", SILENT)
def test_what_can_resume_is_not_warned_about_and_not_touched(way):
    given = SILENT[way]()
    sampler = getattr(given, "sampler", None)
    before = random.getstate(), torch.get_rng_state(), dict(getattr(sampler, "__dict__", {}))
    with warnings.catch_warnings(action="error"):
        Batches(given).warn_if_not_resumable()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert dict(getattr(sampler, "__dict__", {})) == before[2]
    generator = getattr(sampler, "generator", None)
    if isinstance(generator, random.Random):
        assert generator.getstate() == random.Random(0).getstate()


def test_trying_a_sampler_leaves_its_lists_alone():
    sampler = FromAList(23)
    Batches(DataLoader(Augmented(), sampler=sampler)).warn_if_not_resumable()
    assert sampler.order == list(range(23))
    assert list(itertools.islice(sampler, 3)) != [0, 1, 2]
