"""ManualLoop: a training step that steps its optimizers itself."""

from __future__ import annotations

import inspect
from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop
from torchloops.loops.step import call_step

__all__ = ["ManualLoop"]


class ManualLoop(Loop):
    """Call ``training_step`` once; with ``automatic_optimization = False`` the module does the rest.

    Returns from ``run``: the output of ``training_step``, or an empty dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output: list[Any] = [None]

    @property
    def done(self) -> bool:
        return self.progress.current >= 1

    def advance(self, batch: Any, batch_idx: int) -> None:
        step = self._bound
        if step is None:
            if inspect.isgeneratorfunction(self.trainer.module.training_step):
                raise ConfigurationError(
                    f"{type(self.trainer.module).__name__}.training_step yields, which manual optimization never runs. "
                    "Leave automatic_optimization = True and connect a YieldLoop as the optimizer_loop."
                )
            step = self._bound = call_step(self.trainer, synced=False)
            self.trainer.run.call_hooks_before_manual_steps()
        self._output[0] = step(batch, batch_idx)

    def on_run_end(self) -> Any:
        output = self._output[0]
        return {} if output is None else output
