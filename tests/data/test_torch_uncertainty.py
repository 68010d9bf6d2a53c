"""torch-uncertainty's routines in fit, KFoldLoop and ActiveLearningLoop: what comes out is what one computes by hand.

Its ensembles answer in evaluation mode with ``(M * B, n_classes)`` logits, member after member, and its optimizers are
made once, in the routine's constructor, and returned again by every ``configure_optimizers``.

The package is no dependency. To run this file: ``pip install torch-uncertainty lightning`` beside torchloops.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library and what it imports
    pytest.importorskip("torch_uncertainty", reason="needs torch-uncertainty: pip install torch-uncertainty lightning")
    import lightning.pytorch as pl
    from torch_uncertainty.datamodules.abstract import TUDataModule
    from torch_uncertainty.losses import DistributionNLLLoss, ELBOLoss
    from torch_uncertainty.methods import (
        EMA,
        SWA,
        SWAG,
        BatchEnsemble,
        CheckpointCollector,
        deep_ensembles,
        mc_dropout,
    )
    from torch_uncertainty.models.mlp import bayesian_mlp, mimo_mlp, mlp, packed_mlp
    from torch_uncertainty.post_processing import TemperatureScaler
    from torch_uncertainty.routines import ClassificationRoutine, RegressionRoutine
    from torch_uncertainty.transforms import MIMOBatchFormat, RepeatTarget

from torchloops import Callback, KFoldLoop
from torchloops.advanced.active_learning import ActiveLearningDataModule, ActiveLearningLoop
from torchloops.advanced.kfold import KFoldDataModule
from torchloops.errors import ConfigurationError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Metric `FPR95` will save all targets"),  # one of the routines' metrics
]

M = 3  # members


# routines, as the library's tutorials build them


def sgd(model):
    """An optim_recipe: one optimizer and one scheduler, made when the routine is made."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}


def classify(model, loss=None, num_classes=3, **settings):
    return ClassificationRoutine(model, num_classes, loss or nn.CrossEntropyLoss(), optim_recipe=sgd, **settings)


def one_mlp():
    return classify(mlp(4, 3, [8]))


def deep(members=M):
    repeated = RepeatTarget(members)
    return classify(deep_ensembles(mlp(4, 3, [8]), members), is_ensemble=True, format_batch_fn=repeated)


def packed():
    return classify(packed_mlp(4, 3, [9], num_estimators=M), is_ensemble=True, format_batch_fn=RepeatTarget(M))


def batch_ensemble():
    core = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model = BatchEnsemble(core, M, repeat_training_inputs=True, convert_layers=True)
    return classify(model, is_ensemble=True, format_batch_fn=RepeatTarget(M))


def mimo():
    return classify(mimo_mlp(4, 3, [8], M), is_ensemble=True, format_batch_fn=MIMOBatchFormat(M))


def dropout(draws=M):
    return classify(mc_dropout(mlp(4, 3, [8], dropout_rate=0.3), draws), is_ensemble=True)


def bayesian(draws=M):
    model = bayesian_mlp(4, 3, [8], num_samples=draws)
    return classify(model, ELBOLoss(model, nn.CrossEntropyLoss(), kl_weight=1e-4, num_samples=1), is_ensemble=True)


def moving_average():
    return classify(EMA(mlp(4, 3, [8]), momentum=0.9))


def weight_average():
    return classify(SWA(mlp(4, 3, [8]), cycle_start=0, cycle_length=1))


def weight_gaussian():
    return classify(SWAG(mlp(4, 3, [8]), cycle_start=0, cycle_length=1, num_estimators=M), is_ensemble=True)


def checkpoints():
    return classify(CheckpointCollector(mlp(4, 3, [8])), is_ensemble=True)


def binary():
    return classify(mlp(4, 1, [8]), nn.BCEWithLogitsLoss(), num_classes=1)


def binary_deep():
    model = deep_ensembles(mlp(4, 1, [8]), M)
    return classify(model, nn.BCEWithLogitsLoss(), num_classes=1, is_ensemble=True, format_batch_fn=RepeatTarget(M))


def regression():
    return RegressionRoutine(mlp(4, 1, [8]), 1, nn.MSELoss(), optim_recipe=gentle)


def gentle(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def deep_regression(outputs=1):
    model = deep_ensembles(mlp(4, outputs, [8]), M, task="regression", probabilistic=False)
    settings = {"is_ensemble": True, "format_batch_fn": RepeatTarget(M), "optim_recipe": gentle}
    return RegressionRoutine(model, outputs, nn.MSELoss(), **settings)


def gaussian_regression():
    model = mlp(4, 1, [8], dist_family="normal")
    return RegressionRoutine(model, 1, DistributionNLLLoss(), "normal", optim_recipe=gentle)


# data


def samples(n=60, seed=0, classes=3):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return TensorDataset(inputs, labels.clamp_max(classes - 1))


def numbers(n=60, seed=0, outputs=1):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    values = torch.stack([2 * inputs[:, 0] + inputs[:, 1], inputs[:, 2]], 1)
    return TensorDataset(inputs, values[:, 0] if outputs == 1 else values)


def loader(data, shuffle=True):
    return DataLoader(data, 16, shuffle=shuffle, generator=torch.Generator().manual_seed(5))


class Data(TUDataModule):
    """The library's data module around data in memory."""

    training_task = "classification"

    def __init__(self):
        super().__init__("", 16, None, 0.0, 0, False, False)
        self.stages = []

    def setup(self, stage=None):
        self.stages.append(stage)
        self.train, self.val, self.test = samples(), samples(20, 2), samples(30, 1)


# runs


def cross_validate(make_trainer, routine, data=None, loop=None, callbacks=(), inner=None, max_epochs=2):
    """Run the loop over new folds of ``data`` and return it."""
    loop = loop or KFoldLoop(3)
    trainer = make_trainer(max_epochs=max_epochs, callbacks=list(callbacks))
    if inner is None:
        loop.connect(trainer.fit_loop)
    else:
        inner.connect(trainer.fit_loop)
        loop.connect(inner)
    trainer.fit_loop = loop
    trainer.fit(routine, samples() if data is None else data)
    return loop


def learn(make_trainer, routine, data, num_estimators=None, heuristic="entropy", **settings):
    """Two rounds; returns the loop and the weights at the end of the first."""
    kept = []

    class Keep(Callback):
        def on_round_end(self, trainer, module, row):
            kept.append(copy.deepcopy(module.state_dict()))

    loop = ActiveLearningLoop(max_rounds=2, num_estimators=num_estimators)
    trainer = make_trainer(max_epochs=3, callbacks=[Keep()])
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    datamodule = ActiveLearningDataModule(
        data, heuristic, initial_num_labels=20, query_size=6, batch_size=8, test_dataset=data, **settings
    )
    trainer.fit(routine, datamodule=datamodule)
    return loop, kept[0]


# by hand


def layer(weights, name, inputs):
    return inputs @ weights[f"{name}.weight"].double().numpy().T + weights[f"{name}.bias"].double().numpy()


def mlp_by_hand(weights, prefix, inputs):
    """Outputs ``(B, n_outputs)`` of the library's MLP of one hidden layer."""
    hidden = np.maximum(layer(weights, f"{prefix}.layers.0", inputs.double().numpy()), 0)
    return layer(weights, f"{prefix}.final_layer", hidden)


def members_by_hand(weights, inputs):
    """Outputs ``(M, B, n_outputs)`` of deep_ensembles over such MLPs."""
    return np.stack([mlp_by_hand(weights, f"model.core_models.{m}", inputs) for m in range(M)])


def members_asked(routine, weights, inputs):
    """Outputs ``(M, B, n_outputs)`` of a new routine with these weights, outside of any loop."""
    routine.load_state_dict(weights)
    routine.eval()
    with torch.no_grad():
        outputs = routine.model(inputs).double().numpy()
    return outputs.reshape(-1, len(inputs), outputs.shape[-1])


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def sigmoid_pair(logits):
    positive = 1 / (1 + np.exp(-logits))
    return np.concatenate([1 - positive, positive], -1)


def entropy(shares):
    return -(shares * np.log(shares)).sum(-1)


SCORES = {
    "entropy": lambda shares: entropy(shares.mean(0)),
    "bald": lambda shares: entropy(shares.mean(0)) - entropy(shares).mean(0),
    "variance": lambda shares: shares.var(0).mean(-1),
    "certainty": lambda shares: 1 - shares.mean(0).max(-1),
}


def probabilities(loop):
    return loop.oof.filter(like="prob_").to_numpy()


def check_oof(loop, data, outputs_of, to_shares=softmax):
    """Every held-out sample's probabilities, class and fold score are those of its own fold's weights."""
    inputs, labels = data.tensors
    oof = loop.oof
    assert sorted(oof["sample_id"]) == list(range(len(inputs)))
    assert oof["target"].tolist() == labels[oof["sample_id"].tolist()].tolist()
    for result in loop.results:
        part = oof[oof["fold"] == result.fold]
        ids = part["sample_id"].tolist()
        shares = to_shares(outputs_of(result.weights, inputs[ids])).mean(0)
        np.testing.assert_allclose(part.filter(like="prob_").to_numpy(), shares, atol=1e-5)
        assert part["prediction"].tolist() == shares.argmax(1).tolist()
        accuracy = (shares.argmax(1) == labels[ids].numpy()).mean()
        row = loop.folds[loop.folds["fold"] == result.fold]
        assert row["val/cls/Acc"].item() == pytest.approx(accuracy, abs=1e-6)  # as the routine itself has it


# fit

FITTED = [
    one_mlp, deep, packed, batch_ensemble, mimo, dropout, bayesian, moving_average, weight_average, weight_gaussian,
    checkpoints, binary, binary_deep, regression, deep_regression, gaussian_regression,
]  # fmt: skip


def data_of(make, **settings):
    if "regression" in make.__name__:
        return numbers(**settings)
    return samples(classes=2 if "binary" in make.__name__ else 3, **settings)


@pytest.mark.parametrize("make", FITTED)
def test_a_fit_and_a_test_equal_those_of_lightning(make, make_trainer, tmp_path):
    def run(trainer):
        torch.manual_seed(0)
        routine = make()
        trainer.fit(routine, loader(data_of(make)), loader(data_of(make, n=30, seed=1), shuffle=False))
        torch.manual_seed(1)
        scores = trainer.test(routine, loader(data_of(make, n=30, seed=1), shuffle=False))
        return routine.state_dict(), scores[0] if isinstance(scores, list) else scores

    settings = {"max_epochs": 2, "num_sanity_val_steps": 0}
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    theirs = pl.Trainer(
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path, **quiet, **settings
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, expected_scores = run(theirs)
    weights, scores = run(make_trainer(**settings))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert {name: float(value) for name, value in scores.items()} == pytest.approx(
        {name: float(value) for name, value in expected_scores.items()}, nan_ok=True
    )


# cross-validation: the optimizer of the recipe


class Fresh(ClassificationRoutine):
    """Makes its optimizer anew in every fit, as a module of one's own would."""

    def configure_optimizers(self):
        return sgd(self.model)


def fold_weights(loop):
    return {result.fold: result.weights for result in loop.results}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_fold_begins_with_the_optimizer_as_the_recipe_made_it(make_trainer):
    began = []

    class Watch(Callback):
        def on_train_start(self, trainer, module):
            optimizer, scheduler = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
            began.append((optimizer.param_groups[0]["lr"], len(optimizer.state), scheduler.last_epoch))

        def on_train_end(self, trainer, module):
            own = {id(parameter) for parameter in module.parameters()}
            held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
            assert held == own

    loop = cross_validate(make_trainer, one_mlp(), callbacks=[Watch()])
    assert began == [(0.5, 0, 0)] * 3
    assert loop.folds["initial_weights"].nunique() == 1


def test_folds_equal_those_of_a_routine_that_makes_its_optimizer_in_each_fit(make_trainer):
    torch.manual_seed(3)
    loop = cross_validate(make_trainer, one_mlp())
    torch.manual_seed(3)
    fresh = cross_validate(make_trainer, Fresh(mlp(4, 3, [8]), 3, nn.CrossEntropyLoss()))
    assert all(same(fold_weights(loop)[fold], fold_weights(fresh)[fold]) for fold in range(3))


@pytest.mark.parametrize("make", [one_mlp, deep, dropout, moving_average])
def test_a_fold_alone_is_that_fold_among_others(make, make_trainer):
    rows = {"num_estimators": M} if make in (deep, dropout) else {}
    torch.manual_seed(3)
    full = cross_validate(make_trainer, make(), loop=KFoldLoop(3, **rows))
    torch.manual_seed(3)
    alone = cross_validate(make_trainer, make(), loop=KFoldLoop(3, folds=[2], **rows))
    assert same(fold_weights(full)[2], fold_weights(alone)[2])
    last = full.oof[full.oof["fold"] == 2].reset_index(drop=True)
    assert last.equals(alone.oof.reset_index(drop=True))


def test_the_routine_can_be_fitted_after_a_cross_validation_as_before_it(make_trainer):
    torch.manual_seed(3)
    routine = one_mlp()
    cross_validate(make_trainer, routine)
    make_trainer(max_epochs=2).fit(routine, loader(samples()))
    torch.manual_seed(3)
    untouched = one_mlp()
    make_trainer(max_epochs=2).fit(untouched, loader(samples()))
    assert same(routine.state_dict(), untouched.state_dict())


def test_a_second_cross_validation_of_a_routine_equals_the_first(make_trainer):
    routine = one_mlp()
    first, second = cross_validate(make_trainer, routine), cross_validate(make_trainer, routine)
    assert all(same(fold_weights(first)[fold], fold_weights(second)[fold]) for fold in range(3))


def test_folds_in_processes_of_their_own_equal_those_in_one(make_trainer):
    def run(jobs):
        torch.manual_seed(3)
        return cross_validate(make_trainer, deep(), loop=KFoldLoop(3, n_jobs=jobs, threads=1, num_estimators=M))

    one, several = run(1), run(2)
    assert all(same(fold_weights(one)[fold], fold_weights(several)[fold]) for fold in range(3))
    assert one.oof.equals(several.oof)


# cross-validation: ensembles


def test_oof_of_one_model_by_hand(make_trainer):
    loop = cross_validate(make_trainer, one_mlp())
    check_oof(loop, samples(), lambda weights, inputs: mlp_by_hand(weights, "model", inputs)[None])
    assert set(loop.folds["outputs"]) == {"logits"}


def test_oof_of_a_deep_ensemble_is_the_mean_of_its_members_probabilities(make_trainer):
    loop = cross_validate(make_trainer, deep(), loop=KFoldLoop(3, num_estimators=M))
    check_oof(loop, samples(), members_by_hand)
    assert set(loop.folds["outputs"]) == {"logits"}
    assert [result.kind for result in loop.results] == ["logits"] * 3


@pytest.mark.parametrize("make", [packed, batch_ensemble, mimo])
def test_oof_of_the_other_ensembles(make, make_trainer):
    loop = cross_validate(make_trainer, make(), loop=KFoldLoop(3, num_estimators=M))
    check_oof(loop, samples(), lambda weights, inputs: members_asked(make(), weights, inputs))


@pytest.mark.parametrize("make", [dropout, bayesian])
def test_oof_of_a_stochastic_model_is_the_mean_of_its_draws(make, make_trainer):
    draws = 300 if make is dropout else 40  # a Bayesian layer's draws are slow, and closer together
    loop = cross_validate(make_trainer, make(draws), loop=KFoldLoop(3, num_estimators=draws), max_epochs=4)
    inputs = samples().tensors[0]
    for result in loop.results:
        part = loop.oof[loop.oof["fold"] == result.fold]
        shares = softmax(members_asked(make(draws), result.weights, inputs[part["sample_id"].tolist()]))
        assert shares.std(0).max() > 0
        error = 5 * shares.std(0) / np.sqrt(draws) * np.sqrt(2) + 1e-4  # of two means of draws
        assert (abs(part.filter(like="prob_").to_numpy() - shares.mean(0)) < error).all()


@pytest.mark.parametrize("make", [binary, binary_deep])
def test_oof_of_one_logit_by_hand(make, make_trainer):
    rows = {"num_estimators": M} if make is binary_deep else {}
    data = samples(classes=2)
    loop = cross_validate(make_trainer, make(), data, KFoldLoop(3, **rows))

    def outputs_of(weights, inputs):
        return members_by_hand(weights, inputs) if rows else mlp_by_hand(weights, "model", inputs)[None]

    check_oof(loop, data, outputs_of, sigmoid_pair)
    assert set(loop.folds["outputs"]) == {"one_logit"}


def test_the_ensemble_of_folds_is_the_mean_over_folds_and_members(make_trainer):
    test = samples(40, seed=1)
    data = KFoldDataModule(samples(), batch_size=16, test_dataset=test)
    loop = cross_validate(make_trainer, deep(), data, KFoldLoop(3, num_estimators=M))
    inputs, labels = test.tensors
    shares = np.mean([softmax(members_by_hand(r.weights, inputs)).mean(0) for r in loop.results], 0)
    with torch.no_grad():
        asked = loop.ensemble("soft")(inputs).numpy()
    np.testing.assert_allclose(asked, shares, atol=1e-5)
    loss = -np.log(shares[np.arange(40), labels.numpy()]).mean()
    accuracy = (shares.argmax(1) == labels.numpy()).mean()
    assert loop.ensemble_scores["ensemble/accuracy"] == pytest.approx(accuracy)
    assert loop.ensemble_scores["ensemble/log_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("rows", [None, 2, 4])
def test_more_or_fewer_rows_than_said_are_refused_before_training(rows, make_trainer):
    trained = []

    class Watch(Callback):
        def on_train_batch_end(self, *args, **kwargs):
            trained.append(1)

    with pytest.raises(ConfigurationError, match="num_estimators"):
        cross_validate(make_trainer, deep(), loop=KFoldLoop(3, num_estimators=rows), callbacks=[Watch()])
    assert not trained


# cross-validation: wrappers that keep models of their own


def test_a_moving_average_is_what_is_scored_and_starts_anew_in_each_fold(make_trainer):
    loop = cross_validate(make_trainer, moving_average())
    check_oof(loop, samples(), lambda weights, inputs: mlp_by_hand(weights, "model.ema_model", inputs)[None])


def mean_of_members(module, batch):
    inputs = batch[0]
    return module(inputs).unflatten(0, (-1, len(inputs))).softmax(-1).mean(0)


def test_samples_of_weights_that_a_wrapper_keeps_are_gone_in_the_next_fold(make_trainer):
    """SWAG answers with a row a sample until it has seen two epochs, then with M: only a function can know."""

    def run(**settings):
        torch.manual_seed(3)
        loop = KFoldLoop(3, predict=mean_of_members, outputs="probabilities", test_ensemble=None, **settings)
        routine = weight_gaussian()
        return routine, cross_validate(make_trainer, routine, loop=loop, max_epochs=4)

    routine, full = run()
    assert not routine.model.fit  # as it was before: it answers with its core model
    _, alone = run(folds=[2])
    assert same(fold_weights(full)[2], fold_weights(alone)[2])
    assert "model.swag_stats.final_layer.weight_mean" in fold_weights(full)[2]
    last = full.oof[full.oof["fold"] == 2].reset_index(drop=True)
    assert last.equals(alone.oof.reset_index(drop=True))


def test_a_wrapper_that_answers_with_more_rows_once_trained_is_refused(make_trainer):
    with pytest.raises(ConfigurationError, match="2 rows for 2 samples; expected num_estimators=3"):
        cross_validate(make_trainer, weight_gaussian(), loop=KFoldLoop(3, num_estimators=M))
    with pytest.raises(ConfigurationError, match=r"expected one row a sample.*predict="):
        cross_validate(make_trainer, weight_gaussian(), max_epochs=4)


@pytest.mark.parametrize("make", [weight_average, checkpoints])
def test_a_wrapper_that_adds_parameters_while_it_trains_is_refused(make, make_trainer):
    loop = KFoldLoop(3, predict=mean_of_members, outputs="probabilities")
    with pytest.raises(ConfigurationError, match=r"another parameter .* than when the run began"):
        cross_validate(make_trainer, make(), loop=loop)


# regression


@pytest.mark.parametrize("outputs", [1, 2])
def test_oof_of_a_regression_ensemble_is_the_mean_of_its_members(outputs, make_trainer):
    data = numbers(outputs=outputs)
    loop = cross_validate(make_trainer, deep_regression(outputs), data, KFoldLoop(3, num_estimators=M))
    inputs, targets = data.tensors
    found, expected = [], []
    for result in loop.results:
        part = loop.oof[loop.oof["fold"] == result.fold]
        ids = part["sample_id"].tolist()
        found.append(part.filter(like="prediction").to_numpy())
        expected.append(members_by_hand(result.weights, inputs[ids]).mean(0))
        error = ((expected[-1] - targets[ids].numpy().reshape(len(ids), -1)) ** 2).mean()
        assert loop.folds["val/reg/MSE"][result.fold] == pytest.approx(error, rel=1e-4)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-5)
    assert set(loop.folds["outputs"]) == {"numbers"}


def test_oof_of_one_regression_model(make_trainer):
    data = numbers()
    loop = cross_validate(make_trainer, regression(), data)
    for result in loop.results:
        part = loop.oof[loop.oof["fold"] == result.fold]
        expected = mlp_by_hand(result.weights, "model", data.tensors[0][part["sample_id"].tolist()])[:, 0]
        np.testing.assert_allclose(part["prediction"].to_numpy(), expected, atol=1e-5)


def test_a_distribution_is_read_by_a_predict_function(make_trainer):
    data = numbers()
    loop = KFoldLoop(3, predict=lambda module, batch: module(batch[0])["loc"])
    cross_validate(make_trainer, gaussian_regression(), data, loop)
    for result in loop.results:
        part = loop.oof[loop.oof["fold"] == result.fold]
        routine = gaussian_regression()
        routine.load_state_dict(result.weights)
        with torch.no_grad():
            expected = routine.eval()(data.tensors[0][part["sample_id"].tolist()])["loc"]
        np.testing.assert_allclose(part["prediction"].to_numpy(), expected.numpy(), atol=1e-5)


def test_a_distribution_without_a_predict_function_is_refused(make_trainer):
    with pytest.raises(ConfigurationError, match="predict"):
        cross_validate(make_trainer, gaussian_regression(), numbers())


# active learning


def check_asked(loop, size, scores_of, query_size=6):
    """The ids that were asked, their order and their scores are those of the pool's scores by hand."""
    before = loop.queries[loop.queries["round"] == -1]["sample_id"]
    pool = np.array(sorted(set(range(size)) - set(before)))
    scores = scores_of(pool)
    asked = loop.queries[loop.queries["round"] == 0]
    assert len(asked) == query_size
    assert asked["sample_id"].tolist() == pool[np.argsort(-scores)][:query_size].tolist()
    np.testing.assert_allclose(asked["score"], np.sort(scores)[::-1][:query_size], atol=1e-5)
    assert loop.rounds["score_mean"][0] == pytest.approx(scores.mean(), abs=1e-5)
    assert loop.rounds["score_std"][0] == pytest.approx(scores.std(), abs=1e-5)


def test_one_model_asks_by_the_entropy_of_its_probabilities(make_trainer):
    data = samples(80)
    loop, weights = learn(make_trainer, one_mlp(), data)
    inputs = data.tensors[0]
    check_asked(loop, 80, lambda pool: entropy(softmax(mlp_by_hand(weights, "model", inputs[pool]))))
    assert set(loop.rounds["outputs"].dropna()) == {"logits"}


@pytest.mark.parametrize("heuristic", SCORES)
def test_a_deep_ensemble_asks_by_its_members_as_draws(heuristic, make_trainer):
    data = samples(80)
    loop, weights = learn(make_trainer, deep(), data, M, heuristic)
    inputs, labels = data.tensors
    check_asked(loop, 80, lambda pool: SCORES[heuristic](softmax(members_by_hand(weights, inputs[pool]))))
    asked = loop.queries[loop.queries["round"] == 0]
    ids = asked["sample_id"].tolist()
    assert asked["label"].tolist() == labels[ids].tolist()
    assert asked["prediction"].tolist() == softmax(members_by_hand(weights, inputs[ids])).mean(0).argmax(1).tolist()


@pytest.mark.parametrize("make", [packed, batch_ensemble, mimo])
def test_the_other_ensembles_ask_by_bald_without_dropout(make, make_trainer):
    data = samples(80)
    loop, weights = learn(make_trainer, make(), data, M, "bald")
    check_asked(loop, 80, lambda pool: SCORES["bald"](softmax(members_asked(make(), weights, data.tensors[0][pool]))))


def test_an_ensemble_of_one_logit_asks_by_bald(make_trainer):
    data = samples(80, classes=2)
    loop, weights = learn(make_trainer, binary_deep(), data, M, "bald")
    inputs = data.tensors[0]
    check_asked(loop, 80, lambda pool: SCORES["bald"](sigmoid_pair(members_by_hand(weights, inputs[pool]))))
    assert set(loop.rounds["outputs"].dropna()) == {"one_logit"}


@pytest.mark.parametrize("make", [dropout, bayesian])
def test_a_stochastic_model_asks_by_its_own_draws(make, make_trainer):
    data, draws = samples(80), 300 if make is dropout else 40
    loop, weights = learn(make_trainer, make(draws), data, draws, "entropy")
    asked = loop.queries[loop.queries["round"] == 0]
    inputs = data.tensors[0][asked["sample_id"].tolist()]
    expected = SCORES["entropy"](softmax(members_asked(make(draws), weights, inputs)))
    np.testing.assert_allclose(asked["score"], expected, atol=0.05)
    assert loop.rounds["score_std"][0] > 0


@pytest.mark.parametrize("heuristic", ["variance", "mean_std"])
def test_a_regression_ensemble_asks_where_its_members_differ(heuristic, make_trainer):
    data = numbers(80)
    loop, weights = learn(make_trainer, deep_regression(), data, M, heuristic)

    def scores_of(pool):
        values = members_by_hand(weights, data.tensors[0][pool])[..., 0]
        return values.var(0) if heuristic == "variance" else values.std(0)

    check_asked(loop, 80, scores_of)
    assert set(loop.rounds["outputs"].dropna()) == {"numbers"}


def test_a_regression_ensemble_is_refused_where_classes_are_needed(make_trainer):
    with pytest.raises(ConfigurationError, match="variance"):
        learn(make_trainer, deep_regression(), numbers(80), M, "bald")


@pytest.mark.parametrize("rows", [None, 2, 4])
def test_more_or_fewer_draws_than_said_are_refused_before_training(rows, make_trainer):
    routine = deep()
    before = copy.deepcopy(routine.state_dict())
    with pytest.raises(ConfigurationError, match="num_estimators"):
        learn(make_trainer, routine, samples(80), rows)
    assert same(routine.state_dict(), before)


def test_every_round_begins_with_the_optimizer_as_the_recipe_made_it(make_trainer):
    began = []

    class Watch(Callback):
        def on_train_start(self, trainer, module):
            optimizer, scheduler = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
            began.append((optimizer.param_groups[0]["lr"], len(optimizer.state), scheduler.last_epoch))

    loop = ActiveLearningLoop(max_rounds=3, num_estimators=M)
    trainer = make_trainer(max_epochs=2, callbacks=[Watch()])
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(deep(), datamodule=ActiveLearningDataModule(samples(), "bald", 20, 5, batch_size=16))
    assert began == [(0.5, 0, 0)] * 3


# one in the other, and the library's data module


def test_a_cross_validation_over_active_learning(make_trainer):
    rows = {"num_estimators": M}
    data = ActiveLearningDataModule(samples(), "bald", initial_num_labels=12, query_size=4, batch_size=8)
    outer, inner = KFoldLoop(3, **rows), ActiveLearningLoop(max_rounds=2, **rows)
    loop = cross_validate(make_trainer, deep(), data, outer, inner=inner)
    check_oof_only(loop, samples())
    rounds = loop.tables["rounds"]
    assert rounds["n_labelled"].tolist() == [12, 16] * 3
    assert (rounds.groupby("fold")["score_mean"].first() > 0).all()


def check_oof_only(loop, data):
    for result in loop.results:
        part = loop.oof[loop.oof["fold"] == result.fold]
        shares = softmax(members_by_hand(result.weights, data.tensors[0][part["sample_id"].tolist()])).mean(0)
        np.testing.assert_allclose(part.filter(like="prob_").to_numpy(), shares, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The validation data of the fit is not used")
def test_the_librarys_data_module_and_its_calibration_data_in_every_fold(make_trainer):
    torch.manual_seed(3)
    data, routine = Data(), classify(mlp(4, 3, [8]), post_processing=TemperatureScaler())
    loop = cross_validate(make_trainer, routine, data, KFoldLoop(3, test_each_fold=True))
    check_oof(loop, samples(), lambda weights, inputs: mlp_by_hand(weights, "model", inputs)[None])
    assert loop.folds["test/post/cls/Acc"].notna().all()
    assert data.stages.count("fit") == 1
    inputs, labels = data.test.tensors
    for result in loop.results:
        accuracy = (mlp_by_hand(result.weights, "model", inputs).argmax(1) == labels.numpy()).mean()
        assert loop.folds["test/cls/Acc"][result.fold] == pytest.approx(accuracy)
