"""Checkpoints that somebody edited on purpose: nothing outside of the run is touched, and each ends in a message."""

import pytest

from torchloops import KFoldLoop, ModelCheckpoint, seed_everything
from torchloops.errors import CheckpointError, TorchloopsError
from torchloops.testing import TinyClassifier, random_loader
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
