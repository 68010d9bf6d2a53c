"""The recipe through the real command, as a user types it."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import yaml
from recipe_runs import torchloops

from torchloops.cli.recipes import find_recipe
from torchloops.report import compare_with_expected

RECIPE = find_recipe("active_learning")


@pytest.fixture
def fast(fast_run: Callable[[str], tuple[Path, str]]) -> tuple[Path, str]:
    """The run folder of ``--fast``, and what it printed."""
    return fast_run("active_learning")


def without_seconds(folder: Path) -> pandas.DataFrame:
    """What must repeat: all columns of ``rounds.csv`` but the measured times."""
    rounds = pandas.read_csv(folder / "rounds.csv")
    return rounds.drop(columns=[name for name in rounds if name.startswith("seconds")])


def test_fast_run_leaves_everything_behind(fast):
    folder, _ = fast
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "command.txt",
        "env.json",
        "log.txt",
        "metrics.csv",
        "rounds.csv",
        "queries.csv",
        "summary.json",
        "report.html",
        "checkpoints/model.ckpt",
        "plots/accuracy_vs_labels.png",
        "plots/queried_samples.png",
    } <= names


def test_fast_run_scores_as_expected(fast):
    folder, printed = fast
    summary = json.loads((folder / "summary.json").read_text())
    assert compare_with_expected(summary, RECIPE.expected["fast"]) == []
    assert "the scores are as expected" in printed


def test_the_screen_ends_with_the_table_the_files_and_what_to_type(fast):
    folder, printed = fast
    assert "difference" in printed
    assert f"report runs/active_learning/{folder.name}/report.html" in printed
    assert "next   torchloops run active_learning" in printed


def test_strategies_start_from_the_same_labels_and_weights(fast):
    folder, _ = fast
    rounds = pandas.read_csv(folder / "rounds.csv")
    first = rounds[rounds["round"] == 0].set_index("strategy")
    assert first.loc["bald", "test/accuracy"] == first.loc["random", "test/accuracy"]
    assert first.loc["bald", "train/loss"] == first.loc["random", "train/loss"]
    queries = pandas.read_csv(folder / "queries.csv")
    initial = queries[queries["round"] == -1]
    ids = {name: list(rows["sample_id"]) for name, rows in initial.groupby("strategy")}
    assert ids["bald"] == ids["random"]
    assert sorted(initial[initial["strategy"] == "bald"]["label"]) == list(range(10))


def test_every_query_is_on_record_once(fast):
    folder, _ = fast
    rounds, queries = (pandas.read_csv(folder / name) for name in ("rounds.csv", "queries.csv"))
    for strategy, rows in queries.groupby("strategy"):
        assert rows["sample_id"].is_unique
        assert len(rows) == rounds[rounds["strategy"] == strategy]["n_labelled"].max()


def test_the_saved_model_gives_the_last_test_accuracy(fast):
    from torchloops import ImageClassifier, Trainer
    from torchloops.shipped import load_dataset

    folder, _ = fast
    model = ImageClassifier.load_from_checkpoint(folder / "checkpoints" / "model.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    [scores] = trainer.test(model, datamodule=load_dataset("digits"))
    rounds = pandas.read_csv(folder / "rounds.csv")
    last = rounds[rounds["strategy"] == "bald"]["test/accuracy"].iloc[-1]
    assert float(scores["test/accuracy"]) == pytest.approx(last)


def test_metrics_have_one_row_an_epoch(fast):
    folder, _ = fast
    metrics = pandas.read_csv(folder / "metrics.csv")
    rounds = pandas.read_csv(folder / "rounds.csv")
    assert len(metrics) == rounds["epochs"].sum()
    assert metrics["train/loss"].notna().all()
    assert metrics["test/accuracy"].notna().sum() == len(rounds)


def test_config_of_the_run_gives_the_same_run_again(fast):
    folder, _ = fast
    place = folder.parents[2]
    torchloops("run", "active_learning", "-c", str(folder / "config.yaml"), "-q", cwd=place)
    again = folder.with_name("002")
    pandas.testing.assert_frame_equal(without_seconds(again), without_seconds(folder))
    assert (again / "queries.csv").read_text().count("\n") == (folder / "queries.csv").read_text().count("\n")


def test_config_yaml_lists_every_option_with_its_default():
    signature = inspect.signature(RECIPE.load_main(), eval_str=True)
    defaults = {name: parameter.default for name, parameter in list(signature.parameters.items())[1:]}
    assert yaml.safe_load(RECIPE.configs["config"].read_text()) == defaults


def test_the_recipe_has_the_options_that_every_recipe_has():
    options = set(inspect.signature(RECIPE.load_main(), eval_str=True).parameters)
    assert {"seed", "accelerator", "devices", "max_epochs", "batch_size", "lr"} <= options


def test_a_missing_data_set_is_one_clear_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "torchloops", "run", "active_learning", "--dataset", "mnist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Error: MNIST was not found: expected data/MNIST/raw")
    assert "--download" in result.stderr
    assert "Traceback" not in result.stderr
