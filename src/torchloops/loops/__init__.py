"""Loop, and the built-in tree of loops.

    FitLoop                               epochs
    └── epoch_loop: TrainingEpochLoop     batches
        ├── batch_loop: TrainingBatchLoop     time splits of a batch
        │   ├── optimizer_loop: OptimizerLoop     optimizers (automatic optimization)
        │   └── manual_loop: ManualLoop           the module steps its optimizers itself
        └── val_loop: EvaluationLoop      data loaders
            └── epoch_loop: EvaluationEpochLoop   batches
    PredictionLoop                        data loaders
    └── epoch_loop: PredictionEpochLoop   batches

`Loop` is the base of all of them, and of yours.
"""

from torchloops.loops.evaluation_epoch_loop import EvaluationEpochLoop
from torchloops.loops.evaluation_loop import EvaluationLoop
from torchloops.loops.fit_loop import FitLoop
from torchloops.loops.loop import Loop, Progress
from torchloops.loops.manual_loop import ManualLoop
from torchloops.loops.optimizer_loop import OptimizerLoop
from torchloops.loops.outer_loop import OuterLoop
from torchloops.loops.prediction_epoch_loop import PredictionEpochLoop
from torchloops.loops.prediction_loop import PredictionLoop
from torchloops.loops.training_batch_loop import TrainingBatchLoop
from torchloops.loops.training_epoch_loop import TrainingEpochLoop

__all__ = [
    "EvaluationEpochLoop",
    "EvaluationLoop",
    "FitLoop",
    "Loop",
    "ManualLoop",
    "OptimizerLoop",
    "OuterLoop",
    "PredictionEpochLoop",
    "PredictionLoop",
    "Progress",
    "TrainingBatchLoop",
    "TrainingEpochLoop",
]
