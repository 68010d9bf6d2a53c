"""What people did: one event a key, only ever added."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torchloops.errors import AnnotationError, did_you_mean

__all__ = ["ACTIONS", "DECISIONS", "Agreement", "Event", "Progress", "check_class_name", "check_label", "known_seconds"]

DECISIONS = ("label", "skip", "flag")
ACTIONS = (*DECISIONS, "later")
_DAY = 86_400.0
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person, or a program in the place of one, did.

    Args:
        id: of the event; later ones have higher ids.
        time: seconds since 1970, UTC.
        sample: name of the sample.
        action: "label", "skip", "flag", "later" or "undo".
        label: name of the class.
        annotator: who did it.
        round: of active learning in which it was asked; -1 for what was imported.
        seconds: that the answer took.
        guess, score: of the model, when it was asked.
        second: 1 for a second opinion, which decides nothing.
        undoes: id of the event that this one undoes.
        source: where it came from: "page", "terminal", "import", "label_studio" or "annotator".
    """

    id: int
    time: float
    sample: str
    action: str
    label: str | None
    annotator: str
    round: int
    seconds: float | None
    guess: str | None
    score: float | None
    second: int
    undoes: int | None
    source: str

    @classmethod
    def of(cls, row: sqlite3.Row) -> Event:
        """The event of a row of the table."""
        return cls(**{entry.name: row[entry.name] for entry in fields(cls)})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the questions of a round are.

    Args:
        round: of active learning; None where nothing was asked.
        n_asked: questions.
        n_decided: those with a label, skipped or flagged.
        n_labelled: labelled samples in the whole store.
    """

    round: int | None
    n_asked: int
    n_decided: int
    n_labelled: int

    @property
    def complete(self) -> bool:
        """Whether every question has its answer."""
        return self.n_decided >= self.n_asked


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two opinions on the same samples.

    Args:
        n: samples with two labels.
        kappa: Cohen's kappa, 1 where people agree and 0 where they do as by chance; None where it is not defined.
        disagreements: ``(sample, first label, second label)``.
    """

    n: int
    kappa: float | None
    disagreements: tuple[tuple[str, str, str], ...]


def check_class_name(name: Any) -> str:
    """The name without spaces around it.

    Raises:
        AnnotationError: it is empty, too long, or no line of text.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        raise AnnotationError(
            f"A class needs a name of 1 to {_LONGEST_NAME} characters that can be printed, got {name!r:.60}."
        )
    return text


def check_label(label: str | None, classes: Sequence[str]) -> str:
    """The label, if it is a class.

    Raises:
        AnnotationError: it is none.
    """
    if label is None or label not in classes:
        hint = did_you_mean(label, classes) if isinstance(label, str) else ""
        raise AnnotationError(f"The label {label!r:.80} is none of the classes {_shown(classes)}.{hint}")
    return label


def _shown(classes: Sequence[str]) -> str:
    names = ", ".join(repr(name) for name in classes[:12])
    return names if len(classes) <= 12 else f"{names} and {len(classes) - 12} more"


def known_seconds(seconds: Any) -> float | None:
    """Seconds that can be believed: finite, not negative, at most a day; else None."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if is_number and math.isfinite(seconds) and 0 <= seconds <= _DAY else None
