"""What is asked, what is answered, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["Action", "Annotator", "Answer", "Purpose", "Query"]

Action = Literal["label", "skip", "flag", "later"]
Purpose = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Query:
    """A picture whose label is wanted.

    Args:
        sample: name of the sample, by its content.
        path: the file, for whoever shows it; None where there is none.
        round: of active learning, from 0; the answers of round 3 train round 4.
        rank: place in the round, 0 is asked first.
        score: of the heuristic, high means ask first; None where nothing was scored.
        guess: class that the model would say; None where it was not asked.
        purpose: "train", or "test" for a sample drawn at random that measures and never trains.
    """

    sample: str
    path: Path | None = None
    round: int = 0
    rank: int = 0
    score: float | None = None
    guess: str | None = None
    purpose: Purpose = "train"


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody says to a query.

    Args:
        sample: name of the sample.
        action: "label"; "skip": this one shall not be used; "flag": something is wrong with it; "later": not yet, ask
            again.
        label: name of the class, with the action "label".
        annotator: who says so.
        seconds: that the answer took; None where nobody measured.
    """

    sample: str
    action: Action = "label"
    label: str | None = None
    annotator: str = "person"
    seconds: float | None = None


class Annotator(Protocol):
    """Whoever gives labels. Only ``annotate`` is needed.

    Called too, where they exist: ``attach(store)`` before the first query, ``note(**status)`` while the model trains,
    ``close()`` when the study is over.
    """

    def annotate(self, queries: Sequence[Query]) -> Sequence[Answer]:
        """Answer these queries; one that is left out counts as "later"."""
        ...
