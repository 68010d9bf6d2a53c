"""Defects of PyTorch Lightning's yield example: one test each."""

import pytest
import torch
from torch import nn

from torchloops import LoopModule, YieldLoop
from torchloops.errors import ConfigurationError

BATCHES = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


class Two(LoopModule):
    """Yields as many losses as ``number`` says for each batch."""

    def __init__(self, number=(2, 2, 2), optimizer=torch.optim.SGD):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
        self.number, self.optimizer, self.after, self.closed = number, optimizer, 0, 0

    def training_step(self, batch, batch_idx):
        try:
            for index in range(self.number[batch_idx]):
                yield self.parts[index % 2](batch).square().mean()
            self.after += 1
        finally:
            self.closed += 1

    def configure_optimizers(self):
        return [self.optimizer(part.parameters(), lr=0.1) for part in self.parts]


def fit(make_trainer, module):
    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit(module, BATCHES)
    return trainer


def test_too_few_yields_are_an_error_and_leave_no_parameter_switched_off(make_trainer):
    module = Two(number=(1, 2, 2))
    with pytest.raises(ConfigurationError, match=r"Two\.training_step yields too few losses: 1"):
        fit(make_trainer, module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    module.number = (2, 2, 2)
    assert fit(make_trainer, module).global_step == 6


def test_a_missing_yield_does_not_end_the_epoch_without_a_word(make_trainer):
    with pytest.raises(ConfigurationError, match="too few losses: 0"):
        fit(make_trainer, Two(number=(2, 0, 2)))


def test_a_bare_next_in_the_step_is_an_error(make_trainer):
    class Leaks(Two):
        def training_step(self, batch, batch_idx):
            yield self.parts[0](batch).square().mean()
            next(iter(()))
            yield self.parts[1](batch).square().mean()

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        fit(make_trainer, Leaks())


def test_extra_yields_are_an_error(make_trainer):
    module = Two(number=(3, 2, 2))
    with pytest.raises(ConfigurationError, match=r"Two\.training_step yields too many losses: yield 3"):
        fit(make_trainer, module)
    assert module.closed == 1


def test_code_after_the_last_yield_runs(make_trainer):
    module = Two()
    fit(make_trainer, module)
    assert module.after == 3


def test_generators_are_closed_also_after_an_error(make_trainer):
    module = Two()
    fit(make_trainer, module)
    assert module.closed == 3

    class Breaks(Two):
        def on_after_backward(self):
            raise ValueError("broken")

    module = Breaks()
    with pytest.raises(ValueError, match="broken"):
        fit(make_trainer, module)
    assert module.closed == 1


def test_lbfgs_is_refused_with_the_reason(make_trainer):
    with pytest.raises(ConfigurationError, match="LBFGS: it evaluates the loss many times a step"):
        fit(make_trainer, Two(optimizer=torch.optim.LBFGS))
