"""Data sets and samplers for the tests of the data's position; at the top level, so that spawned workers find them."""

import random

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler, default_collate


class Augmented(Dataset):
    """Every sample is its index and a draw from each of the three generators."""

    def __init__(self, length=23):
        self.length = length
        self.labels = [index % 3 for index in range(length)]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class SometimesAugmented(Augmented):
    """Only late samples draw."""

    def __getitem__(self, index):
        if index < 15:
            return torch.tensor([index, 0, 0, 0], dtype=torch.float64)
        return super().__getitem__(index)


class Gathering(Augmented):
    """Gives a batch at once, not as a list of samples."""

    def __getitems__(self, indices):
        return torch.stack([torch.tensor([index, torch.rand(()).item()]) for index in indices])


def as_given(batch):
    return batch


class Listing(Augmented):
    """Gives the samples of a batch as a list."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Recording(Augmented):
    """Notes what is asked for, in this process."""

    def __init__(self, length=23):
        super().__init__(length)
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return torch.tensor(index)


def random_collate(samples):
    batch = default_collate(samples)
    return torch.cat([batch, torch.rand(len(batch), 1, dtype=torch.float64)], dim=1)


class Stream(IterableDataset):
    """Draws while it goes, through a shuffle buffer."""

    def __init__(self, length=23, sized=True):
        self.length = length
        if sized:
            self.__class__ = SizedStream

    def __iter__(self):
        buffer = []
        for index in range(self.length):
            buffer.append(index)
            if len(buffer) == 5:
                yield torch.tensor([buffer.pop(random.randrange(5)), torch.rand(()).item()])
        while buffer:
            yield torch.tensor([buffer.pop(), torch.rand(()).item()])


class SizedStream(Stream):
    def __len__(self):
        return self.length


class EagerSampler(Sampler):
    """Draws as soon as it is asked for an iterator."""

    def __init__(self, length, generator=None):
        self.length, self.generator = length, generator

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(torch.randperm(self.length, generator=self.generator).tolist())


class Pairs(BatchSampler):
    """A batch sampler with generators of Python and numpy."""

    def __init__(self, length, seed=0):
        self.length = length
        self.python, self.numpy = random.Random(seed), np.random.default_rng(seed)

    def __len__(self):
        return self.length // 2

    def __iter__(self):
        order = list(range(self.length))
        self.python.shuffle(order)
        for start in range(0, self.length - 1, 2):
            yield [*order[start : start + 2], int(self.numpy.integers(self.length))]


class StatefulSampler(Sampler):
    """Keeps its place; its order cannot be replayed, since it depends on how many epochs it has given."""

    def __init__(self, length):
        self.length, self.epoch, self.place = length, 0, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.place < self.length:
            self.place += 1
            yield order[self.place - 1]
        self.epoch, self.place = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state):
        self.epoch, self.place = state["epoch"], state["place"]


class StatefulLoader:
    """An iterable that keeps its place."""

    def __init__(self, length=7, sized=True):
        self.length, self.epoch, self.place = length, 0, 0
        self.read = 0
        if sized:
            self.__class__ = SizedStatefulLoader

    def __iter__(self):
        while self.place < self.length:
            self.place += 1
            self.read += 1
            yield torch.tensor([self.epoch * 100.0 + self.place])
        self.epoch, self.place = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state):
        self.epoch, self.place = state["epoch"], state["place"]


class SizedStatefulLoader(StatefulLoader):
    def __len__(self):
        return self.length
