"""KFoldLoop: data of every kind, what it writes and takes up again, which weights it scores, what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from advanced.kfold_parts import Classifier, Data, Recorded, cross_validate, same_results, samples, weights
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from torchloops import (
    Callback,
    DataModule,
    ImageClassificationData,
    KFoldDataModule,
    KFoldLoop,
    LoopModule,
    ModelCheckpoint,
)  # fmt: skip
from torchloops.advanced.kfold import FoldEnsemble, UnusedValidationDataWarning
from torchloops.errors import ConfigurationError, DataError

# data


@pytest.mark.parametrize(
    "make",
    [
        lambda: KFoldDataModule(samples(), batch_size=16),
        lambda: samples(),
        lambda: DataLoader(samples(), 16, shuffle=True),
        lambda: Data(),
        lambda: KFoldDataModule(Data()),
    ],
    ids=["KFoldDataModule", "data set", "loader", "data module", "wrapped data module"],
)
def test_data_of_every_kind(tmp_path, make):
    loop, _, _ = cross_validate(tmp_path, data=make(), loop=KFoldLoop(num_folds=3, splitter="stratified"))
    assert loop.oof["sample_id"].tolist() == list(range(60))
    assert loop.folds[["n_train", "n_test"]].to_numpy().tolist() == [[40, 20]] * 3
    assert list(loop.oof.columns) == ["sample_id", "fold", "target", "prediction", "prob_0", "prob_1", "prob_2"]


def test_settings_of_the_loader_are_kept():
    def collate(items):
        return torch.utils.data.default_collate(items)

    original = DataLoader(samples(), 16, shuffle=True, collate_fn=collate, drop_last=True)
    source = KFoldDataModule(original).source
    loader = source.training_loader(range(40), torch.Generator())
    assert (loader.batch_size, loader.collate_fn, loader.drop_last, len(loader)) == (16, collate, True, 2)
    assert not source.evaluation_loader(range(40)).drop_last
    assert KFoldDataModule(original, batch_size=8).source.training_loader(range(40), torch.Generator()).batch_size == 8
    assert not KFoldDataModule(DataLoader(samples(), 16)).source.shuffle


def test_sampling_weights_are_cut_to_the_fold():
    sampler = WeightedRandomSampler(torch.arange(60).double(), 60)
    loader = KFoldDataModule(DataLoader(samples(), 8, sampler=sampler)).source.training_loader(
        [0, 5, 9], torch.Generator()
    )
    assert list(loader.sampler.weights) == [0, 5, 9]


def test_gathered_batches_are_those_of_a_subset():
    data, ids = samples(), [5, 3, 8, 1]
    loader = KFoldDataModule(data, batch_size=3, shuffle=False).source.training_loader(ids, torch.Generator())
    expected = list(DataLoader(Subset(data, ids), 3))
    for batch, other in zip(loader, expected, strict=True):
        assert type(batch) is type(other)
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    assert torch.equal(loader.dataset[1][0], data[3][0])


def test_held_out_images_have_evaluation_transforms(tmp_path):
    seen = {True: set(), False: set()}

    class Looker(Classifier):
        def forward(self, inputs):
            seen[self.training].add(inputs.abs().max().item() > 50)
            return self.net(inputs.flatten(1)[:, :4])

    data = ImageClassificationData.from_datasets(
        TensorDataset(torch.rand(30, 1, 2, 2), torch.arange(30) % 3),
        batch_size=8,
        train_transform=lambda image: image + 100,
    )
    loop, _, _ = cross_validate(tmp_path, data=data, module=Looker())
    assert seen == {True: {True}, False: {False}}
    assert loop.oof["target"].tolist() == [k % 3 for k in range(30)]


def test_validation_data_of_its_own_is_left_out_with_a_warning(tmp_path):
    with pytest.warns(UnusedValidationDataWarning, match="held out|holds out"):
        cross_validate(tmp_path, data=Data(validation=True))
    cross_validate(tmp_path, data=KFoldDataModule(Data(validation=True)))


def test_groups_stay_together(tmp_path):
    groups = np.arange(60) // 4
    loop, _, _ = cross_validate(tmp_path, data=KFoldDataModule(samples(), groups=groups))
    assert loop.splits.splitter == "StratifiedGroupKFold"
    assert loop.oof.groupby(groups[loop.oof["sample_id"]])["fold"].nunique().max() == 1


def test_targets_by_column_and_not_out_of_the_items(tmp_path):
    data = Recorded()
    data.__dict__["frame"] = pd.DataFrame({"species": data.targets})
    del data.targets
    kfold = KFoldDataModule(data, targets="species")
    assert len(kfold.read_targets()) == 60
    assert len({index for _, index in data.asked}) <= 2, "a look at whether reading them again gives the same"


class Regressor(LoopModule):
    def __init__(self, outputs=1):
        super().__init__()
        self.net = nn.Linear(4, outputs)

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0]), batch[1].reshape(len(batch[1]), -1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_numbers_are_predicted_too(tmp_path, outputs):
    inputs = torch.randn(60, 4)
    data = TensorDataset(inputs, inputs[:, 0] if outputs == 1 else inputs[:, :2])
    loop, _, _ = cross_validate(
        tmp_path, data=KFoldDataModule(data, test_dataset=data), module=Regressor(outputs), max_epochs=5
    )
    names = [""] if outputs == 1 else ["_0", "_1"]
    columns = [f"{kind}{name}" for kind in ("target", "prediction") for name in names]
    assert list(loop.oof.columns) == ["sample_id", "fold", *columns]
    assert loop.splits.splitter == "KFold"
    assert loop.ensemble_scores["ensemble/mse"] < 0.5
    assert loop.ensemble()(inputs).shape == (60, outputs)


def test_two_classes_by_one_logit(tmp_path):
    class Binary(Regressor):
        def training_step(self, batch, batch_idx):
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())

    inputs = torch.randn(60, 4)
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    loop, _, _ = cross_validate(tmp_path, data=data, module=Binary(), max_epochs=10)
    assert (loop.oof["prediction"] == loop.oof["target"]).mean() > 0.8
    assert np.allclose(loop.oof["prob_0"] + loop.oof["prob_1"], 1)
    assert loop.ensemble()(inputs).shape == (60, 2)


def test_a_way_to_predict_of_ones_own(tmp_path):
    loop = KFoldLoop(3, predict=lambda module, batch: module(batch[0]).softmax(1).flip(1))
    turned = cross_validate(tmp_path, loop=loop)[0].oof
    usual = cross_validate(tmp_path, loop=KFoldLoop(3))[0].oof
    assert np.allclose(turned[["prob_2", "prob_1", "prob_0"]], usual[["prob_0", "prob_1", "prob_2"]])
    assert cross_validate(tmp_path, loop=KFoldLoop(3, predict=False))[0].oof.empty


def test_outputs_that_are_no_rows_are_refused(tmp_path):
    class Odd(Classifier):
        def predict_step(self, batch, batch_idx):
            return self(batch[0])[:, :, None]

    with pytest.raises(ConfigurationError, match="predict=False"):
        cross_validate(tmp_path, module=Odd())


# Lightning's protocol


class Protocol(DataModule):
    """Lightning's example of a ``BaseKFoldDataModule``, as it stood in its repository."""

    shift = 0

    def setup(self, stage):
        self.train_dataset, self.test_dataset = samples(), samples(20, 1)

    def setup_folds(self, num_folds):
        from sklearn.model_selection import KFold

        self.num_folds = num_folds
        self.splits = list(KFold(num_folds).split(range(len(self.train_dataset))))

    def setup_fold_index(self, fold_index):
        train_indices, val_indices = self.splits[fold_index]
        self.train_fold = Subset(self.train_dataset, train_indices)
        self.val_fold = Subset(self.train_dataset, val_indices - self.shift * fold_index)

    def train_dataloader(self):
        return DataLoader(self.train_fold, 16)

    def val_dataloader(self):
        return DataLoader(self.val_fold, 16)

    def test_dataloader(self):
        return DataLoader(self.test_dataset, 16)


def test_a_data_module_that_makes_its_folds_itself(tmp_path):
    loop, _, _ = cross_validate(tmp_path, data=Protocol(), loop=KFoldLoop(4))
    assert loop.oof["fold"].tolist() == sorted(list(range(4)) * 15)
    assert loop.oof["sample_id"].tolist() == list(range(60))
    assert loop.ensemble_scores


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"shift": 5}, {}, "trains on sample"),
        ({}, {"splitter": "kfold"}, "makes its folds itself"),
        ({}, {"inner_split": 0.1}, "Leave inner_split out"),
    ],
)
def test_what_such_a_data_module_cannot_have(tmp_path, change, settings, words):
    data = Protocol()
    data.__dict__.update(change)
    with pytest.raises((ConfigurationError, DataError), match=words):
        cross_validate(tmp_path, data=data, loop=KFoldLoop(3, **settings))


def test_a_sample_predicted_twice_is_refused(tmp_path):
    class Twice(Protocol):
        def setup_folds(self, num_folds):
            self.splits = [(np.arange(20, 60), np.arange(20)), (np.r_[0:10, 30:60], np.arange(10, 30))]

    with pytest.raises(DataError, match="Sample 10 is predicted twice, by folds 0 and 1"):
        cross_validate(tmp_path, data=Twice(), loop=KFoldLoop(2))


# weights and checkpoints


def test_new_weights_in_every_fold(tmp_path):
    loop, _, module = cross_validate(tmp_path, loop=KFoldLoop(3, new_weights=True))
    assert loop.folds["initial_weights"].nunique() == 3
    again, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, new_weights=True))
    assert same_results(loop, again)
    assert module.began[0]["state"] == 0


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        return self.scale * inputs


def test_a_part_that_cannot_draw_weights_is_named(tmp_path):
    module = Classifier()
    module.net.append(Scale())
    with pytest.raises(ConfigurationError, match=r"net\.3 \(Scale\) owns parameters and has no reset_parameters"):
        cross_validate(tmp_path, module=module, loop=KFoldLoop(3, new_weights=True))
    module.reset_parameters = lambda: [part.reset_parameters() for part in module.net if isinstance(part, nn.Linear)]
    assert len(cross_validate(tmp_path, module=module, loop=KFoldLoop(3, new_weights=True))[0].folds) == 3


def test_best_by_an_inner_split(tmp_path):
    class Rising(Classifier):
        """Its value on validation data is best after the second epoch."""

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("watched", abs(self.current_epoch - 1))

    class Keeper(Callback):
        def fresh(self):
            return self

        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                after.append(weights(module))

    after = []

    loop = KFoldLoop(3, checkpoint="best", inner_split=0.25, monitor="watched")
    loop, _, module = cross_validate(tmp_path, loop=loop, module=Rising(), max_epochs=4, callbacks=[Keeper()])
    assert loop.folds["n_train"].tolist() == [30] * 3
    assert loop.folds["checkpoint"].tolist() == ["best watched on the inner split, epoch 1"] * 3
    assert "inner/val/loss" in loop.folds
    for result, expected in zip(loop.results, after, strict=True):
        module.load_state_dict(result.weights)
        assert torch.equal(weights(module), expected)


def test_what_is_best_may_be_said_by_a_model_checkpoint(tmp_path):
    loop = KFoldLoop(3, checkpoint="best", inner_split=0.25)
    checkpoint = ModelCheckpoint(monitor="val/loss")
    loop, _, _ = cross_validate(tmp_path, loop=loop, callbacks=[checkpoint], enable_checkpointing=True)
    assert loop.folds["checkpoint"].str.startswith("best val/loss").all()
    with pytest.raises(ConfigurationError, match="needs the value that says what is best"):
        cross_validate(tmp_path, loop=KFoldLoop(3, checkpoint="best", inner_split=0.25))


def test_best_on_the_scored_fold_is_refused():
    with pytest.raises(ConfigurationError, match="by the samples it is scored on"):
        KFoldLoop(5, checkpoint="best", monitor="val/loss")


def test_the_inner_split_is_never_the_held_out_part(tmp_path):
    data = Recorded()
    loop, _, _ = cross_validate(tmp_path, data=KFoldDataModule(data), loop=KFoldLoop(3, inner_split=0.2))
    part = KFoldDataModule(data)
    part.splits = loop.splits
    for fold in range(3):
        split = part.split(fold)
        study = part.training_data(split, 0, 0.2)
        assert not (set(study.train_ids) | set(study.val_ids)) & set(split.test)
        assert sorted(study.train_ids + study.val_ids) == split.train


class SharedLogger:
    """One of a tracker: all folds log to it."""

    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))

    def save(self):
        """Nothing."""

    def finalize(self, status):
        """Nothing."""


@pytest.mark.parametrize("inner_split", [0.2, None])
def test_a_shared_logger_has_the_held_out_score_apart_from_the_inner_split(tmp_path, inner_split):
    logger = SharedLogger()
    loop, _, _ = cross_validate(
        tmp_path, data=KFoldDataModule(samples(), batch_size=16), logger=logger,
        loop=KFoldLoop(3, inner_split=inner_split),
    )  # fmt: skip
    name = "val/loss" if inner_split is None else "heldout/val/loss"
    for fold, row in loop.folds.iterrows():
        last = [metrics for _, metrics in logger.calls if f"fold_{fold}/{name}" in metrics][-1]
        assert last[f"fold_{fold}/{name}"] == pytest.approx(row["val/loss"])
        inner = [metrics for _, metrics in logger.calls if f"fold_{fold}/val/loss" in metrics][-1]
        expected = row["val/loss"] if inner_split is None else row["inner/val/loss"]
        assert inner[f"fold_{fold}/val/loss"] == pytest.approx(expected)


# test set and ensemble


def test_the_test_set_is_touched_by_the_ensemble_alone_unless_asked(tmp_path):
    data = Recorded(40, seed=1)
    loop, _, _ = cross_validate(tmp_path, data=KFoldDataModule(samples(), test_dataset=data))
    assert len(data.asked) == 3 * 40
    assert set(loop.ensemble_scores) == {"ensemble/accuracy", "ensemble/log_loss"}
    assert "test/accuracy" not in loop.folds
    data.asked.clear()
    loop = KFoldLoop(3, test_each_fold=True, test_ensemble=None)
    loop, _, _ = cross_validate(tmp_path, data=KFoldDataModule(samples(), test_dataset=data), loop=loop)
    assert len(data.asked) == 3 * 40
    assert "test/accuracy" in loop.folds
    assert not loop.ensemble_scores


def test_ensembles(tmp_path):
    data = samples(40, 1)
    loop, _, _ = cross_validate(tmp_path, data=KFoldDataModule(samples(), test_dataset=data))
    inputs, targets = data.tensors
    soft, hard, averaged = (loop.ensemble(kind) for kind in ("soft", "hard", "weights"))
    with torch.no_grad():
        members = torch.stack([member(inputs).softmax(1) for member in soft.members])
        torch.testing.assert_close(soft(inputs), members.mean(0))
        votes = torch.stack([(members.argmax(2) == k).float().mean(0) for k in range(3)], dim=1)
        torch.testing.assert_close(hard(inputs), votes)
        accuracy = (soft(inputs).argmax(1) == targets).double().mean().item()
    assert loop.ensemble_scores["ensemble/accuracy"] == pytest.approx(accuracy)
    assert isinstance(soft, FoldEnsemble)
    assert not soft.training
    assert isinstance(averaged, Classifier)
    torch.testing.assert_close(
        averaged.net[0].weight, torch.stack([r.weights["net.0.weight"] for r in loop.results]).mean(0)
    )
    with pytest.raises(ConfigurationError, match='Did you mean "soft"'):
        loop.ensemble("sofd")


def test_refit_leaves_a_model_of_all_samples(tmp_path):
    data = Recorded()
    _, _, module = cross_validate(tmp_path, data=data, loop=KFoldLoop(3, refit=True))
    assert sorted(index for _, index in data.asked[-60:]) == list(range(60))
    assert not torch.equal(weights(module), module.began[0]["weights"])
    assert torch.equal(module.began[-1]["weights"], module.began[0]["weights"])


# folder


def test_files(tmp_path):
    loop, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, tmp_path / "out"), logger=True, data=Data())
    out = tmp_path / "out"
    assert {"splits.json", "folds.csv", "oof_predictions.csv", "summary.json"} <= {path.name for path in out.iterdir()}
    assert len(pd.read_csv(out / "fold_1" / "metrics.csv")) == 2, "one row an epoch, in the fold's own folder"
    pd.testing.assert_frame_equal(pd.read_csv(out / "oof_predictions.csv"), loop.oof, check_dtype=False)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["val/loss"]["n_folds"] == len(summary["metrics"]["val/loss"]["values"]) == 3
    assert summary["missing_folds"] == []
    again = Classifier.load_from_checkpoint(out / "fold_1" / "result.ckpt")
    assert torch.equal(again.net[0].weight, loop.results[1].weights["net.0.weight"])


def test_some_folds_now_and_the_missing_ones_later(tmp_path):
    whole, _, _ = cross_validate(tmp_path, data=Data())
    out = tmp_path / "out"
    first, _, _ = cross_validate(tmp_path, data=Data(), loop=KFoldLoop(3, out, folds=[0, 2]))
    assert (first.folds["fold"].tolist(), first.missing_folds, first.ensemble_scores) == ([0, 2], [1], {})
    assert json.loads((out / "summary.json").read_text())["missing_folds"] == [1]
    for again in (None, [1, 2]):
        with pytest.raises(ConfigurationError, match=r"folds=\[1\] to add the missing ones"):
            cross_validate(tmp_path, data=Data(), loop=KFoldLoop(3, out, folds=again))
    rest, _, _ = cross_validate(tmp_path, data=Data(), loop=KFoldLoop(3, out, folds=[1]))
    assert rest.missing_folds == []
    assert same_results(rest, whole)
    assert rest.ensemble_scores == whole.ensemble_scores


def test_splits_are_used_again_and_may_be_edited(tmp_path):
    out = tmp_path / "out"
    cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[0]))
    file = out / "splits.json"
    state = json.loads(file.read_text())
    sample = state["folds"][1]["test"].pop()
    state["folds"][2]["test"].append(sample)
    file.write_text(json.dumps(state))
    (out / "fold_0" / "result.ckpt").unlink()
    loop, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, out))
    assert loop.oof.set_index("sample_id")["fold"][sample] == 2
    assert sample in loop.splits[1].train
    state["folds"][1]["test"].append(sample)
    file.write_text(json.dumps(state))
    with pytest.raises(DataError, match=f"Sample {sample} is held out by folds 1 and 2"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out))
    file.write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out))


@pytest.mark.parametrize(
    ("settings", "data", "seed", "words"),
    [
        ({"seed": 1}, None, 0, r"seed 0 \(now 1\)"),
        ({"num_folds": 4}, None, 0, r"num_folds 3 \(now 4\)"),
        ({"splitter": "kfold"}, None, 0, "splitter StratifiedKFold"),
        ({}, samples(30), 0, r"n_samples 60 \(now 30\)"),
        ({}, None, 1, "another initial model"),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, settings, data, seed, words):
    out = tmp_path / "out"
    cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[0]))
    module = Classifier()
    if seed:
        with torch.no_grad():
            module.net[0].weight.zero_()
    loop = KFoldLoop(**{"num_folds": 3, "folds": [1], **settings}, export_path=out)
    with pytest.raises(ConfigurationError, match=words):
        cross_validate(tmp_path, data=data, module=module, loop=loop)


@pytest.mark.parametrize("made", [{"splitter": "kfold"}, {"seed": 3}, {"splitter": "repeated", "num_repeats": 2}])
def test_splits_that_are_there_are_taken_as_they_are(tmp_path, made):
    first, _, _ = cross_validate(tmp_path, loop=KFoldLoop(4, tmp_path / "first", **made), max_epochs=1)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tmp_path / "first" / "splits.json", out)
    again, _, _ = cross_validate(tmp_path, loop=KFoldLoop(export_path=out), max_epochs=1)
    assert again.splits == first.splits
    assert again.folds["repeat"].tolist() == first.folds["repeat"].tolist()
    assert (out / "splits.json").read_text() == (tmp_path / "first" / "splits.json").read_text()
    (out / "fold_0" / "result.ckpt").unlink()
    with pytest.raises(ConfigurationError, match=r"num_folds [48] \(now \d+\).*leave out splitter"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out, splitter=made.get("splitter")), max_epochs=1)


@pytest.mark.parametrize(("stray", "named"), [("fold_9", "fold_9"), ("fold_01", "fold_01"), ("fold_new", "fold_new")])
def test_a_folder_that_is_no_fold_of_the_run_is_named_and_refused(tmp_path, stray, named):
    out = tmp_path / "out"
    cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[0, 1]), max_epochs=1)
    shutil.copytree(out / "fold_1", out / stray)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=f"holds {named}, and this run has the folds 0 to 2"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[2]), max_epochs=1)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(out / stray)
    loop, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[2]), max_epochs=1)
    assert len(loop.oof) == 60


def test_a_result_in_the_folder_of_another_fold_is_refused(tmp_path):
    out = tmp_path / "out"
    cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[0]), max_epochs=1)
    shutil.copytree(out / "fold_0", out / "fold_1")
    with pytest.raises(ConfigurationError, match=r"fold_1.*is the result of fold 0"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[2]), max_epochs=1)


def test_results_without_splits_are_refused(tmp_path):
    out = tmp_path / "out"
    cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[0]))
    (out / "splits.json").unlink()
    with pytest.raises(ConfigurationError, match="holds results of folds but no splits"):
        cross_validate(tmp_path, loop=KFoldLoop(3, out, folds=[1]))


# refusals


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (Stream(), {}, "no sample ids"),
        (TensorDataset(torch.zeros(0, 4), torch.zeros(0).long()), {}, "empty"),
        (samples(), {"num_folds": 61, "splitter": "kfold"}, "61 folds need 61 samples"),
        (samples(), {"folds": [3]}, "must name folds from 0 to 2"),
        (samples(), {"folds": []}, "must name folds"),
        (DataLoader(samples(), batch_sampler=[[0, 1]]), {}, "cannot be cut to a part"),
        ([torch.zeros(2, 4)], {}, "DataLoader over a map-style data set"),
    ],
)
def test_refused(tmp_path, data, settings, words):
    with pytest.raises((ConfigurationError, DataError), match=words):
        cross_validate(tmp_path, data=data, loop=KFoldLoop(**{"num_folds": 3, **settings}))


def test_wrong_arguments_are_told_together():
    with pytest.raises(ConfigurationError) as error:
        KFoldLoop(1, splitter="strat", checkpoint="first", inner_split=1.5, mode="up", predict=True, threads=0)
    told = ("num_folds must be 2", "no splitter", "checkpoint is", "inner_split is", "mode is", "predict", "threads")
    for words in told:
        assert words in str(error.value)


def test_a_loop_that_trains_nothing_says_so(make_trainer):
    trainer = make_trainer()
    trainer.fit_loop = KFoldLoop(3)
    with pytest.raises(ConfigurationError, match=r"loop\.connect\(trainer\.fit_loop\)"):
        trainer.fit(Classifier(), samples())
    with pytest.raises(ConfigurationError, match="no ensemble before"):
        KFoldLoop(3).ensemble()


def test_repeated_folds(tmp_path):
    loop, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, splitter="repeated_stratified", num_repeats=2))
    assert loop.folds["repeat"].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(loop.oof) == 120
    assert loop.oof.groupby("repeat")["sample_id"].nunique().tolist() == [60, 60]


def test_hooks_after_each_fold_and_state_as_plain_data(tmp_path):
    rows = []

    class Watcher(Callback):
        def fresh(self):
            return self

        def on_fold_end(self, trainer, module, row):
            rows.append(row["fold"])
            trainer.save_checkpoint(tmp_path / "state.ckpt")

    loop, _, _ = cross_validate(tmp_path, callbacks=[Watcher()])
    assert rows == [0, 1, 2]
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)["loop_tree"]["state_dict"]
    assert [entry["row"]["fold"] for entry in state["results"]] == [0, 1, 2]
    other = KFoldLoop(3)
    other.on_load_checkpoint(state)
    assert same_results(loop, other)


# what a fold leaves behind in the module


def test_attributes_of_a_module_and_optimizers_it_keeps_start_anew(tmp_path):
    class Manual(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            self.schedule, self.losses = 1.0, []
            self.net.register_forward_pre_hook(lambda module, inputs: None)

        def training_step(self, batch, batch_idx):
            loss = self.schedule * nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.optimizer.zero_grad()
            self.manual_backward(loss)
            self.optimizer.step()
            self.schedule *= 0.9
            self.losses.append(loss * (1 + 0 * len(self.losses)))  # with its graph

        def on_train_start(self):
            pass

        def configure_optimizers(self):
            return None

    alone, *_ = cross_validate(tmp_path, module=Manual(), loop=KFoldLoop(3, folds=[2]))
    loop, _, module = cross_validate(tmp_path, module=Manual())
    assert all(torch.equal(v, loop.results[2].weights[name]) for name, v in alone.results[0].weights.items())
    assert module.schedule == 1.0
    assert len(module.losses) == 2 * 2, "what the last fold has written is there to be looked at"
    again, *_ = cross_validate(tmp_path, module=module)
    assert same_results(loop, again)
    assert len(module.losses) == 2 * 2, "and gone when the next fit begins"


def test_layers_built_in_setup_start_from_the_same_weights(tmp_path):
    class Built(Classifier):
        def setup(self, stage):
            if stage == "fit":
                self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    loop, *_ = cross_validate(tmp_path, module=Built())
    assert loop.folds["initial_weights"].nunique() == 1
