"""Loaders that people have: shorter than they say, asked for once, with workers that end."""

import gc
import multiprocessing

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

from torchloops import LoopModule, Trainer

SAMPLES = TensorDataset(torch.arange(10.0).reshape(10, 1))


class Short(Sampler):
    """Says 10 and gives 7; as a batch sampler lists of one."""

    def __init__(self, batched=False, generator=None):
        self.batched, self.generator = batched, generator

    def __len__(self):
        return 10

    def __iter__(self):
        order = range(7) if self.generator is None else torch.randperm(10, generator=self.generator)[:7].tolist()
        return iter([[index] for index in order] if self.batched else order)


class ShortStream(IterableDataset):
    def __len__(self):
        return 10

    def __iter__(self):
        return iter(torch.arange(7.0).reshape(7, 1))


class ShortLoader:
    def __len__(self):
        return 10

    def __iter__(self):
        return iter([[torch.full((1, 1), float(index))] for index in range(7)])


SHORT = {
    "sampler": lambda: DataLoader(SAMPLES, sampler=Short()),
    "batch sampler": lambda: DataLoader(SAMPLES, batch_sampler=Short(batched=True)),
    "stream": lambda: DataLoader(ShortStream(), batch_size=1),
    "own loader": ShortLoader,
    "workers": lambda: DataLoader(SAMPLES, sampler=Short(), num_workers=1),
}


class Net(LoopModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen, self.validated_at = [], []

    def training_step(self, batch, batch_idx):
        samples = batch[0] if isinstance(batch, list) else batch
        self.seen.append(samples.item())
        return (self.weight * samples).sum()

    def validation_step(self, batch, batch_idx):
        self.validated_at.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet(folder, **arguments):
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder, **arguments)


@pytest.mark.parametrize("kind", SHORT)
def test_a_loader_that_ends_early_ends_the_accumulation_and_is_validated(kind, tmp_path):
    net = Net()
    trainer = quiet(tmp_path, max_epochs=2, accumulate_grad_batches=4, num_sanity_val_steps=0)
    trainer.fit(net, SHORT[kind](), DataLoader(SAMPLES, batch_size=10))
    assert net.seen == [*range(7)] * 2
    assert trainer.global_step == 4  # after 4 batches and after 3
    assert net.validated_at == [2, 4]
    mean_gradients = (0 + 1 + 2 + 3) / 4 + (4 + 5 + 6) / 4
    assert net.weight.item() == pytest.approx(1 - 0.1 * 2 * mean_gradients)


def test_a_short_shuffled_sampler_resumes_where_it_was(tmp_path):
    def loader():
        return DataLoader(SAMPLES, sampler=Short(generator=torch.Generator().manual_seed(3)))

    whole = Net()
    quiet(tmp_path / "whole", max_epochs=3).fit(whole, loader())
    for stop in range(1, 20):
        rest = Net()
        quiet(tmp_path / f"{stop}", max_epochs=3, max_steps=stop).fit(Net(), loader())
        quiet(tmp_path / f"{stop}", max_epochs=3).fit(rest, loader(), ckpt_path="last")
        assert rest.seen == whole.seen, stop  # the list of the module is resumed, too
        assert torch.equal(rest.weight, whole.weight)


class Asked(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.asked, self.validated = [], []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch[0]).sum() * torch.rand(())

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch[0].flatten().tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        self.asked.append("train")
        return DataLoader(TensorDataset(torch.rand(4, 1)), batch_size=2)

    def val_dataloader(self):
        self.asked.append("val")
        return DataLoader(TensorDataset(torch.rand(6, 1)), batch_size=2, shuffle=True)


@pytest.mark.filterwarnings("ignore")
def test_loaders_are_asked_for_once_a_fit_as_in_lightning(tmp_path):
    outcomes = []
    for make in (Trainer, pl.Trainer):
        torch.manual_seed(0)
        net = Asked()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = make(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **options)
        trainer.fit(net)
        trainer.validate(net)
        outcomes.append((net.asked, net.validated, net.weight.item(), torch.rand(1).item()))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == ["val", "train", "val"]


def test_loaders_given_to_validate_are_not_those_of_the_sanity_check(tmp_path):
    net = Net()
    trainer = quiet(tmp_path, max_epochs=1, check_val_every_n_epoch=5)
    trainer.fit(net, DataLoader(SAMPLES), DataLoader(SAMPLES))
    net.validated_at.clear()
    trainer.validate(net, DataLoader(SAMPLES, batch_size=5))
    assert len(net.validated_at) == 2


def test_persistent_workers_end_with_the_fit(tmp_path):
    loader = DataLoader(SAMPLES, num_workers=1, persistent_workers=True)
    trainer, before = quiet(tmp_path, max_epochs=2), multiprocessing.active_children()
    for _ in range(2):
        trainer.fit(Net(), loader, loader)
        gc.collect()
        assert not {*multiprocessing.active_children()} - {*before}
