"""Checkpoints that somebody edited on purpose: nothing outside of the run is touched, and each ends in a message."""

import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from torchloops import KFoldLoop, ModelCheckpoint, seed_everything
from torchloops.errors import CheckpointError, TorchloopsError
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import checkpoint_file
from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint

PRECIOUS = "precious.ckpt"


@pytest.fixture
def outside(tmp_path):
    """A folder beside the run, with a file that a checkpoint of this run could name."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / PRECIOUS).write_text("thesis")
    (folder / "thesis.txt").write_text("thesis")
    return folder


class Rising(TinyClassifier):
    """Each epoch is better than the one before."""

    def on_train_epoch_end(self):
        self.log("score", float(self.current_epoch))


def seen(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fit(make_trainer, tmp_path):
    """``fit(epochs, ckpt_path)``: a fit in ``run`` that keeps the file with the best score."""

    def run(epochs=1, ckpt_path=None, folder="run", **options):
        seed_everything(0)
        callback = ModelCheckpoint(**{"monitor": "score", "mode": "max", "filename": "{epoch}"} | options)
        trainer = make_trainer(
            max_epochs=epochs, default_root_dir=tmp_path / folder, callbacks=callback, enable_checkpointing=True
        )
        trainer.fit(Rising(), random_loader(), ckpt_path=ckpt_path)
        return trainer

    return run


def edit(tmp_path, change, name="evil.ckpt"):
    """A copy of the run's newest checkpoint, changed and written with a checksum that is right."""
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    change(checkpoint)
    return write_checkpoint(checkpoint, tmp_path / "received" / name)


def state_of_callback(checkpoint):
    return next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))


def names_it(place):
    """Ways to have a path removed: as one that the callback wrote, which a better one drives out or has driven out."""

    def written_and_driven_out(state):
        state["written"], state["driven_out"] = [str(place(state))], str(place(state))

    def written_and_best(state):
        path = str(place(state))
        state |= {"written": [path], "best_k_models": {path: -1e9}, "best_model_path": path}

    def best_of_an_older_version(state):
        path = str(place(state))
        del state["written"]
        state |= {"best_k_models": {path: -1e9}, "best_model_path": path, "driven_out": path}

    def of_a_folder_of_its_own(state):
        written_and_best(state)
        state["folder"] = str(place(state).parent)

    return [written_and_driven_out, written_and_best, best_of_an_older_version, of_a_folder_of_its_own]


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("path", ["absolute", "with dots", "through a link", "of a folder that is gone", "a null"])
def test_no_file_outside_of_the_checkpoint_folder_is_removed(fit, tmp_path, outside, path, way):
    fit()
    (tmp_path / "run" / "checkpoints" / "link").symlink_to(outside)
    places = {
        "absolute": outside / PRECIOUS,
        "with dots": tmp_path / "run" / "checkpoints" / ".." / ".." / "outside" / PRECIOUS,
        "through a link": tmp_path / "run" / "checkpoints" / "link" / PRECIOUS,
        "of a folder that is gone": tmp_path / "gone" / ".." / "outside" / PRECIOUS,
        "a null": outside / "\0.ckpt",
    }
    change = names_it(lambda state: places[path])[way]
    evil = edit(tmp_path, lambda checkpoint: change(state_of_callback(checkpoint)))
    before = seen(outside)
    if way < 2:
        with pytest.raises(CheckpointError, match=r"says that ModelCheckpoint wrote .* was edited"):
            fit(3, evil)
    else:
        fit(3, evil)
    assert seen(outside) == before


def test_a_file_that_is_no_checkpoint_is_not_removed_from_a_folder_of_the_users(fit, tmp_path, outside):
    fit(dirpath=outside)
    thesis = str(outside / "thesis.txt")
    evil = edit(tmp_path, lambda checkpoint: state_of_callback(checkpoint).update(written=[thesis], driven_out=thesis))
    with pytest.raises(CheckpointError, match=r"wrote .*thesis\.txt\. Expected files in .*outside that end in \.ckpt"):
        fit(3, evil, dirpath=outside)
    assert (outside / "thesis.txt").read_text() == "thesis"


def test_the_best_is_not_read_from_where_a_checkpoint_says(fit, tmp_path, outside):
    fit()
    path = str(outside / PRECIOUS)
    change = {"best_k_models": {path: 1e9}, "best_model_path": path}
    trainer = fit(2, edit(tmp_path, lambda checkpoint: state_of_callback(checkpoint).update(change)))
    with pytest.raises(CheckpointError, match=r"says that it is .*precious\.ckpt.*Give the path itself"):
        trainer.test(dataloaders=random_loader(), ckpt_path="best")


def test_the_best_of_a_run_that_was_resumed_elsewhere_is_read(fit, tmp_path):
    fit()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    evil = edit(tmp_path, lambda checkpoint: state_of_callback(checkpoint)["best_k_models"].update(
        dict.fromkeys(state_of_callback(checkpoint)["best_k_models"], 1e9)
    ), last)  # fmt: skip
    trainer = fit(2, evil, folder="elsewhere")
    assert trainer.checkpoint_callback.best_model_path.startswith(str(tmp_path / "run"))
    assert trainer.test(dataloaders=random_loader(), ckpt_path="best")


def test_a_run_whose_folder_was_moved_removes_its_files_in_the_new_place(fit, tmp_path):
    fit()
    (tmp_path / "run").rename(tmp_path / "moved")
    fit(3, tmp_path / "moved", folder="moved")
    left = sorted(path.name for path in (tmp_path / "moved" / "checkpoints").iterdir())
    assert left == ["epoch=2.ckpt", "last.ckpt", "last.previous.ckpt"]


def test_tables_of_a_fold_are_not_written_outside_of_the_results(make_trainer, tmp_path, outside):
    def run(ckpt_path=None):
        trainer = make_trainer(
            max_epochs=1, default_root_dir=tmp_path / "run", enable_checkpointing=True, checkpoint_every="1 epoch"
        )
        loop = KFoldLoop(2, tmp_path / "results")
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        trainer.fit(TinyClassifier(), random_loader(), ckpt_path=ckpt_path)

    run()
    table = {"../../outside/thesis": {"row": [1]}}
    evil = edit(tmp_path, lambda checkpoint: [
        result.update(tables=table) for result in checkpoint["loop_tree"]["state_dict"]["results"]
    ])  # fmt: skip
    before = seen(outside)
    with pytest.raises(TorchloopsError, match="outside"):
        run(evil)
    assert seen(outside) == before


# a folder of hostile files


def deep(levels):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


def shared(levels):
    """Lists that hold one list ten times, and so on: a small file, and 10 to the power of ``levels`` entries."""
    nested = [0]
    for _ in range(levels):
        nested = [nested] * 10
    return nested


class Gadget:
    """Would run code where it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def set_in(*path):
    """``(value) -> change``: sets what stands at a path in a checkpoint."""

    def to(value):
        def change(checkpoint):
            for name in path[:-1]:
                checkpoint = checkpoint[name]
            checkpoint[path[-1]] = value

        return change

    return to


def in_callback(name, value):
    return lambda checkpoint: state_of_callback(checkpoint).update({name: value})


def expanded(*shape):
    return torch.zeros(1).expand(*shape)


EDITED = {
    # paths
    "an outer run that is a path": set_in("outer_runs")([{"name": "/outside"}]),
    "a path as the epoch": set_in("epoch")("../../outside/precious"),
    "a written file outside": in_callback("written", ["/outside/precious.ckpt"]),
    "a driven-out file outside": lambda checkpoint: state_of_callback(checkpoint).update(
        written=["../outside/precious.ckpt"], driven_out="../outside/precious.ckpt"
    ),
    "a folder that is a number": in_callback("folder", 3),
    "files that are numbers": in_callback("written", [1, 2]),
    # sizes
    "a number of 10,000 digits": set_in("global_step")(10**10_000),
    "a negative epoch": set_in("epoch")(-1),
    "an infinite epoch": set_in("epoch")(float("inf")),
    "more epochs than time": set_in("loop_tree", "progress", "total")(1 << 70),
    "a tensor of a terabyte": set_in("state_dict", "head.bias")(expanded(1 << 38)),
    "a gradient of a terabyte": set_in("gradients")({"head.bias": expanded(1 << 38)}),
    "a generator of a terabyte": set_in("random", "torch")(torch.zeros(1, dtype=torch.uint8).expand(1 << 40)),
    "10 to the power of 30 entries": set_in("datamodule")(shared(30)),
    "logged values without end": lambda checkpoint: checkpoint["results"]["train"].update(batch_size=10**30, size="1"),
    "weights of logged values without end": set_in("results", "train", "loaders")([(None, {"x": {
        "name": "x", "on_step": False, "on_epoch": True, "prog_bar": False, "logger": True, "sync": False,
        "reduction": "mean", "metric": None, "value": None, "total": None, "weight": 0.0, "pending": [],
        "sizes": [(1, 10**12)], "per_step": None,
    }})]),
    # nested
    "nested 70 deep": set_in("datamodule")(deep(70)),
    "a nested setting": set_in("settings")({"precision": deep(200)}),
    # types
    "weights that are a list": set_in("state_dict")([torch.ones(2)]),
    "weights that are text": set_in("state_dict", "head.bias")("zero"),
    "no loops": set_in("loop_tree")({}),
    "loops that are a list": set_in("loop_tree")([]),
    "another tree of loops": set_in("loop_tree", "type")("KFoldLoop"),
    "optimizers that are none": set_in("optimizer_states")([None]),
    "an optimizer without groups": set_in("optimizer_states")([{"state": {}}]),
    "a learning rate of text": set_in("optimizer_states", 0, "param_groups", 0, "lr")("fast"),
    "generators of another kind": set_in("random", "python")([3, list(range(7)), None]),
    "arguments of the Trainer": set_in("changed_arguments")({"keeper": None, "default_root_dir": "/outside"}),
    "callbacks that are a list": set_in("callbacks")([1]),
    "positions of text": set_in("data", "train")(["first"]),
    "a time of none": set_in("seconds")(None),
    # gadgets
    "a gadget that runs code": set_in("datamodule")(Gadget(exec, "open('../outside/ran', 'w')")),
    "a gadget that removes a file": set_in("hyper_parameters", "lr")(Gadget(os.remove, "../outside/precious.ckpt")),
    "a gadget that calls the system": set_in("random")(Gadget(os.system, "touch ../outside/ran")),
    "a gadget in a name": set_in("settings")({Gadget(eval, "open('../outside/ran', 'w')"): 1}),
}  # fmt: skip


def rewritten(path, change, checksum=True):
    """Rewrite the archive of a checkpoint member by member; ``change(members)`` gets ``{name: bytes}``."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    options = change(members) or {}
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, content in options.get("again", {}).items():
            archive.writestr(name, content)
    if checksum:
        data = path.read_bytes()
        path.write_bytes(data[:-2] + checkpoint_file._tail(zlib.crc32(data)))


def storages(members):
    return sorted((name for name in members if "/data/" in name), key=lambda name: len(members[name]))


def swap_storages(members):
    small, large = storages(members)[0], storages(members)[-1]
    members[small], members[large] = members[large], members[small]


def inflate(members):
    members[storages(members)[-1]] = bytes(300_000_000)
    return {"compression": zipfile.ZIP_DEFLATED}


def double(members):
    name = next(name for name in members if name.endswith("data.pkl"))
    return {"again": {name: pickle.dumps(Gadget(exec, "open('../outside/ran', 'w')"))}}


def swap_pickle(members):
    name = next(name for name in members if name.endswith("data.pkl"))
    members[name] = pickle.dumps({"format": 2, "state_dict": Gadget(exec, "open('../outside/ran', 'w')")})


def nest(members):
    """Lists 100,000 deep, which a pickler would not write."""
    name = next(name for name in members if name.endswith("data.pkl"))
    words = {word: b"X" + struct.pack("<I", len(word)) + word for word in (b"format", b"state_dict", b"deep")}
    nested = b"]" * 100_000 + b"a" * 99_999
    members[name] = b"\x80\x02}(" + b"".join(
        (words[b"format"], b"K\x02", words[b"state_dict"], b"}", words[b"deep"], nested, b"u.")
    )  # fmt: skip


ARCHIVES = {
    "nested 100,000 deep": nest,
    "swapped members": swap_storages,
    "a member that unfolds to 300 MB": inflate,
    "a second member of one name": double,
    "another pickle": swap_pickle,
    "a member that is missing": lambda members: members.pop(storages(members)[0]) and None,
}


def attempt(fit, file):
    """How a fit from this file ends, in words."""
    try:
        fit(2, file)
    except TorchloopsError as error:
        said = str(error)
        return f"refused: {said}" if len(said) < 2_000 else "a message without end"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("checksum", [True, False], ids=["checksum", "no checksum"])
def test_forty_hostile_checkpoints(fit, tmp_path, outside, monkeypatch, checksum):
    """Each ends in a message of ours; none runs code, fills the memory, or touches what is outside of the run."""
    fit()
    run = tmp_path / "run"
    monkeypatch.chdir(run)
    files = {name: edit(tmp_path, change, f"{number}.ckpt") for number, (name, change) in enumerate(EDITED.items())}
    for number, (name, change) in enumerate(ARCHIVES.items()):
        files[name] = edit(tmp_path, lambda checkpoint: None, f"archive {number}.ckpt")
        rewritten(files[name], change, checksum)
    if not checksum:
        files = {name: files[name] for name in ARCHIVES}
    assert len(files) >= (40 if checksum else 6)
    before, own = seen(outside), seen(run)
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1_000_000  # kB
    answers = {}
    for name, file in files.items():
        answers[name] = attempt(fit, file)
        assert seen(outside) == before, name
    assert not {name: answer for name, answer in answers.items() if not answer.startswith("refused: ")}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < limit
    assert own.keys() <= seen(run).keys() | {Path("checkpoints/last.ckpt")}
    fit(2, run / "checkpoints" / "last.ckpt")  # which nobody has edited
