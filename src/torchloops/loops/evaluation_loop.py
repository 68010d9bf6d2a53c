"""EvaluationLoop: validation or test over all data loaders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.loops.ending import Ending, named
from torchloops.loops.evaluation_epoch_loop import EvaluationEpochLoop
from torchloops.loops.loop import Loop
from torchloops.module import module_modes
from torchloops.schema import Either, check

__all__ = ["EvaluationLoop", "run_evaluation"]

_CLOSED = {"reduced": {str: float}, "logged": {str: float}, "by_step?": {str: float}, "loaders?": {str: int}}
_STATE = {"ended?": [str], "closed?": Either(_CLOSED, {str: None})}

HOOK_WORDS = {"validate": "validation", "test": "test", "predict": "predict"}


class EvaluationLoop(Loop):
    """Evaluate on every data loader of a stage, without gradients and in eval mode.

        on_validation_start(); on_validation_epoch_start()
        for dataloader_idx, batches in enumerate(loaders):
            epoch_loop.run(batches, dataloader_idx)
        on_validation_epoch_end()
        reduce what was logged
        on_validation_end()

    Gradient mode and the modes of all parts of the module are restored, also after an error.

    Args:
        stage: "validate" or "test".

    Returns from ``run``: the logged values, one ``dict[str, float]`` a data loader.
    """

    default_stage = "validate"

    def __init__(self, stage: str | None = None) -> None:
        super().__init__()
        stage = stage or self.default_stage
        if stage not in HOOK_WORDS:
            raise ConfigurationError(f'{type(self).__name__} has the stage "validate" or "test", got {stage!r}.')
        self.stage = stage
        self.epoch_loop: Any = EvaluationEpochLoop()
        self._ending = Ending()
        self._closed: dict[str, dict[str, Any]] = {}

    def connect(self, epoch_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop over the batches of one data loader."""
        super().connect(**loops, **({} if epoch_loop is None else {"epoch_loop": epoch_loop}))

    @property
    def skip(self) -> bool:
        """Nothing to do: no such step, no such data, or a limit of 0 batches."""
        trainer = self.trainer
        if trainer.batch_limit(self.stage) == 0 or not is_overridden(trainer.module, f"{HOOK_WORDS[self.stage]}_step"):
            return True
        return not trainer.run.batches(self.stage)

    def on_skip(self) -> Any:
        return []

    @property
    def done(self) -> bool:
        return self.progress.current >= len(self.trainer.run.batches(self.stage))

    @contextmanager
    def run_context(self) -> Iterator[None]:
        no_gradients = torch.inference_mode() if self.trainer.inference_mode else torch.no_grad()
        with no_gradients, _modes_kept(self.trainer):
            yield

    def on_run_start(self) -> None:
        trainer, word = self.trainer, HOOK_WORDS[self.stage]
        if not trainer.sanity_checking:
            trainer.run.enter_stage(self.stage)
        if is_overridden(trainer.module, f"on_{word}_model_eval"):
            trainer.call_hook(f"on_{word}_model_eval")
        else:
            trainer.module.eval()
        if not self.restarting:
            self._ending.finished, self._closed = [], {}
            trainer.call_hook(f"on_{word}_start")
            trainer.call_hook(f"on_{word}_epoch_start")

    def advance(self) -> None:
        index = self.progress.current
        run = self.trainer.run
        several = len(run.batches(self.stage)) > 1
        run.results_for(self.stage).select_loader(index if several else None)
        self.epoch_loop.run(run.batches(self.stage)[index], index)

    def on_run_end(self) -> Any:
        trainer, run, word = self.trainer, self.trainer.run, HOOK_WORDS[self.stage]
        if trainer.sanity_checking:
            self.progress.running = False  # a checkpoint that a hook takes now does not go on in here
        run.results_for(self.stage).select_loader(None)
        pieces = [
            *named(run.hooks(f"on_{word}_epoch_end", last=None), "epoch "),
            ("close", self._close),
            *named(run.hooks(f"on_{word}_end")),
            ("log", self._log),
            *named(run.hooks(f"on_{word}_end", last=True)),
        ]
        with run.logging_in(f"on_{word}_epoch_end"):
            self._ending.run(pieces)
        if is_overridden(trainer.module, f"on_{word}_model_train"):
            trainer.call_hook(f"on_{word}_model_train")
        loaders = self._closed.get("loaders", {})
        return _by_loader(self._closed["reduced"], loaders, len(run.batches(self.stage)))

    def _close(self) -> None:
        loaders = self.trainer.run.results_for(self.stage).loaders()
        reduced, logged, by_step = self.trainer.run.close_epoch(self.stage)
        self._closed = {"reduced": reduced, "logged": logged, "by_step": by_step, "loaders": loaders}

    def _log(self) -> None:
        if not self.trainer.sanity_checking:
            self.trainer.run.send_to_loggers(self._closed["logged"], self._closed.get("by_step"))

    def on_save_checkpoint(self) -> dict[str, Any]:
        inside = self.progress.running and bool(self._ending.finished)
        return {"ended": list(self._ending.finished), "closed": self._closed} if inside else {}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "EvaluationLoop: state")
        self._ending.finished, self._closed = list(state_dict.get("ended", ())), state_dict.get("closed", {})


def _by_loader(metrics: dict[str, float], loaders: dict[str, int], number: int) -> list[dict[str, float]]:
    """One dict a loader: the values that it gave, and those that no single one gave."""
    return [
        {name: value for name, value in metrics.items() if loaders.get(name, index) == index} for index in range(number)
    ]


@contextmanager
def _modes_kept(trainer: Any) -> Iterator[None]:
    """A context after which the module has its modes back; a checkpoint taken inside holds those, too."""
    run = trainer.run
    with module_modes(trainer.module) as run.modes_outside:
        try:
            yield
        finally:
            run.modes_outside = None


def run_evaluation(loop: Loop, stage: str) -> Any:
    """Run whatever stands in a slot for ``stage`` and return its output.

    An `EvaluationLoop` sees to everything itself. A loop from scratch runs without gradients and in eval mode too,
    both restored after it, and what its module logs is reduced and handed on; it may switch gradients on again.
    """
    if isinstance(loop, EvaluationLoop):
        return loop.run()
    run = loop.trainer.run
    with torch.no_grad(), _modes_kept(loop.trainer):
        loop.trainer.module.eval()
        run.enter_stage(stage)
        output = loop.run()
    _, logged, by_step = run.close_epoch(stage)
    run.send_to_loggers(logged, by_step)
    return output
