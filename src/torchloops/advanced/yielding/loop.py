"""YieldLoop: a training step that yields a loss for each optimizer and keeps its local variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchloops.advanced.yielding.step import YieldingStep
from torchloops.loops.loop import Loop
from torchloops.schema import check

__all__ = ["YieldLoop"]

_STATE = {"starts?": [bool]}


class YieldLoop(Loop):
    """Step an optimizer at every ``yield`` of ``training_step``.

        parts = module.training_step(batch, batch_idx)     # a generator
        for loss in parts:                                 # or (loss, name)
            optimizer.zero_grad()
            loss.backward(inputs=own parameters)
            optimizer.step()                               # the code after the yield sees the new weights

    Use it where several optimizers share what one of them computed, such as a GAN's generated batch: a local
    variable carries it over. It takes the place of the `OptimizerLoop`.

    ``yield loss`` goes to the optimizers in order, one each. ``yield loss, "name"`` or ``yield loss, index`` goes
    to the one named: any number of times, and not at all on batches where it is left out. Names are the keys of
    the dictionary that ``configure_optimizers`` returns. ``yield None`` leaves an optimizer out. ``loss`` may be
    a dictionary with ``"loss"``, whose other items are part of the batch's outputs.

    Only the parameters of the optimizer that a loss goes to get gradients from it. The generator is closed after
    every batch, also after an error.

    Args:
        retain_graph: keep each loss's graph for the losses after it, where they share one. Costs the memory of
            the activations until the step ends.

    Returns from ``run``: a list with ``{"loss": ...}``, detached, for each yield; ``{}`` where it was None.

    Raises:
        ConfigurationError: ``training_step`` is no generator, yields too few or too many losses, something that
            is no scalar, or an unknown name; an optimizer needs a closure (LBFGS).

    Example:
        >>> loop = YieldLoop()
        >>> trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=loop)      # doctest: +SKIP

    References:
        The "Yielding Training Step" example of PyTorch Lightning 1.5 to 1.9.
    """

    resumes_inside = False

    def __init__(self, retain_graph: bool = False) -> None:
        super().__init__()
        self.retain_graph = retain_graph
        self._saved_starts: list[bool] = []

    @property
    def done(self) -> bool:
        return self._bound is not None and self._bound.target is None

    @contextmanager
    def run_context(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._bound is not None:
                self._bound.close()

    def on_run_start(self, batch: Any, batch_idx: int) -> None:
        if self._bound is None:
            self._bound = YieldingStep(self.trainer, self.retain_graph)
            for part, starts in zip(self._bound.parts, self._saved_starts, strict=False):
                part.step.starts = starts
            self._saved_starts = []
        self._bound.begin(batch, batch_idx)

    def advance(self, batch: Any, batch_idx: int) -> None:
        self._bound.optimize()
        self._bound.resume()

    def on_run_end(self) -> Any:
        return self._bound.outputs

    # state

    def on_save_checkpoint(self) -> dict[str, Any]:
        bound = self._bound
        starts = self._saved_starts if bound is None else [part.step.starts_anew for part in bound.parts]
        return {"starts": [] if all(starts) else starts}  # all: nothing to keep for a run to come

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "YieldLoop: state")
        self._saved_starts = state_dict.get("starts", [])
