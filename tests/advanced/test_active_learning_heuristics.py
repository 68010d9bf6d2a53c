"""Scores: parity with formulas in numpy, and with baal where baal is right; the common direction."""

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from torchloops.advanced.active_learning import (
    BALD,
    Certainty,
    Entropy,
    Heuristic,
    Margin,
    MeanStd,
    Random,
    Variance,
)
from torchloops.advanced.active_learning.baal_heuristics import BaalHeuristic, resolve_heuristic
from torchloops.advanced.active_learning.baal_import import import_baal
from torchloops.errors import ConfigurationError, MissingDependencyError
from torchloops.seeding import isolated_generators

N, C, T = 37, 5, 11


@pytest.fixture(scope="module")
def baal():
    return import_baal("heuristics", "this test")


def probabilities(n=N, seed=0, draws=T):
    generator = default_rng(seed)
    logits = 3 * generator.standard_normal((n, C, draws)) + 2 * generator.standard_normal((n, C, 1))
    values = np.exp(logits)
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


def plain_entropy(p):
    return -sum(float(q) * np.log(float(q)) for q in p if q > 0)


def by_hand(name, p):
    """The textbook formula for one sample, p of shape (classes, draws); high means ask first."""
    mean = p.astype(np.float64).mean(1)
    first, second = sorted(mean)[::-1][:2]
    draws = p.shape[1]
    spread = ((p - mean[:, None]) ** 2).sum(1) / draws
    return {
        "bald": plain_entropy(mean) - sum(plain_entropy(p[:, t]) for t in range(draws)) / draws,
        "entropy": plain_entropy(mean),
        "margin": 1 - (first - second),
        "certainty": 1 - first,
        "least_confidence": 1 - first,
        "variance": spread.mean(),
        "mean_std": np.sqrt(spread).mean(),
    }[name]


@pytest.mark.parametrize("name", ["bald", "entropy", "margin", "certainty", "least_confidence", "variance", "mean_std"])
def test_scores_equal_the_formula(name):
    values = probabilities()
    expected = [by_hand(name, sample) for sample in values]
    scores = resolve_heuristic(name).score(torch.from_numpy(values))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["bald", "entropy", "variance"])
def test_scores_equal_baals_where_those_are_right(name, baal):
    theirs = {"bald": baal.BALD, "entropy": baal.Entropy, "variance": baal.Variance}[name]()
    values = probabilities()
    ours = resolve_heuristic(name).get_uncertainties(values)
    np.testing.assert_allclose(ours, theirs.get_uncertainties(values.copy()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bald", "entropy", "margin", "certainty", "variance", "mean_std"])
def test_by_name_needs_no_baal(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "baal", None)
    assert isinstance(resolve_heuristic(name), Heuristic)
    assert isinstance(resolve_heuristic(None), BALD)


def sure_and_unsure():
    """Sample 0: draws are sure and disagree; sample 1: all draws sure of one class."""
    sure = np.full((C, T), 0.01, dtype=np.float32)
    sure[0] = 1 - 0.01 * (C - 1)
    unsure = sure.copy()
    unsure[:, ::2] = np.roll(sure, 1, axis=0)[:, ::2]
    return np.stack([unsure, sure])


@pytest.mark.parametrize("name", ["bald", "entropy", "margin", "certainty", "variance", "mean_std"])
def test_high_means_ask_first_for_every_name(name):
    ranks, scores = resolve_heuristic(name).get_ranks(sure_and_unsure())
    assert scores[0] > scores[1]
    assert ranks.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["BALD", "Entropy", "Margin", "Certainty", "Variance"])
def test_high_means_ask_first_for_every_object_of_baal(name, baal):
    heuristic = resolve_heuristic(getattr(baal, name)())
    assert isinstance(heuristic, BaalHeuristic)
    scores = heuristic.score(torch.from_numpy(sure_and_unsure()))
    assert scores[0] > scores[1]
    assert heuristic.streams


@pytest.mark.parametrize("name", ["Margin", "Certainty"])
def test_power_sampling_over_a_reversed_heuristic_favours_the_unsure(name, baal):
    stochastics = import_baal("heuristics.stochastics", "this test")
    values = torch.from_numpy(np.repeat(sure_and_unsure(), 50, axis=0))
    heuristic = resolve_heuristic(stochastics.PowerSampling(getattr(baal, name)(), query_size=3))
    assert not heuristic.streams
    with isolated_generators(0):
        scores = heuristic.score(values)
    best = scores.argsort(descending=True)[:50]
    assert (best < 50).float().mean() > 0.8


@pytest.mark.parametrize("kind", ["PowerSampling", "GibbsSampling", "RankBasedSampling"])
def test_stochastic_heuristics_are_seeded_and_draw_without_replacement_for_any_query_size(kind, baal):
    stochastics = import_baal("heuristics.stochastics", "this test")
    heuristic = resolve_heuristic(getattr(stochastics, kind)(baal.BALD(), query_size=1))
    values = torch.from_numpy(probabilities())
    with isolated_generators(3):
        one = heuristic.score(values)
    with isolated_generators(3):
        same = heuristic.score(values)
    with isolated_generators(4):
        other = heuristic.score(values)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len(set(one.argsort(descending=True)[:20].tolist())) == 20
    assert heuristic.needs_draws


def test_power_sampling_has_baals_distribution(baal):
    stochastics = import_baal("heuristics.stochastics", "this test")
    values = probabilities(n=4)
    heuristic = stochastics.PowerSampling(baal.Entropy(), query_size=1)
    expected = baal.Entropy().get_uncertainties(values.copy())
    expected = expected / expected.sum()
    adapted, counts = resolve_heuristic(heuristic), np.zeros(4)
    with isolated_generators(0):
        for _ in range(2000):
            counts[int(adapted.score(torch.from_numpy(values)).argmax())] += 1
    np.testing.assert_allclose(counts / 2000, expected, atol=0.04)


def test_batch_bald_keeps_its_best_point_and_comes_in_order_of_choice(baal):
    values = probabilities(n=20)
    with isolated_generators(0):
        heuristic = resolve_heuristic(baal.BatchBALD(num_samples=4, num_draw=200))
        scores = heuristic.score(torch.from_numpy(values))
    best_alone = int(BALD().get_uncertainties(values).argmax())
    assert int(scores.argmax()) == best_alone
    assert (scores > 1).sum() == 5


def test_batch_bald_of_a_pool_smaller_than_the_batch(baal):
    values = probabilities(n=3)
    scores = resolve_heuristic(baal.BatchBALD(num_samples=4)).score(torch.from_numpy(values))
    np.testing.assert_allclose(scores.numpy(), BALD().get_uncertainties(values), rtol=1e-5)


def test_combined_heuristics_are_weighted(baal):
    combined = baal.CombineHeuristics([baal.BALD(), baal.Entropy()], weights=[1, 3], reduction="mean")
    values = probabilities()
    scores = resolve_heuristic(combined).score(torch.from_numpy(values))
    expected = (0.25 * BALD().get_uncertainties(values) + 0.75 * Entropy().get_uncertainties(values)) / 2
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_foreign_object_with_get_ranks_decides_by_its_ranks():
    class Foreign:
        def get_ranks(self, predictions):
            return np.array([2, 0]), None

    scores = resolve_heuristic(Foreign()).score(torch.from_numpy(probabilities(n=4)))
    assert scores.argsort(descending=True)[:2].tolist() == [2, 0]
    assert scores[1] == scores[3] < scores[0]


def test_baals_random_becomes_the_seeded_one(baal):
    assert isinstance(resolve_heuristic(baal.Random()), Random)


def test_scores_of_images_are_averaged_over_pixels():
    values = torch.from_numpy(probabilities(n=6 * 4).reshape(6, 4, C, T)).movedim(1, 2)
    scores = Entropy().score(values)
    single = Entropy().score(values.movedim(2, 1).reshape(24, C, T)).reshape(6, 4).mean(1)
    torch.testing.assert_close(scores, single)


def test_a_baal_object_without_reduction_on_images_is_a_clear_error(baal):
    values = torch.from_numpy(probabilities(n=24).reshape(6, 4, C, T)).movedim(1, 2)
    with pytest.raises(ConfigurationError, match=r'reduction="mean"'):
        resolve_heuristic(baal.BALD()).score(values)


def test_scores_do_not_depend_on_chunks(monkeypatch):
    values = torch.from_numpy(probabilities(n=50))
    whole = BALD().score(values)
    monkeypatch.setattr("torchloops.advanced.active_learning.heuristics._CHUNK_ELEMENTS", 200)
    torch.testing.assert_close(BALD().score(values), whole)


def test_sure_predictions_score_zero_and_not_nan():
    values = torch.zeros(2, C, T)
    values[:, 0] = 1
    for heuristic in (BALD(), Entropy(), Margin(), Certainty(), Variance(), MeanStd()):
        assert heuristic.score(values).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["BALD", "Mean-Std", "least confidence", "power_bald", "BatchBALD"])
def test_names_are_read_generously(name):
    assert isinstance(resolve_heuristic(name, query_size=3), Heuristic)


def test_wrong_heuristics_are_clear_errors(baal):
    with pytest.raises(ConfigurationError, match='Did you mean "entropy"'):
        resolve_heuristic("entrpy")
    with pytest.raises(ConfigurationError, match=r"Give BALD\(\)"):
        resolve_heuristic(BALD)
    with pytest.raises(ConfigurationError, match="expects a name"):
        resolve_heuristic(3)
    with pytest.raises(ConfigurationError, match="EPIG needs predictions"):
        resolve_heuristic(baal.EPIG())


def test_a_name_of_baal_without_baal_says_what_to_install(monkeypatch):
    for module in [name for name in __import__("sys").modules if name.partition(".")[0] == "baal"]:
        monkeypatch.delitem(__import__("sys").modules, module)
    monkeypatch.setattr("importlib.import_module", _no_baal(__import__("importlib").import_module))
    with pytest.raises(MissingDependencyError, match=r"pip install \"torchloops\[active-learning\]\""):
        resolve_heuristic("power_bald")


def _no_baal(original):
    def import_module(name, package=None):
        if name.partition(".")[0] == "baal":
            raise ModuleNotFoundError("No module named 'baal'", name="baal")
        return original(name, package)

    return import_module


def test_our_heuristics_speak_baals_contract():
    heuristic = BALD()
    assert heuristic.reversed is True
    ranks, scores = heuristic.get_ranks(probabilities())
    assert scores.shape == (N,)
    assert (np.diff(scores[ranks]) <= 0).all()
    np.testing.assert_array_equal(heuristic.get_uncertainties(probabilities()), scores)
