"""Modules, data sets, a loop and a callback of the scenarios: small, and random wherever something can be."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from torchloops import LoopModule
from torchloops.callbacks import Callback
from torchloops.loops import Loop
from torchloops.testing import TinyClassifier, random_dataset

__all__ = [
    "AugmentedImages",
    "AveragedWeights",
    "Counting",
    "Descent",
    "Drawing",
    "Dropping",
    "EpochFromScratch",
    "Gathering",
    "Halves",
    "Importing",
    "Logging",
    "Mixing",
    "Noisy",
    "Normalized",
    "Recurrent",
    "Scheduled",
    "SeedStudy",
    "Sequences",
    "Stepping",
    "loader",
]


class AugmentedImages(Dataset):
    """`random_dataset` with noise drawn from the generators of torch, numpy and Python at each reading."""

    def __init__(self, n_samples: int) -> None:
        self.inputs, self.targets = random_dataset(n_samples).tensors

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        noise = torch.randn(32) + float(np.random.rand()) + random.gauss(0.0, 1.0)
        return self.inputs[index] + 0.1 * noise, self.targets[index]


class Sequences(Dataset):
    """Sequences ``(8, 4)`` with a target ``(8, 1)`` a time step."""

    def __init__(self, n_samples: int) -> None:
        self.inputs = torch.randn(n_samples, 8, 4, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] + 0.1 * torch.randn(8, 4), self.inputs[index].sum(1, keepdim=True).cumsum(0)


def loader(dataset: Any, batch_size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=batch_size, **options)


class Masked(TinyClassifier):
    """Draws dropout masks in every step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head = nn.Sequential(nn.Dropout(0.2), self.head)


class Dropping(Masked):
    """Draws dropout masks, and other numbers of each generator, in every step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))


class Normalized(Dropping):
    """Has buffers that training changes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone = nn.Sequential(*self.backbone, nn.BatchNorm1d(32))


class Logging(Dropping):
    """Logs torchmetrics, and values of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(10)
        self.validation = nn.ModuleList([MulticlassAccuracy(10), MulticlassAccuracy(10)])
        self.confusion = MulticlassConfusionMatrix(10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.accuracy(self(batch[0]), batch[1])
        self.confusion.update(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        if batch_idx % 2:
            self.log("now and then", 2.0 * loss.detach(), on_step=False, on_epoch=True, batch_size=batch_idx)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self(batch[0])
        self.validation[dataloader_idx](logits, batch[1])
        self.log("val/accuracy", self.validation[dataloader_idx])
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]), on_step=True, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.log("diagonal", self.confusion.compute().diagonal().sum().float())
        self.confusion.reset()


class Scheduled(Normalized):
    """Adam with a scheduler a step and one an epoch that watches a value."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        every_step = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        watching = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return [optimizer], [
            {"scheduler": every_step, "interval": "step"},
            {"scheduler": watching, "interval": "epoch", "monitor": "val/loss"},
        ]


class Importing(Dropping):
    """Draws from Python's generator, and imports scikit-learn on the way, which draws from it when it is imported."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 3:
            from sklearn.metrics import accuracy_score  # noqa: F401
        return super().training_step(batch, batch_idx) * random.random()


class Stepping(Dropping):
    """Steps two optimizers itself, one of them every second batch."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        second_loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(second_loss)
        if batch_idx % 2:
            second.step()
            second.zero_grad()
        self.lr_schedulers().step()
        self.log("second", second_loss)
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.backbone.parameters(), lr=0.01)
        second = torch.optim.SGD(self.head.parameters(), lr=0.05, momentum=0.9)
        return [first, second], [torch.optim.lr_scheduler.ExponentialLR(first, 0.95)]


class Halves(Dropping):
    """A backbone and a head, each with an optimizer and a yield of its own; with ``momentum`` no Adam."""

    def __init__(self, momentum: float | None = None) -> None:
        super().__init__()
        self.momentum = momentum

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features = self.backbone(batch[0]) * (1 + 0.1 * random.random())
        yield nn.functional.cross_entropy(self.head(features.detach()), batch[1]), "head"
        loss = nn.functional.cross_entropy(self.head(features), batch[1])
        self.log("train/loss", loss)
        yield loss, "backbone"

    def configure_optimizers(self) -> Any:
        backbone: Any = self.backbone.parameters()
        return {
            "backbone": torch.optim.SGD(backbone, lr=0.1, momentum=self.momentum)
            if self.momentum
            else torch.optim.Adam(backbone, lr=0.01),
            "head": torch.optim.SGD(self.head.parameters(), lr=0.1, momentum=0.9),
        }


class Recurrent(LoopModule):
    """A recurrent network on splits of two time steps."""

    truncated_bptt_steps = 2

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:
        outputs, hiddens = self.cells(batch[0], hiddens)
        loss = nn.functional.mse_loss(self.head(nn.functional.dropout(outputs, 0.1)), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "hiddens": hiddens}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Descent(Loop):
    """One epoch of gradient descent an iteration."""

    @property
    def done(self) -> bool:
        return self.progress.current == self.trainer.max_epochs

    def advance(self) -> None:
        module, (optimizer,) = self.trainer.module, self.trainer.optimizers
        for batch_idx, batch in enumerate(self.trainer.train_batches):
            optimizer.zero_grad()
            module.training_step(batch, batch_idx).backward()
            optimizer.step()


class AveragedWeights(Callback):
    """Keeps the mean of the weights after every epoch, and puts it into the module at the end."""

    def __init__(self) -> None:
        self.mean: dict[str, torch.Tensor] = {}
        self.count = 0

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.count += 1
        for name, value in module.state_dict().items():
            mean = self.mean.setdefault(name, torch.zeros_like(value, dtype=torch.float))
            mean += (value - mean) / self.count

    def on_train_end(self, trainer: Any, module: Any) -> None:
        own = module.state_dict()
        module.load_state_dict({name: mean.to(own[name].dtype) for name, mean in self.mean.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"mean": {name: value.clone() for name, value in self.mean.items()}, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean, self.count = dict(state_dict["mean"]), state_dict["count"]


# what sets the course of a run beside weights and counters


class Noisy(Dataset):
    """Draws from a generator of its own, and counts what it gave."""

    def __init__(self, n_samples: int) -> None:
        self.inputs, self.targets = random_dataset(n_samples).tensors
        self.rng, self.given = np.random.default_rng(0), 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        self.given += 1
        return self.inputs[index] * (1 + 0.001 * self.given) + 0.1 * float(self.rng.normal()), self.targets[index]


class Counting(Sampler):
    """Shuffles by a number of epochs that it counts itself, and a list that it shuffles in place."""

    def __init__(self, length: int) -> None:
        self.epoch, self.indices = -1, list(range(length))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Any:
        self.epoch += 1
        random.Random(self.epoch).shuffle(self.indices)
        random.shuffle(self.indices)
        return iter(self.indices)


class Mixing:
    """A collate function with a generator of its own."""

    def __init__(self) -> None:
        self.rng = random.Random(3)

    def __call__(self, samples: list[Any]) -> Any:
        inputs, targets = torch.utils.data.default_collate(samples)
        return inputs * self.rng.random(), targets


class Drawing(Callback):
    """Draws random numbers in all set-up."""

    def setup(self, *args: Any, **settings: Any) -> None:
        random.random(), torch.rand(1), np.random.rand()

    on_fit_start = on_train_start = setup


class Gathering(TinyClassifier):
    """Keeps outputs in a list between hooks, and trains by what it has kept."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []
        self.means: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        self.kept = torch.stack(self.outputs).mean()
        return loss * (1 + self.kept + sum(self.means))

    def on_train_epoch_end(self) -> None:
        self.means.append(torch.stack(self.outputs).mean().item())
        self.outputs.clear()


class SeedStudy(Loop):
    """Trains several times from the same weights, by a factor drawn anew each time; its state is declared."""

    saved = ("scores", "start")

    def on_run_start(self) -> None:
        self.scores, self.start = [], self.trainer.snapshot()

    @property
    def done(self) -> bool:
        return len(self.scores) == 3

    def advance(self) -> None:
        factor = random.random()
        with self.trainer.isolated(f"seed_{len(self.scores)}", start=self.start) as run:
            run.once("fit", self.fit_loop.run)
            scores = run.once("score", lambda: self.trainer.evaluate("validate"))
        self.scores.append({"factor": factor + random.random(), **scores})


class EpochFromScratch(Loop):
    """An epoch over the Trainer's batches that knows nothing of the built-in one."""

    @property
    def done(self) -> bool:
        return self.progress.current == self.trainer.num_training_batches

    def on_run_start(self, batches: Any) -> None:
        self.batches = iter(batches)

    def advance(self) -> None:
        trainer, module = self.trainer, self.trainer.module
        (optimizer,) = trainer.stepping_optimizers
        loss = module.training_step(trainer.to_device(next(self.batches)), self.progress.current)
        optimizer.zero_grad()
        module.manual_backward(loss)
        optimizer.step()
