"""Dropout draws and pool scores: distribution, independence, restoration, ties, errors."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from torchloops.advanced.active_learning import PoolScores, Random, mc_dropout, resolve_heuristic, score_pool
from torchloops.advanced.active_learning.scoring import score_ids, try_heuristic
from torchloops.advanced.active_learning.stochastic import StochasticForward
from torchloops.data import Asker, Reader
from torchloops.data.items import number_of_rows
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import isolated_generators


class Net(nn.Module):
    """A residual net whose dropout stands in the middle."""

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.dropout = dropout
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.norm(self.body(x)).relu()
        return self.head(x + self.dropout(x))


def make_net(dropout=None, seed=0):
    with isolated_generators(seed):
        return Net(dropout or nn.Dropout(0.5))


def pool(n=40, batch=16, seed=1):
    with isolated_generators(seed):
        x = torch.randn(n, 6)
    ids = torch.arange(100, 100 + n)
    return list(zip(ids.split(batch), x.split(batch), strict=True))


def reader_of(net, **settings):
    """What asks ``net`` and takes its answers for logits, as after a first batch."""
    reader = Reader(Asker(net), **({"outputs": "logits"} | settings))
    reader.is_tried = True
    return reader


def check_draws_differ(net, batches, heuristic):
    try_heuristic(net, heuristic, reader_of(net), batches[0][1], len(batches[0][1]))


def forward_in(way, net, draws, inputs):
    """Probabilities by one way, whichever is the fastest."""
    forward = StochasticForward(reader_of(net), draws)
    forward._ways = [getattr(forward, f"_{way}")]
    with mc_dropout(net):
        return forward(inputs, number_of_rows(inputs))


DROPOUTS = {
    "Dropout": (nn.Dropout, (6,)),
    "inplace": (lambda p: nn.Dropout(p, inplace=True), (6,)),
    "Dropout1d": (nn.Dropout1d, (6, 5)),
    "Dropout2d": (nn.Dropout2d, (6, 5, 5)),
    "Dropout3d": (nn.Dropout3d, (6, 3, 3, 3)),
    "AlphaDropout": (nn.AlphaDropout, (6,)),
    "FeatureAlphaDropout": (nn.FeatureAlphaDropout, (6, 5, 5)),
}


@pytest.mark.parametrize("way", ["vmapped", "folded", "looped"])
@pytest.mark.parametrize("kind", DROPOUTS)
def test_every_kind_of_dropout_is_on_and_its_draws_are_independent(kind, way):
    make, shape = DROPOUTS[kind]
    net = nn.Sequential(make(0.5), nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)).eval()
    inputs = torch.ones(4, *shape)
    with isolated_generators(0):
        values = forward_in(way, net, 6, inputs)
    assert values.shape == (4, 3, 6)
    torch.testing.assert_close(values.sum(1), torch.ones(4, 6))
    flat = values.movedim(-1, 0).flatten(1)
    assert len({tuple(row.tolist()) for row in flat}) == 6, "draws repeat"
    assert len({tuple(row.flatten().tolist()) for row in values}) == 4, "samples share their masks"
    assert torch.equal(inputs, torch.ones(4, *shape)), "the input was changed in place"


@pytest.mark.parametrize("way", ["vmapped", "folded"])
def test_the_fast_ways_have_the_distribution_of_the_loop(way):
    net, inputs = make_net(), torch.linspace(-2, 2, 18).reshape(3, 6)
    with isolated_generators(0):
        fast, slow = forward_in(way, net, 4000, inputs), forward_in("looped", net, 4000, inputs)
    torch.testing.assert_close(fast.mean(-1), slow.mean(-1), atol=0.02, rtol=0)
    torch.testing.assert_close(fast.std(-1), slow.std(-1), atol=0.02, rtol=0)
    for q in (0.1, 0.5, 0.9):
        torch.testing.assert_close(fast.quantile(q, -1), slow.quantile(q, -1), atol=0.04, rtol=0)


def test_what_stands_before_the_dropout_runs_once():
    net = make_net()
    with mc_dropout(net):
        forward = StochasticForward(reader_of(net), 25)
        forward(torch.randn(4, 6), 4)
    assert forward.way == "vmapped"
    assert net.calls == 1


def test_a_model_that_vmap_cannot_run_falls_back_to_folding_and_then_to_the_loop():
    class Branching(Net):
        def forward(self, x):
            return super().forward(x) if self.dropout(x).sum() > -1e9 else x

    class OneByOne(Branching):
        def forward(self, x):
            if len(x) > 4:
                raise RuntimeError("takes four samples at most")
            return super().forward(x)

    for cls, way in ((Branching, "folded"), (OneByOne, "looped")):
        net = cls(nn.Dropout(0.5))
        with mc_dropout(net):
            forward = StochasticForward(reader_of(net), 5)
            assert forward(torch.randn(4, 6), 4).shape == (4, 3, 5)
        assert forward.way == way


def test_an_error_of_the_model_itself_is_shown():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        score_pool(make_net(), [(torch.arange(2), torch.randn(2, 7))], resolve_heuristic("bald"))


def test_inputs_may_be_dictionaries():
    class Pair(Net):
        def forward(self, batch):
            return super().forward(batch["a"] + batch["b"])

    net = Pair(nn.Dropout(0.5))
    inputs = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    for way in ("vmapped", "folded", "looped"):
        assert forward_in(way, net, 3, inputs).shape == (4, 3, 3)


def modes(net):
    return {name: part.training for name, part in net.named_modules()}


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_inplace_flags_come_back_also_after_an_error(fails):
    net = make_net(nn.Dropout(0.5, inplace=True))
    net.train()
    net.norm.eval()
    before = modes(net)
    with pytest.raises(ZeroDivisionError) if fails else mc_dropout(net) as inside:
        if fails:
            with mc_dropout(net):
                raise ZeroDivisionError
        assert [part.training for part in inside] == [True]
        assert not net.norm.training
        assert not net.dropout.inplace
    assert modes(net) == before
    assert net.dropout.inplace


def test_batch_norm_statistics_are_not_touched():
    net = make_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    score_pool(net, pool(), resolve_heuristic("bald"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def generator_states():
    numpy_state = np.random.get_state()[1].tolist()
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", ["bald", "random"])
def test_scoring_leaves_no_trace_in_the_random_generators(name):
    before = generator_states()
    score_pool(make_net(), pool(), resolve_heuristic(name))
    score_ids([1, 2, 3], Random(), seed=4)
    assert generator_states() == before


def test_scores_depend_on_the_seed_and_on_nothing_else():
    net, heuristic = make_net(), resolve_heuristic("bald")
    one = score_pool(net, pool(), heuristic, seed=1)
    torch.rand(7)
    same, other = score_pool(net, pool(), heuristic, seed=1), score_pool(net, pool(), heuristic, seed=2)
    assert torch.equal(one.scores, same.scores)
    assert not torch.equal(one.scores, other.scores)


def test_every_sample_of_every_batch_is_scored_under_its_own_id():
    scores = score_pool(make_net(), pool(n=40, batch=16), resolve_heuristic("entropy"), draws=200)
    assert scores.sample_ids == list(range(100, 140))
    assert scores.scores.unique().numel() == 40
    whole = score_pool(make_net(), pool(n=40, batch=40), resolve_heuristic("entropy"), draws=200)
    torch.testing.assert_close(scores.scores, whole.scores, atol=0.08, rtol=0)


@pytest.mark.parametrize("name", ["bald", "variance", "mean_std"])
@pytest.mark.parametrize("dropout", [nn.Identity(), nn.Dropout(0.0)], ids=["none", "p=0"])
def test_a_model_without_randomness_is_an_error_and_no_zero_score(name, dropout):
    net = make_net(dropout)
    for check in (score_pool, check_draws_differ):
        with pytest.raises(ConfigurationError, match="never differ"):
            check(net, pool(), resolve_heuristic(name))


@pytest.mark.parametrize("name", ["entropy", "margin", "certainty", "random"])
def test_a_model_without_randomness_is_fine_where_one_answer_is_enough(name):
    net, heuristic = make_net(nn.Identity()), resolve_heuristic(name)
    check_draws_differ(net, pool(), heuristic)
    expected = net.eval()(torch.cat([x for _, x in pool()])).softmax(1).unsqueeze(-1)
    scores = score_pool(net, pool(), heuristic).scores
    if heuristic.needs_predictions:
        torch.testing.assert_close(scores, heuristic.score(expected).double(), check_dtype=False)


def test_a_head_of_zeros_before_training_is_no_error_where_there_is_dropout():
    net = make_net()
    nn.init.zeros_(net.head.weight)
    check_draws_differ(net, pool(), resolve_heuristic("bald"))


def test_a_layer_that_is_random_by_itself_counts_as_randomness():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    net = make_net(Noise())
    check_draws_differ(net, pool(), resolve_heuristic("bald"))
    assert (score_pool(net, pool(), resolve_heuristic("bald")).scores > 0).all()


def test_bald_asks_where_the_draws_disagree():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[3.0, -3.0], [-3.0, 3.0]]))
    nothing_to_drop, either_or = [0.0, 0.0], [1.0, 1.0]
    batch = (torch.tensor([7, 9]), torch.tensor([nothing_to_drop, either_or]))
    scores = score_pool(net, [batch], resolve_heuristic("bald"), draws=200)
    assert scores.best(1).sample_ids == [9]
    assert scores.scores[0] == 0
    entropy = score_pool(net, [batch], resolve_heuristic("entropy"), draws=1)
    assert entropy.scores[0] == pytest.approx(np.log(2))


def test_equal_scores_come_in_a_seeded_random_order():
    equal = torch.zeros(50, dtype=torch.float64)
    orders = [PoolScores(list(range(50)), equal, None, seed).order() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] != list(range(50)) != orders[0][::-1]


def test_ties_are_broken_only_among_equals():
    values = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    best = PoolScores([10, 11, 12, 13, 14], values, [0, 1, 2, 3, 4], seed=5).best(3)
    assert best.sample_ids[:2] == [11, 13]
    assert best.predictions[:2] == [1, 3]
    assert best.scores.tolist() == [3, 2, 1]


@pytest.mark.parametrize("name", ["bald", "entropy"])
def test_outputs_that_are_not_finite_are_an_error(name):
    net = make_net()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    with pytest.raises(DataError, match=r"no finite score for 40 of 40 samples \(ids 100, 101"):
        score_pool(net, pool(), resolve_heuristic(name))


def test_an_empty_pool_has_no_scores():
    scores = score_pool(make_net(), [], resolve_heuristic("bald"))
    assert scores.sample_ids == []
    assert scores.best(3).sample_ids == []


def test_random_scores_do_not_ask_the_model_and_are_seeded():
    one, same, other = (score_ids(list(range(20)), Random(), seed) for seed in (0, 0, 1))
    assert torch.equal(one.scores, same.scores)
    assert not torch.equal(one.scores, other.scores)
    assert one.predictions is None


@pytest.mark.parametrize(
    ("end", "kind"),
    [(lambda x: x, "logits"), (lambda x: x.softmax(1), "probabilities"), (lambda x: x.log_softmax(1), "logits"),
     (lambda x: x[:, :1], "one_logit"), (lambda x: x[:, 0].sigmoid(), "one_probability")],
)  # fmt: skip
def test_what_answers_mean_is_seen_from_the_last_operation(end, kind):
    class Ending(Net):
        def forward(self, x):
            return end(super().forward(x))

    net = Ending(nn.Identity())
    reader = Reader(Asker(net))
    scores = score_pool(net, pool(), resolve_heuristic("entropy"), draws=1, reader=reader)
    logits = make_net(nn.Identity()).eval()(torch.cat([x for _, x in pool()])).detach()
    net.load_state_dict(make_net(nn.Identity()).state_dict())
    scores = score_pool(net, pool(), resolve_heuristic("entropy"), draws=1, reader=Reader(Asker(net)))
    yes = logits[:, 0].sigmoid()
    probabilities = torch.stack([1 - yes, yes], 1) if kind.startswith("one") else logits.softmax(1)
    assert reader.meaning.kind == kind
    torch.testing.assert_close(scores.scores, torch.special.entr(probabilities).sum(1).double(), check_dtype=False)


@pytest.mark.parametrize(
    ("output", "message"),
    [({"logits": 1}, "answers with a dict"), (torch.zeros(()), "a tensor of one number"),
     (torch.zeros(32, 3), r"32 rows for 16 samples; .*num_estimators=2"), (torch.zeros(7, 3), "7 rows for 16 samples")],
)  # fmt: skip
def test_other_outputs_are_a_clear_error(output, message):
    class Odd(Net):
        def forward(self, x):
            return output

    net = Odd(nn.Identity())
    with pytest.raises(ConfigurationError, match=message):
        score_pool(net, pool(), resolve_heuristic("entropy"))


def test_a_function_may_turn_any_output_into_probabilities():
    class Dictionary(Net):
        def forward(self, x):
            return {"logits": super().forward(x)}

    net = Dictionary(nn.Dropout(0.5))
    reader = Reader(Asker(net), to_probabilities=lambda output: output["logits"].softmax(1))
    scores = score_pool(net, pool(), resolve_heuristic("bald"), reader=reader)
    assert (scores.scores > 0).all()


def test_predictions_are_the_likeliest_classes():
    net = make_net(nn.Identity())
    scores = score_pool(net, pool(), resolve_heuristic("entropy"))
    assert scores.predictions == net.eval()(torch.cat([x for _, x in pool()])).argmax(1).tolist()


def test_streaming_and_whole_pool_heuristics_agree():
    heuristic = resolve_heuristic("bald")
    streamed = score_pool(make_net(), pool(), heuristic, seed=3).scores
    heuristic.streams = False
    torch.testing.assert_close(score_pool(make_net(), pool(), heuristic, seed=3).scores, streamed)


def test_no_graph_is_kept_and_gradients_stay_as_they_are():
    net = make_net()
    score_pool(net, pool(), resolve_heuristic("bald"))
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
