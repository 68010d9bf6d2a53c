"""The exact figure behind the speed of a step: how many Python calls it makes."""

import cProfile
import io
import pstats
from contextlib import redirect_stdout

import torch
from rich.console import Console
from torch import nn

from torchloops import LoopModule, RichProgressBar

SHORT, LONG = 200, 500


class Net(LoopModule):
    """The 32-32-10 net of the benchmarks, trained by plain SGD."""

    logs = False

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.net(inputs), targets)
        if self.logs:
            self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.net(inputs), targets)
        if self.logs:
            self.log("val/loss", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class LoggingNet(Net):
    logs = True


def calls_of(function):
    profile = cProfile.Profile()
    with redirect_stdout(io.StringIO()):
        profile.enable()
        function()
        profile.disable()
    return pstats.Stats(profile).total_calls


def calls_a_step(run):
    """Calls of ``run(n_batches)`` a batch: what a longer run has more, so that the set-up does not count."""
    run(SHORT)
    return (calls_of(lambda: run(LONG)) - calls_of(lambda: run(SHORT))) / (LONG - SHORT)


def batches(n):
    return [(torch.randn(32, 32), torch.randint(10, (32,)))] * n


def by_hand(n):
    module = Net()
    optimizer = module.configure_optimizers()
    for inputs, targets in batches(n):
        loss = nn.functional.cross_entropy(module.net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_a_loop_by_hand_is_what_the_figures_are_compared_with():
    assert 165 <= calls_a_step(by_hand) <= 180


def test_calls_of_a_bare_step(make_trainer):
    assert calls_a_step(lambda n: make_trainer(max_epochs=1).fit(Net(), batches(n))) <= 195


def test_calls_of_a_step_with_log_bar_and_csv(make_trainer):
    def run(n):
        terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
        bar = RichProgressBar(refresh_rate=1000, console=terminal)  # a drawing, ten a second, is no part of a step
        trainer = make_trainer(max_epochs=1, logger=True, log_every_n_steps=1, callbacks=bar)
        trainer.fit(LoggingNet(), batches(n))

    assert calls_a_step(run) <= 215


def test_calls_of_a_validation_batch_do_not_grow(make_trainer):
    def by_hand(n):
        module = Net().eval()
        with torch.no_grad():
            for inputs, targets in batches(n):
                nn.functional.cross_entropy(module.net(inputs), targets)

    raw = calls_a_step(by_hand)
    assert calls_a_step(lambda n: make_trainer().validate(Net(), batches(n))) <= raw + 10
    assert calls_a_step(lambda n: make_trainer().validate(LoggingNet(), batches(n))) <= raw + 25
