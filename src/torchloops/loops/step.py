"""Calling ``training_step`` with the arguments it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden, number_of_parameters

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["OneBatch", "call_step", "takes_iterator"]


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
    if takes_iterator(module.training_step) and not (several or recurrent):
        step = trainer.timed("training_step", trainer.engine.step_function("training_step", synced=synced))
        return lambda batch, batch_idx: step(OneBatch(batch, batch_idx))
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


class OneBatch:
    """What a step that asks for ``dataloader_iter`` gets: ``next`` gives ``(batch, batch_idx, dataloader_idx)``, once.

    The batch is on the device, and the hooks of a batch have been called with it.
    """

    def __init__(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._given: Any = (batch, batch_idx, dataloader_idx)

    def __iter__(self) -> OneBatch:
        return self

    def __next__(self) -> tuple[Any, int, int]:
        if self._given is None:
            raise ConfigurationError(
                "next(dataloader_iter) was called twice in one step, which has one batch. For several, have the data "
                "loader give them: a larger batch_size, or a list of loaders."
            )
        given, self._given = self._given, None
        return given


def takes_iterator(step: Callable[..., Any]) -> bool:
    """Whether a step asks for ``dataloader_iter`` in the place of a batch."""
    return "dataloader_iter" in inspect.signature(step).parameters


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
