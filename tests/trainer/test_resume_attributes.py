"""What sets the course of a run beside weights and counters: attributes of loops, modules and data, and who draws when.

Each study is run whole, stopped by Ctrl-C after some batches, and resumed with new objects from another seed.
"""

import random
import signal
import threading
import warnings
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler, Subset, random_split
from torchvision.transforms import v2

from torchloops import FitLoop, KFoldDataModule, KFoldLoop, Loop, LoopModule, Trainer, seed_everything
from torchloops.callbacks import Callback
from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.testing import ContractError, TinyClassifier, check_loop, random_dataset, random_loader

INPUTS, LABELS = random_dataset(40).tensors


class Plain(Dataset):
    def __init__(self, change=None):
        self.change = change

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs = INPUTS[index]
        return (inputs if self.change is None else self.change(inputs)), LABELS[index]


class Noise:
    def __init__(self, rng):
        self.rng = rng

    def __call__(self, inputs):
        if isinstance(self.rng, random.Random):
            return inputs * self.rng.random()
        if isinstance(self.rng, torch.Generator):
            return inputs * torch.rand((), generator=self.rng)
        return inputs * float(self.rng.uniform())


class Noisy(Plain):
    def __init__(self):
        super().__init__(Noise(np.random.default_rng(0)))


class Mixing:
    def __init__(self):
        self.rng = np.random.RandomState(0)

    def __call__(self, samples):
        inputs, labels = torch.utils.data.default_collate(samples)
        return inputs * float(self.rng.beta(1, 1)), labels


class Counting(Sampler):
    """Shuffles by a number of epochs that it counts itself."""

    def __init__(self):
        self.epoch = -1

    def __len__(self):
        return 40

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(40, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class InPlace(Sampler):
    """Shuffles its list in place."""

    def __init__(self):
        self.indices = list(range(40))

    def __len__(self):
        return 40

    def __iter__(self):
        random.shuffle(self.indices)
        return iter(self.indices)


class Stream(IterableDataset):
    """Counts its own epochs."""

    def __init__(self):
        self.epoch = -1

    def __iter__(self):
        self.epoch += 1
        for index in torch.randperm(40, generator=torch.Generator().manual_seed(self.epoch)).tolist():
            yield INPUTS[index], LABELS[index]


class Curriculum(Plain):
    """Counts what it gave, and is harder the more it has given."""

    def __init__(self):
        super().__init__()
        self.given = 0

    def __getitem__(self, index):
        self.given += 1
        inputs, label = super().__getitem__(index)
        return inputs * (1 + 0.01 * self.given), label


class Dropping(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.2), self.head)


def shuffled(dataset, **options):
    return DataLoader(dataset, 8, shuffle=True, **options)


def mixing_in_a_closure():
    mix = Mixing()
    return shuffled(Plain(), collate_fn=lambda samples: mix(samples))


DATA = {
    "a data set's generator": lambda: shuffled(Noisy()),
    "of Python": lambda: shuffled(Plain(Noise(random.Random(0)))),
    "of torch": lambda: shuffled(Plain(Noise(torch.Generator().manual_seed(0)))),
    "Subset of Subset": lambda: shuffled(Subset(Subset(Noisy(), range(40)), range(36))),
    "random_split": lambda: shuffled(random_split(Noisy(), [32, 8], torch.Generator().manual_seed(0))[0]),
    "ConcatDataset": lambda: shuffled(ConcatDataset([Noisy(), Noisy()])),
    "transform in a Compose": lambda: shuffled(Plain(v2.Compose([v2.Identity(), Noise(np.random.default_rng(0))]))),
    "collate function": lambda: shuffled(Plain(), collate_fn=Mixing()),
    "collate function in a closure": mixing_in_a_closure,
    "sampler that counts": lambda: DataLoader(Plain(), 8, sampler=Counting()),
    "sampler that shuffles in place": lambda: DataLoader(Plain(), 8, sampler=InPlace()),
    "stream that counts": lambda: DataLoader(Stream(), 8),
    "data set that counts": lambda: shuffled(Curriculum()),
}


class CtrlC(Callback):
    """Ctrl-C after so many training batches, counted over all runs inside."""

    seen = 0

    def __init__(self, after):
        self.after = after
        CtrlC.seen = 0

    def on_train_batch_end(self, *args):
        CtrlC.seen += 1
        if CtrlC.seen == self.after:
            signal.raise_signal(signal.SIGINT)

    after_step = on_train_batch_end


@pytest.fixture
def study(tmp_path):
    """``study(make_module, make_data, after)``: the weights of a whole run are those of a cut and resumed one."""

    def fit(folder, make_module, make_data, make_loop, callbacks, ckpt_path=None):
        quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
        trainer = Trainer(max_epochs=4, default_root_dir=folder, callbacks=callbacks, **quiet)
        loop = make_loop(trainer) if make_loop else trainer.fit_loop
        module = make_module()
        trainer.fit(module, make_data(), random_loader(16), ckpt_path=ckpt_path)
        return module, loop, trainer

    def run(
        make_module=Dropping, make_data=lambda: shuffled(Plain()), after=(3, 13), make_loop=None, make_callbacks=list
    ):
        seed_everything(1)
        whole = fit(tmp_path / "whole", make_module, make_data, make_loop, make_callbacks())
        for at in after:
            folder = tmp_path / f"cut_{at}"
            seed_everything(1)
            with pytest.raises(KeyboardInterrupt):
                fit(folder, make_module, make_data, make_loop, [*make_callbacks(), CtrlC(at)])
            seed_everything(2)
            resumed = fit(folder, make_module, make_data, make_loop, make_callbacks(), "last")
            torch.testing.assert_close(resumed[0].state_dict(), whole[0].state_dict(), rtol=0, atol=0)
            yield whole, resumed

    def check(*args, **options):
        return list(run(*args, **options))

    return check


@pytest.mark.parametrize("make_data", DATA.values(), ids=DATA.keys())
def test_the_position_in_data_is_that_of_the_cut(study, make_data):
    study(make_data=make_data)


def test_generators_in_data_of_workers_are_warned_about_at_the_start(study):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
        trainer.fit(TinyClassifier(), shuffled(Plain(), collate_fn=Mixing(), num_workers=1))
    assert any("collate_fn.rng" in str(w.message) for w in caught if w.category is ResumeWarning)


# draws outside of the loops


class Drawing(Callback):
    def __init__(self, hook):
        setattr(self, hook, lambda *args: (random.random(), torch.rand(1), np.random.rand()))


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start", "on_sanity_check_start"])
def test_what_set_up_draws_again_makes_no_difference(study, hook):
    study(make_callbacks=lambda: [Drawing(hook)])


class LoadersDraw(Dropping):
    def train_dataloader(self):
        torch.rand(1)
        return shuffled(Plain())

    def val_dataloader(self):
        random.random()
        return random_loader(16)


def test_loaders_that_are_asked_for_again_draw_nothing_new(tmp_path):
    def fit(folder, callbacks=(), ckpt_path=None):
        trainer = Trainer(
            max_epochs=3, default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        module = LoadersDraw()
        trainer.fit(module, ckpt_path=ckpt_path)
        return module.state_dict()

    seed_everything(1)
    whole = fit(tmp_path / "whole")
    for after in (2, 7):
        seed_everything(1)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / f"cut_{after}", [CtrlC(after)])
        seed_everything(2)
        torch.testing.assert_close(fit(tmp_path / f"cut_{after}", ckpt_path="last"), whole, rtol=0, atol=0)


# the module's attributes


class Meter:
    def __init__(self):
        self.total, self.seen = 0.0, []


class Gathering(Dropping):
    """Keeps what it has seen in attributes of many kinds, and trains by it."""

    def __init__(self):
        super().__init__()
        self.outputs, self.recent, self.meter, self.ratio = [], deque(maxlen=3), Meter(), 0.0
        self.rng = np.random.default_rng(5)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        self.recent.append(loss.item())
        self.meter.total += loss.item()
        self.meter.seen.append(batch_idx)
        self.mean = torch.stack(self.outputs).mean()
        self.ratio = np.float64(self.rng.uniform())
        course = 0.1 * self.mean + 0.01 * float(self.ratio) + 0.001 * self.meter.total + 0.1 * sum(self.recent)
        return loss * (1 + course)

    def on_train_epoch_end(self):
        self.last_outputs = list(self.outputs)
        self.outputs.clear()


def test_what_a_module_gathers_between_hooks_is_there_again(study):
    for (whole, _, _), (resumed, _, _) in study(Gathering):
        assert (resumed.meter.total, resumed.meter.seen) == (whole.meter.total, whole.meter.seen)
        assert list(resumed.recent) == list(whole.recent)
        torch.testing.assert_close(resumed.last_outputs, whole.last_outputs, rtol=0, atol=0)


class SharesItsList(Dropping):
    """A callback holds the same list as the module."""

    def __init__(self):
        super().__init__()
        self.losses = []
        self.alias = self.losses

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        assert self.alias is self.losses
        return loss * (1 + 0.01 * len(self.alias))


def test_a_list_is_filled_in_place(study):
    study(SharesItsList)


class KeepsAFunction(Dropping):
    def on_train_start(self):
        self.stream = iter(range(100))

    def training_step(self, batch, batch_idx):
        self.box = [threading.Lock()]
        return super().training_step(batch, batch_idx)


def test_what_cannot_be_held_is_named_on_resume(study):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study(KeepsAFunction, after=(3,))
    assert any("box" in str(w.message) for w in caught if w.category is ResumeWarning)


class Recurrent(LoopModule):
    """An LSTM keeps a list of its own weights."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(self.cells(batch[0].reshape(-1, 4, 8))[0][:, -1]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_attributes_that_are_weights_stay_the_weights(study):
    for _, (resumed, _, _) in study(Recurrent):
        kept = zip(resumed.cells._flat_weights, resumed.cells.parameters(), strict=True)
        assert all(one is other for one, other in kept)


# a callback that exchanges weights


class Average(Callback):
    """Saves the averaged weights as the module's, as callbacks of a moving average do."""

    def setup(self, trainer, module, stage):
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def on_train_batch_end(self, trainer, module, *args):
        for name, value in module.state_dict().items():
            self.average[name] = 0.5 * self.average[name] + 0.5 * value.detach()

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["raw"], checkpoint["state_dict"] = checkpoint["state_dict"], dict(self.average)

    def on_load_checkpoint(self, trainer, module, checkpoint):
        self.average = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
        module.load_state_dict(checkpoint["raw"])


def test_weights_that_a_callback_exchanges_stay_exchanged(study):
    study(make_callbacks=lambda: [Average()])


# loops of the user's


class SeedStudy(Loop):
    saved = ("scores", "start")

    def on_run_start(self):
        self.scores, self.start = [], self.trainer.snapshot()

    @property
    def done(self):
        return len(self.scores) == 3

    def advance(self):
        seed = len(self.scores)
        factor = random.random()
        with self.trainer.isolated(f"seed_{seed}", start=self.start):
            self.fit_loop.run()
        self.scores.append(factor * float(next(self.trainer.module.parameters()).detach().sum()))


class Forgetful(Loop):
    """`SeedStudy` without its line."""

    on_run_start = SeedStudy.on_run_start
    done = SeedStudy.done
    advance = SeedStudy.advance


def around(cls):
    def make(trainer):
        loop = cls()
        loop.connect(fit_loop=trainer.fit_loop)
        trainer.fit_loop = loop
        return loop

    return make


@pytest.mark.parametrize("after", [3, 20, 23, 40, 59])
def test_a_loop_that_declares_its_state_goes_on_exactly(study, after):
    for (_, whole, _), (_, resumed, _) in study(make_loop=around(SeedStudy), after=(after,)):
        assert resumed.scores == whole.scores


@pytest.mark.parametrize("after", [3, 23])
def test_a_loop_that_declares_nothing_is_refused_with_the_line_to_add(study, after):
    with pytest.raises(CheckpointError, match=r'saved = \("scores", "start"\)'):
        study(make_loop=around(Forgetful), after=(after,))


def test_a_snapshot_that_is_not_declared_is_refused(study):
    class HalfDeclared(Forgetful):
        saved = ("scores",)

    with pytest.raises(CheckpointError, match=r'`start`.*saved = \("scores", "start"\)'):
        study(make_loop=around(HalfDeclared), after=(23,))


def test_a_loop_may_say_that_nothing_matters(study):
    class Careless(Loop):
        saved = ()

        @property
        def done(self):
            return self.progress.current == 2

        def advance(self):
            self.notes = [*getattr(self, "notes", []), "a note"]
            with self.trainer.isolated(f"run_{self.progress.current}"):
                self.fit_loop.run()

    study(make_loop=around(Careless), after=(3, 23))


def test_what_cannot_be_saved_or_is_not_there_is_refused_by_name(tmp_path):
    class Holds(Forgetful):
        saved = ("scores", "start", "lock")

        def on_run_start(self):
            super().on_run_start()
            self.lock = threading.Lock()

    class Lacks(Forgetful):
        saved = ("scores", "nothing")

    for cls, words in ((Holds, "lock cannot be saved"), (Lacks, 'names "nothing"')):
        trainer = Trainer(max_epochs=1, default_root_dir=tmp_path / cls.__name__, accelerator="cpu", logger=False)
        around(cls)(trainer)
        with pytest.raises(ConfigurationError, match=words):
            trainer.fit(TinyClassifier(), shuffled(Plain()))


class Scratch(Loop):
    """An epoch loop from scratch, as the page on loops has it."""

    @property
    def done(self):
        return self.progress.current == self.trainer.num_training_batches

    def on_run_start(self, batches):
        self.batches = iter(batches)

    def advance(self):
        trainer, module = self.trainer, self.trainer.module
        (optimizer,) = trainer.stepping_optimizers
        loss = module.training_step(trainer.to_device(next(self.batches)), self.progress.current)
        optimizer.zero_grad()
        module.manual_backward(loss)
        optimizer.step()
        trainer.call_hook("after_step", self.progress.current)


@pytest.mark.parametrize("make_data", [DATA["a data set's generator"], DATA["stream that counts"]])
def test_an_epoch_loop_from_scratch_goes_on_in_the_epoch_that_was_cut(study, make_data):
    def in_the_fit_loop(trainer):
        trainer.fit_loop.epoch_loop = Scratch()
        return trainer.fit_loop

    study(make_data=make_data, make_loop=in_the_fit_loop, after=(3, 5, 13))


def test_check_loop_takes_an_epoch_loop_from_scratch():
    check_loop(Scratch, "fit_loop.epoch_loop")


def test_check_loop_finds_a_loop_that_forgets():
    def connected():
        loop = Forgetful()
        loop.connect(fit_loop=FitLoop())
        return loop

    with pytest.raises(ContractError, match="saved = "):
        check_loop(connected, "fit_loop")


class OwnFolds(KFoldLoop):
    """A loop of the library with a list of the user's."""

    saved = ("ended",)

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.ended = []

    def advance(self):
        super().advance()
        self.ended.append(random.random())


def test_a_loop_of_the_library_takes_declared_state_too(tmp_path):
    def fit(folder, callbacks=(), ckpt_path=None):
        trainer = Trainer(
            max_epochs=1, default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        loop = OwnFolds(num_folds=3)
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        trainer.fit(TinyClassifier(), KFoldDataModule(random_dataset(60), batch_size=8), ckpt_path=ckpt_path)
        return loop

    seed_everything(1)
    whole = fit(tmp_path / "whole").ended
    for after in (2, 7, 12):
        seed_everything(1)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / f"cut_{after}", [CtrlC(after)])
        seed_everything(2)
        assert fit(tmp_path / f"cut_{after}", ckpt_path="last").ended == whole
