"""From rounds to the few numbers that people compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

__all__ = ["accuracy_table", "area_under_curve", "summarise", "summarise_rounds"]


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two values), count and the values themselves."""
    numbers = [float(value) for value in values]
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "n": len(numbers),
        "values": numbers,
    }


def area_under_curve(n_labelled: Sequence[float], accuracy: Sequence[float]) -> float:
    """The mean accuracy between the first and the last number of labels, by the trapezoid rule.

    Args:
        n_labelled: ``(n_rounds,)``, rising.
        accuracy: ``(n_rounds,)``, 0 to 1. A single round has its own accuracy as its area.
    """
    points = list(zip(n_labelled, accuracy, strict=True))
    if len(points) == 1:
        return float(points[0][1])
    area = sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))
    return float(area / (points[-1][0] - points[0][0]))


def accuracy_table(rounds: pandas.DataFrame) -> pandas.DataFrame:
    """Test accuracy in percent, one row a number of labels, one column a strategy, the mean over seeds.

    Args:
        rounds: columns ``strategy``, ``seed``, ``n_labelled``, ``test/accuracy`` (0 to 1).
    """
    table = rounds.pivot_table(index="n_labelled", columns="strategy", values="test/accuracy", sort=False)
    table = 100 * table.sort_index()[list(rounds["strategy"].unique())]
    return table.rename_axis(columns=None).reset_index()


def summarise_rounds(rounds: pandas.DataFrame) -> dict[str, Any]:
    """For every strategy: the last round's test accuracy and the area under the curve, over the seeds."""
    result: dict[str, Any] = {}
    for strategy, rows in rounds.groupby("strategy", sort=False):
        runs = [run.sort_values("n_labelled") for _, run in rows.groupby("seed", sort=False)]
        result[str(strategy)] = {
            "test/accuracy": summarise([run["test/accuracy"].iloc[-1] for run in runs]),
            "area_under_curve": summarise(
                [area_under_curve(list(run["n_labelled"]), list(run["test/accuracy"])) for run in runs]
            ),
        }
    return result
