"""A run that is killed at any instant and resumed, over and over, ends with the bytes of the uninterrupted run."""

import random

import pytest
from outcome import differences
from scenarios import SCENARIOS

SPARSE = ("3 steps", "1 epoch", None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_saved_at_every_safe_point(driver, kills, seed, name):
    assert driver.survive(name, "0 seconds", kills, seed) >= kills


@pytest.mark.parametrize("name", SCENARIOS)
def test_saved_now_and_then(driver, kills, seed, name):
    savings = SPARSE if kills >= 10 else [random.Random(f"{name}{seed}").choice(SPARSE)]
    for saving in savings:
        assert driver.survive(name, saving, max(1, kills // 2), seed)
        every_time, seldom = (driver.uninterrupted(name, when).outcome for when in ("0 seconds", saving))
        assert not differences(every_time, seldom), "when a run is saved makes no difference"


def test_workers_make_no_difference(driver):
    without, with_workers = (driver.uninterrupted(name, "0 seconds").outcome for name in ("fit", "fit, 2 workers"))
    assert not differences(without, with_workers)
