"""Callbacks of the recipes: what a checkpoint keeps of them."""

from types import SimpleNamespace

import numpy
import torch

from torchloops.report import EpochClock, RoundProgress, RunFolder, SampleGrids, StudyProgress

OUTERMOST, INNER = SimpleNamespace(run_name="", current_epoch=0), SimpleNamespace(run_name="round_0")


def train(progress: RoundProgress, rounds: int) -> None:
    """A training of so many rounds, each with a run inside."""
    progress.setup(OUTERMOST, None, "fit")
    for _ in range(rounds):
        progress.setup(INNER, None, "fit")
        progress.on_round_end(OUTERMOST, None, {})


def test_a_resumed_study_starts_its_bar_where_it_was(tmp_path):
    first = RoundProgress(RunFolder(tmp_path), total=9)
    train(first, 3)
    finished = first.state_dict()
    train(first, 2)
    cut = first.state_dict()
    assert first.completed == 5

    again = RoundProgress(RunFolder(tmp_path), total=9)
    for state in (finished, cut):
        again.setup(OUTERMOST, None, "fit")
        again.load_state_dict(state)
    assert again.completed == 5


def test_an_extended_training_moves_those_after_it(tmp_path):
    progress = StudyProgress(RunFolder(tmp_path), total=9, unit="epoch")
    progress.setup(OUTERMOST, None, "fit")
    progress.load_state_dict({"completed": 3})
    progress.on_train_epoch_end(OUTERMOST, None)  # the limit was raised
    progress.setup(OUTERMOST, None, "fit")
    progress.load_state_dict({"completed": 3})
    assert progress.completed == 7


def test_the_clock_counts_on():
    clock = EpochClock()
    clock.load_state_dict({"seconds": 40.0})
    assert clock.state_dict() == {"seconds": 40.0}
    clock.on_train_end(OUTERMOST, None)  # a finished training that was restored
    assert clock.seconds == 40.0
    clock.on_train_start(OUTERMOST, None)
    clock.on_train_end(OUTERMOST, None)
    assert 40.0 <= clock.seconds < 50.0


def test_images_of_the_epochs_before_are_kept(tmp_path):
    images = numpy.random.default_rng(0).random((4, 8, 8), dtype=numpy.float32)
    grids = SampleGrids(tmp_path, lambda module: images, columns=2)
    grids.on_train_epoch_end(OUTERMOST, None)
    # a checkpoint holds arrays as tensors
    state = {"kept": {epoch: torch.from_numpy(kept) for epoch, kept in grids.state_dict()["kept"].items()}}

    again = SampleGrids(tmp_path, lambda module: images, columns=2)
    again.load_state_dict(state)
    assert list(again.kept) == [0]
    assert isinstance(again.kept[0], numpy.ndarray)
    assert numpy.array_equal(again.kept[0], images[:2])
