"""The models of all folds as one: their probabilities averaged, their votes counted, or their weights averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.advanced.kfold.left_behind import warn_of_lost
from torchloops.advanced.kfold.predicting import Asking, interpret
from torchloops.advanced.kfold.records import FoldResult
from torchloops.advanced.kfold.weights import load_weights
from torchloops.data.items import number_of_rows
from torchloops.data.outputs import Meaning
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.module import LoopModule

__all__ = [
    "ENSEMBLES", "FoldEnsemble", "average_weights", "build_ensemble", "check_ensemble", "check_votes", "combine",
]  # fmt: skip

ENSEMBLES = ("soft", "hard", "weights")


def check_ensemble(kind: str) -> None:
    """Refuse a name that is none of `ENSEMBLES`."""
    if kind not in ENSEMBLES:
        raise ConfigurationError(
            f'An ensemble is one of {", ".join(ENSEMBLES)}, got "{kind}".{did_you_mean(str(kind), ENSEMBLES)}'
        )


def check_votes(kind: str | None, meaning: Meaning) -> None:
    """Refuse votes over answers that are no scores of classes."""
    if kind == "hard" and meaning.kind == "numbers":
        raise ConfigurationError(
            'An ensemble of the kind "hard" counts votes for classes, and the module\'s answers are numbers '
            f'({meaning.told}). Use "soft", which averages them; in KFoldLoop: test_ensemble="soft".'
        )


class FoldEnsemble(LoopModule):
    """The models of several folds as one module, asked and read as the folds were.

    Args:
        members: a trained module a fold, in evaluation mode.
        kind: "soft": the mean of the members' probabilities (of their outputs, where these are numbers); "hard":
            the share of the members that vote for each class.
        asking: how members are asked.
        meaning: how their answers are read.

    ``forward(inputs, ...)`` takes what the members' ``forward`` takes, and ``predict_step(batch)`` a whole batch. Both
    return ``(B, n_classes)``, rows that sum to 1; ``(B, n_labels)`` for several labels; for numbers what a member
    returns. Logs of probabilities are never averaged.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        kind: str = "soft",
        asking: Asking | None = None,
        meaning: Meaning | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.kind = kind
        self.asking = asking or Asking()
        self.meaning = meaning or Meaning("logits")
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return self.predict_step(_batch_of(inputs, named, self.asking.target_key))

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """The ensemble's output for a batch, or for the inputs of one alone."""
        if isinstance(batch, Tensor):
            batch = _batch_of((batch,), {}, self.asking.target_key)
        scores = [_scores(self.asking.reader(member, self.meaning), batch) for member in self.members]
        return combine(scores, self.kind, self.meaning)


def _batch_of(inputs: tuple[Any, ...], named: Mapping[str, Any], target_key: str | int | None) -> Any:
    """A batch with these inputs; the place of the label is empty."""
    if named:
        return dict(named)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return inputs[0]
    place = target_key if isinstance(target_key, int) else 1
    place = place if place >= 0 else len(inputs) + 1 + place
    return [*inputs[:place], None, *inputs[place:]]


def _scores(reader: Any, batch: Any) -> Tensor:
    """A member's probabilities; its numbers in the shape in which it returns them."""
    answers = reader.answers(batch, number_of_rows(batch))
    predictions = interpret(answers, None, reader.meaning, None)
    if predictions.probabilities is not None:
        return predictions.probabilities
    return predictions.values if reader.is_flat or predictions.values.ndim == 2 else predictions.values.unsqueeze(1)


def combine(scores: Sequence[Tensor], kind: str, meaning: Meaning) -> Tensor:
    """The mean of the members' scores ("soft"), or the share of their votes ("hard"), ``(n_samples, n_classes)``.

    Predicted classes, which are no scores, are voted on: the most frequent one, ``(n_samples,)``.
    """
    stacked = torch.stack(list(scores))
    if meaning.kind == "classes":
        return stacked.mode(dim=0).values
    if kind != "hard":
        return stacked.mean(dim=0)
    if meaning.is_multilabel:
        return (stacked > 0.5).to(stacked.dtype).mean(dim=0)
    n_classes = stacked.shape[-1]
    return nn.functional.one_hot(stacked.argmax(dim=-1), n_classes).to(stacked.dtype).mean(dim=0)


def average_weights(weights: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of floating-point tensors by name; others (counters, indices) are those of the first."""
    averaged = {}
    for name, first in weights[0].items():
        is_float = isinstance(first, Tensor) and first.dtype.is_floating_point
        averaged[name] = torch.stack([each[name] for each in weights]).mean(dim=0) if is_float else copy.copy(first)
    return averaged


def build_ensemble(
    module: nn.Module,
    results: Sequence[FoldResult],
    kind: str,
    asking: Asking,
    meaning: Meaning,
) -> nn.Module:
    """A new module from copies of ``module``, each as a fold has left it.

    Raises:
        ConfigurationError: votes over outputs that are no classes.
    """
    check_ensemble(kind)
    if kind == "weights":
        averaged = copy.deepcopy(module)
        load_weights(averaged, average_weights([result.weights for result in results]))
        return averaged.eval()
    check_votes(kind, meaning)
    warn_of_lost(module, [result.left for result in results])
    members = [copy.deepcopy(module) for _ in results]
    for member, result in zip(members, results, strict=True):
        result.put_into(member)
        member.eval()
    return FoldEnsemble(members, kind, asking, meaning)
