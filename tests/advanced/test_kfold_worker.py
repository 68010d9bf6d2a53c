"""A fold in a process of its own: which device it takes, and whom it ends with."""

import platform
import subprocess
import sys
import time

import pytest
import torch

from torchloops.advanced.kfold.worker import find_device, take_over_jobs
from torchloops.errors import ConfigurationError
from torchloops.orphans import Sender, ending_with


def with_gpus(monkeypatch, count):
    """As in a process that sees so many GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_worker_that_sees_one_gpu_takes_that_one(monkeypatch, accelerator):
    with_gpus(monkeypatch, 1)
    found = [find_device(accelerator, is_on_gpu=False, position=position) for position in range(3)]
    assert found == [{"accelerator": "cuda", "devices": [0]}] * 3


def test_workers_that_see_all_gpus_take_turns(monkeypatch):
    with_gpus(monkeypatch, 2)
    devices = [find_device("auto", is_on_gpu=True, position=position)["devices"] for position in range(4)]
    assert devices == [[0], [1], [0], [1]]


def test_a_run_on_the_cpu_stays_there(monkeypatch):
    with_gpus(monkeypatch, 4)
    assert find_device("cpu", is_on_gpu=False, position=3) == {}
    with_gpus(monkeypatch, 0)
    assert find_device("auto", is_on_gpu=False, position=3) == {}


@pytest.mark.parametrize(("accelerator", "is_on_gpu"), [("auto", True), ("gpu", False)])
def test_a_worker_without_the_gpu_that_it_needs_says_so(monkeypatch, accelerator, is_on_gpu):
    with_gpus(monkeypatch, 0)
    with pytest.raises(ConfigurationError, match="the process that got this one sees none"):
        find_device(accelerator, is_on_gpu, 0)


WORKER = """
import sys, time
from torchloops.orphans import Sender, ending_with
with ending_with(Sender(int(sys.argv[1]), sys.argv[2], are_children=sys.argv[3] == "True")):
    print("working", flush=True)
    time.sleep(float(sys.argv[4]))
print("finished", flush=True)
time.sleep(0.5)
print("went on", flush=True)
"""


@pytest.fixture
def start():
    """``start(code, *words)``: a process of Python that ends with the test."""
    started = []

    def start(code, *words):
        command = [sys.executable, "-c", code, *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def other(start):
    """A process that waits."""
    return start("input()")


def end(process):
    process.kill()
    process.wait()


def test_a_worker_ends_when_the_one_it_works_for_has_ended(start, other):
    worker = start(WORKER, other.pid, platform.node(), False, 60)
    assert worker.stdout.readline() == "working\n"
    end(other)
    assert worker.wait(10) == 1
    assert worker.stdout.read() == ""


def test_a_child_ends_also_when_it_has_finished(start):
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', *sys.argv[1:]]).wait()"
    code = "import os, sys\nsys.argv[2] = str(os.getpid())\n" + code
    parent = start(code, WORKER.replace("time.sleep(0.5)", "time.sleep(60)"), "", platform.node(), True, 0)
    assert parent.stdout.readline() == "working\n"
    assert parent.stdout.readline() == "finished\n"
    end(parent)
    assert parent.stdout.read() == "", "the child has closed its end"


def test_a_child_that_starts_after_its_parent_has_ended_ends_at_once(start, other):
    end(other)
    assert start(WORKER, other.pid, platform.node(), True, 60).wait(30) == 1


def test_a_worker_that_has_finished_may_outlive_the_other(start, other):
    worker = start(WORKER, other.pid, platform.node(), False, 0)
    assert worker.stdout.readline() == "working\n"
    assert worker.stdout.readline() == "finished\n"
    end(other)
    assert worker.stdout.readline() == "went on\n"
    assert worker.wait(10) == 0


@pytest.mark.parametrize("machine", ["another machine", None])
def test_a_sender_that_cannot_be_seen_is_not_watched(other, machine):
    end(other)
    with ending_with(Sender(other.pid, machine or platform.node(), are_children=False)):
        time.sleep(0.3)


def test_a_fold_that_a_process_of_an_earlier_run_still_works_on_is_not_taken_over(start, tmp_path):
    job = tmp_path / "fold_1" / "job"
    code = "import sys\nfrom pathlib import Path\nfrom torchloops.folders import working_in\n"
    code += "with working_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    input()"
    orphan = start(code, job)
    assert orphan.stdout.readline() == "in\n"
    with pytest.raises(ConfigurationError, match="Another process or thread works in"):
        take_over_jobs(tmp_path, resumed=True)
    end(orphan)
    take_over_jobs(tmp_path, resumed=True)
    assert job.is_dir()
    take_over_jobs(tmp_path, resumed=False)
    assert not job.exists()
