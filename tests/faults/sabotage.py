"""Scenarios that break the promise on purpose, each in one way that the driver must find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from parts import AugmentedImages, AveragedWeights, Dropping, loader
from scenarios import Study, new_trainer

from torchloops.callbacks import Callback

__all__ = ["BUILDERS", "CONTROL", "SABOTAGED"]


class OwnGenerator(Dropping):
    """Draws from a generator that nobody saves: one of the class."""

    generator = torch.Generator().manual_seed(1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + torch.rand((), generator=self.generator))


class Counting(Dropping):
    """Counts its steps in an attribute of the class, and takes smaller ones as it goes."""

    steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        Counting.steps += 1
        return super().training_step(batch, batch_idx) / Counting.steps


class Forgetful(AveragedWeights):
    """Saves nothing of its mean."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self.mean:
            super().on_train_end(trainer, module)


class Appends(Callback):
    """Adds a line to a file at each epoch, also at one that comes again."""

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        trainer.run_dir.mkdir(parents=True, exist_ok=True)
        with (trainer.run_dir / "epochs.csv").open("a", encoding="utf-8") as file:
            file.write(f"{trainer.current_epoch}\n")


def _sabotaged(module: Any = Dropping, callback: Any = None) -> Any:
    def build(folder: Path, saving: str | None) -> Study:
        callbacks = [callback()] if callback else []
        trainer = new_trainer(folder, saving, callbacks=callbacks)
        return Study(trainer, module(), loader(AugmentedImages(40), 8, shuffle=True))

    return build


CONTROL = "nothing"
SABOTAGED = {
    "a generator that is not saved": _sabotaged(OwnGenerator),
    "a count that is not saved": _sabotaged(Counting),
    "a callback that saves nothing": _sabotaged(callback=Forgetful),
    "a file that is added to": _sabotaged(callback=Appends),
}
BUILDERS = {**SABOTAGED, CONTROL: _sabotaged(callback=AveragedWeights)}
