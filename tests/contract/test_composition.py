"""The loops of the library inside each other: each level does its own part, on its own data."""

import pytest
import torch
from test_all_loops import Halves

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, KFoldLoop, ValidationGuidedLoop, YieldLoop
from torchloops.testing import TinyClassifier, random_dataset


def study():
    return ActiveLearningDataModule(
        random_dataset(72), heuristic="entropy", initial_num_labels=16, query_size=8, batch_size=8
    )


@pytest.mark.parametrize("kind", ["plain", "guided", "yielding", "guided and yielding"])
def test_a_study_in_every_fold_trains_by_the_innermost_loop(make_trainer, kind):
    def guide_step(module, batch):
        return torch.nn.functional.cross_entropy(module(batch[0]), batch[1])

    trainer = make_trainer(max_epochs=1)
    if "yielding" in kind:
        trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    if "guided" in kind:
        trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_split=0.25, guide_step=guide_step))
    rounds, folds = ActiveLearningLoop(max_rounds=2), KFoldLoop(num_folds=3)
    rounds.connect(trainer.fit_loop)
    folds.connect(rounds)
    trainer.fit_loop = folds
    module = Halves() if "yielding" in kind else TinyClassifier()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, study())
    table = folds.tables["rounds"]
    assert table["fold"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["n_labelled"].tolist() == [16, 24] * 3
    assert len(folds.oof) == 72
    guided = [name for name in table if name.startswith("guide/scale")]
    assert bool(guided) is ("guided" in kind)
    assert all(table[name].notna().all() for name in guided)
    for result in folds.results:
        assert all(not torch.equal(result.weights[name], start[name]) for name in start)
