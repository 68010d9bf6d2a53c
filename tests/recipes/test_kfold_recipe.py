"""The recipe of cross-validation."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from recipe_runs import COMMON_FILES, check_options, files_in, torchloops

from torchloops.cli import main
from torchloops.cli.recipes import find_recipe
from torchloops.report import compare_with_expected

RECIPE = find_recipe("kfold")
SHARED = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"


@pytest.fixture
def fast(fast_run: Callable[[str], tuple[Path, str]]) -> tuple[Path, str]:
    """The run folder of ``--fast``, and what it printed."""
    return fast_run("kfold")


def without_seconds(folder: Path) -> pandas.DataFrame:
    return pandas.read_csv(folder / "folds.csv").drop(columns="seconds")


def test_fast_run_leaves_everything_behind(fast):
    folder, _ = fast
    own = {
        "splits.json",
        "folds.csv",
        "oof_predictions.csv",
        "plots/accuracy_by_fold.png",
        "plots/confusion_matrix.png",
    }
    of_folds = {f"fold_{fold}/{name}" for fold in range(3) for name in ("metrics.csv", "result.ckpt")}
    assert COMMON_FILES | own | of_folds <= files_in(folder)


def test_fast_run_scores_as_expected(fast):
    folder, printed = fast
    summary = json.loads((folder / "summary.json").read_text())
    assert compare_with_expected(summary, RECIPE.expected["fast"]) == []
    assert "the scores are as expected" in printed


def test_the_screen_ends_with_the_table_the_files_and_what_to_type(fast):
    folder, printed = fast
    assert "fold 2: 5 epochs" in printed
    assert "ensemble" in printed
    assert f"report runs/kfold/{folder.name}/report.html" in printed
    assert "next   torchloops run kfold" in printed


def test_every_sample_is_predicted_once_and_folds_share_their_first_weights(fast):
    folder, _ = fast
    oof, folds = (pandas.read_csv(folder / name) for name in ("oof_predictions.csv", "folds.csv"))
    assert sorted(oof["sample_id"]) == list(range(1297))
    assert folds["initial_weights"].nunique() == 1
    by_fold = (oof["target"] == oof["prediction"]).groupby(oof["fold"]).mean()
    assert list(by_fold) == pytest.approx(list(folds["val/accuracy"]))


def test_the_summary_holds_the_table_and_the_ensemble(fast):
    folder, _ = fast
    summary = json.loads((folder / "summary.json").read_text())
    held_out = summary["folds"]["val/accuracy"]
    folds = pandas.read_csv(folder / "folds.csv")
    assert held_out["values"] == pytest.approx(list(folds["val/accuracy"]))
    assert held_out["nb_low"] < held_out["mean"] < held_out["nb_high"]
    assert 0 < summary["ensemble"]["test/accuracy"]["mean"] <= 1
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "Ensemble of the folds" in page


def test_metrics_have_one_row_an_epoch(fast):
    folder, _ = fast
    metrics = pandas.read_csv(folder / "metrics.csv")
    assert list(metrics["run"].unique()) == ["fold_0", "fold_1", "fold_2"]
    assert len(metrics) == 15
    assert metrics["train/loss"].notna().all()


def test_a_fold_can_be_loaded_and_scores_again(fast):
    from torchloops import ImageClassifier, Trainer
    from torchloops.shipped import load_dataset

    folder, _ = fast
    model = ImageClassifier.load_from_checkpoint(folder / "fold_1" / "result.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    [scores] = trainer.test(model, datamodule=load_dataset("digits"))
    folds = pandas.read_csv(folder / "folds.csv")
    assert float(scores["test/accuracy"]) == pytest.approx(folds["test/accuracy"][1])


def test_splits_of_a_run_give_the_same_scores_again_also_in_two_processes(fast):
    folder, _ = fast
    again = ["-c", str(folder / "config.yaml"), "--splits", str(folder / "splits.json"), "--n-jobs", "2", "-q"]
    torchloops("run", "kfold", *again, cwd=folder.parents[2])
    second = folder.with_name("002")
    assert json.loads((second / "splits.json").read_text()) == json.loads((folder / "splits.json").read_text())
    close = pandas.testing.assert_frame_equal
    close(without_seconds(second).drop(columns="threads"), without_seconds(folder).drop(columns="threads"), atol=0.01)


def test_splits_that_another_splitter_made_are_taken_as_they_are(tmp_path, monkeypatch, capsys):
    words = ["--max-epochs", "1", "-q", "--folds", "1"]
    made = [*words, "--splitter", "kfold", "--num-folds", "4", "--seed", "3"]
    torchloops("run", "kfold", *made, cwd=tmp_path)
    file = tmp_path / "runs" / "kfold" / "001" / "splits.json"
    torchloops("run", "kfold", *words, "--splits", str(file), cwd=tmp_path)
    assert file.with_name("splits.json").read_text() == (tmp_path / "runs/kfold/002/splits.json").read_text()
    monkeypatch.chdir(tmp_path)
    assert main(["run", "kfold", *words, "--splits", str(file), "--splitter", "stratified"]) == 1
    assert "its splits.json has splitter KFold (now StratifiedKFold)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs ../shared/data: photographs and weights")
def test_photographs_on_a_frozen_backbone(tmp_path):
    pytest.importorskip("timm")
    words = ["-c", "ants_bees", "--data-dir", str(SHARED), "--weights", str(WEIGHTS), "--num-folds", "2"]
    backbone = ["--backbone", "tf_efficientnet_lite0", "--pixel-mean", "0.5", "--pixel-std", "0.5"]
    printed = torchloops("run", "kfold", *words, *backbone, "--max-epochs", "1", cwd=tmp_path)
    assert "Warning" not in printed
    summary = json.loads((tmp_path / "runs" / "kfold" / "001" / "summary.json").read_text())
    assert summary["ensemble"]["test/accuracy"]["mean"] > 0.75


def test_options():
    check_options(RECIPE)
