"""Batches: an order and augmentation that depend on the seed alone, and going on from any position."""

import copy
import io
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from loader_parts import (
    Augmented,
    EagerSampler,
    Gathering,
    Listing,
    Pairs,
    Recording,
    SometimesAugmented,
    StatefulLoader,
    StatefulSampler,
    Stream,
    as_given,
    random_collate,
)
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

from torchloops.seeding import random_state
from torchloops.trainer.data import Batches

EPOCHS = 3


def draws_of_the_model():
    """What training draws between two batches, so that nobody lives on the global generators unnoticed."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def run_epochs(batches, epochs=EPOCHS, draw=True, position=(0, 0), at=None):
    """Batches of whole epochs, as loops take them; and what was saved after each batch if ``at`` is a list."""
    seen = []
    for epoch in range(position[0], epochs):
        skip = position[1] if epoch == position[0] else 0
        iterator = batches.start_epoch(epoch, skip=skip)
        done = skip
        while done < batches.num_batches and not batches.last:
            batch = next(iterator, None)
            if batch is None:  # cut behind the last batch of a loader without a length
                break
            seen.append(copy.deepcopy(batch))
            done += 1
            if draw:
                seen.append(draws_of_the_model())
            if at is not None:
                at.append(((epoch, done), len(seen), saved(batches)))
        batches.end_epoch()
        if at is not None:
            at.append(((epoch + 1, 0), len(seen), saved(batches)))
    return seen


def saved(batches):
    file = io.BytesIO()
    torch.save({"data": batches.state_dict(), "random": random_state()}, file)
    return file.getvalue()


def resume(make, stored, position, epochs=EPOCHS, **options):
    from torchloops.seeding import restore_random_state

    state = torch.load(io.BytesIO(stored), weights_only=True)
    seed_all(99)
    batches = Batches(make(), **options)
    draws_of_the_model()
    batches.load_state_dict(state["data"])
    restore_random_state(state["random"])
    return run_epochs(batches, epochs, position=position)


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def fresh(loader_options, dataset=Augmented, seed=4):
    """A loader as a script makes it."""
    options = dict(loader_options)
    if options.pop("own_generator", False):
        options["generator"] = torch.Generator().manual_seed(seed)
    return DataLoader(dataset(), batch_size=options.pop("batch_size", 4), **options)


def weighted():
    generator = torch.Generator().manual_seed(3)
    sampler = WeightedRandomSampler([1.0 + index for index in range(23)], 23, generator=generator)
    return DataLoader(Augmented(), batch_size=4, sampler=sampler)


def with_replacement(workers=0):
    dataset = Augmented()
    sampler = RandomSampler(dataset, True, 90, generator=torch.Generator().manual_seed(1))
    return DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=workers)


WAYS = {
    "global generator": lambda: fresh({"shuffle": True}),
    "own generator": lambda: fresh({"shuffle": True, "own_generator": True}),
    "in order": lambda: fresh({}),
    "drop_last": lambda: fresh({"shuffle": True, "drop_last": True}),
    "no batches made": lambda: DataLoader(Augmented(7), batch_size=None, shuffle=True),
    "weights": weighted,
    "with replacement": with_replacement,
    "eager sampler": lambda: DataLoader(Augmented(), batch_size=4, sampler=EagerSampler(23)),
    "batch sampler": lambda: DataLoader(Augmented(), batch_sampler=Pairs(23)),
    "late draws": lambda: fresh({"shuffle": True}, SometimesAugmented),
    "random collate": lambda: fresh({"shuffle": True, "collate_fn": random_collate}),
    "gathered": lambda: fresh({"shuffle": True, "collate_fn": as_given}, Gathering),
    "tensors": lambda: DataLoader(TensorDataset(torch.arange(23)), batch_size=4, shuffle=True),
    "part of tensors": lambda: DataLoader(Subset(TensorDataset(torch.arange(23)), range(3, 20)), 4, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "stream without length": lambda: DataLoader(Stream(sized=False), batch_size=4),
    "stateful sampler": lambda: DataLoader(Augmented(), batch_size=4, sampler=StatefulSampler(23)),
    "stateful sampler, full batches": lambda: DataLoader(Augmented(24), batch_size=4, sampler=StatefulSampler(24)),
    "stateful loader": StatefulLoader,
    "stateful loader without length": lambda: StatefulLoader(sized=False),
    "list": lambda: [torch.tensor([float(index)]) for index in range(6)],
    "own iterable": lambda: DrawingBatches(),
    "two workers": lambda: fresh({"shuffle": True, "own_generator": True, "num_workers": 2}),
    "persistent workers": lambda: fresh({"shuffle": True, "num_workers": 2, "persistent_workers": True}),
    "replacement, workers": lambda: with_replacement(2),
    "batch sampler, workers": lambda: DataLoader(Augmented(), batch_sampler=Pairs(23), num_workers=1),
    "stateful sampler, workers": lambda: DataLoader(Augmented(), 4, sampler=StatefulSampler(23), num_workers=2),
    "stream, workers": lambda: DataLoader(Stream(), batch_size=4, num_workers=1),
    "stream, persistent": lambda: DataLoader(Stream(sized=False), 4, num_workers=1, persistent_workers=True),
}


class DrawingBatches:
    """An iterable of no class of torch, which draws all the time."""

    def __len__(self):
        return 6

    def __iter__(self):
        for index in range(6):
            yield torch.tensor([index, random.random(), np.random.randn(), torch.randn(()).item()])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [None, 3])
def test_cut_anywhere_the_rest_is_the_same(way, limit):
    make, slow = WAYS[way], "workers" in way or "persistent" in way
    seed_all()
    positions = []
    epochs = 2 if slow else EPOCHS
    whole = run_epochs(Batches(make(), limit), epochs, at=positions)
    for position, length, stored in positions[1 :: 3 if slow else 1]:
        rest = resume(make, stored, position, epochs, limit=limit)
        assert equal(rest, whole[length:]), position


AUGMENTED = {
    "shuffled": lambda **options: fresh({"shuffle": True, **options}),
    "own generator": lambda **options: fresh({"shuffle": True, "own_generator": True, **options}),
    "eager sampler": lambda **options: DataLoader(
        Augmented(), batch_size=4, sampler=EagerSampler(23, torch.Generator().manual_seed(0)), **options
    ),
    "batch sampler": lambda **options: DataLoader(Augmented(), batch_sampler=Pairs(23), **options),
    "listed": lambda **options: fresh({"shuffle": True, **options}, Listing),
    "gathered": lambda **options: fresh({"shuffle": True, "collate_fn": as_given, **options}, Gathering),
    "late draws": lambda **options: fresh({"shuffle": True, **options}, SometimesAugmented),
    "random collate": lambda **options: fresh({"shuffle": True, "collate_fn": random_collate, **options}),
    "no batches made": lambda **options: DataLoader(Augmented(7), batch_size=None, shuffle=True, **options),
    "tensors": lambda **options: DataLoader(TensorDataset(torch.arange(23)), 4, shuffle=True, **options),
}
WORKERS = [
    {"num_workers": 1},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4},
]


@pytest.mark.parametrize("way", AUGMENTED)
@pytest.mark.parametrize("limit", [None, 4])
def test_the_number_of_workers_changes_nothing(way, limit):
    seed_all()
    alone = run_epochs(Batches(AUGMENTED[way](), limit))
    for options in WORKERS:
        seed_all()
        assert equal(run_epochs(Batches(AUGMENTED[way](**options), limit)), alone), options


def test_spawned_workers_change_nothing():
    make = AUGMENTED["own generator"]
    seed_all()
    alone = run_epochs(Batches(make()))
    seed_all()
    spawned = make(num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    assert equal(run_epochs(Batches(spawned)), alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_is_followed_by_the_same_one(workers):
    def run():
        seed_all()
        batches = Batches(with_replacement(workers))
        taken = batches.start_epoch(0)
        seen = [next(taken) for _ in range(5)]
        stored = saved(batches)
        return seen, stored, run_epochs(batches, 2, position=(1, 0))

    seen, stored, after = run()
    seed_all()
    alone = Batches(with_replacement(0))
    iterator = alone.start_epoch(0)
    assert equal([next(iterator) for _ in range(5)], seen)
    assert equal(run_epochs(alone, 2, position=(1, 0)), after)
    assert equal(resume(lambda: with_replacement(workers), stored, (1, 0), epochs=2), after)


@pytest.mark.parametrize("own_generator", [True, False])
def test_the_order_is_that_of_pytorch(own_generator):
    def order(loader):
        return [batch.tolist() for batch in loader]

    options = {"shuffle": True, "own_generator": own_generator}
    seed_all()
    plain = fresh(options, Recording)
    expected = [order(plain) for _ in range(2)]
    seed_all()
    batches = Batches(fresh(options, Recording))
    found = run_epochs(batches, 2, draw=False)
    assert order(found) == expected[0] + expected[1]


def test_a_sample_of_an_epoch_is_the_same_in_whatever_batch():
    def by_index(**options):
        seed_all()
        seen = run_epochs(Batches(fresh(options)), 2, draw=False)
        size = len(seen) // 2
        return [{int(row[0]): row.tolist() for batch in epoch for row in batch} for epoch in (seen[:size], seen[size:])]

    first, second = by_index(batch_size=4)
    assert by_index(batch_size=7) == [first, second]
    assert first.keys() == second.keys()
    assert all(first[index][1:] != second[index][1:] for index in first)
    assert len({tuple(row[1:]) for row in first.values()}) == 23


def test_other_seeds_give_other_augmentation():
    def run(seed):
        seed_all(seed)
        return run_epochs(Batches(fresh({})), 1, draw=False)

    assert equal(run(1), run(1))
    assert not equal(run(1), run(2))


def test_loading_leaves_the_generators_of_the_process_alone():
    seed_all()
    draws = [draws_of_the_model() for _ in range(4)]
    for make in (WAYS["own generator"], WAYS["own iterable"]):
        seed_all()
        iterator = Batches(make()).start_epoch(0)
        found = []
        for _ in range(4):
            next(iterator)
            found.append(draws_of_the_model())
        assert found == draws


def test_skipped_samples_are_not_loaded():
    def make():
        return fresh({"shuffle": True, "own_generator": True}, Recording)

    whole = Batches(make())
    positions = []
    run_epochs(whole, 1, at=positions)
    position, _, stored = positions[3]
    loader = make()
    batches = Batches(loader)
    batches.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True)["data"])
    run_epochs(batches, 1, position=position)
    assert len(loader.dataset.asked) == 23  # the first 16 are those that it had kept before


def test_what_has_a_state_is_not_read_again():
    positions = []
    run_epochs(Batches(StatefulLoader()), 1, at=positions)
    position, _, stored = positions[4]
    loader = StatefulLoader()
    batches = Batches(loader)
    batches.load_state_dict(torch.load(io.BytesIO(stored), weights_only=True)["data"])
    run_epochs(batches, 1, position=position)
    assert loader.read == 2


def test_samples_that_draw_nothing_are_loaded_once():
    loader = fresh({"shuffle": True}, Recording)
    run_epochs(Batches(loader), 1)
    assert len(loader.dataset.asked) == 23


def test_data_that_draws_nothing_is_loaded_by_the_loader_itself():
    for dataset in (
        TensorDataset(torch.arange(8)),
        Subset(TensorDataset(torch.arange(9)), range(8)),
        ConcatDataset([TensorDataset(torch.arange(8))]),
    ):
        loader = DataLoader(dataset, batch_size=2)
        batches = Batches(loader)
        assert batches.start_epoch(0)._dataset is dataset


class OwnLoader(DataLoader):
    def __iter__(self):
        return (("own", batch) for batch in super().__iter__())


def test_a_loader_with_an_iter_of_its_own_is_read():
    def make():
        return OwnLoader(Augmented(), batch_size=4, shuffle=True)

    seed_all()
    positions = []
    whole = run_epochs(Batches(make()), 2, at=positions)
    assert whole[0][0] == "own"
    for position, length, stored in positions:
        assert equal(resume(make, stored, position, 2), whole[length:])


def note_worker(worker_id):
    info = torch.utils.data.get_worker_info()
    info.dataset.length -= 1
    assert info.dataset.labels[1] == 1
    assert len(info.dataset) == 23
    assert info.dataset[2][0] == 2


def test_a_worker_init_fn_finds_the_data_set():
    loader = DataLoader(Augmented(24), batch_size=4, num_workers=1, worker_init_fn=note_worker)
    with pytest.raises(IndexError, match="23"):
        run_epochs(Batches(loader), 1)


def test_the_own_generator_of_a_data_set_is_saved():
    class OwnGenerator(Augmented):
        def __init__(self):
            super().__init__()
            self.generator = np.random.default_rng(0)

        def __getitem__(self, index):
            return torch.tensor([index, self.generator.random()])

    def make():
        return DataLoader(OwnGenerator(), batch_size=4)

    positions = []
    whole = run_epochs(Batches(make()), 2, at=positions)
    for position, length, stored in positions:
        assert equal(resume(make, stored, position, 2), whole[length:])


def test_a_state_of_the_first_format_is_read():
    def make():
        return fresh({"shuffle": True, "own_generator": True}, Recording)

    batches = Batches(make())
    whole = run_epochs(batches, 1, draw=False)
    start = batches.state_dict()["epoch_start"]
    old = {"random": start["random"], "loader": {"loader": start["loader"]["loader.generator"]}}
    other = Batches(make())
    other.load_state_dict({"epoch_start": old, "loader": old["loader"]})
    assert equal(run_epochs(other, 1, draw=False, position=(0, 2)), whole[2:])


def test_rewind_makes_the_epoch_start_again():
    batches = Batches(fresh({"shuffle": True, "own_generator": True}))
    first = run_epochs(batches, 1, draw=False)
    batches.rewind()
    again = run_epochs(batches, 1, draw=False)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(one, other) for one, other in pairwise(first))


def test_a_loader_of_several_processes_is_told_the_epoch_and_goes_on():
    from lightning_fabric.wrappers import _FabricDataLoader
    from torch.utils.data import DistributedSampler

    def make():
        sampler = DistributedSampler(range(23), num_replicas=2, rank=1, shuffle=True)
        return _FabricDataLoader(DataLoader(Augmented(), batch_size=3, sampler=sampler))

    seed_all()
    positions = []
    whole = run_epochs(Batches(make()), 2, at=positions)
    size = len(whole) // 2
    assert not equal([batch[:, 0] for batch in whole[:size:2]], [batch[:, 0] for batch in whole[size::2]])
    for position, length, stored in positions:
        assert equal(resume(make, stored, position, 2), whole[length:])
