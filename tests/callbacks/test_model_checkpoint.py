"""ModelCheckpoint: what is kept, under which name, and what is never lost."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchloops.callbacks import Callback, ModelCheckpoint
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer

MODULE = TinyClassifier()


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


def own_files(folder):
    """Without what the Trainer keeps for resuming."""
    return [name for name in files(folder) if name not in ("last.ckpt", "last.previous.ckpt")]


def run(trainer, callback, values):
    trainer.start(callback)
    for value in values:
        trainer.run_epoch(callback, **{"val/loss": value})
    return callback


# what is kept


def test_without_a_monitor_the_newest_is_kept(trainer):
    callback = run(trainer, ModelCheckpoint(), [1.0, 2.0, 3.0])
    folder = trainer.run_dir / "checkpoints"
    assert files(folder) == ["last.ckpt"]
    assert (folder / "last.ckpt").read_text() == "step 12"
    assert callback.best_model_path == callback.last_model_path == str(folder / "last.ckpt")
    assert callback.best_model_score is None


def test_with_a_monitor_the_best_is_kept(trainer):
    callback = run(trainer, ModelCheckpoint(monitor="val/loss"), [3.0, 1.0, 2.0])
    folder = trainer.run_dir / "checkpoints"
    assert files(folder) == ["best.ckpt"]
    assert (folder / "best.ckpt").read_text() == "step 8"
    assert callback.best_model_path == str(folder / "best.ckpt")
    assert callback.best_model_score.item() == 1.0
    assert callback.current_score.item() == 2.0
    assert callback.last_model_path == ""


def test_best_and_last(trainer):
    callback = run(trainer, ModelCheckpoint(monitor="val/loss", save_last=True), [3.0, 1.0, 2.0])
    folder = trainer.run_dir / "checkpoints"
    assert files(folder) == ["best.ckpt", "last.ckpt"]
    assert (folder / "last.ckpt").read_text() == "step 12"
    assert callback.last_model_path == str(folder / "last.ckpt")


def test_save_last_without_a_monitor_writes_one_file_once(trainer):
    run(trainer, ModelCheckpoint(save_last=True), [3.0, 1.0])
    assert trainer.saved == ["last.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("mode", "kept", "worst"),
    [("min", ["epoch=1-step=8", "epoch=3-step=16"], 3), ("max", ["epoch=0-step=4", "epoch=2-step=12"], 2)],
)
def test_the_k_best_are_kept(trainer, mode, kept, worst):
    callback = run(trainer, ModelCheckpoint(monitor="val/loss", mode=mode, save_top_k=2), [4.0, 1.0, 3.0, 2.0])
    assert files(trainer.run_dir) == [f"{name}.ckpt" for name in kept]
    assert sorted(Path(path).stem for path in callback.best_k_models) == kept
    assert Path(callback.kth_best_model_path).stem.startswith(f"epoch={worst}")
    assert callback.best_model_score.item() == (1.0 if mode == "min" else 4.0)


def test_all_are_kept(trainer):
    run(trainer, ModelCheckpoint(save_top_k=-1), [1.0, 2.0])
    assert files(trainer.run_dir) == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]


def test_none_is_kept(trainer):
    run(trainer, ModelCheckpoint(save_top_k=0), [1.0, 2.0])
    assert trainer.saved == []


def test_nan_is_worse_than_any_number(trainer):
    callback = run(trainer, ModelCheckpoint(monitor="val/loss"), [math.nan, 5.0, math.nan])
    assert callback.best_model_score.item() == 5.0
    assert Path(callback.best_model_path).read_text() == "step 8"


# when


def test_every_n_epochs(trainer):
    run(trainer, ModelCheckpoint(every_n_epochs=2, save_top_k=-1), [1.0] * 5)
    assert trainer.saved == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_every_n_train_steps(trainer):
    run(trainer, ModelCheckpoint(every_n_train_steps=3, save_top_k=-1), [1.0, 1.0])
    assert trainer.saved == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]


def test_steps_that_jump_over_a_multiple_still_save(trainer):
    callback = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}", auto_insert_metric_name=False)
    trainer.start(callback)
    for step in (2, 4, 4, 6, 8, 10):  # two optimizers; a batch that only accumulates
        trainer.global_step = step
        callback.on_train_batch_end(trainer, MODULE, None, None, 0)
    assert trainer.saved == ["4.ckpt", "6.ckpt", "10.ckpt"]


def test_every_n_train_steps_waits_for_a_value_of_validation_in_the_first_epoch_only(trainer):
    callback = ModelCheckpoint(every_n_train_steps=1, monitor="val/loss")
    trainer.start(callback)
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, MODULE, None, None, 0)
    assert trainer.saved == []
    trainer.current_epoch, trainer.global_step = 1, 2
    with pytest.raises(ConfigurationError, match="was not logged"):
        callback.on_train_batch_end(trainer, MODULE, None, None, 0)


def test_the_same_state_is_not_saved_twice(trainer):
    callback = ModelCheckpoint(save_top_k=-1)
    trainer.start(callback)
    trainer.run_epoch(callback)
    trainer.current_epoch -= 1
    callback.on_train_epoch_end(trainer, MODULE)
    assert trainer.saved == ["epoch=0-step=4.ckpt"]


def test_epochs_whose_steps_nobody_counts_are_saved(trainer):
    callback = ModelCheckpoint(save_top_k=-1)
    trainer.start(callback)
    trainer.run_epoch(callback, steps=0)
    trainer.run_epoch(callback, steps=0)
    assert trainer.saved == ["epoch=0-step=0.ckpt", "epoch=1-step=0.ckpt"]


def test_nothing_is_saved_in_the_sanity_check_and_in_a_validation_of_its_own(trainer):
    callback = ModelCheckpoint(monitor="never logged", save_on_train_epoch_end=False)
    callback.setup(trainer, MODULE, "fit")
    callback.on_validation_end(trainer, MODULE)
    callback.on_train_start(trainer, MODULE)
    callback.on_train_end(trainer, MODULE)
    callback.on_validation_end(trainer, MODULE)
    callback.on_train_start(trainer, MODULE)
    callback.setup(trainer, MODULE, "validate")  # after a fit that failed
    callback.on_validation_end(trainer, MODULE)
    assert trainer.saved == []


def test_it_saves_after_validation_where_that_does_not_run_once_an_epoch(trainer):
    trainer.check_val_every_n_epoch = 2
    callback = ModelCheckpoint(save_top_k=-1)
    trainer.start(callback)
    callback.on_train_epoch_end(trainer, MODULE)
    assert trainer.saved == []
    callback.on_validation_end(trainer, MODULE)
    assert trainer.saved == ["epoch=0-step=0.ckpt"]


def test_it_saves_at_the_epochs_end_where_there_is_no_validation(trainer):
    trainer.check_val_every_n_epoch, trainer.num_val_batches = 2, []
    callback = ModelCheckpoint()
    trainer.start(callback)
    callback.on_train_epoch_end(trainer, MODULE)
    assert trainer.saved == ["last.ckpt"]


# names


def test_a_name_made_of_values(trainer):
    run(trainer, ModelCheckpoint(filename="{epoch:02d}-{val/loss:.2f}", monitor="val/loss"), [0.256])
    assert files(trainer.run_dir) == ["epoch=00-val_loss=0.26.ckpt"]


def test_a_name_without_the_names_of_values():
    callback = ModelCheckpoint(filename="net-{epoch}-{val/loss:.1f}", auto_insert_metric_name=False)
    metrics = {"epoch": 3, "val/loss": torch.tensor(0.25)}
    assert callback.format_checkpoint_name(metrics) == "net-3-0.2.ckpt"
    assert callback.format_checkpoint_name(metrics, ver=2) == "net-3-0.2-v2.ckpt"


def test_a_name_with_an_unknown_value(trainer):
    with pytest.raises(ConfigurationError, match=r"'val/los'.*Did you mean \"val/loss\""):
        run(trainer, ModelCheckpoint(filename="{val/los}"), [1.0])


def test_equal_names_of_files_that_are_both_kept_get_versions(trainer):
    callback = ModelCheckpoint(filename="{epoch}", monitor="val/loss", save_top_k=2)
    trainer.val_check_interval = 0.5
    trainer.start(callback)
    for step, value in ((2, 3.0), (4, 2.0), (6, 1.0)):
        trainer.global_step = step
        trainer.log(**{"val/loss": value})
        callback.on_validation_end(trainer, MODULE)
    assert files(trainer.run_dir) == ["epoch=0-v1.ckpt", "epoch=0-v2.ckpt"]


def test_inner_runs_use_folders_of_their_own_below_a_given_one(trainer, tmp_path):
    trainer.run_name = "fold_1/round_0"
    run(trainer, ModelCheckpoint(dirpath=tmp_path / "mine"), [1.0])
    assert (tmp_path / "mine" / "fold_1" / "round_0" / "last.ckpt").is_file()


# nothing is lost


def test_files_of_others_in_a_given_folder_are_kept(trainer, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "best.ckpt").write_text("precious")
    callback = run(trainer, ModelCheckpoint(folder, monitor="val/loss"), [2.0, 1.0])
    assert (folder / "best.ckpt").read_text() == "precious"
    assert callback.best_model_path == str(folder / "best-v1.ckpt")
    assert files(folder) == ["best-v1.ckpt", "best.ckpt"]


def test_a_checkpoint_is_removed_only_after_the_next_is_written(trainer):
    callback = run(trainer, ModelCheckpoint(filename="{epoch}", monitor="val/loss"), [2.0])
    trainer.fails = True
    with pytest.raises(OSError, match="disk full"):
        trainer.run_epoch(callback, **{"val/loss": 1.0})
    assert files(trainer.run_dir) == ["epoch=0.ckpt"]


def test_rotation_leaves_alone_what_it_did_not_write(trainer, tmp_path):
    callback = ModelCheckpoint(filename="{epoch}", monitor="val/loss")
    trainer.start(callback)
    foreign = tmp_path / "foreign.ckpt"
    foreign.write_text("precious")
    callback.best_k_models = {str(foreign): torch.tensor(9.0)}
    trainer.run_epoch(callback, **{"val/loss": 1.0})
    assert foreign.read_text() == "precious"
    assert list(callback.best_k_models) == [callback.best_model_path]


# resuming


def resumed(trainer, callback, **options):
    other = ModelCheckpoint(**options)
    trainer.start(other)
    other.load_state_dict(callback.state_dict())
    return other


def test_a_resumed_run_goes_on_with_its_files(trainer):
    options = {"monitor": "val/loss", "save_top_k": 2, "save_last": True}
    first = run(trainer, ModelCheckpoint(**options), [3.0, 2.0])
    second = resumed(trainer, first, **options)
    trainer.run_epoch(second, **{"val/loss": 1.0})
    assert files(trainer.run_dir) == ["epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "last.ckpt"]


def test_a_run_resumed_in_another_folder_knows_the_old_best_and_leaves_it(trainer, tmp_path):
    first = run(trainer, ModelCheckpoint(monitor="val/loss"), [1.0])
    trainer.run_dir = tmp_path / "new"
    second = resumed(trainer, first, monitor="val/loss")
    trainer.run_epoch(second, **{"val/loss": 2.0})
    assert second.best_model_path == first.best_model_path
    assert files(tmp_path / "new") == []
    trainer.run_epoch(second, **{"val/loss": 0.5})
    assert second.best_model_path == str(tmp_path / "new" / "checkpoints" / "best.ckpt")
    assert Path(first.best_model_path).is_file()


def test_a_new_fit_forgets_the_one_before(trainer):
    callback = run(trainer, ModelCheckpoint(monitor="val/loss"), [1.0])
    callback.setup(trainer, MODULE, "fit")
    assert (callback.best_model_path, callback.best_model_score, callback.best_k_models) == ("", None, {})


def test_state_keys_of_two_with_different_settings_differ():
    assert ModelCheckpoint(monitor="a").state_key != ModelCheckpoint(monitor="b").state_key


# killed and resumed


SETTINGS = {
    "best": {"monitor": "val/loss"},
    "two best": {"monitor": "val/loss", "save_top_k": 2, "save_last": True},
    "every one": {"save_top_k": -1},
    "equal names": {"save_top_k": -1, "filename": "same", "every_n_train_steps": 3},
    "two best of equal names": {
        "monitor": "val/loss",
        "save_top_k": 2,
        "filename": "{epoch}",
        "every_n_train_steps": 3,
    },
    "waits for a value": {"monitor": "val/loss", "every_n_train_steps": 7, "save_top_k": 3},
}
VALUES = [3.0, 1.0, 1.5, 1.2, 4.0, 0.5, 1.1]


def states(folder):
    return {path.relative_to(folder): path.read_text() for path in Path(folder).rglob("*") if path.is_file()}


def visible(folder):
    return {path: text for path, text in states(folder).items() if not path.name.startswith(".")}


class Saver:
    """Plays a run batch by batch, keeping the state of callback and Trainer after each one."""

    def __init__(self, trainer, options, continues):
        self.trainer, self.callback = trainer, ModelCheckpoint(**options)
        self.trainer.continues_a_run = continues
        trainer.start(self.callback)
        self.position = 0

    def play(self, until):
        for _ in range(self.position, until):
            epoch, index = divmod(self.position, 4)
            trainer = self.trainer
            trainer.current_epoch, trainer.global_step = epoch, self.position + 1
            if self.callback.every_n_train_steps:
                self.callback.on_train_batch_end(trainer, MODULE, None, None, index)
            if index == 3:
                trainer.log(**{"val/loss": VALUES[epoch]})
                self.callback.on_validation_end(trainer, MODULE)
                self.callback.on_train_epoch_end(trainer, MODULE)
            self.position += 1

    def state(self):
        return self.position, self.callback.state_dict(), dict(self.trainer.callback_metrics)

    def load(self, state):
        self.position, callback, metrics = state
        self.callback.load_state_dict(callback)
        self.trainer.callback_metrics = dict(metrics)
        self.callback.on_train_start(self.trainer, MODULE)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_killed_after_any_batch_and_resumed_from_any_before_the_same_files_are_left(trainer, tmp_path, name, shared):
    end = 4 * len(VALUES)

    def start(folder, continues):
        options = dict(SETTINGS[name])
        if shared:
            options["dirpath"] = folder / "mine"
        return Saver(type(trainer)(folder / "run"), options, continues)

    def prepare(folder):
        if shared:
            (folder / "mine").mkdir(parents=True)
            for foreign in ("best", "same", "epoch=1"):
                (folder / "mine" / f"{foreign}.ckpt").write_text("precious")

    prepare(tmp_path / "whole")
    whole = start(tmp_path / "whole", False)
    whole.play(end)
    expected = visible(tmp_path / "whole")
    for saved in range(0, end, 3):
        for killed in {saved, saved + 1, min(saved + 5, end), end}:
            folder = tmp_path / f"{saved} {killed}"
            prepare(folder)
            first = start(folder, False)
            first.play(saved)
            state = first.state()
            first.play(killed)
            second = start(folder, True)
            second.callback.setup(second.trainer, MODULE, "fit")
            second.load(state)
            second.play(end)
            assert visible(folder) == expected, f"checkpoint after batch {saved}, killed after {killed}"
            here, there = second.callback.state_dict(), whole.callback.state_dict()
            assert repr(here).replace(str(folder), "") == repr(there).replace(str(tmp_path / "whole"), "")


def test_a_run_killed_before_its_first_checkpoint_writes_the_same_names_again(trainer, tmp_path):
    options = {"dirpath": tmp_path / "mine", "monitor": "val/loss"}
    run(trainer, ModelCheckpoint(**options), [2.0])
    trainer.continues_a_run = True  # ckpt_path="last", and there was none yet
    trainer.current_epoch = trainer.global_step = 0
    run(trainer, ModelCheckpoint(**options), [2.0])
    assert files(tmp_path / "mine") == ["best.ckpt"]


def test_a_new_run_keeps_the_files_of_a_former_one_in_a_given_folder(trainer, tmp_path):
    options = {"dirpath": tmp_path / "mine", "monitor": "val/loss"}
    for _ in range(2):
        trainer.current_epoch = trainer.global_step = 0
        run(trainer, ModelCheckpoint(**options), [2.0])
    assert files(tmp_path / "mine") == ["best-v1.ckpt", "best.ckpt"]


def test_a_given_folder_that_is_the_runs_own_is_treated_as_such(trainer):
    folder = trainer.run_dir / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_text("the Trainer's")
    run(trainer, ModelCheckpoint(folder, monitor="val/loss", save_last=True), [1.0])
    assert files(folder) == ["best.ckpt", "last.ckpt"]


def test_the_file_that_a_checkpoint_drives_out_is_removed_after_a_resume_from_that_checkpoint(trainer):
    options = {"monitor": "val/loss", "filename": "{epoch}"}
    first = run(trainer, ModelCheckpoint(**options), [2.0])
    inside = []
    trainer.save_checkpoint = lambda path, weights_only=False, inner_run_only=False: (
        type(trainer).save_checkpoint(trainer, path), inside.append(first.state_dict())
    )  # fmt: skip
    first._remove = lambda trainer, path: None  # killed just before
    trainer.run_epoch(first, **{"val/loss": 1.0})
    assert files(trainer.run_dir) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    second = ModelCheckpoint(**options)
    second.setup(trainer, MODULE, "fit")
    second.load_state_dict(inside[0])
    second.on_train_start(trainer, MODULE)
    assert files(trainer.run_dir) == ["epoch=1.ckpt"]
    assert second.best_model_path.endswith("epoch=1.ckpt")


def test_a_run_whose_folder_was_moved_goes_on_with_its_files(trainer, tmp_path):
    options = {"monitor": "val/loss", "save_top_k": 2}
    first = run(trainer, ModelCheckpoint(**options), [2.0, 3.0])
    trainer.run_dir = trainer.run_dir.rename(tmp_path / "moved")
    second = resumed(trainer, first, **options)
    trainer.run_epoch(second, **{"val/loss": 1.0})
    assert files(tmp_path / "moved") == ["epoch=0-step=4.ckpt", "epoch=2-step=12.ckpt"]
    assert all(Path(path).parent == tmp_path / "moved" / "checkpoints" for path in second.best_k_models)


def test_the_state_of_old_checkpoints_loads(trainer):
    first = run(trainer, ModelCheckpoint(monitor="val/loss"), [2.0])
    state = first.state_dict()
    for name in ("saved_at", "is_due", "watches_validation", "written", "driven_out"):
        del state[name]
    state["best_k_models"] = {path: torch.tensor(score) for path, score in state["best_k_models"].items()}
    second = ModelCheckpoint(monitor="val/loss")
    trainer.start(second)
    second.load_state_dict(state)
    trainer.run_epoch(second, **{"val/loss": 3.0})
    assert (Path(second.best_model_path).read_text(), trainer.saved) == ("step 4", ["best.ckpt"])


def test_weights_alone_do_not_take_the_place_of_what_the_trainer_resumes_from(trainer):
    run(trainer, ModelCheckpoint(save_weights_only=True), [1.0])
    run(trainer, ModelCheckpoint(save_weights_only=True, monitor="val/loss", save_last=True), [1.0])
    assert files(trainer.run_dir) == ["best.ckpt", "last-weights.ckpt"]
    with pytest.raises(ConfigurationError, match="would overwrite"):
        ModelCheckpoint(filename="last", monitor="val/loss")


# errors


def test_a_missing_value_is_an_error_at_the_first_save(trainer):
    trainer.log(accuracy=0.5)
    callback = ModelCheckpoint(monitor="acuracy")
    trainer.start(callback)
    with pytest.raises(ConfigurationError, match=r"'acuracy'.*\['accuracy'\].*Did you mean \"accuracy\""):
        trainer.run_epoch(callback)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"save_top_k": 3}, "needs a monitor"),
        ({"save_top_k": -2}, "-1 for all"),
        ({"mode": "auto"}, "mode"),
        ({"every_n_epochs": 1, "every_n_train_steps": 1}, "one of them"),
        ({"every_n_epochs": -1}, "every_n_epochs"),
        ({"every_n_train_steps": 0.5}, "every_n_train_steps"),
    ],
)
def test_arguments_that_make_no_sense(options, words):
    with pytest.raises(ConfigurationError, match=words):
        ModelCheckpoint(**options)


# with the real Trainer


def make_trainer(folder, *callbacks, **options):
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        logger=False,
        **{"max_epochs": 3, **options},
    )


def test_a_real_fit_keeps_best_and_last_and_both_load(tmp_path):
    torch.manual_seed(0)
    callback = ModelCheckpoint(monitor="val/loss", save_last=True)
    module = TinyClassifier()
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(module, random_loader(), random_loader(seed=1))
    assert own_files(tmp_path) == ["best.ckpt"]
    assert callback.best_model_score.item() == pytest.approx(trainer.callback_metrics["val/loss"].item())
    loaded = TinyClassifier.load_from_checkpoint(callback.last_model_path)
    assert torch.equal(loaded.head.weight, module.head.weight)


def test_a_real_fit_saves_by_steps(tmp_path):
    callback = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1)
    make_trainer(tmp_path, callback, max_epochs=2).fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    assert own_files(tmp_path) == ["epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "epoch=1-step=6.ckpt"]


def test_a_resumed_fit_knows_its_best(tmp_path):
    torch.manual_seed(0)
    data = random_loader(), random_loader(seed=1)
    options = {"monitor": "val/accuracy", "mode": "max", "save_last": True}
    first = ModelCheckpoint(**options)
    make_trainer(tmp_path, first, max_epochs=2).fit(TinyClassifier(), *data)
    second = ModelCheckpoint(**options)
    trainer = make_trainer(tmp_path, second, max_epochs=2)
    trainer.fit(TinyClassifier(), *data, ckpt_path=first.last_model_path)
    assert second.best_model_score.item() == first.best_model_score.item()
    assert second.best_model_path == first.best_model_path


SCRIPT = """
import os, sys
from torchloops.callbacks import Callback, ModelCheckpoint
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer, checkpoint_file

count = 0
def killed_before_it_ends(source, target, replace=os.replace):
    global count
    if str(target).endswith("best.ckpt"):
        count += 1
        if count == 3:
            os._exit(9)
    replace(source, target)
checkpoint_file.os.replace = killed_before_it_ends

options = {"logger": False, "enable_progress_bar": False}
best = ModelCheckpoint(monitor="train/loss")
trainer = Trainer(accelerator="cpu", max_epochs=5, default_root_dir=sys.argv[1], callbacks=best, **options)
trainer.fit(TinyClassifier(), random_loader())
"""


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(tmp_path):
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], timeout=120, env={**os.environ})
    assert result.returncode == 9
    checkpoint = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6


def test_two_that_watch_different_values_write_different_files(tmp_path):
    from torchloops import Trainer
    from torchloops.testing import TinyClassifier, random_batches

    loss = ModelCheckpoint(monitor="val/loss")
    accuracy = ModelCheckpoint(monitor="val/accuracy", mode="max")
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        callbacks=[loss, accuracy],
    )  # fmt: skip
    trainer.fit(TinyClassifier(), random_batches(2), random_batches(2))
    assert own_files(tmp_path) == ["best-val_accuracy.ckpt", "best-val_loss.ckpt"]
    assert loss.best_model_path != accuracy.best_model_path


def test_a_checkpoint_that_cannot_be_written_is_warned_of_and_training_goes_on(make_trainer, tmp_path):
    class InTheWay(Callback):
        """Puts a file in the way of the folder in epoch 1, and takes it away in epoch 3."""

        def on_train_epoch_start(self, trainer, module):
            folder, aside = tmp_path / "kept", tmp_path / "aside"
            if trainer.current_epoch == 1:
                folder.rename(aside)
                folder.write_text("in the way")
            if trainer.current_epoch == 3:
                folder.unlink()
                aside.rename(folder)

    callback = ModelCheckpoint(tmp_path / "kept", monitor="train/loss", mode="max", save_top_k=1, save_last=True)
    newest = ModelCheckpoint(tmp_path / "kept", filename="{epoch}")
    trainer = make_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[InTheWay(), callback, newest])
    with pytest.warns(UserWarning, match="without this checkpoint. The checkpoint .*kept") as said:
        trainer.fit(TinyClassifier(), random_loader(16, 8))
    assert len(said) >= 4
    assert trainer.current_epoch == 3
    assert Path(callback.best_model_path).name == "best.ckpt"
    assert Path(newest.best_model_path).name == "epoch=0.ckpt"
    (tmp_path / "kept").unlink()
    (tmp_path / "aside").rename(tmp_path / "kept")
    assert all(Path(path).is_file() for path in (callback.best_model_path, newest.best_model_path))
