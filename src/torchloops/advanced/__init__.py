"""The library of loops: one folder a loop, each with a card (README.md)."""

from torchloops.advanced.active_learning import ActiveLearningDataModule, ActiveLearningLoop

__all__ = ["ActiveLearningDataModule", "ActiveLearningLoop"]
