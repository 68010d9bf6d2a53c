"""Callbacks in two processes: they decide alike, and an unfrozen backbone is averaged over them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json
import sys

import torch

from torchloops.callbacks import EarlyStopping, ModelCheckpoint
from torchloops.testing import TinyClassifier, random_loader
from torchloops.trainer import Trainer


class Watched(TinyClassifier):
    def validation_step(self, batch, batch_idx):
        self.log("score", float(self.trainer.global_rank + 1) * (self.trainer.current_epoch + 1))

    def configure_optimizers(self):
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=0.1, momentum=0.9)


def fit(folder, devices):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Watched()
    keep = ModelCheckpoint(monitor="score", filename="{epoch}-{score}", save_last=True)
    stop = EarlyStopping("score", patience=3, divergence_threshold=3.5)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=20,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[keep, stop],
    )
    batch_size = 32 // devices
    data = random_loader(batch_size=batch_size), random_loader(batch_size=batch_size, seed=1)
    trainer.finetune(module, *data, strategy=("freeze_unfreeze", 2))
    seen = {"epochs": trainer.current_epoch, "stopped": stop.stopped_epoch, "best": keep.best_model_path}
    torch.save((module.state_dict(), seen), f"{folder}/rank_{trainer.global_rank}.pt")


if __name__ == "__main__":
    fit(sys.argv[1], int(sys.argv[2]))
"""


def run_processes(folder: Path, devices: int) -> list[tuple[dict, dict]]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), str(devices)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 0/19") == 1
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(devices)]


@pytest.mark.ddp
def test_two_processes_decide_alike_and_train_as_one(tmp_path):
    ((alone, seen_alone),) = run_processes(tmp_path / "one", 1)
    (first, seen_first), (second, seen_second) = run_processes(tmp_path / "two", 2)
    assert seen_first == seen_second
    assert (seen_alone["epochs"], seen_first["epochs"], seen_first["stopped"]) == (4, 4, 3)
    assert Path(seen_first["best"]).name == "epoch=0-score=1.0.ckpt"
    for name in alone:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-6)
    checkpoints = sorted(path.name for path in (tmp_path / "two" / "checkpoints").iterdir())
    assert checkpoints == ["epoch=0-score=1.0.ckpt", "last.ckpt", "last.previous.ckpt"]
