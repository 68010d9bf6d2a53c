"""The ensemble of the folds on the test set: the only time the test set is looked at, unless asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from torchloops.advanced.kfold.ensemble import average_weights, combine
from torchloops.advanced.kfold.predicting import interpret, predict_loader, probabilities_from
from torchloops.advanced.kfold.records import FoldResult

__all__ = ["score_ensemble"]


def score_ensemble(
    trainer: Any, loaders: Sequence[Any], results: Sequence[FoldResult], kind: str, predict: Any
) -> dict:
    """Scores of the ensemble by name: "ensemble/accuracy" and "ensemble/log_loss", or for numbers "ensemble/mse" and
    "ensemble/mae".

    The module passes through the folds' weights one after the other and is left with the last.
    """
    members = [average_weights([result.weights for result in results])] if kind == "weights" else []
    scores, targets, output_kind = [], None, "numbers"
    for weights in members or [result.weights for result in results]:
        trainer.module.load_state_dict(weights)
        outputs, targets = predict_loader(trainer, chain.from_iterable(loaders), predict)
        output_kind = interpret(outputs, targets).kind
        scores.append(outputs if output_kind in ("numbers", "classes") else probabilities_from(outputs, output_kind))
    if targets is None:
        return {}
    if output_kind == "classes":
        return {"ensemble/accuracy": _share_equal(torch.stack(scores).mode(dim=0).values, targets)}
    if output_kind == "numbers":
        return _score_numbers(torch.stack(scores).mean(dim=0), targets)
    return _score_classes(combine(scores, "hard" if kind == "hard" else "soft"), targets, with_loss=kind != "hard")


def _share_equal(predicted: Tensor, targets: Tensor) -> float:
    return float((predicted == targets).double().mean())


def _score_classes(probabilities: Tensor, targets: Tensor, with_loss: bool) -> dict[str, float]:
    scores = {"ensemble/accuracy": _share_equal(probabilities.argmax(dim=1), targets)}
    if with_loss:
        chosen = probabilities.gather(1, targets.long()[:, None]).clamp_min(torch.finfo(probabilities.dtype).tiny)
        scores["ensemble/log_loss"] = float(-chosen.double().log().mean())
    return scores


def _score_numbers(values: Tensor, targets: Tensor) -> dict[str, float]:
    difference = values.double().flatten() - targets.double().flatten()
    return {"ensemble/mse": float((difference**2).mean()), "ensemble/mae": float(difference.abs().mean())}
