"""A module's ``training_step`` as a generator, and the optimizers its losses go to."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.advanced.yielding.part import Part
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.loops.step import call_step

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["YieldingStep"]


class YieldingStep:
    """Runs ``training_step`` from one yield to the next and steps the optimizer that each loss is for.

    Args:
        trainer: the Trainer that runs.
        retain_graph: keep the graph of a loss for the losses after it.

    Attributes:
        target: the optimizer that the last yield was for; None when the generator has ended.
        outputs: ``{"loss": ...}``, detached, for each yield so far.
    """

    def __init__(self, trainer: Trainer, retain_graph: bool) -> None:
        module, optimization = trainer.module, trainer.run.optimization
        self.step_name = f"{type(module).__name__}.training_step"
        _check_configuration(type(module).__name__, module, optimization)
        self.names = optimization.names
        self.labels = [f"optimizer {name!r}" for name in self.names or range(len(optimization.optimizers))]
        self.parts = [Part(trainer, index, label, retain_graph) for index, label in enumerate(self.labels)]
        self.call = call_step(trainer, synced=False)
        self.autocast = None if trainer.engine.is_plain else trainer.autocast
        self.state = trainer.state
        self.generator: Any = None
        self.outputs: list[dict[str, Any]] = []
        self.by_name: bool | None = None
        self.target: Part | None = None
        self.loss: Tensor | None = None
        self.batch_idx = 0

    def begin(self, batch: Any, batch_idx: int) -> None:
        """Start the generator and run it to its first loss."""
        self.outputs, self.by_name, self.target, self.batch_idx = [], None, None, batch_idx
        generator = self.call(batch, batch_idx)
        if not isinstance(generator, Generator):
            raise ConfigurationError(
                f"YieldLoop needs a training_step that yields its losses; {self.step_name} returned "
                f"{type(generator).__name__}. Yield one loss per optimizer, or leave the OptimizerLoop in its place."
            )
        self.generator = generator
        self.resume()

    def resume(self) -> None:
        """Run the generator to its next loss, or to its end."""
        try:
            if self.autocast is None:
                yielded = next(self.generator)
            else:
                with self.autocast():
                    yielded = next(self.generator)
        except StopIteration as stop:
            returned = stop.value
        else:
            self._take(yielded)
            return
        self._end(returned)

    def optimize(self) -> None:
        """Step the optimizer that the last yield was for."""
        part, loss, self.loss = self.target, self.loss, None
        if part is None or loss is None:
            return
        place = self.state.current_epoch, self.batch_idx
        if part.accumulates and part.last_batch == place:
            raise ConfigurationError(
                f"{self.step_name} yields twice for {part.label} on one batch, and accumulate_grad_batches="
                f"{part.step.accumulate} would mix the gradients of the two. Set accumulate_grad_batches=1, or yield "
                "once for each optimizer."
            )
        part.last_batch = place
        part.optimize(loss, self.batch_idx)

    def close(self) -> None:
        """Close the generator, so that its ``finally`` blocks run, and forget the batch."""
        generator, self.generator, self.loss = self.generator, None, None
        if generator is not None:
            generator.close()

    def _take(self, yielded: Any) -> None:
        number = len(self.outputs) + 1
        named = isinstance(yielded, tuple)
        if named and len(yielded) != 2:
            raise ConfigurationError(
                f"{self.step_name} yielded a tuple of {len(yielded)} items (yield {number}); expected a loss, or "
                'a pair: yield loss, "name".'
            )
        output, key = yielded if named else (yielded, number - 1)
        if self.by_name is not None and named != self.by_name:
            raise ConfigurationError(
                f"{self.step_name} yields some losses with a name and some without (yield {number}). Name all of "
                "them on a batch, or none."
            )
        self.by_name = named
        self.target = self._find(key) if named else self._next(number)
        self.loss = self._loss_of(output, number)
        if self.loss is None:
            self.outputs.append({})
        else:
            rest = output if isinstance(output, dict) else {}
            self.outputs.append({**rest, "loss": self.loss.detach()})

    def _next(self, number: int) -> Part:
        if number > len(self.parts):
            raise ConfigurationError(
                f"{self.step_name} yields too many losses: yield {number}, but configure_optimizers gives "
                f"{_count(len(self.parts), 'optimizer')}. To step one of them again, name it: yield loss, 0."
            )
        return self.parts[number - 1]

    def _find(self, key: Any) -> Part:
        if isinstance(key, str) and key in self.names:
            return self.parts[self.names.index(key)]
        if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(self.parts):
            return self.parts[key]
        known = f"the names {self.names}" if self.names else f"the indices 0 to {len(self.parts) - 1}"
        hint = did_you_mean(key, self.names) if isinstance(key, str) else ""
        if isinstance(key, str) and not self.names:
            hint = ' For names return a dictionary from configure_optimizers: {"name": optimizer}.'
        raise ConfigurationError(
            f"{self.step_name} yielded a loss for {key!r}; configure_optimizers gives {known}.{hint}"
        )

    def _loss_of(self, output: Any, number: int) -> Tensor | None:
        loss = output["loss"] if isinstance(output, dict) and "loss" in output else output
        if loss is None:
            return None
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigurationError(
                f"{self.step_name} yields a loss of one element for each optimizer; yield {number} gave {came}. "
                "Reduce it (loss.mean()), or yield None to leave the optimizer out."
            )
        if not loss.requires_grad:
            raise ConfigurationError(
                f"The loss of yield {number} of {self.step_name} has no gradient: it was detached, computed without "
                "gradients, or depends on frozen parameters only."
            )
        return loss

    def _end(self, returned: Any) -> None:
        self.target = self.loss = None
        count = len(self.outputs)
        if returned is not None:
            raise ConfigurationError(
                f"{self.step_name} returned {type(returned).__name__} after {_count(count, 'yield')}, and nobody "
                "reads it. Yield every loss; return nothing."
            )
        if not self.by_name and count < len(self.parts) and not (count == 0 and self.names):
            raise ConfigurationError(
                f"{self.step_name} yields too few losses: {count}, but configure_optimizers gives "
                f"{_count(len(self.parts), 'optimizer')}. Yield None for one to leave out, or name the losses: "
                'yield loss, "name".'
            )
        for part in self.parts:
            part.finish(self.batch_idx)


def _check_configuration(name: str, module: Any, optimization: Any) -> None:
    if not optimization.optimizers:
        raise ConfigurationError(f"{name}.configure_optimizers gives no optimizer, and YieldLoop needs one or more.")
    if optimization.frequencies:
        raise ConfigurationError(
            f"{name}.configure_optimizers gives frequencies, but with YieldLoop the yields say whose turn it is. "
            'Leave "frequency" out and yield for an optimizer only on its batches: yield loss, "name".'
        )
    if getattr(module, "truncated_bptt_steps", 0):
        raise ConfigurationError(
            f"{name} has truncated_bptt_steps > 0, and a training_step that yields returns no hidden states. Set it to "
            "0 and go over the time splits inside training_step, with a yield for each."
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
