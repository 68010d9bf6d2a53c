"""The numbers people compare."""

import numpy
import pandas
import pytest

from torchloops.report import accuracy_table, area_under_curve, summarise
from torchloops.report.summary import summarise_rounds

ROUNDS = pandas.DataFrame(
    {
        "strategy": ["margin", "margin", "random", "random"] * 2,
        "seed": [0] * 4 + [1] * 4,
        "n_labelled": [10, 20] * 4,
        "test/accuracy": [0.5, 0.9, 0.5, 0.7, 0.6, 0.8, 0.6, 0.6],
    }
)


def test_summary_of_values():
    assert summarise([1, 2, 3]) == {"mean": 2.0, "std": 1.0, "n": 3, "values": [1.0, 2.0, 3.0]}
    assert summarise([4])["std"] is None


def test_area_is_the_mean_height():
    assert area_under_curve([10, 20, 40], [0.0, 1.0, 1.0]) == pytest.approx((0.5 * 10 + 20) / 30)
    assert area_under_curve([10], [0.3]) == 0.3


def test_table_has_a_column_a_strategy_in_percent():
    table = accuracy_table(ROUNDS)
    assert list(table.columns) == ["n_labelled", "margin", "random"]
    numpy.testing.assert_allclose(table, [[10, 55, 55], [20, 85, 65]])


def test_summary_of_rounds_has_the_last_accuracy_of_every_seed():
    summary = summarise_rounds(ROUNDS)
    assert list(summary) == ["margin", "random"]
    assert summary["margin"]["test/accuracy"]["values"] == [0.9, 0.8]
    assert summary["random"]["area_under_curve"]["mean"] == pytest.approx(0.6)
