"""EvaluationLoop and PredictionLoop: modes, gradients, loaders, and the validation inside a fit."""

import pytest
import torch
from scratch import SeenBatches, weights_of
from torch import nn
from torch.utils.data import DataLoader

from torchloops import EvaluationLoop, Loop
from torchloops.errors import ConfigurationError, DataError
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader


class Watcher(TinyClassifier):
    """Keeps gradient mode, inference mode and train/eval mode of every evaluation step."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Dropout()
        self.modes = []

    def note(self):
        self.modes.append((torch.is_grad_enabled(), self.training or self.frozen.training))

    def validation_step(self, batch, batch_idx):
        self.note()
        super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.note()
        super().test_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx=0, dataloader_idx=0):
        self.note()
        return super().predict_step(batch, batch_idx, dataloader_idx)


@pytest.mark.parametrize("inference_mode", [True, False])
def test_validation_in_a_fit_leaves_modes_as_it_found_them(make_trainer, inference_mode):
    after = []

    class Module(Watcher):
        def on_train_epoch_end(self):
            after.append(
                (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.training, self.frozen.training)
            )

    module = Module()
    module.frozen.eval()  # frozen on purpose, as a frozen backbone's batch norm is
    make_trainer(max_epochs=2, inference_mode=inference_mode).fit(module, random_batches(1), random_batches(1))
    assert module.modes == [(False, False)] * 3
    assert after == [(True, False, True, False)] * 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_entry_points_leave_modes_as_they_found_them(make_trainer, entry, training):
    module = Watcher().train(training)
    module.frozen.eval()
    getattr(make_trainer(), entry)(module, random_batches(1))
    assert module.modes == [(False, False)]
    assert (module.training, module.frozen.training, torch.is_grad_enabled()) == (training, False, True)


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_modes_are_restored_after_an_error(make_trainer, entry):
    class Fails(Watcher):
        def note(self):
            raise OverflowError

    module = Fails()
    with pytest.raises(OverflowError):
        getattr(make_trainer(), entry)(module, random_batches(1))
    assert module.training
    assert module.frozen.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_module_may_choose_its_own_modes_for_evaluation(make_trainer):
    class KeepsTraining(Watcher):
        def on_validation_model_eval(self):
            self.train()

    module = KeepsTraining()
    make_trainer().validate(module, random_batches(1))
    assert module.modes == [(False, True)]


def test_evaluation_inside_an_outer_loop_is_without_gradients(make_trainer):
    class Outer(Loop):
        def __init__(self):
            super().__init__()
            self.after = None

        @property
        def done(self):
            return self.progress.current == 1

        def advance(self):
            self.scores = self.trainer.evaluate("validate")
            self.trainer.test_loop.run()
            self.predictions = self.trainer.predict_loop.run()
            self.after = (torch.is_grad_enabled(), self.trainer.module.training, self.trainer.training)

    class Module(Watcher):
        def test_dataloader(self):
            return random_batches(1)

        predict_dataloader = test_dataloader

    trainer = make_trainer()
    trainer.fit_loop = Outer()
    module = Module()
    trainer.fit(module, random_batches(1), datamodule=None, val_dataloaders=random_batches(1))
    assert module.modes == [(False, False)] * 3
    assert set(trainer.fit_loop.scores) == {"val/loss", "val/accuracy"}
    assert trainer.fit_loop.predictions[0].shape == (32, 10)
    assert trainer.fit_loop.after == (True, True, False)


def test_evaluate_in_a_fit_restores_the_stage(make_trainer):
    stages = []

    class Module(TinyClassifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            before = self.trainer.state.stage
            self.trainer.evaluate("validate")
            stages.append((before, self.trainer.state.stage))

    trainer = make_trainer(max_epochs=1, limit_val_batches=1)
    module = Module()
    trainer.fit(module, random_batches(2), random_batches(1))
    assert stages == [("train", "train")] * 2
    assert trainer.global_step == 2
    assert {"train/loss", "val/loss"} <= set(trainer.callback_metrics)


def test_evaluate_without_data_or_step_gives_nothing(make_trainer):
    found = []

    class Module(TinyClassifier):
        def on_train_end(self):
            found.append((self.trainer.evaluate("validate"), self.trainer.evaluate("test")))

    make_trainer(max_epochs=1).fit(Module(), random_batches(1))
    assert found == [({}, {})]


# the sanity check


def weights_after(make_trainer, steps, shared_generator=False):
    torch.manual_seed(2)

    class Noisy(TinyClassifier):
        def forward(self, inputs):
            return super().forward(nn.functional.dropout(inputs, 0.3))

    module = Noisy()
    generator = torch.Generator().manual_seed(5) if shared_generator else None
    train = DataLoader(random_dataset(80), batch_size=16, shuffle=True, generator=generator)
    val = DataLoader(random_dataset(40, seed=1), batch_size=16, shuffle=True, generator=generator)
    make_trainer(max_epochs=2, num_sanity_val_steps=steps).fit(module, train, val)
    return weights_of(module)


@pytest.mark.parametrize("shared_generator", [False, True], ids=["global generator", "shared generator"])
@pytest.mark.parametrize("steps", [1, 2, -1])
def test_the_sanity_check_does_not_disturb_random_generators(make_trainer, steps, shared_generator):
    without = weights_after(make_trainer, 0, shared_generator)
    assert torch.equal(weights_after(make_trainer, steps, shared_generator), without)


@pytest.mark.parametrize(
    ("steps", "limit", "seen"),
    [(0, None, 0), (1, None, 1), (2, None, 2), (-1, None, 4), (9, None, 4), (2, 1, 1), (2, 0.5, 2), (-1, 3, 3)],
)
def test_the_sanity_check_runs_so_many_batches(make_trainer, steps, limit, seen):
    found = []

    class Module(SeenBatches):
        def on_train_start(self):
            found.append((len(self.seen["val"]), dict(self.trainer.callback_metrics), self.trainer.sanity_checking))

    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=steps, limit_val_batches=limit)
    trainer.fit(Module(), random_batches(1), random_batches(4))
    assert found == [(seen, {}, False)]


def test_the_sanity_check_is_left_out_without_validation(make_trainer):
    recorder = RecordingCallback()
    make_trainer(max_epochs=1, callbacks=recorder, limit_val_batches=0).fit(
        TinyClassifier(), random_batches(1), random_batches(1)
    )
    make_trainer(max_epochs=1, callbacks=recorder).fit(TinyClassifier(), random_batches(1))
    assert "on_sanity_check_start" not in recorder.calls


# results


def test_validation_returns_and_keeps_the_mean_weighted_by_batch_size(make_trainer):
    trainer = make_trainer()
    module = TinyClassifier()
    data = random_dataset(50)
    (metrics,) = trainer.validate(module, random_loader(50, batch_size=32))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(module(data.tensors[0]), data.tensors[1]).item()
    assert metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss, rel=1e-5)


def test_several_loaders_have_an_index_and_results_of_their_own(make_trainer):
    indices = []

    class Module(TinyClassifier):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            indices.append((dataloader_idx, batch_idx))
            self.log("value", float(dataloader_idx))

        def on_validation_epoch_end(self):
            self.log("shared", 1.0)

    first, second = make_trainer().validate(Module(), [random_loader(32), random_loader(64)])
    assert indices == [(0, 0), (1, 0), (1, 1)]
    assert first["value/dataloader_idx_0"] == 0.0
    assert second["value/dataloader_idx_1"] == 1.0
    assert "value/dataloader_idx_1" not in first
    assert first["shared"] == second["shared"] == 1.0


def test_predictions_of_one_and_of_several_loaders(make_trainer):
    module = TinyClassifier()
    one = make_trainer().predict(module, random_loader(80))
    several = make_trainer().predict(module, [random_loader(80), random_loader(32)])
    assert [tuple(batch.shape) for batch in one] == [(32, 10), (32, 10), (16, 10)]
    assert [len(batches) for batches in several] == [3, 1]
    assert torch.equal(several[0][2], one[2])


def test_a_plain_module_predicts_by_its_forward_pass(make_trainer):
    module = nn.Linear(32, 3)
    (output,) = make_trainer().predict(module, [torch.ones(4, 32)])
    assert torch.equal(output, module(torch.ones(4, 32)).detach())


@pytest.mark.parametrize("entry", ["validate", "test"])
def test_a_missing_step_and_missing_data_are_told(make_trainer, entry):
    class Without(TinyClassifier):
        validation_step = test_step = None

    step = {"validate": "validation_step", "test": "test_step"}[entry]
    with pytest.raises(ConfigurationError, match=f"needs `{step}` on Without"):
        getattr(make_trainer(), entry)(Without(), random_batches(1))
    with pytest.raises(DataError, match=rf"trainer.{entry}\(\) found no data"):
        getattr(make_trainer(), entry)(TinyClassifier())


def test_validate_loop_is_not_the_validation_inside_fit(make_trainer):
    trainer = make_trainer(max_epochs=1)
    assert trainer.validate_loop is not trainer.fit_loop.epoch_loop.val_loop
    trainer.fit(TinyClassifier(), random_batches(1), random_batches(1))
    assert trainer.validate_loop.progress.total == 0
    assert trainer.fit_loop.epoch_loop.val_loop.progress.total == 1


def test_validate_between_fits_uses_the_last_module(make_trainer):
    trainer = make_trainer(max_epochs=1)
    module = TinyClassifier()
    trainer.fit(module, random_batches(2))
    (metrics,) = trainer.validate(dataloaders=random_batches(1))
    (again,) = make_trainer().validate(module, random_batches(1))
    assert metrics == again


def test_an_evaluation_loop_of_an_unknown_stage_is_refused():
    with pytest.raises(ConfigurationError, match="got 'train'"):
        EvaluationLoop("train")
