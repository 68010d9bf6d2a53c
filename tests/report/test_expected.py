"""Scores against what the recipe promises."""

from torchloops.report import compare_with_expected

SUMMARY = {"bald": {"test/accuracy": {"mean": 0.9}}}


def test_a_score_in_its_range_is_as_expected():
    assert compare_with_expected(SUMMARY, {"test/accuracy": {"bald": [0.9, 0.95]}}) == []


def test_a_score_outside_its_range_or_missing_is_named():
    ranges = {"test/accuracy": {"bald": [0.91, 0.95], "random": [0, 1]}}
    assert compare_with_expected(SUMMARY, ranges) == [
        "test/accuracy of bald is 0.900, expected 0.91 to 0.95",
        "test/accuracy of random is missing, expected 0 to 1",
    ]
