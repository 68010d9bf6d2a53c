"""Modules and data as users of pytorch-lightning 2.6 write them; nothing here knows torchloops."""

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def dataset(n_samples=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_samples, 8, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


def loader(n_samples=40, batch_size=8, seed=0, **options):
    return DataLoader(dataset(n_samples, seed), batch_size=batch_size, **options)


def layers(dropout=0.0):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


class Classifier(pl.LightningModule):
    """What the documentation of Lightning teaches: automatic optimization, self.log, torchmetrics."""

    def __init__(self, optimizer="sgd", schedule=None, dropout=0.0, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = layers(dropout)
        self.train_accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.val_accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.example_input_array = torch.zeros(1, 8)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        self.log("samples", float(len(x)), on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_accuracy(logits, y)
        values = {"val_loss": nn.functional.cross_entropy(logits, y), "val_max": logits.max()}
        self.log_dict(values, prog_bar=True)
        self.log("val_accuracy", self.val_accuracy)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        lr = self.hparams.lr
        if self.hparams.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)
        else:
            optimizer = torch.optim.Adam(self.parameters(), lr=lr / 10)
        return {"optimizer": optimizer, **self._schedule(optimizer)}

    def _schedule(self, optimizer):
        schedulers = torch.optim.lr_scheduler
        if self.hparams.schedule == "step":
            total = self.trainer.estimated_stepping_batches
            return {
                "lr_scheduler": {
                    "scheduler": schedulers.OneCycleLR(optimizer, 0.1, total_steps=total + 1),
                    "interval": "step",
                }
            }
        if self.hparams.schedule == "epoch":
            return {"lr_scheduler": {"scheduler": schedulers.StepLR(optimizer, 1, 0.5), "frequency": 2}}
        if self.hparams.schedule == "plateau":
            plateau = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=10.0)
            return {"lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        return {}


class Data(pl.LightningDataModule):
    """A data module with every loader."""

    def __init__(self, batch_size=8):
        super().__init__()
        self.save_hyperparameters()
        self.stages = []

    def prepare_data(self):
        self.stages.append("prepare")

    def setup(self, stage):
        self.stages.append(stage)
        self.train, self.val = dataset(40), dataset(20, seed=1)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.hparams.batch_size)

    def test_dataloader(self):
        return DataLoader(self.val, batch_size=self.hparams.batch_size)

    def predict_dataloader(self):
        return DataLoader(self.val.tensors[0], batch_size=self.hparams.batch_size)


class Adversarial(pl.LightningModule):
    """A GAN by manual optimization, as in Lightning's examples."""

    def __init__(self, clip=None, schedule=False):
        super().__init__()
        self.automatic_optimization = False
        self.clip, self.schedule = clip, schedule
        self.generator = nn.Linear(4, 8)
        self.discriminator = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        real = batch[0]
        optimizer_g, optimizer_d = self.optimizers()
        noise = torch.randn(len(real), 4)
        self.toggle_optimizer(optimizer_g)
        self.seen.append([p.requires_grad for p in (self.generator.weight, self.discriminator[0].weight)])
        fake = self.generator(noise)
        g_loss = self._loss(fake, 1.0)
        self._optimize(optimizer_g, g_loss)
        self.untoggle_optimizer(optimizer_g)
        self.toggle_optimizer(optimizer_d)
        self.seen.append([p.requires_grad for p in (self.generator.weight, self.discriminator[0].weight)])
        d_loss = self._loss(real, 1.0) + self._loss(fake.detach(), 0.0)
        self._optimize(optimizer_d, d_loss)
        self.untoggle_optimizer(optimizer_d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)
        if self.schedule and self.trainer.is_last_batch:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def _optimize(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")
        optimizer.step()

    def _loss(self, images, target):
        logits = self.discriminator(images)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def configure_optimizers(self):
        optimizers = [
            torch.optim.Adam(part.parameters(), lr=0.01, betas=(0.5, 0.9))
            for part in (self.generator, self.discriminator)
        ]
        if not self.schedule:
            return optimizers
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in optimizers]
