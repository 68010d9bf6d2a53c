"""PredictionEpochLoop: predictions for the batches of one data loader."""

from __future__ import annotations

from torchloops.loops.evaluation_epoch_loop import EvaluationEpochLoop

__all__ = ["PredictionEpochLoop"]


class PredictionEpochLoop(EvaluationEpochLoop):
    """Call ``predict_step`` on every batch and keep what it returns.

    Returns from ``run``: a list with the output of each batch.
    """
