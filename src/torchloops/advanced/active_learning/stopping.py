"""When a study has enough labels: small rules that look at what it has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torchloops.advanced.active_learning.labelled_map import LabelRecord
from torchloops.errors import ConfigurationError

__all__ = [
    "LabelBudget",
    "LabellingMinutes",
    "LargestScoreBelow",
    "Plateau",
    "StoppingCriterion",
    "StudyProgress",
    "TargetReached",
]


@dataclass(frozen=True)
class StudyProgress:
    """What a rule looks at.

    Args:
        rounds: a row a round, as in ``loop.rounds``.
        labels: all labels so far, as in ``loop.queries``.
        largest_score: of the pool, as scored by the last model; None where it is not scored yet, and in a first query
            that is drawn at random.
    """

    rounds: Sequence[dict[str, Any]]
    labels: Sequence[LabelRecord]
    largest_score: float | None = None

    def values(self, monitor: str, min_tests: int = 0) -> list[float]:
        """What the rounds measured under a name, those left out that did not, or on fewer than ``min_tests`` samples.

        Raises:
            ConfigurationError: no round has it, though one was tested.
        """
        enough = [row for row in self.rounds if row.get("n_tests", min_tests) >= min_tests]
        found = [float(row[monitor]) for row in enough if row.get(monitor) is not None]
        names = sorted({name for row in self.rounds for name, value in row.items() if isinstance(value, float)})
        if self.rounds and not any(monitor in row for row in self.rounds):
            raise ConfigurationError(f"monitor={monitor!r} is measured in no round. There are {names}.")
        return [value for value in found if value == value]


class StoppingCriterion(Protocol):
    """A rule: called after each round, and once more when the pool is scored, before anybody is asked."""

    def __call__(self, progress: StudyProgress) -> str | None:
        """Why the study ends, as it reads after "Stopped:"; None: it goes on."""
        ...


@dataclass(frozen=True)
class LabelBudget:
    """There are ``labels`` labels, the initial ones included; queries are not cut to fit, as ``budget=`` does."""

    labels: int

    def __call__(self, progress: StudyProgress) -> str | None:
        count = len(progress.labels)
        return f"{count} labels of {self.labels}" if count >= self.labels else None


@dataclass(frozen=True)
class TargetReached:
    """A metric of the last round is as good as wanted.

    Args:
        target: what is wanted.
        monitor: column of ``loop.rounds``.
        mode: "max": high is good; "min": low is.
        min_tests: samples that it must be measured on, where people label these too (column ``n_tests``).
    """

    target: float
    monitor: str = "test/accuracy"
    mode: str = "max"
    min_tests: int = 20

    def __post_init__(self) -> None:
        _check_mode(self.mode)

    def __call__(self, progress: StudyProgress) -> str | None:
        values = progress.values(self.monitor, self.min_tests)
        if not values or _sign(self.mode) * (values[-1] - self.target) < 0:
            return None
        return f"{self.monitor} is {values[-1]:.4g}, and {self.target:.4g} was wanted"


@dataclass(frozen=True)
class Plateau:
    """A metric has not become better for some rounds: the curve is flat.

    Args:
        rounds: so many in a row without a gain.
        min_delta: what counts as a gain over the best before them.
        monitor, mode, min_tests: as in `TargetReached`.
    """

    rounds: int = 3
    min_delta: float = 0.005
    monitor: str = "test/accuracy"
    mode: str = "max"
    min_tests: int = 20

    def __post_init__(self) -> None:
        _check_mode(self.mode)
        if self.rounds < 1:
            raise ConfigurationError(f"rounds must be 1 or more, got {self.rounds}.")

    def __call__(self, progress: StudyProgress) -> str | None:
        values = [_sign(self.mode) * value for value in progress.values(self.monitor, self.min_tests)]
        if len(values) <= self.rounds:
            return None
        before, last = max(values[: -self.rounds]), max(values[-self.rounds :])
        if last >= before + self.min_delta:
            return None
        return f"{self.monitor} has gained less than {self.min_delta:g} in {self.rounds} rounds"


@dataclass(frozen=True)
class LargestScoreBelow:
    """The model is unsure of nothing any more: the largest score of the pool is below ``bound``.

    Args:
        bound: in the unit of the heuristic; entropy and BALD are in nats.
    """

    bound: float

    def __call__(self, progress: StudyProgress) -> str | None:
        largest = progress.largest_score
        if largest is None or largest >= self.bound:
            return None
        return f"the largest score of the pool is {largest:.4g}, below {self.bound:g}"


@dataclass(frozen=True)
class LabellingMinutes:
    """People have spent so many minutes on labels that count, as their answers say."""

    minutes: float

    def __call__(self, progress: StudyProgress) -> str | None:
        spent = sum(record.seconds for record in progress.labels) / 60
        return f"{spent:.1f} minutes of labelling, of {self.minutes:g}" if spent >= self.minutes else None


def _sign(mode: str) -> int:
    return 1 if mode == "max" else -1


def _check_mode(mode: str) -> None:
    if mode not in ("max", "min"):
        raise ConfigurationError(f'mode must be "max" or "min", got {mode!r}.')
