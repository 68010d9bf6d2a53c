"""FitLoop: epochs of training."""

from __future__ import annotations

from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.loops.ending import Ending, named
from torchloops.loops.loop import Loop
from torchloops.loops.training_epoch_loop import TrainingEpochLoop
from torchloops.loops.tree import loops_in
from torchloops.schema import Either, check

__all__ = ["FitLoop"]

_STATE = {"ended?": Either([str], None)}


class FitLoop(Loop):
    """Train epoch after epoch.

        on_train_start()
        while epoch < max_epochs and not stopped:
            on_train_epoch_start()
            epoch_loop.run(batches)
            on_train_epoch_end()
            step schedulers, log, save
        on_train_end()

    Args:
        min_epochs: epochs before ``should_stop`` is heeded. Default: the Trainer's.
        max_epochs: epochs at most; -1: no limit. Default: the Trainer's.
    """

    def __init__(self, min_epochs: int | None = None, max_epochs: int | None = None) -> None:
        super().__init__()
        self._min_epochs = min_epochs
        self._max_epochs = max_epochs
        self.epoch_loop: Any = TrainingEpochLoop()
        self._ending = Ending()
        self._steps_before = -1

    def connect(self, epoch_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop of an epoch."""
        super().connect(**loops, **({} if epoch_loop is None else {"epoch_loop": epoch_loop}))

    @property
    def min_epochs(self) -> int:
        """Epochs before ``should_stop`` is heeded."""
        return self.trainer.min_epochs if self._min_epochs is None else self._min_epochs

    @min_epochs.setter
    def min_epochs(self, value: int | None) -> None:
        self._min_epochs = value

    @property
    def max_epochs(self) -> int:
        """Epochs at most; -1: no limit."""
        return self.trainer.max_epochs if self._max_epochs is None else self._max_epochs

    @max_epochs.setter
    def max_epochs(self, value: int | None) -> None:
        self._max_epochs = value

    @property
    def max_steps(self) -> int:
        """Optimizer steps at most, as the loop of an epoch says or the Trainer; -1: no limit."""
        max_steps = getattr(self.epoch_loop, "max_steps", None)
        return self.trainer.max_steps if max_steps is None else max_steps

    @property
    def done(self) -> bool:
        return not self._is_inside_epoch and self.is_at_limit  # an epoch that was cut is finished first

    @property
    def is_at_limit(self) -> bool:
        """Whether the epochs, steps or time of the fit are used up, or ``should_stop`` is heeded."""
        trainer, state = self.trainer, self.trainer.state
        epochs = max(state.current_epoch, self.progress.total)  # the latter rises also if on_advance_end is overridden
        if self.max_epochs != -1 and epochs >= self.max_epochs:
            return True
        if self.max_steps != -1 and state.global_step >= self.max_steps:
            return True
        return state.out_of_time or state.stop_requested(self.min_epochs, trainer.min_steps)

    @property
    def skip(self) -> bool:
        """Nothing to do: no epochs, or no batches in an epoch."""
        return self.max_epochs == 0 or self.trainer.batch_limit("train") == 0

    def on_run_start(self) -> None:
        trainer = self.trainer
        if self.restarting:
            trainer.state.current_epoch = self.progress.total - bool(self._ending.finished)
        else:
            self._ending.finished = []
            for part in loops_in(self):
                part.progress.total = 0
        self.progress.total = trainer.current_epoch + bool(self._ending.finished)
        trainer.state.min_epochs = self.min_epochs
        trainer.run.enter_stage("train")
        trainer.train_batches  # noqa: B018  says early that there is no data
        trainer.call_hook("on_train_start")
        trainer.change_arguments()
        if self._ending.finished:
            trainer.go_on()
            self._end_epoch()

    def on_advance_start(self) -> None:
        trainer, epoch = self.trainer, self.trainer.current_epoch
        every = trainer.reload_dataloaders_every_n_epochs
        if every and epoch and epoch % every == 0 and not self._is_inside_epoch:
            for stage in ("train", "validate"):
                trainer.run.reload(stage)
                trainer.run.pending_data.pop(stage, None)  # the position in the loader before
        trainer.state.in_epoch = True
        trainer.run.count_steps_by_hooks()  # the loop that counted in the last epoch may have been replaced
        self._steps_before = -1 if self._is_inside_epoch else trainer.global_step
        trainer.state.is_behind_step &= self._is_inside_epoch
        if not self._is_inside_epoch:
            trainer.call_hook("on_train_epoch_start")

    @property
    def _is_inside_epoch(self) -> bool:
        """Whether the first epoch after a load was cut in the middle."""
        return self.restarting and getattr(self.epoch_loop, "restarting", False)

    def advance(self) -> None:
        self.epoch_loop.run(self.trainer.train_batches)

    def on_advance_end(self) -> None:
        self._ending.finished = []
        self._end_epoch()
        if self.trainer.global_step == self._steps_before:
            self._check_ends()

    def _check_ends(self) -> None:
        """Refuse to go on for ever where only steps are limited, and an epoch had none."""
        limits = self.trainer.state.limits
        if self.max_epochs == -1 and self.max_steps != -1 and limits.max_seconds is None and not self.is_at_limit:
            raise ConfigurationError(
                f"An epoch is over without one optimizer step, so max_steps={self.max_steps} would never be reached. "
                "Return the loss from training_step, with manual optimization step the optimizers of "
                "self.optimizers(), or give max_epochs."
            )

    def _end_epoch(self) -> None:
        """Do what ends an epoch; in a resumed run, what came after the hook that saved."""
        run = self.trainer.run
        run.state.in_epoch = True
        first, last = run.hooks("on_train_epoch_end"), run.hooks("on_train_epoch_end", last=True)
        with run.logging_in("on_train_epoch_end"):
            self._ending.run([*named(first), ("close", self._close_epoch), *named(last)])
        run.state.in_epoch = False
        run.state.current_epoch += 1

    def _close_epoch(self) -> None:
        run = self.trainer.run
        _, logged, by_step = run.close_epoch("train")
        if getattr(self.epoch_loop, "is_whole", True):
            run.step_schedulers("epoch")
        run.send_to_loggers(logged, by_step)
        run.save_loggers()

    def on_run_end(self) -> None:
        self.trainer.call_hook("on_train_end")

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {"ended": list(self._ending.finished)}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "FitLoop: state")
        self._ending.finished = list(state_dict.get("ended") or ())
