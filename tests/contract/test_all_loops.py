"""The contract of every loop: what `check_loop` asks holds for each loop there is."""

from functools import partial

import pytest
import torch
from torch import nn

import torchloops
from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    EvaluationEpochLoop,
    EvaluationLoop,
    FitLoop,
    KFoldDataModule,
    KFoldLoop,
    Loop,
    ManualLoop,
    OptimizerLoop,
    OuterLoop,
    PredictionEpochLoop,
    PredictionLoop,
    TrainingBatchLoop,
    TrainingEpochLoop,
    ValidationGuidedLoop,
    YieldLoop,
)
from torchloops.testing import TinyClassifier, check_loop, random_dataset, random_loader


class FromScratch(Loop):
    """A fit that knows nothing of the built-in loops."""

    @property
    def done(self):
        return self.progress.current == self.trainer.max_epochs

    def advance(self):
        module, (optimizer,) = self.trainer.module, self.trainer.optimizers
        for batch_idx, batch in enumerate(self.trainer.train_dataloader):
            optimizer.zero_grad()
            module.training_step(batch, batch_idx).backward()
            optimizer.step()


class Manual(TinyClassifier):
    """Steps its optimizer itself."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Halves(TinyClassifier):
    """A backbone and a head, each with an optimizer and a yield of its own."""

    def training_step(self, batch, batch_idx):
        features = self.backbone(batch[0])
        yield nn.functional.cross_entropy(self.head(features.detach()), batch[1]), "head"
        yield nn.functional.cross_entropy(self.head(features), batch[1]), "backbone"

    def configure_optimizers(self):
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr=0.1) for name in ("backbone", "head")}


class Dropping(TinyClassifier):
    """Has dropout, for strategies that need it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.2), self.head)


def around(make, **settings):
    """A loop that goes around a FitLoop."""
    loop = make(**settings)
    loop.connect(FitLoop())
    return loop


def folds_of_rounds():
    loop = KFoldLoop(num_folds=2)
    loop.connect(around(ActiveLearningLoop, max_rounds=2))
    return loop


def study():
    return ActiveLearningDataModule(
        random_dataset(64), heuristic="bald", initial_num_labels=20, query_size=10, batch_size=8
    )


def images():
    return KFoldDataModule(random_dataset(48), batch_size=16)


GUIDED = {"guide_dataloader": random_loader(16, 8, seed=3)}
STUDY = {"make_module": Dropping, "make_data": study}


class TwoSeeds(OuterLoop):
    """Fits twice from the same weights, and keeps the better score."""

    saved = ("start", "scores")

    def start_over(self):
        self.scores = []

    @property
    def done(self):
        return len(self.scores) == 2

    def advance(self):
        with self.trainer.isolated(f"seed_{len(self.scores)}", start=self.start, seed=len(self.scores)) as run:
            run.once("fit", self.fit_loop.run)
            self.scores.append(run.once("score", lambda: self.trainer.evaluate("validate")))


LOOPS = {
    "FitLoop": (FitLoop, "fit_loop", {}),
    "TrainingEpochLoop": (TrainingEpochLoop, "epoch_loop", {}),
    "TrainingBatchLoop": (TrainingBatchLoop, "batch_loop", {}),
    "OptimizerLoop": (OptimizerLoop, "optimizer_loop", {}),
    "OptimizerLoop, accumulating": (
        OptimizerLoop,
        "optimizer_loop",
        {"trainer_arguments": {"accumulate_grad_batches": 3}},
    ),
    "ManualLoop": (ManualLoop, "manual_loop", {"make_module": Manual}),
    "EvaluationLoop": (EvaluationLoop, "val_loop", {}),
    "EvaluationLoop, validate": (EvaluationLoop, "validate_loop", {}),
    "EvaluationLoop, test": (partial(EvaluationLoop, "test"), "test_loop", {}),
    "EvaluationEpochLoop": (EvaluationEpochLoop, "validate_loop.epoch_loop", {}),
    "EvaluationEpochLoop, in a fit": (EvaluationEpochLoop, "fit_loop.epoch_loop.val_loop.epoch_loop", {}),
    "PredictionLoop": (PredictionLoop, "predict_loop", {}),
    "PredictionEpochLoop": (PredictionEpochLoop, "predict_loop.epoch_loop", {}),
    "ActiveLearningLoop": (partial(around, ActiveLearningLoop, max_rounds=2), "fit_loop", STUDY),
    "ActiveLearningLoop, warm": (partial(around, ActiveLearningLoop, should_reset_weights=False), "fit_loop", STUDY),
    "KFoldLoop": (partial(around, KFoldLoop, num_folds=2), "fit_loop", {"make_data": images}),
    "KFoldLoop, refitted": (partial(around, KFoldLoop, num_folds=2, refit=True), "fit_loop", {"make_data": images}),
    "KFoldLoop, new weights": (
        partial(around, KFoldLoop, num_folds=2, new_weights=True),
        "fit_loop",
        {"make_data": images},
    ),
    "ValidationGuidedLoop": (partial(ValidationGuidedLoop, guide_split=0.25), "epoch_loop", {}),
    "ValidationGuidedLoop, a guide of its own": (partial(ValidationGuidedLoop, **GUIDED), "epoch_loop", {}),
    "ValidationGuidedLoop, reweighting": (partial(ValidationGuidedLoop, scale="reweight"), "epoch_loop", {}),
    "YieldLoop": (YieldLoop, "optimizer_loop", {"make_module": Halves}),
    "KFoldLoop over ActiveLearningLoop": (folds_of_rounds, "fit_loop", STUDY),
    "OuterLoop, one of a user's": (partial(around, TwoSeeds), "fit_loop", {}),
    "a loop from scratch": (FromScratch, "fit_loop", {}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_contract(name):
    loop, slot, settings = LOOPS[name]
    check_loop(loop, slot, **settings)


def test_every_loop_has_a_row():
    public = {name for name in torchloops.__all__ if name.endswith("Loop") and name != "Loop"}
    assert public <= {name.partition(",")[0] for name in LOOPS}
