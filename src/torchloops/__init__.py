"""torchloops: swap the training loop.

Every training algorithm is a `Loop`, from one gradient step to active learning, and a `Trainer` owns one tree of
them. Names are loaded when they are first used, so importing the package costs little.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "ActiveLearningDataModule": "torchloops.advanced.active_learning",
    "ActiveLearningLoop": "torchloops.advanced.active_learning",
    "CSVLogger": "torchloops.loggers",
    "Callback": "torchloops.callbacks",
    "CombinedLoader": "torchloops.trainer.combined",
    "DataModule": "torchloops.data",
    "EarlyStopping": "torchloops.callbacks",
    "EvaluationEpochLoop": "torchloops.loops",
    "EvaluationLoop": "torchloops.loops",
    "FitLoop": "torchloops.loops",
    "ImageClassificationData": "torchloops.vision",
    "ImageClassifier": "torchloops.vision",
    "KFoldDataModule": "torchloops.advanced.kfold",
    "KFoldLoop": "torchloops.advanced.kfold",
    "LearningRateMonitor": "torchloops.callbacks",
    "Loop": "torchloops.loops",
    "LoopModule": "torchloops.module",
    "ManualLoop": "torchloops.loops",
    "ModelCheckpoint": "torchloops.callbacks",
    "ModelSummary": "torchloops.callbacks",
    "OptimizerLoop": "torchloops.loops",
    "OuterLoop": "torchloops.loops",
    "PredictionEpochLoop": "torchloops.loops",
    "PredictionLoop": "torchloops.loops",
    "Probabilities": "torchloops.vision",
    "PyTorchProfiler": "torchloops.profilers",
    "RichProgressBar": "torchloops.callbacks",
    "SimpleProfiler": "torchloops.profilers",
    "TensorBoardLogger": "torchloops.loggers",
    "Trainer": "torchloops.trainer",
    "TrainingBatchLoop": "torchloops.loops",
    "TrainingEpochLoop": "torchloops.loops",
    "ValidationGuidedLoop": "torchloops.advanced.validation_guided",
    "YieldLoop": "torchloops.advanced.yielding",
    "download_data": "torchloops.vision",
    "scale_gradients": "torchloops.advanced.validation_guided",
    "seed_everything": "torchloops.seeding",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        from torchloops.errors import did_you_mean

        raise AttributeError(f"torchloops has no {name!r}.{did_you_mean(name, _WHERE)}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
