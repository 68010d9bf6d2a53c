"""Recipes by the command line: killed at any instant, resumed by ``torchloops resume``, they leave the same files."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from outcome import collect, differences
from recipe_studies import RECIPES, words_of

LIMIT = 240  # seconds


class Command:
    """``torchloops``, typed in a folder: a fresh process with a group of its own."""

    def __init__(self, folder, *words):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        with (folder / "said.log").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torchloops", *words],
                cwd=folder,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.folder = folder

    def kill_after(self, seconds):
        """SIGKILL after so many seconds; True if it came in time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL

    def end(self):
        """Wait for the end, which must be a good one."""
        code = self.process.wait(LIMIT)
        assert code == 0, (self.folder / "said.log").read_text()


def wait_for(path):
    """Wait until there is a file; return the seconds that took."""
    start = time.monotonic()
    while not path.is_file() and time.monotonic() < start + LIMIT:
        time.sleep(0.01)
    return time.monotonic() - start


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_and_resumed(driver, tmp_path, kills, seed, recipe):
    """One kill of a fresh process for every ten in forked ones."""
    whole = driver.uninterrupted(f"recipe {recipe}")
    words = words_of(recipe, "run", "0 seconds")
    draw, run = random.Random(f"{recipe}, {seed}"), f"run/{recipe}/001"
    command = Command(tmp_path, *words)
    start_up = wait_for(tmp_path / run / "run.json")
    killed = 0
    while killed <= kills // 10:
        if not command.kill_after(draw.uniform(0.0, 1.5 * whole.seconds) + (start_up if killed else 0.0)):
            break
        killed += 1
        command = Command(tmp_path, "resume", run, "--quiet")
    command.end()
    found = differences(whole.outcome, collect(tmp_path / "run", {}))
    assert not found, f"killed {killed} times:\n" + "\n".join(found[:20])
    driver.survived[f"recipe {recipe}, fresh processes"] = killed
    if kills >= 10:
        assert driver.survive(f"recipe {recipe}", kills, seed) >= kills
