"""FitLoop and TrainingEpochLoop: counters, limits, when validation runs, and one fit after another."""

import time
from datetime import timedelta

import pytest
import torch
from scratch import SeenBatches, weights_of
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from torchloops import EarlyStopping, FitLoop, TrainingEpochLoop
from torchloops.errors import ConfigurationError, DataError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader


class On(RecordingCallback):
    """Calls ``function(trainer, *args)`` on one hook."""

    def __init__(self, hook, function):
        super().__init__()
        self.values = []

        def call(trainer, module, *args):
            value = function(trainer, *args)
            self.values.append(value)
            return value

        self.__dict__[hook] = call


class WithoutLength:
    """Batches without a length."""

    def __init__(self, n_batches):
        self.batches = random_batches(n_batches)

    def __iter__(self):
        return iter(self.batches)


def fit(trainer, n_train=4, n_val=None, module=None):
    module = SeenBatches() if module is None else module
    trainer.fit(module, random_batches(n_train), random_batches(n_val, seed=1) if n_val else None)
    return module


def validations_at(trainer, n_train=4, n_val=1):
    """Number of training batches seen when each validation began."""
    found = []

    class Module(SeenBatches):
        def on_validation_start(self):
            found.append(len(self.seen["train"]))

    fit(trainer, n_train, n_val, Module())
    return found


# counters


def test_current_epoch_rises_after_the_epoch_end_hooks(make_trainer):
    at_end = On("on_train_epoch_end", lambda trainer: trainer.current_epoch)
    at_start = On("on_train_epoch_start", lambda trainer: trainer.current_epoch)
    trainer = make_trainer(max_epochs=3, callbacks=[at_end, at_start])
    fit(trainer)
    assert at_start.values == at_end.values == [0, 1, 2]
    assert trainer.current_epoch == 3


def test_global_step_counts_optimizer_steps(make_trainer):
    at_batch_end = On("on_train_batch_end", lambda trainer, *args: trainer.global_step)
    fit(make_trainer(max_epochs=2, callbacks=at_batch_end))
    assert at_batch_end.values == [1, 2, 3, 4, 5, 6, 7, 8]


def test_module_knows_the_counters(make_trainer):
    module = fit(make_trainer(max_epochs=2))
    assert (module.current_epoch, module.global_step) == (2, 8)
    assert (TinyClassifier().current_epoch, TinyClassifier().global_step) == (0, 0)


def test_counters_are_read_only_views_of_one_state(make_trainer):
    trainer = make_trainer(max_epochs=1)
    fit(trainer)
    assert trainer.global_step == trainer.state.global_step == trainer.run.steps == 4
    with pytest.raises(AttributeError):
        trainer.global_step = 3


def test_estimated_stepping_batches(make_trainer):
    estimates = On("on_train_start", lambda trainer: trainer.estimated_stepping_batches)
    fit(make_trainer(max_epochs=3, accumulate_grad_batches=3, callbacks=estimates))
    fit(make_trainer(max_epochs=3, max_steps=5, callbacks=estimates))
    assert estimates.values == [6, 5]


# limits


@pytest.mark.parametrize(
    ("arguments", "epochs", "steps"),
    [
        ({"max_epochs": 2}, 2, 8),
        ({"max_epochs": 0}, 0, 0),
        ({"max_steps": 6}, 2, 6),
        ({"max_steps": 0}, 0, 0),
        ({"max_epochs": 1, "max_steps": 6}, 1, 4),
        ({"max_epochs": 5, "max_steps": 6}, 2, 6),
        ({"max_epochs": -1, "max_steps": 4}, 1, 4),
        ({"max_epochs": 2, "limit_train_batches": 3}, 2, 6),
        ({"max_epochs": 2, "limit_train_batches": 9}, 2, 8),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 2, 4),
        ({"max_epochs": 2, "limit_train_batches": 1.0}, 2, 8),
        ({"max_epochs": 2, "limit_train_batches": 0}, 0, 0),
        ({"max_epochs": 2, "limit_train_batches": 0.0}, 0, 0),
    ],
    ids=str,
)
def test_limits_of_a_fit(make_trainer, arguments, epochs, steps):
    trainer = make_trainer(**arguments)
    module = fit(trainer)
    assert (trainer.current_epoch, trainer.global_step) == (epochs, steps)
    assert len(module.seen["train"]) == steps


def test_limits_given_to_the_loops_win(make_trainer):
    epochs = On("on_train_epoch_start", lambda trainer: trainer.current_epoch)
    trainer = make_trainer(max_epochs=9, callbacks=epochs)
    trainer.fit_loop = FitLoop(max_epochs=2)
    fit(trainer)
    assert epochs.values == [0, 1]
    trainer.fit_loop.epoch_loop = TrainingEpochLoop(max_steps=3)
    fit(trainer)
    assert trainer.global_step == 3
    assert epochs.values == [0, 1, 0]


def test_steps_given_to_the_epoch_loop_end_a_fit_without_a_limit_of_epochs(make_trainer):
    trainer = make_trainer(max_epochs=-1)
    trainer.fit_loop.epoch_loop.max_steps = 6
    fit(trainer)
    assert trainer.global_step == 6


def test_without_limits_a_fit_has_1000_epochs_and_with_steps_any_number(make_trainer):
    assert make_trainer().max_epochs == 1000
    assert make_trainer(max_steps=3).max_epochs == -1
    assert make_trainer(max_time=3).max_epochs == -1


@pytest.mark.parametrize("max_time", [45, {"seconds": 45}, timedelta(seconds=45), "00:00:00:45"])
def test_max_time_ends_a_fit_in_the_middle_of_an_epoch(make_trainer, monkeypatch, max_time):
    clock = [time.monotonic()]
    monkeypatch.setattr("torchloops.trainer.state.time.monotonic", lambda: clock[0])

    def ten_seconds_pass(*args):
        clock[0] += 10.0

    trainer = make_trainer(max_time=max_time, callbacks=On("on_train_batch_end", ten_seconds_pass))
    fit(trainer, n_train=4)
    assert (trainer.current_epoch, trainer.global_step) == (2, 5)


@pytest.mark.parametrize(("text", "seconds"), [("00:00:00:05", 5), ("01:00:01:00", 86460)])
def test_max_time_as_text(make_trainer, text, seconds):
    assert make_trainer(max_time=text).state.limits.max_seconds == seconds


def test_should_stop_ends_the_fit_after_the_batch(make_trainer):
    def stop(trainer, outputs, batch, batch_idx):
        trainer.should_stop = batch_idx == 1

    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=5, callbacks=[On("on_train_batch_end", stop), recorder])
    fit(trainer)
    assert (trainer.current_epoch, trainer.global_step) == (1, 2)
    assert recorder.calls[-4:] == ["on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"]


@pytest.mark.parametrize(
    ("minimum", "epochs", "steps"),
    [({"min_epochs": 3}, 3, 12), ({"min_steps": 6}, 2, 6), ({"min_steps": 6, "min_epochs": 3}, 3, 12), ({}, 1, 1)],
    ids=str,
)
def test_should_stop_waits_for_the_minimum(make_trainer, minimum, epochs, steps):
    def stop(trainer, *args):
        trainer.should_stop = True

    trainer = make_trainer(max_epochs=9, callbacks=On("on_train_batch_end", stop), **minimum)
    fit(trainer)
    assert (trainer.current_epoch, trainer.global_step) == (epochs, steps)


def test_the_minimum_given_to_the_fit_loop_holds_inside_epochs_too(make_trainer):
    def stop(trainer, *args):
        trainer.should_stop = True

    trainer = make_trainer(max_epochs=9, callbacks=On("on_train_batch_end", stop))
    trainer.fit_loop = FitLoop(min_epochs=2)
    fit(trainer)
    assert (trainer.current_epoch, trainer.global_step) == (2, 8)


def test_should_stop_before_the_minimum_adds_no_validation(make_trainer):
    def stop(trainer, *args):
        trainer.should_stop = True

    trainer = make_trainer(
        max_epochs=9, min_epochs=2, num_sanity_val_steps=0, callbacks=On("on_train_batch_start", stop)
    )
    assert validations_at(trainer) == [4, 8]


def test_should_stop_validates_before_the_fit_ends(make_trainer):
    def stop(trainer, *args):
        trainer.should_stop = True

    trainer = make_trainer(max_epochs=9, num_sanity_val_steps=0, callbacks=On("on_train_batch_end", stop))
    assert validations_at(trainer) == [1]


def test_early_stopping_ends_the_fit_and_a_second_fit_is_not_stopped_by_the_first(make_trainer):
    stopping = EarlyStopping("val/loss", patience=1, min_delta=100.0)
    trainer = make_trainer(max_epochs=9, callbacks=stopping)
    fit(trainer, n_val=1)
    assert trainer.current_epoch == 2
    fit(trainer, n_val=1)
    assert trainer.current_epoch == 2


def test_minus_one_from_a_batch_start_hook_ends_the_epoch(make_trainer):
    def leave(trainer, batch, batch_idx):
        return -1 if batch_idx == 2 else None

    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=2, callbacks=[On("on_train_batch_start", leave), recorder])
    fit(trainer)
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    assert recorder.calls.count("on_train_batch_start") == 6  # every hook is called, also after one has refused
    assert recorder.calls.count("on_train_batch_end") == 4


@pytest.mark.parametrize("fast", [True, 3])
def test_fast_dev_run_runs_so_many_batches_of_each_stage(make_trainer, fast):
    trainer = make_trainer(fast_dev_run=fast, max_epochs=9, logger=True)
    module = SeenBatches()
    trainer.fit(module, random_batches(5), random_batches(5))
    trainer.test(module, random_batches(5))
    trainer.predict(module, random_batches(5))
    assert {stage: len(seen) for stage, seen in module.seen.items()} == dict.fromkeys(module.seen, int(fast))
    assert trainer.loggers == []


def test_fast_dev_run_runs_all_its_batches_with_two_optimizers(make_trainer):
    class Two(SeenBatches):
        def training_step(self, batch, batch_idx, optimizer_idx):
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.backbone, self.head)]

    trainer = make_trainer(fast_dev_run=3)
    fit(trainer, module=Two())
    assert trainer.global_step == 6


@pytest.mark.parametrize(("overfit", "n"), [(2, 2), (0.5, 3)])
def test_overfit_batches_trains_and_validates_on_the_same_batches(make_trainer, overfit, n):
    module = SeenBatches()
    loader = DataLoader(random_dataset(96), batch_size=16, shuffle=True)
    make_trainer(max_epochs=3, overfit_batches=overfit).fit(module, loader, random_loader(64))
    first = module.seen["train"][:n]
    assert len(set(first)) == n
    assert module.seen["train"] == first * 3
    assert module.seen["val"] == first * 3


def test_limits_of_evaluation(make_trainer):
    trainer = make_trainer(limit_val_batches=2, limit_test_batches=0.5, limit_predict_batches=1)
    module = SeenBatches()
    trainer.validate(module, random_batches(4))
    trainer.test(module, random_batches(4))
    trainer.predict(module, random_batches(4))
    assert {stage: len(seen) for stage, seen in module.seen.items()} == {"train": 0, "val": 2, "test": 2, "predict": 1}


def test_a_loader_without_a_length(make_trainer):
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=0, accumulate_grad_batches=2)
    module = SeenBatches()
    trainer.fit(module, WithoutLength(5), WithoutLength(2))
    assert trainer.num_training_batches == float("inf")
    assert (trainer.current_epoch, trainer.global_step) == (2, 6)  # the last batch of an epoch steps
    assert len(module.seen["val"]) == 4


def test_an_iterable_data_set(make_trainer):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(random_dataset(40))

    module = SeenBatches()
    make_trainer(max_epochs=2).fit(module, DataLoader(Stream(), batch_size=16))
    assert len(module.seen["train"]) == 6


def test_empty_data_is_refused(make_trainer):
    with pytest.raises(DataError, match="There is no training data"):
        make_trainer(max_epochs=1).fit(TinyClassifier())
    with pytest.raises(DataError, match="has no batches"):
        make_trainer(max_epochs=1).fit(TinyClassifier(), DataLoader(random_dataset(3), batch_size=4, drop_last=True))


def test_wrong_limits_are_reported_together():
    from torchloops import Trainer

    with pytest.raises(ConfigurationError) as caught:
        Trainer(limit_val_batches=1.5, accumulate_grad_batches=0, gradient_clip_algorithm="nrom", overfit_batches=-1)
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "limit_val_batches", "overfit_batches", "accumulate_grad_batches", "gradient_clip_algorithm",
    ]  # fmt: skip


# when validation runs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [4, 8]),
        ({"val_check_interval": 1.0}, [4, 8]),
        ({"val_check_interval": 0.5}, [2, 4, 6, 8]),
        ({"val_check_interval": 0.75}, [3, 7]),
        ({"val_check_interval": 3}, [3, 7]),
        ({"val_check_interval": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"check_val_every_n_epoch": 2}, [8]),
        ({"check_val_every_n_epoch": 3}, []),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, [3, 6]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 6}, [6]),
        ({"limit_val_batches": 0}, []),
    ],
    ids=str,
)
def test_when_validation_runs(make_trainer, arguments, expected):
    assert validations_at(make_trainer(max_epochs=2, num_sanity_val_steps=0, **arguments)) == expected


def test_validation_that_would_never_run_is_refused(make_trainer):
    with pytest.raises(ConfigurationError, match="would never run"):
        fit(make_trainer(max_epochs=1, val_check_interval=5), n_val=1)


def test_validation_runs_after_the_batch_end_hook_and_before_the_epoch_end_hook(make_trainer):
    recorder = RecordingCallback()
    fit(make_trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=recorder), n_train=1, n_val=1)
    shortened = [name for name in recorder.calls if name.endswith(("batch_end", "epoch_end", "validation_start"))]
    assert shortened == [
        "on_train_batch_end", "on_validation_start", "on_validation_batch_end", "on_validation_epoch_end",
        "on_train_epoch_end",
    ]  # fmt: skip


# one fit after another


def test_a_second_fit_starts_over_with_the_weights_as_they_are(make_trainer):
    batches = random_batches(4)

    class Momentum(TinyClassifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    module = Momentum()
    start = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = make_trainer(max_epochs=2)
    optimizers = []
    for _ in range(2):
        trainer.fit(module, batches)
        optimizers.append(trainer.optimizers[0])
        assert (trainer.current_epoch, trainer.global_step) == (2, 8)
    assert optimizers[0] is not optimizers[1]

    by_hand = Momentum()
    for parameter, value in zip(by_hand.parameters(), start, strict=True):
        parameter.data.copy_(value)
    for _ in range(2):
        optimizer = by_hand.configure_optimizers()
        for _ in range(2):
            for inputs, targets in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(by_hand(inputs), targets).backward()
                optimizer.step()
    assert torch.equal(weights_of(module), weights_of(by_hand))


def test_a_fit_after_one_that_failed(make_trainer):
    class Fails(TinyClassifier):
        fails = True

        def training_step(self, batch, batch_idx):
            if self.fails and batch_idx == 2:
                raise OverflowError
            return super().training_step(batch, batch_idx)

    module = Fails()
    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=2, callbacks=recorder)
    with pytest.raises(OverflowError):
        fit(trainer, module=module)
    assert recorder.calls[-2:] == ["on_exception", "teardown"]
    module.fails = False
    fit(trainer, module=module)
    assert (trainer.current_epoch, trainer.global_step) == (2, 8)


def test_another_module_on_the_same_trainer(make_trainer):
    trainer = make_trainer(max_epochs=1)
    first, second = fit(trainer), fit(trainer)
    assert trainer.module is second
    assert len(first.seen["train"]) == len(second.seen["train"]) == 4


def test_a_fit_inside_a_fit_is_refused_with_advice(make_trainer):
    def again(trainer):
        trainer.fit(trainer.module, random_batches(1))

    trainer = make_trainer(max_epochs=1, callbacks=On("on_train_epoch_end", again))
    with pytest.raises(ConfigurationError, match=r"trainer.fit\(\) was called while trainer.fit\(\) runs"):
        fit(trainer)


# deterministic


@pytest.mark.parametrize(("deterministic", "warn_only"), [(True, False), ("warn", True)])
def test_deterministic_holds_during_the_run_and_not_after(make_trainer, deterministic, warn_only):
    def ask(trainer):
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    asked = On("on_train_start", ask)
    fit(make_trainer(max_epochs=1, deterministic=deterministic, callbacks=asked))
    assert asked.values == [(True, warn_only)]
    assert ask(None) == (False, False)


def test_the_same_seed_gives_the_same_weights(make_trainer):
    found = []
    for _ in range(2):
        torch.manual_seed(11)
        module = TinyClassifier()
        loader = DataLoader(random_dataset(96), batch_size=16, shuffle=True)
        make_trainer(max_epochs=2).fit(module, loader)
        found.append(weights_of(module))
    assert torch.equal(*found)


def test_reload_dataloaders_every_n_epochs(make_trainer):
    class Asked(TinyClassifier):
        asked = 0

        def train_dataloader(self):
            self.asked += 1
            return random_batches(2)

    module = Asked()
    make_trainer(max_epochs=5, reload_dataloaders_every_n_epochs=2).fit(module)
    assert module.asked == 3


def test_steps_are_counted_once_when_the_optimizer_loop_is_replaced_between_epochs(make_trainer):
    from torchloops import Callback, OptimizerLoop

    class OwnLoop(OptimizerLoop):
        pass

    class Swap(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.fit_loop.epoch_loop.batch_loop.optimizer_loop = OwnLoop()

    trainer = make_trainer(max_epochs=3, callbacks=Swap())
    trainer.fit(TinyClassifier(), random_batches(4))
    assert trainer.global_step == 12
