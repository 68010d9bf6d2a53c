"""One test, at least, for every promise of the page on loops, and for its code snippets."""

import pytest
import torch
from scratch import (
    Once,
    ScratchEpoch,
    ScratchEpochOfData,
    ScratchFit,
    SeenBatches,
    Times,
    step_by_hand,
    weights_of,
)
from torch import nn
from torch.utils.data import DataLoader

from torchloops import (
    EvaluationLoop,
    FitLoop,
    Loop,
    LoopModule,
    OptimizerLoop,
    TrainingBatchLoop,
    TrainingEpochLoop,
)
from torchloops.errors import ConfigurationError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader


def trained_by_hand(batches, epochs):
    """The weights that plain gradient descent gives, and the module they are of before."""
    torch.manual_seed(1)
    module = TinyClassifier()
    optimizer = module.configure_optimizers()
    for _ in range(epochs):
        for inputs, targets in batches:
            loss = nn.functional.cross_entropy(module(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights_of(module)


def fresh_module():
    torch.manual_seed(1)
    return TinyClassifier()


# a minimum of two things: done and advance


def test_done_and_advance_are_enough():
    class MyFancyLoop(Loop):
        @property
        def done(self):
            return self.progress.current == 4

        def advance(self):
            pass

    loop = MyFancyLoop()
    assert loop.run() is None
    assert loop.progress.current == 4


@pytest.mark.parametrize("missing", ["done", "advance"])
def test_what_is_missing_is_named(missing):
    class Half(Loop):
        pass

    if missing == "advance":
        Half.done = property(lambda self: False)
    with pytest.raises(ConfigurationError, match=f"Half does not define `{missing}`"):
        Half().run()


# trainer.fit_loop = MyFancyLoop()


def test_fit_loop_from_scratch_trains(make_trainer):
    batches = random_batches(3)
    trainer = make_trainer(max_steps=7)
    trainer.fit_loop = ScratchFit()
    module = fresh_module()
    trainer.fit(module, batches)
    assert trainer.global_step == 7
    assert torch.equal(weights_of(module), trained_by_hand([*batches, *batches, batches[0]], 1))


def test_fit_loop_from_scratch_gets_hooks_logging_and_checkpoints(make_trainer, tmp_path):
    recorder = RecordingCallback()
    trainer = make_trainer(max_steps=3, callbacks=recorder)
    trainer.fit_loop = ScratchFit()
    trainer.fit(fresh_module(), random_batches(3))
    assert recorder.calls == ["setup", "on_fit_start", "on_fit_end", "teardown"]
    assert set(trainer.callback_metrics) == {"train/loss"}
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = TinyClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(weights_of(loaded), weights_of(trainer.module))


def test_fit_loop_from_scratch_leaves_validate_test_and_predict_working(make_trainer):
    trainer = make_trainer(max_steps=3)
    trainer.fit_loop = ScratchFit()
    trainer.fit(fresh_module(), random_batches(3))
    (metrics,) = trainer.validate(dataloaders=random_batches(2))
    assert set(metrics) == {"val/loss", "val/accuracy"}
    assert len(trainer.predict(dataloaders=random_batches(2))) == 2


def test_trainer_answers_with_a_fit_loop_from_scratch(make_trainer):
    trainer = make_trainer(max_epochs=4, max_steps=9, min_steps=2)
    trainer.fit_loop = ScratchFit()
    assert (trainer.max_epochs, trainer.max_steps, trainer.min_steps) == (4, 9, 2)
    assert (trainer.current_epoch, trainer.global_step, trainer.should_stop) == (0, 0, False)
    assert "fit_loop: ScratchFit" in trainer.loop_tree()


# trainer = Trainer(max_epochs=2); trainer.fit_loop = CustomFitLoop()


def test_custom_fit_loop_keeps_the_limit_of_epochs(make_trainer):
    class CustomFitLoop(FitLoop):
        epochs = 0

        def advance(self):
            self.epochs += 1
            super().advance()

    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop = CustomFitLoop()
    module = SeenBatches()
    trainer.fit(module, random_batches(3))
    assert trainer.current_epoch == trainer.fit_loop.epochs == 2
    assert len(module.seen["train"]) == 6


def test_custom_fit_loop_keeps_the_limit_of_steps(make_trainer):
    class CustomFitLoop(FitLoop):
        pass

    trainer = make_trainer(max_steps=4)
    trainer.fit_loop = CustomFitLoop()
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == 4


def test_the_snippets_with_nothing_but_docstrings_run(make_trainer):
    class CustomFitLoop(FitLoop):
        def advance(self):
            """Put your custom logic here."""

    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop = CustomFitLoop()
    trainer.fit(TinyClassifier(), random_batches(3))
    assert (trainer.current_epoch, trainer.global_step) == (2, 0)


def test_overriding_the_end_of_an_iteration_does_not_lose_the_limit(make_trainer):
    class MyLoop(FitLoop):
        def __init__(self):
            super().__init__()
            self.calls = []

        def advance(self):
            """Advance from one iteration to the next."""
            self.calls.append("advance")

        def on_advance_end(self):
            """Do something at the end of an iteration."""
            self.calls.append("on_advance_end")
            if len(self.calls) > 20:
                raise OverflowError("the limit of epochs is lost")

        def on_run_end(self):
            """Do something when the loop ends."""
            self.calls.append("on_run_end")

    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop = MyLoop()
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.fit_loop.calls == ["advance", "on_advance_end"] * 2 + ["on_run_end"]


# trainer.fit_loop.epoch_loop = MyGradientDescentLoop()


@pytest.mark.parametrize("loop_class", [ScratchEpoch, ScratchEpochOfData])
def test_epoch_loop_from_scratch_trains(make_trainer, loop_class):
    batches = random_batches(3)
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = loop_class()
    module = fresh_module()
    trainer.fit(module, batches)
    assert (trainer.current_epoch, trainer.global_step) == (2, 6)
    assert torch.equal(weights_of(module), trained_by_hand(batches, 2))
    assert "train/loss" in trainer.callback_metrics


@pytest.mark.parametrize("loop_class", [ScratchEpoch, ScratchEpochOfData])
def test_max_steps_is_kept_with_an_epoch_loop_from_scratch(make_trainer, loop_class):
    trainer = make_trainer(max_steps=4)
    trainer.fit_loop.epoch_loop = loop_class()
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == 6  # the loop takes whole epochs of 3; the fit loop starts no third one


def test_epoch_loop_subclass_trains_and_keeps_max_steps(make_trainer):
    class MyGradientDescentLoop(TrainingEpochLoop):
        def __init__(self):
            super().__init__()
            self.batches_seen = 0

        def advance(self, data):
            self.batches_seen += 1
            super().advance(data)

    trainer = make_trainer(max_steps=5)
    trainer.fit_loop.epoch_loop = MyGradientDescentLoop()
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == trainer.fit_loop.epoch_loop.batches_seen == 5
    assert trainer.fit_loop.epoch_loop.max_steps == 5


def scale_gradients(model, factor):
    for parameter in model.parameters():
        parameter.grad.mul_(factor)


def guided_by_hand(train_batches, val_batches):
    """The page's plain loop, whose steps a loss on other data scales."""
    module = fresh_module()
    optimizer = module.configure_optimizers()
    for x, y in train_batches:
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        val_loss = 0
        for x, y in val_batches:
            val_loss += nn.functional.cross_entropy(module(x), y)
        scale_gradients(module, 1 / val_loss.detach())
        optimizer.step()
    return weights_of(module)


class GuidedEpochFromScratch(Loop):
    """The page's second code block, as a user would write it from scratch."""

    @property
    def done(self):
        return self.progress.current >= self.trainer.num_training_batches

    def on_run_start(self, data):
        self.batches = iter(data)

    def advance(self):
        trainer, module = self.trainer, self.trainer.module
        optimizer = trainer.optimizers[0]
        loss = module.training_step(next(self.batches), self.progress.current)
        optimizer.zero_grad()
        loss.backward()
        val_loss = 0
        for x, y in trainer.val_dataloaders:
            val_loss += nn.functional.cross_entropy(module(x), y)
        scale_gradients(module, 1 / val_loss.detach())
        optimizer.step()


class GuidedOptimizerLoop(OptimizerLoop):
    """The same inside the built-in epoch loop, in the place of the optimizer loop."""

    def advance(self, batch, batch_idx):
        trainer, module = self.trainer, self.trainer.module
        optimizer = trainer.optimizers[0]
        loss = module.training_step(batch, batch_idx)
        optimizer.zero_grad()
        loss.backward()
        val_loss = 0
        for x, y in trainer.val_dataloaders:
            val_loss += nn.functional.cross_entropy(module(x), y)
        scale_gradients(module, 1 / val_loss.detach())
        optimizer.step()

    @property
    def done(self):
        return self.progress.current == 1


@pytest.mark.parametrize("form", ["epoch loop from scratch", "optimizer loop"])
def test_the_loop_that_guides_steps_by_a_validation_loss(make_trainer, form):
    train, val = random_batches(4), random_batches(2, seed=1)
    trainer = make_trainer(max_epochs=1)
    if form == "optimizer loop":
        trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=GuidedOptimizerLoop())
    else:
        trainer.fit_loop.epoch_loop = GuidedEpochFromScratch()
    module = fresh_module()
    trainer.fit(module, train, val)
    assert trainer.global_step == 4
    assert torch.equal(weights_of(module), guided_by_hand(train, val))


def test_the_default_loop_of_the_page(make_trainer):
    class DefaultLoop(Loop):
        def advance(self, batch, i):
            step_by_hand(self.trainer, batch, i)

        def run(self, dataloader):
            for i, batch in enumerate(dataloader):
                self.advance(batch, i)

    batches = random_batches(3)
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop = DefaultLoop()
    module = fresh_module()
    trainer.fit(module, batches)
    assert torch.equal(weights_of(module), trained_by_hand(batches, 2))


def test_the_default_loop_runs_without_a_trainer():
    module = fresh_module()
    optimizer = module.configure_optimizers()

    class DefaultLoop(Loop):
        def advance(self, batch, i):
            loss = module.training_step(batch, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def run(self, dataloader):
            for i, batch in enumerate(dataloader):
                self.advance(batch, i)

    batches = random_batches(3)
    DefaultLoop().run(batches)
    assert torch.equal(weights_of(module), trained_by_hand(batches, 1))


# trainer.validate_loop = CustomValLoop(); trainer.validate(...)


def test_validate_loop_from_scratch(make_trainer):
    class CustomValLoop(Loop):
        @property
        def done(self):
            return self.progress.current == 2

        def advance(self):
            self.trainer.module.validation_step(self.trainer.val_dataloaders[self.progress.current], 0)
            self.grad_was_on = torch.is_grad_enabled()
            self.was_training = self.trainer.module.training

        def on_run_end(self):
            return "my output"

    trainer = make_trainer()
    trainer.validate_loop = CustomValLoop()
    module = SeenBatches()
    batches = random_batches(2)
    assert trainer.validate(module, batches) == "my output"
    assert module.seen["val"] == [batch[0][0, 0].item() for batch in batches]
    assert {"val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    assert not trainer.validate_loop.grad_was_on
    assert not trainer.validate_loop.was_training
    assert module.training


def test_validate_loop_subclass(make_trainer):
    class CustomValLoop(EvaluationLoop):
        loaders = 0

        def advance(self):
            self.loaders += 1
            super().advance()

    trainer = make_trainer()
    trainer.validate_loop = CustomValLoop()
    (metrics,) = trainer.validate(TinyClassifier(), random_batches(2))
    assert trainer.validate_loop.loaders == 1
    assert set(metrics) == {"val/loss", "val/accuracy"}


def test_test_loop_takes_an_evaluation_loop_without_arguments(make_trainer):
    class CustomLoop(EvaluationLoop):
        pass

    trainer = make_trainer()
    trainer.test_loop = CustomLoop()
    (metrics,) = trainer.test(TinyClassifier(), random_batches(2))
    assert set(metrics) == {"test/loss", "test/accuracy"}


# fit_loop.replace(epoch_loop=MyEpochLoop)


class MyEpochLoop(TrainingEpochLoop):
    pass


def test_replace_by_a_class(make_trainer):
    trainer = make_trainer(max_steps=4)
    old = trainer.fit_loop.epoch_loop
    assert trainer.fit_loop.replace(epoch_loop=MyEpochLoop) is old
    new = trainer.fit_loop.epoch_loop
    assert type(new) is MyEpochLoop
    assert (new.batch_loop, new.val_loop) == (old.batch_loop, old.val_loop)
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == 4


def test_replace_by_an_instance(make_trainer):
    trainer = make_trainer(max_epochs=1)
    old, new = trainer.fit_loop.epoch_loop, MyEpochLoop(max_steps=2)
    assert trainer.fit_loop.replace(epoch_loop=new) is old
    assert trainer.fit_loop.epoch_loop is new
    assert (new.batch_loop, new.val_loop) == (old.batch_loop, old.val_loop)
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == 2


def test_replace_keeps_the_arguments_of_the_old_loop(make_trainer):
    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop.epoch_loop = TrainingEpochLoop(min_steps=1, max_steps=2)
    trainer.fit_loop.replace(epoch_loop=MyEpochLoop)
    assert (trainer.fit_loop.epoch_loop.min_steps, trainer.fit_loop.epoch_loop.max_steps) == (1, 2)


def test_replace_where_the_parent_does_not_override_connect():
    class Outer(Loop):
        def __init__(self):
            super().__init__()
            self.inner = Times(None, n=5)

    class Inner(Times):
        pass

    outer = Outer()
    outer.replace(inner=Inner)
    assert type(outer.inner) is Inner
    assert outer.inner.n == 5


def test_replace_merges_arguments_by_name_whatever_their_annotations():
    class Old(Loop):
        def __init__(self, a: int, b: str = "b"):
            super().__init__()
            self.a, self.b = a, b

    class New(Loop):
        def __init__(self, b: "str | None" = None, a: float = 0.0, c: object = "own"):
            super().__init__()
            self.a, self.b, self.c = a, b, c

    outer = Times(Old(3, "x"))
    outer.replace(child=New)
    assert (outer.child.a, outer.child.b, outer.child.c) == (3, "x", "own")


def test_replace_hands_the_limit_in_force_to_a_loop_from_scratch(make_trainer):
    class FromScratch(Loop):
        def __init__(self, max_steps):
            super().__init__()
            self.max_steps = max_steps

    trainer = make_trainer(max_steps=6)
    trainer.fit_loop.replace(epoch_loop=FromScratch)
    assert trainer.fit_loop.epoch_loop.max_steps == 6


def test_replace_works_by_dotted_path_and_on_leaves(make_trainer):
    class MyOptimizerLoop(OptimizerLoop):
        pass

    trainer = make_trainer(max_epochs=1)
    old = trainer.fit_loop.epoch_loop.batch_loop.optimizer_loop
    assert trainer.fit_loop.replace(**{"epoch_loop.batch_loop.optimizer_loop": MyOptimizerLoop}) is old
    assert type(trainer.fit_loop.epoch_loop.batch_loop.optimizer_loop) is MyOptimizerLoop
    trainer.fit(TinyClassifier(), random_batches(2))
    assert trainer.global_step == 2


def test_replace_several_returns_all_of_the_old_ones(make_trainer):
    class MyBatchLoop(TrainingBatchLoop):
        pass

    epoch_loop = make_trainer().fit_loop.epoch_loop
    old = {"batch_loop": epoch_loop.batch_loop, "val_loop": epoch_loop.val_loop}
    assert epoch_loop.replace(batch_loop=MyBatchLoop, val_loop=EvaluationLoop("validate")) == old


def test_replace_keeps_a_child_that_the_new_loop_brings():
    class MyBatchLoop(TrainingBatchLoop):
        pass

    class EpochWithOwnBatchLoop(TrainingEpochLoop):
        def __init__(self, min_steps=None, max_steps=None):
            super().__init__(min_steps, max_steps)
            self.batch_loop = MyBatchLoop()

    fit_loop = FitLoop()
    fit_loop.replace(epoch_loop=EpochWithOwnBatchLoop)
    assert type(fit_loop.epoch_loop.batch_loop) is MyBatchLoop


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "at least one loop"),
        ({"epoch_lop": MyEpochLoop}, 'There is no loop .epoch_lop. .*Did you mean "epoch_loop"'),
        ({"epoch_loop.batch": MyEpochLoop}, "There is no loop 'batch' to replace in TrainingEpochLoop"),
        ({"epoch_loop": 3}, "expects a Loop class or instance, got 3"),
        ({"epoch_loop": dict}, "expects a Loop class or instance"),
    ],
)
def test_replace_never_does_nothing_silently(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        FitLoop().replace(**arguments)


def test_replace_says_which_argument_the_old_loop_does_not_have():
    class Needs(Loop):
        def __init__(self, temperature):
            super().__init__()

    with pytest.raises(ConfigurationError, match=r"Needs needs the argument\(s\) \['temperature'\], which Training"):
        FitLoop().replace(epoch_loop=Needs)


# connect


def test_connect_as_the_page_has_it(make_trainer):
    trainer = make_trainer(max_steps=4, min_steps=1)
    old = trainer.fit_loop.epoch_loop
    epoch_loop = MyEpochLoop(trainer.fit_loop.epoch_loop.min_steps, trainer.fit_loop.epoch_loop.max_steps)
    epoch_loop.connect(trainer.fit_loop.epoch_loop.batch_loop, trainer.fit_loop.epoch_loop.val_loop)
    trainer.fit_loop.connect(epoch_loop=epoch_loop)
    assert trainer.fit_loop.epoch_loop is epoch_loop
    assert (epoch_loop.batch_loop, epoch_loop.val_loop) == (old.batch_loop, old.val_loop)
    assert (epoch_loop.min_steps, epoch_loop.max_steps) == (1, 4)
    assert epoch_loop.trainer is trainer
    trainer.fit(TinyClassifier(), random_batches(3))
    assert trainer.global_step == 4


def test_connect_by_position_on_every_built_in_loop():
    fit_loop, epoch_loop, batch_loop = FitLoop(), TrainingEpochLoop(), TrainingBatchLoop()
    optimizer_loop, val_loop = OptimizerLoop(), EvaluationLoop()
    batch_loop.connect(optimizer_loop)
    epoch_loop.connect(batch_loop, val_loop)
    fit_loop.connect(epoch_loop)
    assert fit_loop.epoch_loop.batch_loop.optimizer_loop is optimizer_loop
    assert fit_loop.epoch_loop.val_loop is val_loop


def test_connect_an_outer_loop_as_the_demo_does(make_trainer):
    class Outer(Loop):
        def connect(self, fit_loop):
            self.fit_loop = fit_loop

        @property
        def done(self):
            return self.progress.current == 2

        def advance(self):
            with self.trainer.isolated(f"round_{self.progress.current}"):
                self.fit_loop.run()

    trainer = make_trainer(max_epochs=3)
    loop = Outer()
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    module = SeenBatches()
    trainer.fit(module, random_batches(2))
    assert len(module.seen["train"]) == 2 * 3 * 2


# new hooks at any point


def test_a_new_hook_reaches_callbacks_first_and_then_the_module(make_trainer):
    order = []

    class WithHook(TinyClassifier):
        def on_half_time(self, score):
            order.append(("module", score))
            return "the module's value"

    class CustomFitLoop(FitLoop):
        def on_advance_end(self):
            super().on_advance_end()
            self.value = self.trainer.call_hook("on_half_time", 7)

    class Listener(RecordingCallback):
        def on_half_time(self, trainer, module, score):
            order.append(("callback", score))

    trainer = make_trainer(max_epochs=1, callbacks=Listener())
    trainer.fit_loop = CustomFitLoop()
    trainer.fit(WithHook(), random_batches(1))
    assert order == [("callback", 7), ("module", 7)]
    assert trainer.fit_loop.value == "the module's value"


def test_a_hook_nobody_defines_is_no_error(make_trainer):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(TinyClassifier(), random_batches(1))
    assert trainer.call_hook("on_nothing", 1, 2) is None


# the state of a loop can be saved and resumed


def shuffled_loader(own_generator, n_samples=96, batch_size=16):
    generator = torch.Generator().manual_seed(7) if own_generator else None
    return DataLoader(random_dataset(n_samples), batch_size=batch_size, shuffle=True, generator=generator)


class SaveAt(RecordingCallback):
    """Saves a checkpoint after batch ``batch_idx`` of ``epoch``."""

    def __init__(self, path, epoch, batch_idx):
        super().__init__()
        self.path, self.at = path, (epoch, batch_idx)
        self.__dict__["on_train_batch_end"] = self.save

    def save(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)


class Noisy(SeenBatches):
    """Draws random numbers in training, so that the state of the generators matters too."""

    def forward(self, inputs):
        return super().forward(nn.functional.dropout(inputs, 0.2, self.training))


@pytest.mark.parametrize("own_generator", [True, False], ids=["own generator", "global generator"])
@pytest.mark.parametrize("at", [(0, 2), (1, 0), (1, 5)], ids=str)
def test_a_run_cut_in_an_epoch_goes_on_at_the_next_batch(make_trainer, tmp_path, own_generator, at):
    def run(callbacks=None, ckpt_path=None):
        torch.manual_seed(3)
        module = Noisy(optimizer="Adam")
        trainer = make_trainer(max_epochs=3, callbacks=callbacks)
        torch.manual_seed(4 if ckpt_path is None else 5)
        trainer.fit(module, shuffled_loader(own_generator), random_loader(32), ckpt_path=ckpt_path)
        return module, trainer

    path = tmp_path / "cut.ckpt"
    whole, whole_trainer = run(callbacks=SaveAt(path, *at))
    resumed, resumed_trainer = run(ckpt_path=path)
    seen_before = at[0] * 6 + at[1] + 1
    assert len(set(whole.seen["train"][6:12])) == 6
    assert resumed.seen["train"] == whole.seen["train"][seen_before:]
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert resumed_trainer.global_step == whole_trainer.global_step == 18
    assert resumed_trainer.current_epoch == 3
    for name, value in whole_trainer.callback_metrics.items():
        assert torch.equal(resumed_trainer.callback_metrics[name], value), name


def test_validation_that_was_due_when_a_run_was_cut_is_made_up_for(make_trainer, tmp_path):
    path = tmp_path / "cut.ckpt"
    whole, resumed = SeenBatches(), SeenBatches()
    make_trainer(max_epochs=2, callbacks=SaveAt(path, 1, 2), num_sanity_val_steps=0).fit(
        whole, random_batches(3), random_batches(1)
    )
    make_trainer(max_epochs=2).fit(resumed, random_batches(3), random_batches(1), ckpt_path=path)
    assert len(whole.seen["val"]) == 2
    assert len(resumed.seen["val"]) == 1


def test_a_loop_from_scratch_resumes_with_its_own_state(make_trainer, tmp_path):
    class Counting(Loop):
        def __init__(self, stop_at):
            super().__init__()
            self.stop_at, self.total, self.restarts = stop_at, 0, []

        @property
        def done(self):
            return self.progress.current == self.stop_at

        def advance(self):
            self.restarts.append(self.restarting)
            self.total += 10
            if self.progress.current == 2:
                self.trainer.save_checkpoint(tmp_path / "cut.ckpt")

        def on_save_checkpoint(self):
            return {"total": self.total}

        def on_load_checkpoint(self, state_dict):
            self.total = state_dict["total"]

    trainer = make_trainer()
    trainer.fit_loop = Counting(5)
    trainer.fit(TinyClassifier(), random_batches(1))
    again = make_trainer()
    again.fit_loop = Counting(5)
    again.fit(TinyClassifier(), random_batches(1), ckpt_path=tmp_path / "cut.ckpt")
    assert again.fit_loop.progress.current == 5
    assert again.fit_loop.restarts == [True, False, False]
    assert again.fit_loop.total == 30 + 30  # saved in the third iteration, which is done again


def test_an_epoch_loop_from_scratch_resumes_at_the_next_batch(make_trainer, tmp_path):
    class MyEpoch(Loop):
        @property
        def done(self):
            return self.progress.current >= self.trainer.num_training_batches

        def on_run_start(self, data):
            self.batches = data.start_epoch(self.trainer.current_epoch, skip=self.progress.current)

        def advance(self):
            step_by_hand(self.trainer, next(self.batches), self.progress.current)

        def on_advance_end(self):
            if self.trainer.global_step == 8 and not self.restarting:
                self.trainer.save_checkpoint(tmp_path / "cut.ckpt")

    def run(ckpt_path=None):
        torch.manual_seed(3)
        module = Noisy()
        trainer = make_trainer(max_epochs=2)
        trainer.fit_loop.epoch_loop = MyEpoch()
        trainer.fit(module, shuffled_loader(own_generator=False), ckpt_path=ckpt_path)
        return module

    whole, resumed = run(), run(tmp_path / "cut.ckpt")
    assert resumed.seen["train"] == whole.seen["train"][8:]
    assert torch.equal(weights_of(resumed), weights_of(whole))


# nest as many of them as you want


def test_outer_loops_nest_at_will(make_trainer):
    class Outer(Loop):
        def __init__(self, child, n, name):
            super().__init__()
            self.child, self.n, self.name = child, n, name

        @property
        def done(self):
            return self.progress.current == self.n

        def on_run_start(self):
            self.start = self.trainer.snapshot()
            self.after = []

        def advance(self):
            with self.trainer.isolated(f"{self.name}_{self.progress.current}", start=self.start) as run:
                self.child.run()
                names.append(run.name)
            self.after.append(weights_of(self.trainer.module))

    names = []
    trainer = make_trainer(max_epochs=2)
    inner = Outer(trainer.fit_loop, 2, "round")
    trainer.fit_loop = Outer(inner, 2, "fold")
    module = SeenBatches()
    trainer.fit(module, random_batches(2))
    assert names == [
        "fold_0/round_0", "fold_0/round_1", "fold_0", "fold_1/round_0", "fold_1/round_1", "fold_1",
    ]  # fmt: skip
    assert len(module.seen["train"]) == 2 * 2 * 2 * 2
    assert all(torch.equal(after, inner.after[0]) for after in [*inner.after, *trainer.fit_loop.after])


def test_plain_loops_nest_without_a_trainer():
    leaf = Once(lambda trainer: None)
    leaf.advance = lambda: None
    Times(Times(Times(leaf, 2), 3), 4).run()
    assert leaf.progress.total == 2 * 3 * 4


# in any slot


def test_a_plain_module_with_a_training_step_is_enough(make_trainer):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 10)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(max_epochs=1)
    trainer.fit(Plain(), random_batches(3))
    assert trainer.global_step == 3


def test_a_module_without_a_training_step_is_told_so(make_trainer):
    class Empty(LoopModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 10)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ConfigurationError, match="Empty needs a `training_step"):
        make_trainer(max_epochs=1).fit(Empty(), random_batches(1))
