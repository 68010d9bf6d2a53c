"""Predictions for a held-out part: from what a module returns to probabilities and classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloops.advanced.kfold.splitters import is_classes
from torchloops.advanced.targets import target_of
from torchloops.errors import ConfigurationError, DataError
from torchloops.hooks import is_overridden, number_of_parameters
from torchloops.module import evaluating

__all__ = ["Predictions", "are_probabilities", "interpret", "predict_loader", "probabilities_from"]

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """What a module says of some samples.

    Args:
        values: predicted class ``(n_samples,)``, or numbers ``(n_samples,)`` or ``(n_samples, n_outputs)``.
        probabilities: ``(n_samples, n_classes)``; None where the outputs are no classes' scores.
        targets: ``(n_samples, ...)``, or None where they are unknown.
        kind: how outputs were read: "probabilities", "logits", "binary probabilities", "binary logits",
            "classes" or "numbers".
    """

    values: Tensor
    probabilities: Tensor | None
    targets: Tensor | None
    kind: str


def predict_loader(
    trainer: Any, loader: Iterable[Any], predict: Callable[[Any, Any], Tensor] | None = None
) -> tuple[Tensor, Tensor | None]:
    """``(outputs, targets)`` of every batch in order, on the CPU, in evaluation mode and without gradients.

    Outputs are those of ``predict(module, batch)``; by default of ``predict_step`` where the module defines it,
    else of the module called with the inputs of the batch.

    Raises:
        ConfigurationError: an output is no tensor with one row a sample.
    """
    module = trainer.module
    move = trainer.batch_mover()
    call = _caller(trainer, predict)
    outputs: list[Tensor] = []
    targets: list[Any] = []
    limit = trainer.batch_limit("predict")
    with evaluating(module), torch.inference_mode():
        for index, batch in enumerate(islice(loader, limit if isinstance(limit, int) else None)):
            batch = batch if move is None else move(batch, 0)
            outputs.append(_plain(_checked(call(batch, index))))
            targets.append(_target_or_none(batch))
    known = [target for target in targets if target is not None]
    return torch.cat(outputs), torch.cat(known) if len(known) == len(targets) else None


def _plain(output: Tensor) -> Tensor:
    output = output.detach().cpu()
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output.clone()


def _target_or_none(batch: Any) -> Tensor | None:
    try:
        target = target_of(batch)
    except DataError:
        return None
    return target.detach().cpu().clone() if isinstance(target, Tensor) and target.ndim else None


def _caller(trainer: Any, predict: Callable[[Any, Any], Tensor] | None) -> Callable[[Any, int], Any]:
    module = trainer.module
    if predict is not None:

        def own(batch: Any, index: int) -> Any:
            with trainer.autocast():
                return predict(module, batch)

        return own
    forward = trainer.engine.step_function("__call__")

    def call_module(batch: Any, index: int) -> Any:
        return forward(_inputs_of(batch))

    if not is_overridden(module, "predict_step"):
        return call_module
    step = trainer.engine.step_function("predict_step")
    with_index = number_of_parameters(module.predict_step) > 1

    def call_step(batch: Any, index: int) -> Any:
        output = step(batch, index) if with_index else step(batch)
        return output if isinstance(output, Tensor) and output.ndim else call_module(batch, index)

    return call_step


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _checked(output: Any) -> Tensor:
    if isinstance(output, Tensor) and output.ndim in (1, 2):
        return output
    found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ConfigurationError(
        "Out-of-fold predictions need one row a sample: scores (B, n_classes), or values (B,) or (B, n_outputs). The "
        f"module returned {found}. Give KFoldLoop predict=function of (module, batch), or predict=False to go without."
    )


def interpret(outputs: Tensor, targets: Tensor | None) -> Predictions:
    """Read outputs as scores of classes, as classes, or as numbers.

    They are scores of classes where they are floats, the targets are class indices, and there is a column a
    class (or one column and targets 0 and 1). Scores that are no probabilities already go through a softmax (one
    column: a sigmoid).
    """
    if not outputs.dtype.is_floating_point:
        return Predictions(outputs if outputs.ndim == 1 else outputs.squeeze(1), None, targets, "classes")
    kind = _kind_of(outputs, targets)
    if kind == "numbers":
        values = outputs.squeeze(1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
        return Predictions(values, None, targets, kind)
    probabilities = probabilities_from(outputs, kind)
    return Predictions(probabilities.argmax(dim=1), probabilities, targets, kind)


def probabilities_from(outputs: Tensor, kind: str) -> Tensor:
    """Probabilities ``(n_samples, n_classes)`` from outputs of a kind that `interpret` found."""
    if kind == "probabilities":
        return outputs
    if kind == "logits":
        return outputs.softmax(dim=1)
    one = outputs.reshape(-1)
    one = one if kind == "binary probabilities" else one.sigmoid()
    return torch.stack([1 - one, one], dim=1)


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row is a distribution: no entry below 0, and a sum of 1."""
    return bool(((outputs.sum(dim=1) - 1).abs() < _TOLERANCE).all()) and bool((outputs >= 0).all())


def _kind_of(outputs: Tensor, targets: Tensor | None) -> str:
    several = outputs.ndim == 2 and outputs.shape[1] > 1
    classes = targets is not None and is_classes(np.asarray(targets))
    if targets is not None and not classes:
        return "numbers"
    if several:
        if targets is not None and int(targets.max()) >= outputs.shape[1]:
            return "numbers"
        if are_probabilities(outputs):
            return "probabilities"
        return "logits" if classes else "numbers"
    if targets is None or not bool(((targets == 0) | (targets == 1)).all()):
        return "numbers"
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    return "binary probabilities" if inside else "binary logits"
