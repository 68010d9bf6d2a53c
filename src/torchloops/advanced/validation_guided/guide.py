"""The guide pass: which batches guide, and the loss on them, with nothing else changed by it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchloops.errors import ConfigurationError, DataError
from torchloops.loops.step import call_step
from torchloops.module import module_modes
from torchloops.schema import COUNT, Either, check
from torchloops.seeding import isolated_generators, random_state, restore_random_state
from torchloops.trainer.checkpoint_schema import DATA_POSITION, random_states
from torchloops.trainer.data import Batches

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["GuideBatches", "GuidePass"]

_POSITION = {"passes": COUNT, "taken": COUNT, "batches": DATA_POSITION}

_END = object()


class GuideBatches:
    """Batches of the guide data, a few for each step, pass after pass.

    Args:
        loader: an iterable of batches.
        per_step: batches for a step, going on where the last step stopped; None: all of them.
    """

    def __init__(self, loader: Any, per_step: int | None) -> None:
        self.batches = Batches(loader, name="guide data")
        self.per_step = per_step
        self.passes = 0
        self.taken = 0
        self._iterator: Iterator[Any] | None = None

    def take(self) -> Iterator[Any]:
        """The batches for one step."""
        if self.per_step is None:
            yield from self._whole_pass()
            return
        for _ in range(self.per_step):
            yield self._next()

    def _whole_pass(self) -> Iterator[Any]:
        iterator = self.batches.start_epoch(self.passes)
        self.passes += 1
        batch = next(iterator, _END)
        if batch is _END:
            raise _no_batches()
        while batch is not _END:
            yield batch
            batch = next(iterator, _END)

    def _next(self) -> Any:
        if self._iterator is None:  # the first batch, or the first after a load
            self._iterator = self.batches.start_epoch(self.passes, skip=self.taken)
        batch = next(self._iterator, _END)
        if batch is _END:
            if self.taken == 0:
                raise _no_batches()
            self.passes, self.taken = self.passes + 1, 0
            self._iterator = self.batches.start_epoch(self.passes)
            batch = next(self._iterator, _END)
            if batch is _END:
                raise _no_batches()
        self.taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain data."""
        return {"passes": self.passes, "taken": self.taken, "batches": self.batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        check(state, _POSITION, "The guide data: state")
        self.passes, self.taken = state["passes"], state["taken"]
        self.batches.load_state_dict(state["batches"])
        self._iterator = None


class GuidePass:
    """Computes the loss on guide batches and leaves the module, what it logged and the generators as they were.

    Args:
        trainer: the Trainer that runs.
        data: the guide batches.
        guide_step: ``(module, batch) -> loss``; None: the module's ``training_step``.
        mode: "eval", or "train" to leave the module's modes as they are.
        seed: of the random generators that only the guide pass draws from.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: GuideBatches,
        guide_step: Callable[[Any, Any], Tensor] | None,
        mode: str,
        seed: int,
    ) -> None:
        self.trainer, self.data, self.mode = trainer, data, mode
        self._move = trainer.batch_mover()
        self._loss = _loss_function(trainer, guide_step)
        self._loggers = [part for part in trainer.module.modules() if "log" in part.__dict__]
        self._metrics = [part for part in trainer.module.modules() if hasattr(part, "_defaults")]
        in_memory = isinstance(data.batches.loader, list | tuple)
        self._draws = not (in_memory and mode == "eval" and guide_step is None)
        self._seed: int | None = seed
        self._random: dict[str, Any] | None = None

    def loss(self, index: int, reduction: str) -> Tensor:
        """The guide loss for an optimizer, a detached tensor of one element, the same in all processes.

        Args:
            index: which optimizer, for a ``training_step`` that is told.
            reduction: "mean" or "sum" over the guide batches.
        """
        total: Any = None
        count = 0
        with self._undisturbed(), torch.no_grad():
            for batch_idx, batch in enumerate(self._batches()):
                loss = self._loss(batch, batch_idx, index).detach()
                total, count = loss if total is None else total + loss, count + 1
        total = self.trainer.engine.all_reduce(total, "mean")  # so that a sum is over batches of all processes together
        return total / count if reduction == "mean" else total

    def gradient(self, index: int, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """The mean guide loss and its gradient for ``parameters``, the same in all processes; None: not reached."""
        engine = self.trainer.engine
        total: Any = 0
        sums: list[Tensor | None] = [None] * len(parameters)
        count = 0
        with self._undisturbed(), torch.enable_grad():
            for batch_idx, batch in enumerate(self._batches()):
                loss = self._loss(batch, batch_idx, index)
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
                sums = [_add(one, other) for one, other in zip(sums, found, strict=True)]
                total, count = total + loss.detach(), count + 1
        gradient = [None if one is None else engine.all_reduce(one / count, "mean") for one in sums]
        return engine.all_reduce(total / count, "mean"), gradient

    def _batches(self) -> Iterator[Any]:
        for batch in self.data.take():
            yield batch if self._move is None else self._move(batch, 0)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A context for a guide pass, with generators of its own."""
        with self._own_generators() if self._draws else nullcontext(), self.unnoticed(self.mode):
            yield

    @contextmanager
    def unnoticed(self, mode: str = "eval") -> Iterator[None]:
        """A context that leaves modes, logged values and metrics as they were; in eval mode unless ``mode`` differs."""
        module = self.trainer.module
        with ExitStack() as stack:
            if mode == "eval":
                stack.enter_context(module_modes(module))
                module.eval()
            for part in self._loggers:
                stack.callback(part.__dict__.__setitem__, "log", part.__dict__["log"])
                part.__dict__["log"] = _log_nothing
            for metric in self._metrics:
                stack.callback(_restore_metric, metric, _metric_state(metric))
            yield

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        with isolated_generators(self._seed):
            self._seed = None
            if self._random is not None:
                restore_random_state(self._random)
            yield
            self._random = random_state()

    def state_dict(self) -> dict[str, Any]:
        """Position and generators, as plain data."""
        return {"data": self.data.state_dict(), "random": self._random}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        check(state, {"data": Any, "random": Either(random_states, None)}, "The guide: state")
        self.data.load_state_dict(state["data"])
        self._random = state["random"]


def _loss_function(trainer: Trainer, guide_step: Callable[[Any, Any], Tensor] | None) -> Callable[..., Tensor]:
    """``(batch, batch_idx, optimizer_idx) -> loss`` under the run's precision."""
    module = trainer.module
    name = f"{type(module).__name__}.training_step"
    if guide_step is not None:
        step = trainer.engine.under_precision(lambda batch: guide_step(module, batch))
        return lambda batch, batch_idx, index: _check(step(batch), "guide_step")
    what = "carries hidden states" if getattr(module, "truncated_bptt_steps", None) else ""
    if inspect.isgeneratorfunction(module.training_step):
        what = "yields"
    if what:
        raise ConfigurationError(
            f"{name} {what}, so it cannot be asked for a guide loss. Give the loss as a function: "
            "ValidationGuidedLoop(guide_step=lambda module, batch: ...)."
        )
    several = len(trainer.optimizers) > 1
    step = call_step(trainer, synced=False, several=several)
    if several:
        return lambda batch, batch_idx, index: _check(step(batch, batch_idx, index), name)
    return lambda batch, batch_idx, index: _check(step(batch, batch_idx), name)


def _check(output: Any, name: str) -> Tensor:
    loss = output["loss"] if isinstance(output, dict) and "loss" in output else output
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigurationError(f"The guide loss is a tensor of one element; {name} returned {came}.")
    loss = loss.reshape(())
    return loss.float() if loss.dtype in (torch.float16, torch.bfloat16) else loss


def _add(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _no_batches() -> DataError:
    return DataError("The guide data has no batches. Give a guide_dataloader that can be gone through again and again.")


def _log_nothing(*_: Any, **__: Any) -> None:
    """Stands in for ``self.log`` during a guide pass."""


_METRIC_ATTRIBUTES = ("_update_count", "_update_called", "_computed", "_forward_cache")


def _metric_state(metric: Any) -> dict[str, Any]:
    """Copies of what a torchmetrics metric has collected."""
    state = {name: _copy(getattr(metric, name)) for name in metric._defaults}
    return state | {name: metric.__dict__[name] for name in _METRIC_ATTRIBUTES if name in metric.__dict__}


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else list(value) if isinstance(value, list) else value


def _restore_metric(metric: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(metric, name, value)
