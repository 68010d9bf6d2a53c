"""What a model's answers mean: logits, probabilities, one number for yes or no, several labels, or plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchloops.data.label_values import LabelForm
from torchloops.errors import ConfigurationError, did_you_mean

__all__ = [
    "OUTPUTS", "Meaning", "UnscoredOutputsWarning", "check_outputs_name", "find_meaning", "rows_to_draws",
]  # fmt: skip

OUTPUTS = (
    "logits", "probabilities", "one_logit", "one_probability", "multilabel_logits", "multilabel_probabilities",
    "numbers",
)  # fmt: skip
"""What a user may say of answers; a model that answers with whole numbers gives "classes"."""

_TOLERANCE = 1e-3
_LOOSE = 0.03  # what a softmax in half precision misses the sum of 1 by


class UnscoredOutputsWarning(UserWarning):
    """A model's answers are no scores of the classes in the data, so nothing is computed from them."""


def check_outputs_name(outputs: str | None) -> None:
    """Refuse a name that is none of `OUTPUTS`."""
    if outputs is not None and outputs not in OUTPUTS:
        raise ConfigurationError(
            f"outputs is one of {', '.join(OUTPUTS)}, got {outputs!r}.{did_you_mean(str(outputs), OUTPUTS)}"
        )


@dataclass(frozen=True)
class Meaning:
    """How answers are read, the same in all folds and rounds of a run.

    Args:
        kind: one of `OUTPUTS`, or "classes".
        told: where that is known from, as it reads in a table: "given", "last operation", "all answers", "labels".
    """

    kind: str
    told: str = "given"

    @property
    def are_classes(self) -> bool:
        """Whether answers say something of classes or labels; else they are numbers."""
        return self.kind != "numbers"

    @property
    def is_multilabel(self) -> bool:
        return self.kind.startswith("multilabel")

    def probabilities(self, answers: Tensor) -> Tensor:
        """Probabilities of answers ``(B, n_columns, ...)``: ``(B, n_classes, ...)``, or ``(B, n_labels, ...)``.

        No value is looked at, so that it can be called inside of ``torch.func.vmap``.
        """
        if self.kind == "logits":
            return answers.softmax(1)
        if self.kind in ("probabilities", "multilabel_probabilities"):
            return answers
        if self.kind == "multilabel_logits":
            return answers.sigmoid()
        positive = answers.sigmoid() if self.kind == "one_logit" else answers
        return torch.cat([1 - positive, positive], 1)

    def check(self, answers: Tensor, name: str) -> None:
        """Refuse answers that contradict the meaning.

        Args:
            answers: ``(B, ...)``.
            name: who answers, as it reads in the message.

        Raises:
            ConfigurationError: they do.
        """
        reason = self._contradiction(answers)
        if reason is not None:
            raise ConfigurationError(
                f"The answers of {name} are read as {self.kind} ({self.told}), and {reason}. Say what they are: "
                f"outputs=... ({', '.join(OUTPUTS)}), or give to_probabilities=..."
            )

    def _contradiction(self, answers: Tensor) -> str | None:
        if not answers.dtype.is_floating_point:
            return None if self.kind == "classes" else f"one is made of whole numbers ({answers.dtype})"
        if self.kind == "classes":
            return "one is made of fractions"
        inside = bool(((answers >= -_LOOSE) & (answers <= 1 + _LOOSE)).all())
        if self.kind.endswith(("probabilities", "probability")) and not inside:
            return "one is below 0 or above 1"
        if self.kind == "probabilities" and not _are_distributions(answers, _LOOSE):
            return "those of one sample do not sum to 1"
        wide = answers.ndim > 1 and answers.shape[1] > 1
        if self.kind.startswith("one_") and answers.ndim < 3 and wide:
            return f"one has {answers.shape[1]} columns"
        if self.kind in ("logits", "probabilities") and not wide:
            return "one has a single column"
        return None


def find_meaning(
    answers: Tensor, labels: LabelForm | None, last: str | None, declared: set[int], name: str, is_all: bool
) -> Meaning | None:
    """What answers mean, from the model and the form of the labels; None: more answers must be seen.

    Args:
        answers: ``(B, ...)``, of a dry pass or of the whole first pass.
        labels: the form of the labels; None: unknown.
        last: the last operation of the model: "softmax", "sigmoid", "linear"; None: another.
        declared: numbers of classes that the data or the model names.
        name: who answers, as it reads in messages.
        is_all: these are all answers of a first pass, there will be no more.

    Returns:
        The meaning; that of "numbers" where answers are no scores of the labels.

    Raises:
        ConfigurationError: it cannot be known.
    """
    if not answers.dtype.is_floating_point:
        return Meaning("classes", "whole numbers")
    columns = answers.shape[1] if answers.ndim > 1 else 1
    if labels is not None and labels.kind == "multilabel":
        return _multilabel(answers, labels, columns, last, name, is_all)
    could_be_classes = labels is not None and labels.n_classes is not None and labels.shape == () and columns > 1
    if labels is not None and labels.kind == "numbers" and not could_be_classes:
        return Meaning("numbers", "labels")
    if columns == 1:
        return _one_column(answers, labels, last, name, is_all)
    if labels is not None and labels.is_classes and labels.least == 1 and labels.n_classes == columns + 1:
        raise ConfigurationError(
            f"The labels run from 1 to {columns}, and {name} answers with {columns} numbers a sample: which of them "
            "stands for which class is not known. Count classes from 0 (label - 1), in the data set."
        )
    if labels is not None and not _fits(columns, labels, declared):
        return Meaning("numbers", "labels")
    if labels is not None and labels.is_classes and labels.least < 0:
        raise ConfigurationError(
            f"A label is {labels.least}, which is no class: {name} answers with a number for each class from 0. Leave "
            "samples without a label out, or give their labels."
        )
    if labels is not None and labels.kind == "one_hot" and labels.is_partial and last not in _OF_ONE_CLASS:
        raise _unknown(
            name,
            f"The {columns} numbers may be of classes, or of several labels a sample: the labels known so far are rows "
            "with a single 1",
            OUTPUTS,
        )
    return _several_columns(answers, last, name, is_all)


_OF_ONE_CLASS = ("softmax", "log_softmax", "scaled probabilities")


def _fits(columns: int, labels: LabelForm, declared: set[int]) -> bool:
    """Whether answers of so many columns can be scores of the labels' classes."""
    return labels.n_classes is None or columns == labels.n_classes or columns in declared


def _multilabel(
    answers: Tensor, labels: LabelForm, columns: int, last: str | None, name: str, is_all: bool
) -> Meaning | None:
    if columns != labels.n_classes or answers.ndim != 2:
        return Meaning("numbers", "labels")
    if last in ("sigmoid", "linear"):
        return Meaning("multilabel_probabilities" if last == "sigmoid" else "multilabel_logits", "last operation")
    if last is not None:
        raise _unknown(name, f"The last operation is {last}", OUTPUTS)
    if bool(((answers < 0) | (answers > 1)).any()):
        return Meaning("multilabel_logits", "all answers")
    if is_all:
        raise _unknown(name, "All of them lie in 0 to 1", ("multilabel_logits", "multilabel_probabilities"))
    return None


def _one_column(answers: Tensor, labels: LabelForm | None, last: str | None, name: str, is_all: bool) -> Meaning | None:
    two = labels is not None and labels.is_classes and labels.n_classes in (2, None) and labels.least >= 0
    yes_or_no = labels is None or labels.kind == "dense" or two
    if not yes_or_no:
        return Meaning("numbers", "labels")
    if last in ("sigmoid", "softmax"):
        return Meaning("one_probability", "last operation")
    if last == "linear":
        return Meaning("one_logit", "last operation")
    if last is not None:
        raise _unknown(name, f"The last operation is {last}", OUTPUTS)
    if bool(((answers < 0) | (answers > 1)).any()):
        return Meaning("one_logit", "all answers")
    if is_all:
        raise _unknown(name, "All of them lie in 0 to 1", ("one_logit", "one_probability"))
    return None


def _several_columns(answers: Tensor, last: str | None, name: str, is_all: bool) -> Meaning | None:
    if last in ("sigmoid", "log_sigmoid"):
        raise _unknown(
            name, f"A sigmoid gives {answers.shape[1]} numbers a sample, and a sample has one class", OUTPUTS
        )
    if last in ("linear", "log_softmax"):  # a softmax over log-probabilities gives the probabilities
        return Meaning("logits", "last operation")
    if last == "softmax" and _are_distributions(answers, _LOOSE):
        return Meaning("probabilities", "last operation")
    if last in ("softmax", "scaled probabilities") and not _are_distributions(answers):
        raise _unknown(name, "They come from a softmax, and those of one sample do not sum to 1", OUTPUTS)
    if not _are_distributions(answers):
        return Meaning("logits", "all answers")
    return Meaning("probabilities", "all answers") if is_all else None


def _are_distributions(answers: Tensor, tolerance: float = _TOLERANCE) -> bool:
    return bool(((answers.sum(1) - 1).abs() < tolerance).all()) and bool((answers >= -tolerance).all())


def _unknown(name: str, why: str, names: tuple[str, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"What the answers of {name} mean cannot be known. {why}. Say it: outputs= one of {', '.join(names)}, or give "
        "to_probabilities=..."
    )


def rows_to_draws(answers: Tensor, n_samples: int, num_estimators: int | None, name: str) -> Tensor:
    """Answers with a dimension for the members of an ensemble: ``(B, ..., M)`` from ``(M * B, ...)``.

    Args:
        answers: member after member, as torch-uncertainty returns them; ``(B, ...)`` of a single model.
        n_samples: B.
        num_estimators: M; None: a single model.
        name: who answers, as it reads in the message.

    Raises:
        ConfigurationError: another number of rows.
    """
    members = num_estimators or 1
    if answers.ndim == 0 or answers.shape[0] != members * n_samples:
        rows = answers.shape[0] if answers.ndim else "no"
        many = answers.ndim and n_samples and answers.shape[0] % n_samples == 0 and answers.shape[0] > n_samples
        advice = f"num_estimators={answers.shape[0] // n_samples} takes them as members of an ensemble" if many else ""
        raise ConfigurationError(
            f"{name} answers with {rows} rows for {n_samples} samples; expected "
            + (f"num_estimators={members} rows a sample. " if num_estimators else "one row a sample. ")
            + (f"{advice}, or give" if advice else "Give")
            + " predict=function of (module, batch)."
        )
    return answers.unflatten(0, (members, n_samples)).movedim(0, -1)
