"""The same module, data and seed give the same bits under Lightning's Trainer and under ours."""

import copy

import pytest
import torch
from lightning_models import Adversarial, Classifier, Data, loader
from torch import nn

import torchloops

CASES = {
    "sgd": ({}, {}),
    "adam": ({"optimizer": "adam"}, {}),
    "adam, scheduler by step": ({"optimizer": "adam", "schedule": "step"}, {}),
    "sgd, scheduler by epoch": ({"schedule": "epoch"}, {}),
    "sgd, plateau": ({"schedule": "plateau"}, {}),
    "accumulation": ({}, {"accumulate_grad_batches": 3}),
    "accumulation with a scheduler by step": (
        {"optimizer": "adam", "schedule": "step"},
        {"accumulate_grad_batches": 3},
    ),
    "clipping by norm": ({}, {"gradient_clip_val": 0.05}),
    "clipping by value": ({}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "dropout": ({"dropout": 0.5}, {}),
    "a number of steps": ({"optimizer": "adam"}, {"max_epochs": -1, "max_steps": 7}),
    "limited batches": ({}, {"limit_train_batches": 0.6, "limit_val_batches": 2}),
    "validation within the epoch": ({"schedule": "plateau"}, {"val_check_interval": 2}),
    "bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "bf16-mixed, clipping": ({}, {"precision": "bf16-mixed", "gradient_clip_val": 0.05}),
    "double precision": ({}, {"precision": "64-true"}),
}


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", CASES)
def test_weights_and_logged_values_equal_lightnings(name, fit_theirs, fit_ours):
    module_options, trainer_options = CASES[name]
    options = {"max_epochs": 3, **trainer_options}
    theirs = Classifier(**module_options)
    ours = copy.deepcopy(theirs)
    before = copy.deepcopy(theirs)

    torchloops.seed_everything(5)
    their_trainer = fit_theirs(theirs, fit_options={"datamodule": Data()}, **options)
    torchloops.seed_everything(5)
    our_trainer = fit_ours(ours, fit_options={"datamodule": Data()}, **options)

    assert not same_weights(before, ours)
    assert same_weights(theirs, ours)
    assert our_trainer.global_step == their_trainer.global_step
    assert our_trainer.current_epoch == their_trainer.current_epoch
    their_values = {key: float(value) for key, value in their_trainer.callback_metrics.items()}
    our_values = {key: float(value) for key, value in our_trainer.callback_metrics.items()}
    assert our_values == pytest.approx(their_values, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("schedule", [False, True])
def test_manual_optimization_equals_lightnings(clip, schedule, fit_theirs, fit_ours):
    theirs = Adversarial(clip, schedule)
    ours = copy.deepcopy(theirs)
    torchloops.seed_everything(5)
    their_trainer = fit_theirs(theirs, loader(), max_epochs=2)
    torchloops.seed_everything(5)
    our_trainer = fit_ours(ours, loader(), max_epochs=2)

    assert same_weights(theirs, ours)
    assert ours.seen == theirs.seen == [[True, False], [False, True]] * 10
    assert our_trainer.global_step == their_trainer.global_step == 20
    for key, value in their_trainer.callback_metrics.items():
        assert our_trainer.callback_metrics[key] == value


def test_lbfgs_equals_lightnings(fit_theirs, fit_ours):
    class WithLBFGS(Classifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4)

    theirs = WithLBFGS()
    ours = copy.deepcopy(theirs)
    fit_theirs(theirs, loader(), max_epochs=2)
    trainer = fit_ours(ours, loader(), max_epochs=2)
    assert same_weights(theirs, ours)
    assert trainer.global_step == 10


@pytest.mark.filterwarnings("ignore:training_step returned no loss")
def test_batches_without_a_loss_are_left_out_as_in_lightning(fit_theirs, fit_ours):
    class Skipping(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    theirs = Skipping()
    ours = copy.deepcopy(theirs)
    fit_theirs(theirs, loader(), max_epochs=2)
    fit_ours(ours, loader(), max_epochs=2)
    assert same_weights(theirs, ours)


def test_batch_norm_and_a_frozen_part_equal_lightnings(fit_theirs, fit_ours):
    class Frozen(Classifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
            self.net[0].requires_grad_(False)

    theirs = Frozen()
    ours = copy.deepcopy(theirs)
    torchloops.seed_everything(5)
    fit_theirs(theirs, loader(), loader(seed=1), max_epochs=2)
    torchloops.seed_everything(5)
    fit_ours(ours, loader(), loader(seed=1), max_epochs=2)
    assert same_weights(theirs, ours)
    assert not ours.net[0].weight.requires_grad
