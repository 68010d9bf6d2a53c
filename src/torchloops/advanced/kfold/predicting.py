"""Predictions for a held-out part: answers of the module, and what they say by the meaning that a run has found."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloops.data.asking import Asker
from torchloops.data.items import NoLabelError, find_label
from torchloops.data.label_values import LabelForm, as_array, read_form
from torchloops.data.labels import Labels
from torchloops.data.outputs import Meaning, UnscoredOutputsWarning
from torchloops.data.reader import Reader, declared_classes
from torchloops.errors import ConfigurationError
from torchloops.seeding import isolated_generators

__all__ = ["Asking", "Predictions", "collect_answers", "interpret", "settle", "settle_early"]


@dataclass(frozen=True)
class Asking:
    """How the models of all folds are asked, as a user said it.

    Args:
        predict: a function of (module, batch); None: the module's own way; False: not at all.
        outputs: what the answers are; None: it is found.
        to_probabilities: turns answers into probabilities, or None.
        num_estimators: rows a sample, one of each member of an ensemble; None: one.
        target_key: place of the label in a batch.
    """

    predict: Any = None
    outputs: str | None = None
    to_probabilities: Any = None
    num_estimators: int | None = None
    target_key: str | int | None = None

    def reader(self, module: Any, meaning: Meaning | None = None, under_precision: Any = None, **known: Any) -> Reader:
        """What asks ``module`` and reads its answers.

        Args:
            module: a module.
            meaning: of the answers, where it is known.
            under_precision: see `Asker`.
            **known: ``labels`` and ``declared`` of `Reader`.
        """
        settings = {} if under_precision is None else {"under_precision": under_precision}
        asker = Asker(module, self.predict or None, self.target_key, **settings)
        reader = Reader(
            asker,
            outputs=self.outputs,
            to_probabilities=self.to_probabilities,
            num_estimators=self.num_estimators,
            **known,
        )
        reader.meaning = reader.meaning or meaning
        return reader


@dataclass(frozen=True)
class Predictions:
    """What a module says of some samples.

    Args:
        values: predicted class ``(n_samples,)``, labels ``(n_samples, n_labels)``, or numbers ``(n_samples,)`` or
            ``(n_samples, n_outputs)``.
        probabilities: ``(n_samples, n_classes)`` or ``(n_samples, n_labels)``; None where answers are no scores.
        targets: ``(n_samples, ...)``, or None where they are unknown.
    """

    values: Tensor
    probabilities: Tensor | None
    targets: Tensor | None


def collect_answers(trainer: Any, loader: Iterable[Any], reader: Reader) -> tuple[Tensor, np.ndarray | None]:
    """``(answers, labels)`` of all samples of a loader in order; labels are None where batches have none.

    Raises:
        ConfigurationError: answers that do not have a row a sample.
    """
    limit = trainer.batch_limit("predict")
    answers: list[Tensor] = []
    labels: list[Any] = []
    for batch, found in reader.ask_all(trainer, islice(loader, limit if isinstance(limit, int) else None)):
        answers.append(_checked(found, reader))
        label = find_label(batch, reader.asker.target_key)
        labels.append(None if label is None else _labels_of_batch(label))
    known = bool(labels) and all(label is not None and len(label) for label in labels)
    return torch.cat(answers), np.concatenate(labels) if known else None


def _labels_of_batch(label: Any) -> np.ndarray:
    """The labels of a batch; where samples hold lists of numbers, torch's default_collate makes a tensor a place."""
    columns = isinstance(label, list | tuple) and all(isinstance(part, Tensor) and part.ndim == 1 for part in label)
    return as_array(torch.stack(list(label), dim=1) if columns and label else label)


def _checked(answers: Tensor, reader: Reader) -> Tensor:
    if answers.ndim <= 2 + (reader.num_estimators is not None):
        return answers
    raise ConfigurationError(
        "Out-of-fold predictions need one row a sample: scores (B, n_classes), or values (B,) or (B, n_outputs). "
        f"{reader.name} answers with shape {tuple(answers.shape)}. Give KFoldLoop predict=function of (module, batch), "
        "or predict=False to go without."
    )


def settle_early(trainer: Any, data: Any, asking: Asking) -> Meaning | None:
    """Ask the untrained module for two samples: what cannot be asked or read is found before a fold is trained.

    Returns:
        The meaning of the answers where it is known already.

    Raises:
        ConfigurationError: the module cannot be asked, or its answers cannot be read.
        DataError: the labels are names, and the order of the classes is not known.
    """
    reader = _reader(trainer, data, asking)
    ids = list(data.sample_ids)[:2]
    move = trainer.batch_mover()
    with isolated_generators(0):
        _, batch = next(iter(data.source.loader_with_ids(ids, len(ids))))
        batch = batch if move is None else move(batch, 0)
    found = reader.dry_pass(trainer.module, batch, len(ids))
    _checked(found, reader)
    if reader.meaning is not None:
        _say_if_unscored(reader.meaning, reader.labels, found, reader.name)
        if reader.meaning.are_classes and reader.labels is not None and reader.labels.written == "text":
            data.labels.encoded(data.labels.all())
    return reader.meaning


def settle(trainer: Any, data: Any, asking: Asking, answers: Tensor, last: str | None, labels: Any) -> Meaning:
    """The meaning of all answers of the first fold.

    Args:
        trainer, data, asking: of the run.
        answers: from `collect_answers`.
        last: the model's last operation.
        labels: of the held-out part, where those of all samples are not known.
    """
    reader = _reader(trainer, data, asking)
    if reader.labels is None and labels is not None:
        reader.labels = read_form(labels)
    reader.last = last
    reader.settle(answers, is_all=True)
    assert reader.meaning is not None
    _say_if_unscored(reader.meaning, reader.labels, answers, reader.name)
    return reader.meaning


def _reader(trainer: Any, data: Any, asking: Asking) -> Reader:
    source = getattr(data, "source", None)
    declared = declared_classes(trainer.module, getattr(data, "base", data.datamodule), source and source.train)
    labels = data.labels
    if labels is not None and labels.classes:
        declared.add(len(labels.classes))
    return asking.reader(
        trainer.module,
        under_precision=trainer.engine.under_precision,
        labels=_form_of(labels),
        declared=declared,
    )


def _form_of(labels: Labels | None) -> LabelForm | None:
    """The form of all labels, read out of the samples where they are nowhere else; None: samples have none.

    Raises:
        DataError: some have one, and others have none.
    """
    try:
        return None if labels is None else labels.form
    except NoLabelError:
        return None


def _say_if_unscored(meaning: Meaning, labels: LabelForm | None, answers: Tensor, name: str) -> None:
    """Say that answers of several columns are no scores of the labels, and so are taken as numbers."""
    several = answers.ndim > 1 and answers.shape[1] > 1
    if meaning.kind != "numbers" or labels is None or not labels.n_classes or labels.kind == "numbers":
        return
    if meaning.told != "given" and not several:
        warnings.warn(
            f"{name} answers with one number a sample, and the labels are whole numbers from {labels.least} to "
            f'{labels.n_classes - 1}: they are compared as numbers. Give outputs="numbers" if they are; count two '
            "classes as 0 and 1 if they are classes.",
            UnscoredOutputsWarning,
            stacklevel=4,
        )
    elif meaning.told != "given":
        warnings.warn(
            f"{name} answers with {answers.shape[1]} numbers a sample, and the labels have {labels.n_classes} classes: "
            "they are not taken for scores of classes, out-of-fold predictions are plain numbers, and nothing is "
            'scored by them. If they are scores of more classes than the data has, give outputs="logits" or '
            '"probabilities".',
            UnscoredOutputsWarning,
            stacklevel=4,
        )


def interpret(answers: Tensor, labels: np.ndarray | None, meaning: Meaning, known: Labels | None) -> Predictions:
    """Answers of a held-out part, or of the mean over the members of an ensemble, by their meaning.

    Args:
        answers: ``(n_samples, n_columns)``, with a last dimension for members; or whole numbers ``(n_samples,)``.
        labels: of the same samples, or None.
        meaning: of the answers.
        known: the labels of the data, which know the order of classes.

    Raises:
        ConfigurationError: answers that contradict the meaning.
        DataError: labels that are names, whose order is unknown.
    """
    if meaning.kind == "classes":
        return Predictions(answers.squeeze(1) if answers.ndim == 2 else answers, None, _targets(labels, meaning, known))
    if meaning.kind == "numbers":
        values = answers.mean(-1) if answers.ndim == 3 else answers
        return Predictions(_squeezed(values), None, _targets(labels, meaning, known))
    probabilities = meaning.probabilities(answers)
    probabilities = probabilities.mean(-1) if probabilities.ndim == 3 else probabilities
    values = (probabilities > 0.5).long() if meaning.is_multilabel else probabilities.argmax(dim=1)
    return Predictions(values, probabilities, _targets(labels, meaning, known))


def _squeezed(values: Tensor) -> Tensor:
    return values.squeeze(1) if values.ndim == 2 and values.shape[1] == 1 else values


def _targets(labels: np.ndarray | None, meaning: Meaning, known: Labels | None) -> Tensor | None:
    if labels is None:
        return None
    if labels.dtype.kind in "US" or (meaning.are_classes and not meaning.is_multilabel):
        own = known or Labels(labels, given=labels)
        return torch.as_tensor(own.encoded(labels))
    return torch.as_tensor(labels)
