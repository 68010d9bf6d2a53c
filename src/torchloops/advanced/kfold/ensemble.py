"""The models of all folds as one: their probabilities averaged, their votes counted, or their weights averaged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.advanced.kfold.predicting import are_probabilities, probabilities_from
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.module import LoopModule

__all__ = ["ENSEMBLES", "FoldEnsemble", "average_weights", "build_ensemble", "check_ensemble", "combine"]

ENSEMBLES = ("soft", "hard", "weights")


def check_ensemble(kind: str) -> None:
    """Refuse a name that is none of `ENSEMBLES`."""
    if kind not in ENSEMBLES:
        raise ConfigurationError(
            f'An ensemble is one of {", ".join(ENSEMBLES)}, got "{kind}".{did_you_mean(str(kind), ENSEMBLES)}'
        )


class FoldEnsemble(LoopModule):
    """The models of several folds as one module.

    Args:
        members: a trained module a fold, in evaluation mode.
        kind: "soft": the mean of the members' probabilities (of their outputs, where these are numbers); "hard":
            the share of the members that vote for each class.
        output_kind: how the members' outputs are read; see `Predictions`.

    ``forward(inputs)`` returns ``(B, n_classes)``, rows that sum to 1; for numbers what a member returns. Logs of
    probabilities are never averaged.
    """

    def __init__(self, members: Sequence[nn.Module], kind: str = "soft", output_kind: str = "logits") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.kind = kind
        self.output_kind = output_kind
        self.eval()

    def forward(self, inputs: Any) -> Tensor:
        outputs = [member(inputs) for member in self.members]
        return combine([_as_scores(output, self.output_kind) for output in outputs], self.kind)

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """The ensemble's output for a batch of inputs, or of ``(inputs, targets)``."""
        return self(batch[0] if isinstance(batch, tuple | list) else batch)


def _as_scores(output: Tensor, output_kind: str) -> Tensor:
    """Probabilities from the output of a member's ``forward``, which may differ from that of its ``predict_step``."""
    if output_kind == "numbers":
        return output
    if output_kind.startswith("binary"):
        inside = bool(((output >= 0) & (output <= 1)).all())
        is_logit = output_kind == "binary logits" or not inside
        return probabilities_from(output, "binary logits" if is_logit else "binary probabilities")
    return probabilities_from(output, "probabilities" if are_probabilities(output) else "logits")


def combine(scores: Sequence[Tensor], kind: str) -> Tensor:
    """The mean of the members' scores ("soft"), or the share of their votes ("hard"), ``(n_samples, n_classes)``."""
    stacked = torch.stack(list(scores))
    if kind == "soft":
        return stacked.mean(dim=0)
    n_classes = stacked.shape[-1]
    return nn.functional.one_hot(stacked.argmax(dim=-1), n_classes).to(stacked.dtype).mean(dim=0)


def average_weights(weights: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of floating-point tensors by name; others (counters, indices) are those of the first."""
    averaged = {}
    for name, first in weights[0].items():
        is_float = isinstance(first, Tensor) and first.dtype.is_floating_point
        averaged[name] = torch.stack([each[name] for each in weights]).mean(dim=0) if is_float else copy.copy(first)
    return averaged


def build_ensemble(module: nn.Module, weights: Sequence[dict[str, Any]], kind: str, output_kind: str) -> nn.Module:
    """A new module from copies of ``module`` with the weights of each fold.

    Raises:
        ConfigurationError: votes over outputs that are no classes.
    """
    check_ensemble(kind)
    if kind == "weights":
        return _with_weights(module, average_weights(weights))
    if kind == "hard" and output_kind == "numbers":
        raise ConfigurationError(
            'ensemble("hard") counts votes for classes, but the module returns no scores of classes. Use "soft".'
        )
    return FoldEnsemble([_with_weights(module, each) for each in weights], kind, output_kind)


def _with_weights(module: nn.Module, weights: dict[str, Any]) -> nn.Module:
    member = copy.deepcopy(module)
    member.load_state_dict(weights)
    return member.eval()
