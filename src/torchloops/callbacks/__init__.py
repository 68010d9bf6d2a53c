"""What is added to a run without touching its loops: checkpoints, early stopping, bars, fine-tuning."""

from torchloops.callbacks.callback import Callback
from torchloops.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from torchloops.callbacks.finetuning import Freeze, FreezeUnfreeze, NoFreeze, resolve_finetuning
from torchloops.callbacks.learning_rate_monitor import LearningRateMonitor
from torchloops.callbacks.model_checkpoint import ModelCheckpoint
from torchloops.callbacks.model_summary import ModelSummary
from torchloops.callbacks.progress_bar import RichProgressBar

__all__ = [
    "Callback",
    "EarlyStopping",
    "EarlyStoppingReason",
    "Freeze",
    "FreezeUnfreeze",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "NoFreeze",
    "RichProgressBar",
    "resolve_finetuning",
]
