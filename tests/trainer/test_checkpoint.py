"""Checkpoints: what is in the file, how it is written, what is refused, and going on as if nothing had happened."""

import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from torchloops import Callback, DataModule, FitLoop, Loop, LoopModule, ModelCheckpoint, Trainer, seed_everything
from torchloops.errors import CheckpointError, ResumeWarning
from torchloops.testing import TinyClassifier, random_batches, random_dataset, random_loader


@pytest.fixture(autouse=True)
def _seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seed_everything(3)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        return Trainer(**{**quiet, "default_root_dir": tmp_path / "run", **options})

    return make


class Model(TinyClassifier):
    """Dropout, Adam with two schedulers, and the sum of the inputs of every batch written down."""

    def __init__(self, dropout=0.0, schedule=False, optimizer="SGD"):
        super().__init__(in_features=8, hidden=16, num_classes=4, lr=0.02, optimizer=optimizer)
        self.save_hyperparameters()
        self.dropout = nn.Dropout(dropout)
        self.schedule = schedule
        self.seen = []

    def forward(self, inputs):
        return self.head(self.dropout(self.backbone(inputs)))

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].sum().item())
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def configure_optimizers(self):
        optimizer = getattr(torch.optim, self.optimizer)(self.parameters(), lr=self.lr)
        if not self.schedule:
            return optimizer
        schedulers = torch.optim.lr_scheduler
        by_step = {"scheduler": schedulers.CosineAnnealingLR(optimizer, 20), "interval": "step"}
        return [optimizer], [by_step, schedulers.StepLR(optimizer, 1, 0.9)]


def data(n_samples=30, seed=0):
    return random_dataset(n_samples, seed, in_features=8, num_classes=4)


class SaveAt(Callback):
    """Saves at the end of a batch or, with ``batch`` None, of an epoch; then may stop the run like a crash."""

    order = 9

    def __init__(self, path, epoch, batch=None, crash=False):
        self.path, self.epoch, self.batch, self.crash = path, epoch, batch, crash

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            self._save(trainer)

    def on_train_epoch_end(self, trainer, module):
        if self.batch is None and trainer.current_epoch == self.epoch:
            self._save(trainer)

    def _save(self, trainer):
        trainer.save_checkpoint(self.path)
        if self.crash:
            raise KeyboardInterrupt


class EpochMeans(Callback):
    """The values of every epoch."""

    order = 1

    def __init__(self):
        self.epochs = {}

    def on_train_epoch_end(self, trainer, module):
        self.epochs[trainer.current_epoch] = {name: float(value) for name, value in trainer.callback_metrics.items()}


LOADERS = {
    "in order": lambda: DataLoader(data(), batch_size=7),
    "shuffled": lambda: DataLoader(data(), batch_size=7, shuffle=True),
    "shuffled by its own generator": lambda: DataLoader(
        data(), batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "a sampler with a generator": lambda: DataLoader(
        data(), batch_size=7, sampler=RandomSampler(data(), generator=torch.Generator().manual_seed(6))
    ),
    "a list": lambda: random_batches(5, 7, in_features=8, num_classes=4),
}
MODELS = {
    "sgd": partial(Model),
    "adam, schedulers": partial(Model, schedule=True, optimizer="Adam"),
    "dropout": partial(Model, dropout=0.4, optimizer="Adam"),
}


def equal_states(one, other):
    """Whether two nested states hold the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return one == other


@pytest.mark.parametrize("batch", [None, 0, 2, 4], ids=lambda b: "epoch end" if b is None else f"after batch {b}")
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_run_equals_the_uninterrupted_one(model, loader, batch, make_trainer, tmp_path):
    path = tmp_path / "cut.ckpt"
    build, load = MODELS[model], LOADERS[loader]
    seed_everything(7)
    module, whole = build(), EpochMeans()
    trainer = make_trainer(max_epochs=4, callbacks=[whole, SaveAt(path, 1, batch)])
    trainer.fit(module, load(), DataLoader(data(12, 1), batch_size=5))

    seed_everything(99)
    resumed, rest = build(), EpochMeans()
    second = make_trainer(max_epochs=4, callbacks=[rest, SaveAt(path, -1)])
    second.fit(resumed, load(), DataLoader(data(12, 1), batch_size=5), ckpt_path=path)

    assert resumed.seen == module.seen  # the list of the module, too, is what it was
    assert equal_states(module.state_dict(), resumed.state_dict())
    assert equal_states(trainer.optimizers[0].state_dict(), second.optimizers[0].state_dict())
    for one, other in zip(trainer.lr_scheduler_configs, second.lr_scheduler_configs, strict=True):
        assert equal_states(one.scheduler.state_dict(), other.scheduler.state_dict())
    assert (second.global_step, second.current_epoch) == (trainer.global_step, trainer.current_epoch) == (20, 4)
    first = 2 if batch is None else 1
    assert sorted(rest.epochs) == list(range(first, 4))
    assert rest.epochs == {epoch: whole.epochs[epoch] for epoch in range(first, 4)}


OPTIONS = [{"accumulate_grad_batches": 2}, {"val_check_interval": 2}, {"max_steps": 13}]


@pytest.mark.parametrize("loader", ["shuffled", "shuffled by its own generator"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resuming_between_batches_under_other_options(options, loader, make_trainer, tmp_path):
    path = tmp_path / "cut.ckpt"
    load = LOADERS[loader]
    seed_everything(7)
    module = Model(optimizer="Adam")
    trainer = make_trainer(max_epochs=3, callbacks=[SaveAt(path, 1, 1)], **options)
    trainer.fit(module, load(), DataLoader(data(12, 1), batch_size=5))
    resumed = Model(optimizer="Adam")
    second = make_trainer(max_epochs=3, callbacks=[SaveAt(path, -1)], **options)
    second.fit(resumed, load(), DataLoader(data(12, 1), batch_size=5), ckpt_path=path)
    assert equal_states(module.state_dict(), resumed.state_dict())
    assert second.global_step == trainer.global_step
    assert resumed.seen == module.seen
    assert {k: float(v) for k, v in trainer.callback_metrics.items()} == {
        k: float(v) for k, v in second.callback_metrics.items()
    }


def test_resuming_within_limited_epochs(make_trainer, tmp_path):
    path = tmp_path / "cut.ckpt"
    load = LOADERS["shuffled by its own generator"]
    module, resumed = Model(), Model()
    make_trainer(max_epochs=3, limit_train_batches=3, callbacks=[SaveAt(path, 0, 1)]).fit(module, load())
    make_trainer(max_epochs=3, limit_train_batches=3).fit(resumed, load(), ckpt_path=path)
    assert resumed.seen == module.seen
    assert equal_states(module.state_dict(), resumed.state_dict())


def test_resuming_with_worker_processes_in_the_middle_of_an_epoch(make_trainer, tmp_path):
    path = tmp_path / "cut.ckpt"
    load = partial(DataLoader, data(), batch_size=7, shuffle=True, num_workers=1)
    module = Model()
    make_trainer(max_epochs=2, callbacks=[SaveAt(path, 0, 2)]).fit(module, load())
    resumed = Model()
    make_trainer(max_epochs=2).fit(resumed, load(), ckpt_path=path)
    assert resumed.seen == module.seen
    assert equal_states(module.state_dict(), resumed.state_dict())


def test_an_iterable_that_has_no_length_goes_on_where_it_was(make_trainer, tmp_path):
    class Stream:
        def __iter__(self):
            yield from random_batches(5, 7, in_features=8, num_classes=4)

    path = tmp_path / "cut.ckpt"
    module = Model()
    make_trainer(max_epochs=2, callbacks=[SaveAt(path, 0, 2)]).fit(module, Stream())
    resumed = Model()
    make_trainer(max_epochs=2).fit(resumed, Stream(), ckpt_path=path)
    assert resumed.seen == module.seen
    assert equal_states(module.state_dict(), resumed.state_dict())


def test_interrupted_and_resumed_with_last(make_trainer):
    whole = Model(optimizer="Adam")
    seed_everything(7)
    whole.load_state_dict(Model(optimizer="Adam").state_dict())
    make_trainer(max_epochs=4, callbacks=ModelCheckpoint(), enable_checkpointing=True).fit(whole, LOADERS["shuffled"]())

    class Crash(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (2, 3):
                raise KeyboardInterrupt

    seed_everything(7)
    module = Model(optimizer="Adam")
    first = make_trainer(max_epochs=4, callbacks=[ModelCheckpoint(), Crash()], enable_checkpointing=True)
    with pytest.raises(KeyboardInterrupt):
        first.fit(module, LOADERS["shuffled"]())
    resumed = Model(optimizer="Adam")
    second = make_trainer(max_epochs=4, callbacks=ModelCheckpoint(), enable_checkpointing=True)
    second.fit(resumed, LOADERS["shuffled"](), ckpt_path="last")
    assert equal_states(resumed.state_dict(), whole.state_dict())
    assert second.global_step == 20


def test_a_finished_run_is_extended_by_more_epochs(make_trainer, tmp_path):
    path = tmp_path / "two.ckpt"
    seed_everything(7)
    whole = Model(schedule=True)
    make_trainer(max_epochs=4).fit(whole, LOADERS["shuffled"]())
    seed_everything(7)
    module = Model(schedule=True)
    short = make_trainer(max_epochs=2)
    short.fit(module, LOADERS["shuffled"]())
    short.save_checkpoint(path)
    longer = Model(schedule=True)
    make_trainer(max_epochs=4).fit(longer, LOADERS["shuffled"](), ckpt_path=path)
    assert len(longer.seen) == 10 + 10  # what the module had kept, and ten more batches
    assert equal_states(whole.state_dict(), longer.state_dict())


def test_resuming_a_finished_run_trains_no_more(make_trainer, tmp_path, caplog):
    module = Model()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, LOADERS["in order"]())
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    again = Model()
    second = make_trainer(max_epochs=2)
    with caplog.at_level("WARNING", "torchloops"):
        second.fit(again, LOADERS["in order"](), ckpt_path=tmp_path / "done.ckpt")
    assert "Nothing is left to train: the checkpoint is at epoch 2" in caplog.text
    assert len(again.seen) == 10  # what the module had kept, and no batch more
    assert (second.current_epoch, second.global_step) == (2, 10)
    assert equal_states(module.state_dict(), again.state_dict())


# the file


@pytest.fixture
def fitted(make_trainer, tmp_path):
    """A trainer after a fit, its module, and the checkpoint of both."""
    module = Model(optimizer="Adam", schedule=True)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, LOADERS["in order"]())
    path = tmp_path / "fitted.ckpt"
    trainer.save_checkpoint(path)
    return trainer, module, path


OWN = ("dropout", "schedule", "optimizer")  # arguments of Model; those of its base class are kept beside them


def test_a_checkpoint_loads_with_weights_only(fitted):
    _, module, path = fitted
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["epoch"] == 2
    assert checkpoint["global_step"] == 10
    saved = checkpoint["hyper_parameters"]
    assert {name: saved[name] for name in OWN} == {"dropout": 0.0, "schedule": True, "optimizer": "Adam"}
    assert equal_states(checkpoint["state_dict"], module.state_dict())
    assert len(checkpoint["optimizer_states"]) == 1
    assert len(checkpoint["lr_schedulers"]) == 2
    assert [path for path in os.listdir(path.parent) if path.endswith(".tmp")] == []


def test_saving_weights_only(fitted, tmp_path, make_trainer):
    trainer, module, _ = fitted
    trainer.save_checkpoint(tmp_path / "small.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "small.ckpt", weights_only=True)
    assert not {"optimizer_states", "loop_tree", "random"} & set(checkpoint)
    assert equal_states(Model.load_from_checkpoint(tmp_path / "small.ckpt").state_dict(), module.state_dict())
    with pytest.raises(CheckpointError, match="weights only"):
        make_trainer(max_epochs=3).fit(Model(), LOADERS["in order"](), ckpt_path=tmp_path / "small.ckpt")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(fitted, monkeypatch):
    trainer, _, path = fitted
    before, listing = path.read_bytes(), sorted(os.listdir(path.parent))

    def fail(checkpoint, file):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        trainer.save_checkpoint(path)
    with pytest.raises(CheckpointError, match="disk full"):
        trainer.save_checkpoint(path.parent / "new.ckpt")
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == listing


def test_an_interrupted_write_leaves_no_part_behind(fitted, monkeypatch):
    trainer, _, path = fitted
    before = path.read_bytes()

    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == before
    assert [name for name in os.listdir(path.parent) if ".tmp" in name] == []


def test_the_file_can_be_read_by_others_as_the_umask_says(fitted):
    trainer, _, path = fitted
    before = os.umask(0o022)
    try:
        trainer.save_checkpoint(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_load_from_checkpoint_builds_the_module(fitted):
    _, module, path = fitted
    loaded = Model.load_from_checkpoint(path)
    assert equal_states(loaded.state_dict(), module.state_dict())
    assert (loaded.optimizer, loaded.schedule) == ("Adam", True)
    assert Model.load_from_checkpoint(str(path), dropout=0.5).dropout.p == 0.5


def test_load_from_checkpoint_without_saved_arguments_says_so(make_trainer, tmp_path):
    class Bare(LoopModule):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Linear(8, width)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Bare(4), LOADERS["in order"]())
    trainer.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match="save_hyperparameters"):
        Bare.load_from_checkpoint(tmp_path / "bare.ckpt")
    assert Bare.load_from_checkpoint(tmp_path / "bare.ckpt", width=4).layer.out_features == 4
    with pytest.raises(CheckpointError, match="Bare"):
        Bare.load_from_checkpoint(tmp_path / "bare.ckpt", width=5)


HALF, PLACE = np.float32(0.5), Path("a/b")


def test_hyper_parameters_that_are_no_plain_data_are_in_the_file_by_name(make_trainer, tmp_path):
    class Odd(Model):
        def __init__(self, head=None, rate=HALF, path=PLACE, activation=torch.relu, names=("x",)):
            super().__init__()
            self.save_hyperparameters()

    trainer = make_trainer(max_epochs=1)
    module = Odd(head=nn.Linear(2, 2))
    trainer.fit(module, LOADERS["in order"]())
    trainer.save_checkpoint(tmp_path / "odd.ckpt")
    saved = torch.load(tmp_path / "odd.ckpt", weights_only=True)["hyper_parameters"]
    assert (saved.pop("activation").name, saved.pop("head").name) == ("torch:relu", "")
    own = {name: saved[name] for name in ("rate", "path", "names")}
    assert own == {"rate": 0.5, "path": str(PLACE), "names": ("x",)}
    assert module.hparams.activation is torch.relu
    assert Odd.load_from_checkpoint(tmp_path / "odd.ckpt", head=None).hparams.rate == 0.5


def test_state_that_is_no_plain_data_is_an_error_that_names_it(make_trainer, tmp_path):
    class Stateful(Callback):
        def state_dict(self):
            return {"when": {"thing": object()}}

    trainer = make_trainer(max_epochs=1, callbacks=Stateful())
    trainer.fit(Model(), LOADERS["in order"]())
    with pytest.raises(CheckpointError, match=r"when\.thing.*object"):
        trainer.save_checkpoint(tmp_path / "no.ckpt")
    assert not (tmp_path / "no.ckpt").exists()


# files that are refused


def write_truncated(path, good):
    path.write_bytes(good.read_bytes()[:-200])


def write_text(path, good):
    path.write_text("hello")


def write_empty(path, good):
    path.write_bytes(b"")


def write_other_data(path, good):
    torch.save([1, 2, 3], path)


def write_newer_format(path, good):
    torch.save({**torch.load(good, weights_only=True), "format": 99}, path)


class Hostile:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('hacked').touch()",))


def write_hostile(path, good):
    torch.save({"state_dict": {}, "evil": Hostile()}, path)


def write_plain_pickle(path, good):
    path.write_bytes(pickle.dumps(Hostile()))


@pytest.mark.parametrize(
    "write",
    [
        write_truncated, write_text, write_empty, write_other_data, write_newer_format, write_hostile,
        write_plain_pickle,
    ],
)  # fmt: skip
def test_files_that_are_no_checkpoint_are_refused(write, fitted, make_trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.ckpt"
    write(bad, fitted[2])
    module = Model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        make_trainer(max_epochs=3).fit(module, LOADERS["in order"](), ckpt_path=bad)
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        Model.load_from_checkpoint(bad)
    assert equal_states(module.state_dict(), before)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("path", ["missing.ckpt", "", "."])
def test_a_missing_file_is_named(path, make_trainer, tmp_path):
    for call in (
        lambda: make_trainer(max_epochs=1).fit(Model(), LOADERS["in order"](), ckpt_path=tmp_path / path),
        lambda: make_trainer().validate(Model(), LOADERS["in order"](), ckpt_path=tmp_path / path),
        lambda: Model.load_from_checkpoint(tmp_path / path),
    ):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            call()


def test_last_without_a_run_before_says_where_it_looked(make_trainer):
    with pytest.warns(ResumeWarning, match=r"checkpoints.last\.ckpt yet, so the fit begins anew"):
        make_trainer(max_epochs=1).fit(Model(), LOADERS["in order"](), ckpt_path="last")


def test_a_checkpoint_of_another_module_is_refused(fitted, make_trainer):
    other = TinyClassifier(in_features=8, hidden=5, num_classes=4, optimizer="Adam")
    with pytest.raises(CheckpointError, match="hyper-parameter hidden was 16 and is 5"):
        make_trainer(max_epochs=3).fit(other, LOADERS["in order"](), ckpt_path=fitted[2])
    with pytest.raises(CheckpointError, match="TinyClassifier"):
        make_trainer().validate(other, LOADERS["in order"](), ckpt_path=fitted[2])


def test_a_checkpoint_with_other_optimizers_is_refused(fitted, make_trainer):
    class Two(Model):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.head.parameters(), lr=0.1), torch.optim.SGD(self.backbone.parameters(), 0.1)]

        def training_step(self, batch, batch_idx, optimizer_idx):
            return super().training_step(batch, batch_idx)

    same = {name: fitted[1].hparams[name] for name in OWN}
    with pytest.raises(CheckpointError, match=r"1 optimizers.*configures 2"):
        make_trainer(max_epochs=3).fit(Two(**same), LOADERS["in order"](), ckpt_path=fitted[2])

    class Fewer(Model):
        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    with pytest.raises(CheckpointError):
        make_trainer(max_epochs=3).fit(Fewer(**same), LOADERS["in order"](), ckpt_path=fitted[2])


def test_a_checkpoint_of_another_tree_of_loops_is_refused(fitted, make_trainer):
    class Outer(Loop):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        @property
        def done(self):
            return self.progress.current >= 1

        def advance(self):
            self.inner.run()

    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop = Outer(trainer.fit_loop)
    with pytest.raises(CheckpointError, match=r"FitLoop.*Outer"):
        trainer.fit(Model(optimizer="Adam", schedule=True), LOADERS["in order"](), ckpt_path=fitted[2])


def test_after_a_refused_checkpoint_the_trainer_and_module_still_work(fitted, make_trainer, tmp_path):
    trainer, module = make_trainer(max_epochs=1), Model()
    with pytest.raises(CheckpointError):
        trainer.fit(module, LOADERS["in order"](), ckpt_path=tmp_path / "none.ckpt")
    trainer.fit(module, LOADERS["in order"]())
    assert trainer.global_step == 5


# states that go with it


class Counter(Callback):
    def __init__(self):
        self.epochs, self.seen, self.loaded = 0, None, None

    def on_train_epoch_end(self, trainer, module):
        self.epochs += 1

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["mine"] = 5

    def on_load_checkpoint(self, trainer, module, checkpoint):
        self.loaded = checkpoint["mine"]


class StatefulData(DataModule):
    def __init__(self):
        self.version = 0

    def train_dataloader(self):
        return DataLoader(data(), batch_size=7)

    def state_dict(self):
        return {"version": self.version}

    def load_state_dict(self, state_dict):
        self.version = state_dict["version"]


def test_states_of_callbacks_data_module_and_loops_come_back(make_trainer, tmp_path):
    class Tallying(FitLoop):
        tally = 0

        def on_advance_end(self):
            super().on_advance_end()
            self.tally += 10

        def on_save_checkpoint(self):
            return {"tally": self.tally}

        def on_load_checkpoint(self, state_dict):
            self.tally = state_dict["tally"]

    first = make_trainer(max_epochs=2, callbacks=Counter())
    first.fit_loop = Tallying()
    module_data = StatefulData()
    module_data.version = 8
    first.fit(Model(), datamodule=module_data)
    first.save_checkpoint(tmp_path / "states.ckpt")

    counter, resumed_data = Counter(), StatefulData()
    second = make_trainer(max_epochs=5, callbacks=counter)
    second.fit_loop = Tallying()
    second.fit(Model(), datamodule=resumed_data, ckpt_path=tmp_path / "states.ckpt")
    assert counter.epochs == 5
    assert counter.loaded == 5
    assert resumed_data.version == 8
    assert second.fit_loop.tally == 50


def test_module_hooks_see_and_change_the_checkpoint(make_trainer, tmp_path):
    class Hooked(Model):
        extra = None

        def on_save_checkpoint(self, checkpoint):
            checkpoint["extra"] = [1, 2]

        def on_load_checkpoint(self, checkpoint):
            self.extra = checkpoint["extra"]

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Hooked(), LOADERS["in order"]())
    trainer.save_checkpoint(tmp_path / "hooked.ckpt")
    module = Hooked()
    make_trainer().validate(module, LOADERS["in order"](), ckpt_path=tmp_path / "hooked.ckpt")
    assert module.extra == [1, 2]
    assert Hooked.load_from_checkpoint(tmp_path / "hooked.ckpt").extra == [1, 2]


def test_validate_test_and_predict_take_the_weights_of_a_checkpoint(fitted, make_trainer):
    trainer, module, path = fitted
    loader = DataLoader(data(12, 1), batch_size=6)
    for stage in ("validate", "test"):
        expected = getattr(trainer, stage)(module, loader)
        assert getattr(make_trainer(), stage)(Model(), loader, ckpt_path=path) == expected
    assert equal_states(make_trainer().predict(Model(), loader, ckpt_path=path), trainer.predict(module, loader))


def test_generators_of_python_numpy_and_torch_come_back(make_trainer, tmp_path):
    import random

    class Drawing(Model):
        def __init__(self):
            super().__init__()
            self.draws = []

        def training_step(self, batch, batch_idx):
            self.draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
            return super().training_step(batch, batch_idx)

    path = tmp_path / "draws.ckpt"
    module = Drawing()
    make_trainer(max_epochs=2, callbacks=SaveAt(path, 0, 2)).fit(module, LOADERS["shuffled"]())
    resumed = Drawing()
    seed_everything(1234)
    make_trainer(max_epochs=2).fit(resumed, LOADERS["shuffled"](), ckpt_path=path)
    assert resumed.draws == module.draws


def test_train_accuracy_of_torchmetrics_survives_a_resume_in_the_middle(make_trainer, tmp_path):
    import torchmetrics

    class Measured(Model):
        def __init__(self):
            super().__init__()
            self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)

        def training_step(self, batch, batch_idx):
            self.accuracy(self(batch[0]), batch[1])
            self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    path = tmp_path / "metric.ckpt"
    means, rest = EpochMeans(), EpochMeans()
    make_trainer(max_epochs=2, callbacks=[means, SaveAt(path, 0, 2)]).fit(Measured(), random_loader_of_eight())
    make_trainer(max_epochs=2, callbacks=[rest, SaveAt(path, -1)]).fit(
        Measured(), random_loader_of_eight(), ckpt_path=path
    )
    assert rest.epochs[0]["accuracy"] == means.epochs[0]["accuracy"]


def random_loader_of_eight():
    return random_loader(30, 7, in_features=8, num_classes=4)
