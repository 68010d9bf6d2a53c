"""Defects of Lightning's KFold example and of what was built on it: one test each."""

import pytest
import torch
from advanced.kfold_parts import Classifier, Data, cross_validate, same_results, samples, weights
from torch import nn
from torch.utils.data import TensorDataset

from torchloops import Callback, EarlyStopping, FitLoop, KFoldDataModule, KFoldLoop, ModelCheckpoint, Trainer
from torchloops.advanced.kfold import OptimisticScoreWarning


def test_optimizer_and_scheduler_are_fresh_in_every_fold(tmp_path):
    """Lightning #12409."""
    _, _, module = cross_validate(tmp_path, module=Classifier(scheduler=True))
    assert [(fit["state"], fit["lr"]) for fit in module.began] == [(0, 1e-2)] * 3


def test_every_fold_starts_from_the_same_weights(tmp_path):
    loop, _, module = cross_validate(tmp_path)
    first = module.began[0]["weights"]
    assert all(torch.equal(fit["weights"], first) for fit in module.began)
    assert loop.folds["initial_weights"].nunique() == 1
    assert torch.equal(weights(module), first), "the model must be left as it was found"


def test_every_fold_trains_as_many_epochs(tmp_path):
    """Lightning #11196: 5 folds of 5 epochs ran 5 + 1 + 1 + 1 + 1."""
    loop, _, module = cross_validate(tmp_path, loop=KFoldLoop(5), max_epochs=5)
    assert loop.folds["epochs"].tolist() == [5] * 5
    assert [(fit["epoch"], fit["step"]) for fit in module.began] == [(0, 0)] * 5


def test_max_steps_counts_in_every_fold(tmp_path):
    """Lightning #839."""
    loop, _, _ = cross_validate(tmp_path, max_epochs=-1, max_steps=3)
    assert loop.folds["steps"].tolist() == [3, 3, 3]


def test_early_stopping_starts_afresh_in_every_fold(tmp_path):
    """Lightning #839."""
    stopping = EarlyStopping("train/loss", patience=0, min_delta=1e9)
    loop, _, _ = cross_validate(tmp_path, max_epochs=9, callbacks=[stopping])
    assert loop.folds["epochs"].tolist() == [2, 2, 2]
    assert not loop.folds["optimistic"].any()


def test_every_fold_has_its_own_checkpoints(tmp_path):
    """Lightning #12300 and #12098: one folder and one best path for all folds."""
    found = []

    class Watcher(Callback):
        def fresh(self):
            return self

        def on_train_end(self, trainer, module):
            found.append(trainer.checkpoint_callback.best_model_path)

    checkpoint = ModelCheckpoint(monitor="val/loss")
    cross_validate(tmp_path, callbacks=[checkpoint, Watcher()], enable_checkpointing=True)
    assert [path.split("/")[-3:-1] for path in found] == [[f"fold_{k}", "checkpoints"] for k in range(3)]


def test_a_fit_loop_of_ones_own_can_be_connected(tmp_path):
    """Lightning #10393: ``fit_loop = FitLoop()`` crashed."""
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                      enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit_loop = FitLoop()
    loop, _, _ = cross_validate(tmp_path, trainer=trainer)
    assert len(loop.folds) == 3


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_resuming_in_a_fold_skips_none_and_starts_it_from_fresh_weights(tmp_path, fold):
    """The example went on with the next fold, from weights that had been trained."""

    class Saver(Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.run_name == f"fold_{fold}" and trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    whole, _, _ = cross_validate(tmp_path, callbacks=[Saver()])
    torch.manual_seed(123)
    other = Classifier()
    resumed, _, module = cross_validate(
        tmp_path, module=other, callbacks=[Saver()], fit={"ckpt_path": tmp_path / "cut.ckpt"}
    )
    assert len(module.began) == 3 - fold
    assert same_results(whole, resumed)


def test_folds_are_shuffled_and_stratified(tmp_path):
    targets = torch.arange(60) // 20
    loop, _, _ = cross_validate(tmp_path, data=TensorDataset(torch.randn(60, 4), targets))
    for split in loop.splits.folds:
        counts = torch.bincount(targets[split.test]).tolist()
        assert sum(counts) == 20
        assert max(counts) - min(counts) <= 1
    assert loop.splits[0].test != list(range(20))


def test_scores_are_put_together(tmp_path):
    loop, _, _ = cross_validate(tmp_path)
    table = loop.summary.set_index("metric")
    values = loop.folds["val/accuracy"]
    assert table.loc["val/accuracy", "mean"] == pytest.approx(values.mean())
    assert table.loc["val/accuracy", "std"] == pytest.approx(values.std())
    assert table.loc["val/accuracy", "nb_low"] < values.mean() < table.loc["val/accuracy", "nb_high"]


def test_out_of_fold_predictions_are_those_of_the_fold_that_held_the_sample_out(tmp_path):
    """Predictions with the wrong weights: pl_crossvalidate."""
    data = samples()
    loop, _, module = cross_validate(tmp_path, data=data)
    oof = loop.oof
    assert oof["sample_id"].tolist() == list(range(60))
    assert oof["target"].tolist() == data.tensors[1].tolist()
    for result in loop.results:
        module.load_state_dict(result.weights)
        own = oof[oof["fold"] == result.fold]
        with torch.no_grad():
            expected = module(data.tensors[0][own["sample_id"].tolist()]).softmax(1)
        torch.testing.assert_close(torch.tensor(own.filter(like="prob_").to_numpy()), expected)


def test_the_ensemble_averages_probabilities_not_their_logarithms():
    class Fixed(nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([logits]))

        def forward(self, inputs):
            return self.logits.expand(len(inputs), -1).log_softmax(1)

    from torchloops.advanced.kfold import FoldEnsemble

    ensemble = FoldEnsemble([Fixed([8.0, 0.0]), Fixed([0.0, 1.0])])
    expected = (torch.tensor([8.0, 0.0]).softmax(0) + torch.tensor([0.0, 1.0]).softmax(0)) / 2
    torch.testing.assert_close(ensemble(torch.zeros(2, 1)), expected.expand(2, 2))


def test_files_count_as_folds_do(tmp_path):
    loop, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").glob("fold_*")) == ["fold_0", "fold_1", "fold_2"]
    assert loop.folds["fold"].tolist() == [0, 1, 2]


def test_a_score_by_which_the_fold_was_stopped_is_called_optimistic(tmp_path):
    """nnU-Net #1206: the score of the checkpoint that was chosen on the same fold."""
    stopping = EarlyStopping("val/loss", patience=1)
    with pytest.warns(OptimisticScoreWarning, match="inner_split"):
        loop, _, _ = cross_validate(tmp_path, callbacks=[stopping])
    assert loop.folds["optimistic"].all()
    assert loop.summary["optimistic"].all()
    inner, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, inner_split=0.2), callbacks=[stopping])
    assert not inner.folds["optimistic"].any()


def test_a_second_fit_starts_over(tmp_path):
    loop, trainer, module = cross_validate(tmp_path)
    before = loop.oof
    trainer.fit(module, KFoldDataModule(samples()))
    assert loop.oof.equals(before)


def test_the_interval_is_the_corrected_one():
    from torchloops.advanced.kfold import corrected_interval

    mean, std, low, high = corrected_interval([0.8, 0.9, 0.85, 0.95, 0.75], test_over_train=0.25)
    assert (mean, std) == pytest.approx((0.85, 0.0790569), abs=1e-6)
    assert (high - low) / 2 == pytest.approx(2.7764451 * 0.0790569 * (1 / 5 + 1 / 4) ** 0.5, rel=1e-6)


def test_data_of_its_own_folder_is_not_needed(tmp_path):
    loop, trainer, _ = cross_validate(tmp_path, data=Data())
    assert trainer.datamodule.stages == ["fit"], "setting up again might split anew"
    assert len(loop.oof) == 60
