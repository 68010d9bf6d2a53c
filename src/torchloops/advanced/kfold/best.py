"""The best weights of a fold, kept in memory while it trains."""

from __future__ import annotations

from typing import Any

from torchloops.advanced.kfold.weights import weights_of
from torchloops.callbacks import Callback
from torchloops.callbacks.monitoring import is_better, monitored_value, worst
from torchloops.errors import ConfigurationError
from torchloops.schema import COUNT, Either, check

__all__ = ["KeepBest", "find_monitor"]

_STATE = {"epoch": Either(COUNT, None), "score": float, "weights": {str: Any}}


class KeepBest(Callback):
    """Keep a copy of the weights at the best value of ``monitor``, looked at after every validation.

    Args:
        monitor: name of a logged value.
        mode: "min" or "max".

    Attributes:
        epoch: epoch (from 0) of the best value; None before there is one.
        score: the best value.
    """

    order = 4

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor = monitor
        self.mode = mode
        self.epoch: int | None = None
        self.score = worst(mode)
        self._weights: dict[str, Any] = {}
        self._is_finished = False

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking or self._is_finished:
            return
        score = monitored_value(self, trainer, self.monitor)
        assert score is not None
        if self.epoch is None or is_better(score, self.score, self.mode):
            self.epoch, self.score, self._weights = trainer.current_epoch, score, weights_of(module)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "score": self.score, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "The best epoch of a fold: state")
        self.epoch, self.score, self._weights = state_dict["epoch"], state_dict["score"], state_dict["weights"]

    def finish(self, module: Any) -> None:
        """Put the best weights into ``module``, and look at no validation any more: the next one is the score.

        Raises:
            ConfigurationError: no validation took place.
        """
        if self.epoch is None:
            raise ConfigurationError(
                f'checkpoint="best" follows {self.monitor!r} on the inner split, but no validation took place in the '
                "fold. Define validation_step, or let validation run (check_val_every_n_epoch, max_epochs)."
            )
        module.load_state_dict(self._weights)
        self._is_finished = True


def find_monitor(monitor: str | None, mode: str, callbacks: list[Any]) -> tuple[str, str]:
    """The value to follow: the one given, else that of the first callback that keeps checkpoints by one.

    Raises:
        ConfigurationError: there is none.
    """
    if monitor is not None:
        return monitor, mode
    for callback in callbacks:
        if hasattr(callback, "best_model_path") and getattr(callback, "monitor", None):
            return callback.monitor, getattr(callback, "mode", "min")
    raise ConfigurationError(
        'checkpoint="best" needs the value that says what is best: KFoldLoop(monitor="val/loss", mode="min"), or a '
        'ModelCheckpoint(monitor="val/loss") among the callbacks.'
    )
