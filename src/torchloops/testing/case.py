"""One loop in its slot, and the runs that the contract compares."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchloops.data.datamodule import DataModule
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.loops import Loop
from torchloops.seeding import isolated_generators
from torchloops.testing.parts import RecordingCallback, random_loader
from torchloops.trainer import Trainer

__all__ = ["SLOTS", "Broken", "Case", "Outcome", "TinyData", "digest"]

SLOTS = {
    "fit_loop": "fit_loop",
    "epoch_loop": "fit_loop.epoch_loop",
    "batch_loop": "fit_loop.epoch_loop.batch_loop",
    "optimizer_loop": "fit_loop.epoch_loop.batch_loop.optimizer_loop",
    "manual_loop": "fit_loop.epoch_loop.batch_loop.manual_loop",
    "val_loop": "fit_loop.epoch_loop.val_loop",
    "validate_loop": "validate_loop",
    "test_loop": "test_loop",
    "predict_loop": "predict_loop",
}
"""Short names of slots, and where in the Trainer they are."""

_ENTRIES = {"fit_loop": "fit", "validate_loop": "validate", "test_loop": "test", "predict_loop": "predict"}
SEED = 7


class Broken(Exception):
    """A point of the contract does not hold; the message says why."""


class TinyData(DataModule):
    """64 samples to train on, in an order drawn anew each epoch, and 32 each to validate, test and predict."""

    def train_dataloader(self) -> Any:
        data: Any = random_loader(64, 16).dataset
        return torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        return random_loader(32, 16, seed=1)

    def test_dataloader(self) -> Any:
        return random_loader(32, 16, seed=2)

    def predict_dataloader(self) -> Any:
        return random_loader(32, 16, seed=3)


@dataclass
class Outcome:
    """What a run did to the module.

    Args:
        before: digest of the weights at the start.
        weights: digests of the weights when each fit, inner ones first, ended; those left at the end are last.
        finite: no weight was infinite or not a number at any of these times.
        output: digest of what the entry point returned.
    """

    before: str
    weights: list[str]
    finite: bool
    output: str

    def same_as(self, other: Outcome) -> bool:
        """Whether both came to the same bytes."""
        return (self.before, self.weights, self.output) == (other.before, other.weights, other.output)


class _Watch(RecordingCallback):
    """Takes the weights at the end of every fit."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[str] = []
        self.finite = True

    def begin(self) -> None:
        self.calls.clear()
        self.arguments.clear()
        self.weights, self.finite = [], True

    def take(self, module: nn.Module) -> None:
        self.weights.append(digest(module.state_dict()))
        self.finite &= all(bool(value.isfinite().all()) for value in module.parameters())

    def _recorder(self, name: str) -> Callable[..., None]:
        record = super()._recorder(name)

        def take(trainer: Any, module: nn.Module, *args: Any) -> None:
            record(trainer, module, *args)
            self.take(module)

        return take if name == "on_fit_end" else record


class Case:
    """A loop, where it stands, and what it trains.

    Args:
        loop: a factory without arguments (a class, a function), or a loop to copy.
        slot: a key of `SLOTS`, or a path from the Trainer such as ``"predict_loop.epoch_loop"``.
        make_module, make_data: factories without arguments.
        arguments: of the Trainers.

    Raises:
        ConfigurationError: the slot or the loop is none.
    """

    def __init__(
        self,
        loop: Loop | Callable[[], Loop],
        slot: str,
        make_module: Callable[[], nn.Module],
        make_data: Callable[[], Any],
        arguments: dict[str, Any],
    ) -> None:
        self.path = SLOTS.get(slot, slot)
        self.entry = _ENTRIES.get(self.path.partition(".")[0], "")
        if not self.entry:
            raise ConfigurationError(
                f"There is no slot {slot!r}; give one of {list(SLOTS)}, or a path from the Trainer such as "
                f'"predict_loop.epoch_loop".{did_you_mean(slot, SLOTS)}'
            )
        self._loop, self._make_module, self._make_data, self._arguments = loop, make_module, make_data, arguments
        self._last: Loop | None = None
        self.left_gradients = False
        self.name = type(self.make()).__name__
        self.trainer(self.make())

    def make(self) -> Loop:
        """A new loop."""
        if isinstance(self._loop, Loop):
            if self._loop._trainer is not None:
                raise ConfigurationError(
                    f"check_loop copies the {type(self._loop).__name__} it is given, which stands in a Trainer. "
                    "Give one that does not, or a function that makes one."
                )
            return copy.deepcopy(self._loop)
        loop = self._loop()
        if not isinstance(loop, Loop) or loop is self._last:
            raise ConfigurationError(
                f"check_loop takes a Loop, or a function that makes a new one at each call; {self._loop!r} returned "
                + ("the same one twice." if loop is self._last and loop is not None else f"{loop!r}.")
            )
        self._last = loop
        return loop

    def trainer(self, loop: Loop, **arguments: Any) -> Trainer:
        """A new Trainer with ``loop`` in its slot.

        Args:
            arguments: of the Trainer, instead of quiet ones that write nothing.
        """
        quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
                 "enable_checkpointing": False, "callbacks": [_Watch()]}  # fmt: skip
        trainer = Trainer(**{**quiet, **self._arguments, **arguments})
        *above, name = self.path.split(".")
        if above:
            parent: Any = trainer
            for step in above:
                parent = getattr(parent, step)
            parent.replace(**{name: loop})
        else:
            setattr(trainer, name, loop)
        return trainer

    def module(self) -> nn.Module:
        """A new module; its first part is in evaluation mode, so that it shows who changes modes."""
        with isolated_generators(SEED):
            module = self._make_module()
        if leaves := leaves_of(module):
            leaves[0].eval()
        return module

    def data(self) -> Any:
        """New data."""
        with isolated_generators(SEED):
            return self._make_data()

    def run(
        self, trainer: Trainer, module: nn.Module | None = None, data: Any = None, entry: str | None = None
    ) -> Outcome:
        """Call the entry point of the slot, or ``entry``, with the same random numbers every time."""
        module = self.module() if module is None else module
        data = self.data() if data is None else data
        watch = watch_of(trainer)
        watch.begin()
        before = digest(module.state_dict())
        with tempfile.TemporaryDirectory() as folder, isolated_generators(SEED):
            trainer.default_root_dir = folder
            gradients = torch.is_grad_enabled()
            try:
                output = getattr(trainer, entry or self.entry)(module, data)
            finally:
                self.left_gradients = torch.is_grad_enabled() is not gradients
                torch.set_grad_enabled(gradients)
        watch.take(module)
        return Outcome(before, list(watch.weights), watch.finite, digest(output))


def watch_of(trainer: Trainer) -> _Watch:
    """The callback of `Case.trainer`."""
    return next(c for c in trainer._configured_callbacks if isinstance(c, _Watch))


def leaves_of(module: nn.Module) -> list[nn.Module]:
    """Parts of a module without parts of their own."""
    return [part for part in module.modules() if part is not module and not list(part.children())]


def digest(value: Any) -> str:
    """A hash of nested data: equal for equal bytes."""
    found = hashlib.sha256()
    for piece in _pieces(value):
        found.update(piece)
    return found.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{key!r}:".encode()
            yield from _pieces(item)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
