"""Folders of runs: counted up, and one run at a time works in each."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from torchloops.errors import ConfigurationError
from torchloops.folders import make_next_folder, next_folder, working_in
from torchloops.testing import TinyClassifier, random_loader

WAITING = """
import sys
from pathlib import Path
from torchloops.folders import working_in
with working_in(Path(sys.argv[1])):
    print("in", flush=True)
    input()
"""

FIT = """
import sys
from torchloops import Callback, Trainer, seed_everything
from torchloops.testing import TinyClassifier, random_loader

class Waiting(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and sys.argv[2] == "wait":
            print("in", trainer.run_dir.as_posix(), flush=True)
            input()

seed_everything(int(sys.argv[1]))
root, path = sys.argv[3:] if len(sys.argv) > 3 else (None, None)
trainer = Trainer(
    max_epochs=2, accelerator="cpu", enable_progress_bar=False, callbacks=[Waiting()],
    default_root_dir=root or None, checkpoint_every="1 epoch",
)
trainer.fit(TinyClassifier(), random_loader(16, 8), ckpt_path=path or None)
print("done", trainer.run_dir.as_posix(), flush=True)
"""


def start(code, *words, cwd=None):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def is_refused(folder):
    try:
        with working_in(folder):
            return False
    except ConfigurationError as error:
        return f"works in {folder}, and two would overwrite" in str(error)


@pytest.fixture
def occupied(tmp_path):
    """A folder in which another process works."""
    process = start(WAITING, tmp_path / "run")
    assert process.stdout.readline() == "in\n"
    yield tmp_path / "run", process
    process.kill()
    process.communicate()


def test_numbers_go_on_after_the_highest(tmp_path):
    assert next_folder(tmp_path / "none", 1).name == "001"
    (tmp_path / "007_mine").mkdir()
    (tmp_path / "\u0663").mkdir()  # a digit, but not one of ours
    assert make_next_folder(tmp_path).name == "008"
    assert make_next_folder(tmp_path, name="a").name == "009_a"


def test_threads_that_start_together_get_a_folder_each(tmp_path):
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(make_next_folder(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == [f"{number:03d}" for number in range(8)]


def test_a_folder_belongs_to_the_process_that_works_in_it_until_it_is_killed(occupied):
    folder, process = occupied
    assert is_refused(folder)
    process.kill()
    assert not is_refused(folder)


def test_nothing_that_is_done_to_files_in_the_folder_gives_it_away(occupied):
    folder, _ = occupied
    (folder / "log.txt").write_text("a line")
    (folder / "log.txt").read_text()
    for path in folder.iterdir():
        path.unlink()
    assert is_refused(folder)


def test_reading_files_in_it_keeps_the_folder(tmp_path):
    code = WAITING.replace('print("in"', 'Path(sys.argv[1], "log.txt").write_text("a")\n    print("in"').replace(
        "    input()", '    Path(sys.argv[1], "log.txt").read_text()\n    input()'
    )
    process = start(code, tmp_path)
    assert process.stdout.readline() == "in\n"
    time.sleep(0.2)
    assert is_refused(tmp_path)
    process.communicate("\n", timeout=60)


def test_another_thread_is_refused_and_the_same_one_may_come_in_again(tmp_path):
    refused = []
    with working_in(tmp_path), working_in(tmp_path / "." / ".." / tmp_path.name):
        thread = threading.Thread(target=lambda: refused.append(is_refused(tmp_path)))
        thread.start()
        thread.join()
    assert refused == [True]
    assert not is_refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_does_not_hold_the_folder(tmp_path):
    with working_in(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        assert not is_refused(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_file_systems_that_lock_no_folders_lock_a_file(tmp_path, monkeypatch):
    import fcntl
    import stat

    flock = fcntl.flock

    def as_on_a_network(descriptor, how):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(9, "Bad file descriptor")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", as_on_a_network)
    refused = []
    with working_in(tmp_path):
        thread = threading.Thread(target=lambda: refused.append(is_refused(tmp_path)))
        thread.start()
        thread.join()
    assert refused == [True]


def test_where_nothing_can_be_locked_work_goes_on(tmp_path, monkeypatch):
    import fcntl

    def refuse(descriptor, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with working_in(tmp_path):
        pass
    (tmp_path / "file").touch()
    with working_in(tmp_path / "file" / "below"):
        pass


def test_fits_that_start_together_get_a_folder_each(tmp_path):
    processes = [start(FIT, number, "wait", cwd=tmp_path) for number in range(3)]
    folders = [process.stdout.readline().split()[1] for process in processes]
    for process in processes:
        assert process.communicate("\n", timeout=120)[0].startswith("done")
    assert sorted(folders) == ["runs/fit/000", "runs/fit/001", "runs/fit/002"]
    assert all((tmp_path / folder / "checkpoints" / "last.ckpt").is_file() for folder in folders)


def test_a_run_that_is_going_on_is_not_resumed_nor_its_folder_used(tmp_path):
    process = start(FIT, 1, "wait", cwd=tmp_path)
    folder = tmp_path / process.stdout.readline().split()[1]
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    for root, path in ((folder, ""), (folder, "last"), ("", folder)):
        error = start(FIT, 2, "go", root, path, cwd=tmp_path).communicate(timeout=120)[1]
        assert "ConfigurationError: Another process or thread works in" in error
        assert folder.name in error.strip().splitlines()[-1]
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert process.communicate("\n", timeout=120)[0].startswith("done")
    assert start(FIT, 2, "go", folder, "last", cwd=tmp_path).communicate(timeout=120)[0].startswith("done")


def test_fits_in_two_threads_do_not_share_a_folder(make_trainer, tmp_path):
    errors = []

    class Second:
        def on_train_start(self, trainer, module):
            thread = threading.Thread(target=self.fit)
            thread.start()
            thread.join()

        def fit(self):
            try:
                make_trainer(max_epochs=1, logger=True).fit(TinyClassifier(), random_loader(8, 8))
            except ConfigurationError as error:
                errors.append(str(error))

    make_trainer(max_epochs=1, logger=True, callbacks=[Second()]).fit(TinyClassifier(), random_loader(8, 8))
    assert [error.partition(f" {tmp_path}")[0] for error in errors] == ["Another process or thread works in"]
