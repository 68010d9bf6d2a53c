"""The file of a checkpoint: never lost, never silently another one, never unsafe."""

import errno
import io
import os
import pickle
import random
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from torchloops.errors import CheckpointError, CheckpointWriteError, DamagedCheckpointError, ResumeWarning
from torchloops.trainer import checkpoint_file, checkpoint_formats, temporary_files
from torchloops.trainer.checkpoint_file import previous_path, read_checkpoint, read_newest, write_checkpoint
from torchloops.trainer.checkpoint_formats import FORMAT


def make(epoch=0, size=300):
    weights = torch.Generator().manual_seed(epoch)
    return {
        "format": FORMAT,
        "epoch": epoch,
        "state_dict": {"weight": torch.randn(size, generator=weights), "steps": torch.tensor(epoch)},
        "settings": {"": {"type": "FitLoop", "progress": [1, 2, epoch]}},
        "metrics": {"loss": 0.5, "names": ("a", "b")},
        "outer_runs": [],
    }


def content(checkpoint):
    """All that is in a checkpoint that was read, as bytes."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def path(tmp_path):
    """``last.ckpt`` of epoch 2, with the one of epoch 1 before it."""
    for epoch in (1, 2):
        write_checkpoint(make(epoch), tmp_path / "last.ckpt", keep_previous=True)
    return tmp_path / "last.ckpt"


# what is written


def test_what_was_written_is_read(tmp_path):
    path = write_checkpoint(make(3), tmp_path / "new" / "folders" / "last.ckpt")
    read = read_checkpoint(path)
    assert torch.equal(read["state_dict"]["weight"], make(3)["state_dict"]["weight"])
    assert {name: value for name, value in read.items() if name != "state_dict"} == {
        name: value for name, value in make(3).items() if name != "state_dict"
    }
    assert names(path.parent) == ["last.ckpt"]


def test_torch_zipfile_and_lightning_read_the_file(path):
    from lightning_fabric.utilities.cloud_io import _load

    expected = content(read_checkpoint(path))
    assert content(torch.load(path, weights_only=True)) == expected
    assert content(torch.load(path, weights_only=True, mmap=True)) == expected
    assert content(_load(path, weights_only=True)) == expected
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"torchloops crc32 ")


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    one, other = (write_checkpoint(make(3), tmp_path / name).read_bytes() for name in ("one.ckpt", "other.ckpt"))
    assert one == other


def test_the_file_before_is_kept(path):
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]
    assert read_checkpoint(path)["epoch"] == 2
    assert read_checkpoint(previous_path(path))["epoch"] == 1
    write_checkpoint(make(3), path)
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [3, 1]
    write_checkpoint(make(4), path, keep_previous=True)
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [4, 3]


def test_where_links_are_not_possible_the_file_before_is_copied(path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_checkpoint(make(3), path, keep_previous=True)
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [3, 2]
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]


@pytest.mark.parametrize("known", [True, False], ids=["changed since it was written", "found by a new process"])
@pytest.mark.parametrize("damage", [lambda data: data[:-300], lambda data: data[:700] + b"x" + data[701:]])
def test_a_damaged_file_does_not_take_the_place_of_the_whole_one_before(path, damage, known, monkeypatch):
    if not known:
        monkeypatch.setattr(checkpoint_file, "_known_whole", {})
    path.write_bytes(damage(path.read_bytes()))
    os.utime(path, ns=(0, 0))
    write_checkpoint(make(3), path, keep_previous=True)
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [3, 1]


def test_a_whole_file_that_another_process_wrote_is_kept(path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "_known_whole", {})
    write_checkpoint(make(3), path, keep_previous=True)
    torch.save({"state_dict": {}, "epoch": 7}, path)
    write_checkpoint(make(4), path, keep_previous=True)
    assert read_checkpoint(previous_path(path))["epoch"] == 7


# writes that fail


def failing(number, message="it failed"):
    def fail(*arguments, **options):
        raise OSError(number, message)

    return fail


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("keep_previous", [True, False])
def test_a_failed_write_leaves_all_as_it_was(function, keep_previous, path, monkeypatch):
    monkeypatch.setattr(os, function, failing(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointWriteError, match=r"last\.ckpt.*No space left on device.*as it was.*Free space"):
        write_checkpoint(make(3), path, keep_previous)
    with pytest.raises(CheckpointWriteError, match=r"new\.ckpt.*No space left on device\. Free space"):
        write_checkpoint(make(3), path.with_name("new.ckpt"), keep_previous)
    monkeypatch.undo()
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [2, 1]


@pytest.mark.parametrize("size", [3, 3_000, 1_000_000])
def test_a_full_disk(size, path, monkeypatch):
    full = io.BufferedWriter(io.FileIO("/dev/full", "w"))
    monkeypatch.setattr(checkpoint_file, "open", lambda name, mode: full, raising=False)
    with pytest.raises(CheckpointWriteError, match=r"last\.ckpt.*No space left on device.*as it was") as caught:
        write_checkpoint(make(3, size), path)
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert read_checkpoint(path)["epoch"] == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_is_not_writable(number, path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "open", failing(number, os.strerror(number)), raising=False)
    with pytest.raises(CheckpointWriteError, match=rf"last\.ckpt.*{os.strerror(number)}.*Make its folder writable"):
        write_checkpoint(make(3), path)


def test_a_path_that_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "last.ckpt", tmp_path / "folder"):
        with pytest.raises(CheckpointWriteError, match=r"(Not a directory|File exists|Is a directory).*Give the path"):
            write_checkpoint(make(), path)
    assert names(tmp_path) == ["file", "folder"]


def test_data_that_cannot_be_saved_leaves_no_part(path):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_checkpoint({"state_dict": {}, "function": lambda: 0}, path)
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]


LIMITED = """
import os, resource, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_checkpoint_file import *

path = Path(sys.argv[2])
whole = len(write_checkpoint(make(3, 100_000), path.with_name("whole.ckpt")).read_bytes())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 1, 100, 1000, 8192, 8193, 100_000, whole - 200, whole - 20, whole - 1):
    caught = None
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_checkpoint(make(3, 100_000), path, keep_previous=True)
    except CheckpointWriteError as error:
        caught = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert caught and "File too large" in caught and "as it was" in caught, (limit, caught)
    assert read_checkpoint(path)["epoch"] == 2, limit
    assert names(path.parent) == ["last.ckpt", "last.previous.ckpt", "whole.ckpt"], limit
resource.setrlimit(resource.RLIMIT_FSIZE, (whole, resource.RLIM_INFINITY))
write_checkpoint(make(3, 100_000), path, keep_previous=True)
"""


def run_script(script, *arguments):
    command = [sys.executable, "-c", script, __file__, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_file_that_may_not_grow(path):
    run_script(LIMITED, path)
    assert [read_checkpoint(file)["epoch"] for file in (path, previous_path(path))] == [3, 2]


# processes that are killed


KILLED = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_checkpoint_file import *

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(function, call, before):
    original, count = getattr(os, function), 0
    def hook(*arguments, **options):
        nonlocal count
        count += 1
        if count == call and before:
            die()
        result = original(*arguments, **options)
        if count == call:
            die()
        return result
    setattr(os, function, hook)

def die_while_writing(share):
    original = torch.save
    def save(checkpoint, file):
        original(checkpoint, buffer := io.BytesIO())
        data = buffer.getvalue()
        file.write(data[: int(len(data) * share)])
        file.flush()
        die()
    torch.save = save

instants = {f"write {share}": (lambda share=share: die_while_writing(share)) for share in (0, 0.5, 1)}
for function, calls in (("fsync", 2), ("link", 1), ("replace", 2)):
    for call in range(1, calls + 1):
        for before in (True, False):
            name = f"{function} {call} {'before' if before else 'after'}"
            instants[name] = lambda function=function, call=call, before=before: die_at(function, call, before)

for instant, prepare in instants.items():
    folder = Path(sys.argv[2]) / instant
    for epoch in (1, 2):
        write_checkpoint(make(epoch), folder / "last.ckpt", keep_previous=True)
    process = os.fork()
    if not process:
        prepare()
        write_checkpoint(make(3), folder / "last.ckpt", keep_previous=True)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL, instant
"""


def test_a_process_killed_while_it_writes_leaves_whole_files(tmp_path):
    run_script(KILLED, tmp_path)
    left = {}
    for folder in sorted(tmp_path.iterdir()):
        path = folder / "last.ckpt"
        left[folder.name] = read_checkpoint(path)["epoch"], read_checkpoint(previous_path(path))["epoch"]
        write_checkpoint(make(4), path, keep_previous=True)
        assert names(folder) == ["last.ckpt", "last.previous.ckpt"]
    assert left == {
        "write 0": (2, 1), "write 0.5": (2, 1), "write 1": (2, 1),
        "fsync 1 before": (2, 1), "fsync 1 after": (2, 1),
        "link 1 before": (2, 1), "link 1 after": (2, 1),
        "replace 1 before": (2, 1), "replace 1 after": (2, 2),
        "replace 2 before": (2, 2), "replace 2 after": (3, 2),
        "fsync 2 before": (3, 2), "fsync 2 after": (3, 2),
    }  # fmt: skip


OFTEN = """
import os, random, signal, sys, time
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_checkpoint_file import *

path, draw, newest = Path(sys.argv[2]) / "last.ckpt", random.Random(0), 0
write_checkpoint(make(0), path)
for kill in range(25):
    first, process = path.stat().st_ino, os.fork()
    if not process:
        for epoch in range(newest + 1, newest + 10_000):
            write_checkpoint(make(epoch, 200_000), path, keep_previous=True)
    while path.stat().st_ino == first:
        time.sleep(0.0001)
    time.sleep(draw.uniform(0, 0.01))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    found = read_checkpoint(path)["epoch"]
    assert found > newest
    newest = found
write_checkpoint(make(newest), path, keep_previous=True)
assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]
"""


def test_a_writer_killed_again_and_again_never_loses_the_file(tmp_path):
    run_script(OFTEN, tmp_path)


TOGETHER = """
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_checkpoint_file import *

path = Path(sys.argv[2]) / "last.ckpt"
write_checkpoint(make(0), path)
processes = []
for writer in range(2):
    processes.append(os.fork())
    if not processes[-1]:
        for epoch in range(30):
            write_checkpoint(make(epoch, 1 + epoch * 1000 * (1 + writer)), path, keep_previous=True)
        os._exit(0)
for _ in range(60):
    checkpoint = read_checkpoint(path)
    assert checkpoint["epoch"] == int(checkpoint["state_dict"]["steps"])
for process in processes:
    assert os.waitpid(process, 0)[1] == 0
assert names(path.parent) == ["last.ckpt", "last.previous.ckpt"]
assert read_checkpoint(path)["epoch"] == 29
read_checkpoint(previous_path(path))
"""


def test_two_processes_may_write_and_one_read_the_same_file(tmp_path):
    run_script(TOGETHER, tmp_path)


def test_threads_may_write_the_same_file(tmp_path):
    problems = []

    def work():
        try:
            for epoch in range(10):
                write_checkpoint(make(epoch), tmp_path / "last.ckpt", keep_previous=True)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert names(tmp_path) == ["last.ckpt", "last.previous.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 9


def test_only_what_nobody_writes_any_more_is_removed(path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = temporary_files._HOST
    abandoned = [f".last.ckpt.{host}-{process}-1234abcd.tmp" for process in (gone.pid, os.getpid())]
    kept = [f".last.ckpt.{host}-{os.getppid()}-1234abcd.tmp", f".last.ckpt.00000000-{gone.pid}-1234abcd.tmp"]
    kept += [".last.ckpt.abcd1234.tmp", f".best.ckpt.{host}-{gone.pid}-1234abcd.tmp"]
    for name in (*abandoned, *kept, ".last.ckpt.old.tmp"):
        (path.parent / name).write_text("a part")
    os.utime(path.parent / ".last.ckpt.old.tmp", (0, 0))
    write_checkpoint(make(3), path)
    assert names(path.parent) == sorted([*kept, "last.ckpt", "last.previous.ckpt"])


# damaged files


@pytest.mark.parametrize("twentieth", range(20))
def test_a_truncated_file_is_found_and_the_one_before_taken(twentieth, path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * twentieth // 20])
    with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt"):
        read_checkpoint(path)
    with pytest.warns(ResumeWarning, match=r"last\.ckpt.*Going on from the one before it.*last\.previous\.ckpt"):
        assert read_newest(path)["epoch"] == 1


@pytest.mark.parametrize("missing", [1, 5, 24, 25, 26, 27, 40, 48, 70])
def test_a_file_that_lacks_its_last_bytes_is_found(missing, path):
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(path)


def flipped(data, bit):
    return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def test_no_flipped_bit_gives_another_content(tmp_path):
    path = write_checkpoint(make(2), tmp_path / "last.ckpt")
    data, bits = path.read_bytes(), 8 * path.stat().st_size
    expected = content(read_checkpoint(path))
    header, directory_and_comment = range(8 * 100), range(bits - 8 * 200, bits)
    anywhere = random.Random(0).sample(range(bits), 600)
    other = tmp_path / "other.ckpt"
    refused = 0
    for bit in {*header, *directory_and_comment, *anywhere}:
        other.write_bytes(flipped(data, bit))
        try:
            assert content(read_checkpoint(other)) == expected, bit
        except DamagedCheckpointError:
            refused += 1
    assert refused > 2900


def test_parts_that_are_zero_or_of_another_file_are_found(path):
    data, before = path.read_bytes(), previous_path(path).read_bytes()
    assert len(data) == len(before)
    half = len(data) // 2
    for changed in (data[:half] + before[half:], data[:1000] + bytes(500) + data[1500:], data + b"\0", data + data):
        path.write_bytes(changed)
        with pytest.raises(DamagedCheckpointError):
            read_checkpoint(path)


def test_a_damaged_file_is_found_before_anything_is_unpickled(path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("unpickled"))
    data = path.read_bytes()
    path.write_bytes(flipped(data, 8 * 900))
    with pytest.raises(DamagedCheckpointError, match="checksum does not match"):
        read_checkpoint(path)


def test_reading_that_fails_counts_as_damage(path, monkeypatch):
    class Broken(io.FileIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint_file, "open", lambda name, mode: Broken(name), raising=False)
    with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt.*Input/output error"):
        read_checkpoint(path)


def test_a_file_that_may_not_be_read(path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "open", failing(errno.EACCES, "Permission denied"), raising=False)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read: Permission denied") as caught:
        read_newest(path)
    assert not isinstance(caught.value, DamagedCheckpointError)


# the newest


def test_the_newest_of_two_whole_files(path):
    assert read_newest(path)["epoch"] == 2


def test_a_missing_file_is_replaced_by_the_one_before(path):
    path.unlink()
    with pytest.warns(ResumeWarning, match=r"no checkpoint.*last\.ckpt.*Going on from"):
        assert read_newest(path)["epoch"] == 1
    previous_path(path).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint.*last\.ckpt"):
        read_newest(path)


def test_two_damaged_files(path):
    path.write_bytes(path.read_bytes()[:-100])
    previous_path(path).write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt.*cannot be used either.*last\.previous\.ckpt"):
        read_newest(path)
    previous_path(path).unlink()
    with pytest.raises(DamagedCheckpointError, match=r"last\.ckpt"):
        read_newest(path)


def test_an_unsafe_or_newer_file_is_not_passed_over(path):
    write_checkpoint({"format": FORMAT, "state_dict": {}, "evil": Hostile()}, path)
    with pytest.raises(CheckpointError, match="refused"):
        read_newest(path)
    write_checkpoint({**make(), "format": FORMAT + 1}, path)
    with pytest.raises(CheckpointError, match="Upgrade torchloops"):
        read_newest(path)


# files of others


class Hostile:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('hacked').touch()",))


def save_with_checksum(path):
    write_checkpoint({"format": FORMAT, "state_dict": {}, "evil": Hostile()}, path)


def save_without_checksum(path):
    torch.save({"state_dict": {}, "evil": Hostile()}, path)


def save_a_pickle(path):
    path.write_bytes(pickle.dumps({"state_dict": {}, "evil": Hostile()}))


def save_the_old_way(path):
    torch.save({"state_dict": {}, "evil": Hostile()}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_with_checksum, save_without_checksum, save_a_pickle, save_the_old_way])
def test_a_hostile_file_is_refused(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt holds more than plain data") as caught:
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert "weights_only" not in str(caught.value)
    assert names(tmp_path) == ["evil.ckpt"]


def test_a_file_without_a_format_is_read_as_it_is(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(3)}, "epoch": 4}, tmp_path / "lightning.ckpt")
    read = read_checkpoint(tmp_path / "lightning.ckpt")
    assert read == {"state_dict": {"weight": read["state_dict"]["weight"]}, "epoch": 4}


def test_weights_of_format_1_are_brought_up_to_date(tmp_path):
    torch.save({"format": 1, "state_dict": {}, "epoch": 4}, tmp_path / "old.ckpt")
    read = read_checkpoint(tmp_path / "old.ckpt")
    assert (read["format"], read["epoch"]) == (FORMAT, 4)


def test_a_file_that_lacks_what_its_format_has_is_no_checkpoint(tmp_path):
    torch.save({"format": 1, "state_dict": {}, "loop_tree": {}}, tmp_path / "old.ckpt")
    with pytest.raises(DamagedCheckpointError, match=r"old\.ckpt is no checkpoint of format 1: it lacks"):
        read_checkpoint(tmp_path / "old.ckpt")


def test_formats_are_brought_up_to_date_one_after_the_other(tmp_path, monkeypatch):
    torch.save({"format": 1, "state_dict": {}, "steps": [1]}, tmp_path / "old.ckpt")
    upgrades = {
        1: lambda old: {**old, "steps": [*old["steps"], 2]},
        2: lambda old: {**old, "steps": [*old["steps"], 3]},
    }
    monkeypatch.setattr(checkpoint_formats, "_UPGRADES", upgrades)
    monkeypatch.setattr(checkpoint_formats, "FORMAT", 3)
    read = read_checkpoint(tmp_path / "old.ckpt")
    assert (read["format"], read["steps"]) == (3, [1, 2, 3])


@pytest.mark.parametrize("save", [write_checkpoint, torch.save], ids=["with checksum", "without"])
def test_a_newer_format_says_what_to_do(save, tmp_path):
    save({**make(), "format": FORMAT + 1}, tmp_path / "new.ckpt")
    with pytest.raises(CheckpointError, match=rf"format {FORMAT + 1}.*up to {FORMAT}\. Upgrade torchloops") as caught:
        read_checkpoint(tmp_path / "new.ckpt")
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_a_file_of_this_format_must_have_its_checksum(tmp_path):
    torch.save(make(), tmp_path / "last.ckpt")
    with pytest.raises(DamagedCheckpointError, match="checksum is missing"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("version", ["2", 0, -1, 1.5, True, [2]])
def test_a_format_that_is_no_number_is_refused(version, tmp_path):
    write_checkpoint({**make(), "format": version}, tmp_path / "odd.ckpt")
    with pytest.raises(DamagedCheckpointError, match=r"odd\.ckpt is no checkpoint of torchloops"):
        read_checkpoint(tmp_path / "odd.ckpt")


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("readme", "hello")
    problems = {
        "empty": "it is empty",
        "text": "begins with b'hell'",
        "list": 'has no "state_dict"',
        "archive": "damaged",
    }
    for name, problem in problems.items():
        with pytest.raises(DamagedCheckpointError, match=rf"{name}\.ckpt.*{problem}"):
            read_checkpoint(tmp_path / f"{name}.ckpt")


def test_a_folder_and_a_missing_file(path):
    with pytest.raises(CheckpointError, match=r"is a folder and no checkpoint.*last\.ckpt, last\.previous\.ckpt"):
        read_checkpoint(path.parent)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*none\.ckpt\. Give the path"):
        read_checkpoint(path.with_name("none.ckpt"))


def test_a_device_that_is_not_there_is_no_damage(path):
    with pytest.raises(CheckpointError, match="could not be loaded") as caught:
        read_newest(path, map_location="no_such_device")
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_the_path_before():
    assert previous_path("run/last.ckpt") == Path("run/last.previous.ckpt")
    assert previous_path(Path("last-v1.ckpt")) == Path("last-v1.previous.ckpt")
