"""What a LightningModule sees through self.trainer and self, and what is left on it afterwards."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from lightning_models import Adversarial, Classifier, Data, dataset, loader
from torch import nn
from torch.utils.data import DataLoader

import torchloops
from torchloops import Callback, CSVLogger


def test_trainer_properties_seen_in_hooks(make_ours):
    class Asking(Classifier):
        def on_train_epoch_start(self):
            trainer = self.trainer
            self.epochs.append((trainer.current_epoch, self.current_epoch, trainer.global_step, self.global_step))

        def configure_optimizers(self):
            self.steps = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

        def on_train_start(self):
            trainer = self.trainer
            self.seen = {
                "batches": trainer.num_training_batches,
                "val_batches": trainer.num_val_batches,
                "max_epochs": trainer.max_epochs,
                "zero": trainer.is_global_zero,
                "world": (trainer.world_size, self.global_rank, self.local_rank),
                "datamodule": trainer.datamodule,
                "training": trainer.training,
                "optimizer": type(trainer.optimizers[0]),
                "own": type(self.optimizers(use_pl_optimizer=False)),
                "scheduler": self.lr_schedulers(),
                "logger": (self.logger, trainer.logger),
                "device": self.device,
                "accumulate": trainer.accumulate_grad_batches,
                "sanity": trainer.sanity_checking,
                "loaders": (trainer.train_dataloader.batch_size, trainer.val_dataloaders.batch_size),
                "dir": trainer.default_root_dir,
                "last": trainer.is_last_batch,
                "module": trainer.lightning_module is self,
            }

    module, data = Asking(), Data()
    module.epochs = []
    trainer = make_ours(max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=data)
    seen = module.seen
    assert module.steps == trainer.global_step == 6
    assert module.epochs == [(0, 0, 0, 0), (1, 1, 3, 3)]
    assert (seen["batches"], seen["val_batches"], seen["max_epochs"]) == (5, [3], 2)
    assert [seen[name] for name in ("zero", "training", "sanity", "module")] == [True, True, False, True]
    assert seen["world"] == (1, 0, 0)
    assert seen["datamodule"] is data
    assert seen["optimizer"] is seen["own"] is torch.optim.SGD
    assert seen["scheduler"] is None
    assert seen["logger"] == (None, None)
    assert seen["device"] == torch.device("cpu")
    assert seen["accumulate"] == 2
    assert seen["loaders"] == (8, 8)
    assert seen["dir"] is not None
    assert data.stages == ["prepare", "fit"]


def test_callback_metrics_are_there_in_epoch_end_hooks(fit_ours):
    class Reading(Classifier):
        def on_train_epoch_end(self):
            self.read.append(float(self.trainer.callback_metrics["val_loss"]))

    module = Reading()
    module.read = []
    trainer = fit_ours(module, loader(), loader(16), max_epochs=2)
    assert len(module.read) == 2
    assert module.read[1] == float(trainer.callback_metrics["val_loss"]) != module.read[0]


def test_values_logged_in_every_kind_of_hook_equal_lightnings(fit_theirs, fit_ours):
    class Logging(Classifier):
        def on_train_start(self):
            self.log("in_train_start", 1.0)

        def on_train_epoch_start(self):
            self.log("in_epoch_start", float(self.current_epoch))

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.log("in_batch_end", outputs["loss"] * 2, on_step=True, on_epoch=True)

        def on_before_optimizer_step(self, optimizer):
            self.log("in_before_step", float(self.global_step))

        def training_step(self, batch, batch_idx):
            self.log("with_epoch", float(batch_idx), on_epoch=True)
            self.log("with_step", float(batch_idx), on_step=True)
            return super().training_step(batch, batch_idx)

        def on_validation_batch_end(self, outputs, batch, batch_idx):
            self.log("val_with_step", float(batch_idx), on_step=True)
            self.log("val_sum", 1.0, reduce_fx="sum", batch_size=3)

        def on_validation_epoch_end(self):
            self.log("in_val_epoch_end", 3.0 + self.current_epoch)

        def on_train_epoch_end(self):
            self.log("in_epoch_end", torch.tensor(4.0) + self.current_epoch)
            self.log_dict({"a": 1.0, "b": torch.tensor([2.0])}, prog_bar=True)

    theirs = Logging()
    ours = copy.deepcopy(theirs)
    their_trainer = fit_theirs(theirs, loader(36), loader(20), max_epochs=2)
    our_trainer = fit_ours(ours, loader(36), loader(20), max_epochs=2)
    expected = {name: float(value) for name, value in their_trainer.callback_metrics.items()}
    found = {name: float(value) for name, value in our_trainer.callback_metrics.items()}
    del found["val_with_step_step"]  # the last step of a validation, which Lightning does not keep
    assert found == pytest.approx(expected)
    assert {"a", "b", "val_loss"} < set(our_trainer.progress_bar_metrics)
    assert "val_accuracy" not in our_trainer.progress_bar_metrics


def test_metric_collections_and_metric_attributes(fit_theirs, fit_ours):
    import torchmetrics

    class Collecting(Classifier):
        def __init__(self):
            super().__init__()
            options = {"task": "multiclass", "num_classes": 3}
            self.many = torchmetrics.MetricCollection(
                {"acc": torchmetrics.Accuracy(**options), "f1": torchmetrics.F1Score(**options, average="macro")},
                prefix="many_",
            )
            self.mean = torchmetrics.MeanMetric()

        def validation_step(self, batch, batch_idx):
            x, y = batch
            logits = self(x)
            self.many(logits, y)
            self.log_dict(self.many, on_step=False, on_epoch=True)
            self.mean.update(logits.mean())

        def on_validation_epoch_end(self):
            self.log("mean", self.mean.compute())
            self.mean.reset()

    theirs = Collecting()
    ours = copy.deepcopy(theirs)
    their_trainer = fit_theirs(theirs, loader(), loader(36), max_epochs=2)
    our_trainer = fit_ours(ours, loader(), loader(36), max_epochs=2)
    for name in ("many_acc", "many_f1", "mean"):
        assert float(our_trainer.callback_metrics[name]) == pytest.approx(float(their_trainer.callback_metrics[name]))


def test_validate_and_test_return_lightnings_values(fit_ours, make_ours, fit_theirs):
    module = Classifier()
    trainer = fit_ours(module, loader(), max_epochs=1)
    theirs = fit_theirs(copy.deepcopy(module), loader(), max_epochs=0)
    for stage in ("validate", "test"):
        ours = getattr(trainer, stage)(module, datamodule=Data())
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = getattr(theirs, stage)(copy.deepcopy(module), datamodule=Data(), verbose=False)
        assert ours == [pytest.approx(expected[0])]
    assert set(ours[0]) == {"test_loss"}


def test_predict_with_the_default_predict_step(make_ours):
    module = Classifier()
    predictions = make_ours().predict(module, datamodule=Data())
    assert [p.shape for p in predictions] == [(8, 3), (8, 3), (4, 3)]
    with torch.no_grad():
        expected = module.eval()(dataset(20, seed=1).tensors[0])
    assert torch.allclose(torch.cat(predictions), expected, atol=1e-6)


def test_bf16_mixed_autocasts_inside_the_steps(make_ours):
    class Typed(Classifier):
        def _note(self, stage, batch):
            self.types[stage] = (self(batch[0]).dtype, self.net[0].weight.dtype)

        def training_step(self, batch, batch_idx):
            self._note("train", batch)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            self._note("validate", batch)

        def predict_step(self, batch, batch_idx):
            self._note("predict", [batch])
            return self(batch)

    module = Typed()
    module.types = {}
    trainer = make_ours(precision="bf16-mixed", max_epochs=1)
    trainer.fit(module, loader(), loader(8))
    assert module.types == dict.fromkeys(("train", "validate"), (torch.bfloat16, torch.float32))
    trainer.predict(module, DataLoader(dataset(8).tensors[0], batch_size=8))
    assert module.types["predict"] == (torch.bfloat16, torch.float32)
    assert not torch.is_autocast_enabled("cpu")
    assert next(module.parameters()).grad is None or next(module.parameters()).grad.dtype == torch.float32


def test_bf16_mixed_autocasts_manual_optimization(make_ours):
    class Typed(Adversarial):
        def training_step(self, batch, batch_idx):
            self.type_seen = self.generator(torch.zeros(2, 4)).dtype
            super().training_step(batch, batch_idx)

    module = Typed(clip=0.1)
    before = copy.deepcopy(module)
    make_ours(precision="bf16-mixed", max_epochs=1).fit(module, loader())
    assert module.type_seen == torch.bfloat16
    assert not torch.equal(before.generator.weight, module.generator.weight)


def test_print_and_all_gather_and_logger(make_ours, tmp_path, capsys):
    class Talking(Classifier):
        def on_train_start(self):
            self.print("hello from", self.current_epoch)
            self.gathered = self.all_gather(torch.tensor([1.0, 2.0]))
            self.logger.log_metrics({"own": 7.0}, step=0)
            self.logger_type = type(self.logger)

    module = Talking()
    make_ours(logger=CSVLogger(tmp_path / "log"), max_epochs=1).fit(module, loader())
    assert "hello from 0" in capsys.readouterr().out
    assert module.gathered.flatten().tolist() == [1.0, 2.0]
    assert module.logger_type is CSVLogger
    assert "own" in (tmp_path / "log" / "metrics.csv").read_text()


class Inner(pl.LightningModule):
    """A part that logs by itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        out = self.layer(x)
        if self._trainer is not None and self.training:
            self.log("inner/size", out.abs().mean(), on_step=False, on_epoch=True)
            self.epoch_seen = self.trainer.current_epoch
        return out


class Outer(Classifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(Inner(), nn.ReLU(), nn.Linear(3, 3))


class DirectOuter(Classifier):
    def __init__(self):
        super().__init__()
        self.net = Inner()


def test_nested_lightning_modules_log(fit_ours):
    class Frozen(DirectOuter):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module = Frozen()
    trainer = fit_ours(module, loader(), max_epochs=2)
    expected = module.net.layer(dataset(40).tensors[0]).abs().mean()
    assert float(trainer.callback_metrics["inner/size"]) == pytest.approx(expected.item())
    assert module.net.epoch_seen == 1


def test_lightning_modules_inside_plain_containers_log_too(fit_ours):
    module = Outer()
    trainer = fit_ours(module, loader(), max_epochs=1)
    assert "inner/size" in trainer.callback_metrics


def lightning_state(module):
    """What Lightning's Trainer would find on each part of a module: names of instance attributes."""
    return {name: sorted(vars(part)) for name, part in module.named_modules()}


@pytest.mark.parametrize("kind", [Classifier, Adversarial, DirectOuter, Outer])
def test_nothing_of_ours_is_left_on_the_module(kind, fit_ours):
    module = kind()
    before = lightning_state(module)
    fit_ours(module, loader(), max_epochs=1)
    after = lightning_state(module)
    own = {"seen", "epoch_seen"}
    left = {name: set(after[name]) - set(before[name]) - own for name in after}
    assert not any(left.values())
    assert module._fabric is None
    assert "log" not in vars(module)


@pytest.mark.parametrize("kind", [Classifier, Adversarial])
@pytest.mark.parametrize("order", ["before", "after", "both"])
def test_lightnings_trainer_before_and_after_ours(kind, order, fit_theirs, fit_ours):
    module = kind()
    reference = copy.deepcopy(module)
    fits = {"before": "to", "after": "ot", "both": "tot"}[order]
    for who in fits:
        trainer = (fit_theirs if who == "t" else fit_ours)(module, loader(), max_epochs=1)
        torchloops.seed_everything(3)
    assert trainer.callback_metrics
    for _ in fits:
        expected = fit_theirs(reference, loader(), max_epochs=1)
        torchloops.seed_everything(3)
    if kind is Classifier:  # no random numbers, so the fits are comparable
        assert torch.equal(module.net[0].weight, reference.net[0].weight)
        assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(
            float(expected.callback_metrics["train_loss"])
        )


class Copying(Callback):
    """Copies the module in the middle of a fit, as weight averaging does."""

    def __init__(self, how):
        self.how = how

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.copy = self.how(module)


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("how", [copy.deepcopy, through_pickle])
@pytest.mark.parametrize("when", ["during", "after"])
def test_copies_of_the_module_are_free_of_the_run(how, when, fit_ours, fit_theirs):
    module = Classifier()
    clean = lightning_state(module)
    callback = Copying(how)
    fit_ours(module, loader(), max_epochs=1, callbacks=[callback])
    clone = callback.copy if when == "during" else how(module)
    assert lightning_state(clone) == clean
    assert clone._trainer is None
    trainer = fit_theirs(clone, loader(), max_epochs=1)
    assert "train_loss" in trainer.callback_metrics
    assert "train_loss" in fit_ours(clone, loader(), max_epochs=1).callback_metrics


class PlainModule(nn.Module):
    """No LightningModule and no LoopModule, only the two methods."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("how", [copy.deepcopy, through_pickle])
def test_copies_of_a_plain_module_do_not_drag_the_trainer_along(how, fit_ours):
    module = PlainModule()
    clean = lightning_state(module)
    callback = Copying(how)
    trainer = fit_ours(module, loader(), max_epochs=1, callbacks=[callback])
    assert "loss" in trainer.callback_metrics
    assert lightning_state(callback.copy) == lightning_state(module) == clean


def test_save_hyperparameters_and_load_from_checkpoint_of_lightning(fit_ours, tmp_path):
    module = Classifier(optimizer="adam", dropout=0.25, lr=0.02)
    trainer = fit_ours(module, fit_options={"datamodule": Data(batch_size=10)}, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True)
    assert dict(loaded.hparams) == {"optimizer": "adam", "schedule": None, "dropout": 0.25, "lr": 0.02}
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), loaded.parameters(), strict=True))
    changed = Classifier.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True, lr=0.5)
    assert changed.hparams.lr == 0.5


def test_checkpoint_hooks_of_a_lightning_module(fit_ours, tmp_path):
    class Remembering(Classifier):
        extra = 0

        def on_save_checkpoint(self, checkpoint):
            checkpoint["extra"] = 42

        def on_load_checkpoint(self, checkpoint):
            self.extra = checkpoint["extra"]

    trainer = fit_ours(Remembering(), loader(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    module = Remembering()
    fit_ours(module, loader(), max_epochs=2, fit_options={"ckpt_path": tmp_path / "ours.ckpt"})
    assert module.extra == 42
    assert Remembering.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True).extra == 42


@pytest.mark.parametrize("kind", [Classifier, Adversarial])
def test_an_error_in_a_step_leaves_the_module_clean(kind, fit_ours, fit_theirs):
    class Failing(kind):
        fails = True

        def training_step(self, batch, batch_idx):
            if kind is Adversarial and self.fails:
                self.toggle_optimizer(self.optimizers()[0])
            if self.fails and batch_idx == 1:
                raise ZeroDivisionError("on purpose")
            return super().training_step(batch, batch_idx)

    module = Failing()
    before = lightning_state(module)
    with pytest.raises(ZeroDivisionError):
        fit_ours(module, loader(), max_epochs=1)
    assert lightning_state(module) == before
    assert all(parameter.requires_grad for parameter in module.parameters())
    module.fails = False
    fit_theirs(module, loader(), max_epochs=1)


def test_manual_optimization_with_a_scheduler_on_a_metric(fit_ours):
    class Plateau(Adversarial):
        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[0], patience=0, threshold=1e3)
            return [{"optimizer": optimizers[0], "lr_scheduler": plateau}, {"optimizer": optimizers[1]}]

        def on_train_epoch_end(self):
            self.lr_schedulers().step(self.trainer.callback_metrics["g_loss"])

    module = Plateau()
    trainer = fit_ours(module, loader(), max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.00001)


def test_a_scheduler_dictionary_with_a_wrong_monitor_says_what_was_logged(fit_ours):
    class Misspelt(Classifier):
        def _schedule(self, optimizer):
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"lr_scheduler": {"scheduler": plateau, "monitor": "vall_loss"}}

    with pytest.raises(torchloops.errors.ConfigurationError, match=r"vall_loss.*Did you mean \"val_loss\""):
        fit_ours(Misspelt(), loader(), loader(8), max_epochs=1)
