"""Two processes on the CPU give the result of one process on the same global batches."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import ddp_script
import pytest
import torch

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the run in two processes, which holds a JSON file of each."""
    folder = tmp_path_factory.mktemp("ddp")
    ours = ("MASTER_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, str(Path(ddp_script.__file__)), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-6000:]
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """Results of the two processes, by rank."""
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Results of one process."""
    folder = tmp_path_factory.mktemp("single")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {name: ddp_script.run_case(name, folder, 1) for name in ddp_script.CASES}
    results["resumed"] = ddp_script.resume(folder, 1)
    results["inside"] = ddp_script.inside(folder, 1)
    torch.set_num_threads(threads)
    return results


@pytest.mark.parametrize("name", ddp_script.CASES)
def test_weights_equal_those_of_one_process(name, one, two):
    for rank in (0, 1):
        assert two[rank][name]["weights"] == pytest.approx(one[name]["weights"], abs=1e-5)
        assert two[rank][name]["steps"] == one[name]["steps"]
        assert two[rank][name]["epoch"] == one[name]["epoch"] == 2


def test_layers_that_an_inner_run_makes_get_the_gradients_of_all_processes(one, two):
    for rank in (0, 1):
        assert two[rank]["inside"]["weights"] == pytest.approx(one["inside"]["weights"], abs=1e-5)


@pytest.mark.parametrize("name", ddp_script.CASES)
def test_synced_values_equal_those_of_one_process(name, one, two):
    expected = {key: value for key, value in one[name]["metrics"].items() if key != "loss_step"}
    for rank in (0, 1):
        found = {key: value for key, value in two[rank][name]["metrics"].items() if key != "loss_step"}
        assert found == pytest.approx(expected, abs=1e-5)
    assert {"loss_epoch", "accuracy", "samples", "largest", "val_loss", "val_accuracy"} <= set(expected)
    assert expected["samples"] in (40, 80)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_equals_that_of_one_process(stage, one, two):
    for rank in (0, 1):
        assert two[rank]["plain"][stage] == [pytest.approx(one["plain"][stage][0], abs=1e-5)]


def test_every_process_has_all_predictions_in_order(one, two):
    """Also where the last batch is smaller, and one process has a batch less."""
    assert len(one["plain"]["predictions"]) == 21
    for rank in (0, 1):
        assert two[rank]["plain"]["predictions"] == pytest.approx(one["plain"]["predictions"], abs=1e-5)


def test_every_sample_is_tested_once(one, two):
    for rank in (0, 1):
        assert two[rank]["plain"]["tested"] == one["plain"]["tested"] == 21


def test_resuming_in_two_processes_equals_resuming_in_one(one, two):
    for rank in (0, 1):
        assert two[rank]["resumed"]["steps"] == one["resumed"]["steps"] == 15
        assert two[rank]["resumed"]["weights"] == pytest.approx(one["resumed"]["weights"], abs=1e-5)


def test_every_process_goes_on_with_its_own_generators_values_and_gradients(two):
    for rank in (0, 1):
        whole, resumed = two[rank]["cut"]
        assert whole == resumed


def test_only_the_first_process_writes(folder, two):
    assert [two[rank]["plain"]["rank"] for rank in (0, 1)] == [0, 1]
    files = sorted(str(path.relative_to(folder / "plain")) for path in (folder / "plain").rglob("*") if path.is_file())
    assert files == ["checkpoints/last.ckpt", "checkpoints/last.previous.ckpt", "metrics.csv"]
    with (folder / "plain" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["loss_epoch"]) == pytest.approx(two[0]["plain"]["metrics"]["loss_epoch"], rel=1e-4)
