"""A run with folds in other processes is killed alone: they end with it, and their folds go on where they were."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcome import collect, differences

EPOCHS = 12  # of a fold of the script
SCRIPT = """
import json, os, sys, time
from torchloops import Callback, KFoldDataModule, KFoldLoop, Trainer, seed_everything
from torchloops.testing import TinyClassifier, random_dataset

class Noting(Callback):
    def on_train_epoch_start(self, trainer, module):
        time.sleep(float(sys.argv[2]))
        note = {"process": os.getpid(), "fold": trainer.run_name, "epoch": trainer.current_epoch}
        with open("epochs.txt", "a") as file:
            file.write(json.dumps(note) + "\\n")

seed_everything(0)
trainer = Trainer(
    max_epochs=12, accelerator="cpu", default_root_dir="run", enable_progress_bar=False, callbacks=[Noting()],
    checkpoint_every="1 epoch",
)
loop = KFoldLoop(num_folds=2, splitter="kfold", export_path="run", n_jobs=2, threads=1)
loop.connect(trainer.fit_loop)
trainer.fit_loop = loop
trainer.fit(TinyClassifier(), KFoldDataModule(random_dataset(24), batch_size=8), ckpt_path=sys.argv[1] or None)
"""


def start(folder, ckpt_path, seconds):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, ckpt_path, str(seconds)], cwd=folder)


def notes(folder):
    path = folder / "epochs.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def wait_until(condition, limit=120):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, "", 0).wait(240) == 0
    return collect(folder / "run")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_and_folds_go_on_inside(tmp_path, whole, number):
    parent = start(tmp_path, "", 0.4)
    folds = ("fold_0", "fold_1")

    def reached(epoch):
        return all(any(note["fold"] == fold and note["epoch"] >= epoch for note in notes(tmp_path)) for fold in folds)

    wait_until(lambda: reached(3))
    os.kill(parent.pid, number)
    parent.wait(60)
    workers = {note["process"] for note in notes(tmp_path)}
    assert len(workers) == 2
    assert parent.pid not in workers
    wait_until(lambda: not any(is_running(process) for process in workers), limit=20)
    before = len(notes(tmp_path))
    assert start(tmp_path, "last", 0).wait(240) == 0
    again = {fold: [note["epoch"] for note in notes(tmp_path)[before:] if note["fold"] == fold] for fold in folds}
    assert all(epochs[0] >= 2 for epochs in again.values()), again
    assert all(epochs[-1] == EPOCHS - 1 for epochs in again.values()), again
    assert not differences(whole, collect(tmp_path / "run"))
    assert not list(tmp_path.glob("run/fold_*/job"))


def test_a_run_that_begins_anew_does_not_go_on_with_folds_of_an_earlier_one(tmp_path, whole):
    parent = start(tmp_path, "", 0.4)
    wait_until(lambda: len(list(tmp_path.glob("run/fold_*/job/checkpoints/last.ckpt"))) == 2)
    parent.kill()
    parent.wait(60)
    before = len(notes(tmp_path))
    assert start(tmp_path, "", 0).wait(240) == 0
    assert {note["epoch"] for note in notes(tmp_path)[before:] if note["fold"] == "fold_0"} == set(range(EPOCHS))
    (tmp_path / "run" / "checkpoints" / "earlier.ckpt").unlink(missing_ok=True)
    assert not differences(whole, collect(tmp_path / "run"))
