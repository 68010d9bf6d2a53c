"""A Trainer that is only what callbacks ask of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchloops.testing import TinyClassifier


class FakeTrainer:
    """Counters and values to set by hand; checkpoints are text files that say which step they hold."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.run_name = ""
        self.current_epoch = self.global_step = 0
        self.max_epochs = 10
        self.fit_loop = None
        self.should_stop = self.continues_a_run = False
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.progress_bar_metrics: dict[str, torch.Tensor] = {}
        self.is_global_zero = True
        self.sanity_checking = False
        self.check_val_every_n_epoch = 1
        self.val_check_interval = 1.0
        self.num_val_batches = [2]
        self.num_training_batches = 4
        self.log_every_n_steps = 1
        self.engine = SimpleNamespace(broadcast=lambda value: value, world_size=1)
        self.run = SimpleNamespace(
            state=SimpleNamespace(batch_idx=-1),
            is_of_validation=lambda name: str(name).startswith("val/"),
            tell_loggers_of_a_checkpoint=lambda callback: None,
        )
        self.saved: list[str] = []
        self.fails = False

    def log(self, **values: float) -> None:
        self.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def save_checkpoint(self, path: str | Path, weights_only: bool = False, inner_run_only: bool = False) -> None:
        if self.fails:
            raise OSError("disk full")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(f"step {self.global_step}")
        self.saved.append(Path(path).name)

    def run_epoch(self, callback: Any, steps: int = 4, **values: float) -> None:
        """An epoch of ``steps`` steps that ends with these values."""
        for index in range(steps):
            self.global_step += 1
            self.run.state.batch_idx = index
            if callable(getattr(callback, "on_train_batch_end", None)):
                callback.on_train_batch_end(self, MODULE, None, None, index)
        self.log(**values)
        callback.on_validation_end(self, MODULE)
        callback.on_train_epoch_end(self, MODULE)
        self.current_epoch += 1

    def start(self, callback: Any) -> None:
        callback.setup(self, MODULE, "fit")
        callback.on_train_start(self, MODULE)


MODULE = TinyClassifier()


@pytest.fixture
def trainer(tmp_path: Path) -> FakeTrainer:
    torch.set_num_threads(1)
    return FakeTrainer(tmp_path / "run")
