"""LearningRateMonitor: Lightning's names, and where the values go."""

import csv

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from torchloops.callbacks import LearningRateMonitor
from torchloops.callbacks.learning_rate_monitor import learning_rates
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer
from torchloops.trainer.optimizers import SchedulerConfig


def weights():
    return [nn.Parameter(torch.zeros(1))]


def test_names_of_optimizers():
    optimizers = [SGD(weights(), 0.1), SGD(weights(), 0.2), Adam(weights(), 0.3), SGD(weights(), 0.4)]
    assert learning_rates(optimizers, []) == {"lr-SGD": 0.1, "lr-SGD-1": 0.2, "lr-Adam": 0.3, "lr-SGD-2": 0.4}


def test_names_of_parameter_groups():
    groups = [{"params": weights()}, {"params": weights(), "lr": 0.2, "name": "head"}]
    assert learning_rates([SGD(groups, 0.1)], []) == {"lr-SGD/pg1": 0.1, "lr-SGD/head": 0.2}
    assert learning_rates([SGD([{"params": weights(), "name": "all"}], 0.1)], []) == {"lr-SGD/all": 0.1}


def test_the_name_of_a_scheduler():
    named, plain = SGD(weights(), 0.1), SGD(weights(), 0.2)
    configs = [SchedulerConfig(StepLR(named, 1), name="warm-up"), SchedulerConfig(StepLR(plain, 1))]
    assert learning_rates([named, plain], configs) == {"warm-up": 0.1, "lr-SGD": 0.2}


class Scheduled(TinyClassifier):
    interval = "epoch"

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=1.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": StepLR(optimizer, 1, 0.5), "interval": self.interval},
        }


class ScheduledBySteps(Scheduled):
    interval = "step"


def fit(folder, module, monitor, **options):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_checkpointing=False,
        **{"log_every_n_steps": 1, **options},
    )
    trainer.fit(module, random_loader())
    with open(folder / "metrics.csv", newline="") as file:
        return trainer, list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("module", "interval", "expected"),
    [
        (Scheduled, None, [1.0, 0.5]),
        (Scheduled, "epoch", [1.0, 0.5]),
        (Scheduled, "step", [1.0] * 3 + [0.5] * 3),
        (ScheduledBySteps, "step", [2.0**-n for n in range(6)]),
        (ScheduledBySteps, "epoch", [1.0, 0.125]),
        (ScheduledBySteps, None, [2.0**-n for n in range(6)]),
    ],
)
def test_values_by_interval(tmp_path, module, interval, expected):
    monitor = LearningRateMonitor(interval)
    fit(tmp_path, module(), monitor)
    assert monitor.lrs == {"lr-SGD": pytest.approx(expected)}


def test_the_row_of_an_epoch_holds_the_learning_rate_it_was_trained_with(tmp_path):
    trainer, rows = fit(tmp_path, Scheduled(), LearningRateMonitor())
    assert [float(row["lr-SGD"]) for row in rows] == [1.0, 0.5]
    assert trainer.callback_metrics["lr-SGD"].item() == 0.5


def test_an_interval_that_does_not_exist():
    with pytest.raises(ConfigurationError, match='Did you mean "step"'):
        LearningRateMonitor("steps")
