"""The hooks of a fit, a validation, a test and a prediction, in the order in which they run."""

import pytest
from scratch import SeenBatches

from torchloops import Callback, DataModule
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches

BATCH = [
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
]  # fmt: skip
VALIDATION_BATCH = ["on_validation_batch_start", "on_validation_batch_end"]
VALIDATION = [
    "on_validation_start", "on_validation_epoch_start", *VALIDATION_BATCH, "on_validation_epoch_end",
    "on_validation_end",
]  # fmt: skip


def test_hooks_of_a_fit(make_trainer):
    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=2, callbacks=recorder)
    trainer.fit(TinyClassifier(), random_batches(2), random_batches(1))
    epoch = ["on_train_epoch_start", *BATCH, *BATCH, *VALIDATION, "on_train_epoch_end"]
    assert recorder.calls == [
        "setup", "on_fit_start", "on_sanity_check_start", *VALIDATION, "on_sanity_check_end", "on_train_start",
        *epoch, *epoch, "on_train_end", "on_fit_end", "teardown",
    ]  # fmt: skip


@pytest.mark.parametrize(("entry", "word"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_hooks_of_an_evaluation(make_trainer, entry, word):
    recorder = RecordingCallback()
    getattr(make_trainer(callbacks=recorder), entry)(TinyClassifier(), random_batches(2))
    batch = [f"on_{word}_batch_start", f"on_{word}_batch_end"]
    assert recorder.calls == [
        "setup", f"on_{word}_start", f"on_{word}_epoch_start", *batch, *batch, f"on_{word}_epoch_end",
        f"on_{word}_end", "teardown",
    ]  # fmt: skip
    assert recorder.arguments[0] == (entry,)


def test_hooks_get_batches_and_outputs(make_trainer):
    recorder = RecordingCallback()
    batches = random_batches(1)
    make_trainer(max_epochs=1, callbacks=recorder).fit(TinyClassifier(), batches)
    by_name = dict(zip(recorder.calls, recorder.arguments, strict=True))
    assert by_name["on_train_batch_start"] == (batches[0], 0)
    outputs, batch, batch_idx = by_name["on_train_batch_end"]
    assert set(outputs) == {"loss"}
    assert not outputs["loss"].requires_grad
    assert (batch, batch_idx) == (batches[0], 0)


def test_a_callback_hook_runs_before_the_modules(make_trainer):
    order = []
    names = ["setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start",
             "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
             "on_train_batch_end", "on_validation_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end",
             "teardown"]  # fmt: skip

    def note(who, name):
        return lambda self, *args: order.append((name, who))

    callback_class = type("Notes", (Callback,), {name: note("callback", name) for name in names})
    module_class = type("Module", (TinyClassifier,), {name: note("module", name) for name in names})
    trainer = make_trainer(max_epochs=1, callbacks=callback_class(), num_sanity_val_steps=0)
    trainer.fit(module_class(), random_batches(1), random_batches(1))
    assert order == [(name, who) for name in names for who in ("callback", "module")]


def test_module_hooks_around_a_fit_and_the_data_modules(make_trainer):
    order = []

    class Data(DataModule):
        def prepare_data(self):
            order.append("data.prepare_data")

        def setup(self, stage):
            order.append(f"data.setup({stage})")

        def train_dataloader(self):
            order.append("data.train_dataloader")
            return random_batches(1)

        def teardown(self, stage):
            order.append(f"data.teardown({stage})")

    class Module(TinyClassifier):
        def prepare_data(self):
            order.append("module.prepare_data")

        def setup(self, stage):
            order.append(f"module.setup({stage})")

        def configure_model(self):
            order.append("module.configure_model")

        def on_fit_start(self):
            order.append("module.on_fit_start")

        def configure_optimizers(self):
            order.append("module.configure_optimizers")
            return super().configure_optimizers()

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            order.append(f"module.optimizer_zero_grad({epoch}, {batch_idx})")
            optimizer.zero_grad()

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            order.append(f"module.optimizer_step({epoch}, {batch_idx})")
            optimizer.step(closure)

        def teardown(self, stage):
            order.append(f"module.teardown({stage})")

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Module(), datamodule=Data())
    assert trainer.global_step == 1
    order.remove("data.train_dataloader")  # when it is asked for is the loop's affair
    assert order == [
        "data.prepare_data", "module.prepare_data", "data.setup(fit)", "module.setup(fit)", "module.configure_model",
        "module.configure_optimizers", "module.on_fit_start", "module.optimizer_step(0, 0)",
        "module.optimizer_zero_grad(0, 0)", "data.teardown(fit)", "module.teardown(fit)",
    ]  # fmt: skip


def test_transfer_hooks_run_in_order_on_every_batch(make_trainer):
    class Module(SeenBatches):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 1, batch[1]]

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return [batch[0] * 2, batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 1, batch[1]]

    module = Module()
    batches = random_batches(2)
    make_trainer(max_epochs=1).fit(module, batches)
    assert module.seen["train"] == [((batch[0] + 1) * 2 + 1)[0, 0].item() for batch in batches]


def test_what_fires_on_an_error(make_trainer):
    class Fails(TinyClassifier):
        def training_step(self, batch, batch_idx):
            raise KeyboardInterrupt

    recorder = RecordingCallback()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(max_epochs=1, callbacks=recorder).fit(Fails(), random_batches(1))
    assert recorder.calls[-3:] == ["on_train_batch_start", "on_exception", "teardown"]
    assert isinstance(recorder.arguments[-2][0], KeyboardInterrupt)


def test_callbacks_of_the_module_run_and_replace_those_of_their_type(make_trainer):
    class Mine(RecordingCallback):
        pass

    own, given, other = Mine(), Mine(), RecordingCallback()

    class Module(TinyClassifier):
        def configure_callbacks(self):
            return [own]

    make_trainer(max_epochs=1, callbacks=[given, other]).fit(Module(), random_batches(1))
    assert given.calls == []
    assert "on_train_end" in own.calls
    assert "on_train_end" in other.calls
