"""ModelCheckpoints of real fits: several in one folder, values of validation, weights that are set by hand."""

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from torchloops import LoopModule, ModelCheckpoint, Trainer
from torchloops.errors import ConfigurationError

LOSSES, ACCURACIES = [1.0, 2.0, 0.5, 3.0], [0.1, 0.9, 0.2, 0.3]


class Scored(LoopModule):
    """Its weight is the number of steps taken, so that a file tells when it was written."""

    def __init__(self, scores=None):
        super().__init__()
        self.automatic_optimization = False
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.scores = scores

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.w += 1

    def validation_step(self, batch, batch_idx):
        if self.scores is not None:
            self.log("val/loss", self.scores[int(self.w.detach())])
        else:
            epoch = self.trainer.current_epoch
            self.log_dict({"val/loss": LOSSES[epoch], "val/acc": ACCURACIES[epoch], "val_acc": -ACCURACIES[epoch]})

    def configure_optimizers(self):
        return None


def fit(folder, callbacks, module=None, batches=1, **options):
    options = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False, "logger": False, **options}
    loaders = [torch.zeros(1)] * batches, [torch.zeros(1)]
    Trainer(callbacks=callbacks, default_root_dir=folder, num_sanity_val_steps=0, **options).fit(
        module or Scored(), *loaders
    )


def steps_in(path):
    return int(torch.load(path, weights_only=True)["state_dict"]["w"])


@pytest.mark.parametrize(
    "options",
    [
        ({"monitor": "val/loss", "filename": "{epoch}"}, {"monitor": "val/acc", "mode": "max", "filename": "{epoch}"}),
        ({"monitor": "val/loss", "filename": "best"}, {"monitor": "val/acc", "mode": "max", "filename": "best"}),
        ({"monitor": "val/acc", "mode": "min"}, {"monitor": "val/acc", "mode": "max"}),
        ({"monitor": "val/acc", "mode": "max"}, {"monitor": "val_acc", "mode": "max"}),
        ({"monitor": "val/loss", "save_top_k": 2}, {"monitor": "val/acc", "mode": "max", "save_top_k": 2}),
        ({"monitor": "val/loss", "save_top_k": 2}, {"save_top_k": -1}),
        ({"save_top_k": -1}, {"monitor": "val/loss", "save_top_k": 2}),
    ],
)
@pytest.mark.parametrize("in_dirpath", [False, True])
def test_callbacks_in_one_folder_leave_each_others_files(tmp_path, options, in_dirpath):
    where = {"dirpath": tmp_path / "kept"} if in_dirpath else {}
    callbacks = [ModelCheckpoint(**one, **where) for one in options]
    fit(tmp_path / "run", callbacks)
    scores = {"val/loss": LOSSES, "val/acc": ACCURACIES, "val_acc": [-value for value in ACCURACIES]}
    kept = []
    for callback in callbacks:
        values = scores.get(callback.monitor)
        expected = [*range(4)] if values is None else sorted(range(4), key=values.__getitem__)
        expected = expected[::-1] if callback.mode == "max" else expected
        if callback.save_top_k != -1:
            expected = expected[: callback.save_top_k]
        files = callback.best_k_models if values is not None else sorted(callback._written)
        assert sorted(steps_in(path) - 1 for path in files) == sorted(expected)
        assert values is None or steps_in(callback.best_model_path) - 1 == expected[0]
        kept += [Path(path).resolve() for path in files]
    assert len(kept) == len({*kept})


def test_a_file_has_the_weights_that_its_value_of_validation_was_measured_with(tmp_path):
    scores = [math.nan, 9.0, 5.0, 9.0, 1.0, 9.0, 3.0, 9.0, 4.0]
    keep = ModelCheckpoint(monitor="val/loss", every_n_train_steps=2, save_top_k=-1)
    stepping = Scored(scores)
    stepping.training_step = lambda batch, batch_idx: _step(stepping)
    stepping.configure_optimizers = lambda: torch.optim.SGD(stepping.parameters(), lr=0.0)
    fit(tmp_path, keep, stepping, batches=4, max_epochs=2, val_check_interval=2)
    assert {steps_in(path): float(score) for path, score in keep.best_k_models.items()} == {2: 5, 4: 1, 6: 3, 8: 4}


def test_where_no_validation_comes_at_that_step_the_next_one_decides(tmp_path):
    scores = [math.nan, 9.0, 9.0, 9.0, 2.0, 9.0, 9.0, 9.0, 1.0]
    keep = ModelCheckpoint(monitor="val/loss", every_n_train_steps=3, save_top_k=-1)
    stepping = Scored(scores)
    stepping.training_step = lambda batch, batch_idx: _step(stepping)
    stepping.configure_optimizers = lambda: torch.optim.SGD(stepping.parameters(), lr=0.0)
    fit(tmp_path, keep, stepping, batches=4, max_epochs=2)
    assert {steps_in(path): float(score) for path, score in keep.best_k_models.items()} == {4: 2, 8: 1}


def _step(module):
    module.optimizers().step()
    with torch.no_grad():
        module.w += 1


def test_weights_set_by_hand_are_saved_in_every_epoch(tmp_path):
    keep = ModelCheckpoint(save_top_k=-1, filename="{epoch}")
    fit(tmp_path, keep)
    assert sorted((Path(path).stem, steps_in(path)) for path in keep._written) == [
        (f"epoch={epoch}", epoch + 1) for epoch in range(4)
    ]


def test_an_interval_of_one_batch_is_not_one_epoch(tmp_path):
    scores = [math.nan, 5.0, 1.0, 3.0, 4.0, 4.0, 4.0, 4.0, 0.5]
    best = ModelCheckpoint(monitor="val/loss", save_top_k=2)
    fit(tmp_path, best, Scored(scores), batches=4, max_epochs=2, val_check_interval=1)
    assert sorted(steps_in(path) for path in best.best_k_models) == [2, 8]


# Lightning's arguments


@pytest.mark.parametrize("monitor", ["epoch", "step"])
def test_the_newest_may_be_the_best(tmp_path, monitor):
    keep = ModelCheckpoint(monitor=monitor, mode="max", save_top_k=2, filename="{epoch}")
    stepping = Scored([1.0] * 5)
    stepping.training_step = lambda batch, batch_idx: _step(stepping)
    stepping.configure_optimizers = lambda: torch.optim.SGD(stepping.parameters(), lr=0.0)
    fit(tmp_path, keep, stepping)
    assert sorted(map(steps_in, keep.best_k_models)) == [3, 4]
    assert steps_in(keep.best_model_path) == 4


def test_the_folder_is_known_once_a_fit_has_begun(tmp_path):
    own, given = ModelCheckpoint(filename="a"), ModelCheckpoint(tmp_path / "given", filename="b")
    assert (own.dirpath, given.dirpath) == (None, tmp_path / "given")
    fit(tmp_path, [own, given], max_epochs=1)
    assert (own.dirpath, given.dirpath) == (str(tmp_path / "checkpoints"), str(tmp_path / "given"))


@pytest.mark.parametrize(("counts", "names"), [(True, ["model-v1.ckpt", "model.ckpt"]), (False, ["model.ckpt"])])
def test_files_of_a_former_run_may_be_replaced_where_that_is_asked_for(tmp_path, counts, names):
    for epochs in (1, 3):
        keep = ModelCheckpoint(tmp_path / "kept", "model", enable_version_counter=counts)
        fit(tmp_path / f"run {epochs}", keep, max_epochs=epochs)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == names
    assert steps_in(keep.best_model_path) == 3


def test_it_saves_by_time(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))  # seconds: one look when the fit starts, then one a batch or two
    monkeypatch.setattr("torchloops.callbacks.model_checkpoint.monotonic", lambda: float(next(clock)))
    keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_top_k=-1, train_time_interval=timedelta(seconds=20))
    fit(tmp_path / "run", keep, batches=6, max_epochs=1)
    # looks: 0 start | 10 | 20, saved, 30 | 40 | 50, saved, 60 | 70 | 80, saved
    assert sorted(steps_in(path) for path in keep._written) == [2, 4, 6]


def test_an_error_leaves_the_state_as_it_was_then(tmp_path):
    failing = Scored()

    def training_step(batch, batch_idx):
        with torch.no_grad():
            failing.w += 1
        if failing.w == 6:
            raise RuntimeError("the sixth batch")

    failing.training_step = training_step
    keep = ModelCheckpoint(save_on_exception=True)
    with pytest.raises(RuntimeError, match="the sixth batch"):
        fit(tmp_path, keep, failing, batches=4)
    assert steps_in(tmp_path / "checkpoints" / "exception-epoch=1-step=0.ckpt") == 6


def test_no_error_leaves_no_such_file(tmp_path):
    fit(tmp_path, ModelCheckpoint(save_on_exception=True), max_epochs=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if "exception" in path.name] == []


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_train_steps": 1, "train_time_interval": timedelta(1)},
        {"every_n_epochs": 1, "train_time_interval": timedelta(1)},
        {"train_time_interval": 5},
    ],
)
def test_times_that_contradict_each_other_are_refused(options):
    with pytest.raises(ConfigurationError, match="train_time_interval"):
        ModelCheckpoint(**options)
