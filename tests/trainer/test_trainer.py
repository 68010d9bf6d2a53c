"""The Trainer's arguments, entry points, return values, errors, and what it leaves behind."""

import os
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from torchloops import Callback, DataModule, EarlyStopping, Loop, LoopModule, ModelCheckpoint, Trainer
from torchloops.errors import ConfigurationError, DataError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader


def train(n_samples=96, **options):
    return random_loader(n_samples, **options)


class Bare(LoopModule):
    """Only a layer, a step and an optimizer; a test overrides what it is about."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 10)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_epochs": -2}, "max_epochs"),
        ({"max_epochs": 2.5}, "max_epochs"),
        ({"max_steps": -3}, "max_steps"),
        ({"min_epochs": -1}, "min_epochs"),
        ({"max_time": "1:2"}, r"max_time.*DD:HH:MM:SS.*1:2"),
        ({"max_time": {"fortnights": 1}}, "max_time"),
        ({"limit_train_batches": 1.5}, "limit_train_batches"),
        ({"limit_val_batches": -1}, "limit_val_batches"),
        ({"limit_test_batches": "all"}, "limit_test_batches"),
        ({"overfit_batches": -0.1}, "overfit_batches"),
        ({"val_check_interval": 0}, "val_check_interval"),
        ({"val_check_interval": 1.2}, "val_check_interval"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch"),
        ({"check_val_every_n_epoch": None}, "int val_check_interval"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches"),
        ({"accumulate_grad_batches": {0: 2}}, "accumulate_grad_batches"),
        ({"log_every_n_steps": 0}, "log_every_n_steps"),
        ({"gradient_clip_algorithm": "max"}, r"gradient_clip_algorithm.*\"norm\" or \"value\".*max"),
        ({"callbacks": ModelCheckpoint(), "enable_checkpointing": False}, "enable_checkpointing"),
        ({"callbacks": [EarlyStopping]}, r"EarlyStopping.*instance"),
        ({"deterministic": "x"}, r'deterministic is True, False or "warn", got .x.'),
        ({"limit_predict_batches": True}, "limit_predict_batches is a number of batches"),
        ({"reload_dataloaders_every_n_epochs": -1}, "reload_dataloaders_every_n_epochs is a number of epochs"),
        ({"num_sanity_val_steps": -2}, "num_sanity_val_steps is a number of batches"),
        ({"logger": 5}, "logger= takes True, False, or objects with `log_metrics`, got 5"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Trainer(accelerator="cpu", **arguments)


def test_wrong_arguments_are_reported_together():
    with pytest.raises(ConfigurationError) as caught:
        Trainer(
            accelerator="cpu", max_epochs=-7, max_time="soon", limit_val_batches=2.0, accumulate_grad_batches=0,
            gradient_clip_algorithm="l3",
        )  # fmt: skip
    lines = str(caught.value).splitlines()
    names = ("max_epochs", "max_time", "limit_val_batches", "accumulate_grad_batches", "gradient_clip_algorithm")
    assert len(lines) == 5
    for name in names:
        assert sum(line.startswith(name) for line in lines) == 1


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"max_epochs": 2}, 2, 6),
        ({"max_steps": 4}, 1, 4),
        ({"max_epochs": 5, "max_steps": 7}, 2, 7),
        ({"max_epochs": 0}, 0, 0),
        ({"max_epochs": 2, "limit_train_batches": 2}, 2, 4),
        ({"max_epochs": 2, "limit_train_batches": 0.4}, 2, 2),
        ({"max_epochs": 2, "limit_train_batches": 0}, 0, 0),
        ({"fast_dev_run": True}, 1, 1),
        ({"fast_dev_run": 2, "max_epochs": 9}, 1, 2),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 2, 4),
        ({"max_epochs": 3, "overfit_batches": 1}, 3, 3),
        ({"max_time": 0.0}, 0, 0),
    ],
    ids=str,
)
def test_limits(options, epochs, steps, make_trainer):
    trainer = make_trainer(**options)
    trainer.fit(TinyClassifier(), train())
    assert trainer.global_step == steps
    assert trainer.current_epoch in (epochs, epochs + 1 if "max_steps" in options else epochs)


def test_min_epochs_and_min_steps_hold_off_a_stop(make_trainer):
    class Stopping(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = True

    found = []
    for options in ({}, {"min_epochs": 2}, {"min_steps": 4}):
        trainer = make_trainer(max_epochs=5, callbacks=Stopping(), **options)
        trainer.fit(TinyClassifier(), train())
        found.append(trainer.global_step)
    assert found[0] == 1
    assert 6 <= found[1] < 15
    assert 4 <= found[2] < 15


def test_estimated_stepping_batches(make_trainer):
    seen = []

    class Asking(Bare):
        def configure_optimizers(self):
            seen.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    for options in (
        {"max_epochs": 2},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": 3, "max_steps": 4},
    ):
        trainer = make_trainer(**options)
        trainer.fit(Asking(), train())
        assert seen[-1] == trainer.global_step


# what the entry points return


class TwoLoaders(TinyClassifier):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)
        self.log("shared", 5.0, add_dataloader_idx=False) if dataloader_idx == 0 else None

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        super().test_step(batch, batch_idx)


def test_validate_and_test_return_a_dict_a_loader(make_trainer):
    trainer, module = make_trainer(), TwoLoaders()
    one = trainer.validate(module, train())
    assert [set(metrics) for metrics in one] == [{"val/loss", "val/accuracy", "shared"}]
    assert all(isinstance(value, float) for value in one[0].values())
    two = trainer.validate(module, [train(), train(seed=1)])
    assert set(two[0]) == {"val/loss/dataloader_idx_0", "val/accuracy/dataloader_idx_0", "shared"}
    assert set(two[1]) == {"val/loss/dataloader_idx_1", "val/accuracy/dataloader_idx_1"}  # the other's is not in it
    assert two[0]["val/loss/dataloader_idx_0"] == one[0]["val/loss"]
    assert trainer.test(module, train(seed=1))[0]["test/loss"] == two[1]["val/loss/dataloader_idx_1"]


def test_eleven_loaders_are_told_apart(make_trainer):
    results = make_trainer().validate(TwoLoaders(), [train(8, seed=index) for index in range(11)])
    assert [set(metrics) - {"shared"} for metrics in results] == [
        {f"val/loss/dataloader_idx_{index}", f"val/accuracy/dataloader_idx_{index}"} for index in range(11)
    ]


def test_predict_returns_a_list_of_batches_and_a_list_of_those_for_several_loaders(make_trainer):
    trainer, module = make_trainer(), TinyClassifier()
    one = trainer.predict(module, train(40))
    assert [batch.shape for batch in one] == [(32, 10), (8, 10)]
    several = trainer.predict(module, [train(40), train(8)])
    assert [[len(batch) for batch in loader] for loader in several] == [[32, 8], [8]]
    assert torch.equal(several[0][0], one[0])
    assert trainer.predict(module, train(96), None) is not None


def test_a_list_of_batches_is_one_loader(make_trainer):
    batches = random_batches(3, 8)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(TinyClassifier(), batches, random_batches(2, 8, seed=1))
    assert trainer.global_step == 3
    assert len(trainer.validate(dataloaders=batches)) == 1
    assert len(trainer.predict(dataloaders=batches)) == 3


def test_limits_of_evaluation(make_trainer):
    trainer = make_trainer(limit_val_batches=2, limit_test_batches=0.5, limit_predict_batches=1)
    recorder = RecordingCallback()
    trainer = make_trainer(limit_val_batches=2, limit_test_batches=0.4, limit_predict_batches=1, callbacks=[recorder])
    module = TinyClassifier()
    trainer.validate(module, train())
    trainer.test(module, train())
    assert len(trainer.predict(module, train())) == 1
    assert recorder.calls.count("on_validation_batch_end") == 2
    assert recorder.calls.count("on_test_batch_end") == 1


def test_evaluation_without_a_step_or_data_says_so(make_trainer):
    trainer = make_trainer()
    with pytest.raises(ConfigurationError, match=r"validate\(\) needs `validation_step` on Bare"):
        trainer.validate(Bare(), train())
    with pytest.raises(ConfigurationError, match=r"test\(\) needs `test_step`"):
        trainer.test(Bare(), train())
    with pytest.raises(DataError, match=r"test\(\) found no data"):
        trainer.test(TinyClassifier())
    with pytest.raises(ConfigurationError, match="needs a module the first time"):
        make_trainer().validate(dataloaders=train())


def test_evaluation_leaves_modes_gradients_and_weights_alone(make_trainer):
    module = TinyClassifier()
    module.head.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen = []

    class Watching(Callback):
        def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx):
            seen.append((module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    make_trainer(callbacks=Watching()).validate(module, train(32))
    make_trainer(callbacks=Watching(), inference_mode=False).validate(module, train(32))
    assert seen == [(False, False, True), (False, False, False)]
    assert (module.training, module.backbone.training, module.head.training) == (True, True, False)
    assert torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


# self.log


def logging_module(step, hook="training_step"):
    """A module whose ``hook`` also calls ``step(self, batch, batch_idx)``."""

    class Logging(Bare):
        def training_step(self, batch, batch_idx):
            step(self, batch, batch_idx)
            return super().training_step(batch, batch_idx)

    return Logging()


def logged(step, make_trainer, loader=None, **options):
    trainer = make_trainer(max_epochs=1, **options)
    trainer.fit(logging_module(step), loader or train(80))  # batches of 32, 32 and 16
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [("mean", (0 * 32 + 1 * 32 + 2 * 16) / 80), ("sum", 3.0), ("min", 0.0), ("max", 2.0), (torch.sum, 3.0),
     (torch.mean, 0.8), (max, None)],
)  # fmt: skip
def test_reductions_over_the_epoch(reduce_fx, expected, make_trainer):
    def step(self, batch, batch_idx):
        self.log("a", float(batch_idx), on_step=False, on_epoch=True, reduce_fx=reduce_fx)
        self.log("b", torch.tensor(float(batch_idx)), on_step=False, on_epoch=True, reduce_fx=reduce_fx)

    if expected is None:
        with pytest.raises(ConfigurationError, match=r"reduce_fx.*torchmetrics"):
            logged(step, make_trainer)
    else:
        found = logged(step, make_trainer)
        assert found == pytest.approx({"a": expected, "b": expected})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"x"}),
        ({"on_step": True}, {"x"}),
        ({"on_epoch": True, "on_step": True}, {"x", "x_step", "x_epoch"}),
        ({"on_epoch": True}, {"x", "x_step", "x_epoch"}),  # as in Lightning: on_step stays on in a training step
        ({"on_epoch": True, "on_step": False}, {"x"}),
        ({"on_step": False}, {"x"}),
    ],
)
def test_forked_names(options, names, make_trainer):
    found = logged(lambda self, batch, batch_idx: self.log("x", float(batch_idx), **options), make_trainer)
    assert set(found) == names
    if "x_step" in names:
        assert (found["x_step"], found["x_epoch"], found["x"]) == pytest.approx((2.0, 0.8, 0.8))
    else:
        assert found["x"] == pytest.approx(0.8 if options.get("on_step") is False else 2.0)


def test_a_batch_size_that_is_given_is_the_weight(make_trainer):
    def step(self, batch, batch_idx):
        self.log("x", float(batch_idx), on_step=False, on_epoch=True, batch_size=1)

    assert logged(step, make_trainer)["x"] == pytest.approx(1.0)


@pytest.mark.parametrize("wrap", [lambda x, y: {"x": x, "y": y}, lambda x, y: [{"deep": (x, y)}], lambda x, y: (x, y)])
def test_the_batch_size_is_found_in_nested_batches(wrap, make_trainer):
    class Nested(Bare):
        def training_step(self, batch, batch_idx):
            self.log("x", float(batch_idx), on_step=False, on_epoch=True)
            return self.layer(torch.ones(1, 32)).mean()

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Nested(), DataLoader([wrap(x, y) for x, y in train(80)], batch_size=None))
    assert float(trainer.callback_metrics["x"]) == pytest.approx(0.8)


def test_many_values_are_reduced_as_exactly_as_few(make_trainer):
    values = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()

    class Many(Bare):
        def training_step(self, batch, batch_idx):
            for name, options in (("mean", {}), ("sum", {"reduce_fx": "sum"}), ("max", {"reduce_fx": "max"})):
                self.log(name, torch.tensor(values[batch_idx]), on_step=False, on_epoch=True, **options)
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Many(), random_batches(200, 2))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found == pytest.approx({"mean": sum(values) / 200, "sum": sum(values), "max": max(values)}, rel=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), r"single number.*shape \(3,\)"),
        ("high", "got str"),
        ([1.0], r"got list.*log_dict"),
        ({"a": 1.0}, "got dict"),
        (None, "got NoneType"),
    ],
    ids=str,
)
def test_values_that_cannot_be_logged(value, message, make_trainer):
    with pytest.raises(ConfigurationError, match=rf"self\.log\('x'.*{message}"):
        logged(lambda self, batch, batch_idx: self.log("x", value), make_trainer)


def test_a_vector_logged_later_is_refused_too(make_trainer):
    def step(self, batch, batch_idx):
        self.log("x", torch.zeros(()) if batch_idx == 0 else torch.zeros(4), on_step=False, on_epoch=True)

    with pytest.raises(ConfigurationError, match=r"self\.log\('x'.*single number"):
        logged(step, make_trainer)


def test_the_graph_of_a_logged_loss_is_let_go(make_trainer):
    class Keeping(Bare):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Keeping(), train())
    assert all(not value.requires_grad for value in trainer.callback_metrics.values())


def test_log_outside_of_a_run_does_nothing(make_trainer):
    module = TinyClassifier()
    module.log("x", 1.0)
    module.log_dict({"y": 2.0})
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, train())
    module.log("z", 3.0)
    assert set(trainer.callback_metrics) == {"train/loss"}


def test_prog_bar_and_logger_choose_where_a_value_goes(make_trainer):
    class Rows:
        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step=None):
            self.rows.append(metrics)

        def finalize(self, status):
            self.status = status

        def save(self):
            pass

    def step(self, batch, batch_idx):
        self.log("bar", 1.0, prog_bar=True, logger=False)
        self.log("file", 2.0, on_epoch=True)

    rows = Rows()
    trainer = make_trainer(max_epochs=2, logger=rows, log_every_n_steps=2)
    trainer.fit(logging_module(step), train())
    names = set().union(*rows.rows)
    assert "file_epoch" in names
    assert "bar" not in names
    assert set(trainer.progress_bar_metrics) == {"bar"}
    assert rows.status == "success"


# data


def test_no_training_data(make_trainer):
    with pytest.raises(DataError, match=r"no training data.*train_dataloader"):
        make_trainer(max_epochs=1).fit(TinyClassifier())
    with pytest.raises(DataError, match="no training data"):
        make_trainer(max_epochs=1).fit(TinyClassifier(), datamodule=DataModule())


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_an_empty_loader(stage, make_trainer):
    empty = DataLoader(random_dataset(4), batch_size=8, drop_last=True)
    with pytest.raises(DataError, match=r"no batches.*drop_last"):
        getattr(make_trainer(max_epochs=1), stage)(TinyClassifier(), empty)
    with pytest.raises(DataError, match=r"no training data|found no data"):  # an empty list of loaders is none
        getattr(make_trainer(max_epochs=1), stage)(TinyClassifier(), [])


def test_an_empty_stream_is_not_trained_on_for_ever(make_trainer):
    class Empty(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="no batches"):
        make_trainer(max_steps=3).fit(TinyClassifier(), DataLoader(Empty()))


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_data_set_instead_of_a_loader(stage, make_trainer):
    with pytest.raises(DataError, match=r"data set TensorDataset.*DataLoader"):
        getattr(make_trainer(max_epochs=1), stage)(TinyClassifier(), random_dataset())


@pytest.mark.parametrize("wrong", [3, object(), "data/"])
def test_something_that_is_no_loader(wrong, make_trainer):
    with pytest.raises(DataError, match="Expected a data loader"):
        make_trainer(max_epochs=1).fit(TinyClassifier(), wrong)


def test_a_dict_of_loaders_is_several_loaders(make_trainer):
    assert len(make_trainer().validate(TwoLoaders(), {"a": train(8), "b": train(8)})) == 2


def test_a_share_of_a_stream(make_trainer):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(random_dataset(8))

    with pytest.raises(ConfigurationError, match="no length"):
        make_trainer(max_epochs=1, limit_train_batches=0.5).fit(TinyClassifier(), DataLoader(Stream()))
    with pytest.raises(ConfigurationError, match=r"val_check_interval=0\.5"):
        make_trainer(max_epochs=1, val_check_interval=0.5).fit(
            TinyClassifier(), DataLoader(Stream()), DataLoader(Stream())
        )


def test_a_validation_interval_beyond_the_epoch(make_trainer):
    with pytest.raises(ConfigurationError, match=r"val_check_interval=9 .*3 an epoch has"):
        make_trainer(max_epochs=1, val_check_interval=9).fit(TinyClassifier(), train(), train())


class Data(DataModule):
    """Writes down what is asked of it."""

    def __init__(self):
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")

    def teardown(self, stage):
        self.calls.append(f"teardown {stage}")

    def train_dataloader(self):
        self.calls.append("train")
        return train()

    def val_dataloader(self):
        self.calls.append("val")
        return train(32, seed=1)

    def predict_dataloader(self):
        return train(32, seed=2)


def test_what_is_asked_of_a_data_module(make_trainer):
    data, trainer = Data(), make_trainer(max_epochs=3)
    trainer.fit(TinyClassifier(), data)  # also without the keyword
    assert data.trainer is trainer
    assert data.calls[:2] == ["prepare_data", "setup fit"]
    assert data.calls[-1] == "teardown fit"
    assert data.calls.count("train") == 1
    data.calls.clear()
    assert len(trainer.validate()) == 1  # the module and data of the fit
    assert data.calls == ["prepare_data", "setup validate", "val", "teardown validate"]
    assert len(trainer.predict(datamodule=data)) == 1


def test_reloading_data_during_a_fit(make_trainer):
    data = Data()
    make_trainer(max_epochs=5, reload_dataloaders_every_n_epochs=2, num_sanity_val_steps=0).fit(
        TinyClassifier(), datamodule=data
    )
    assert data.calls.count("train") == 3
    assert data.calls.count("val") == 3


# errors of the module


def test_a_module_without_a_training_step_or_optimizer(make_trainer):
    class NoStep(LoopModule):
        pass

    class NoOptimizers(LoopModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 10)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).mean()

    class GivesNone(NoOptimizers):
        def configure_optimizers(self):
            return []

    class Wrong(NoOptimizers):
        def configure_optimizers(self):
            return "adam"

    class Misspelt(NoOptimizers):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "intervall": "step"}}

    for module, message in (
        (NoStep(), r"NoStep.*(training_step|configure_optimizers)"),
        (NoOptimizers(), r"NoOptimizers needs `configure_optimizers"),
        (GivesNone(), r"GivesNone\.configure_optimizers gives no optimizer"),
        (Wrong(), "got str"),
        (Misspelt(), r"Did you mean \"interval\""),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make_trainer(max_epochs=1).fit(module, train())


@pytest.mark.parametrize(
    ("make_loss", "message"),
    [
        (lambda self, batch: self.layer(batch[0]), r"one element, got a tensor of shape \(32, 10\)"),
        (lambda self, batch: self.layer(batch[0]).mean().detach(), "no gradient"),
        (lambda self, batch: 0.5, "got float"),
        (lambda self, batch: {"los": self.layer(batch[0]).mean()}, r"keys \['los'\]"),
        (lambda self, batch: {"loss": 1.0}, "got float"),
        (lambda self, batch: (self.layer(batch[0]).mean(),), "got tuple"),
    ],
)
def test_wrong_losses(make_loss, message, make_trainer):
    class Wrong(Bare):
        def training_step(self, batch, batch_idx):
            return make_loss(self, batch)

    with pytest.raises(ConfigurationError, match=message):
        make_trainer(max_epochs=1).fit(Wrong(), train())


def test_a_training_step_with_too_many_arguments_for_what_is_passed(make_trainer):
    class Short(Bare):
        def training_step(self):
            return None

    with pytest.raises(ConfigurationError, match=r"takes 0 arguments, but 2 are passed"):
        make_trainer(max_epochs=1).fit(Short(), train())


def test_entry_points_refuse_what_is_no_module(make_trainer):
    with pytest.raises(ConfigurationError, match=r"takes an nn\.Module, got type"):
        make_trainer().fit(TinyClassifier, train())


def test_a_compiled_module_is_refused_and_one_compiled_in_place_trains(make_trainer):
    module = TinyClassifier()
    with pytest.raises(ConfigurationError, match=r"module\.compile\(\)"):
        make_trainer(max_epochs=1).fit(torch.compile(module, backend="eager"), train())
    module.compile(backend="eager")
    before = module.head.weight.detach().clone()
    make_trainer(max_epochs=1).fit(module, train())
    assert not torch.equal(module.head.weight, before)


# one run inside another


@pytest.mark.parametrize("stage", ["fit", "test", "validate", "predict"])
def test_entry_points_inside_a_fit_are_refused(stage, make_trainer):
    class Nesting(Callback):
        def on_train_epoch_end(self, trainer, module):
            getattr(trainer, stage)(module, train())

    trainer = make_trainer(max_epochs=1, callbacks=Nesting())
    with pytest.raises(ConfigurationError, match=rf"trainer\.{stage}\(\) was called while trainer\.fit\(\) runs"):
        trainer.fit(TinyClassifier(), train())


def test_evaluate_inside_a_fit(make_trainer):
    class Testing(Callback):
        scores = None

        def on_train_epoch_end(self, trainer, module):
            self.scores = trainer.evaluate("test")
            self.after = (module.training, torch.is_grad_enabled(), trainer.training)

    class WithTest(Data):
        def test_dataloader(self):
            return train(32, seed=3)

    callback, module = Testing(), TinyClassifier()
    trainer = make_trainer(max_epochs=2, callbacks=callback)
    trainer.fit(module, datamodule=WithTest())
    assert callback.scores == trainer.test(module, train(32, seed=3))[0]
    assert callback.after == (True, True, True)
    assert trainer.global_step == 6


# errors in the middle


def test_an_error_in_a_fit_leaves_everything_as_it_was(make_trainer):
    class Failing(TinyClassifier):
        fails = True

        def validation_step(self, batch, batch_idx):
            if self.fails and not self.trainer.sanity_checking:
                raise ZeroDivisionError("on purpose")
            super().validation_step(batch, batch_idx)

    module, recorder = Failing(), RecordingCallback()
    trainer = make_trainer(max_epochs=2, callbacks=[recorder])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, train(), train())
    assert "log" not in vars(module)
    assert module.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert recorder.calls[-2:] == ["on_exception", "teardown"]
    module.fails = False
    trainer.fit(module, train(), train())
    assert trainer.current_epoch == 2
    trainer.validate(module, train())


def test_an_error_between_two_optimizers_gives_the_parameters_their_gradients_back(make_trainer):
    class Two(Bare):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(32, 10)
            self.other.bias.requires_grad_(False)

        def training_step(self, batch, batch_idx, optimizer_idx):
            if batch_idx == 1:
                raise ZeroDivisionError
            return [self.layer, self.other][optimizer_idx](batch[0]).square().mean()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.layer, self.other)]

    module = Two()
    with pytest.raises(ZeroDivisionError):
        make_trainer(max_epochs=1).fit(module, train())
    flags = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    assert flags == {"layer.weight": True, "layer.bias": True, "other.weight": True, "other.bias": False}


def test_a_module_left_toggled_by_an_error_is_put_right(make_trainer):
    class Manual(Bare):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.toggle_optimizer(self.optimizers()[0])
            raise KeyboardInterrupt

        def configure_optimizers(self):
            return [torch.optim.SGD([p], lr=0.1) for p in self.parameters()]

    module = Manual()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(max_epochs=1).fit(module, train())
    assert all(parameter.requires_grad for parameter in module.parameters())


# finetuning


def test_finetune_freezes_the_backbone_and_only_for_that_fit(make_trainer):
    module = TinyClassifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = make_trainer(max_epochs=1)
    trainer.finetune(module, train(), strategy="freeze")
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in module.parameters())
    trainer.fit(module, train())
    assert not torch.equal(module.backbone[0].weight, before["backbone.0.weight"])


@pytest.mark.parametrize(("strategy", "first"), [("no_freeze", 0), (("freeze_unfreeze", 2), 2), ("freeze", 9)])
def test_finetune_strategies(strategy, first, make_trainer):
    class Watching(Callback):
        def __init__(self):
            self.weights = []

        def on_train_epoch_end(self, trainer, module):
            self.weights.append(module.backbone[0].weight.detach().clone())

    module, watching = TinyClassifier(), Watching()
    weights = [module.backbone[0].weight.detach().clone()]
    make_trainer(max_epochs=4, callbacks=watching).finetune(module, train(), strategy=strategy)
    weights += watching.weights
    moved = [not torch.equal(one, other) for one, other in pairwise(weights)]
    assert moved == [epoch >= first for epoch in range(4)]


def test_finetune_takes_a_callback_and_refuses_the_rest(make_trainer):
    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=1)
    trainer.finetune(TinyClassifier(), train(), strategy=recorder)
    assert "on_train_epoch_start" in recorder.calls
    assert recorder not in make_trainer().callbacks
    with pytest.raises(ConfigurationError, match=r"Did you mean \"freeze\""):
        trainer.finetune(TinyClassifier(), train(), strategy="freze")
    with pytest.raises(ConfigurationError, match=r"Bare\.backbone"):
        trainer.finetune(Bare(), train(), strategy="freeze")
    recorder.calls.clear()
    trainer.fit(TinyClassifier(), train())
    assert recorder.calls == []


# callbacks


def test_callbacks_of_the_module_join_and_replace_by_type(make_trainer):
    class Mine(RecordingCallback):
        pass

    mine, given, replaced = Mine(), RecordingCallback(), Mine()

    class Configuring(TinyClassifier):
        def configure_callbacks(self):
            return mine

    trainer = make_trainer(max_epochs=1, callbacks=[given, replaced])
    trainer.fit(Configuring(), train())
    assert trainer.callbacks == [given, mine]
    assert given.calls.count("on_train_epoch_end") == mine.calls.count("on_train_epoch_end") == 1
    assert replaced.calls == []
    trainer.fit(TinyClassifier(), train())
    assert trainer.callbacks == [given, replaced]


def test_callbacks_come_before_the_module_unless_they_ask_to_be_last(make_trainer):
    order = []

    class Noting(Callback):
        def __init__(self, name, order=0):
            self.name, self.order = name, order

        def on_train_epoch_start(self, trainer, module):
            order.append(self.name)

    class Own(Bare):
        def on_train_epoch_start(self):
            order.append("module")

    callbacks = [Noting("last", 5), Noting("first"), Noting("later", 1)]
    make_trainer(max_epochs=1, callbacks=callbacks).fit(Own(), train())
    assert order == ["first", "module", "later", "last"]


# run folders


def test_a_default_root_dir_is_the_run_folder(make_trainer, tmp_path):
    trainer = make_trainer(
        max_epochs=1, default_root_dir=tmp_path / "mine", logger=True, enable_checkpointing=True, devices=1
    )
    assert not (tmp_path / "mine").exists()
    trainer.fit(TinyClassifier(), train())
    assert trainer.run_dir == tmp_path / "mine"
    files = sorted(str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*.*"))
    assert "metrics.csv" in files
    assert os.path.join("checkpoints", "last.ckpt") in files


def test_runs_without_a_folder_are_numbered(make_trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(2):
        trainer = make_trainer(max_epochs=1, default_root_dir=None, logger=True)
        trainer.fit(TinyClassifier(), train())
        folders.append(trainer.run_dir.as_posix())
    trainer.fit(TinyClassifier(), train())
    folders.append(trainer.run_dir.as_posix())
    assert folders == ["runs/fit/000", "runs/fit/001", "runs/fit/002"]
    assert all((tmp_path / folder / "metrics.csv").is_file() for folder in folders)


def test_a_run_that_writes_nothing_leaves_no_folder(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1, default_root_dir=tmp_path / "nothing")
    trainer.fit(TinyClassifier(), train())
    trainer.test(TinyClassifier(), train())
    assert not (tmp_path / "nothing").exists()


def test_fast_dev_run_writes_nothing_and_touches_every_stage(make_trainer, tmp_path):
    recorder = RecordingCallback()
    trainer = make_trainer(
        fast_dev_run=True, default_root_dir=tmp_path / "fast", logger=True, enable_checkpointing=True,
        callbacks=[recorder, EarlyStopping("nothing of the kind")],
    )  # fmt: skip
    trainer.fit(TinyClassifier(), train(), train())
    assert recorder.calls.count("on_train_batch_end") == recorder.calls.count("on_validation_batch_end") == 1
    assert not (tmp_path / "fast").exists()


# snapshots and inner runs


def test_a_snapshot_knows_its_weights(make_trainer):
    trainer, module = make_trainer(max_epochs=1), TinyClassifier()
    hashes = []

    class Taking(Callback):
        def on_train_start(self, trainer, module):
            self.snapshot = trainer.snapshot()
            hashes.append(self.snapshot.hash)

        def on_train_end(self, trainer, module):
            hashes.append(trainer.snapshot().hash)
            self.snapshot.restore(module)
            hashes.append(trainer.snapshot().hash)

    make_trainer(max_epochs=1, callbacks=Taking()).fit(module, train())
    assert hashes[0] != hashes[1]
    assert hashes[2] == hashes[0]
    assert len(hashes[0]) == 16
    assert trainer.global_step == 0


def test_a_snapshot_goes_through_a_checkpoint(make_trainer, tmp_path):
    from torchloops.trainer import Snapshot

    module = TinyClassifier()
    module.head.bias.requires_grad_(False)
    module.backbone.eval()
    snapshot = Snapshot(module)
    torch.save(snapshot.state_dict(), tmp_path / "snapshot.pt")
    other = TinyClassifier()
    loaded = Snapshot.from_state_dict(torch.load(tmp_path / "snapshot.pt", weights_only=True))
    loaded.restore(other)
    assert loaded.hash == snapshot.hash == Snapshot(other).hash
    assert not other.head.bias.requires_grad
    assert (other.training, other.backbone.training) == (True, False)


class Rounds(Loop):
    """Two inner runs from the same start."""

    def __init__(self, inner, start_over=True):
        super().__init__()
        self.inner, self.start_over = inner, start_over
        self.runs, self.scores = [], []

    @property
    def done(self):
        return self.progress.current >= 2

    def on_run_start(self):
        self.start = self.trainer.snapshot()

    def advance(self):
        start = self.start if self.start_over else None
        with self.trainer.isolated(f"round_{self.progress.current}", start=start, seed=1) as run:
            self.inner.run()
            self.scores.append(self.trainer.evaluate("validate"))
        self.runs.append(run)


@pytest.mark.parametrize("start_over", [True, False])
def test_inner_runs_are_fresh(start_over, make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=2, default_root_dir=tmp_path / "rounds", logger=True, enable_checkpointing=True)
    trainer.fit_loop = loop = Rounds(trainer.fit_loop, start_over)
    module = TinyClassifier(optimizer="Adam")
    trainer.fit(module, train(), train(seed=1))
    assert [(run.epochs, run.steps) for run in loop.runs] == [(2, 6), (2, 6)]
    assert (loop.scores[0] == loop.scores[1]) is start_over
    assert [run.prefix for run in loop.runs] == ["round_0/", "round_1/"]
    for index in (0, 1):
        folder = tmp_path / "rounds" / f"round_{index}"
        assert loop.runs[index].dir == folder
        assert (folder / "metrics.csv").is_file()
        assert not (folder / "checkpoints").exists()
    assert (tmp_path / "rounds" / "checkpoints" / "last.ckpt").is_file()
    assert loop.runs[0].metrics["val/loss"] == loop.scores[0]["val/loss"]
    assert trainer.global_step == 0


# deterministic


def test_deterministic_is_switched_off_again(make_trainer):
    seen = []

    class Seeing(Callback):
        def on_train_start(self, trainer, module):
            seen.append(torch.are_deterministic_algorithms_enabled())

    make_trainer(max_epochs=1, deterministic=True, callbacks=Seeing()).fit(TinyClassifier(), train())
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_data_module_of_an_earlier_fit_does_not_stand_in_for_the_modules_own_data(make_trainer):
    class Own(TinyClassifier):
        def train_dataloader(self):
            return train(32)

    trainer = make_trainer(max_epochs=1)
    trainer.fit(TinyClassifier(), datamodule=Data())
    trainer.fit(Own())
    assert trainer.global_step == 1
