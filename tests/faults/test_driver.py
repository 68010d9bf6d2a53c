"""The driver finds what is broken: sabotaged scenarios, and differences of every kind."""

import signal

import pytest
import torch
from driver import NotTheSame
from outcome import collect, differences
from sabotage import CONTROL, SABOTAGED

WORDS = {
    "a generator that is not saved": "weights",
    "a count that is not saved": "weights",
    "a callback that saves nothing": "weights",
    "a file that is added to": r"epochs\.csv",
}


@pytest.mark.parametrize("name", SABOTAGED)
def test_sabotage_is_found(driver, name):
    with pytest.raises(NotTheSame, match=f"(?s)killed .*resumed after each kill, .*differ.*{WORDS[name]}"):
        driver.survive(name, kills=80)


def test_what_is_sabotaged_is_whole_without(driver):
    assert driver.survive(CONTROL, kills=5) >= 5


def test_a_run_that_is_not_resumed_is_told_from_one_that_is(driver, tmp_path):
    """A driver whose runs start anew each time would find all of them the same."""
    whole = driver.uninterrupted("fit")
    half = whole.counts["after optimizer step"] // 2
    strike = {"at": "after optimizer step", "count": half}
    assert driver.attempt("fit", "0 seconds", tmp_path, strike=strike)["status"] == -signal.SIGKILL
    strike["count"] = whole.counts["after optimizer step"]
    assert driver.attempt("fit", "0 seconds", tmp_path, resume=True, strike=strike)["status"] == 0


def test_the_same_kill_comes_again(driver, tmp_path):
    request = {"strike": {"at": "validate forward", "count": 3}}
    for _ in range(2):
        assert driver.attempt("fit", None, tmp_path, **request)["status"] == -signal.SIGKILL


def test_an_error_of_the_run_is_no_kill(driver):
    with pytest.raises(NotTheSame, match=r"(?s)does not run through:.*KeyError: 'no scenario'"):
        driver.uninterrupted("no scenario")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.tensor([0.0, 0.0, -0.0])),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], (1, 2)),
        (1, 1.0),
        (0.1 + 0.2, 0.3),
        ([], {}),
        (None, False),
        (list(range(60)), [*range(59), 0]),
    ],
)
def test_differences_are_found(tmp_path, one, other):
    assert not differences(collect(tmp_path, {"it": one}), collect(tmp_path, {"it": one}))
    assert differences(collect(tmp_path, {"it": one}), collect(tmp_path, {"it": other}))


def test_files_are_compared_but_for_clocks(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,seconds,train/seconds_query,loss\n0,1.5,2.5,0.10\n")
    before = collect(tmp_path)
    table.write_text("epoch,seconds,train/seconds_query,loss\n0,1.7,2.7,0.10\n")
    assert not differences(before, collect(tmp_path))
    table.write_text("epoch,seconds,train/seconds_query,loss\n0,1.7,2.7,0.1\n")
    assert differences(before, collect(tmp_path))
    (tmp_path / "other.bin").write_bytes(b"1")
    assert "other.bin" in "".join(differences(before, collect(tmp_path)))
