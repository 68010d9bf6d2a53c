"""Batches that are None, steps that take an iterator, and validation by the clock."""

import time
import warnings
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops import LoopModule, Trainer
from torchloops.errors import CheckpointError, ConfigurationError

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


class Data:
    def __init__(self, missing=(), number=6):
        self.missing, self.number = missing, number

    def __len__(self):
        return self.number

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        batches = [torch.randn(2, 3, generator=generator) for _ in range(self.number)]
        return iter([None if index in self.missing else batch for index, batch in enumerate(batches)])


class Net(LoopModule):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 1), []

    def loss(self, batch):
        return self.layer(batch).square().mean()

    def training_step(self, batch, batch_idx):
        self.calls.append(("train", batch_idx))
        return self.loss(batch)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        assert batch is not None
        return batch

    def on_train_batch_start(self, batch, batch_idx):
        assert batch is not None

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.calls.append(("end", batch_idx))

    def validation_step(self, batch, batch_idx):
        self.calls.append(("validate", batch_idx))
        self.log("val/loss", self.loss(batch))

    def predict_step(self, batch, batch_idx):
        return batch_idx

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("missing", [(), (0,), (2,), (5,), (4, 5), (1, 3, 5)])
@pytest.mark.parametrize("closure", [False, True])
def test_batches_that_are_none_are_left_out(missing, accumulate, closure):
    class WithClosure(Net):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer.step(closure=optimizer_closure)

    torch.manual_seed(0)
    net = (WithClosure if closure else Net)()
    by_hand = nn.Linear(3, 1)
    by_hand.load_state_dict(net.layer.state_dict())
    trainer = Trainer(max_epochs=2, accumulate_grad_batches=accumulate, enable_checkpointing=False, **QUIET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(net, Data(missing))
    assert any("gave None for a batch" in str(one.message) for one in caught) == bool(missing)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    steps = 0
    for _ in range(2):
        for index, batch in enumerate(Data(missing)):
            if batch is not None:
                (by_hand(batch).square().mean() / accumulate).backward()
            if (index + 1) % accumulate == 0 or index == 5:
                if by_hand.weight.grad is not None:
                    optimizer.step()
                    steps += 1
                optimizer.zero_grad()
    assert torch.equal(net.layer.weight, by_hand.weight)
    assert trainer.global_step == steps
    given = [index for index in range(6) if index not in missing]
    assert [call for call in net.calls if call[0] == "end"] == [("end", index) for index in given] * 2


def test_batches_that_are_none_in_evaluation():
    net = Net()
    trainer = Trainer(enable_checkpointing=False, **QUIET)
    with pytest.warns(UserWarning, match="The validation data loader gave None"):
        (values,) = trainer.validate(net, Data((1, 5)), verbose=False)
    with torch.no_grad():
        expected = torch.stack([net.loss(batch) for batch in Data((1, 5)) if batch is not None]).mean()
    assert values["val/loss"] == pytest.approx(expected.item())
    with pytest.warns(UserWarning, match="The predict data loader gave None"):
        assert trainer.predict(net, Data((0,))) == [1, 2, 3, 4, 5]


def collate_without_broken(items):
    kept = [item for item in items if item[0] >= 0]
    return torch.stack([item.float().repeat(3) for (item,) in kept]) if kept else None


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_run_counts_those_left_out(tmp_path, cut):
    def fit(stop=None, **options):
        torch.manual_seed(0)
        net = Net()
        data = TensorDataset(torch.tensor([1, 2, -1, -1, 3, 4, -1, 5]))
        loader = DataLoader(data, 2, collate_fn=collate_without_broken)
        if stop is not None:

            def end(trainer, module, *_):
                if len([call for call in module.calls if call[0] == "end"]) == stop:
                    trainer.save_checkpoint(tmp_path / "cut.ckpt")
                    trainer.should_stop = True

            from torchloops import Callback

            callback = Callback()
            callback.on_train_batch_end = end
            options["callbacks"] = [callback]
        trainer = Trainer(max_epochs=2, accumulate_grad_batches=2, enable_checkpointing=False, **QUIET,
                          callbacks=options.pop("callbacks", None))  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(net, loader, **options)
        return net, trainer

    whole, trainer = fit()
    fit(cut)
    resumed, other = fit(ckpt_path=tmp_path / "cut.ckpt")
    assert torch.equal(whole.layer.weight, resumed.layer.weight)
    assert (trainer.global_step, other.global_step) == (4, 4)


@pytest.mark.parametrize("base", [LoopModule, pl.LightningModule])
def test_a_step_may_take_an_iterator(base):
    class Iterating(base):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(3, 1), []

        def training_step(self, dataloader_iter):
            batch, batch_idx, dataloader_idx = next(dataloader_iter)
            self.seen.append((batch_idx, dataloader_idx))
            return self.layer(batch).square().mean()

        def validation_step(self, dataloader_iter):
            batch, batch_idx, dataloader_idx = next(dataloader_iter)
            self.log("val", batch.mean() + batch_idx + 10 * dataloader_idx)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    results = []
    for engine in (pl.Trainer, Trainer):
        torch.manual_seed(0)
        net = Iterating()
        if engine is pl.Trainer and base is LoopModule:
            continue
        trainer = engine(max_epochs=2, enable_checkpointing=False, num_sanity_val_steps=0, **QUIET)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(net, Data(), Data(number=3))
        results.append((net.layer.weight, net.seen, trainer.callback_metrics["val"]))
    assert results[-1][1] == [(index, 0) for index in range(6)] * 2
    for one in results:
        assert torch.equal(one[0], results[-1][0])
    # Lightning weighs a batch by the one before it
    expected = torch.stack([batch.mean() + index for index, batch in enumerate(Data(number=3))]).mean()
    assert results[-1][2].item() == pytest.approx(expected.item())


def test_a_second_batch_in_a_step_is_refused():
    class Greedy(Net):
        def training_step(self, dataloader_iter):
            next(dataloader_iter)
            next(dataloader_iter)

    with pytest.raises(ConfigurationError, match="has one batch"):
        Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(Greedy(), Data())


@pytest.mark.parametrize("interval", [timedelta(seconds=2.5), {"seconds": 2.5}, "00:00:00:02"])
def test_validation_by_the_clock(monkeypatch, interval):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(Net):
        def training_step(self, batch, batch_idx):
            now[0] += 1.0
            return super().training_step(batch, batch_idx)

    net = Slow()
    trainer = Trainer(
        max_epochs=2, val_check_interval=interval, num_sanity_val_steps=0, enable_checkpointing=False, **QUIET
    )
    trainer.fit(net, Data(), Data(number=1))
    done = [len([call for call in net.calls[:at] if call[0] == "train"])
            for at, call in enumerate(net.calls) if call[0] == "validate"]  # fmt: skip
    assert done == ([2, 4, 6, 8, 10, 12] if isinstance(interval, str) else [3, 6, 9, 12])


@pytest.mark.parametrize("interval", ["half an hour", {"second": 1}, timedelta(0)])
def test_wrong_times_are_named(interval):
    with pytest.raises(ConfigurationError, match="val_check_interval as a time"):
        Trainer(val_check_interval=interval)


def test_a_time_is_compared_at_a_resume(tmp_path):
    def trainer(**options):
        return Trainer(max_epochs=1, default_root_dir=tmp_path, num_sanity_val_steps=0, **QUIET, **options)

    trainer(val_check_interval=timedelta(hours=1)).fit(Net(), Data(), Data(number=1))
    trainer(val_check_interval={"hours": 1}).fit(Net(), Data(), Data(number=1), ckpt_path="last")
    with pytest.raises(CheckpointError, match="val_check_interval was '1:00:00' and is '2:00:00'"):
        trainer(val_check_interval={"hours": 2}).fit(Net(), Data(), Data(number=1), ckpt_path="last")
