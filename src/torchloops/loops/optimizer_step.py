"""What stands between a batch and one optimizer's step: loss, gradients, hooks, clipping, accumulation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden

if TYPE_CHECKING:
    from torchloops.loops.loop import Progress
    from torchloops.trainer import Trainer

__all__ = ["OptimizerStep", "unused_closure"]


class OptimizerStep:
    """One optimizer on one batch, everything it needs looked up once a run.

    ``counted`` holds the progress of loops that have no run of their own because `optimize` is called in their place;
    without ``wants_output``, nobody reads what `optimize` returns; with ``counts_steps``, `optimize` counts the steps,
    and no hook of the optimizer does.

        loss = training_step(...)
        on_before_zero_grad; zero_grad                 # first batch of an accumulation
        on_before_backward; backward; on_after_backward
        on_before_optimizer_step; clip gradients       # last batch of an accumulation, or of the epoch
        optimizer.step()

    Args:
        trainer: the Trainer that runs.
        index: which of its optimizers.
        training_step: ``(batch, batch_idx[, index]) -> loss``, a dict with ``"loss"``, or None.
        pass_index: hand ``index`` to ``training_step``.
        averages: average the gradients over the processes before a step, because the strategy does not.
    """

    __slots__ = (
        "accumulate",
        "after_backward",
        "backward",
        "before_backward",
        "before_step",
        "before_zero_grad",
        "checked",
        "clip",
        "counted",
        "counts_steps",
        "epoch",
        "has_computed",
        "index",
        "left_out_a_batch",
        "no_sync",
        "optimizer",
        "output",
        "restarts_each_time",
        "starts",
        "state",
        "step",
        "takes_closure",
        "training_step",
        "wants_output",
        "zero_grad",
    )

    def __init__(
        self,
        trainer: Trainer,
        index: int,
        training_step: Callable[..., Any],
        pass_index: bool,
        averages: bool = False,
    ) -> None:
        module, run, engine = trainer.module, trainer.run, trainer.engine
        self.index = index
        self.training_step = partial(_with_index, training_step, index) if pass_index else training_step
        for wrap in run.step_wrappers:
            self.training_step = wrap(self.training_step, index)
        self.optimizer = trainer.optimizers[index]
        stepping = trainer.stepping_optimizers[index]
        self.state = run.state
        self.accumulate = trainer.accumulate_grad_batches
        self.starts = True
        self.epoch = run.state.current_epoch
        self.checked = False
        self.counted: tuple[Progress, ...] = ()
        self.wants_output = True
        self.counts_steps = self.left_out_a_batch = self.has_computed = False
        self.output: dict[str, Any] = {}
        self.no_sync = engine.no_sync if trainer.world_size > 1 and self.accumulate > 1 else None
        self.before_zero_grad = run.hooks("on_before_zero_grad", last=None) or None
        self.before_backward = run.hooks("on_before_backward", last=None) or None
        self.after_backward = run.hooks("on_after_backward", last=None) or None
        self.before_step = [*run.gradient_hooks, *run.hooks("on_before_optimizer_step", last=None)] or None
        if self.before_step is not None and not engine.is_plain:
            self.before_step.insert(0, engine.unscale_gradients)
        if averages and trainer.world_size > 1:
            self.before_step = [partial(_average, engine), *(self.before_step or [])]
        self.zero_grad = self.optimizer.zero_grad
        if is_overridden(module, "optimizer_zero_grad"):
            self.zero_grad = lambda: module.optimizer_zero_grad(
                trainer.current_epoch, run.state.batch_idx, self.optimizer
            )
        self.backward = None if engine.is_plain else engine.backward
        if is_overridden(module, "backward"):
            self.backward = engine.scaled(module.backward)
        if trainer.profiler is not None:
            self.backward = trainer.timed("backward", self.backward or _propagate)
        self.clip = _clipping(trainer, stepping)
        self.takes_closure = engine.takes_closure(self.optimizer)
        self.restarts_each_time = self.takes_closure and self.accumulate == 1
        self.step = stepping.step
        if is_overridden(module, "optimizer_step"):
            self.takes_closure = True
            self.step = lambda closure: module.optimizer_step(
                trainer.current_epoch, run.state.batch_idx, stepping, closure
            )
        self.step = trainer.timed("optimizer_step", self.step)

    def optimize(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Compute gradients, step when due, and return ``{"loss": ...}``, detached; ``{}`` for a batch left out."""
        for progress in self.counted:
            progress.current = 1
            progress.total += 1
        due = self.accumulate == 1 or self.is_due(batch_idx)
        if batch is None:
            return self.leave_out(due)
        if due and self.takes_closure:
            self.has_computed = False
            self.step(partial(self.closure, batch, batch_idx))
            if not self.has_computed:
                raise unused_closure()
            self.starts = True
            return self.output
        if due or self.no_sync is None:
            self.backpropagate(self.training_step(batch, batch_idx), due)
        else:
            with self.no_sync(skip=True):
                self.compute(batch, batch_idx, due)
        if due and not self.starts:
            self.step()
            self.starts = True
            if self.counts_steps:
                self.state.global_step += 1
        return self.output

    def leave_out(self, due: bool) -> dict[str, Any]:
        """What comes of a batch that the loader gave as None: a step with what was gathered before, if it is due."""
        self.output = {}
        if due and not self.starts:
            if self.takes_closure:
                self.step(self.make_ready)
            else:
                self.make_ready()
                self.step()
            self.starts = True
            if self.counts_steps and not self.takes_closure:
                self.state.global_step += 1
        return self.output

    def is_due(self, batch_idx: int) -> bool:
        """Whether the batch ends an accumulation: every n-th one, and the last of the epoch."""
        if self.epoch != self.state.current_epoch:  # what an epoch that was left early gathered is dropped
            self.epoch = self.state.current_epoch
            self.starts = True
        return self.state.is_last_batch or (batch_idx + 1) % self.accumulate == 0

    @property
    def starts_anew(self) -> bool:
        """Whether the next batch begins an accumulation."""
        return self.starts or self.epoch != self.state.current_epoch

    def compute(self, batch: Any, batch_idx: int, due: bool) -> Tensor | None:
        """Forward and backward pass; what a closure does."""
        return self.backpropagate(self.training_step(batch, batch_idx), due)

    def closure(self, batch: Any, batch_idx: int) -> Tensor | None:
        """`compute` for an optimizer, whose ``step`` may run without gradients."""
        self.has_computed = True
        with torch.enable_grad():
            return self.compute(batch, batch_idx, True)

    def backpropagate(self, output: Any, due: bool) -> Tensor | None:
        """Zero the gradients where an accumulation starts, propagate a loss, and make them ready where it ends.

        Args:
            output: what ``training_step`` returned: a loss, a dict with ``"loss"``, or None to leave the batch out.
            due: the accumulation ends.

        Returns:
            the loss.
        """
        loss = output if output.__class__ is Tensor else _loss_of(output)
        if loss is None:
            self.output = {}
            if not self.left_out_a_batch:
                self.left_out_a_batch = True
                warnings.warn(
                    "training_step returned no loss (None), so the batch is left out: no gradients, no optimizer step. "
                    "If it was to be trained on, return the loss.",
                    stacklevel=2,
                )
            if due and not self.starts:
                self.make_ready()
            return None
        if not self.checked:
            _check_loss(loss)
            self.checked = True
        scaled = loss if self.accumulate == 1 else loss / self.accumulate
        if self.starts or self.restarts_each_time:
            if self.before_zero_grad is not None:
                _call(self.before_zero_grad, self.optimizer)
            self.zero_grad()
            self.starts = False
        if self.before_backward is not None:
            _call(self.before_backward, scaled)
        if self.backward is None:
            scaled.backward()
        else:
            self.backward(scaled)
        if self.after_backward is not None:
            _call(self.after_backward)
        if due and (self.before_step is not None or self.clip is not None):
            self.make_ready()
        if self.wants_output:
            self.output = {"loss": loss.detach()} if output is loss else {**output, "loss": loss.detach()}
        return loss

    def make_ready(self) -> None:
        """What comes between the last gradient of a step and the step."""
        if self.before_step is not None:
            _call(self.before_step, self.optimizer)
        if self.clip is not None:
            self.clip()


def unused_closure() -> ConfigurationError:
    """The error for an optimizer step that did not call its closure."""
    return ConfigurationError(
        "The optimizer step never called its closure, so there were no new gradients and nothing was trained. In "
        "optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure) write "
        "optimizer.step(closure=optimizer_closure); in an optimizer of yours call the closure in `step`."
    )


def _propagate(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    loss.backward(*args, **kwargs)


def _call(hooks: list[Callable[..., Any]], *args: Any) -> None:
    for hook in hooks:
        hook(*args)


def _average(engine: Any, optimizer: Any) -> None:
    engine.average_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]])


def _with_index(training_step: Callable[..., Any], index: int, batch: Any, batch_idx: int) -> Any:
    return training_step(batch, batch_idx, index)


def _clipping(trainer: Trainer, optimizer: Any) -> Callable[[], None] | None:
    """A function that clips the gradients of ``optimizer``, or None where nothing is to be clipped."""
    module, value, algorithm = trainer.module, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    if is_overridden(module, "configure_gradient_clipping"):
        return lambda: module.configure_gradient_clipping(optimizer, value, algorithm)
    if not value:
        return None
    return lambda: trainer.engine.clip_gradients(optimizer, value, algorithm)


def _loss_of(output: Any) -> Any:
    """The loss in what ``training_step`` returned; None for a batch to leave out."""
    if output is None or isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "loss" in output:
        return output["loss"]
    if isinstance(output, Generator):
        raise ConfigurationError(
            "training_step yields, and this loop takes one loss. Connect the loop for steps that yield: "
            "trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())."
        )
    came = f"a dict with the keys {sorted(map(str, output))}" if isinstance(output, dict) else type(output).__name__
    raise ConfigurationError(
        f'training_step returns the loss (a tensor), a dict with "loss", or None to leave the batch out; got {came}.'
    )


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigurationError(f"The loss is a tensor of one element, got {came}. Reduce it: loss.mean().")
    if not loss.requires_grad:
        raise ConfigurationError(
            "The loss of training_step has no gradient: it was detached, computed without gradients, or depends on "
            "frozen parameters only. Return the loss with its graph."
        )
