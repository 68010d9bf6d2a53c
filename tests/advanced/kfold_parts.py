"""Modules, data and runs that the tests of KFoldLoop share."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchloops import DataModule, KFoldLoop, LoopModule, Trainer

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}


class Notes(list):
    """What a module writes down over several fits: copies are the same list, so that no fresh start takes it away."""

    def __deepcopy__(self, memo):
        return self


class Classifier(LoopModule):
    """Two layers that note how each fit began."""

    def __init__(self, scheduler=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.scheduler = scheduler
        self.began = Notes()

    def forward(self, inputs):
        return self.net(inputs)

    def on_train_start(self):
        optimizer = self.trainer.optimizers[0]
        self.began.append(
            {
                "weights": weights(self), "state": len(optimizer.state), "lr": optimizer.param_groups[0]["lr"],
                "epoch": self.current_epoch, "step": self.global_step, "random": torch.rand(1).item(),
            }
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        if not self.scheduler:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def samples(n=60, seed=0):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


class Recorded(Dataset):
    """Data that writes down which index was asked for in which run."""

    def __init__(self, n=60, seed=0):
        self.data = samples(n, seed)
        self.targets = self.data.tensors[1].tolist()
        self.asked = []
        self.where = lambda: ""

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.asked.append((self.where(), index))
        return self.data[index]


class Data(DataModule):
    """A data module with every part."""

    def __init__(self, train=None, validation=False, batch_size=16, **options):
        self.train, self.validation, self.batch_size, self.options = train or samples(), validation, batch_size, options
        self.stages = []

    def setup(self, stage):
        self.stages.append(stage)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self):
        return DataLoader(samples(20, 5), 10) if self.validation else None

    def test_dataloader(self):
        return DataLoader(samples(40, 1), 20)


def cross_validate(tmp_path, data=None, loop=None, module=None, inner=None, fit=None, trainer=None, **settings):
    """Run ``loop`` and return ``(loop, trainer, module)``; ``inner`` is put between it and the Trainer's loop."""
    torch.manual_seed(0)
    loop = KFoldLoop(3) if loop is None else loop
    module = Classifier() if module is None else module
    if trainer is None:
        settings = {"max_epochs": 2, "enable_checkpointing": False, "default_root_dir": tmp_path / "run", **settings}
        trainer = Trainer(**{**QUIET, **settings})
    if inner is None:
        loop.connect(trainer.fit_loop)
    else:
        inner.connect(trainer.fit_loop)
        loop.connect(inner)
    trainer.fit_loop = loop
    trainer.fit(module, samples() if data is None else data, **(fit or {}))
    return loop, trainer, module


def same_results(one, other):
    """Whether two loops' folds are equal to the bit, seconds aside."""
    rows = [[{k: v for k, v in r.row.items() if k != "seconds"} for r in loop.results] for loop in (one, other)]
    pairs = zip(one.results, other.results, strict=True)
    same = all(torch.equal(a.weights[name], b.weights[name]) for a, b in pairs for name in a.weights)
    return same and rows[0] == rows[1] and one.oof.equals(other.oof)
