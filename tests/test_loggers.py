"""CSVLogger: one row an epoch, nothing on a step, nothing lost by a crash or a resume."""

import argparse
import cProfile
import csv
import io
import pickle
import sys
from enum import IntEnum
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from matplotlib import pyplot
from PIL import Image

from torchloops.errors import ConfigurationError
from torchloops.loggers import CSVLogger, PrefixedLogger, csv_logger, experiment

matplotlib.use("Agg")


class Level(IntEnum):
    HIGH = 3


def table(folder, name="metrics.csv"):
    with open(Path(folder) / name, newline="") as file:
        return list(csv.DictReader(file))


def log_epochs(logger, epochs, **more):
    for epoch in epochs:
        for step in range(epoch * 3 + 1, epoch * 3 + 4):
            logger.log_metrics({"epoch": epoch, "train/loss": 1.0 / step, **more}, step)
        logger.log_metrics({"epoch": epoch, "val/loss": 2.0 / step}, step)


def test_one_row_an_epoch_and_the_latest_value_wins(tmp_path):
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(2))
    logger.finalize("success")
    assert table(tmp_path) == [
        {"epoch": "0", "step": "3", "train/loss": "0.33333333", "val/loss": "0.66666667"},
        {"epoch": "1", "step": "6", "train/loss": "0.16666667", "val/loss": "0.33333333"},
    ]


def test_epoch_and_step_come_first(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"b": 1.0, "a": 2.0, "epoch": 0}, step=1)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,b,a\n0,1,1,2\n"


def test_a_step_touches_no_file(tmp_path):
    folder = tmp_path / "not yet there"
    logger = CSVLogger(folder)
    log_epochs(logger, [0])
    assert not folder.exists()


def test_an_epochs_row_is_written_when_the_next_begins(tmp_path):
    logger = CSVLogger(tmp_path)
    log_epochs(logger, [0])
    logger.log_metrics({"epoch": 1, "train/loss": 0.1}, 4)
    assert [row["epoch"] for row in table(tmp_path)] == ["0"]


def test_a_row_that_was_written_may_still_change(tmp_path):
    logger = CSVLogger(tmp_path)
    for epoch in range(3):
        logger.log_metrics({"epoch": epoch, "a": 1.0, "b": 123.456}, epoch)
        logger.save()
        logger.log_metrics({"epoch": epoch, "b": 2.0}, epoch)
        logger.save()
    assert [row["b"] for row in table(tmp_path)] == ["2", "2", "2"]


def test_the_file_is_written_anew_only_for_a_new_column(tmp_path, monkeypatch):
    written = []
    replace = csv_logger.write_whole
    monkeypatch.setattr(
        csv_logger, "write_whole", lambda path, *args, **kw: written.append(path) or replace(path, *args, **kw)
    )
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(4))
    logger.save()
    assert len(written) == 1
    logger.log_metrics({"test/accuracy": 0.5}, 12)
    logger.save()
    assert len(written) == 2
    assert [row["test/accuracy"] for row in table(tmp_path)] == ["", "", "", "0.5"]


def test_values_without_an_epoch_go_to_the_last_row_or_to_a_new_one(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"test/loss": 1.0}, 0)
    logger.save()
    assert table(tmp_path) == [{"epoch": "", "step": "0", "test/loss": "1"}]
    log_epochs(logger, [0])
    logger.log_metrics({"test/loss": 2.0}, 3)
    logger.save()
    assert [row["test/loss"] for row in table(tmp_path)] == ["1", "2"]


def test_tensors_booleans_and_text_are_written_as_they_read(tmp_path):
    logger = CSVLogger(tmp_path)
    values = {"epoch": 0, "tensor": torch.tensor(0.1), "nan": float("nan"), "text": "a,b", "flag": True}
    logger.log_metrics(values, 10_000_000)
    logger.save()
    expected = {"epoch": "0", "step": "10000000", "tensor": "0.1", "nan": "nan", "text": "a,b", "flag": "True"}
    assert table(tmp_path) == [expected]


# a file that is already there


def test_a_resumed_run_replaces_the_rows_it_repeats(tmp_path):
    first = CSVLogger(tmp_path)
    log_epochs(first, range(4), lr=0.1)
    first.finalize("failed")
    second = CSVLogger(tmp_path)
    second.log_metrics({"epoch": 2, "train/loss": 9.0}, 9)
    second.save()
    rows = table(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["val/loss"] == "0.33333333"
    assert (rows[2]["train/loss"], rows[2]["val/loss"]) == ("9", "")


def test_a_run_from_epoch_0_replaces_all_rows_and_columns(tmp_path):
    first = CSVLogger(tmp_path)
    log_epochs(first, range(3), lr=0.1)
    first.save()
    second = CSVLogger(tmp_path)
    second.log_metrics({"epoch": 0, "other": 1.0}, 1)
    second.save()
    assert table(tmp_path) == [{"epoch": "0", "step": "1", "other": "1"}]


def test_one_logger_in_two_fits_starts_over(tmp_path):
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(3))
    logger.finalize("success")
    log_epochs(logger, range(2))
    logger.finalize("success")
    assert [row["epoch"] for row in table(tmp_path)] == ["0", "1"]


def test_evaluating_with_a_file_that_is_there_adds_to_its_last_row(tmp_path):
    first = CSVLogger(tmp_path)
    log_epochs(first, range(2))
    first.save()
    second = CSVLogger(tmp_path)
    second.log_metrics({"test/loss": 7.0}, 6)
    second.save()
    assert [row["test/loss"] for row in table(tmp_path)] == ["", "7"]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    first = CSVLogger(tmp_path)
    log_epochs(first, range(2))
    first.save()
    with open(first.path, "a") as file:
        file.write("2,9,0.1")
    second = CSVLogger(tmp_path)
    log_epochs(second, [2])
    second.save()
    assert [row["epoch"] for row in table(tmp_path)] == ["0", "1", "2"]


def test_a_file_somebody_deleted_is_written_again(tmp_path):
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(2))
    logger.save()
    logger.path.unlink()
    log_epochs(logger, [2])
    logger.save()
    assert [row["epoch"] for row in table(tmp_path)] == ["0", "1", "2"]


# going on from a checkpoint


def events(epochs=4):
    """What a run does with its logger, call by call: new columns on the way, a test at the end."""
    calls = []
    for epoch in range(epochs):
        for step in range(epoch * 2 + 1, epoch * 2 + 3):
            calls.append(("log_metrics", {"epoch": epoch, "train/loss": 1.0 / step, "text": 'a, "b"\nc'}, step))
        if epoch > 0:
            calls.append(("log_metrics", {"epoch": epoch, "val/loss": torch.tensor(2.0 / step), "flag": True}, step))
        calls.append(("save",))
    calls += [("log_metrics", {"test/loss": 0.5, "train/loss": 9.0}, step), ("save",), ("finalize", "success")]
    return calls


def play(logger, calls):
    for name, *arguments in calls:
        getattr(logger, name)(*(dict(a) if isinstance(a, dict) else a for a in arguments))


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def content(folder):
    path = Path(folder, "metrics.csv")
    return path.read_bytes() if path.is_file() else None


def leave(path):
    """What a killed run leaves is left alone."""


def lose(path):
    path.unlink(missing_ok=True)


def cut_in_the_middle(path):
    if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_zeros(path):
    if path.is_file():
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [leave, lose, cut_in_the_middle, fill_with_zeros])
@pytest.mark.parametrize("former_run", [False, True])
def test_cut_at_every_call_the_file_ends_with_the_same_bytes(tmp_path, damage, former_run):
    calls = events()

    def start(folder):
        if former_run:
            first = CSVLogger(folder)
            log_epochs(first, range(6), former=1.0)
            first.finalize("success")

    start(tmp_path / "whole")
    play(CSVLogger(tmp_path / "whole"), calls)
    whole = content(tmp_path / "whole")
    assert whole.count(b"\n") > 4
    for cut in range(len(calls) + 1):
        for later in range(cut, len(calls) + 1, 5):  # what the killed run did after its checkpoint
            folder = tmp_path / f"{cut} {later}"
            start(folder)
            killed = CSVLogger(folder)
            play(killed, calls[:cut])
            state = through_a_file(killed.state_dict())
            play(killed, calls[cut:later])
            if later:
                damage(killed.path)
            resumed = CSVLogger(folder)
            resumed.load_state_dict(state)
            play(resumed, calls[cut:] or [("finalize", "success")])
            assert content(folder) == whole, f"checkpoint after {cut} calls, killed after {later}"


def test_resumed_after_every_call(tmp_path):
    play(CSVLogger(tmp_path / "whole"), events())
    logger = CSVLogger(tmp_path / "resumed")
    for call in events():
        play(logger, [call])
        state = logger.state_dict()
        logger = CSVLogger(tmp_path / "resumed")
        logger.load_state_dict(through_a_file(state))
    logger.finalize("success")
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


def test_asking_for_the_state_changes_nothing(tmp_path):
    play(CSVLogger(tmp_path / "whole"), events())
    logger = CSVLogger(tmp_path / "watched")
    for call in events():
        logger.state_dict()
        play(logger, [call])
    assert content(tmp_path / "watched") == content(tmp_path / "whole")


def test_a_run_that_was_resumed_before_it_logged_anything_writes_no_file(tmp_path):
    logger = CSVLogger(tmp_path / "new")
    logger.load_state_dict(through_a_file(CSVLogger(tmp_path / "new").state_dict()))
    logger.finalize("success")
    assert not (tmp_path / "new").exists()


def test_values_without_an_epoch_do_not_go_to_a_row_that_a_killed_run_left(tmp_path):
    state = CSVLogger(tmp_path).state_dict()
    killed = CSVLogger(tmp_path)
    killed.log_metrics({"round": 0.0, "score": 1.0}, 0)
    killed.finalize("failed")
    resumed = CSVLogger(tmp_path)
    resumed.load_state_dict(state)
    resumed.log_metrics({"score": 1.0}, 0)
    resumed.save()
    assert content(tmp_path) == b"epoch,step,score\n,0,1\n"


def test_the_state_of_many_rows_is_made_in_few_calls(tmp_path):
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(1000), **{f"value {index}": 1.0 for index in range(8)})
    logger.save()
    logger.state_dict()
    log_epochs(logger, [1000], **{f"value {index}": 1.0 for index in range(8)})
    counter = cProfile.Profile()
    counter.enable()
    logger.state_dict()
    logger.save()
    counter.disable()
    assert sum(call.callcount for call in counter.getstats()) < 1000  # a cell costs several calls, and there are 10,000


# the rest of a logger


def test_hyperparameters_are_written_as_yaml(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1, "layers": (1, 2), "net": torch.nn.ReLU(), "nested": {"a": None}}, seed=3)
    expected = {"lr": 0.1, "layers": [1, 2], "net": "ReLU()", "nested": {"a": None}, "seed": 3}
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == expected
    logger.log_hyperparams(argparse.Namespace(lr=0.2))
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == {"lr": 0.2}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Level.HIGH, 3),
        (torch.nn.Tanh, "torch.nn.modules.activation.Tanh"),
        (torch.nn.functional.softmax, "torch.nn.functional.softmax"),
        ({1: [np.float64(0.5), Path("a")]}, {"1": [0.5, "a"]}),
        ("\udcff", "\udcff"),
        (float("inf"), float("inf")),
    ],
)
def test_every_hyperparameter_can_be_written(tmp_path, value, written):
    CSVLogger(tmp_path).log_hyperparams({"value": value})
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == {"value": written}


def test_names_that_lightning_code_uses(tmp_path):
    logger = CSVLogger(tmp_path)
    assert (logger.name, logger.version) == ("", "")
    assert logger.log_dir == logger.root_dir == logger.save_dir == str(tmp_path)
    assert logger.experiment.save_dir == str(tmp_path)


def test_folders_of_names_and_versions(tmp_path):
    def folder(**arguments):
        logger = CSVLogger(tmp_path, **arguments)
        logger.log_metrics({"epoch": 0, "loss": 1.0}, 3)
        logger.save()
        assert logger.path.is_file()
        return str(logger.path.parent.relative_to(tmp_path)), logger.version

    assert folder(name="study") == ("study/version_0", 0)
    assert folder(name="study") == ("study/version_1", 1)
    assert folder(name="study", version=7) == ("study/version_7", 7)
    assert folder(name="study") == ("study/version_8", 8)
    assert folder(name="study", version="trial") == ("study/trial", "trial")
    assert folder(version=3) == ("version_3", 3)
    assert folder(name="") == ("version_4", 4)
    with pytest.raises(ConfigurationError, match=r"the file is always metrics\.csv"):
        CSVLogger(tmp_path, "history.csv")


def test_prefix_and_flushing(tmp_path):
    logger = CSVLogger(tmp_path, prefix="mine", flush_logs_every_n_steps=10)
    written = []
    for step in range(25):
        logger.log_metrics({"epoch": 0, "loss": float(step)}, step)
        written.append(table(tmp_path)[0]["mine-loss"] if logger.path.exists() else None)
    assert written == [None] * 9 + ["9"] * 10 + ["19"] * 6
    with pytest.raises(ConfigurationError, match="number of steps or None, got 0"):
        CSVLogger(tmp_path, flush_logs_every_n_steps=0)


# pictures and the like


def play_experiment(experiment):
    figure, axes = pyplot.subplots()
    axes.plot([0, 1])
    experiment.add_figure("curve", figure, 3)
    experiment.add_image("val/a picture", torch.linspace(0, 1, 12).reshape(3, 2, 2), 5)
    experiment.add_image("grey", np.array([[0, 255]], dtype=np.uint8), 1, dataformats="HW")
    experiment.add_images("batch", torch.zeros(2, 1, 2, 2), 4)
    experiment.add_scalar("lr", torch.tensor(0.5), 7)
    experiment.add_scalars("both", {"a": 1, "b": 2.5}, 8)


def test_pictures_lie_beside_the_file_where_there_is_no_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    logger = CSVLogger(tmp_path, "study")
    play_experiment(logger.experiment)
    assert not pyplot.get_fignums()
    folder = tmp_path / "study" / "version_0" / "images"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert found == {"curve/3.png", "val/a_picture/5.png", "grey/1.png", "batch/0/4.png", "batch/1/4.png"}
    colours = np.asarray(Image.open(folder / "val" / "a_picture" / "5.png"))
    expected = (np.linspace(0, 1, 12).reshape(3, 2, 2).transpose(1, 2, 0) * 255).round().astype(np.uint8)
    assert np.array_equal(colours, expected)
    assert np.asarray(Image.open(folder / "grey" / "1.png")).tolist() == [[0, 255]]
    rows = (folder.parent / "scalars.csv").read_text().splitlines()
    assert rows == ["tag,step,value", "lr,7,0.5", "both/a,8,1", "both/b,8,2.5"]
    with pytest.raises(ConfigurationError, match="pip install tensorboard"):
        logger.experiment.add_histogram("weights", torch.ones(3))
    with pytest.raises(ConfigurationError, match="dataformats='CHW'"):
        logger.experiment.add_image("flat", torch.ones(4))


def test_tensorboard_gets_pictures_where_it_is_installed(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = CSVLogger(tmp_path)
    play_experiment(logger.experiment)
    logger.experiment.add_histogram("weights", torch.ones(3), 1)
    logger.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"curve", "val/a picture", "grey", "batch"}
    assert (tags["scalars"], tags["histograms"]) == (["lr"], ["weights"])
    logger.experiment.close()
    pickle.loads(pickle.dumps(logger)).experiment.add_scalar("lr", 1.0, 1)


def test_other_processes_than_the_first_write_nothing(tmp_path, monkeypatch):
    for module in (csv_logger, experiment):
        monkeypatch.setattr(module, "is_first_process", lambda: False)
    logger = CSVLogger(tmp_path)
    log_epochs(logger, range(2))
    logger.finalize("success")
    logger.log_hyperparams({"lr": 1})
    play_experiment(logger.experiment)
    assert list(tmp_path.iterdir()) == []
    pyplot.close("all")


class Collecting:
    name = "collecting"

    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((metrics, step))

    def save(self):
        self.calls.append("save")

    def finalize(self, status):
        self.calls.append("finalize")


def test_prefixed_loggers_nest_and_leave_the_other_open():
    inner = Collecting()
    logger = PrefixedLogger(PrefixedLogger(inner, "fold_0/"), "round_3/")
    logger.log_metrics({"epoch": 1, "loss": 2.0}, 5)
    logger.log_hyperparams({"lr": 1})
    logger.finalize("success")
    assert inner.calls == [({"fold_0/round_3/epoch": 1, "fold_0/round_3/loss": 2.0}, 5), "save"]
    assert logger.name == "collecting"
    assert logger.state_dict() == {}
    logger.load_state_dict({"rows": []})
    with pytest.raises(AttributeError):
        logger.nothing  # noqa: B018


def test_a_real_fit_writes_one_row_an_epoch(tmp_path):
    from torchloops.testing import TinyClassifier, random_loader
    from torchloops.trainer import Trainer

    torch.set_num_threads(1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    rows = table(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("1", "5"), ("2", "8")]
    assert set(rows[0]) == {"epoch", "step", "train/loss", "val/loss", "val/accuracy"}
    assert all(value for row in rows for value in row.values())


def test_a_file_that_cannot_be_written_is_warned_of_once_and_written_when_it_can(tmp_path):
    logger = CSVLogger(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")

    def log_all():
        for epoch in range(3):
            logger.log_metrics({"epoch": epoch, "loss": epoch / 2}, step=epoch)
            logger.save()
        logger.finalize()
        logger.log_hyperparams({"lr": 1})

    with pytest.warns(UserWarning, match=r"Training goes on, but its metrics cannot be written: .*run: ") as said:
        log_all()
    assert len(said) == 1
    (tmp_path / "run").unlink()
    logger.log_metrics({"epoch": 3, "loss": 1.5}, step=3)
    logger.finalize()
    assert logger.path.read_text() == "epoch,step,loss\n0,0,0\n1,1,0.5\n2,2,1\n3,3,1.5\n"


def test_a_disk_that_becomes_full_in_the_middle_of_a_row_loses_none(tmp_path, monkeypatch):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"epoch": 0, "loss": 0.5}, step=0)
    logger.save()
    open_file = Path.open

    def full(path, mode="r", *args, **kwargs):
        file = open_file(path, mode, *args, **kwargs)
        if mode == "r+b":
            file.seek(0, 2)
            file.write(b"1,")
            file.close()
            raise OSError(28, "No space left on device")
        return file

    monkeypatch.setattr(Path, "open", full)
    logger.log_metrics({"epoch": 1, "loss": 0.25}, step=1)
    with pytest.warns(UserWarning, match="No space left on device"):
        logger.save()
    monkeypatch.undo()
    logger.save()
    assert logger.path.read_text() == "epoch,step,loss\n0,0,0.5\n1,1,0.25\n"
