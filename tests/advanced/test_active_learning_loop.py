"""ActiveLearningLoop: when it ends, what is fresh in a round, what it records, and how it resumes."""

import copy

import pytest
import torch
from kfold_parts import Notes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops import Callback, EarlyStopping, Loop, LoopModule, Trainer
from torchloops.advanced.active_learning import ActiveLearningDataModule, ActiveLearningLoop
from torchloops.errors import ConfigurationError

COLUMNS = [
    "round", "n_labelled", "n_pool", "n_queried", "epochs", "train/loss", "test/accuracy", "outputs",
    "score_mean", "score_std", "seconds_train", "seconds_query", "seconds_label",
]  # fmt: skip
SECONDS = ["seconds_train", "seconds_query", "seconds_label"]


class Classifier(LoopModule):
    """An MLP with dropout that notes what happens to it."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.started_with, self.ended_with, self.optimizer_states, self.steps = (Notes() for _ in range(4))

    def forward(self, inputs):
        return self.net(inputs)

    def on_train_start(self):
        self.started_with.append(weights(self))
        self.optimizer_states.append(len(self.trainer.optimizers[0].state))

    def on_train_end(self):
        self.ended_with.append(weights(self))

    def training_step(self, batch, batch_idx):
        self.steps.append(batch_idx)
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


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def samples(n, seed=0):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


def make_data(**settings):
    settings = {"initial_num_labels": 10, "query_size": 4, "batch_size": 8, **settings}
    return ActiveLearningDataModule(samples(60), test_dataset=samples(40, seed=1), **settings)


def make_trainer(tmp_path, callbacks=(), **settings):
    settings = {"max_epochs": 3, "num_sanity_val_steps": 0, **settings}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), accelerator="cpu", **quiet, **settings)


@pytest.fixture
def study(tmp_path):
    """Runs a study and returns its loop, module, data and trainer."""

    def run(loop=None, data=None, module=None, callbacks=(), seed=0, **trainer_settings):
        torch.manual_seed(seed)
        module, data = module or Classifier(), data or make_data()
        loop = loop or ActiveLearningLoop()
        trainer = make_trainer(tmp_path, callbacks, **trainer_settings)
        loop.connect(trainer.fit_loop)
        trainer.fit_loop = loop
        trainer.fit(module, datamodule=data)
        return loop, module, data, trainer

    return run


# when it ends


def test_the_pages_demo(study, tmp_path):
    loop, module, _, trainer = study(
        ActiveLearningLoop(label_epoch_frequency=1),
        make_data(initial_num_labels=5, val_split=4, query_size=1, heuristic=None),
    )
    assert loop.rounds["n_labelled"].tolist() == [5, 6, 7]
    assert loop.rounds["epochs"].tolist() == [1, 1, 1]
    assert module(torch.randn(2, 4)).shape == (2, 3)
    trainer.save_checkpoint(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size > 0


@pytest.mark.parametrize(
    ("settings", "trainer_settings", "rounds", "epochs"),
    [
        ({}, {"max_epochs": 3}, 3, 1),
        ({"label_epoch_frequency": 2}, {"max_epochs": 3}, 3, 2),
        ({"max_rounds": 4}, {"max_epochs": 3}, 4, 3),
        ({"max_rounds": 4, "label_epoch_frequency": 2}, {"max_epochs": 9}, 4, 2),
        ({"budget": 18}, {"max_epochs": 3}, 3, 3),
        ({"max_rounds": 2, "budget": 18}, {"max_epochs": 1}, 2, 1),
    ],
)
def test_rounds_and_epochs_follow_the_documented_table(study, settings, trainer_settings, rounds, epochs):
    loop, *_ = study(ActiveLearningLoop(**settings), **trainer_settings)
    assert len(loop.rounds) == rounds
    assert set(loop.rounds["epochs"]) == {epochs}


def test_max_steps_hold_in_every_round(study):
    _, module, *_ = study(ActiveLearningLoop(max_rounds=3), max_epochs=None, max_steps=5)
    assert len(module.steps) == 15


def test_the_budget_counts_all_labels_and_cuts_the_last_query(study):
    loop, _, data, _ = study(ActiveLearningLoop(budget=17), max_epochs=1)
    assert loop.rounds["n_labelled"].tolist() == [10, 14, 17]
    assert loop.rounds["n_queried"].tolist() == [4, 3, 0]
    assert data.n_labelled == len(loop.queries) == 17


def test_an_empty_pool_ends_it_after_a_round_on_everything(study):
    loop, *_ = study(ActiveLearningLoop(max_rounds=9), make_data(query_size=30), max_epochs=1)
    assert loop.rounds["n_labelled"].tolist() == [10, 40, 60]
    assert loop.rounds["n_pool"].tolist() == [50, 20, 0]


def test_the_last_round_asks_for_nothing(study):
    loop, _, data, _ = study(ActiveLearningLoop(max_rounds=3), max_epochs=1)
    assert loop.rounds["n_queried"].tolist() == [4, 4, 0]
    assert loop.rounds["n_labelled"].iloc[-1] == data.n_labelled


def test_without_initial_labels_the_first_query_is_random_and_nothing_is_trained_before(study):
    loop, module, *_ = study(ActiveLearningLoop(max_rounds=2), make_data(initial_num_labels=None), max_epochs=1)
    assert loop.rounds["n_labelled"].tolist() == [0, 4]
    assert loop.rounds["epochs"].tolist() == [0, 1]
    assert loop.rounds["test/accuracy"].notna().all()
    assert len(module.started_with) == 1
    assert loop.queries["prediction"].isna().all()


# what is fresh in a round


def test_every_round_starts_from_the_first_weights_with_a_fresh_optimizer(study):
    _, module, *_ = study(ActiveLearningLoop(max_rounds=3), max_epochs=2)
    assert len(module.started_with) == 3
    assert all(torch.equal(start, module.started_with[0]) for start in module.started_with)
    assert module.optimizer_states == [0, 0, 0]


def test_weights_may_go_on_from_round_to_round_but_the_optimizer_is_fresh(study):
    _, module, *_ = study(ActiveLearningLoop(max_rounds=3, should_reset_weights=False), max_epochs=2)
    assert torch.equal(module.started_with[1], module.ended_with[0])
    assert torch.equal(module.started_with[2], module.ended_with[1])
    assert module.optimizer_states == [0, 0, 0]


def test_the_model_that_is_left_is_that_of_the_last_round(study):
    loop, module, data, _ = study(ActiveLearningLoop(max_rounds=3), max_epochs=2)
    assert torch.equal(weights(module), module.ended_with[-1])
    inputs, targets = data.test_dataset.tensors
    accuracy = (module.eval()(inputs).argmax(1) == targets).float().mean()
    assert loop.rounds["test/accuracy"].iloc[-1] == pytest.approx(accuracy.item())


def test_early_stopping_in_one_round_does_not_stop_the_next(study):
    stopping = EarlyStopping(monitor="val/loss", patience=1, min_delta=10.0)
    loop, *_ = study(ActiveLearningLoop(max_rounds=3), make_data(val_split=5), callbacks=[stopping], max_epochs=20)
    assert loop.rounds["epochs"].tolist() == [2, 2, 2]


def test_learning_rates_start_anew(study):
    class Rates(Callback):
        seen: list[float] = []  # noqa: RUF012 - shared by the copies that rounds get

        def on_train_start(self, trainer, module):
            Rates.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    study(ActiveLearningLoop(max_rounds=3), callbacks=[Rates()], max_epochs=2)
    assert Rates.seen == [1e-2] * 3


def test_validation_and_test_see_no_dropout(study):
    class Modes(Classifier):
        seen: set[bool] = set()  # noqa: RUF012

        def validation_step(self, batch, batch_idx):
            self.seen.add(self.net[2].training)
            super().validation_step(batch, batch_idx)

        def test_step(self, batch, batch_idx):
            self.seen.add(self.net[2].training)
            super().test_step(batch, batch_idx)

    _, module, *_ = study(ActiveLearningLoop(max_rounds=3), make_data(val_split=5), Modes())
    assert module.seen == {False}
    assert module.training
    assert all(part.training for part in module.modules())


# what it records


def test_rounds_are_a_table_with_the_documented_columns(study):
    loop, *_ = study(ActiveLearningLoop(max_rounds=3), make_data(val_split=5))
    table = loop.rounds
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert "val/loss" in table.columns[len(COLUMNS) :]
    assert table["round"].tolist() == [0, 1, 2]
    assert (table["n_labelled"] + table["n_pool"] == 55).all()
    assert table[["train/loss", "test/accuracy"]].notna().all(axis=None)
    assert table["score_mean"].notna().tolist() == [True, True, False]
    assert (table["score_std"].iloc[:2] > 0).all()
    assert (table["seconds_train"] > 0).all()
    assert (table["seconds_query"].iloc[:2] > 0).all()


def test_queries_hold_every_label_with_its_origin(study):
    loop, _, data, _ = study(ActiveLearningLoop(max_rounds=3))
    table = loop.queries
    assert list(table.columns) == [
        "round", "rank", "sample_id", "score", "prediction", "label", "annotator", "seconds",
    ]  # fmt: skip
    assert table["sample_id"].tolist() == data.labelled_ids
    assert table["round"].tolist() == [-1] * 10 + [0] * 4 + [1] * 4
    assert table["annotator"].tolist() == ["initial"] * 10 + ["truth"] * 8
    assert table["rank"].tolist() == [*range(10), *range(4), *range(4)]
    truth = data.labelled.tensors[1]
    assert table["label"].tolist() == [int(truth[i]) for i in table["sample_id"]]
    asked = table[table["round"] >= 0]
    assert asked["prediction"].isin([0, 1, 2]).all()
    for _, query in asked.groupby("round"):
        assert query["score"].is_monotonic_decreasing
    assert (asked["score"] >= loop.rounds["score_mean"].iloc[0] * 0).all()


def test_tables_are_empty_but_whole_before_a_run():
    loop = ActiveLearningLoop()
    assert list(loop.rounds.columns) == COLUMNS
    assert len(loop.rounds) == len(loop.queries) == 0


def test_callbacks_and_the_module_hear_of_every_round(study):
    class Listener(Callback):
        def __init__(self):
            self.rounds = []

        def on_round_end(self, trainer, module, row):
            self.rounds.append((row["round"], row["n_labelled"], trainer.run_name))

    listener = Listener()
    study(ActiveLearningLoop(max_rounds=3), callbacks=[listener])
    assert listener.rounds == [(0, 10, ""), (1, 14, ""), (2, 18, "")]


# seeds


def without_seconds(loop):
    queries = loop.queries.drop(columns="seconds")
    return loop.rounds.drop(columns=SECONDS).to_csv(), queries.to_csv()


def test_the_same_seed_gives_the_same_study(study):
    one, module, *_ = study(ActiveLearningLoop(max_rounds=3))
    same, module_same, *_ = study(ActiveLearningLoop(max_rounds=3))
    other, *_ = study(ActiveLearningLoop(max_rounds=3), make_data(seed=5))
    assert without_seconds(one) == without_seconds(same)
    assert torch.equal(weights(module), weights(module_same))
    assert without_seconds(one)[1] != without_seconds(other)[1]


def test_strategies_are_paired_same_start_and_same_first_round(study):
    tables = {
        name: study(ActiveLearningLoop(max_rounds=3), make_data(heuristic=name))[0]
        for name in ("bald", "margin", "random")
    }
    first = {name: without_seconds(loop)[1].splitlines()[:11] for name, loop in tables.items()}
    assert first["bald"] == first["margin"] == first["random"]
    scores = {name: loop.rounds.loc[0, "test/accuracy"] for name, loop in tables.items()}
    assert scores["bald"] == scores["margin"] == scores["random"]
    asked = {name: tuple(loop.queries["sample_id"][10:]) for name, loop in tables.items()}
    assert len(set(asked.values())) == 3


def test_a_query_draws_nothing_from_the_generators_that_training_uses(study):
    """With the same labels, the second round trains alike whatever strategy chose them."""
    state = {}

    class States(Callback):
        def on_train_start(self, trainer, module):
            state.setdefault(trainer.datamodule.heuristic.name, []).append(torch.get_rng_state())

    for name in ("bald", "random"):
        study(ActiveLearningLoop(max_rounds=3), make_data(heuristic=name), callbacks=[States()])
    assert all(torch.equal(one, other) for one, other in zip(state["BALD"], state["Random"], strict=True))


# state


class SaveAt(Callback):
    """Saves a checkpoint at the end of one round."""

    def __init__(self, path, index):
        self.path, self.index = path, index

    def on_round_end(self, trainer, module, row):
        if row["round"] == self.index:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("reset", [True, False])
def test_a_study_resumed_after_a_round_ends_like_the_uninterrupted_one(study, tmp_path, index, reset):
    path = tmp_path / "round.ckpt"

    def make_loop():
        return ActiveLearningLoop(max_rounds=4, should_reset_weights=reset)

    whole, module, data, _ = study(make_loop(), callbacks=[SaveAt(path, index)])
    torch.manual_seed(77)
    loop, other, resumed = make_loop(), Classifier(), make_data()
    trainer = make_trainer(tmp_path)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(other, datamodule=resumed, ckpt_path=path)
    assert without_seconds(loop) == without_seconds(whole)
    assert resumed.labelled_ids == data.labelled_ids
    assert torch.equal(weights(other), weights(module))


def test_a_checkpoint_from_inside_a_round_goes_on_inside_it(study, tmp_path):
    path = tmp_path / "inside.ckpt"

    class SaveInside(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.run_name == "round_1" and trainer.current_epoch == 1 and batch_idx == 0:
                trainer.save_checkpoint(path)

    whole, first, *_ = study(ActiveLearningLoop(max_rounds=3), callbacks=[SaveInside()])
    loop, module = ActiveLearningLoop(max_rounds=3), Classifier()
    trainer = make_trainer(tmp_path)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, datamodule=make_data(), ckpt_path=path)
    assert loop.rounds["n_labelled"].tolist() == [10, 14, 18]
    assert loop.rounds["epochs"].tolist() == [3, 3, 3]
    assert len(module.started_with) == 2
    assert without_seconds(loop) == without_seconds(whole)
    assert torch.equal(weights(module), weights(first))


def test_a_second_fit_goes_on_with_the_labels_and_reset_starts_over(study, tmp_path):
    loop, module, data, trainer = study(ActiveLearningLoop(max_rounds=2))
    trainer.fit(module, datamodule=data)
    assert loop.rounds["n_labelled"].tolist() == [14, 18]
    assert len(loop.queries) == 18
    data.reset()
    trainer.fit(module, datamodule=data)
    assert loop.rounds["n_labelled"].tolist() == [10, 14]


# what it runs with


def test_any_loop_may_train_a_round(tmp_path):
    class Counting(Loop):
        done = False
        labels: list[int] = []  # noqa: RUF012

        def advance(self):
            self.labels.append(sum(len(y) for _, y in self.trainer.train_dataloader))
            raise StopIteration

    trainer = make_trainer(tmp_path)
    loop = ActiveLearningLoop(max_rounds=3)
    loop.connect(Counting())
    trainer.fit_loop = loop
    trainer.fit(Classifier(), datamodule=make_data())
    assert Counting.labels == [10, 14, 18]


def test_it_runs_inside_another_loop(tmp_path):
    class Twice(Loop):
        def __init__(self, study):
            super().__init__()
            self.study, self.tables, self.names = study, [], []

        @property
        def done(self):
            return len(self.tables) == 2

        def on_run_start(self):
            self.start = self.trainer.snapshot()

        def advance(self):
            self.trainer.datamodule.reset()
            with self.trainer.isolated(f"fold_{len(self.tables)}", start=self.start, seed=3) as run:
                self.study.run()
                self.names.append(run.name)
            self.tables.append(without_seconds(self.study))

    trainer = make_trainer(tmp_path)
    study = ActiveLearningLoop(max_rounds=3)
    study.connect(trainer.fit_loop)
    outer = Twice(study)
    trainer.fit_loop = outer
    torch.manual_seed(0)
    trainer.fit(Classifier(), datamodule=make_data())
    assert outer.tables[0] == outer.tables[1]
    assert outer.names == ["fold_0", "fold_1"]
    assert len(study.rounds) == 3


def test_a_lightning_module_and_data_module_work_as_they_are(study):
    lightning = pytest.importorskip("pytorch_lightning")

    class Lightning(lightning.LightningModule):
        __init__, forward, configure_optimizers = (
            Classifier.__init__,
            Classifier.forward,
            Classifier.configure_optimizers,
        )
        training_step, test_step = Classifier.training_step, Classifier.test_step

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(samples(60), batch_size=8)

        def test_dataloader(self):
            return DataLoader(samples(40, seed=1), batch_size=8)

    module = copy_init(Lightning)
    data = ActiveLearningDataModule(Data(), initial_num_labels=10, query_size=4)
    loop, *_ = study(ActiveLearningLoop(max_rounds=3), data, module)
    assert loop.rounds["n_labelled"].tolist() == [10, 14, 18]
    assert loop.rounds["test/accuracy"].notna().all()


def copy_init(cls):
    module = cls.__new__(cls)
    super(cls, module).__init__()
    plain = Classifier()
    module.net, module.steps = copy.deepcopy(plain.net), Notes()
    return module


def test_scores_are_finite_under_mixed_precision(study):
    loop, *_ = study(ActiveLearningLoop(max_rounds=2), precision="bf16-mixed", max_epochs=1)
    assert (loop.queries["score"].dropna() >= 0).all()
    assert loop.rounds["score_std"].iloc[0] > 0


@pytest.mark.parametrize("name", ["entropy", "margin", "certainty", "random"])
def test_a_model_without_dropout_does_for_strategies_of_one_answer(study, name):
    loop, *_ = study(ActiveLearningLoop(max_rounds=2), make_data(heuristic=name), Classifier(dropout=0.0))
    assert len(loop.queries) == 14


# errors


def test_a_model_without_dropout_is_refused_before_anything_is_trained(study):
    module = Classifier(dropout=0.0)
    with pytest.raises(ConfigurationError, match=r"BALD measures .* p = \[0.0\]"):
        study(module=module)
    assert module.steps == []


def test_other_data_is_a_clear_error(tmp_path):
    trainer = make_trainer(tmp_path)
    loop = ActiveLearningLoop()
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    with pytest.raises(ConfigurationError, match="needs an ActiveLearningDataModule, got NoneType"):
        trainer.fit(Classifier(), DataLoader(samples(10)))


def test_a_loop_that_was_not_connected_is_a_clear_error(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit_loop = ActiveLearningLoop()
    with pytest.raises(ConfigurationError, match=r"loop.connect\(trainer.fit_loop\)"):
        trainer.fit(Classifier(), datamodule=make_data())


@pytest.mark.parametrize("name", ["label_epoch_frequency", "inference_iteration", "max_rounds", "budget"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be 1 or more, got 0"):
        ActiveLearningLoop(**{name: 0})
