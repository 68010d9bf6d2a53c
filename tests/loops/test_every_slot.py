"""A loop from scratch is legal in every slot of the tree, and a child of another class wherever one stands."""

import pytest
import torch
from scratch import Once, ScratchEpoch, ScratchFit, SeenBatches, step_by_hand, weights_of

from torchloops import Loop
from torchloops.errors import ConfigurationError
from torchloops.testing import TinyClassifier, random_batches


class Slot(Once):
    """Writes down what it was given, and whether the slot's surroundings were right."""

    def __init__(self, function):
        super().__init__(function)
        self.calls = []
        self.stages = []
        self.grad = []
        self.training = []

    def advance(self, *args):
        self.calls.append(args)
        self.stages.append(self.trainer.state.stage)
        self.grad.append(torch.is_grad_enabled())
        self.training.append(self.trainer.module.training)
        super().advance(*args)


def no_work(trainer, *args):
    return None


def validate_by_hand(trainer, *args):
    module = trainer.module
    for batch_idx, batch in enumerate(trainer.val_dataloaders):
        module.validation_step(batch, batch_idx)
    return "validated"


def fit(trainer, module=None, epochs_data=3):
    module = TinyClassifier() if module is None else module
    trainer.fit(module, random_batches(epochs_data), random_batches(2, seed=1))
    return module


def test_fit_loop(make_trainer):
    trainer = make_trainer()
    trainer.fit_loop = Slot(lambda trainer: [step_by_hand(trainer, b, 0) for b in trainer.train_dataloader])
    fit(trainer)
    assert trainer.global_step == 3
    assert trainer.fit_loop.calls == [()]
    assert (trainer.fit_loop.stages, trainer.fit_loop.grad, trainer.fit_loop.training) == (["train"], [True], [True])


def test_epoch_loop(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = Slot(lambda trainer, data: [step_by_hand(trainer, b, i) for i, b in enumerate(data)])
    fit(trainer)
    assert trainer.global_step == 6
    assert [len(args) for args in trainer.fit_loop.epoch_loop.calls] == [1, 1]


def test_batch_loop(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop.batch_loop = slot = Slot(step_by_hand)
    module = fit(trainer)
    assert trainer.global_step == 6
    assert [batch_idx for _, batch_idx in slot.calls] == [0, 1, 2, 0, 1, 2]
    assert "val/loss" in trainer.callback_metrics
    torch.manual_seed(0)
    reference, plain = make_trainer(max_epochs=2), TinyClassifier()
    torch.manual_seed(0)
    again = TinyClassifier()
    plain.load_state_dict(again.state_dict())
    reference.fit(plain, random_batches(3), random_batches(2, seed=1))
    assert torch.equal(weights_of(module), weights_of(plain))


@pytest.mark.parametrize("name", ["optimizer_loop", "manual_loop"])
def test_optimizer_loop_and_manual_loop(make_trainer, name):
    class Module(TinyClassifier):
        automatic_optimization = name == "optimizer_loop"

    trainer = make_trainer(max_epochs=2)
    slot = Slot(step_by_hand)
    trainer.fit_loop.epoch_loop.batch_loop.connect(**{name: slot})
    fit(trainer, Module())
    assert trainer.global_step == 6
    assert [batch_idx for _, batch_idx in slot.calls] == [0, 1, 2, 0, 1, 2]


def test_val_loop(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop.val_loop = slot = Slot(validate_by_hand)
    module = fit(trainer, SeenBatches())
    assert len(module.seen["val"]) == 4  # two batches an epoch; a sanity check knows only the built-in loop
    assert (slot.stages, slot.grad, slot.training) == (["validate"] * 2, [False] * 2, [False] * 2)
    assert module.training
    assert trainer.global_step == 6
    assert {"train/loss", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)


def test_epoch_loop_of_val_loop(make_trainer):
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=0)

    def evaluate(trainer, batches, dataloader_idx):
        for batch_idx, batch in enumerate(batches):
            trainer.module.validation_step(batch, batch_idx)

    trainer.fit_loop.epoch_loop.val_loop.epoch_loop = slot = Slot(evaluate)
    module = fit(trainer, SeenBatches())
    assert [index for _, index in slot.calls] == [0, 0]
    assert len(module.seen["val"]) == 4
    assert (slot.grad, slot.training) == ([False] * 2, [False] * 2)
    assert "val/loss" in trainer.callback_metrics


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validate_loop_and_test_loop(make_trainer, stage):
    def evaluate(trainer):
        step = {"validate": trainer.module.validation_step, "test": trainer.module.test_step}[stage]
        for batch_idx, batch in enumerate(trainer._loaders_of(stage)):
            step(batch, batch_idx)
        return 42

    trainer = make_trainer()
    slot = Slot(evaluate)
    setattr(trainer, f"{stage}_loop", slot)
    module = TinyClassifier()
    assert getattr(trainer, stage)(module, random_batches(2)) == 42
    assert (slot.stages, slot.grad, slot.training) == ([stage], [False], [False])
    assert {"validate": "val/loss", "test": "test/loss"}[stage] in trainer.callback_metrics
    assert module.training


def test_validate_loop_that_wants_gradients_may_have_them(make_trainer):
    def input_gradient(trainer):
        with torch.enable_grad():
            inputs = trainer.val_dataloaders[0][0].clone().requires_grad_(True)
            trainer.module(inputs).sum().backward()
        return inputs.grad.abs().sum().item()

    trainer = make_trainer()
    trainer.validate_loop = Slot(input_gradient)
    assert trainer.validate(TinyClassifier(), random_batches(1)) > 0


def test_evaluate_inside_a_fit_with_a_test_loop_from_scratch(make_trainer):
    trainer = make_trainer()
    trainer.test_loop = slot = Slot(no_work)
    trainer.fit_loop = Slot(lambda trainer: trainer.evaluate("test"))

    class WithTestData(TinyClassifier):
        def test_dataloader(self):
            return random_batches(1)

    trainer.fit(WithTestData(), random_batches(1))
    assert (slot.stages, slot.grad, slot.training) == (["test"], [False], [False])


def test_predict_loop(make_trainer):
    trainer = make_trainer()
    trainer.predict_loop = slot = Slot(lambda trainer: [trainer.module(b[0]) for b in trainer.predict_dataloaders])
    outputs = trainer.predict(TinyClassifier(), random_batches(2))
    assert [tuple(output.shape) for output in outputs] == [(32, 10), (32, 10)]
    assert (slot.grad, slot.training) == ([False], [False])


def test_epoch_loop_of_predict_loop(make_trainer):
    trainer = make_trainer()
    trainer.predict_loop.epoch_loop = slot = Slot(lambda trainer, batches, index: [index, len(list(batches))])
    assert trainer.predict(TinyClassifier(), random_batches(2)) == [0, 2]
    assert (slot.grad, slot.training) == ([False], [False])


def test_epoch_loop_of_test_loop(make_trainer):
    trainer = make_trainer()
    trainer.test_loop.epoch_loop = slot = Slot(no_work)
    trainer.test(TinyClassifier(), random_batches(2))
    assert len(slot.calls) == 1


@pytest.mark.parametrize("name", ["fit_loop", "validate_loop", "test_loop", "predict_loop"])
def test_a_class_in_a_slot_is_refused_with_a_hint(make_trainer, name):
    with pytest.raises(ConfigurationError, match=rf"trainer.{name} takes a Loop .*Assign an instance: ScratchFit"):
        setattr(make_trainer(), name, ScratchFit)


@pytest.mark.parametrize("hook", ["on_run_start", "on_advance_start"])
@pytest.mark.parametrize("with_data", [True, False])
def test_hooks_of_a_loop_from_scratch_take_the_data_or_nothing(make_trainer, hook, with_data):
    got = []

    class WithHook(ScratchEpoch):
        pass

    if with_data:
        setattr(WithHook, hook, lambda self, data: got.append(data))
    else:
        setattr(WithHook, hook, lambda self: got.append(None))
    WithHook.__init_subclass__()

    class Loop2(WithHook):
        pass

    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = Loop2()
    fit(trainer)
    assert got == ([trainer.train_batches] * 2 if with_data else [None] * 2)
    assert trainer.global_step == 6


def test_an_epoch_loop_from_scratch_under_an_isolated_run(make_trainer):
    class Outer(Loop):
        def __init__(self, fit_loop):
            super().__init__()
            self.fit_loop = fit_loop

        @property
        def done(self):
            return self.progress.current == 2

        def advance(self):
            with self.trainer.isolated(f"round_{self.progress.current}") as run:
                self.fit_loop.run()
            steps.append(run.steps)

    steps = []
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = ScratchEpoch()
    trainer.fit_loop = Outer(trainer.fit_loop)
    fit(trainer)
    assert steps == [6, 6]


def test_an_epoch_loop_over_the_data_tells_samplers_which_epoch_it_is(make_trainer):
    epochs = []

    class Data(list):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop.epoch_loop = Slot(lambda trainer, data: list(data))
    trainer.fit(TinyClassifier(), Data(random_batches(2)))
    assert epochs == [0, 1, 2]
