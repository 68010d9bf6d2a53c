"""Cross-validation: `KFoldLoop` trains one fresh model a fold and reports every fold's score. README.md is its card."""

from torchloops.advanced.kfold.checks import OptimisticScoreWarning, UnusedValidationDataWarning
from torchloops.advanced.kfold.datamodule import KFoldDataModule
from torchloops.advanced.kfold.ensemble import FoldEnsemble
from torchloops.advanced.kfold.loop import KFoldLoop
from torchloops.advanced.kfold.records import corrected_interval
from torchloops.advanced.kfold.splits import Split, Splits
from torchloops.advanced.kfold.splitters import SPLITTERS

__all__ = [
    "SPLITTERS",
    "FoldEnsemble",
    "KFoldDataModule",
    "KFoldLoop",
    "OptimisticScoreWarning",
    "Split",
    "Splits",
    "UnusedValidationDataWarning",
    "corrected_interval",
]
