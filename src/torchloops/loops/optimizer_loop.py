"""OptimizerLoop: one or several optimizers on a batch, stepped automatically."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop, Progress
from torchloops.loops.optimizer_step import OptimizerStep
from torchloops.loops.step import call_step
from torchloops.schema import check

__all__ = ["OptimizerLoop"]

_STATE = {"starts?": [bool]}


class OptimizerLoop(Loop):
    """Step every optimizer that is due on a batch.

        for optimizer_idx in optimizers due:
            loss = training_step(batch, batch_idx)        # with several: (batch, batch_idx, optimizer_idx)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    With several optimizers, parameters that only the others own have their gradients switched off meanwhile.
    With frequencies ``[n0, n1]``, optimizer 0 is due on ``n0`` batches of an epoch, then 1 on ``n1``, and so on.

    Returns from ``run``: ``{"loss": ..., ...}``, detached; a list of them for several optimizers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._saved_starts: list[bool] = []

    @property
    def done(self) -> bool:
        bound = self._bound
        return bound is not None and self.progress.current >= bound.num_due

    def advance(self, batch: Any, batch_idx: int) -> None:
        bound = self._bound
        if bound is None:
            bound = self._bound = _BoundOptimizers(self)
        current = self.progress.current
        if current == 0:
            bound.outputs = []
            if bound.frequencies:
                bound.first = _whose_turn(bound.frequencies, batch_idx)
        part = bound.parts[bound.first + current]
        if bound.several:
            bound.outputs.append(_optimize_alone(bound.module, part, batch, batch_idx))
        else:
            bound.outputs = part.optimize(batch, batch_idx)

    def shortcut(self, *above: Progress, wants_output: bool = True) -> Callable[[Any, int], Any] | None:
        if not self.is_unchanged(OptimizerLoop):
            return None
        bound = self._bound = _BoundOptimizers(self)
        if bound.several:
            return None
        part = bound.parts[0]
        part.counted = (*above, self.progress)
        part.wants_output = wants_output
        part.counts_steps = not part.takes_closure and self.trainer.run.leave_counting_to_the_loop(part.optimizer)
        return part.optimize

    def on_run_end(self) -> Any:
        bound = self._bound
        return None if bound is None else bound.outputs

    def on_save_checkpoint(self) -> dict[str, Any]:
        bound = self._bound
        starts = self._saved_starts if bound is None else [part.starts_anew for part in bound.parts]
        return {"starts": [] if all(starts) else starts}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "OptimizerLoop: state")
        self._saved_starts = state_dict.get("starts", [])


def _optimize_alone(module: Any, part: OptimizerStep, batch: Any, batch_idx: int) -> Any:
    module.toggle_optimizer(part.optimizer)
    try:
        return part.optimize(batch, batch_idx)
    finally:
        module.untoggle_optimizer(part.optimizer)


def _whose_turn(frequencies: list[int], batch_idx: int) -> int:
    """Index of the optimizer that is due on a batch."""
    place = batch_idx % sum(frequencies)
    for index, frequency in enumerate(frequencies):
        if place < frequency:
            return index
        place -= frequency
    return 0


class _BoundOptimizers:
    __slots__ = ("first", "frequencies", "module", "num_due", "outputs", "parts", "several")

    def __init__(self, loop: OptimizerLoop) -> None:
        trainer = loop.trainer
        optimizers = trainer.optimizers
        if not optimizers:
            raise ConfigurationError(
                f"{type(trainer.module).__name__}.configure_optimizers gives no optimizer, and automatic optimization "
                "needs one. Return an optimizer, or set automatic_optimization = False."
            )
        self.module = trainer.module
        self.several = len(optimizers) > 1
        self.frequencies = trainer.run.optimization.frequencies
        self.num_due = 1 if self.frequencies else len(optimizers)
        self.first = 0
        self.outputs: Any = None
        # with several optimizers a backward pass leaves parameters out, which DDP does not expect: average by hand
        step = call_step(trainer, synced=not self.several, several=self.several)
        self.parts = [
            OptimizerStep(trainer, index, step, self.several, averages=self.several) for index in range(len(optimizers))
        ]
        for part, starts in zip(self.parts, loop._saved_starts, strict=False):
            part.starts = starts
        loop._saved_starts = []
