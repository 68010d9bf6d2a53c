"""Guided and yielding steps in two processes give the weights of one process on the same global batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import guided_ddp_script
import pytest

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Results of the two processes, by rank."""
    folder = tmp_path_factory.mktemp("ddp")
    ours = ("MASTER_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, str(Path(guided_ddp_script.__file__)), str(folder)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-6000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", guided_ddp_script.CASES)
def test_two_processes_equal_one(name, two, tmp_path):
    one = guided_ddp_script.run_case(name, tmp_path, 1)
    assert two[0][name]["weights"] == two[1][name]["weights"]
    assert two[0][name]["losses"] == two[1][name]["losses"]
    assert two[0][name]["steps"] == one["steps"] > 0
    assert two[0][name]["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two[0][name]["weights"] == pytest.approx(one["weights"], abs=1e-4)
