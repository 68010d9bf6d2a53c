"""Loggers: a CSV file with one row an epoch, TensorBoard, and a prefix for the loggers of inner runs."""

from typing import Any

from torchloops.loggers.csv_logger import CSVLogger
from torchloops.loggers.experiment import Experiment
from torchloops.loggers.prefixed import PrefixedLogger

__all__ = ["CSVLogger", "Experiment", "PrefixedLogger", "TensorBoardLogger"]


def __getattr__(name: str) -> Any:
    if name != "TensorBoardLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchloops.loggers.tensorboard import TensorBoardLogger  # it loads torch

    return TensorBoardLogger
