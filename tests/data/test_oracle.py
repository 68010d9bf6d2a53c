"""An oracle: what cross-validation and active learning report, worked out again from the weights that are left.

Nothing in `oracle_parts` asks torchloops: answers are products of saved weights, folds are scikit-learn's, scores,
uncertainties and intervals are numpy's.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data.oracle_parts import (
    ANIMALS,
    CASES,
    OFF,
    Layers,
    N,
    Rounds,
    bayle,
    class_probabilities,
    judged,
    nadeau_bengio,
    points,
    three_classes,
    train,
    uncertainty,
)
from sklearn.model_selection import KFold, RepeatedKFold, StratifiedKFold
from torch.utils.data import TensorDataset

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, KFoldDataModule, KFoldLoop
from torchloops.errors import ConfigurationError

FOLDS, QUERY = 3, 5
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def folds_by_hand(case):
    """``(train, test)`` of every fold, as scikit-learn makes them."""
    made = StratifiedKFold if case.form == "classes" else KFold
    splitter = made(FOLDS, shuffle=True, random_state=0) if case.splitter is None else case.splitter()
    return list(splitter.split(np.zeros(len(case.labels)), case.labels.numpy()))


def as_indices(values, case):
    """Classes of a table as indices; names stay in the tables where labels are names."""
    if case.names is None:
        return [int(value) for value in values]
    return [case.names.index(value) if isinstance(value, str) else int(value) for value in values]


@pytest.fixture(scope="module", params=list(CASES))
def validated(request, tmp_path_factory):
    """A finished cross-validation of a set-up."""
    case = CASES[request.param]()
    loop = KFoldLoop(FOLDS, splitter=None if case.splitter is None else case.splitter(), **case.loop)
    data = KFoldDataModule(case.data(), **case.settings)
    torch.manual_seed(1)
    train(tmp_path_factory.mktemp("kfold"), loop, case.module(), data, max_epochs=3)
    values = []
    for result, (_, held_out) in zip(loop.results, folds_by_hand(case), strict=True):
        answers = case.ask(result.weights, held_out).mean(-1)
        values.append(judged(case.form, answers, case.labels[held_out]))
    return SimpleNamespace(case=case, loop=loop, values=values, name=request.param)


# cross-validation


def test_folds_are_those_of_scikit_learn(validated):
    made = [(split.train, split.test) for split in validated.loop.splits.folds]
    assert made == [(rest.tolist(), held.tolist()) for rest, held in folds_by_hand(validated.case)]


def test_out_of_fold_predictions_are_those_of_the_saved_weights(validated):
    case, loop = validated.case, validated.loop
    table = loop.oof
    assert table["sample_id"].tolist() == list(range(len(case.labels)))
    for result, (_, held_out) in zip(loop.results, folds_by_hand(case), strict=True):
        assert result.kind == case.outputs
        rows = table[table["fold"] == result.fold].set_index("sample_id")
        assert sorted(rows.index) == sorted(held_out)
        rows = rows.loc[held_out]
        answers, labels = case.ask(result.weights, held_out).mean(-1).numpy(), case.labels[held_out].numpy()
        if case.form == "numbers":
            np.testing.assert_allclose(rows["prediction"], answers[:, 0], **CLOSE)
            np.testing.assert_allclose(rows["target"], labels, **CLOSE)
            continue
        columns = range(answers.shape[1])
        np.testing.assert_allclose(rows[[f"prob_{k}" for k in columns]], answers, **CLOSE)
        if case.form == "classes":
            assert as_indices(rows["prediction"], case) == answers.argmax(1).tolist()
            assert as_indices(rows["target"], case) == labels.tolist()
        else:
            assert (rows[[f"prediction_{k}" for k in columns]].to_numpy() == (answers > 0.5)).all()
            assert (rows[[f"target_{k}" for k in columns]].to_numpy() == labels).all()


def test_scores_of_folds_are_those_of_the_saved_weights(validated):
    case, table = validated.case, validated.loop.folds.set_index("fold")
    for result, (rest, held_out) in zip(validated.loop.results, folds_by_hand(case), strict=True):
        answers = case.ask(result.weights, held_out, of_step=True).mean(-1)
        assert table["n_train"][result.fold] == len(rest)
        assert table["n_test"][result.fold] == len(held_out)
        assert table["outputs"][result.fold] == case.outputs
        for name, values in judged(case.form, answers, case.labels[held_out]).items():
            np.testing.assert_allclose(table[f"val/{name}"][result.fold], values.mean(), **CLOSE)


def test_the_ensemble_is_the_mean_of_the_folds_and_is_what_was_scored(validated):
    case, loop = validated.case, validated.loop
    mean = torch.stack([case.ask_test(result.weights).mean(-1) for result in loop.results]).mean(0)
    scores = judged(case.form, mean, case.test_labels)
    assert loop.ensemble_scores == pytest.approx(
        {f"ensemble/{name}": values.mean() for name, values in scores.items()}, rel=1e-4, abs=1e-6
    )
    ensemble = loop.ensemble("soft")
    with torch.no_grad():
        found = [ensemble.predict_step(case.whole_test_batch(), 0)]
        if len(case.test_inputs) == 1:
            found.append(ensemble(case.test_inputs[0]))
    for answers in found:
        torch.testing.assert_close(answers.reshape(mean.shape), mean, **CLOSE)


def test_both_intervals_of_the_summary(validated):
    case, loop, values = validated.case, validated.loop, validated.values
    table = loop.summary.set_index("metric")
    share = np.mean([len(held) / len(rest) for rest, held in folds_by_hand(case)])
    for name in values[0]:
        each = [fold[name] for fold in values]
        row = table.loc[f"oof/{name}"]
        expected = [*nadeau_bengio([fold.mean() for fold in each], share), *bayle(each)]
        if name == "accuracy":
            expected = np.clip(expected, 0, 1)
        np.testing.assert_allclose(row["mean"], np.concatenate(each).mean(), **CLOSE)
        np.testing.assert_allclose(row["std"], np.std([fold.mean() for fold in each], ddof=1), **CLOSE)
        # a loss has a lower bound only
        found = row[["nb_low", "nb_high", "oof_low", "oof_high"]].to_numpy(dtype=float)
        free = np.maximum(expected, 0)
        np.testing.assert_allclose(np.maximum(found, 0), free, **CLOSE)
        assert row["n_folds"] == FOLDS
        scores = [result.row[f"val/{name}"] for result in loop.results]
        low, high = nadeau_bengio(scores, share)
        other = table.loc[f"val/{name}"]
        assert np.isnan(other[["oof_low", "oof_high"]].to_numpy(dtype=float)).all()
        bounds = (0, 1) if name == "accuracy" else (0, np.inf)
        np.testing.assert_allclose(np.clip(other[["nb_low", "nb_high"]].to_numpy(float), *bounds),
                                   np.clip([low, high], *bounds), **CLOSE)  # fmt: skip
        if name == "accuracy":
            assert 0 <= other["nb_low"] <= other["nb_high"] <= 1


def test_intervals_of_folds_that_differ_in_size(tmp_path):
    x = points(50)
    y = three_classes(x)
    loop = KFoldLoop(4, splitter="kfold")
    train(tmp_path, loop, Layers(), KFoldDataModule(TensorDataset(x, y), batch_size=8))
    held = [test for _, test in KFold(4, shuffle=True, random_state=0).split(np.zeros(50))]
    assert {len(test) for test in held} == {12, 13}
    each = [
        judged("classes", class_probabilities(result.weights, x[test]), y[test])["log_loss"]
        for result, test in zip(loop.results, held, strict=True)
    ]
    row = loop.summary.set_index("metric").loc["oof/log_loss"]
    np.testing.assert_allclose(row[["oof_low", "oof_high"]].to_numpy(float), bayle(each), **CLOSE)


def test_repeated_folds_hold_every_sample_out_once_a_repeat(tmp_path):
    x = points(30)
    y = three_classes(x)
    loop = KFoldLoop(3, splitter="repeated", num_repeats=2)
    train(tmp_path, loop, Layers(), KFoldDataModule(TensorDataset(x, y), batch_size=8))
    held = [test for _, test in RepeatedKFold(n_splits=3, n_repeats=2, random_state=0).split(np.zeros(30))]
    table = loop.oof
    for result, test in zip(loop.results, held, strict=True):
        rows = table[table["fold"] == result.fold].set_index("sample_id").loc[test]
        assert set(rows["repeat"]) == {result.fold // 3}
        expected = class_probabilities(result.weights, x[test])
        np.testing.assert_allclose(rows[[f"prob_{k}" for k in range(3)]], expected, **CLOSE)


# active learning


def asked_of(queries, index):
    return queries[queries["round"] == index]


STUDIES = [(name, heuristic) for name, make in CASES.items() for heuristic in make().heuristics]


@pytest.mark.parametrize(("name", "heuristic"), STUDIES, ids=[f"{name}-{heuristic}" for name, heuristic in STUDIES])
def test_queries_and_rounds_are_those_of_the_saved_weights(tmp_path, name, heuristic):
    case = CASES[name]()
    settings = {"initial_num_labels": 12, "query_size": QUERY, "heuristic": heuristic, **case.settings}
    data, loop = ActiveLearningDataModule(case.data(), **settings), ActiveLearningLoop(max_rounds=3, **case.loop)
    torch.manual_seed(1)
    rounds = Rounds()
    train(tmp_path, loop, case.module(), data, callbacks=[rounds.callback], max_epochs=3)
    queries, table = loop.queries, loop.rounds
    assert table["n_labelled"].tolist() == [12, 12 + QUERY, 12 + 2 * QUERY]
    assert set(table["outputs"][:-1]) == {case.outputs}, "the last round asks nothing"
    everything = set(range(len(case.labels)))
    for index, taken in enumerate(rounds.taken):
        assert set(taken["pool"]) == everything - set(taken["labelled"])
        scores = judged(case.form, case.ask_test(taken["weights"], of_step=True).mean(-1), case.test_labels)
        for metric, values in scores.items():
            np.testing.assert_allclose(table[f"test/{metric}"][index], values.mean(), **CLOSE)
        asked = asked_of(queries, index)
        if index == 2:
            assert asked.empty
            continue
        answers = case.ask(taken["weights"], taken["pool"])
        expected = uncertainty(heuristic, case.form, answers)
        order = np.argsort(-expected, kind="stable")
        assert asked["sample_id"].tolist() == [taken["pool"][place] for place in order[:QUERY]]
        assert asked["rank"].tolist() == list(range(QUERY))
        np.testing.assert_allclose(asked["score"], expected[order[:QUERY]], **CLOSE)
        assert (np.diff(asked["score"]) <= 0).all()
        np.testing.assert_allclose(table["score_mean"][index], expected.mean(), **CLOSE)
        if case.form == "classes":
            likely = answers.mean(-1).argmax(1)[order[:QUERY].copy()].tolist()
            assert as_indices(asked["prediction"], case) == likely
    if case.form == "classes":
        assert as_indices(queries["label"], case) == case.labels[queries["sample_id"].tolist()].tolist()


def test_regression_of_one_answer_is_refused_before_it_trains(tmp_path):
    case = CASES["regression"]()
    for heuristic in ("entropy", "variance"):
        data = ActiveLearningDataModule(case.data(), heuristic, initial_num_labels=12, **case.settings)
        rounds = Rounds()
        with pytest.raises(ConfigurationError):
            train(tmp_path, ActiveLearningLoop(max_rounds=2), case.module(), data, callbacks=[rounds.callback])
        assert rounds.taken == []


def test_a_study_in_every_fold(tmp_path):
    case = CASES["int_labels"]()
    study = ActiveLearningDataModule(
        TensorDataset(case.inputs[0], case.labels), "margin", initial_num_labels=9, query_size=QUERY, batch_size=8
    )
    loop, rounds = KFoldLoop(FOLDS), Rounds()
    inner = ActiveLearningLoop(max_rounds=3)
    train(tmp_path, loop, Layers(), KFoldDataModule(study), inner=inner, callbacks=[rounds.callback], max_epochs=3)
    queries, table = loop.tables["queries"], loop.tables["rounds"]
    folds = folds_by_hand(case)
    assert len(rounds.taken) == FOLDS * 3
    for taken, (fold, index) in zip(rounds.taken, itertools.product(range(FOLDS), range(3)), strict=True):
        rest, held_out = folds[fold]
        row = table[(table["fold"] == fold) & (table["round"] == index)].iloc[0]
        accuracy = judged("classes", case.ask(taken["weights"], held_out).mean(-1), case.labels[held_out])["accuracy"]
        np.testing.assert_allclose(row["test/accuracy"], accuracy.mean(), **CLOSE)
        pool = rest[taken["pool"]]  # ids inside a fold are places among its training samples
        asked = queries[(queries["fold"] == fold) & (queries["round"] == index)]
        if index == 2:
            assert asked.empty
            continue
        expected = uncertainty("margin", "classes", case.ask(taken["weights"], pool))
        order = np.argsort(-expected, kind="stable")[:QUERY]
        assert asked["sample_id"].tolist() == pool[order].tolist()
        np.testing.assert_allclose(asked["score"], expected[order], **CLOSE)
        assert asked["label"].tolist() == case.labels[pool[order]].tolist()
    for result, (_, held_out) in zip(loop.results, folds, strict=True):
        last = rounds.taken[3 * result.fold + 2]["weights"]
        assert all(torch.equal(result.weights[name], last[name]) for name in last)
        rows = loop.oof.set_index("sample_id").loc[held_out]
        expected = case.ask(last, held_out).mean(-1)
        np.testing.assert_allclose(rows[[f"prob_{k}" for k in range(3)]], expected, **CLOSE)


# what trains


class Remembering(Layers):
    """Tells a list of its class which samples it trains on, by their first number."""

    seen: list = []  # noqa: RUF012

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0][:, 0].clone())
        return super().training_step(batch, batch_idx)


def ids_seen(x):
    number = {round(value, 6): index for index, value in enumerate(x[:, 0].tolist())}
    seen = [number[round(value, 6)] for value in torch.cat(Remembering.seen).tolist()]
    Remembering.seen.clear()
    return seen


def test_a_weighted_sampler_draws_in_every_fold_and_round_what_it_may(tmp_path):
    case = CASES["weighted_sampler"]()
    loop = KFoldLoop(FOLDS, predict=False)
    Remembering.seen.clear()
    train(tmp_path / "folds", loop, Remembering(), KFoldDataModule(case.data()), max_epochs=4)
    seen, epochs = ids_seen(case.inputs[0]), 4
    for fold, (rest, _) in enumerate(folds_by_hand(case)):
        drawn = seen[fold * epochs * len(rest) : (fold + 1) * epochs * len(rest)]
        assert set(drawn) <= set(rest.tolist()) - set(OFF)
        assert len(set(drawn)) > 0.8 * len(set(rest.tolist()) - set(OFF))
    assert len(seen) == FOLDS * epochs * (N - N // FOLDS)
    data = ActiveLearningDataModule(case.data(), "entropy", initial_num_labels=24, query_size=QUERY)
    train(tmp_path / "rounds", ActiveLearningLoop(max_rounds=2), Remembering(), data, max_epochs=4)
    seen = ids_seen(case.inputs[0])
    assert len(seen) == epochs * (24 + 24 + QUERY)
    assert set(seen) <= set(data.labelled_ids) - set(OFF)


def test_what_the_names_of_classes_mean_is_in_the_order_that_was_given(tmp_path):
    """Sorted names would turn the classes round; what trains and what is scored must agree."""
    case = CASES["names"]()
    assert sorted(ANIMALS) != ANIMALS
    loop = KFoldLoop(FOLDS, splitter=case.splitter())
    train(tmp_path, loop, case.module(), KFoldDataModule(case.data(), **case.settings), max_epochs=20)
    right = np.array(as_indices(loop.oof["prediction"], case)) == np.array(as_indices(loop.oof["target"], case))
    np.testing.assert_allclose(right.mean(), loop.folds["val/accuracy"].mean(), **CLOSE)
    assert right.mean() > 0.6
