"""The Trainer and what it is made of."""

from torchloops.trainer.run import Run
from torchloops.trainer.snapshot import Snapshot
from torchloops.trainer.trainer import Trainer

__all__ = ["Run", "Snapshot", "Trainer"]
