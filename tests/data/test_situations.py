"""One table: {plain fit, KFold, active learning, guided, KFold over active learning} x what data and a module can be.

What is right is computed here by plain PyTorch and numpy, from the weights that a fold or a round ended with.
"""

import contextlib
import copy
import json
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from situations import (
    ACTIVE,
    BINARY,
    FOLDS,
    GUIDED,
    KFOLD,
    MASK,
    NAMES,
    NESTED,
    NOTES,
    NUMBERS,
    ORDER,
    OUTER,
    PLAIN,
    ROUNDS,
    SEEN,
    SITUATIONS,
    TOKENS,
    Answering,
    Autoencoder,
    Backwards,
    Balanced,
    Binned,
    Dense,
    Examined,
    Given,
    Halving,
    HalvingNet,
    Items,
    KeepRounds,
    Keyed,
    Loaded,
    MadeThere,
    Masked,
    Members,
    MultilabelStratified,
    N,
    Net,
    Prebuilt,
    Probit,
    Scheduled,
    Situation,
    Splitting,
    StageByStage,
    TwoKeys,
    X,
    Y,
    do_nothing,
    forget,
    ids_of,
    mixed,
    names_loss,
    noisy,
    probability_loss,
    share_loss,
    square_loss,
    tensors,
)
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from torchloops import (
    ActiveLearningDataModule,
    ActiveLearningLoop,
    Callback,
    KFoldDataModule,
    KFoldLoop,
    ValidationGuidedLoop,
)
from torchloops.advanced.active_learning import LabelledMap
from torchloops.callbacks.callback import HOOKS
from torchloops.data import RandomViewWarning, UnscoredOutputsWarning
from torchloops.errors import ConfigurationError, DataError, TorchloopsError


@pytest.fixture(autouse=True)
def nothing_has_happened():
    forget()


@pytest.fixture
def fit(make_trainer):
    """Runs a fit in one of the ways and returns ``(loop, trainer)``."""

    def run(way, module, data, loop=None, inner=None, guided=None, epochs=2, callbacks=(), **settings):
        settings = {"max_epochs": epochs, "num_sanity_val_steps": 0, **settings}
        trainer = make_trainer(callbacks=[KeepRounds(), *callbacks], **settings)
        loops = {
            PLAIN: (), KFOLD: (KFoldLoop,), GUIDED: (), ACTIVE: (ActiveLearningLoop,),
            NESTED: (KFoldLoop, ActiveLearningLoop),
        }[way]  # fmt: skip
        for cls in reversed(loops):
            defaults = {"num_folds": FOLDS} if cls is KFoldLoop else {"max_rounds": 3, "inference_iteration": 1}
            given = inner if way == NESTED and cls is ActiveLearningLoop else loop
            own = cls(**{**defaults, **(given or {})})
            own.connect(trainer.fit_loop)
            trainer.fit_loop = own
        if way == GUIDED:
            guide = ValidationGuidedLoop(guide_batches=None, **{"guide_split": 12, **(guided or {})})
            trainer.fit_loop.replace(epoch_loop=guide)
        if isinstance(data, DataLoader):
            trainer.fit(module, data)
        else:
            trainer.fit(module, datamodule=data)
        return (guide if way == GUIDED else trainer.fit_loop), trainer

    return run


# what is compared


def same_labels(found, expected):
    """Labels on record, a number or list each, and those that are right."""
    return [as_plain(one) for one in found] == [as_plain(one) for one in expected]


def as_plain(label, names=None):
    if names is not None and isinstance(label, str):
        return names.index(label)
    if isinstance(label, list | tuple | np.ndarray) and len(label) > 1:
        return [float(value) for value in label]
    label = label[0] if isinstance(label, list | tuple | np.ndarray) else label
    return float(label)


def as_class(label, names=None):
    value = as_plain(label, names)
    return int(np.argmax(value)) if isinstance(value, list) else int(value)


def check_training(situation, run, ids, epochs, training=True):
    """The module got these samples once an epoch, each with its label."""
    if situation.seen is None:
        return
    got = [situation.seen(seen.batch) for seen in SEEN if seen.run == run and seen.training == training]
    found = [sample for part, _ in got for sample in part]
    labels = [label for _, part in got for label in part]
    assert sorted(found) == sorted(list(ids) * epochs)
    assert labels == [situation.labels[sample] for sample in found]


def check_shares(situation, ids, share):
    """Classes have their share of ``ids``."""
    if situation.classes is None:
        return
    counts = Counter(situation.classes)
    assert Counter(situation.classes[i] for i in ids) == {name: count // share for name, count in counts.items()}


def check_oof(situation, loop):
    """Out-of-fold targets, probabilities and predictions of every fold from the fold's weights."""
    oof = loop.oof
    assert sorted(oof["sample_id"]) == list(range(N))
    for result in loop.results:
        part = oof[oof["fold"] == result.fold]
        ids = part["sample_id"].tolist()
        check_rows(situation, part, ids, situation.draws(result.weights, ids).mean(0))
        if situation.members == 1:
            assert result.row["val/loss"] == pytest.approx(situation.loss(result.weights, ids), abs=1e-5)


def check_rows(situation, part, ids, expected):
    """Rows of the out-of-fold table."""
    several = expected.shape[1] > 1
    if situation.outputs == "numbers":
        assert not [name for name in part.columns if name.startswith("prob_")]
        names = [f"prediction_{k}" for k in range(expected.shape[1])] if several else ["prediction"]
        assert np.allclose(part[names].to_numpy(), expected.numpy(), atol=1e-5)
    else:
        names = [f"prob_{k}" for k in range(expected.shape[1])]
        assert [name for name in part.columns if name.startswith("prob_")] == names
        assert np.allclose(part[names].to_numpy(), expected.numpy(), atol=1e-5)
    if situation.classes is not None:
        assert [as_class(value, situation.names) for value in part["target"]] == [situation.classes[i] for i in ids]
        assert [as_class(value, situation.names) for value in part["prediction"]] == expected.argmax(1).tolist()
    else:
        labels = np.asarray([situation.labels[i] for i in ids])
        columns = [name for name in part.columns if name.startswith("target")]
        assert columns == ([f"target_{k}" for k in range(labels.shape[1])] if labels.ndim > 1 else ["target"])
        assert np.allclose(part[columns].to_numpy().reshape(labels.shape), labels, atol=1e-6)
        if situation.outputs.startswith("multilabel"):
            predicted = part[[f"prediction_{k}" for k in range(labels.shape[1])]].to_numpy()
            assert (predicted == (expected > 0.5).numpy()).all()


def check_queries(situation, queries, run, pool, per_query):
    """Labels on record, and what every round has asked for, from the weights of that round."""
    if situation.classes is None:
        assert same_labels(queries["label"], [situation.labels[i] for i in queries["sample_id"]])
    else:  # one-hot labels are on record as they are, or as an index
        found = [as_class(label, situation.names) for label in queries["label"]]
        assert found == [situation.classes[i] for i in queries["sample_id"]]
    if situation.names is not None:
        assert set(queries["label"]) <= set(situation.names)
    initial = queries[queries["round"] < 0]["sample_id"].tolist()
    left = sorted(set(pool) - set(initial))
    for index in range(int(queries["round"].max()) + 1):
        asked = queries[queries["round"] == index]
        ids = asked["sample_id"].tolist()
        assert len(ids) == per_query
        assert set(ids) <= set(left)
        if situation.score is not None:
            draws = situation.draws(ROUNDS[run, index], left)
            order = situation.score(draws).argsort(descending=True)[:per_query].tolist()
            assert ids == [left[place] for place in order]
            if situation.names is not None and "classes" not in situation.settings:
                assert asked["prediction"].isna().all(), "which output stands for which name is not known"
            elif situation.classes is not None:
                predicted = draws.mean(0).argmax(1)[order].tolist()
                assert [as_class(value, situation.names) for value in asked["prediction"]] == predicted
        left = sorted(set(left) - set(ids))


# the ways


def plain_fit(situation, fit):
    fit(PLAIN, situation.module(), situation.datamodule())
    check_training(situation, "", range(N), epochs=2)


def folds(situation, fit):
    splitter = "kfold" if situation.classes is None else "stratified"
    data = KFoldDataModule(situation.raw(), batch_size=16, **situation.settings)
    loop, trainer = fit(KFOLD, situation.module(), data, {"splitter": splitter, **situation.loop})
    for fold, split in enumerate(loop.splits.folds):
        check_training(situation, f"fold_{fold}", split.train, epochs=2)
        check_shares(situation, split.test, share=FOLDS)
    check_oof(situation, loop)
    if situation.prepare is None:
        check_ensemble(situation, loop, trainer)


def check_ensemble(situation, loop, trainer):
    """The ensemble's answers to a loader are the mean of those of the folds' modules, by hand."""
    options = {} if situation.collate_fn is None or situation.seen is None else {"collate_fn": situation.collate_fn}
    data = situation.settings.get("eval_dataset", situation.data())
    answers = torch.cat(trainer.predict(loop.ensemble("soft"), DataLoader(data, 16, **options)))
    expected = torch.stack([situation.draws(result.weights, range(N)).mean(0) for result in loop.results]).mean(0)
    assert answers.reshape(expected.shape).allclose(expected, atol=1e-5)


def rounds(situation, fit):
    data = ActiveLearningDataModule(
        situation.datamodule(), situation.heuristic, initial_num_labels=12, query_size=4, batch_size=16,
        **situation.settings,
    )  # fmt: skip
    loop, _ = fit(ACTIVE, situation.module(), data, situation.loop)
    queries = loop.queries
    assert loop.rounds["n_labelled"].tolist() == [12, 16, 20]
    check_shares(situation, queries["sample_id"][:12], share=N // 12)
    check_queries(situation, queries, "", range(N), per_query=4)
    for index, count in enumerate([12, 16, 20]):
        check_training(situation, f"round_{index}", queries["sample_id"][:count], epochs=2)


def guided(situation, fit):
    settings = {name: value for name, value in situation.settings.items() if name == "target_key"}
    loop, _ = fit(GUIDED, situation.module(), situation.datamodule(), guided=settings)
    guide = loop.guide_indices
    check_shares(situation, guide, share=N // 12)
    rest = sorted(set(range(N)) - set(guide))
    check_training(situation, "", rest, epochs=2)
    check_training(situation, "", guide, epochs=2 * 2, training=False)


def folds_of_rounds(situation, fit):
    data = ActiveLearningDataModule(
        situation.datamodule(), situation.heuristic, initial_num_labels=6, query_size=4, batch_size=16,
        **situation.settings,
    )  # fmt: skip
    splitter = "kfold" if situation.classes is None else "stratified"
    outer = {"num_folds": 2, "splitter": splitter, **situation.loop}
    loop, _ = fit(NESTED, situation.module(), data, outer, {"max_rounds": 2, **situation.loop})
    queries = loop.tables["queries"]
    for fold, split in enumerate(loop.splits.folds):
        check_shares(situation, split.test, share=2)
        own = queries[queries["fold"] == fold].reset_index(drop=True)
        check_shares(situation, own["sample_id"][:6], share=N // 6)
        check_queries(situation, own, f"fold_{fold}", split.train, per_query=4)
        check_training(situation, f"fold_{fold}/round_1", own["sample_id"], epochs=2)
    check_oof(situation, loop)


CHECKS = {PLAIN: plain_fit, KFOLD: folds, ACTIVE: rounds, GUIDED: guided, NESTED: folds_of_rounds}
TABLE = [pytest.param(way, one, id=f"{way}-{one.name}") for one in SITUATIONS for way in CHECKS if way in one.ways]


@pytest.mark.parametrize(("way", "situation"), TABLE)
def test_what_reaches_the_module_and_what_is_on_record_are_right(way, situation, fit):
    warns = contextlib.nullcontext()
    if situation.warning is not None and way in OUTER:
        warns = pytest.warns(situation.warning)
    with warns:
        CHECKS[way](situation, fit)


# the same data in a loop of its own: what reached the module, and what the loader was told


def wrapped(way, data, settings=None, heuristic="entropy", **study):
    """Data as the loop of this way takes it."""
    if way == KFOLD:
        return KFoldDataModule(data, **(settings or {}))
    if way in (ACTIVE, NESTED):
        study = {"initial_num_labels": 12, "query_size": 4, **study}
        return ActiveLearningDataModule(data, heuristic, **study, **(settings or {}))
    return data


def runs_of(way, trainer_loop):
    """``(run, ids)`` of the trainings of a loop whose samples are known beforehand."""
    if way == KFOLD:
        return [(f"fold_{split.fold}", list(split.train)) for split in trainer_loop.splits.folds]
    if way == ACTIVE:
        queries = trainer_loop.queries["sample_id"].tolist()
        return [(f"round_{index}", queries[:count]) for index, count in enumerate(trainer_loop.rounds["n_labelled"])]
    if way == NESTED:
        queries, found = trainer_loop.tables["queries"], []
        for fold, index in trainer_loop.tables["rounds"][["fold", "round"]].to_numpy().tolist():
            own = queries[(queries["fold"] == fold) & (queries["round"] < index)]
            found.append((f"fold_{int(fold)}/round_{int(index)}", own["sample_id"].tolist()))
        return found
    return [("", sorted(set(range(N)) - set(trainer_loop.guide_indices)))]


def refusal_of(action):
    """What the ConfigurationError or DataError says that an action ends with; None where it ends well.

    Values that cannot be scored may be left out with a warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnscoredOutputsWarning)
        try:
            action()
        except TorchloopsError as error:
            return str(error)
    return None


def batches(run):
    """Ids of every training batch of a run, in order."""
    return [ids_of(seen.batch[0]) for seen in SEEN if seen.run == run and seen.training]


LOADED = (KFOLD, ACTIVE, GUIDED, NESTED)


@pytest.mark.parametrize("way", LOADED)
@pytest.mark.parametrize("own_batch_sampler", [False, True])
def test_drop_last_is_kept(way, own_batch_sampler, fit):
    data = TensorDataset(X, Y)
    loader = DataLoader(data, 10, shuffle=True, drop_last=True)
    if own_batch_sampler:
        loader = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 10, drop_last=True))
    loop, _ = fit(way, Net(), wrapped(way, Given(loader)), inner={"max_rounds": 2})
    for run, ids in runs_of(way, loop):
        assert [len(batch) for batch in batches(run)] == [10] * (len(ids) // 10) * 2


@pytest.mark.parametrize("way", LOADED)
def test_a_loader_in_order_stays_in_order(way, fit):
    loop, _ = fit(way, Net(), wrapped(way, Loaded(TensorDataset(X, Y), shuffle=False)), inner={"max_rounds": 2})
    for run, ids in runs_of(way, loop):
        assert [sample for drawn in batches(run) for sample in drawn] == sorted(ids) * 2


@pytest.mark.parametrize("way", LOADED)
def test_a_shuffled_loader_is_shuffled_anew_in_every_epoch(way, fit):
    loop, _ = fit(way, Net(), wrapped(way, Loaded(TensorDataset(X, Y), 64)), inner={"max_rounds": 2})
    for run, ids in runs_of(way, loop):
        one, other = batches(run)
        assert sorted(one) == sorted(other) == sorted(ids)
        assert one != sorted(ids)
        assert one != other


WEIGHTED = [  # weights, number of draws, replacement, draws from a part of n samples
    pytest.param((Y > 0).double(), N, True, None, id="one_pass"),
    pytest.param((Y > 0).double(), 20, True, 20, id="20_draws"),
    pytest.param((Y > 0).double() + 0.1, 10, False, 10, id="10_different"),
]


@pytest.mark.parametrize("way", [KFOLD, ACTIVE, NESTED])
@pytest.mark.parametrize(("weights", "count", "replacement", "draws"), WEIGHTED)
def test_weights_of_a_sampler_are_kept(way, weights, count, replacement, draws, fit):
    sampler = WeightedRandomSampler(weights, count, replacement)
    data = wrapped(way, Loaded(TensorDataset(X, Y), 64, sampler=sampler))
    loop, _ = fit(way, Net(), data, {"splitter": "stratified"} if way == KFOLD else {}, inner={"max_rounds": 2})
    for run, ids in runs_of(way, loop):
        for drawn in batches(run):
            assert len(drawn) == (draws or len(ids))
            assert set(drawn) <= set(ids)
            assert replacement == (len(set(drawn)) < len(drawn))
            assert weights.min() > 0 or set(Y[drawn].tolist()) == {1, 2}


@pytest.mark.parametrize("way", [KFOLD, ACTIVE, NESTED])
@pytest.mark.parametrize("replacement", [True, False])
def test_the_number_of_draws_of_a_random_sampler_is_kept(way, replacement, fit):
    data = TensorDataset(X, Y)
    sampler = RandomSampler(data, replacement, num_samples=20 if replacement else 10)
    loop, _ = fit(way, Net(), wrapped(way, Loaded(data, 64, sampler=sampler)), inner={"max_rounds": 2})
    for run, ids in runs_of(way, loop):
        for drawn in batches(run):
            assert len(drawn) == sampler.num_samples
            assert set(drawn) <= set(ids)
            assert replacement == (len(set(drawn)) < len(drawn))


CHOSEN = sorted(ORDER[:27])


@pytest.mark.parametrize("way", [KFOLD, ACTIVE, NESTED])
@pytest.mark.parametrize(
    "settings", [{}, {"targets": Y.tolist()}, {"eval_dataset": TensorDataset(X, Y)}], ids=["plain", "targets", "view"]
)
def test_only_the_samples_of_a_restricted_sampler_are_the_pool_or_the_folds(way, settings, fit):
    view = Items(noisy) if "eval_dataset" in settings else TensorDataset(X, Y)
    data = wrapped(way, Loaded(view, sampler=SubsetRandomSampler(CHOSEN)), settings)
    loop, _ = fit(way, Net(), data, inner={"max_rounds": 2})
    assert {sample for seen in SEEN for sample in ids_of(seen.batch[0])} <= set(CHOSEN)
    if way == ACTIVE:
        assert sorted(data.labelled_ids + data.pool_ids) == CHOSEN
        table = loop.queries.rename(columns={"label": "target"})
    else:
        table = loop.oof
        assert table["sample_id"].tolist() == CHOSEN
        for result in loop.results:
            loss = BY_NAME["tensors"].loss(result.weights, result.sample_ids)
            assert result.row["val/loss"] == pytest.approx(loss, abs=1e-5)
    assert table["target"].tolist() == Y[table["sample_id"].tolist()].tolist()


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (SubsetRandomSampler(CHOSEN), CHOSEN),
        (WeightedRandomSampler((Y > 0).double(), N), Y.nonzero().flatten().tolist()),
    ],
    ids=["restricted", "weighted"],
)
def test_a_guided_fit_keeps_to_a_sampler_or_refuses_it_by_name(sampler, kept, fit):
    refusal = refusal_of(lambda: fit(GUIDED, Net(), Loaded(TensorDataset(X, Y), sampler=sampler)))
    assert refusal is None or type(sampler).__name__ in refusal
    assert {sample for seen in SEEN if seen.training for sample in ids_of(seen.batch[0])} <= set(kept)


@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_an_unknown_sampler_gives_way_where_the_order_is_said(way, fit):
    data = TensorDataset(X, Y)
    loader = Loaded(data, 64, sampler=Backwards(data))
    loop, _ = fit(way, Net(), wrapped(way, loader, {"shuffle": True}))
    for run, ids in runs_of(way, loop):
        assert all(sorted(drawn) == sorted(ids) != drawn for drawn in batches(run))


@pytest.mark.parametrize("way", LOADED)
def test_what_workers_are_told_is_kept(way, fit):
    class Look(Callback):
        def on_train_start(self, trainer, module):
            NOTES.append(trainer.train_dataloader.worker_init_fn)

    data = wrapped(way, Loaded(TensorDataset(X, Y), worker_init_fn=do_nothing))
    fit(way, Net(), data, inner={"max_rounds": 2}, callbacks=[Look()], epochs=1)
    assert set(NOTES) == {do_nothing}


# random views


@pytest.mark.parametrize("way", OUTER)
def test_a_random_view_is_warned_of(way, fit):
    with pytest.warns(RandomViewWarning, match="eval_dataset"):
        fit(way, Net(), wrapped(way, Loaded(Items(noisy))), inner={"max_rounds": 2}, epochs=1)


@pytest.mark.filterwarnings("ignore::torchloops.data.RandomViewWarning")
@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_a_random_collate_function_that_cannot_be_done_without_is_refused(way, fit):
    def mixed_pairs(samples):
        return mixed([(x, y) for x, y, _ in samples])

    data = Loaded(Items(lambda i: (X[i], Y[i], None)), collate_fn=mixed_pairs)
    refusal = refusal_of(lambda: fit(way, Net(), wrapped(way, data)))
    assert refusal is not None
    assert "eval_collate_fn" in refusal
    assert not SEEN


# refused before anything is trained


@dataclass(frozen=True)
class Refused:
    """Data and a module that do not fit, and the error."""

    name: str
    data: Any
    module: Any = Net
    match: str | None = None
    error: type = TorchloopsError
    ways: tuple = OUTER
    settings: dict = field(default_factory=dict)
    study: dict = field(default_factory=dict)
    loop: dict = field(default_factory=dict)


def gaps(missing):
    """Labels of which every fourth is missing."""
    values = [missing if i % 4 == 0 else int(Y[i]) for i in range(N)]
    return lambda: Items(lambda i: (X[i], values[i]), targets=values)


def raising():
    raise RuntimeError("the file of the test set is gone")


REFUSED = [
    Refused("a_mask_and_no_target_key", tensors(TOKENS, MASK, Y), Masked, "target_key"),
    Refused("two_keys_for_a_label", lambda: Items(lambda i: {"inputs": X[i], "labels": Y[i], "target": Y[i]}), Keyed,
            "target_key", ConfigurationError),
    Refused("an_unknown_target_key", lambda: Items(lambda i: {"inputs": X[i], "labels": Y[i]}), Keyed, "lables",
            ways=(KFOLD, ACTIVE), settings={"target_key": "lables"}),
    Refused("a_parameter_of_forward_that_is_no_key", lambda: Items(lambda i: {"left": X[i, :2], "y": Y[i]}), TwoKeys,
            "right", ConfigurationError),
    Refused("no_label", lambda: Items(lambda i: {"inputs": X[i]}), Keyed, "target_key|targets", ways=(ACTIVE, NESTED)),
    Refused("no_label_to_stratify_by", lambda: Items(lambda i: {"inputs": X[i]}), Keyed, "target_key|targets",
            ways=(KFOLD,), loop={"splitter": "stratified"}),
    Refused("none_among_labels", gaps(None), match="(?i)none|missing", error=DataError),
    Refused("nan_among_labels", gaps(float("nan")), match="(?i)nan|missing", error=DataError),
    Refused("none_among_groups", tensors(X, Y), match="groups", error=DataError, ways=(KFOLD,),
            settings={"groups": [None, *range(1, N)]}),
    Refused("minus_one_among_labels", tensors(X, torch.where(Y.eq(0) & Y.eq(0).cumsum(0).le(8), -1, Y)),
            lambda: Net(loss=lambda o, y: cross_entropy(o, y, ignore_index=-1)), "-1|labelled_ids"),
    Refused("names_and_no_classes", lambda: Items(lambda i: (X[i], NAMES[Y[i]])), lambda: Net(loss=names_loss),
            "classes=", DataError, (KFOLD, NESTED)),
    Refused("a_name_that_is_no_class", lambda: Items(lambda i: (X[i], NAMES[Y[i]])), lambda: Net(loss=names_loss),
            "cat", DataError, settings={"classes": ["ant", "bee"]}),
    Refused("targets_of_another_length", tensors(X, Y), match="targets", error=DataError, ways=(KFOLD, ACTIVE),
            settings={"targets": [0, 1]}),
    Refused("an_eval_dataset_of_another_length", tensors(X, Y), match="eval_dataset|view", error=DataError,
            ways=(KFOLD, ACTIVE), settings={"eval_dataset": TensorDataset(X[:5], Y[:5])}),
    Refused("rows_of_members", tensors(X, Y), Members, "num_estimators", ConfigurationError),
    Refused("rows_of_three_members", tensors(X, Y), Members, "num_estimators", ConfigurationError,
            loop={"num_estimators": 3}),
    Refused("answers_that_are_a_dict", tensors(X, Y), Answering, "predict", ConfigurationError),
    Refused("answers_that_are_whole_numbers", tensors(X, Y), ways=(ACTIVE, NESTED), error=ConfigurationError,
            loop={"predict": lambda module, batch: module(batch[0]).argmax(1)}),
    Refused("outputs_that_do_not_exist", tensors(X, Y), match="outputs|logit", error=ConfigurationError,
            loop={"outputs": "logit"}),
    Refused("outputs_that_the_answers_contradict", tensors(X, Y), match="one_logit", error=ConfigurationError,
            loop={"outputs": "one_logit"}),
    Refused("outputs_beside_to_probabilities", tensors(X, Y), match="to_probabilities", error=ConfigurationError,
            loop={"outputs": "logits", "to_probabilities": torch.sigmoid}),
    Refused("a_sigmoid_for_each_of_three_classes", tensors(X, Y),
            lambda: Net(3, lambda o, y: probability_loss(o, one_hot(y, 3)), torch.sigmoid), "outputs=",
            ConfigurationError),
    Refused("more_columns_than_classes", tensors(X, Y), lambda: Net(5), "classes", ConfigurationError,
            (ACTIVE, NESTED)),
    Refused("numbers_by_entropy", tensors(X, NUMBERS), lambda: Net(1, square_loss), "variance", ConfigurationError,
            (ACTIVE, NESTED)),
    Refused("numbers_by_draws_that_never_differ", tensors(X, NUMBERS), lambda: Net(1, square_loss), None,
            ConfigurationError, (ACTIVE,), study={"heuristic": "variance"}),
    Refused("bald_without_dropout", tensors(X, Y), Net, "BALD", ConfigurationError, (ACTIVE,),
            study={"heuristic": "bald"}),
    Refused("an_unknown_sampler", lambda: Loaded(TensorDataset(X, Y), sampler=Backwards(X)), Net, "Backwards",
            ConfigurationError, LOADED),
    Refused("drop_last_that_leaves_no_batch", lambda: Loaded(TensorDataset(X, Y), 40, drop_last=True), Net, "drop_last",
            DataError, LOADED),
    Refused("a_test_loader_that_raises", lambda: Given(DataLoader(TensorDataset(X, Y), 16), test=raising), Net, None,
            (RuntimeError, TorchloopsError), (KFOLD,)),
    Refused("a_test_loader_without_batches",
            lambda: Given(DataLoader(TensorDataset(X, Y), 16), test=DataLoader(TensorDataset(X[:0], Y[:0]))), Net, None,
            TorchloopsError, (KFOLD,)),
    Refused("lazy_layers", tensors(X, Y), lambda: Net(net=nn.LazyLinear(3)), "(?i)lazy", ConfigurationError),
    Refused("classes_of_numbers", tensors(X, NUMBERS), lambda: Net(1, square_loss), "StratifiedKFold", DataError,
            (KFOLD,), loop={"splitter": StratifiedKFold(FOLDS)}),
    Refused("ids_that_do_not_exist", tensors(X, Y), match="labelled_ids|99", ways=(ACTIVE,),
            settings={"labelled_ids": [0, 99]}, study={"initial_num_labels": None}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::torchloops.data.UnscoredOutputsWarning")
@pytest.mark.parametrize(
    ("way", "case"), [pytest.param(way, case, id=f"{way}-{case.name}") for case in REFUSED for way in case.ways]
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(way, case, fit):
    def attempt():
        data = wrapped(way, case.data(), case.settings, **case.study)
        fit(way, case.module(), data, case.loop, inner={"max_rounds": 2, **case.loop})

    with pytest.raises(case.error, match=case.match):
        attempt()
    assert not SEEN


# right or refused


@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_labels_from_1_on_are_scored_right_or_not_at_all(way, fit):
    data = wrapped(way, TensorDataset(X, Y + 1))
    module = Net(loss=lambda outputs, labels: cross_entropy(outputs, labels - 1))
    found = []
    if refusal_of(lambda: found.append(fit(way, module, data)[0])):
        assert not SEEN
        return
    loop = found[0]
    if way == ACTIVE:
        assert loop.queries["label"].tolist() == (Y[loop.queries["sample_id"].tolist()] + 1).tolist()
        return
    assert loop.oof["target"].tolist() == (Y + 1).tolist()
    if "prob_0" in loop.oof:
        assert set(loop.oof["prediction"]) <= {1, 2, 3}


@pytest.mark.parametrize("way", OUTER)
def test_a_probability_that_is_no_sigmoid_is_read_right_or_refused(way, fit):
    situation = Situation("probit", tensors(X, BINARY), lambda: Probit(1, probability_loss), outputs="one_probability",
                          labels=BINARY.tolist(), classes=BINARY.tolist())  # fmt: skip
    refusal = refusal_of(lambda: CHECKS[way](situation, fit))
    if refusal is not None:
        assert "outputs=" in refusal
        assert len({seen.run for seen in SEEN}) <= 1, "it was found in the first pass"


@pytest.mark.parametrize("heuristic", ["entropy", "margin", "certainty", "bald", "variance", "mean_std", "random"])
def test_a_class_at_every_place_is_asked_by_every_strategy_or_refused(heuristic, fit):
    data = wrapped(ACTIVE, TensorDataset(X, TOKENS % 3), heuristic=heuristic)
    found = []
    if refusal_of(lambda: found.append(fit(ACTIVE, Dense(0.5), data, {"inference_iteration": 3})[0])):
        assert not SEEN
        return
    loop = found[0]
    asked = loop.queries[loop.queries["round"] >= 0]
    assert len(set(loop.queries["sample_id"])) == 20
    if heuristic != "random":
        assert asked["score"].notna().all()
        assert loop.rounds["score_std"].dropna().gt(0).all()


def test_places_are_asked_by_the_mean_of_their_entropies(fit):
    loop, _ = fit(ACTIVE, Dense(), wrapped(ACTIVE, TensorDataset(X, TOKENS % 3)), {"max_rounds": 2})
    module = Dense()
    module.load_state_dict(ROUNDS["", 0])
    initial, asked = loop.queries["sample_id"][:12].tolist(), loop.queries["sample_id"][12:].tolist()
    pool = sorted(set(range(N)) - set(initial))
    with torch.no_grad():
        scores = torch.special.entr(module(X[pool]).softmax(1)).sum(1).mean(1)
    assert asked == [pool[place] for place in scores.argsort(descending=True)[:4].tolist()]


@pytest.mark.parametrize("predict", [None, False])
def test_a_class_at_every_place_is_cross_validated_without_probabilities_or_refused(predict, fit):
    data = wrapped(KFOLD, TensorDataset(X, TOKENS % 3), {"batch_size": 16})
    found = []
    refusal = refusal_of(lambda: found.append(fit(KFOLD, Dense(), data, {"predict": predict})[0]))
    if refusal is not None:
        assert predict is None
        assert "predict" in refusal
        assert not SEEN
        return
    for result in found[0].results:
        module = Dense()
        module.load_state_dict(result.weights)
        with torch.no_grad():
            loss = cross_entropy(module(X[result.sample_ids]), TOKENS[result.sample_ids] % 3)
        assert result.row["val/loss"] == pytest.approx(float(loss), abs=1e-5)


# answers that are no scores of the classes


def test_a_model_whose_outputs_are_no_classes_is_cross_validated_without_scores_of_classes(fit):
    data = KFoldDataModule(TensorDataset(X, Y), batch_size=16, test_dataset=TensorDataset(X, Y))
    with pytest.warns(UnscoredOutputsWarning):
        loop, _ = fit(KFOLD, Autoencoder(), data)
    assert not [name for name in loop.oof.columns if name.startswith("prob")]
    assert not {"ensemble/accuracy", "ensemble/log_loss"} & set(loop.ensemble_scores)
    for result in loop.results:
        module = Autoencoder()
        module.load_state_dict(result.weights)
        with torch.no_grad():
            loss = module.loss_of([X[result.sample_ids]])
        assert result.row["val/loss"] == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("where", ["module", "data_module"])
@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_a_number_of_classes_that_is_declared_makes_columns_classes(where, way, fit):
    module, data = Net(5), Loaded(TensorDataset(X, Y))
    (module if where == "module" else data).num_classes = 5
    loop, _ = fit(way, module, wrapped(way, data))
    if way == KFOLD:
        found = loop.oof[[f"prob_{k}" for k in range(5)]].to_numpy()
        assert np.allclose(found.sum(1), 1, atol=1e-5)
    else:
        pool = sorted(set(range(N)) - set(loop.queries["sample_id"][:12]))
        module = Net(5)
        module.load_state_dict(ROUNDS["", 0])
        with torch.no_grad():
            scores = torch.special.entr(module(X[pool]).softmax(1)).sum(1)
        asked = loop.queries["sample_id"][12:16].tolist()
        assert asked == [pool[place] for place in scores.argsort(descending=True)[:4].tolist()]


# on record


BY_NAME = {situation.name: situation for situation in SITUATIONS}
KINDS = ["tensors", "softmax_module", "one_logit", "sigmoid_function", "multilabel", "multilabel_sigmoid", "numbers"]


def values_of(state):
    """All plain values anywhere in a state."""
    if isinstance(state, dict):
        return [value for part in state.values() for value in values_of(part)]
    if isinstance(state, list | tuple):
        return [value for part in state for value in values_of(part)]
    return [state]


@pytest.mark.parametrize("name", KINDS)
def test_how_answers_are_read_is_on_record_in_cross_validation(name, fit, tmp_path):
    situation = BY_NAME[name]
    loop, _ = fit(KFOLD, situation.module(), KFoldDataModule(situation.raw()), {"export_path": tmp_path / "out"})
    assert loop.folds["outputs"].tolist() == [situation.outputs] * FOLDS
    assert [result.kind for result in loop.results] == [situation.outputs] * FOLDS
    assert situation.outputs in values_of(json.loads((tmp_path / "out" / "summary.json").read_text()))
    assert situation.outputs in values_of(loop.on_save_checkpoint())


@pytest.mark.parametrize("name", KINDS[:-1])
def test_how_answers_are_read_is_on_record_in_active_learning(name, fit):
    situation = BY_NAME[name]
    loop, _ = fit(ACTIVE, situation.module(), wrapped(ACTIVE, situation.raw()))
    assert loop.rounds["outputs"].dropna().unique().tolist() == [situation.outputs]
    assert loop.rounds["outputs"][:2].notna().all()
    assert situation.outputs in values_of(loop.on_save_checkpoint())


@pytest.mark.parametrize(("way", "when"), [(KFOLD, "fold_1"), (ACTIVE, "round_1"), (NESTED, "fold_1")])
def test_a_later_answer_that_contradicts_how_answers_are_read_is_an_error(way, when, fit):
    class Changing(Net):
        def forward(self, x):
            outputs = super().forward(x)
            late = not self.training and any(seen.run.startswith(when) for seen in SEEN)
            return 9 * outputs if late else outputs.softmax(1)

    with pytest.raises(ConfigurationError, match="probabilities"):
        fit(way, Changing(loss=share_loss), wrapped(way, TensorDataset(X, Y)), inner={"max_rounds": 2})
    assert SEEN


@pytest.mark.parametrize("way", LOADED)
def test_hooks_of_module_and_data_module_are_the_same_everywhere(way, fit):
    fit(PLAIN, HalvingNet(), Halving(TensorDataset(64 * X, Y), shuffle=False))
    share = float(SEEN[0].batch[0][0, 0] / (64 * X[0, 0]))
    assert share in (1 / 8, 1 / 64)
    forget()
    situation = Situation(
        "both", lambda: Halving(TensorDataset(X / share, Y)), HalvingNet, prepare=lambda b: [b[0] * share, *b[1:]]
    )
    CHECKS[way](situation, fit)


def test_whole_numbers_as_answers_are_classes(fit):
    def vote(module, batch):
        return module(batch[0]).argmax(1)

    data = KFoldDataModule(TensorDataset(X, Y), 16, test_dataset=TensorDataset(X, Y))
    loop, _ = fit(KFOLD, Net(), data, {"predict": vote})
    each = {r.fold: BY_NAME["tensors"].draws(r.weights, range(N))[0].argmax(1) for r in loop.results}
    oof = loop.oof
    assert oof["prediction"].tolist() == [int(each[f][i]) for f, i in zip(oof["fold"], oof["sample_id"], strict=True)]
    assert not [name for name in oof.columns if name.startswith("prob_")]
    votes = one_hot(torch.stack([*each.values()]), 3).sum(0)
    sure = votes.max(1).values > 2  # elsewhere two classes may have the same number of votes
    right = (votes.argmax(1) == Y).float()
    low, high = float((right * sure).mean()), float((right * sure).mean() + (~sure).float().mean())
    assert low <= loop.ensemble_scores["ensemble/accuracy"] <= high
    assert "ensemble/log_loss" not in loop.ensemble_scores


SCORED = [
    "tensors", "mask", "transformer_dict", "predict_function", "predict_step", "hooks_of_the_module",
    "hooks_of_the_data_module", "one_logit", "small_logits", "sigmoid_function", "rows_of_members", "numbers",
]  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_the_ensemble_that_was_scored_is_the_one_that_is_got(name, fit):
    situation = BY_NAME[name]
    data = KFoldDataModule(situation.raw(), 16, test_dataset=situation.raw_items(), **situation.settings)
    loop, _ = fit(KFOLD, situation.module(), data, situation.loop)
    mean = torch.stack([situation.draws(result.weights, range(N)).mean(0) for result in loop.results]).mean(0)
    scores = loop.ensemble_scores
    if situation.outputs == "numbers":
        expected = {
            "ensemble/mse": (mean[:, 0] - NUMBERS).square().mean(),
            "ensemble/mae": (mean[:, 0] - NUMBERS).abs().mean(),
        }
    else:
        labels = torch.tensor(situation.classes)
        expected = {
            "ensemble/accuracy": (mean.argmax(1) == labels).float().mean(),
            "ensemble/log_loss": nll_loss(mean.log(), labels),
        }
    assert scores == {key: pytest.approx(float(value), abs=1e-5) for key, value in expected.items()}


def test_votes_are_those_of_the_members_as_they_were_scored(fit):
    situation = BY_NAME["predict_step"]
    loop, trainer = fit(KFOLD, situation.module(), KFoldDataModule(situation.raw(), 16))
    votes = torch.cat(trainer.predict(loop.ensemble("hard"), DataLoader(situation.raw(), 16)))
    each = torch.stack([situation.draws(result.weights, range(N))[0].argmax(1) for result in loop.results])
    assert votes.allclose(one_hot(each, 3).float().mean(0), atol=1e-6)


# data modules


@pytest.mark.parametrize("way", OUTER)
def test_data_that_setup_splits_is_split_once(way, fit):
    source = Splitting()
    loop, _ = fit(way, Examined(), wrapped(way, source), {"test_each_fold": True} if way == KFOLD else None,
                  inner={"max_rounds": 2}, epochs=1)  # fmt: skip
    trained = {sample for seen in SEEN for sample in ids_of(seen.batch[0])}
    assert source.stages == ["fit"]
    assert source.prepared == 1
    assert trained
    if way != NESTED:  # where a study is tested on what its fold holds out
        assert set(NOTES) == set(range(N)) - set(source.train.indices)
        assert not trained & set(NOTES)
    if way == KFOLD:
        assert loop.oof["target"].tolist() == [int(y) for _, y in source.train]


@pytest.mark.parametrize("way", [PLAIN, KFOLD, ACTIVE, GUIDED])
def test_each_stage_is_set_up_once(way, fit):
    source = StageByStage()
    _, trainer = fit(way, Examined(), wrapped(way, source), {"test_each_fold": True} if way == KFOLD else None)
    if way in (PLAIN, GUIDED):
        trainer.test(datamodule=source)
        assert source.stages == ["fit", "test"]
    assert sorted(source.stages) == ["fit", "test"]
    assert set(NOTES) == set(range(27, N))
    assert source.torn_down.count("fit") == 1


@pytest.mark.parametrize("way", [PLAIN, KFOLD, ACTIVE, GUIDED, NESTED])
def test_attributes_of_the_data_module_are_visible(way, fit):
    fit(way, Balanced(), wrapped(way, Splitting()), inner={"max_rounds": 2}, epochs=1)
    assert SEEN


@pytest.mark.parametrize("way", [KFOLD, ACTIVE, NESTED])
def test_an_empty_list_of_loaders_means_none(way, fit):
    data = Given(DataLoader(TensorDataset(X, Y), 16, shuffle=True), val=[], test=[])
    study = {} if way == KFOLD else {"val_split": 6}
    loop, _ = fit(way, Examined(), wrapped(way, data, **study), inner={"max_rounds": 2}, epochs=1)
    if way == ACTIVE:
        assert len(loop.queries) == 20
        assert loop.rounds["val/loss"].notna().all()
    else:
        assert loop.ensemble_scores == {}
        assert len(loop.oof) == N


@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_the_state_of_the_data_module_inside_is_kept(way):
    state = wrapped(way, StageByStage()).state_dict()
    assert 7 in values_of(state)
    wrapped(way, StageByStage()).load_state_dict(state)
    assert NOTES == [{"mine": 7}]


def test_baals_data_set_is_taken_as_what_it_is_or_refused(fit):
    pytest.importorskip("baal")
    labelled = LabelledMap(N)
    labelled.label([3, 1, 4, 15, 9, 2], round=-1, source="initial")
    active = labelled.to_baal(TensorDataset(X, Y))
    found = []

    def attempt():
        data = ActiveLearningDataModule(active, "entropy", query_size=4, batch_size=16)
        found.extend([data, fit(ACTIVE, Net(), data, {"max_rounds": 2})[0]])

    if refusal_of(attempt):
        assert not SEEN
        return
    data, loop = found
    assert sorted(loop.queries["sample_id"][:6]) == [1, 2, 3, 4, 9, 15]
    assert data.n_labelled + data.n_pool == N


# given labels


def test_labels_that_are_there_from_the_start_are_kept(fit):
    given = [3, 1, 4, 15, 9, 2]
    data = wrapped(ACTIVE, TensorDataset(X, Y), {"labelled_ids": given}, initial_num_labels=None)
    loop, _ = fit(ACTIVE, Net(), data)
    queries = loop.queries
    assert queries["sample_id"][:6].tolist() == given
    assert set(queries["annotator"][:6]) == {"given"}
    assert set(queries["round"][:6]) == {-1}
    assert queries["label"].tolist() == Y[queries["sample_id"].tolist()].tolist()
    check_training(BY_NAME["tensors"], "round_0", given, epochs=2)
    check_queries(BY_NAME["tensors"], queries, "", range(N), per_query=4)
    data.reset()
    assert data.labelled_ids == given


def test_initial_labels_are_drawn_beside_those_given_or_refused(fit):
    data = wrapped(ACTIVE, TensorDataset(X, Y), {"labelled_ids": [3, 1, 4]})
    found = []
    refusal = refusal_of(lambda: found.append(fit(ACTIVE, Net(), data, {"max_rounds": 1})[0]))
    if refusal is not None:
        assert "labelled_ids" in refusal
        return
    loop = found[0]
    assert loop.queries["sample_id"][:3].tolist() == [3, 1, 4]
    assert len(set(loop.queries["sample_id"])) in (12, 15)


@pytest.mark.parametrize("given", [[3, 1, 4, 15, 9, 2], {i: int(Y[i]) for i in ORDER[:9]}], ids=["ids", "values"])
def test_given_labels_in_a_fold_are_those_of_its_training_part_or_refused(given, fit):
    labels = given if isinstance(given, dict) else {i: int(Y[i]) for i in given}
    data = wrapped(NESTED, TensorDataset(X, Y), {"labelled_ids": given}, initial_num_labels=None)
    found = []
    refusal = refusal_of(lambda: found.append(fit(NESTED, Net(), data, {"num_folds": 3}, {"max_rounds": 2})[0]))
    if refusal is not None:
        assert "labelled_ids" in refusal
        assert not SEEN
        return
    queries = found[0].tables["queries"]
    for fold, split in enumerate(found[0].splits.folds):
        own = queries[(queries["fold"] == fold) & (queries["round"] < 0)]
        expected = {i: label for i, label in labels.items() if i in split.train}
        assert dict(zip(own["sample_id"], own["label"], strict=True)) == expected


@pytest.mark.parametrize("form", ["tuples", "tensors"])
def test_labels_by_value_for_data_without_labels(form, fit):
    given = {3: 1, 1: 0, 4: 2, 15: 1}
    unlabelled = TensorDataset(X) if form == "tuples" else Items(lambda i: X[i])
    data = wrapped(ACTIVE, unlabelled, {"labelled_ids": given}, initial_num_labels=None)
    loop, _ = fit(ACTIVE, Net(), data, {"max_rounds": 1})
    assert dict(zip(loop.queries["sample_id"], loop.queries["label"], strict=True)) == given
    assert loop.rounds["n_pool"].tolist() == [N - 4]
    got = [pair for seen in SEEN for pair in zip(ids_of(seen.batch[0]), seen.batch[1].tolist(), strict=True)]
    assert sorted(got) == sorted([*given.items()] * 2)


@pytest.mark.parametrize("how", ["values", "name", "function"])
@pytest.mark.parametrize("way", OUTER)
def test_labels_may_be_said(how, way, fit):
    data = Items(lambda i: {"inputs": X[i], "labels": Y[i]}, species=Y.tolist())
    targets = {"values": Y.tolist(), "name": "species", "function": lambda dataset: dataset.species}[how]
    loop, _ = fit(way, Keyed(), wrapped(way, data, {"targets": targets}), inner={"max_rounds": 2})
    if way != ACTIVE:
        assert loop.splits.splitter == "StratifiedKFold"
        assert loop.oof["target"].tolist() == Y.tolist()
    if way != KFOLD:
        queries = loop.queries if way == ACTIVE else loop.tables["queries"]
        assert queries["label"].tolist() == Y[queries["sample_id"].tolist()].tolist()


# fresh


@pytest.mark.parametrize(("way", "runs"), [(KFOLD, FOLDS), (ACTIVE, 3), (NESTED, 2 * FOLDS)])
def test_attributes_of_the_module_are_fresh_in_every_run(way, runs, fit):
    fit(way, Scheduled(), wrapped(way, TensorDataset(X, Y)), inner={"max_rounds": 2})
    inside = [note[1:] for note in NOTES]
    assert inside == [(0.5, 0, False)] * runs


@pytest.mark.parametrize(("way", "runs"), [(KFOLD, FOLDS), (ACTIVE, 3), (NESTED, 2 * FOLDS)])
def test_optimizers_that_were_made_before_are_fresh_in_every_run(way, runs, fit):
    results = []
    for cls in (Prebuilt, MadeThere):
        NOTES.clear()
        torch.manual_seed(0)
        loop, _ = fit(way, cls(), wrapped(way, TensorDataset(X, Y)), inner={"max_rounds": 2})
        assert [note[1:] for note in NOTES] == [(0.1, 0), (0.01, 2)] * runs
        results.append(ROUNDS[max(ROUNDS)] if ROUNDS else loop.results[-1].weights)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("cls", [Scheduled, Prebuilt])
def test_a_fold_alone_is_equal_to_the_bit(cls, fit):
    found = []
    for only in (None, [2], [2, 1]):
        torch.manual_seed(0)
        loop, _ = fit(KFOLD, cls(), KFoldDataModule(TensorDataset(X, Y), 16), {"folds": only})
        found.append(next(result for result in loop.results if result.fold == 2))
    assert all(
        torch.equal(found[0].weights[name], other.weights[name]) for other in found[1:] for name in other.weights
    )
    assert found[0].row["val/loss"] == found[1].row["val/loss"] == found[2].row["val/loss"]


def test_folds_in_other_processes_are_equal_to_the_bit(fit):
    found = []
    for jobs in (1, 2):
        torch.manual_seed(0)
        loop, _ = fit(
            KFOLD, Scheduled(), KFoldDataModule(TensorDataset(X, Y), 16), {"num_folds": 2, "n_jobs": jobs, "threads": 1}
        )
        found.append(loop)
    for one, other in zip(found[0].results, found[1].results, strict=True):
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("way", [KFOLD, ACTIVE])
def test_an_attribute_that_cannot_be_copied_is_named_once(way, fit):
    module = Net()
    module.handle = threading.Lock()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(way, module, wrapped(way, TensorDataset(X, Y)), epochs=1)
    assert len([entry for entry in caught if "handle" in str(entry.message)]) == 1


class Watcher(Callback):
    """Notes at every hook which samples a run would train on."""


def note(trainer, who, hook):
    if not trainer.run_name:
        return
    loader = trainer.train_dataloader
    ids = frozenset(ids_of(torch.stack([loader.dataset[i][0] for i in range(len(loader.dataset))])))
    own = trainer.datamodule.train_dataloader()
    steps = trainer.estimated_stepping_batches
    NOTES.append((trainer.run_name, who, hook, ids, own is not None and len(own.dataset), steps))


def watching(name):
    def hook(self, trainer, module, *rest, **more):
        note(trainer, "callback", name)

    return hook


for hook_name in sorted(set(HOOKS) - {"teardown", "on_exception", "on_save_checkpoint", "on_load_checkpoint"}):
    setattr(Watcher, hook_name, watching(hook_name))


class Watched(Net):
    """Notes the same at the module's hooks."""

    def setup(self, stage):
        note(self.trainer, "module", f"setup({stage})")

    def on_fit_start(self):
        note(self.trainer, "module", "on_fit_start")

    def on_train_start(self):
        note(self.trainer, "module", "on_train_start")

    def on_train_epoch_start(self):
        note(self.trainer, "module", "on_train_epoch_start")

    def on_validation_epoch_end(self):
        note(self.trainer, "module", "on_validation_epoch_end")

    def on_train_end(self):
        note(self.trainer, "module", "on_train_end")

    def on_fit_end(self):
        note(self.trainer, "module", "on_fit_end")

    def configure_optimizers(self):
        note(self.trainer, "module", "configure_optimizers")
        return super().configure_optimizers()


@pytest.mark.parametrize("way", OUTER)
def test_every_hook_of_an_inner_run_sees_that_runs_training_data(way, fit):
    data = Loaded(Items(lambda i: (X[i], Y[i])))
    loop, _ = fit(way, Watched(), wrapped(way, data), {"num_folds": 2} if way != ACTIVE else {"max_rounds": 2},
                  inner={"max_rounds": 2}, callbacks=[Watcher()], epochs=1)  # fmt: skip
    expected = dict(runs_of(way, loop))
    for run, who, hook, ids, size, steps in NOTES:
        if run in expected:
            assert (run, who, hook, sorted(ids)) == (run, who, hook, sorted(expected[run]))
            assert (run, who, hook, size) == (run, who, hook, len(ids))
            assert (run, who, hook, steps) == (run, who, hook, -(-len(ids) // 16))
        else:  # a study in a fold
            assert ids <= set(loop.splits[int(run.removeprefix("fold_"))].train), (run, who, hook)
    needed = {("module", "setup(fit)"), ("callback", "setup"), ("module", "on_fit_start"), ("callback", "on_fit_start"),
              ("module", "configure_optimizers"), ("module", "on_fit_end")}  # fmt: skip
    for run in expected:
        assert needed <= {(who, hook) for name, who, hook, *_ in NOTES if name == run}


# splitters, scores


@pytest.mark.parametrize("labels", ["multilabel", "numbers"])
@pytest.mark.parametrize("splitter", [Binned, MultilabelStratified])
def test_any_object_that_splits_is_a_splitter(labels, splitter, fit):
    situation = BY_NAME[labels]
    loop, _ = fit(KFOLD, situation.module(), KFoldDataModule(situation.raw(), 16), {"splitter": splitter(FOLDS)})
    assert np.allclose(NOTES[-1], np.asarray(situation.labels), atol=1e-6), "it is given the labels themselves"
    expected = [test.tolist() for _, test in splitter(FOLDS).split(None, situation.labels)]
    assert [list(split.test) for split in loop.splits.folds] == expected
    check_oof(situation, loop)


def test_a_subclass_of_a_stratified_splitter_may_take_numbers(fit):
    class Quarters(StratifiedKFold):
        def split(self, inputs, labels, groups=None):
            return super().split(inputs, np.digitize(labels, np.quantile(labels, [0.25, 0.5, 0.75])), groups)

    splitter = Quarters(FOLDS, shuffle=True, random_state=0)
    loop, _ = fit(KFOLD, Net(1, square_loss), KFoldDataModule(TensorDataset(X, NUMBERS), 16), {"splitter": splitter})
    expected = [test.tolist() for _, test in splitter.split(np.zeros(N), NUMBERS.numpy())]
    assert [list(split.test) for split in loop.splits.folds] == expected


def test_by_default_classes_are_stratified_and_numbers_are_not(fit):
    for situation, name in ((BY_NAME["tensors"], "StratifiedKFold"), (BY_NAME["multilabel"], "KFold"),
                            (BY_NAME["numbers"], "KFold"), (BY_NAME["one_hot"], "StratifiedKFold")):  # fmt: skip
        loop, _ = fit(KFOLD, situation.module(), KFoldDataModule(situation.raw(), 16), epochs=1)
        assert loop.splits.splitter == name


def test_the_best_epoch_is_named(fit):
    losses = {}

    class Look(Callback):
        def on_validation_end(self, trainer, module):
            if trainer.run_name and not trainer.sanity_checking:
                weights = copy.deepcopy(module.state_dict())
                losses.setdefault(trainer.run_name, []).append((float(trainer.callback_metrics["val/loss"]), weights))

    best = {"inner_split": 12, "checkpoint": "best", "monitor": "val/loss"}
    loop, _ = fit(KFOLD, Net(rate=2.0), KFoldDataModule(TensorDataset(X, Y), 8), best, callbacks=[Look()], epochs=6)
    for result in loop.results:
        seen = losses[f"fold_{result.fold}"][:6]
        epoch = min(range(6), key=lambda index: seen[index][0])
        assert all(torch.equal(result.weights[name], seen[epoch][1][name]) for name in result.weights)
        assert result.row["checkpoint"].endswith(f"epoch {epoch}")


def test_both_intervals_are_given_by_name_and_stay_within_bounds(fit):
    situation = BY_NAME["tensors"]

    class Accurate(Net):
        def validation_step(self, batch, batch_idx):
            accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("val/accuracy", accuracy)

    loop, _ = fit(KFOLD, Accurate(rate=1.0), KFoldDataModule(situation.raw(), 16), epochs=12)
    table = loop.summary
    assert table.columns.tolist() == [
        "metric", "mean", "std", "nb_low", "nb_high", "oof_low", "oof_high", "n_folds", "optimistic",
    ]  # fmt: skip
    rows = table.set_index("metric")
    assert {"oof/accuracy", "oof/log_loss", "val/accuracy"} <= set(rows.index)
    oof = loop.oof
    right = (oof["target"] == oof["prediction"]).to_numpy()
    assert rows.loc["oof/accuracy", "mean"] == pytest.approx(right.mean())
    chosen = oof[[f"prob_{k}" for k in range(3)]].to_numpy()[np.arange(N), oof["target"]]
    assert rows.loc["oof/log_loss", "mean"] == pytest.approx(-np.log(chosen).mean(), abs=1e-5)
    for name in ("oof/accuracy", "val/accuracy"):
        low, high = rows.loc[name, ["nb_low", "nb_high"]]
        assert 0 <= low < rows.loc[name, "mean"] < high <= 1
    low, high = rows.loc["oof/accuracy", ["oof_low", "oof_high"]]
    assert 0 <= low < right.mean() < high <= 1
    assert rows.loc["val/accuracy", ["oof_low", "oof_high"]].isna().all()
    values = loop.folds["val/accuracy"].to_numpy()
    half = scipy.stats.t.ppf(0.975, FOLDS - 1) * values.std(ddof=1) * np.sqrt(1 / FOLDS + 1 / (FOLDS - 1))
    expected = np.clip([values.mean() - half, values.mean() + half], 0, 1)
    assert rows.loc["val/accuracy", ["nb_low", "nb_high"]].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_numbers_have_errors_in_the_summary(fit):
    situation = BY_NAME["numbers"]
    loop, _ = fit(KFOLD, situation.module(), KFoldDataModule(situation.raw(), 16))
    rows, errors = loop.summary.set_index("metric"), (loop.oof["target"] - loop.oof["prediction"]).to_numpy()
    assert rows.loc["oof/mse", "mean"] == pytest.approx((errors**2).mean(), rel=1e-5)
    assert rows.loc["oof/mae", "mean"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert rows.loc["oof/mse", "oof_low"] < rows.loc["oof/mse", "mean"] < rows.loc["oof/mse", "oof_high"]


def test_reweighting_says_where_its_loss_is_not_the_modules(fit):
    smooth = Net(loss=lambda outputs, labels: cross_entropy(outputs, labels, label_smoothing=0.3))
    with pytest.warns(UserWarning, match="sample_losses|losses"):
        fit(GUIDED, smooth, Loaded(TensorDataset(X, Y)), guided={"scale": "reweight"}, epochs=1)
