"""The library of loops: one folder a loop, each with a card (README.md)."""

from torchloops.advanced.active_learning import ActiveLearningDataModule, ActiveLearningLoop
from torchloops.advanced.kfold import KFoldDataModule, KFoldLoop
from torchloops.advanced.validation_guided import ValidationGuidedLoop, scale_gradients
from torchloops.advanced.yielding import YieldLoop

__all__ = [
    "ActiveLearningDataModule",
    "ActiveLearningLoop",
    "KFoldDataModule",
    "KFoldLoop",
    "ValidationGuidedLoop",
    "YieldLoop",
    "scale_gradients",
]
