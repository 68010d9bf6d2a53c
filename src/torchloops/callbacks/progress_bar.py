"""RichProgressBar: how far a run is, and one line that stays for every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import monotonic
from typing import Any

from torchloops.callbacks.callback import HOOKS, Callback
from torchloops.callbacks.progress_display import ProgressDisplay, start_display
from torchloops.errors import ConfigurationError

__all__ = ["RichProgressBar"]

_BATCH_HOOKS = (
    "on_train_batch_end", "on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end",
)  # fmt: skip


class RichProgressBar(Callback):
    """Bars for epochs and batches on a terminal, and one line an epoch that stays.

    Bars are drawn again by the clock, not by the batch, and logged tensors are read only then, so that a step
    pays for one comparison of times. Where there is no terminal (a file, a notebook) only the lines are written;
    processes other than the first write nothing. A line holds what was logged with ``prog_bar=True`` and
    everything whose name starts with "val"; epochs count from 0, as in files.

    Args:
        refresh_rate: seconds between two drawings, 0 or more.
        leave: leave the bars on the screen when the run ends.
        console: a ``rich.console.Console`` to draw on. Default: rich's own, on standard output.

    Raises:
        ConfigurationError: a negative refresh rate.
    """

    order = 1

    def __init__(self, refresh_rate: float = 0.1, leave: bool = False, console: Any = None) -> None:
        if refresh_rate < 0:
            raise ConfigurationError(
                f"RichProgressBar(refresh_rate=...) is a number of seconds, 0 or more, got {refresh_rate}."
            )
        self.refresh_rate = refresh_rate
        self.leave = leave
        self.console = console
        self._display: ProgressDisplay | None = None
        self._next_drawing = 0.0
        self._epoch_started = self._pass_started = 0.0
        self._batches_seen: dict[int, int] = {}  # of the running pass, by data loader
        self._training = False

    def fresh(self) -> RichProgressBar:
        """This bar: it shows inner runs too."""
        return self

    # around a run

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        if not trainer.run_name:
            self._training = False
            self._choose_hooks(trainer)
            self._start_pass()  # one that is resumed in the middle does not start

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        self._training = False
        self._hide(trainer, "epoch", "batch")
        if not trainer.run_name:
            self._stop()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._stop()

    # training

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._training = True
        self._start_epoch(trainer)  # a resumed one has no on_train_epoch_start

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._training = False
        self._hide(trainer, "epoch", "batch")

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._start_epoch(trainer)

    def _start_epoch(self, trainer: Any) -> None:
        self._epoch_started = monotonic()
        if self._display is not None:
            epochs = _number_of_epochs(trainer)
            if epochs != 1:
                total = epochs if epochs > 0 else None
                key, name = _key(trainer, "epoch"), _named(trainer, "epochs")
                self._display.show(key, name, trainer.current_epoch, total, unit="")
            self._display.restart(_key(trainer, "batch"))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = monotonic()
        if now >= self._next_drawing:
            self._next_drawing = now + self.refresh_rate
            info = _as_text(trainer.progress_bar_metrics, leave_out="_epoch")
            self._draw(trainer, "batch", _epoch_name(trainer), batch_idx + 1, trainer.num_training_batches, info)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        validated = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        values = _as_text({**trainer.progress_bar_metrics, **validated}, leave_out="_step")
        self._write(trainer, _epoch_name(trainer), values, self._epoch_started)

    # validation, test, prediction

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self._start_pass()

    def on_test_start(self, trainer: Any, module: Any) -> None:
        self._start_pass()

    def on_predict_start(self, trainer: Any, module: Any) -> None:
        self._start_pass()

    def on_validation_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batches_seen[dataloader_idx] = batch_idx + 1
        now = monotonic()
        if now >= self._next_drawing:
            self._draw_pass(trainer, "validate", now)

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batches_seen[dataloader_idx] = batch_idx + 1
        now = monotonic()
        if now >= self._next_drawing:
            self._draw_pass(trainer, "test", now)

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batches_seen[dataloader_idx] = batch_idx + 1
        now = monotonic()
        if now >= self._next_drawing:
            self._draw_pass(trainer, "predict", now)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        in_fit = self._training or trainer.sanity_checking
        self._end_pass(trainer, "validate", "" if in_fit else _metrics_of(trainer, "val"))

    def on_test_end(self, trainer: Any, module: Any) -> None:
        self._end_pass(trainer, "test", _metrics_of(trainer, "test"))

    def on_predict_end(self, trainer: Any, module: Any) -> None:
        self._end_pass(trainer, "predict", f"{self._number_seen(trainer, 'predict')} batches")

    # inside

    def _choose_hooks(self, trainer: Any) -> None:
        """Start the display, and let only those hooks count that have something to show."""
        first = trainer.is_global_zero
        if first and self._display is None:
            if self.console is None:
                from rich import get_console

                self.console = get_console()
            self._display = start_display(self.console, self.leave)
        for name in HOOKS:
            if name in vars(RichProgressBar) and name != "setup":
                on = first and (self._display is not None or name not in _BATCH_HOOKS or name == "on_predict_batch_end")
                self._switch_hook(RichProgressBar, name, on)

    def _stop(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _start_pass(self) -> None:
        self._batches_seen = {}
        self._pass_started = monotonic()

    def _draw_pass(self, trainer: Any, stage: str, now: float) -> None:
        self._next_drawing = now + self.refresh_rate
        total = sum(batches.num_batches for batches in trainer.run.batches(stage))
        name = "sanity check" if trainer.sanity_checking else stage
        self._draw(trainer, stage, _named(trainer, name), self._number_seen(trainer, stage), total, "")

    def _number_seen(self, trainer: Any, stage: str) -> int:
        """Batches of the running pass, those included that were seen before a resume."""
        first = min(self._batches_seen, default=0)
        lengths = [batches.num_batches for batches in trainer.run.batches(stage)[:first]]
        return sum(self._batches_seen.values()) + sum(int(length) for length in lengths if not math.isinf(length))

    def _end_pass(self, trainer: Any, stage: str, values: str) -> None:
        self._hide(trainer, stage)
        if values:
            self._write(trainer, _named(trainer, stage), values, self._pass_started)

    def _draw(self, trainer: Any, key: str, name: str, done: int, total: float, info: str) -> None:
        if self._display is not None:
            known = None if math.isinf(total) else total
            self._display.show(_key(trainer, key), name, done, known, info)

    def _hide(self, trainer: Any, *keys: str) -> None:
        if self._display is not None:
            self._display.hide(*(_key(trainer, key) for key in keys))

    def _write(self, trainer: Any, name: str, values: str, started: float) -> None:
        seconds = monotonic() - started
        line = "  ".join(part for part in (name, values, f"{seconds:.{1 if seconds >= 10 else 2}f} s") if part)
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _key(trainer: Any, key: str) -> str:
    return f"{trainer.run_name} {key}"


def _named(trainer: Any, name: str) -> str:
    """``name`` with the inner run it belongs to."""
    return f"{trainer.run_name}  {name}" if trainer.run_name else name


def _number_of_epochs(trainer: Any) -> int:
    """Epochs of the running fit; -1: no limit."""
    own = None if trainer.run_name else getattr(trainer.fit_loop, "max_epochs", None)
    return own if own is not None else trainer.max_epochs


def _epoch_name(trainer: Any) -> str:
    epochs = _number_of_epochs(trainer)
    name = f"epoch {trainer.current_epoch}/{epochs - 1}" if epochs > 0 else f"epoch {trainer.current_epoch}"
    return _named(trainer, name)


def _metrics_of(trainer: Any, stage: str) -> str:
    """What a stage logged: the names that start with it, or everything where none does."""
    metrics = trainer.callback_metrics
    own = {name: value for name, value in metrics.items() if name.startswith(stage)}
    return _as_text(own or metrics, leave_out="_step")


def _as_text(metrics: Mapping[str, Any], leave_out: str) -> str:
    """``name value`` for each metric; of one logged per step and per epoch only one."""
    other = {"_step": "_epoch", "_epoch": "_step"}[leave_out]
    kept = {
        name: value
        for name, value in metrics.items()
        if not (name.endswith(leave_out) and name.removesuffix(leave_out) + other in metrics)
        and f"{name}{other}" not in metrics
    }
    return "  ".join(f"{name} {float(value):.4g}" for name, value in kept.items())
