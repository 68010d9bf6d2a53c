"""A classifier, data for it, and a callback that writes down its hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops.callbacks.callback import HOOKS, Callback
from torchloops.module import LoopModule

__all__ = ["RecordingCallback", "TinyClassifier", "random_batches", "random_dataset", "random_loader"]


class TinyClassifier(LoopModule):
    """A multilayer perceptron with one hidden layer that trains in milliseconds.

    Logs ``train/loss``, and per epoch ``val/loss``, ``val/accuracy``, ``test/loss`` and ``test/accuracy``. A
    batch is ``(inputs, targets)``: floats ``(batch, in_features)`` and class indices ``(batch,)``.

    Args:
        in_features: numbers a sample has.
        hidden: width of the hidden layer.
        num_classes: number of classes.
        lr: learning rate.
        optimizer: name of a class of ``torch.optim``.
    """

    def __init__(
        self,
        in_features: int = 32,
        hidden: int = 32,
        num_classes: int = 10,
        lr: float = 0.05,
        optimizer: str = "SGD",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.optimizer = optimizer
        self.backbone = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(batch, num_classes)`` of inputs ``(batch, in_features)``."""
        return self.head(self.backbone(inputs))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self(inputs), targets)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(batch, num_classes)``."""
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        return self(inputs).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        return getattr(torch.optim, self.optimizer)(self.parameters(), lr=self.lr)

    def _evaluate(self, stage: str, batch: Any) -> None:
        inputs, targets = batch
        logits = self(inputs)
        self.log(f"{stage}/loss", nn.functional.cross_entropy(logits, targets))
        self.log(f"{stage}/accuracy", (logits.argmax(dim=1) == targets).float().mean())


def random_dataset(
    n_samples: int = 96, seed: int = 0, in_features: int = 32, num_classes: int = 10, noise: float = 1.0
) -> TensorDataset:
    """Noisy points around one centre per class, the same for the same arguments; global generators stay as they are.

    Returns:
        a data set of ``(input, target)``: floats ``(in_features,)`` and a class index. The centres depend on
        ``in_features`` and ``num_classes`` only, so that data of another seed is test data of the same problem.
    """
    centres = torch.randn(num_classes, in_features, generator=torch.Generator().manual_seed(12345))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(num_classes, (n_samples,), generator=generator)
    inputs = centres[targets] + noise * torch.randn(n_samples, in_features, generator=generator)
    return TensorDataset(inputs, targets)


def random_loader(n_samples: int = 96, batch_size: int = 32, seed: int = 0, **options: Any) -> DataLoader[Any]:
    """A loader of `random_dataset` without shuffling; ``options`` go to that."""
    return DataLoader(random_dataset(n_samples, seed, **options), batch_size=batch_size)


def random_batches(n_batches: int = 3, batch_size: int = 32, seed: int = 0, **options: Any) -> list[Any]:
    """`random_dataset` as a list of batches ``(inputs, targets)``."""
    inputs, targets = random_dataset(n_batches * batch_size, seed, **options).tensors
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


class RecordingCallback(Callback):
    """Writes down the name of every hook that is called.

    It defines all hooks of `Callback`, and those of other names that it is told, for hooks that a loop of yours
    calls by ``trainer.call_hook``. Inner runs are recorded by the same object.

    Args:
        *more_hooks: names of further hooks.

    Attributes:
        calls: names in the order of the calls.
        arguments: what each call got after the Trainer and the module.
    """

    def __init__(self, *more_hooks: str) -> None:
        self.calls: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []
        for name in (*HOOKS, *more_hooks):
            self.__dict__[name] = self._recorder(name)

    def fresh(self) -> RecordingCallback:
        """This callback."""
        return self

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(trainer: Any, module: Any, *args: Any) -> None:
            self.calls.append(name)
            self.arguments.append(args)

        return record
