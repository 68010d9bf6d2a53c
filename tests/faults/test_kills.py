"""A run that is killed at any instant and resumed, over and over, ends with the bytes of the uninterrupted run."""

import pytest
from outcome import differences
from scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_and_resumed(driver, kills, seed, name):
    assert driver.survive(name, kills, seed) >= kills


def test_workers_make_no_difference(driver):
    without, with_workers = (driver.uninterrupted(name).outcome for name in ("fit", "fit, 2 workers"))
    assert not differences(without, with_workers)
