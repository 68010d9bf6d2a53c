"""One optimizer of a training step that yields."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops.optimizer_step import OptimizerStep, unused_closure

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["Part"]


class Part:
    """Steps one optimizer on a loss that is already computed; only its own parameters get gradients.

    A part learns of its loss after the graph is built, so the backward pass is told which parameters to reach
    (``loss.backward(inputs=...)``). A module whose own ``backward`` does not take ``inputs`` is called with the
    gradients of the other optimizers' parameters switched off, and they are switched on again also after an error.

    Args:
        trainer: the Trainer that runs.
        index: which of its optimizers, from 0.
        label: how messages call it.
        retain_graph: keep the graph of a loss for the parts after it.

    Raises:
        ConfigurationError: the optimizer needs a closure that evaluates the loss again, as LBFGS does.
    """

    def __init__(self, trainer: Trainer, index: int, label: str, retain_graph: bool) -> None:
        self.trainer = trainer
        self.label = label
        self.optimizer = trainer.optimizers[index]
        if trainer.engine.needs_closure(self.optimizer):
            raise ConfigurationError(
                f"YieldLoop cannot step {label}, {type(self.optimizer).__name__}: it evaluates the loss many times a "
                "step through a closure, and a training_step that has yielded cannot be rewound to compute it again. "
                "Use an optimizer without a closure (SGD, Adam), or return the loss and let OptimizerLoop step it."
            )
        self.step = OptimizerStep(trainer, index, _computed_already, False, averages=True)
        self.step.checked = True  # every yield is checked, with its number
        self._options: dict[str, Any] = {"retain_graph": True} if retain_graph else {}
        self._backward: Any = self.step.backward or Tensor.backward
        self._takes_inputs = not is_overridden(trainer.module, "backward") or _takes(trainer.module.backward, "inputs")
        self._reaches = False
        self.last_batch = -1, -1
        self.step.backward = self._backward_to_own

    @property
    def accumulates(self) -> bool:
        """Whether a step takes the gradients of several batches."""
        return self.step.accumulate != 1

    def optimize(self, loss: Tensor, batch_idx: int) -> None:
        """Gradients of ``loss``, and a step when one is due."""
        step = self.step
        if not step.is_due(batch_idx):
            step.backpropagate(loss, False)
            return
        if step.takes_closure:
            once = _Once(step, loss)
            step.step(once)
            if not once.called:
                raise unused_closure()
        else:
            step.backpropagate(loss, True)
            step.step()
        step.starts = True

    def finish(self, batch_idx: int) -> None:
        """Step on what earlier batches left behind, where a step is due and this batch had no loss for it."""
        step = self.step
        if step.starts or not step.is_due(batch_idx):
            return
        step.make_ready()
        if step.takes_closure:
            step.step(lambda: None)
        else:
            step.step()
        step.starts = True

    def _own(self) -> list[Tensor]:
        """Its parameters that are trained; asked for anew, since groups may be added and frozen on the way."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def _backward_to_own(self, loss: Tensor) -> None:
        own = self._own()
        if not own:
            raise ConfigurationError(f"No parameter of {self.label} requires a gradient: unfreeze one, or yield None.")
        if self._takes_inputs:
            self._backward(loss, inputs=own, **self._options)
        else:
            with self._others_off({id(parameter) for parameter in own}):
                self._backward(loss)
        if not self._reaches:
            self._check_reach(own)

    @contextmanager
    def _others_off(self, own: set[int]) -> Iterator[None]:
        others = [
            parameter
            for optimizer in self.trainer.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) not in own and parameter.requires_grad
        ]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _check_reach(self, own: list[Tensor]) -> None:
        if all(parameter.grad is None for parameter in own):
            raise ConfigurationError(
                f"The loss yielded for {self.label} depends on none of its parameters. Yield the losses in the order "
                'of the optimizers, or name them: yield loss, "name".'
            )
        self._reaches = True


class _Once:
    """A closure for ``module.optimizer_step``: the backward pass at the first call."""

    def __init__(self, step: OptimizerStep, loss: Tensor) -> None:
        self.step = step
        self.loss = loss
        self.called = False

    def __call__(self) -> Tensor:
        if self.called:
            raise ConfigurationError(
                "optimizer_step called its closure twice, and a training_step that has yielded cannot compute the "
                "loss again. Call it once, or use OptimizerLoop."
            )
        self.called = True
        self.step.backpropagate(self.loss, True)
        return self.loss


def _computed_already(*_: Any) -> None:
    raise ConfigurationError("YieldLoop computes losses by running training_step as a generator.")


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
