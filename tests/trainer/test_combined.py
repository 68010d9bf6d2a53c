"""Several training loaders in one step: as Lightning combines them, and resumed exactly."""

import collections
import contextlib
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchloops import Callback, CombinedLoader, LoopModule, Trainer
from torchloops.errors import CheckpointError, ConfigurationError, DataError

MODES = ["min_size", "max_size", "max_size_cycle", "sequential"]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


class Noisy(Dataset):
    """Draws from the global generators, as augmentation does."""

    def __init__(self, start, length):
        self.start, self.length = start, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([self.start + index, torch.rand(()).item(), np.random.rand()])


class Stream(IterableDataset):
    def __init__(self, start, length):
        self.start, self.length = start, length

    def __iter__(self):
        return iter([torch.tensor([self.start + index, 0.0, 0.0]) for index in range(self.length)])


def loader(start, length, batch_size=2, **options):
    return DataLoader(Noisy(start, length), batch_size, shuffle=True, **options)


def loaders(kind="dict"):
    a, b, c = loader(0, 7), loader(100, 12, 3), loader(200, 4, 2, generator=torch.Generator().manual_seed(3))
    return {"a": a, "b": [b, c]} if kind == "dict" else [a, b, c]


class Net(LoopModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 1), []

    def training_step(self, batch, batch_idx):
        parts = flat(batch)
        self.seen.append([None if part is None else part.tolist() for part in parts])
        return sum(self.layer(part).mean() for part in parts if part is not None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-5)


def flat(batch):
    if isinstance(batch, dict):
        return [part for value in batch.values() for part in flat(value)]
    return [part for value in batch for part in flat(value)] if isinstance(batch, list | tuple) else [batch]


def fit(data, module=None, callbacks=(), root=None, **options):
    torch.manual_seed(0)
    np.random.seed(0)
    module = module or Net()
    arguments = {"max_epochs": 3, "enable_checkpointing": False, **QUIET, **options}
    ckpt_path = arguments.pop("ckpt_path", None)
    trainer = Trainer(callbacks=list(callbacks), default_root_dir=root, **arguments)
    with contextlib.suppress(Stop):
        trainer.fit(module, data, ckpt_path=ckpt_path)
    return module.seen, trainer


class Stop(Exception):
    """Ends a fit."""


class StopAt(Callback):
    def __init__(self, number):
        self.number = number

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.number -= 1
        if not self.number:
            trainer.save_checkpoint(trainer.default_root_dir / "cut.ckpt")
            raise Stop


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min_size", [(1, 6), (2, 7)]),
        ("max_size", [(1, 6), (2, 7), (None, 8)]),
        ("max_size_cycle", [(1, 6), (2, 7), (1, 8)]),
        ("sequential", [1, 2, 6, 7, 8]),
    ],
)
def test_modes(mode, expected):
    combined = CombinedLoader([[1, 2], [6, 7, 8]], mode)
    for _ in range(2):
        assert [tuple(batch) if isinstance(batch, list) else batch for batch in combined] == expected
    assert len(combined) == len(expected)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("kind", ["dict", "list"])
@pytest.mark.parametrize("mode", MODES[:3])  # Lightning trains with no other
def test_batches_are_those_of_lightning(mode, kind):
    """The order of every loader and the draws of the whole are the same; what a sample draws is seeded apart."""
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.utilities import CombinedLoader as Theirs

    def plain(start, length, batch_size, **options):
        return DataLoader(
            TensorDataset(torch.arange(start, start + length).float()[:, None].repeat(1, 3)),
            batch_size,
            shuffle=True,
            collate_fn=lambda items: torch.stack([item[0] for item in items]),
            **options,
        )

    def data():
        a, b, c = plain(0, 7, 2), plain(100, 12, 3), plain(200, 4, 2)
        return {"a": a, "b": [b, c]} if kind == "dict" else [a, b, c]

    torch.manual_seed(0)
    theirs = _LightningNet(pl)
    trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(theirs, Theirs(data(), mode))
    for given in (CombinedLoader(data(), mode), Theirs(data(), mode)):
        torch.manual_seed(0)
        ours = _LightningNet(pl)
        Trainer(max_epochs=3, enable_checkpointing=False, **QUIET).fit(ours, given)
        assert ours.seen == theirs.seen
        assert torch.equal(ours.layer.weight, theirs.layer.weight)


def _LightningNet(pl):
    class LightningNet(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(3, 1), []

        training_step, configure_optimizers = Net.training_step, Net.configure_optimizers

    return LightningNet()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("kind", ["dict", "list"])
def test_several_training_loaders_are_combined_as_by_lightning(kind):
    pl = pytest.importorskip("pytorch_lightning")

    def data():
        given = [
            DataLoader(torch.arange(start, start + length).float()[:, None].repeat(1, 3), 2, shuffle=True)
            for start, length in ((0, 7), (100, 3))
        ]
        return given if kind == "list" else {"a": given[0], "b": given[1]}

    seen = []
    for engine in (pl.Trainer, Trainer):
        torch.manual_seed(0)
        module = _LightningNet(pl)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine(max_epochs=2, enable_checkpointing=False, **QUIET).fit(module, data())
        seen.append(module.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 8


CUTS = [(mode, cut) for mode in MODES for cut in (1, 2, 3, 4, 5, 7, 9) if mode != "min_size" or cut < 6]


@pytest.mark.parametrize(("mode", "cut"), CUTS)
def test_a_cut_run_goes_on_with_the_same_batches(tmp_path, mode, cut):
    whole, _ = fit(CombinedLoader(loaders(), mode))
    before, _ = fit(CombinedLoader(loaders(), mode), callbacks=[StopAt(cut)], root=tmp_path)
    after, trainer = fit(CombinedLoader(loaders(), mode), root=tmp_path, ckpt_path=tmp_path / "cut.ckpt")
    assert len(before) == cut < len(whole)
    assert before == whole[:cut]
    assert after == whole  # the module's list is an attribute that is resumed too
    assert trainer.global_step == len(whole)


@pytest.mark.parametrize("cut", [2, 5])
def test_a_cut_run_over_workers_and_streams_goes_on(tmp_path, cut):
    def data():
        streams = DataLoader(Stream(500, 5), 2)
        return {"a": loader(0, 7, num_workers=1), "b": streams}

    whole, _ = fit(data())
    before, _ = fit(data(), callbacks=[StopAt(cut)], root=tmp_path)
    after, _ = fit(data(), root=tmp_path, ckpt_path=tmp_path / "cut.ckpt")
    assert before == whole[:cut]
    assert after == whole


def test_loaders_draw_other_numbers_for_the_samples_of_one_place():
    seen, _ = fit([loader(0, 4), loader(0, 4)], max_epochs=1)
    for first, second in seen:
        assert [row[1] for row in first] != [row[1] for row in second]


def test_a_limit_and_overfitting_count_combined_batches(tmp_path):
    seen, trainer = fit(loaders(), limit_train_batches=2)
    assert len(seen) == 6
    assert trainer.num_training_batches == 2
    assert set(trainer.train_dataloader) == {"a", "b"}
    seen, _ = fit(loaders(), overfit_batches=2)
    assert seen[:2] == seen[2:4] == seen[4:]


def test_other_data_at_a_resume_is_refused(tmp_path):
    fit(loaders(), callbacks=[StopAt(2)], root=tmp_path)
    with pytest.raises(CheckpointError, match="number of samples"):
        fit({"a": loader(0, 8), "b": [loader(100, 12, 3), loader(200, 4)]}, root=tmp_path,
            ckpt_path=tmp_path / "cut.ckpt")  # fmt: skip


def test_validation_over_a_combined_loader(tmp_path):
    class Evaluating(Net):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.evaluated.append((sorted(batch) if isinstance(batch, dict) else None, dataloader_idx))

    for mode, expected in (("min_size", [(["a", "b"], 0)] * 2), ("sequential", [(None, 0)] * 4 + [(None, 1)] * 2)):
        module = Evaluating()
        module.evaluated = []
        data = CombinedLoader({"a": loader(0, 7), "b": loader(9, 4)}, mode)
        Trainer(**QUIET, enable_checkpointing=False).validate(module, data, verbose=False)
        assert module.evaluated == expected


def test_wrong_modes_and_nothing():
    with pytest.raises(ConfigurationError, match='Did you mean "max_size_cycle"'):
        CombinedLoader([[1]], "max_size_cyle")
    with pytest.raises(DataError, match="no loaders"):
        CombinedLoader({})


def test_a_named_tuple_of_loaders_gives_named_tuples():
    Pair = collections.namedtuple("Pair", "a b")
    assert list(CombinedLoader(Pair([1, 2], [3, 4]))) == [Pair(1, 3), Pair(2, 4)]
