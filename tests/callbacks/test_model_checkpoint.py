"""ModelCheckpoint: what is kept, under which name, and what is never lost."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchloops.callbacks import ModelCheckpoint
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer

MODULE = TinyClassifier()


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


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


def test_the_same_step_is_not_saved_twice(trainer):
    callback = ModelCheckpoint(save_top_k=-1)
    trainer.start(callback)
    trainer.run_epoch(callback)
    trainer.run_epoch(callback, steps=0)
    assert trainer.saved == ["epoch=0-step=4.ckpt"]


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
        ({"every_n_epochs": 1, "every_n_train_steps": 1}, "not both"),
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
    assert files(tmp_path) == ["best.ckpt", "last.ckpt"]
    assert callback.best_model_score.item() == pytest.approx(trainer.callback_metrics["val/loss"].item())
    loaded = TinyClassifier.load_from_checkpoint(callback.last_model_path)
    assert torch.equal(loaded.head.weight, module.head.weight)


def test_a_real_fit_saves_by_steps(tmp_path):
    callback = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1)
    make_trainer(tmp_path, callback, max_epochs=2).fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    assert files(tmp_path) == ["epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "epoch=1-step=6.ckpt"]


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
from torchloops.trainer import Trainer
from torchloops.trainer import checkpoint as files

count = 0
def killed_while_writing(checkpoint, handle, write=files.torch.save):
    global count
    count += 1
    if count == 3:
        handle.write(b"half a checkpoint")
        handle.flush()
        os._exit(9)
    write(checkpoint, handle)
files.torch.save = killed_while_writing

options = {"logger": False, "enable_progress_bar": False}
trainer = Trainer(accelerator="cpu", max_epochs=5, default_root_dir=sys.argv[1], **options)
trainer.fit(TinyClassifier(), random_loader())
"""


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(tmp_path):
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], timeout=120, env={**os.environ})
    assert result.returncode == 9
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
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
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best-val_accuracy.ckpt", "best-val_loss.ckpt"]
    assert loss.best_model_path != accuracy.best_model_path
