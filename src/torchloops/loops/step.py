"""Calling ``training_step`` with the arguments it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden, number_of_parameters

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["call_step"]


def call_step(trainer: Trainer, synced: bool, several: bool = False) -> Callable[..., Any]:
    """``step(batch, batch_idx)`` that calls the module's ``training_step``, bound once a run.

    Args:
        trainer: the Trainer whose module is called.
        synced: the backward pass comes after the step, so gradients can be averaged by the strategy.
        several: there are several optimizers: the function is ``step(batch, batch_idx, optimizer_idx)``.

    Raises:
        ConfigurationError: no ``training_step``, or one that takes other arguments.
    """
    module = trainer.module
    if not is_overridden(module, "training_step"):
        raise ConfigurationError(
            f"{type(module).__name__} needs a `training_step(batch, batch_idx)` that returns the loss to be fitted."
        )
    recurrent = bool(getattr(module, "truncated_bptt_steps", 0))
    takes = number_of_parameters(module.training_step)
    expected = ["batch", "batch_idx"] + ["optimizer_idx"] * several + ["hiddens"] * recurrent
    needs = number_of_parameters(module.training_step, required=True)
    if (takes < len(expected) and not (len(expected) == 2 and takes == 1)) or needs > len(expected):
        count = needs if needs > len(expected) else takes
        raise ConfigurationError(
            f"{type(module).__name__}.training_step takes {count} arguments, but {len(expected)} are passed: "
            f"({', '.join(expected)})."
        )
    step = trainer.timed("training_step", trainer.engine.step_function("training_step", synced=synced))
    if recurrent:
        return _recurrent(step, several, trainer.run.hiddens)
    return step if takes > 1 else lambda batch, batch_idx: step(batch)


def _recurrent(step: Callable[..., Any], several: bool, hiddens: dict[int, Any]) -> Callable[..., Any]:
    def call(batch: Any, batch_idx: int, optimizer_idx: int = 0) -> Any:
        index = (optimizer_idx,) if several else ()
        output = step(batch, batch_idx, *index, hiddens.get(optimizer_idx))
        if isinstance(output, dict) and "hiddens" in output:
            hiddens[optimizer_idx] = _detach(output["hiddens"])
        return output

    return call


def _detach(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list | tuple):
        return type(value)(_detach(item) for item in value)
    return value
