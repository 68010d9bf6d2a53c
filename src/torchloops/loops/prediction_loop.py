"""PredictionLoop: predictions for all data loaders."""

from __future__ import annotations

from typing import Any

from torchloops.loops.evaluation_loop import EvaluationLoop
from torchloops.loops.prediction_epoch_loop import PredictionEpochLoop

__all__ = ["PredictionLoop"]


class PredictionLoop(EvaluationLoop):
    """Collect what ``predict_step`` gives for every batch of every data loader.

    As `EvaluationLoop`, with the hooks ``on_predict_*``.

    Returns from ``run``: a list with the output of each batch; for several data loaders a list of those. In several
    processes it is the same list in each, in the order of the data and on the CPU, where each has its share of the
    samples; else the list of its own batches.
    """

    resumes_inside = False
    default_stage = "predict"

    def __init__(self) -> None:
        super().__init__()
        self.epoch_loop = PredictionEpochLoop()
        self._predictions: list[Any] = []

    @property
    def skip(self) -> bool:
        """Nothing to do: no data, or a limit of 0 batches."""
        return self.trainer.batch_limit("predict") == 0 or not self.trainer.run.batches("predict")

    def reset(self) -> None:
        self._predictions = []

    def advance(self) -> None:
        index = self.progress.current
        self._predictions.append(self.epoch_loop.run(self.trainer.run.batches("predict")[index], index))

    def on_run_end(self) -> Any:
        predictions, self._predictions = self._predictions, []
        super().on_run_end()
        if not self.trainer.return_predictions:
            return None
        run = self.trainer.run
        predictions = [
            run.of_all_processes(one, outputs) for one, outputs in zip(run.batches("predict"), predictions, strict=True)
        ]
        return predictions[0] if len(predictions) == 1 else predictions
