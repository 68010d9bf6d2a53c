"""EvaluationEpochLoop: the batches of one data loader, without training on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchloops.hooks import ANY_NUMBER, number_of_parameters
from torchloops.loops.loop import Loop
from torchloops.loops.step import OneBatch, takes_iterator

if TYPE_CHECKING:
    from torchloops.trainer.data import Batches

__all__ = ["EvaluationEpochLoop", "warn_of_none"]


class EvaluationEpochLoop(Loop):
    """Evaluate every batch of one data loader.

        for batch_idx, batch in enumerate(batches):
            on_validation_batch_start(batch, batch_idx, dataloader_idx)
            outputs = validation_step(batch, batch_idx)     # or (batch, batch_idx, dataloader_idx)
            on_validation_batch_end(outputs, batch, batch_idx, dataloader_idx)

    Returns from ``run``: nothing; `PredictionEpochLoop` returns the outputs.
    """

    @property
    def done(self) -> bool:
        return self.progress.current >= self._bound.num_batches

    def on_run_start(self, batches: Batches, dataloader_idx: int = 0) -> None:
        bound = self._bound = _BoundEvaluation(self.trainer, batches, dataloader_idx)
        bound.results.place = bound.places[1]
        skip = self.progress.current if self.restarting else 0
        iterator = batches.start_epoch(self.trainer.current_epoch, skip)
        bound.next_batch = self.trainer.timed("next_batch", iterator.__next__)
        if bound.log_step is not None and bound.state.fn == "fit":
            bound.first_step = self._batches_before(dataloader_idx)

    def advance(self, batches: Batches, dataloader_idx: int = 0) -> None:
        bound = self._bound
        batch_idx = self.progress.current
        state = bound.state
        state.in_batch = True
        batch = bound.next_batch()
        if batch is None:
            warn_of_none(bound.places[1].partition("_")[0])
            state.in_batch = False
            return
        if bound.move is not None:
            batch = bound.move(batch, dataloader_idx)
        results = bound.results
        results.batch = batch
        results.size = None
        if bound.on_batch_start is not None:
            results.place = bound.places[0]
            for hook in bound.on_batch_start:
                hook(batch, batch_idx, dataloader_idx)
            results.place = bound.places[1]
        outputs = bound.step(batch, batch_idx, dataloader_idx) if bound.takes_loader else bound.step(batch, batch_idx)
        if bound.keep is not None:
            bound.keep.append(outputs)
        if bound.on_batch_end is not None:
            results.place = bound.places[2]
            for hook in bound.on_batch_end:
                hook(outputs, batch, batch_idx, dataloader_idx)
            results.place = bound.places[1]
        if bound.log_step is not None:
            bound.log_step(results, bound.first_step + batch_idx)
        state.in_batch = False

    def _batches_before(self, dataloader_idx: int) -> int:
        """Batches that this data loader had in the evaluations of the fit before, by which loggers count."""
        run, total = self.trainer.run, self.progress.total - self.progress.current
        lengths = [batches.num_batches for batches in run.batches(run.state.stage or "validate")]
        whole = sum(lengths)
        return total if len(lengths) == 1 or whole == float("inf") else int(total // whole * lengths[dataloader_idx])

    def on_run_end(self) -> Any:
        """Nothing; `PredictionEpochLoop` returns the outputs."""
        kept, results = self._bound.keep, self._bound.results
        results.place, results.batch, results.size = "", None, None
        self._bound.batches.end_epoch()
        self._bound = None
        return kept


def warn_of_none(what: str) -> None:
    """Say that the data have a batch less."""
    warnings.warn(
        f"The {what} data loader gave None for a batch, which is left out: no step and no hook of a batch is called. "
        "If that was not meant, see what its collate_fn returns.",
        stacklevel=3,
    )


class _BoundEvaluation:
    """What the batches of one loader need, looked up once when it starts."""

    __slots__ = (
        "batches",
        "first_step",
        "keep",
        "log_step",
        "move",
        "next_batch",
        "num_batches",
        "on_batch_end",
        "on_batch_start",
        "places",
        "results",
        "state",
        "step",
        "takes_loader",
    )

    def __init__(self, trainer: Any, batches: Batches, dataloader_idx: int) -> None:
        run, stage = trainer.run, "validate" if trainer.sanity_checking else trainer.state.stage
        word = "validation" if stage == "validate" else stage
        self.batches = batches
        self.num_batches = batches.num_batches
        self.next_batch: Any = None
        self.places = (f"on_{word}_batch_start", f"{word}_step", f"on_{word}_batch_end")
        self.state = run.state
        self.move = trainer.batch_mover()
        self.results = run.results_for(stage)
        self.first_step = 0
        self.log_step = run.log_evaluation_step if run.logs_evaluation_by_step() else None
        self.on_batch_start = _batch_hooks(run.hooks(f"on_{word}_batch_start", last=None), takes=3)
        self.on_batch_end = _batch_hooks(run.hooks(f"on_{word}_batch_end", last=None), takes=4)
        self.step, self.takes_loader = _step(trainer, f"{word}_step", len(run.batches(stage)) > 1)
        self.keep: list[Any] | None = [] if stage == "predict" and trainer.return_predictions else None


def _batch_hooks(hooks: list[Callable[..., Any]], takes: int) -> list[Callable[..., Any]] | None:
    """The hooks, all taking the index of the data loader as their last argument; None where there are none."""
    return [hook if number_of_parameters(hook) >= takes else _without_loader(hook) for hook in hooks] or None


def _without_loader(hook: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: hook(*args[:-1])


def _step(trainer: Any, name: str, several_loaders: bool) -> tuple[Any, bool]:
    """The module's step, and whether it takes the index of the data loader."""
    if not hasattr(trainer.module, name):  # a plain nn.Module predicts by its forward pass
        forward = trainer.engine.step_function("__call__")
        return lambda batch, batch_idx: forward(batch), False
    if takes_iterator(getattr(trainer.module, name)):
        call = trainer.timed(name, trainer.engine.step_function(name))
        return lambda batch, batch_idx, dataloader_idx: call(OneBatch(batch, batch_idx, dataloader_idx)), True
    takes = number_of_parameters(getattr(trainer.module, name))
    step = trainer.timed(name, trainer.engine.step_function(name))
    if takes == 1:
        return lambda batch, batch_idx: step(batch), False
    return step, takes > 2 and (several_loaders or takes < ANY_NUMBER)
