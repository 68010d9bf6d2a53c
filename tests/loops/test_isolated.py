"""``trainer.isolated``: what an outer loop gets for every inner run, and what it finds after it."""

import pytest
import torch
from scratch import Once, SeenBatches, weights_of
from torch import nn
from torch.optim.lr_scheduler import StepLR

from torchloops import Callback, CSVLogger, DataModule, EarlyStopping, Loop, TrainingEpochLoop
from torchloops.errors import ConfigurationError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches


class Rounds(Loop):
    """Runs its fit loop ``n`` times, each in an isolated run; ``inside(loop, run)`` is called at the end of each."""

    def __init__(self, fit_loop, n=2, inside=None, fresh_weights=True, seed=None):
        super().__init__()
        self.fit_loop = fit_loop
        self.n, self.inside, self.fresh_weights, self.seed = n, inside, fresh_weights, seed
        self.runs, self.values = [], []

    @property
    def done(self):
        return self.progress.current == self.n

    def on_run_start(self):
        self.start = self.trainer.snapshot() if self.fresh_weights else None

    def advance(self):
        with self.trainer.isolated(f"round_{self.progress.current}", start=self.start, seed=self.seed) as run:
            self.runs.append(run)
            self.fit_loop.run()
            if self.inside is not None:
                self.values.append(self.inside(self, run))


class Momentum(TinyClassifier):
    """An optimizer and a scheduler whose states show."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]


def fit(trainer, inside=None, module=None, n=2, data=3, **options):
    loop = Rounds(trainer.fit_loop, n, inside, **options)
    trainer.fit_loop = loop
    module = Momentum() if module is None else module
    trainer.fit(module, random_batches(data), random_batches(1, seed=1))
    return loop


def test_every_run_has_fresh_optimizers_schedulers_and_counters(make_trainer):
    def look(loop, run):
        trainer = loop.trainer
        return (
            id(trainer.optimizers[0]),
            trainer.optimizers[0].param_groups[0]["lr"],
            run.epochs,
            run.steps,
            weights_of(trainer.module),
        )

    trainer = make_trainer(max_epochs=2)
    loop = fit(trainer, look)
    first, second = loop.values
    assert first[0] != second[0]
    assert first[1:4] == second[1:4] == (0.025, 2, 6)
    assert torch.equal(first[4], second[4])  # same start, same data, nothing carried over
    assert (trainer.current_epoch, trainer.global_step) == (0, 0)


def test_an_inner_run_equals_a_fit_on_a_trainer_of_its_own(make_trainer):
    torch.manual_seed(1)
    alone, inside = Momentum(), Momentum()
    inside.load_state_dict(alone.state_dict())
    make_trainer(max_epochs=2).fit(alone, random_batches(3), random_batches(1, seed=1))
    fit(make_trainer(max_epochs=2), module=inside)
    assert torch.equal(weights_of(alone), weights_of(inside))


def test_an_inner_run_equals_one_fit_also_where_validation_counts_over_epochs(make_trainer):
    at = []

    class Module(SeenBatches):
        def on_validation_start(self):
            at.append(len(self.seen["train"]) % 6)

    trainer = make_trainer(max_epochs=2, check_val_every_n_epoch=None, val_check_interval=4)
    fit(trainer, module=Module(), n=3)
    assert at == [4, 4, 4]


def test_weights_go_on_without_a_snapshot(make_trainer):
    loop = fit(make_trainer(max_epochs=1), lambda loop, run: weights_of(loop.trainer.module), fresh_weights=False)
    assert not torch.equal(*loop.values)


def test_a_snapshot_restores_weights_buffers_flags_and_modes(make_trainer):
    class Module(Momentum):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(32)

        def forward(self, inputs):
            return super().forward(self.norm(inputs))

    module = Module()
    module.head.bias.requires_grad_(False)
    module.norm.eval()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, random_batches(1))
    snapshot = trainer.snapshot()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.norm.train()
    module.head.bias.requires_grad_(True)
    trainer.fit(module, random_batches(3))
    assert not torch.equal(module.norm.running_mean, before["norm.running_mean"])
    assert trainer.snapshot().hash != snapshot.hash
    snapshot.restore(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.head.bias.requires_grad
    assert not module.norm.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert trainer.snapshot().hash == snapshot.hash


def test_a_snapshot_survives_as_plain_data(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1)
    module = TinyClassifier()
    trainer.fit(module, random_batches(1))
    torch.save(trainer.snapshot().state_dict(), tmp_path / "snapshot")
    loaded = type(trainer.snapshot()).from_state_dict(torch.load(tmp_path / "snapshot", weights_only=True))
    before = weights_of(module)
    trainer.fit(module, random_batches(3))
    loaded.restore(module)
    assert torch.equal(weights_of(module), before)


def test_every_run_has_its_own_callbacks(make_trainer):
    class Counts(Callback):
        def __init__(self):
            self.batches = 0

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.batches += 1

    given = Counts()
    loop = fit(make_trainer(max_epochs=1, callbacks=given))
    own = [run.callbacks[0] for run in loop.runs]
    assert [callback.batches for callback in own] == [3, 3]
    assert len({id(given), *map(id, own)}) == 3
    assert given.batches == 0


def test_early_stopping_of_one_run_does_not_shorten_the_next(make_trainer):
    stopping = EarlyStopping("val/loss", patience=1, min_delta=100.0)
    loop = fit(make_trainer(max_epochs=9, callbacks=stopping), lambda loop, run: run.epochs, n=3)
    assert loop.values == [2, 2, 2]


def test_max_steps_holds_for_every_run(make_trainer):
    loop = fit(make_trainer(max_steps=4), lambda loop, run: run.steps, n=3)
    assert loop.values == [4, 4, 4]


def test_hooks_of_an_inner_run(make_trainer):
    recorder = RecordingCallback()  # one object sees all runs
    fit(make_trainer(max_epochs=1, limit_val_batches=0, callbacks=recorder), data=1)
    inner = [
        "setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start",
        "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
        "on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown",
    ]  # fmt: skip
    assert recorder.calls == ["setup", "on_fit_start", *inner, *inner, "on_fit_end", "teardown"]


def test_names_and_folders_of_nested_runs(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1)

    def look(loop, run):
        return run.name, run.prefix, run.dir, loop.trainer.run_dir, loop.trainer.run_name

    inner = Rounds(trainer.fit_loop, 2, look)
    trainer.fit_loop = Rounds(inner, 2, look)
    trainer.fit(Momentum(), random_batches(1))
    expected = []
    for outer in ("round_0", "round_1"):
        names = [f"{outer}/round_0", f"{outer}/round_1"]
        expected.append([(name, f"{name}/", tmp_path / name, tmp_path / name, name) for name in names])
    assert [*inner.values] == expected[1] or [*inner.values] == [*expected[0], *expected[1]]
    assert [value[0] for value in trainer.fit_loop.values] == ["round_0", "round_1"]
    assert (trainer.run_dir, trainer.run_name, trainer.run.prefix) == (tmp_path, "", "")


def test_every_run_logs_to_its_own_file(make_trainer, tmp_path):
    fit(make_trainer(max_epochs=2, logger=True))
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("metrics.csv"))
    assert files == ["round_0/metrics.csv", "round_1/metrics.csv"]
    assert len(CSVLogger(tmp_path / "round_0").rows) == 2


def test_other_loggers_are_shared_under_a_prefix(make_trainer):
    logged = []

    class Logger:
        def log_metrics(self, metrics, step=None):
            logged.extend(name for name in metrics if name.endswith("val/loss"))

        def save(self):
            pass

        def finalize(self, status):
            pass

    fit(make_trainer(max_epochs=1, logger=Logger()))
    assert logged == ["round_0/val/loss", "round_1/val/loss"]


def test_metrics_of_a_run_are_its_own(make_trainer):
    class Named(TinyClassifier):
        def on_train_epoch_end(self):
            self.log(f"only in {self.trainer.run_name}", 1.0)

    loop = fit(make_trainer(max_epochs=1), module=Named())
    first, second = [set(run.metrics) for run in loop.runs]
    assert "only in round_0" in first
    assert "only in round_0" not in second
    assert {"train/loss", "val/loss", "val/accuracy"} <= second
    assert all(isinstance(value, float) for value in loop.runs[0].metrics.values())


def test_evaluate_inside_a_run(make_trainer):
    loop = fit(make_trainer(max_epochs=1), lambda loop, run: loop.trainer.evaluate("validate"))
    assert [set(value) for value in loop.values] == [{"val/loss", "val/accuracy"}] * 2
    assert loop.values[0] == loop.values[1]


def test_data_is_asked_for_again_in_every_run(make_trainer):
    class Growing(DataModule):
        asked = 0

        def train_dataloader(self):
            self.asked += 1
            return random_batches(self.asked)

    trainer = make_trainer(max_epochs=2)
    data = Growing()
    trainer.fit_loop = Rounds(trainer.fit_loop, 3, lambda loop, run: run.steps)
    trainer.fit(TinyClassifier(), datamodule=data)
    assert trainer.fit_loop.values == [2, 4, 6]
    assert data.asked == 3


def test_a_seed_holds_inside_and_generators_go_on_after(make_trainer):
    torch.manual_seed(3)
    undisturbed = torch.rand(3)
    torch.manual_seed(3)
    module, batches = Momentum(), random_batches(1)
    trainer = make_trainer(max_epochs=1)
    trainer.fit_loop = Rounds(trainer.fit_loop, 2, lambda loop, run: torch.rand(2), seed=5)
    torch.manual_seed(3)
    trainer.fit(module, batches)
    assert torch.equal(*trainer.fit_loop.values)
    assert torch.equal(torch.rand(3), undisturbed)


def test_modes_and_gradient_mode_are_restored_after_a_run(make_trainer):
    found = []

    def around(trainer):
        module = trainer.module
        module.eval()
        with torch.no_grad():
            with trainer.isolated("inner"):
                found.append((module.training, torch.is_grad_enabled(), trainer.state.stage))
                inner.run()
            found.append((module.training, torch.is_grad_enabled(), trainer.state.stage))

    trainer = make_trainer(max_epochs=1)
    inner = trainer.fit_loop
    trainer.fit_loop = Once(around)
    trainer.fit_loop.inner = inner
    trainer.fit(TinyClassifier(), random_batches(2))
    assert found == [(True, True, "train"), (False, False, "train")]
    assert inner.epoch_loop.progress.total == 2


def test_a_run_inside_inference_mode_trains(make_trainer):
    def around(trainer):
        with torch.inference_mode(), trainer.isolated("inner") as run:
            inner.run()
        return run.steps

    trainer = make_trainer(max_epochs=1)
    inner = trainer.fit_loop
    trainer.fit_loop = Once(around)
    trainer.fit_loop.inner = inner
    trainer.fit(TinyClassifier(), random_batches(2))
    assert trainer.fit_loop.output == 2


def test_an_error_inside_restores_the_outer_run(make_trainer):
    class Fails(TinyClassifier):
        def training_step(self, batch, batch_idx):
            raise OverflowError

    seen = []

    def around(trainer):
        outer, modes = trainer.run, trainer.module.training
        with pytest.raises(OverflowError), trainer.isolated("inner") as run:
            inner.run()
        seen.append((trainer.run is outer, trainer.module.training is modes, run.status, trainer.run.status))

    recorder = RecordingCallback()
    trainer = make_trainer(max_epochs=1, callbacks=recorder)
    inner = trainer.fit_loop
    trainer.fit_loop = Once(around)
    trainer.fit_loop.inner = inner
    trainer.fit(Fails(), random_batches(1))
    assert seen == [(True, True, "failed", "success")]
    assert recorder.calls[-4:] == ["on_exception", "teardown", "on_fit_end", "teardown"]


def test_a_loop_that_runs_may_start_an_inner_run_and_go_on(make_trainer):
    class Looks(TrainingEpochLoop):
        """Fits another tree for a moment after every batch."""

        def __init__(self, side):
            super().__init__()
            self.side = side
            self.side_steps = []

        def on_advance_end(self):
            super().on_advance_end()
            start = self.trainer.snapshot()
            with self.trainer.isolated(f"look_{self.progress.total}") as run:
                self.side.run()
            self.side_steps.append(run.steps)
            start.restore(self.trainer.module)

    def train(with_side):
        torch.manual_seed(1)
        module = Momentum()
        trainer = make_trainer(max_epochs=2)
        if with_side:
            trainer.fit_loop.epoch_loop = Looks(type(trainer.fit_loop)(max_epochs=1))
        trainer.fit(module, random_batches(3))
        assert (trainer.current_epoch, trainer.global_step) == (2, 6)
        return module, trainer

    module, trainer = train(with_side=True)
    assert trainer.fit_loop.epoch_loop.side_steps == [3] * 6
    assert torch.equal(weights_of(module), weights_of(train(with_side=False)[0]))


def test_a_callback_that_cannot_be_copied_is_named_when_it_matters(make_trainer):
    class Holds(Callback):
        def __init__(self):
            self.generator = (i for i in range(3))

    trainer = make_trainer(max_epochs=1, callbacks=Holds())
    trainer.fit(TinyClassifier(), random_batches(1))
    with pytest.raises(ConfigurationError, match=r"cannot be copied.*generator.*Define `fresh"):
        fit(trainer)


def test_a_second_inner_run_of_one_name_is_refused(make_trainer):
    class Twice(Loop):
        @property
        def done(self):
            return self.progress.current == 2

        def advance(self):
            with self.trainer.isolated("fold_0"):
                pass

    trainer = make_trainer()
    trainer.fit_loop = Twice()
    with pytest.raises(ConfigurationError, match="had an inner run 'fold_0'"):
        trainer.fit(TinyClassifier(), random_batches(2))


def test_isolated_and_evaluate_belong_inside_a_fit(make_trainer):
    trainer = make_trainer()
    with (
        pytest.raises(ConfigurationError, match=r"isolated\(\) is for loops"),
        trainer.isolated("fold_0"),
    ):
        pass
    with pytest.raises(ConfigurationError, match=r"evaluate\(\) is for loops"):
        trainer.evaluate("test")
    with pytest.raises(ConfigurationError, match=r"evaluate\(\) takes .*got 'val'"):
        trainer.evaluate("val")
