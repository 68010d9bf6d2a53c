"""For people who write loops: `check_loop` holds the contract of every loop; the rest is small things to test with."""

from torchloops.testing.contract import SLOTS, ContractError, check_loop
from torchloops.testing.parts import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader

__all__ = [
    "SLOTS",
    "ContractError",
    "RecordingCallback",
    "TinyClassifier",
    "check_loop",
    "random_batches",
    "random_dataset",
    "random_loader",
]
