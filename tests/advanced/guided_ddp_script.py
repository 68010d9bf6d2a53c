"""Fits that test_validation_guided_ddp.py runs in one process and, as a script, in two."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from torchloops import LoopModule, Trainer, ValidationGuidedLoop, YieldLoop
from torchloops.testing import TinyClassifier, random_dataset

GLOBAL_BATCH = 16


class Yields(LoopModule):
    """A generator and a critic; the critic steps first, and twice."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = nn.Linear(8, 32), nn.Linear(32, 1)

    def training_step(self, batch, batch_idx):
        real, _ = batch
        fake = self.generator(real[:, :8])
        for _ in range(1 if self.trainer.accumulate_grad_batches > 1 else 2):
            yield (self.critic(fake.detach()) - self.critic(real)).tanh().mean(), "critic"
        if batch_idx % 2 == 0:
            yield -self.critic(fake).tanh().mean(), "generator"

    def configure_optimizers(self):
        generator = torch.optim.SGD(self.generator.parameters(), lr=0.1, momentum=0.9)
        return {"generator": generator, "critic": torch.optim.SGD(self.critic.parameters(), lr=0.01)}


def guide(devices):
    return DataLoader(random_dataset(48, seed=1), batch_size=GLOBAL_BATCH // devices)


class Scales:
    """Remembers the guide losses it is given."""

    def __init__(self):
        self.losses = []

    def __call__(self, guide_loss, history):
        self.losses.append(float(guide_loss))
        return 1 / guide_loss


def epoch_loop(name, devices, scales):
    if name == "split":
        return ValidationGuidedLoop(guide_split=32, scale=scales, guide_batches=None)
    if name == "sum":
        settings = {"guide_reduction": "sum", "guide_batches": None}
        return ValidationGuidedLoop(guide_dataloader=guide(devices), scale=scales, **settings)
    if name in ("reweight", "losses"):
        return ValidationGuidedLoop(guide_dataloader=guide(devices), scale="reweight")
    if name == "guided yields":
        step = {"guide_step": lambda module, batch: module.critic(batch[0]).square().mean() + 1}
        return ValidationGuidedLoop(guide_dataloader=guide(devices), scale=scales, **step)
    return ValidationGuidedLoop(guide_dataloader=guide(devices), scale=scales)


class Losses(TinyClassifier):
    def training_step(self, batch, batch_idx):
        losses = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses}


CASES = (
    "one factor",
    "sum",
    "split",
    "accumulated",
    "reweight",
    "losses",
    "yields",
    "guided yields",
    "yields accumulated",
)


def run_case(name, folder, devices):
    torch.manual_seed(0)
    scales = Scales()
    module = Yields() if "yields" in name else Losses() if name == "losses" else TinyClassifier()
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, default_root_dir=folder,
        accumulate_grad_batches=2 if "accumulated" in name else 1,
    )  # fmt: skip
    if name not in ("yields", "yields accumulated"):
        trainer.fit_loop.epoch_loop = epoch_loop(name, devices, scales)
    if "yields" in name:
        trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit(module, DataLoader(random_dataset(96), batch_size=GLOBAL_BATCH // devices))
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).tolist()
    return {"weights": weights, "losses": scales.losses, "steps": trainer.global_step, "rank": trainer.global_rank}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {name: run_case(name, sys.argv[1], 2) for name in CASES}
    Path(sys.argv[1], f"rank_{results['sum']['rank']}.json").write_text(json.dumps(results))
