"""The ensemble of the folds on the test set: the only time the test set is looked at, unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn

from torchloops.advanced.kfold.ensemble import average_weights, combine
from torchloops.advanced.kfold.left_behind import warn_of_lost
from torchloops.advanced.kfold.predicting import Asking, collect_answers, interpret
from torchloops.advanced.kfold.records import FoldResult, per_sample_values
from torchloops.advanced.kfold.weights import load_weights
from torchloops.data.labels import Labels
from torchloops.data.outputs import Meaning

__all__ = ["score_ensemble"]


def score_ensemble(
    trainer: Any,
    loaders: Sequence[Any],
    results: Sequence[FoldResult],
    kind: str,
    asking: Asking,
    meaning: Meaning,
    labels: Labels | None,
) -> dict[str, float]:
    """Scores of the ensemble by name: "ensemble/accuracy" and "ensemble/log_loss", or for numbers "ensemble/mse" and
    "ensemble/mae"; none where the test set has no labels, or labels that the answers cannot be compared with.

    The module passes through the folds' weights one after the other and is left with the last.
    """
    if kind == "weights":
        averaged = average_weights([result.weights for result in results])
        members: list[Callable[[nn.Module], None]] = [partial(load_weights, weights=averaged)]
    else:
        warn_of_lost(trainer.module, [result.left for result in results])
        members = [result.put_into for result in results]
    scores: list[Tensor] = []
    targets: Tensor | None = None
    for put_into in members:
        put_into(trainer.module)
        reader = asking.reader(trainer.module, meaning, trainer.engine.under_precision)
        answers, found = collect_answers(trainer, chain.from_iterable(loaders), reader)
        reader.settle(answers, is_all=True)
        predictions = interpret(answers, found, meaning, labels)
        scores.append(predictions.values if predictions.probabilities is None else predictions.probabilities)
        targets = predictions.targets
    if targets is None:
        return {}
    mean = combine(scores, kind, meaning)
    values = mean if meaning.is_multilabel or not meaning.are_classes or mean.ndim == 1 else mean.argmax(dim=1)
    predicted = (mean > 0.5).long() if meaning.is_multilabel else values
    with_loss = kind != "hard" and meaning.are_classes and meaning.kind != "classes"
    each = per_sample_values(predicted, mean if with_loss else None, targets, meaning.are_classes)
    return {f"ensemble/{name}": float(values.mean()) for name, values in each.items()}
