"""Loops and modules that several tests of the loops use; the loops define ``done`` and ``advance`` and no more."""

import torch

from torchloops import Loop
from torchloops.testing import TinyClassifier


def weights_of(module):
    """A copy of all weights, as one vector."""
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def step_by_hand(trainer, batch, batch_idx):
    """The page's gradient descent on one batch, with what the Trainer offers."""
    loss = trainer.module.training_step(batch, batch_idx)
    optimizer = trainer.optimizers[0]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Notes(dict):
    """What a module writes down over several fits: copies are the same object, which no fresh start takes away."""

    def __deepcopy__(self, memo):
        return self


class SeenBatches(TinyClassifier):
    """Writes down the first number of every batch it is given, by stage."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seen = Notes(train=[], val=[], test=[], predict=[])

    def _note(self, stage, batch):
        self.seen[stage].append(batch[0].flatten()[0].item())

    def training_step(self, batch, batch_idx):
        self._note("train", batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self._note("val", batch)
        super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self._note("test", batch)
        super().test_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx=0, dataloader_idx=0):
        self._note("predict", batch)
        return super().predict_step(batch, batch_idx, dataloader_idx)


class ScratchFit(Loop):
    """One iteration is one optimizer step; the page's example of ``done``."""

    batches = None

    @property
    def done(self):
        return self.trainer.global_step >= self.trainer.max_steps

    def advance(self):
        if self.progress.current % len(self.trainer.train_dataloader) == 0:
            self.batches = iter(self.trainer.train_dataloader)
        step_by_hand(self.trainer, next(self.batches), self.progress.current)


class ScratchEpoch(Loop):
    """All batches of an epoch in one iteration, ``advance`` without arguments."""

    @property
    def done(self):
        return self.progress.current == 1

    def advance(self):
        for batch_idx, batch in enumerate(self.trainer.train_dataloader):
            step_by_hand(self.trainer, batch, batch_idx)


class ScratchEpochOfData(Loop):
    """A batch an iteration, ``advance`` with the data that the loop above passes."""

    @property
    def done(self):
        return self.progress.current >= self.trainer.num_training_batches

    def advance(self, data):
        if self.progress.current == 0:
            iter(data)
        step_by_hand(self.trainer, next(data), self.progress.current)


class Once(Loop):
    """Runs ``function(trainer, *args)`` once a run and returns what it gave."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.output = None

    @property
    def done(self):
        return self.progress.current == 1

    def advance(self, *args):
        self.output = self.function(self.trainer, *args)

    def on_run_end(self):
        return self.output


class Times(Loop):
    """Runs a child loop ``n`` times."""

    def __init__(self, child, n=3):
        super().__init__()
        self.child = child
        self.n = n

    @property
    def done(self):
        return self.progress.current == self.n

    def advance(self):
        self.child.run()
