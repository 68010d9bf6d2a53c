"""Hooks that a LightningModule overrides, with Lightning's signatures, run when and how Lightning runs them."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from lightning_models import Classifier, Data, dataset, loader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torch.utils.data import DataLoader

import torchloops
from torchloops import Callback

HOOKS = (
    "setup", "teardown", "configure_model", "on_fit_start", "on_fit_end", "on_train_start", "on_train_end",
    "on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start", "on_train_batch_end",
    "on_validation_start", "on_validation_end", "on_validation_epoch_start", "on_validation_epoch_end",
    "on_validation_batch_start", "on_validation_batch_end", "on_before_zero_grad", "on_before_backward",
    "on_after_backward", "on_before_optimizer_step", "optimizer_step", "optimizer_zero_grad", "backward",
    "lr_scheduler_step", "configure_gradient_clipping", "on_before_batch_transfer", "on_after_batch_transfer",
    "transfer_batch_to_device", "configure_optimizers", "configure_callbacks", "training_step", "validation_step",
    "on_validation_model_eval", "on_validation_model_train", "prepare_data",
)  # fmt: skip


# Ours asks for optimizers when a loop needs them, and steps schedulers of the epoch when the epoch has ended.
MOVED = {"configure_optimizers", "lr_scheduler_step"}


def recording(base, names):
    """A subclass of ``base`` whose hooks write down their names, then do what they did."""

    def make(name):
        def hook(self, *args, **kwargs):
            self.calls.append(name)
            return getattr(super(cls, self), name)(*args, **kwargs)

        return hook

    cls = type(f"Recording{base.__name__}", (base,), {"calls": None})
    for name in names:
        setattr(cls, name, make(name))
    cls.calls = property(lambda self: self.__dict__.setdefault("_calls", []))
    return cls


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"val_check_interval": 2}])
def test_every_hook_runs_in_lightnings_order(options, fit_theirs, fit_ours):
    theirs = recording(Classifier, HOOKS)("sgd", "epoch")
    ours = copy.deepcopy(theirs)
    fit_theirs(theirs, loader(), loader(16), max_epochs=2, **options)
    fit_ours(ours, loader(), loader(16), max_epochs=2, **options)
    assert len(theirs.calls) > 100
    ours_moved, theirs_moved = ([c for c in m.calls if c in MOVED] for m in (ours, theirs))
    assert sorted(ours_moved) == sorted(theirs_moved) == ["configure_optimizers", "lr_scheduler_step"]
    assert [c for c in ours.calls if c not in MOVED] == [c for c in theirs.calls if c not in MOVED]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_hooks_run_in_lightnings_order(stage, make_ours, fit_theirs):
    word = "validation" if stage == "validate" else stage
    names = [
        f"on_{word}_{when}"
        for when in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end", "model_eval")
    ]
    module = recording(Classifier, [*names, f"{word}_step", "setup", "teardown"])()
    if stage == "predict":
        type(module).predict_step = lambda self, batch, batch_idx: self(batch[0])
    getattr(make_ours(), stage)(module, loader(16))
    batches = [f"on_{word}_batch_start", f"{word}_step", f"on_{word}_batch_end"]
    if stage == "predict":
        batches.remove("predict_step")
    expected = ["setup", f"on_{word}_model_eval", f"on_{word}_start", f"on_{word}_epoch_start", *batches * 2]
    expected += [f"on_{word}_epoch_end", f"on_{word}_end"]
    if f"on_{word}_model_train" in module.calls:
        expected.append(f"on_{word}_model_train")
    assert module.calls == [*expected, "teardown"]


def test_step_and_batch_hooks_may_take_fewer_arguments(fit_ours, make_ours):
    class Short(Classifier):
        def training_step(self, batch):
            return super().training_step(batch, 0)

        def validation_step(self, batch):
            return super().validation_step(batch, 0)

        def on_validation_batch_start(self, batch, batch_idx):
            self.starts = batch_idx + 1

        def on_validation_batch_end(self, outputs, batch, batch_idx):
            self.ends = batch_idx + 1

        def on_test_batch_end(self, outputs, batch, batch_idx):
            self.test_ends = batch_idx + 1

        def on_predict_batch_end(self, outputs, batch, batch_idx):
            self.predict_ends = batch_idx + 1

        def predict_step(self, batch):
            return self(batch[0])

    module = Short()
    fit_ours(module, loader(), loader(24), max_epochs=1)
    assert module.starts == module.ends == 3
    make_ours().test(module, loader(32))
    assert module.test_ends == 4
    predictions = make_ours().predict(module, loader(16))
    assert module.predict_ends == 2
    assert [p.shape for p in predictions] == [(8, 3), (8, 3)]


def test_callbacks_with_lightnings_short_signatures(fit_ours):
    class Counting(pl.Callback):
        train = validation = 0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.train += float(outputs["loss"]) > 0

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.validation += 1

    counting = Counting()
    fit_ours(Classifier(), loader(), loader(16), max_epochs=2, callbacks=counting, num_sanity_val_steps=0)
    assert (counting.train, counting.validation) == (10, 4)


def test_optimizer_step_with_a_closure_and_clipping_equal_lightnings(fit_theirs, fit_ours):
    class Overriding(Classifier):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            if self.trainer.global_step < 4:  # the warm-up of Lightning's documentation
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 * (self.trainer.global_step + 1) / 4
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            self.stepped.append((epoch, batch_idx))

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            optimizer.zero_grad(set_to_none=False)

        def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
            self.clip_seen = gradient_clip_val
            self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")

        def on_before_optimizer_step(self, optimizer):
            self.norms.append(sum(float(p.grad.norm()) for p in self.parameters()))

    theirs = Overriding()
    theirs.stepped, theirs.norms = [], []
    ours = copy.deepcopy(theirs)
    options = {"max_epochs": 2, "accumulate_grad_batches": 2}
    fit_theirs(theirs, loader(), **options)
    fit_ours(ours, loader(), **options)
    assert ours.stepped == theirs.stepped == [(0, 1), (0, 3), (0, 4), (1, 1), (1, 3), (1, 4)]
    assert ours.norms == theirs.norms
    assert ours.clip_seen is None
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_optimizer_step_that_steps_every_second_batch(fit_theirs, fit_ours):
    class EverySecond(Classifier):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            if batch_idx % 2 == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    theirs = EverySecond()
    ours = copy.deepcopy(theirs)
    fit_theirs(theirs, loader(), max_epochs=2)
    trainer = fit_ours(ours, loader(), max_epochs=2)
    assert trainer.global_step == 6  # steps of the optimizer; Lightning counts calls of the hook
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_lr_scheduler_step_and_backward_are_the_modules(fit_ours):
    class Own(Classifier):
        scheduled, backwards = 0, 0

        def lr_scheduler_step(self, scheduler, metric):
            self.scheduled += 1
            super().lr_scheduler_step(scheduler, metric)

        def backward(self, loss, *args, **kwargs):
            self.backwards += 1
            super().backward(loss, *args, **kwargs)

    module = Own(schedule="epoch")
    fit_ours(module, loader(), max_epochs=4)
    assert module.scheduled == 2  # frequency 2
    assert module.backwards == 20
    assert module.lr_schedulers is not None


def test_configure_model_and_prepare_and_setup_run_before_optimizers(fit_ours):
    class Late(Classifier):
        def __init__(self):
            super().__init__()
            self.net = None

        def configure_model(self):
            self.net = nn.Linear(8, 3)

        def setup(self, stage):
            self.stage_seen = stage

    module = Late()
    trainer = fit_ours(module, loader(), max_epochs=1)
    assert module.stage_seen == "fit"
    assert sum(len(g["params"]) for g in trainer.optimizers[0].param_groups) == 2


def test_transfer_hooks_of_module_and_of_data_module(fit_ours):
    class Doubling(Data):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = batch
            return x * 2, y

    class Named(Classifier):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            self.devices.add(str(device))
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def training_step(self, batch, batch_idx):
            self.largest = max(self.largest, float(batch[0].abs().max()))
            return super().training_step(batch, batch_idx)

    module = Named()
    module.devices, module.largest = set(), 0.0
    fit_ours(module, fit_options={"datamodule": Doubling()}, max_epochs=1)
    assert module.devices == {"cpu"}
    assert module.largest == 2 * float(dataset(40).tensors[0].abs().max())


class Noting(Callback):
    """A callback of ours, returned by a module of Lightning."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append(trainer.current_epoch)


@pytest.mark.parametrize("kind", ["ours", "lightning's"])
def test_configure_callbacks(kind, fit_ours):
    class NotingOfLightning(pl.Callback):
        def __init__(self):
            self.epochs = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.epochs.append(pl_module.current_epoch)

    class Configuring(Classifier):
        def configure_callbacks(self):
            return Noting() if kind == "ours" else [NotingOfLightning()]

    module = Configuring()
    given = Noting()
    trainer = fit_ours(module, loader(), max_epochs=3, callbacks=[given])
    noting = [callback for callback in trainer.callbacks if hasattr(callback, "epochs")]
    assert noting[-1].epochs == [0, 1, 2]
    assert given.epochs == ([] if kind == "ours" else [0, 1, 2])  # the module's callback takes the place of its type


@pytest.mark.parametrize("monitor", ["val_loss", "train_loss", "train_loss_epoch"])
def test_early_stopping_of_lightning_stops_our_trainer(monitor, fit_ours):
    class Stopping(Classifier):
        def configure_callbacks(self):
            return pl.callbacks.EarlyStopping(monitor, patience=1, min_delta=100.0)

    module = Stopping()
    trainer = fit_ours(module, loader(), loader(16), max_epochs=10)
    assert trainer.current_epoch == 2
    assert trainer.callbacks[-1].stopped_epoch == 1


def test_returning_minus_one_from_on_train_batch_start_ends_the_epoch(fit_theirs, fit_ours):
    class Ending(Classifier):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    theirs = Ending()
    ours = copy.deepcopy(theirs)
    their_trainer = fit_theirs(theirs, loader(), max_epochs=2)
    our_trainer = fit_ours(ours, loader(), max_epochs=2)
    assert our_trainer.global_step == their_trainer.global_step == 4


def test_outputs_of_training_step_reach_on_train_batch_end(fit_ours):
    class Outputs(Classifier):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "size": len(batch[0])}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.outputs.append((outputs["size"], outputs["loss"].requires_grad))

    module = Outputs()
    module.outputs = []
    fit_ours(module, loader(36), max_epochs=1)
    assert module.outputs == [(8, False)] * 4 + [(4, False)]


def test_iterable_and_several_validation_loaders(fit_theirs, fit_ours):
    class Several(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
            self.log("plain", float(dataloader_idx), add_dataloader_idx=False) if dataloader_idx else None

        def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx):
            self.loaders_seen.append(dataloader_idx)

    theirs = Several()
    theirs.loaders_seen = []
    ours = copy.deepcopy(theirs)
    loaders = [loader(16, seed=1), loader(8, seed=2)]
    options = {"max_epochs": 1, "num_sanity_val_steps": 0}
    torchloops.seed_everything(5)
    their_trainer = fit_theirs(theirs, loader(), loaders, **options)
    torchloops.seed_everything(5)
    our_trainer = fit_ours(ours, loader(), loaders, **options)
    assert ours.loaders_seen == theirs.loaders_seen == [0, 0, 1]
    assert "val_loss/dataloader_idx_1" in our_trainer.callback_metrics
    expected = {name: float(value) for name, value in their_trainer.callback_metrics.items()}
    assert {name: float(value) for name, value in our_trainer.callback_metrics.items()} == pytest.approx(expected)


def test_loaders_defined_on_the_module(fit_ours):
    class WithLoaders(Classifier):
        def train_dataloader(self):
            return DataLoader(dataset(24), batch_size=8)

        def val_dataloader(self):
            return [DataLoader(dataset(8, seed=1), batch_size=8)]

    module = WithLoaders()
    trainer = fit_ours(module, max_epochs=2)
    assert trainer.global_step == 6
    assert "val_loss" in trainer.callback_metrics
    assert is_overridden("train_dataloader", module)
