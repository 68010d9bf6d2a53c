"""Whether a run with unchanged options came out as ``expected.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["compare_with_expected"]


def compare_with_expected(summary: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Say what is outside its range; an empty list means that everything is as expected.

    Args:
        summary: ``{strategy: {measure: {"mean": ...}}}``, as ``summary.json`` holds it.
        expected: ``{measure: {strategy: [low, high]}}``, the range of the mean, ends included.
    """
    differences = []
    for measure, ranges in expected.items():
        for strategy, (low, high) in ranges.items():
            mean = summary.get(strategy, {}).get(measure, {}).get("mean")
            if mean is None or not low <= mean <= high:
                came = "is missing" if mean is None else f"is {mean:.3f}"
                differences.append(f"{measure} of {strategy} {came}, expected {low} to {high}")
    return differences
