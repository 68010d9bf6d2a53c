"""Fits that test_ddp.py runs in one process and, as a script, in two: ``python ddp_script.py FOLDER``."""

import json
import sys
from pathlib import Path

import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader

from torchloops import Callback, Loop, LoopModule, Trainer, seed_everything
from torchloops.testing import random_dataset

GLOBAL_BATCH = 8


class Synced(LoopModule):
    """Logs everything that has to agree over processes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)
        self.val_accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.accuracy(logits, batch[1])
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("samples", float(len(batch[0])), on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        self.log("largest", batch[0].max(), on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        self.val_accuracy(logits, batch[1])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]), sync_dist=True)
        self.log("val_accuracy", self.val_accuracy)

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)
        self.log("tested", float(len(batch[0])), reduce_fx="sum", sync_dist=True)

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Manual(Synced):
    """Two optimizers in turns, one of them accumulating over two batches."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        first.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        first.step()
        self.untoggle_optimizer(first)
        self.manual_backward(self.net(batch[0]).square().mean())
        if batch_idx % 2:
            second.step()
            second.zero_grad()

    def configure_optimizers(self):
        return [
            torch.optim.SGD(self.net[0].parameters(), lr=0.1),
            torch.optim.Adam(self.net[2].parameters(), lr=0.01),
        ]


class TwoOptimizers(Synced):
    """Two optimizers under automatic optimization."""

    def training_step(self, batch, batch_idx, optimizer_idx):
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 2)]


CASES = {
    "plain": (Synced, {}),
    "accumulation": (Synced, {"accumulate_grad_batches": 2}),
    "clipping": (Synced, {"gradient_clip_val": 0.05}),
    "manual": (Manual, {}),
    "two optimizers": (TwoOptimizers, {}),
}


def loader(n_samples, seed, processes):
    data = random_dataset(n_samples, seed, in_features=8, num_classes=4)
    return DataLoader(data, batch_size=GLOBAL_BATCH // processes)


def run_case(name, folder, processes, **more):
    """Fit, validate and test; what has to be the same however many processes there are."""
    build, options = CASES[name]
    strategy = {"strategy": "ddp", "devices": 2} if processes == 2 else {"devices": 1}
    seed_everything(4)
    module = build()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, enable_progress_bar=False, default_root_dir=folder / name,
        num_sanity_val_steps=1, **strategy, **options, **more,
    )  # fmt: skip
    trainer.fit(module, loader(40, 0, processes), loader(20, 1, processes))
    result = {
        "weights": [value.double().sum().item() for value in module.parameters()],
        "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "steps": trainer.global_step,
        "epoch": trainer.current_epoch,
    }
    result["validate"] = trainer.validate(module, loader(20, 1, processes))
    result["test"] = trainer.test(module, loader(20, 2, processes))
    result["tested"] = trainer.test(module, loader(21, 2, processes))[0]["tested"]
    result["predictions"] = torch.cat(trainer.predict(module, loader(21, 2, processes))).sum(1).tolist()
    result["rank"] = trainer.global_rank
    return result


def resume(folder, processes):
    """Go on from the checkpoint of the case "plain" for an epoch more."""
    seed_everything(4)
    module = Synced()
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes == 2 else "auto", max_epochs=3,
        enable_progress_bar=False, enable_checkpointing=False, logger=False, default_root_dir=folder / "resumed",
    )  # fmt: skip
    trainer.fit(module, loader(40, 0, processes), ckpt_path=folder / "plain" / "checkpoints" / "last.ckpt")
    return {"weights": [value.double().sum().item() for value in module.parameters()], "steps": trainer.global_step}


class BuildsInSetup(Synced):
    """Has another last layer in each run."""

    def setup(self, stage):
        if stage == "fit":
            self.net[2] = nn.Linear(16, 4)


class Inside(Loop):
    """Fits in an isolated run."""

    @property
    def done(self):
        return self.progress.current == 1

    def advance(self):
        with self.trainer.isolated("inside", seed=1):
            self.fit_loop.run()


def inside(folder, processes):
    """Fit in an inner run, in which the module gets a new layer."""
    seed_everything(4)
    module, loop = BuildsInSetup(), Inside()
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes == 2 else "auto", max_epochs=2,
        enable_progress_bar=False, enable_checkpointing=False, logger=False, default_root_dir=folder / "inside",
    )  # fmt: skip
    loop.connect(fit_loop=trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(module, loader(40, 0, processes), loader(20, 1, processes))
    return {"weights": [value.double().sum().item() for value in module.parameters()]}


class Dropping(Synced):
    """Draws other dropout masks in each process."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return super().training_step((nn.functional.dropout(inputs, 0.3), targets), batch_idx)


class SaveAt(Callback):
    """Saves in the middle of the second epoch, where a logged mean and an accumulation are gathering."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 2):
            trainer.save_checkpoint(self.path)


def cut(folder):
    """Weights of each process, bit for bit, of a whole fit and of one that went on from its middle."""
    found = []
    for seed, ckpt_path in ((4, None), (9, folder / "cut.ckpt")):
        seed_everything(seed)
        module = Dropping()
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, accumulate_grad_batches=2, logger=False,
            callbacks=[] if ckpt_path else [SaveAt(folder / "cut.ckpt")], enable_progress_bar=False,
            enable_checkpointing=False, default_root_dir=folder / "cut",
        )  # fmt: skip
        torch.manual_seed(seed + trainer.global_rank)
        trainer.fit(module, loader(40, 0, 2), loader(20, 1, 2), ckpt_path=ckpt_path)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found.append({"weights": [value.tolist() for value in module.parameters()], "metrics": metrics})
    return found


def main(folder):
    torch.set_num_threads(1)
    results = {name: run_case(name, folder, 2) for name in CASES}
    results["resumed"] = resume(folder, 2)
    results["inside"] = inside(folder, 2)
    results["cut"] = cut(folder)
    (folder / f"rank_{results['plain']['rank']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
