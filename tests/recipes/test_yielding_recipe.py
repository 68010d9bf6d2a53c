"""The recipe of a GAN by a training step that yields."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from PIL import Image
from recipe_runs import COMMON_FILES, check_options, files_in

from torchloops.cli.recipes import find_recipe
from torchloops.report import compare_with_expected, forward_pass_table
from torchloops.vision import ImageGAN

RECIPE = find_recipe("yielding")


@pytest.fixture
def fast(fast_run: Callable[[str], tuple[Path, str]]) -> tuple[Path, str]:
    """The run folder of ``--fast``, and what it printed."""
    return fast_run("yielding")


def test_fast_run_leaves_everything_behind(fast):
    folder, _ = fast
    own = {"plots/samples.png", "plots/losses.png", "turns.csv", "checkpoints/model.ckpt"}
    grids = {f"samples/epoch_{epoch:03d}.png" for epoch in range(15)}
    assert COMMON_FILES | own | grids <= files_in(folder)
    with Image.open(folder / "samples" / "epoch_014.png") as picture:
        assert picture.width == picture.height > 300


def test_fast_run_scores_as_expected(fast):
    folder, printed = fast
    summary = json.loads((folder / "summary.json").read_text())
    assert compare_with_expected(summary, RECIPE.expected["fast"]) == []
    assert "the scores are as expected" in printed
    assert "ms with one forward pass of the generator" in printed
    assert "next   torchloops run yielding" in printed


def test_metrics_have_one_row_an_epoch_and_one_column_an_optimizer(fast):
    folder, _ = fast
    metrics = pandas.read_csv(folder / "metrics.csv")
    assert list(metrics["epoch"]) == list(range(15))
    assert metrics[["train/loss_discriminator", "train/loss_generator"]].notna().all(axis=None)


def test_turns_alternate(fast):
    folder, _ = fast
    turns = pandas.read_csv(folder / "turns.csv")
    assert list(turns["forward_passes"]) == [1, 2, 1, 2]
    assert turns["steps"].nunique() == 1
    assert (turns["seconds"] > 0).all()


def test_the_saved_model_generates_the_last_grid(fast):
    folder, _ = fast
    model = ImageGAN.load_from_checkpoint(folder / "checkpoints" / "model.ckpt")
    noise = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model(noise)[0, 0]
    with Image.open(folder / "samples" / "epoch_014.png") as picture:
        assert picture.width > 91
        pixels = torch.tensor(numpy.asarray(picture.resize((91, 91), Image.Resampling.NEAREST)).astype("int64"))
    assert pixels[1:9, 1:9].tolist() == (255 * (1 - first)).round().int().tolist()


def test_the_table_of_turns_holds_medians_and_what_is_saved():
    turns = pandas.DataFrame(
        {
            "turn": [0, 0, 1, 1, 2, 2],
            "forward_passes": [1, 2] * 3,
            "steps": 10,
            "seconds": [0.02, 0.03, 0.02, 0.04, 0.03, 0.04],
        }
    )
    table = forward_pass_table(turns).set_index("forward passes")
    assert table.loc["1", "milliseconds a step"] == pytest.approx(2)
    assert table.loc["2", "milliseconds a step"] == pytest.approx(4)
    assert table.loc["saved", ["milliseconds a step", "lowest", "highest"]].tolist() == pytest.approx([1, 1, 2])
    assert table.loc["saved", "seconds in all"] == pytest.approx(0.04)
    assert forward_pass_table(turns.iloc[:0]) is None


def test_options():
    check_options(RECIPE)
