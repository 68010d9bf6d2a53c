"""KFoldLoop in KFoldLoop, over active learning, over Lightning's classes: what each level may see."""

import os
import signal
import threading
import warnings
from pathlib import Path

import pytest
import torch
from advanced.kfold_parts import Classifier, Data, Recorded, cross_validate, same_results, samples
from torch import nn
from torch.utils.data import TensorDataset

import torchloops
from torchloops import ActiveLearningDataModule, ActiveLearningLoop, Callback, KFoldDataModule, KFoldLoop, Trainer


def watched(tmp_path, data, **options):
    """Cross-validate ``data`` and note for every index asked the run, and whether it was to train."""
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                      enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    recorded = data if isinstance(data, Recorded) else data.source.train
    recorded.where = lambda: trainer.run_name
    return cross_validate(tmp_path, data=data, trainer=trainer, **options)


def asked_in(data, prefix):
    return {index for run, index in data.asked if run.startswith(prefix)}


def test_an_outer_test_fold_is_never_seen_inside(tmp_path):
    data = Recorded()
    outer, inner = KFoldLoop(4, splitter="stratified"), KFoldLoop(3, splitter="stratified")
    watched(tmp_path, data, loop=outer, inner=inner)
    for fold, split in enumerate(outer.splits.folds):
        inside = asked_in(data, f"fold_{fold}/")
        assert inside == set(split.train)
        assert not inside & set(split.test)
        scored = [index for run, index in data.asked if run == f"fold_{fold}"][-2 * len(split.test) :]
        assert set(scored) == set(split.test), "the outer loop scores on its held-out samples and on nothing else"
    assert len(outer.oof) == 60


def test_nested_results_have_an_outer_and_an_inner_fold(tmp_path):
    outer, inner = KFoldLoop(4, tmp_path / "out"), KFoldLoop(3, "inner")
    loop, _, module = cross_validate(tmp_path, loop=outer, inner=inner)
    assert loop.tables["folds"][["fold", "inner_fold"]].drop_duplicates().shape == (12, 2)
    oof = loop.tables["oof"]
    assert len(oof) == 4 * 45
    for fold, split in enumerate(loop.splits.folds):
        assert set(oof[oof["fold"] == fold]["sample_id"]) == set(split.train)
    assert (tmp_path / "out" / "fold_2" / "inner" / "fold_1" / "result.ckpt").is_file()
    assert (tmp_path / "out" / "inner_folds.csv").is_file()
    assert len(module.began) == 4 * (3 + 1), "each outer fold ends with a model of all its training samples"
    assert all(torch.equal(fit["weights"], module.began[0]["weights"]) for fit in module.began)


def test_an_inner_loop_does_not_touch_the_test_set(tmp_path):
    test = Recorded(20, seed=1)
    data = KFoldDataModule(samples(), test_dataset=test)
    cross_validate(tmp_path, data=data, loop=KFoldLoop(4), inner=KFoldLoop(3))
    assert len(test.asked) == 4 * 20


class Dropout(Classifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def study(data, **settings):
    return ActiveLearningDataModule(data, initial_num_labels=6, query_size=4, batch_size=8, **settings)


def test_active_learning_in_every_fold(tmp_path):
    data = Recorded()
    kfold = KFoldDataModule(study(data))
    loop, _, _ = watched(tmp_path, kfold, loop=KFoldLoop(3), inner=ActiveLearningLoop(max_rounds=3), module=Dropout())
    rounds, queries = loop.tables["rounds"], loop.tables["queries"]
    assert rounds.groupby("fold")["n_labelled"].apply(list).tolist() == [[6, 10, 14]] * 3
    assert rounds["test/accuracy"].notna().all(), "a study is tested on the samples that its fold holds out"
    assert len(loop.oof) == 60
    for fold, split in enumerate(loop.splits.folds):
        own = queries[queries["fold"] == fold]
        assert len(own) == 14
        assert set(own["sample_id"]) <= set(split.train)
        assert own["label"].tolist() == [data.targets[index] for index in own["sample_id"]]
        labelled = own[own["round"] < 0]["sample_id"]
        assert asked_in(data, f"fold_{fold}/round_0") <= set(split.test) | set(labelled)


def test_active_learning_data_given_as_it_is(tmp_path):
    data = study(samples())
    loop, trainer, _ = cross_validate(
        tmp_path, data=data, loop=KFoldLoop(3), inner=ActiveLearningLoop(max_rounds=2), module=Dropout()
    )
    assert loop.tables["rounds"]["fold"].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.n_labelled == 6, "the study that was given is left as it was"
    assert trainer.datamodule is data


def test_cross_validation_in_cross_validation_of_active_learning(tmp_path):
    middle = KFoldLoop(2)
    middle.connect(ActiveLearningLoop(max_rounds=2))
    loop = KFoldLoop(2)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                      enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    middle.fit_loop.connect(trainer.fit_loop)
    loop.connect(middle)
    trainer.fit_loop = loop
    trainer.fit(Dropout(), study(samples()))
    assert loop.tables["rounds"].groupby(["fold", "inner_fold"]).size().tolist() == [2] * 4
    assert set(loop.tables) == {"folds", "oof", "rounds", "queries"}


def test_folds_do_not_depend_on_those_before(tmp_path):
    whole, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3))
    alone, _, _ = cross_validate(tmp_path, loop=KFoldLoop(3, folds=[2]))
    names = whole.results[2].weights
    assert all(torch.equal(whole.results[2].weights[name], alone.results[0].weights[name]) for name in names)


# Lightning


def lightning_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl = pytest.importorskip("pytorch_lightning")
    from torch.utils.data import DataLoader, random_split

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_acc", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

        def test_step(self, batch, batch_idx):
            x, y = batch
            self.log("test_acc", (self(x).argmax(1) == y).float().mean())

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    class Points(pl.LightningDataModule):
        def __init__(self, batch_size=16):
            super().__init__()
            self.batch_size = batch_size

        def setup(self, stage):
            everything = samples(80)
            self.train_set, self.test_set = random_split(everything, [60, 20])

        def train_dataloader(self):
            return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

        def test_dataloader(self):
            return DataLoader(self.test_set, batch_size=self.batch_size)

    class Folds(Points):
        def setup_folds(self, num_folds):
            from sklearn.model_selection import KFold

            self.splits = list(KFold(num_folds).split(range(len(self.train_set))))

        def setup_fold_index(self, fold_index):
            from torch.utils.data import Subset

            train, held_out = self.splits[fold_index]
            self.train_fold, self.val_fold = Subset(self.train_set, train), Subset(self.train_set, held_out)

        def train_dataloader(self):
            return DataLoader(self.train_fold, batch_size=self.batch_size, shuffle=True)

        def val_dataloader(self):
            return DataLoader(self.val_fold, batch_size=self.batch_size)

    return Net, Points, Folds


def test_lightning_module_and_data_module_unmodified(tmp_path):
    Net, Points, _ = lightning_classes()
    data = Points()
    torch.manual_seed(0)
    loop = KFoldLoop(num_folds=5, export_path=tmp_path / "my_kfold", splitter="stratified")
    trainer = Trainer(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(Net(), data)
    assert len(loop.folds) == 5
    assert loop.folds["initial_weights"].nunique() == 1
    assert {"train_loss", "val_acc"} <= set(loop.folds)
    assert loop.oof["sample_id"].tolist() == list(range(60))
    assert loop.oof["target"].tolist() == [int(data.train_set[index][1]) for index in range(60)]
    assert set(loop.ensemble_scores) == {"ensemble/accuracy", "ensemble/log_loss"}
    assert loop.ensemble()(samples(4).tensors[0]).shape == (4, 3)
    assert Net.load_from_checkpoint(tmp_path / "my_kfold" / "fold_0" / "result.ckpt")


def test_lightnings_base_kfold_data_module(tmp_path):
    Net, _, Folds = lightning_classes()
    data = Folds()
    loop, _, _ = cross_validate(tmp_path, data=data, module=Net(), loop=KFoldLoop(4))
    assert loop.oof["sample_id"].tolist() == list(range(60))
    assert loop.oof["target"].tolist() == [int(data.train_set[index][1]) for index in range(60)]
    assert loop.splits is None


# in other processes


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    return cross_validate(tmp_path_factory.mktemp("sequential"), data=Data(), max_epochs=3)[0]


@pytest.mark.slow
def test_folds_in_parallel_equal_those_one_after_the_other(tmp_path, sequential):
    rows = []

    class Listener(Callback):
        def on_fold_end(self, trainer, module, row):
            rows.append(row["fold"])

    loop = KFoldLoop(3, tmp_path / "out", n_jobs=2)
    loop, trainer, module = cross_validate(tmp_path, data=Data(), loop=loop, max_epochs=3, callbacks=[Listener()])
    assert same_results(loop, sequential)
    assert loop.ensemble_scores == sequential.ensemble_scores
    assert rows == [0, 1, 2]
    assert module.began == [], "the fits took place in other processes"
    assert trainer.fit_loop.fit_loop.trainer is trainer
    nested, _, _ = cross_validate(tmp_path, loop=KFoldLoop(2, n_jobs=2), inner=KFoldLoop(2), max_epochs=1)
    other, _, _ = cross_validate(tmp_path, loop=KFoldLoop(2), inner=KFoldLoop(2), max_epochs=1)
    assert same_results(nested, other)
    assert nested.tables["oof"].equals(other.tables["oof"])


def test_what_cannot_be_sent_is_named(tmp_path):
    from torchloops.errors import ConfigurationError

    module = Classifier()
    module.lock = threading.Lock()
    with (
        pytest.warns(UserWarning, match="attributes that cannot be copied: lock"),
        pytest.raises(ConfigurationError, match="the module cannot be sent"),
    ):
        cross_validate(tmp_path, module=module, loop=KFoldLoop(3, n_jobs=2))
    assert not torch.is_inference_mode_enabled()


def test_threads_are_refused(tmp_path):
    import joblib

    from torchloops.errors import ConfigurationError

    with joblib.parallel_config(backend="threading"), pytest.raises(ConfigurationError, match="runs threads"):
        cross_validate(tmp_path, loop=KFoldLoop(3, n_jobs=2))


@pytest.mark.slow
def test_folds_on_a_local_ray_equal_those_one_after_the_other(tmp_path, sequential):
    pytest.importorskip("ray", reason="ray is not installed: pip install ray")
    import joblib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.util.joblib import register_ray

        found = (Path(__file__).parents[1], Path(torchloops.__file__).parents[1])  # the classes of this test, and ours
        path = {"PYTHONPATH": os.pathsep.join(map(str, found))}
        handler = signal.getsignal(signal.SIGTERM)  # ray.init sets one of its own for good
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": path})
        register_ray()
        try:
            with joblib.parallel_config(backend="ray", n_jobs=2):
                loop, _, _ = cross_validate(tmp_path, data=Data(), max_epochs=3)
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, handler)
    assert same_results(loop, sequential)


def test_tensor_data_survives_pickling_of_a_fold():
    import pickle

    data = KFoldDataModule(TensorDataset(torch.randn(6, 2), torch.arange(6) % 2), batch_size=2)
    loader = pickle.loads(pickle.dumps(data)).source.training_loader([0, 2, 4], torch.Generator())
    assert sum(len(batch[0]) for batch in loader) == 3
