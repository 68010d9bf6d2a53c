"""TrainingBatchLoop: the time splits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops.loop import Loop, Progress
from torchloops.loops.manual_loop import ManualLoop
from torchloops.loops.optimizer_loop import OptimizerLoop

__all__ = ["TrainingBatchLoop"]


class TrainingBatchLoop(Loop):
    """Optimize on a batch, split over time where the module asks for truncated backpropagation through time.

        for split in module.tbptt_split_batch(batch, module.truncated_bptt_steps):    # one split: the batch
            outputs = optimizer_loop.run(split, batch_idx)      # manual_loop with manual optimization

    A module with ``truncated_bptt_steps > 0`` takes ``training_step(batch, batch_idx, hiddens)`` and returns a
    dict with ``"loss"`` and ``"hiddens"``; these come back, detached, with the next split.

    Returns from ``run``: what the last split's loop returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.optimizer_loop: Any = OptimizerLoop()
        self.manual_loop: Any = ManualLoop()

    def connect(self, optimizer_loop: Loop | None = None, manual_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop for automatic optimization, the one for manual optimization, or both."""
        given = {"optimizer_loop": optimizer_loop, "manual_loop": manual_loop}
        super().connect(**loops, **{name: loop for name, loop in given.items() if loop is not None})

    @property
    def done(self) -> bool:
        bound = self._bound
        return bound is not None and self.progress.current >= bound.num_splits

    def advance(self, batch: Any, batch_idx: int) -> None:
        bound = self._bound
        if bound is None:
            bound = self._bound = _BoundBatch(self)
        if bound.split is None:
            bound.outputs = bound.run_inner(batch, batch_idx)
            return
        if self.progress.current == 0:
            bound.splits = bound.split(batch)
            bound.num_splits = len(bound.splits)
            bound.hiddens.clear()
        bound.outputs = bound.run_inner(bound.splits[self.progress.current], batch_idx)

    def shortcut(self, *above: Progress, wants_output: bool = True) -> Callable[[Any, int], Any] | None:
        if not self.is_unchanged(TrainingBatchLoop):
            return None
        bound = self._bound = _BoundBatch(self)
        return (
            None if bound.split is not None else bound.inner.shortcut(*above, self.progress, wants_output=wants_output)
        )

    def on_run_end(self) -> Any:
        bound = self._bound
        return None if bound is None else bound.outputs


class _BoundBatch:
    __slots__ = ("hiddens", "inner", "num_splits", "outputs", "run_inner", "split", "splits")

    def __init__(self, loop: TrainingBatchLoop) -> None:
        module = loop.trainer.module
        automatic = getattr(module, "automatic_optimization", True)
        self.inner = loop.optimizer_loop if automatic else loop.manual_loop
        self.run_inner = self.inner.run
        self.hiddens = loop.trainer.run.hiddens
        self.split = _splitter(module)
        self.splits: list[Any] = []
        self.num_splits = 1
        self.outputs: Any = None


def _splitter(module: Any) -> Any:
    """The function that splits a batch over time, or None."""
    steps = getattr(module, "truncated_bptt_steps", 0)
    if not steps:
        return None
    if is_overridden(module, "tbptt_split_batch"):
        return lambda batch: module.tbptt_split_batch(batch, steps)
    return lambda batch: split_over_time(batch, steps)


def split_over_time(batch: Any, steps: int) -> list[Any]:
    """Cut the tensors of a batch along dimension 1 (time) into pieces of ``steps`` time steps.

    Args:
        batch: a list or tuple of tensors ``(batch_size, time, ...)``; other items go with every piece.
        steps: time steps of a piece; the last piece may be shorter.

    Raises:
        ConfigurationError: the tensors have different numbers of time steps, or none has a time dimension.
    """
    lengths = {item.shape[1] for item in batch if hasattr(item, "shape") and len(item.shape) > 1}
    if len(lengths) != 1:
        raise ConfigurationError(
            "truncated_bptt_steps needs a batch of tensors (batch_size, time, ...) with one number of time steps; "
            f"found {sorted(lengths) or 'no tensor with a time dimension'}. Define `tbptt_split_batch` on the module."
        )
    starts = range(0, lengths.pop(), steps)
    return [
        type(batch)(
            item[:, start : start + steps] if hasattr(item, "shape") and len(item.shape) > 1 else item for item in batch
        )
        for start in starts
    ]
