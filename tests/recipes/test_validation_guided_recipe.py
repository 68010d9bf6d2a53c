"""The recipe of guided training on wrong labels."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
from recipe_runs import COMMON_FILES, check_options, files_in, torchloops

from torchloops.cli.recipes import find_recipe
from torchloops.report import compare_with_expected
from torchloops.shipped import load_dataset, load_file

RECIPE = find_recipe("validation_guided")
STRATEGIES = ["plain", "guide only", "inverse", "reweight"]


@pytest.fixture
def fast(fast_run: Callable[[str], tuple[Path, str]]) -> tuple[Path, str]:
    """The run folder of ``--fast``, and what it printed."""
    return fast_run("validation_guided")


def test_fast_run_leaves_everything_behind(fast):
    folder, _ = fast
    assert COMMON_FILES | {"plots/accuracy_vs_steps.png", "plots/guide.png"} <= files_in(folder)
    assert (folder / "report.html").read_text().count("data:image/png;base64") == 2


def test_fast_run_scores_as_expected(fast):
    folder, printed = fast
    summary = json.loads((folder / "summary.json").read_text())
    assert compare_with_expected(summary, RECIPE.expected["fast"]) == []
    assert "the scores are as expected" in printed
    assert "next   torchloops run validation_guided" in printed


def test_metrics_have_one_row_an_epoch_with_scale_and_norms(fast):
    folder, _ = fast
    metrics = pandas.read_csv(folder / "metrics.csv")
    assert list(metrics["strategy"].unique()) == STRATEGIES
    assert metrics.groupby("strategy")["epoch"].apply(list).map(lambda epochs: epochs == list(range(10))).all()
    inverse = metrics[metrics["strategy"] == "inverse"]
    assert inverse[["guide/scale", "guide/grad_norm", "guide/grad_norm_scaled"]].notna().all(axis=None)
    assert inverse["guide/scale"].is_monotonic_increasing
    assert metrics[metrics["strategy"] == "reweight"]["guide/share_weighted"].between(0, 1).all()
    assert metrics[metrics["strategy"] == "plain"]["guide/loss"].isna().all()


def test_labels_are_spoiled_as_told_and_the_guide_split_stays_clean():
    recipe = load_file(RECIPE.file)
    data = load_dataset("digits")
    noisy, guide = recipe.spoil_labels(data, 100, 0.4, seed=0)
    right = {tuple(image.flatten().tolist()): target for image, target in data.train_dataset}
    wrong = [int(label) != right[tuple(image.flatten().tolist())] for image, label in zip(*noisy.tensors, strict=True)]
    assert sum(wrong) == round(0.4 * 1197)
    assert all(int(t) == right[tuple(image.flatten().tolist())] for image, t in zip(*guide.tensors, strict=True))
    assert torch.bincount(guide.tensors[1]).tolist() == [10] * 10
    ids = [{tuple(image.flatten().tolist()) for image in part.tensors[0]} for part in (noisy, guide)]
    assert not ids[0] & ids[1]


def test_each_strategy_trains_on_what_it_says():
    recipe = load_file(RECIPE.file)
    data = load_dataset("digits")
    noisy, guide = recipe.spoil_labels(data, 100, 0.4, seed=0)
    sizes = {name: len(recipe.choose_data(data, name, noisy, guide, 0).train_dataset) for name in STRATEGIES}
    assert sizes == {"plain": 1297, "guide only": 1197, "inverse": 1197, "reweight": 1197}


def test_one_scale_runs_alone(fast):
    folder, _ = fast
    words = ["--fast", "--scale", "inverse", "--max-epochs", "2", "--optimizer", "adam", "--lr", "0.003"]
    printed = torchloops("run", "validation_guided", *words, cwd=folder.parents[2])
    assert "reweight, seed" not in printed
    assert "Adam divides every gradient by its recent size" in printed


def test_options():
    check_options(RECIPE)
