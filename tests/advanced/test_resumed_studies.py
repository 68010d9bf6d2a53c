"""Studies that are cut at every safe point and go on end as if nothing had happened: weights, tables, queries."""

import contextlib
import os
import signal

import pytest
import torch
from cutting import check_every_cut, same, state_of, trainer_in
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    DataModule,
    EarlyStopping,
    KFoldDataModule,
    KFoldLoop,
    LoopModule,
    ValidationGuidedLoop,
    YieldLoop,
)
from torchloops.advanced.active_learning import PoolScores
from torchloops.errors import CheckpointError, ConfigurationError, ResumeWarning
from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint


def samples(n=48, seed=0):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


class Noisy(Dataset):
    """Samples under random augmentation."""

    def __init__(self, n=48, seed=0):
        self.data = samples(n, seed)
        self.targets = self.data.tensors[1].tolist()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        return inputs + 0.1 * torch.randn(4), target


class Net(LoopModule):
    """A body with batch norm and dropout, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Halves(Net):
    """A step that yields, with an optimizer for each part."""

    def training_step(self, batch, batch_idx):
        features = self.body(batch[0])
        loss = nn.functional.cross_entropy(self.head(features.detach()), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        yield loss, "head"
        yield nn.functional.cross_entropy(self.head(features), batch[1]), "body"

    def configure_optimizers(self):
        return {name: torch.optim.Adam(getattr(self, name).parameters(), lr=1e-2) for name in ("body", "head")}


def guide_step(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


class Rows(Callback):
    """Keeps the rows of rounds and folds as hooks gave them."""

    def __init__(self):
        self.rows = []

    def on_round_end(self, trainer, module, row):
        self.rows.append(("round", {name: value for name, value in row.items() if "seconds" not in name}))

    def on_fold_end(self, trainer, module, row):
        self.rows.append(("fold", {name: value for name, value in row.items() if "seconds" not in name}))

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = list(state["rows"])


# fits


def fit(folder, checkpoint, module, data, place=None, **arguments):
    trainer = trainer_in(folder, **arguments)
    if place is not None:
        place(trainer)
    trainer.fit(module, data, ckpt_path=checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return trainer, {"weights": state_of(module), "metrics": metrics, "steps": trainer.global_step}


def loader(n=36, seed=0, noisy=False, **options):
    return DataLoader(Noisy(n, seed) if noisy else samples(n, seed), batch_size=6, shuffle=True, **options)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_yielding(tmp_path, accumulate, alone):
    class Sometimes(Halves):
        def training_step(self, batch, batch_idx):
            for index, pair in enumerate(super().training_step(batch, batch_idx)):
                if not alone or index == 0 or batch_idx % 2:
                    yield pair

    def study(folder, checkpoint):
        def place(trainer):
            trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())

        module = Sometimes()
        return fit(
            folder, checkpoint, module, loader(42, noisy=True), place, max_epochs=2, accumulate_grad_batches=accumulate
        )

    check_every_cut(study, tmp_path, expect=14)


GUIDES = {
    "one batch": {},
    "two batches": {"guide_batches": 2},
    "all batches": {"guide_batches": None},
    "every second step": {"every_n_steps": 2},
    "in train mode": {"guide_mode": "train"},
    "by history": {"scale": lambda loss, history: 1 / (loss + sum(history))},
    "reweight": {"scale": "reweight"},
    "reweight, every third step": {"scale": "reweight", "every_n_steps": 3, "guide_batches": 2},
}


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_guided(tmp_path, name, accumulate, given):
    def study(folder, checkpoint):
        guide = {"guide_dataloader": loader(15, 3, noisy=True)} if given else {"guide_split": 8}

        def place(trainer):
            trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(**guide, **GUIDES[name]))

        arguments = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
        data = loader(noisy=True)

        class Plain(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return fit(folder, checkpoint, Plain(), data, place, **arguments)

    check_every_cut(study, tmp_path, expect=10)


@pytest.mark.parametrize("scale", ["inverse", "reweight"])
def test_guided_with_workers(tmp_path, scale):
    def study(folder, checkpoint):
        def place(trainer):
            guide = loader(15, 3, noisy=True, num_workers=1)
            trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_dataloader=guide, scale=scale))

        class Plain(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return fit(folder, checkpoint, Plain(), loader(18, noisy=True, num_workers=1), place, max_epochs=2)

    check_every_cut(study, tmp_path, expect=6, step=2)


# studies of active learning


def active_data(dataset=None, **settings):
    settings = {"initial_num_labels": 8, "query_size": 4, "batch_size": 6, "val_split": 6, **settings}
    dataset = samples() if dataset is None else dataset
    return ActiveLearningDataModule(dataset, test_dataset=samples(12, 1), **settings)


def active(folder, checkpoint, loop=None, data=None, module=None, place=None, **arguments):
    module, loop, data = module or Net(), loop or ActiveLearningLoop(max_rounds=3), data or active_data()
    rows = Rows()
    trainer = trainer_in(folder, **{"max_epochs": 2, "callbacks": [rows], **arguments})
    if place is not None:
        place(trainer)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer, {
        "weights": state_of(module), "rounds": loop.rounds, "queries": loop.queries, "rows": rows.rows,
        "labelled": data.labelled_ids, "round": data.round, "random": torch.rand(1),
    }  # fmt: skip


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("heuristic", ["bald", "random"])
def test_active_learning(tmp_path, reset, heuristic):
    def study(folder, checkpoint):
        loop = ActiveLearningLoop(max_rounds=3, should_reset_weights=reset)
        return active(folder, checkpoint, loop, active_data(heuristic=heuristic))

    whole, places = check_every_cut(study, tmp_path, expect=20, step=1 if reset and heuristic == "bald" else 4)
    assert {"", "round_0", "round_1", "round_2"} == set(places)
    assert len(whole["queries"]) == 16


def test_active_learning_without_initial_labels_and_with_early_stopping(tmp_path):
    def study(folder, checkpoint):
        stopping = EarlyStopping("train/loss", patience=1, check_on_train_epoch_end=True)
        settings = {"initial_num_labels": None, "query_size": 8, "val_split": None, "eval_dataset": samples()}
        data = active_data(Noisy(), **settings)
        return active(folder, checkpoint, ActiveLearningLoop(budget=20), data, callbacks=[Rows(), stopping])

    check_every_cut(study, tmp_path, expect=20, step=2)


def test_a_cut_between_query_and_labels_does_not_score_again(tmp_path, monkeypatch):
    from torchloops.advanced.active_learning import querying

    scored = []

    def score_pool(*arguments, **options):
        scored.append(1)
        return real(*arguments, **options)

    real = querying.score_pool
    monkeypatch.setattr(querying, "score_pool", score_pool)
    torch.manual_seed(0)
    trainer, whole = active(tmp_path / "whole", None)
    states = [read_checkpoint(file)["loop_tree"]["state_dict"] for file in trainer.files]
    asked = [index for index, state in enumerate(states) if state["query"] is not None]
    given = [index for index in asked if len(states[index + 1]["rows"]) == len(states[index]["rows"])]
    assert len(asked) == len(given) == len(scored) == 2
    for index, left in ((asked[0], 1), (asked[0] + 1, 1), (asked[1], 0)):
        scored.clear()
        _, resumed = active(tmp_path / f"from_{index}", trainer.files[index])
        assert len(scored) == left
        assert all(same(resumed[key], value) for key, value in whole.items())
    assert len(states[asked[0] + 1]["data"]["labelled_map"]["records"]["label"]) == 12, "labels are saved at once"


def test_a_signal_while_the_pool_is_scored_ends_at_once_and_the_same_objects_go_on(tmp_path, monkeypatch):
    from torchloops.advanced.active_learning import querying

    calls = []

    def score_pool(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal should have interrupted here")
        return real(*arguments, **options)

    real = querying.score_pool
    torch.manual_seed(0)
    _, whole = active(tmp_path / "whole", None)
    monkeypatch.setattr(querying, "score_pool", score_pool)
    torch.manual_seed(0)
    module, data, loop, rows = Net(), active_data(), ActiveLearningLoop(max_rounds=3), Rows()
    trainer = trainer_in(tmp_path / "cut", max_epochs=2, callbacks=[rows])
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    with pytest.raises(SystemExit) as stop:
        trainer.fit(module, datamodule=data)
    assert stop.value.code == 128 + signal.SIGTERM
    assert data.n_labelled == 12
    data.label(PoolScores(data.pool_ids[:3], torch.zeros(3)))  # what the checkpoint does not know is forgotten
    trainer.fit(module, datamodule=data, ckpt_path="last")
    assert same(loop.rounds, whole["rounds"])
    assert same(loop.queries, whole["queries"])
    assert same(state_of(module), whole["weights"])
    assert same(rows.rows, whole["rows"])


# cross-validation


def folds(folder, checkpoint, loop=None, data=None, module=None, inner=None, place=None, **arguments):
    module, loop = module or Net(), loop or KFoldLoop(2)
    rows = Rows()
    trainer = trainer_in(folder, **{"max_epochs": 2, "callbacks": [rows], **arguments})
    if place is not None:
        place(trainer)
    if inner is not None:
        inner.connect(trainer.fit_loop)
    loop.connect(trainer.fit_loop if inner is None else inner)
    trainer.fit_loop = loop
    trainer.fit(module, data or KFoldDataModule(samples(30), batch_size=8, test_dataset=samples(12, 1)),
                ckpt_path=checkpoint)  # fmt: skip
    return trainer, {
        "weights": state_of(module), "folds": loop.folds, "summary": loop.summary, "oof": loop.oof,
        "tables": loop.tables, "members": [result.weights for result in loop.results],
        "ensemble": loop.ensemble_scores, "rows": rows.rows, "random": torch.rand(1),
    }  # fmt: skip


FOLDS = {
    "plain": {},
    "new weights": {"new_weights": True, "test_each_fold": True},
    "best": {"checkpoint": "best", "inner_split": 7, "monitor": "val/loss"},
    "refit": {"refit": True, "new_weights": True, "predict": False},
}


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("export", [False, True])
def test_cross_validation(tmp_path, name, export):
    def study(folder, checkpoint):
        loop = KFoldLoop(2, folder / "out" if export else None, **FOLDS[name])
        if export and checkpoint is not None:
            copy_results(tmp_path / "whole" / "out", folder / "out")
        return folds(folder, checkpoint, loop)

    _, places = check_every_cut(study, tmp_path, expect=16, step=1 if name == "best" and not export else 3)
    assert {"", "fold_0", "fold_1"} <= set(places)


def copy_results(of, to):
    """The folder of results as a later, killed run left it: with folds that the checkpoint does not know."""
    import shutil

    shutil.copytree(of, to)


class PlainHalves(Halves):
    def configure_optimizers(self):
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr=0.1) for name in ("body", "head")}


def guided_and_yielding(trainer):
    trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(guide_split=0.25, guide_step=guide_step))
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())


def test_guided_yielding_active_learning_in_every_fold(tmp_path):
    def study(folder, checkpoint):
        settings = {"heuristic": "entropy", "initial_num_labels": 9, "query_size": 5, "batch_size": 4}
        data = ActiveLearningDataModule(Noisy(32), eval_dataset=samples(32), **settings)
        inner = ActiveLearningLoop(max_rounds=2)
        arguments = {"max_epochs": 1, "accumulate_grad_batches": 2}
        return folds(folder, checkpoint, None, data, PlainHalves(), inner, guided_and_yielding, **arguments)

    whole, places = check_every_cut(study, tmp_path, expect=25)
    assert {"fold_0/round_0", "fold_0/round_1", "fold_1/round_1", "fold_1"} <= set(places)
    assert whole["tables"]["rounds"]["guide/scale/body"].notna().all()
    assert len(whole["tables"]["queries"]) == 28


def test_cross_validation_in_cross_validation(tmp_path):
    def study(folder, checkpoint):
        return folds(folder, checkpoint, KFoldLoop(2), inner=KFoldLoop(2, new_weights=True), max_epochs=1)

    _, places = check_every_cut(study, tmp_path, expect=20, step=2)
    assert {"fold_0/fold_1", "fold_1/final"} <= set(places)


# extending, and what must stay the same


def after(folder, study, *arguments, **settings):
    """The newest checkpoint of a study that ended."""
    trainer, _ = study(folder, None, *arguments, **settings)
    return trainer.files[-1]


def test_a_finished_study_is_extended_to_the_longer_one(tmp_path):
    for name, short, long in (
        ("rounds", {"max_rounds": 2}, {"max_rounds": 4}),
        ("budget", {"budget": 12}, {"budget": 20}),
    ):
        torch.manual_seed(0)
        path = after(tmp_path / f"short_{name}", active, ActiveLearningLoop(**short))
        torch.manual_seed(0)
        _, whole = active(tmp_path / f"whole_{name}", None, ActiveLearningLoop(**long))
        _, longer = active(tmp_path / f"long_{name}", path, ActiveLearningLoop(**long))
        assert all(same(longer[key], value) for key, value in whole.items())
        assert len(longer["rounds"]) == 4


def test_folds_are_added_to_a_finished_cross_validation(tmp_path):
    torch.manual_seed(0)
    path = after(tmp_path / "short", folds, KFoldLoop(3, folds=[0, 2]))
    torch.manual_seed(0)
    _, whole = folds(tmp_path / "whole", None, KFoldLoop(3))
    _, longer = folds(tmp_path / "long", path, KFoldLoop(3))
    del whole["rows"], whole["random"]  # fold 1 came last
    assert all(same(longer[key], value) for key, value in whole.items())


@pytest.mark.parametrize(
    ("loop", "data", "arguments", "words"),
    [
        ({"inference_iteration": 5}, {}, {}, "ActiveLearningLoop.inference_iteration was 20 and is 5"),
        ({"should_reset_weights": False}, {}, {}, "should_reset_weights was True and is False"),
        ({}, {}, {"max_epochs": 3}, "max_epochs was 2 and is 3"),
        ({}, {"seed": 1}, {}, "seed was 0 and is 1"),
        ({}, {"query_size": 5}, {}, "query_size was 4 and is 5"),
        ({}, {"heuristic": "entropy"}, {}, "heuristic was"),
        ({}, {"batch_size": 5}, {}, "batch_size was 6 and is 5"),
        ({}, {"dataset": samples(47)}, {}, "number of samples was 48 and is 47"),
        ({}, {"dataset": samples(48, 2)}, {}, "labels .hash. was"),
    ],
)
def test_a_study_with_other_settings_is_refused_by_name(tmp_path, loop, data, arguments, words):
    path = after(tmp_path / "whole", active)
    with pytest.raises(CheckpointError, match=words):
        active(tmp_path / "other", path, ActiveLearningLoop(max_rounds=4, **loop), active_data(**data), **arguments)


@pytest.mark.parametrize(
    ("loop", "data", "arguments", "words"),
    [
        ({"seed": 1}, None, {}, "KFoldLoop.seed was 0 and is 1"),
        ({"new_weights": True}, None, {}, "new_weights was False and is True"),
        ({"num_folds": 3}, None, {}, "num_folds was 2 and is 3"),
        ({"splitter": "kfold"}, None, {}, "splitter was None and is 'kfold'"),
        ({"inner_split": 3}, None, {}, "inner_split was None and is 3"),
        ({"folds": [1]}, None, {}, "inside fold 0"),
        ({}, None, {"max_epochs": 3}, "max_epochs was 2 and is 3"),
        ({}, KFoldDataModule(samples(30), batch_size=7), {}, "batch_size was 8 and is 7"),
        ({}, KFoldDataModule(samples(31), batch_size=8), {}, "number of samples was 30 and is 31"),
        ({}, KFoldDataModule(samples(30, 2), batch_size=8), {}, "labels .hash. was"),
    ],
)
def test_a_cross_validation_with_other_settings_is_refused_by_name(tmp_path, loop, data, arguments, words):
    trainer, _ = folds(tmp_path / "whole", None)
    with pytest.raises(CheckpointError, match=words):
        folds(tmp_path / "other", trainer.files[3], KFoldLoop(**{"num_folds": 2, **loop}), data, **arguments)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guide_split": 9}, "guide_split was 8 and is 9"),
        ({"every_n_steps": 2}, "every_n_steps was 1 and is 2"),
        ({"scale": "reweight"}, "scale was 'inverse' and is 'reweight'"),
    ],
)
def test_another_guidance_is_refused_by_name(tmp_path, settings, words):
    def study(folder, checkpoint, **own):
        def place(trainer):
            trainer.fit_loop.replace(epoch_loop=ValidationGuidedLoop(**{"guide_split": 8, **own}))

        class Plain(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return fit(folder, checkpoint, Plain(), loader(), place, max_epochs=1)

    trainer, _ = study(tmp_path / "whole", None)
    with pytest.raises(CheckpointError, match=words):
        study(tmp_path / "other", trainer.files[2], **settings)


def test_rounds_inside_folds_cannot_be_extended(tmp_path):
    def study(folder, checkpoint, rounds):
        return folds(folder, checkpoint, None, active_data(val_split=None), None, ActiveLearningLoop(max_rounds=rounds))

    trainer, _ = study(tmp_path / "whole", None, 1)
    with pytest.raises(CheckpointError, match="max_rounds was 1 and is 2"):
        study(tmp_path / "other", trainer.files[-1], 2)


# results on the disk


def test_checkpoints_leave_the_weights_of_finished_folds_to_the_folder_of_results(tmp_path):
    out = tmp_path / "out"
    trainer, _ = folds(tmp_path / "run", None, KFoldLoop(2, out))
    state = read_checkpoint(trainer.files[-1])["loop_tree"]["state_dict"]
    assert [(result["weights"], len(result["weights_hash"])) for result in state["results"]] == [({}, 16)] * 2
    with pytest.raises(CheckpointError, match="there are none in export_path, which was not given"):
        folds(tmp_path / "none", trainer.files[-1], KFoldLoop(2))
    (out / "fold_1" / "result.ckpt").rename(tmp_path / "aside")
    with pytest.raises(CheckpointError, match="weights of fold 1"):
        folds(tmp_path / "none", trainer.files[-1], KFoldLoop(2, out))
    (tmp_path / "aside").rename(out / "fold_1" / "result.ckpt")
    checkpoint = read_checkpoint(out / "fold_1" / "result.ckpt")
    checkpoint["state_dict"]["head.bias"][0] += 1
    write_checkpoint(checkpoint, out / "fold_1" / "result.ckpt")
    with pytest.raises(CheckpointError, match=r"weights of fold 1 in .* are others"):
        folds(tmp_path / "none", trainer.files[-1], KFoldLoop(2, out))


def test_folds_of_an_earlier_run_with_other_hyperparameters_are_refused_by_name(tmp_path):
    class Rated(Net):
        def __init__(self, rate):
            super().__init__()
            self.save_hyperparameters()

    torch.manual_seed(0)
    folds(tmp_path / "one", None, KFoldLoop(2, tmp_path / "out", folds=[0]), module=Rated(0.1))
    for rate, epochs, words in (
        (0.2, 2, "hyper-parameter rate was 0.1 and is 0.2"),
        (0.1, 3, "max_epochs was 2 and is 3"),
    ):
        torch.manual_seed(0)
        loop = KFoldLoop(2, tmp_path / "out", folds=[1])
        with pytest.raises(ConfigurationError, match=words):
            folds(tmp_path / "two", None, loop, module=Rated(rate), max_epochs=epochs)


# folds in other processes, and folds of the user's own


def progress_in(file):
    """How far each loop of the tree is in a checkpoint."""
    tree = read_checkpoint(file)["loop_tree"]
    return {name: state for name, state in tree.items() if name.endswith("progress")}


class Places(Callback):
    """Leaves a file with the number of each process that trains."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_start(self, trainer, module):
        (self.folder / f"trained_in_{os.getpid()}").touch()


def test_folds_in_other_processes_are_kept_as_they_end(tmp_path):
    data = KFoldDataModule(samples(30), batch_size=8, test_dataset=samples(12, 1))

    def study(folder, checkpoint, jobs=2):
        return folds(folder, checkpoint, KFoldLoop(3, n_jobs=jobs, threads=1), data, callbacks=[Places(folder)])

    torch.manual_seed(0)
    trainer, whole = study(tmp_path / "whole", None)
    states = [read_checkpoint(file)["loop_tree"]["state_dict"] for file in trainer.files]
    kept = [len(state["results"]) + len(state["arrived"]) for state in states]
    assert kept[0] == 0
    assert {1, 2, 3} <= set(kept)
    assert sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()) == [
        "last.ckpt", "last.previous.ckpt"
    ], "only the process that began the run keeps it"  # fmt: skip
    for jobs, index in (
        (2, kept.index(0)),
        (2, kept.index(1)),
        (1, kept.index(1)),
        (1, kept.index(2)),
        (2, kept.index(2)),
        (2, kept.index(3)),
    ):
        folder = tmp_path / f"from_{jobs}_{index}"
        (folder / "fold_1" / "job" / "checkpoints").mkdir(parents=True)  # of a worker that was killed with the run
        cut, resumed = study(folder, trainer.files[index], jobs)
        assert not list(folder.glob("fold_*/job"))
        if jobs == 2:
            assert progress_in(cut.files[-1]) == progress_in(trainer.files[-1])
            assert not (folder / f"trained_in_{os.getpid()}").exists(), "the last fold too runs in another process"
        assert [key for key, value in whole.items() if not same(resumed[key], value)] == []


@pytest.mark.parametrize(
    ("jobs", "threads", "words"), [(2, None, "2 threads of torch.* have 1 .n_jobs=2"), (2, 2, None)]
)
def test_folds_of_another_number_of_threads_are_warned_of(tmp_path, jobs, threads, words):
    data = KFoldDataModule(samples(30), batch_size=8, test_dataset=samples(12, 1))

    def study(folder, checkpoint, **options):
        torch.manual_seed(0)
        return folds(folder, checkpoint, KFoldLoop(3, threads=threads, **options), data, callbacks=[], max_epochs=1)

    try:
        torch.set_num_threads(2)
        trainer, _ = study(tmp_path / "whole", None)
        states = [read_checkpoint(file)["loop_tree"]["state_dict"] for file in trainer.files]
        cut = trainer.files[[len(state["results"]) for state in states].index(1)]
        with pytest.warns(ResumeWarning, match=words) if words else contextlib.nullcontext():
            study(tmp_path / "cut", cut, n_jobs=jobs)
    finally:
        torch.set_num_threads(1)


class OwnFolds(DataModule):
    """Makes its folds by chance, unseeded."""

    def __init__(self):
        self.data = samples(30)

    def setup_folds(self, num_folds):
        self.places = torch.randperm(30).chunk(num_folds)

    def setup_fold_index(self, fold_index):
        self.fold = fold_index

    def _loader(self, ids, **options):
        return DataLoader(Subset(self.data, ids), batch_size=5, **options)

    def train_dataloader(self):
        ids = [int(i) for fold, places in enumerate(self.places) if fold != self.fold for i in places]
        return self._loader(ids, shuffle=True)

    def val_dataloader(self):
        return self._loader(self.places[self.fold].tolist())


def test_folds_that_a_data_module_draws_by_chance_are_those_of_the_run(tmp_path):
    def study(folder, checkpoint):
        return folds(folder, checkpoint, KFoldLoop(2), OwnFolds(), max_epochs=1)

    check_every_cut(study, tmp_path, expect=10, step=2)


def test_other_folds_of_a_data_module_are_refused(tmp_path):
    class Other(OwnFolds):
        def setup_folds(self, num_folds):
            self.places = torch.arange(30).chunk(num_folds)

    trainer, _ = folds(tmp_path / "whole", None, KFoldLoop(2), OwnFolds(), max_epochs=1)
    with pytest.raises(CheckpointError, match=r"Fold 0 is not as it was .* samples"):
        folds(tmp_path / "other", trainer.files[2], KFoldLoop(2), Other(), max_epochs=1)
