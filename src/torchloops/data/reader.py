"""Asking a module and reading its answers in one way over a whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.data.asking import Asker, last_operation
from torchloops.data.items import find_label, number_of_rows, rows_of_label
from torchloops.data.label_values import LabelForm
from torchloops.data.outputs import Meaning, check_outputs_name, find_meaning, rows_to_draws
from torchloops.errors import ConfigurationError
from torchloops.module import evaluating
from torchloops.seeding import isolated_generators

__all__ = ["Reader", "declared_classes"]


class Reader:
    """Asks a module for its answers, and reads them by a meaning that is found once.

    Args:
        asker: how the module is asked.
        outputs: what the user says the answers are, one of `OUTPUTS`; None: it is found.
        to_probabilities: a function that turns answers into probabilities ``(B, n_classes, ...)``, or None.
        num_estimators: rows a sample has in the answers, one of each member of an ensemble; None: one.
        labels: the form of the labels; None: unknown.
        declared: numbers of classes that the data or the module names; see `declared_classes`.

    Attributes:
        meaning: how answers are read; None: not found yet.
        last: the last operation of the model, once it was asked.
        is_tried: the module was asked before, which settled how.
        is_flat: the last answers were ``(B,)``.

    Raises:
        ConfigurationError: ``outputs`` is none, or given beside ``to_probabilities``.
    """

    def __init__(
        self,
        asker: Asker,
        *,
        outputs: str | None = None,
        to_probabilities: Callable[[Any], Tensor] | None = None,
        num_estimators: int | None = None,
        labels: LabelForm | None = None,
        declared: Iterable[int] = (),
    ) -> None:
        check_outputs_name(outputs)
        if outputs is not None and to_probabilities is not None:
            raise ConfigurationError("outputs and to_probabilities were both given; give one of them.")
        if num_estimators is not None and num_estimators < 1:
            raise ConfigurationError(f"num_estimators must be 1 or more, got {num_estimators}.")
        self.asker = asker
        self.to_probabilities = to_probabilities
        self.num_estimators = num_estimators
        self.labels = labels
        self.declared = set(declared)
        self.last: str | None = None
        self.is_tried = False
        self.is_flat = False
        if to_probabilities is not None:
            multilabel = labels is not None and labels.kind == "multilabel"
            self.meaning: Meaning | None = Meaning("multilabel_probabilities" if multilabel else "probabilities")
        else:
            self.meaning = None if outputs is None else Meaning(outputs)

    @property
    def name(self) -> str:
        """Who answers, for messages."""
        return self.asker.name

    def answers(self, batch: Any, n_samples: int | None = None, index: int = 0) -> Tensor:
        """The answers to a batch, ``(B, n_columns, ...)``, with a last dimension for the members of an ensemble.

        Whole numbers stay ``(B, ...)``. The first batch settles how the module is asked.

        Args:
            batch: as it reaches the module.
            n_samples: B; default: as the batch says.
            index: of the batch.

        Raises:
            ConfigurationError: another number of rows than samples, or what `Asker.try_out` refuses.
        """
        if self.is_tried:
            found = self.asker(batch, index)
        elif self.meaning is not None:  # nothing is to be found by watching, which costs
            found, self.is_tried = self.asker.try_out(batch), True
        else:
            found, self.last = last_operation(lambda: self.asker.try_out(batch))
            self.is_tried = True
            if self.asker.kind is not None and self.meaning is None:
                self.meaning = Meaning(self.asker.kind, "module.output_kind")
        if self.to_probabilities is not None:
            found = self.to_probabilities(found)
        if not isinstance(found, Tensor) or not found.ndim:
            came = "a tensor of one number" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ConfigurationError(
                f"{self.name} answers with {came}; expected a tensor with a row a sample. Give predict=function of "
                "(module, batch) that returns one, or to_probabilities=function of the answer."
            )
        size = number_of_rows(batch) if n_samples is None else n_samples
        self.is_flat = found.ndim == 1
        if self.is_flat and found.dtype.is_floating_point:
            found = found.unsqueeze(1)
        if size is None:
            return found
        with_members = rows_to_draws(found, size, self.num_estimators, self.name)
        return with_members if self.num_estimators is not None else with_members.squeeze(-1)

    def settle(self, answers: Tensor, is_all: bool) -> bool:
        """Find the meaning of answers, if it is not known, and check that they do not contradict it.

        Args:
            answers: from `answers`.
            is_all: there will be no more in this pass.

        Returns:
            Whether the meaning is known.

        Raises:
            ConfigurationError: it cannot be known, or is contradicted.
        """
        flat = answers if self.num_estimators is None else answers.movedim(-1, 0).flatten(0, 1)
        if self.meaning is None:
            self.meaning = find_meaning(flat, self.labels, self.last, self.declared, self.name, is_all)
        if self.meaning is None:
            return False
        self.meaning.check(flat, self.name)
        labels, columns = self.labels, flat.shape[1] if flat.ndim > 1 else 1
        wide = self.meaning.kind in ("logits", "probabilities")
        if wide and labels is not None and labels.kind == "multilabel":
            raise ConfigurationError(
                f"The labels are rows of 0 and 1, several 1 in a row, and the answers of {self.name} are read as "
                f'{self.meaning.kind} of one class each ({self.meaning.told}). Give outputs="multilabel_logits" or '
                '"multilabel_probabilities".'
            )
        if wide and labels is not None and labels.is_classes and labels.n_classes and labels.n_classes > columns:
            raise ConfigurationError(
                f"The labels are classes up to {labels.n_classes - 1}, counted from 0, and {self.name} answers with "
                f"{columns} numbers a sample. Give the model an output for each class."
            )
        return True

    def dry_pass(self, module: nn.Module, batch: Any, n_samples: int) -> Tensor:
        """The answers of an untrained module to a few samples, so that what cannot be read is found before training.

        Modes, generators and gradients are left as they were.

        Args:
            module: the module that is asked.
            batch: as it reaches the module.
            n_samples: samples of the batch.
        """
        with isolated_generators(0), evaluating(module), torch.no_grad():
            found = self.answers(batch, n_samples)
        self.settle(found, is_all=False)
        return found

    def ask_all(self, trainer: Any, batches: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """``(batch, answers)`` of every batch in order, in evaluation mode, without gradients; answers on the CPU."""
        move = trainer.batch_mover()
        with evaluating(trainer.module), torch.inference_mode():
            for index, batch in enumerate(batches):
                batch = batch if move is None else move(batch, 0)
                label = find_label(batch, self.asker.target_key)
                yield batch, _plain(self.answers(batch, rows_of_label(label), index))


def _plain(answers: Tensor) -> Tensor:
    answers = answers.detach().cpu()
    return answers.float() if answers.dtype in (torch.float16, torch.bfloat16) else answers.clone()


def _of_hparams(hparams: Any, name: str) -> Any:
    return hparams.get(name) if hasattr(hparams, "get") else getattr(hparams, name, None)


def declared_classes(module: nn.Module | None, *data: Any) -> set[int]:
    """The numbers of classes that a module, data modules and data sets name (``num_classes``, ``classes`` ...)."""
    found: set[int] = set()
    hparams = getattr(module, "hparams", None) or {}
    for name in ("num_classes", "n_classes", "num_labels", "n_labels"):
        candidates = chain((getattr(owner, name, None) for owner in (module, *data)), (_of_hparams(hparams, name),))
        found |= {value for value in candidates if isinstance(value, int) and not isinstance(value, bool)}
    for owner in data:
        names = getattr(owner, "classes", None)
        if isinstance(names, list | tuple):
            found.add(len(names))
    return found
