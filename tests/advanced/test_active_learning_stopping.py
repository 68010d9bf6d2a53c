"""Rules that end a study: each alone by hand, and in a loop that is cut and resumed."""

import math

import pytest
import torch
from torch.utils.data import TensorDataset

from torchloops import Callback, Trainer
from torchloops.advanced.active_learning import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    LabelBudget,
    LabellingMinutes,
    LabelRecord,
    LargestScoreBelow,
    Plateau,
    StudyProgress,
    TargetReached,
)
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier


def accuracies(*values):
    return StudyProgress([{"test/accuracy": value} for value in values], [])


def test_a_target():
    rule = TargetReached(0.9)
    assert rule(accuracies()) is None
    assert rule(accuracies(0.95, 0.89)) is None, "the last round counts"
    assert rule(accuracies(0.5, 0.9)) == "test/accuracy is 0.9, and 0.9 was wanted"
    losses = StudyProgress([{"val/loss": 0.3}, {"val/loss": 0.1}], [])
    assert TargetReached(0.2, "val/loss", "min")(losses)
    assert TargetReached(0.05, "val/loss", "min")(losses) is None
    with pytest.raises(ConfigurationError, match=r"monitor='val/acc'.*no round.*test/accuracy"):
        TargetReached(0.9, "val/acc")(accuracies(0.5))
    with pytest.raises(ConfigurationError, match="mode must be"):
        TargetReached(0.9, mode="up")


def test_a_plateau():
    rule = Plateau(rounds=2, min_delta=0.01)
    assert rule(accuracies(0.9, 0.9)) is None, "two rounds after the best are needed"
    assert rule(accuracies(0.5, 0.505, 0.509)) == "test/accuracy has gained less than 0.01 in 2 rounds"
    assert rule(accuracies(0.5, 0.505, 0.51)) is None
    assert rule(accuracies(0.5, 0.9, 0.5, 0.5))
    assert rule(accuracies(0.5, math.nan, 0.5, 0.5)), "a round without a test is left out"
    with pytest.raises(ConfigurationError, match="rounds must be 1"):
        Plateau(0)


def test_labels_and_minutes():
    labels = [LabelRecord(i, 0, i, "me", seconds=20.0) for i in range(6)]
    assert LabelBudget(7)(StudyProgress([], labels)) is None
    assert LabelBudget(6)(StudyProgress([], labels)) == "6 labels of 6"
    assert LabellingMinutes(2)(StudyProgress([], labels)) == "2.0 minutes of labelling, of 2"
    assert LabellingMinutes(2.1)(StudyProgress([], labels)) is None


def test_the_largest_score():
    rule = LargestScoreBelow(0.2)
    assert rule(StudyProgress([], [])) is None
    assert rule(StudyProgress([], [], 0.2)) is None
    assert rule(StudyProgress([], [], 0.19))


class Cut(Callback):
    def __init__(self, at):
        self.at = at

    def on_round_end(self, trainer, module, row):
        if row["round"] == self.at:
            raise KeyboardInterrupt


def study(folder, rules, at=None, ckpt_path=None, heuristic="entropy"):
    torch.manual_seed(0)
    inputs = torch.randn(40, 32)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, logger=False,
        callbacks=[] if at is None else [Cut(at)], checkpoint_every="0 seconds",
    )  # fmt: skip
    loop = ActiveLearningLoop(inference_iteration=2, max_rounds=8, label_epoch_frequency=1, stopping=rules)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    datamodule = ActiveLearningDataModule(
        data, heuristic, initial_num_labels=4, query_size=3, test_dataset=data, batch_size=4
    )
    trainer.fit(TinyClassifier(), datamodule=datamodule, ckpt_path=ckpt_path)
    return loop


@pytest.mark.parametrize(
    ("rule", "n_rounds"), [(LabelBudget(9), 3), (LargestScoreBelow(100.0), 1), (LargestScoreBelow(0.0), 8)]
)
def test_a_study_ends_and_goes_on_further(tmp_path, rule, n_rounds):
    loop = study(tmp_path / "whole", [rule])
    assert len(loop.rounds) == n_rounds
    assert (loop.stopped_by is None) == (n_rounds == 8)
    assert len(loop.queries) == 4 + 3 * (n_rounds - 1), "nobody is asked in vain"
    longer = study(tmp_path / "whole", [], ckpt_path="last")
    uncut = study(tmp_path / "uncut", [])
    for name in ("round", "n_labelled", "train/loss", "score_mean"):
        torch.testing.assert_close(list(longer.rounds[name]), list(uncut.rounds[name]), rtol=0, atol=0, equal_nan=True)
    assert list(longer.queries.sample_id) == list(uncut.queries.sample_id)


def test_a_study_that_is_cut_ends_where_the_whole_one_does(tmp_path):
    rules = [LabelBudget(13)]
    whole = study(tmp_path / "whole", rules)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "cut", rules, at=2)
    resumed = study(tmp_path / "cut", rules, ckpt_path="last")
    assert list(resumed.queries.sample_id) == list(whole.queries.sample_id)
    assert resumed.stopped_by == whole.stopped_by == "13 labels of 13"
