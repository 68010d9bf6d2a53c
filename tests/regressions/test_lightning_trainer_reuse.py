"""Lightning #11425, #12789, #9636: a Trainer that has run is used again; and #21448, #1629, #10393."""

import csv

import pytest
import torch

from torchloops import Callback, DataModule, EarlyStopping, FitLoop, ModelCheckpoint
from torchloops.loops import TrainingEpochLoop
from torchloops.testing import TinyClassifier, random_loader


class Epochs(Callback):
    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, module):
        self.seen.append((trainer.current_epoch, trainer.global_step))


def test_11425_a_second_fit_is_no_silent_no_op(make_trainer):
    epochs = Epochs()
    trainer, module = make_trainer(max_epochs=2, callbacks=epochs), TinyClassifier()
    trainer.fit(module, random_loader())
    after_one = module.head.weight.detach().clone()
    trainer.fit(module, random_loader())
    assert epochs.seen == [(0, 0), (1, 3)] * 2
    assert trainer.global_step == 6
    assert not torch.equal(module.head.weight, after_one)


def test_11425_two_fits_equal_the_same_fits_of_two_trainers(make_trainer):
    torch.manual_seed(1)
    one, two = TinyClassifier(optimizer="Adam"), TinyClassifier(optimizer="Adam")
    two.load_state_dict(one.state_dict())
    trainer = make_trainer(max_epochs=2)
    for _ in range(2):
        trainer.fit(one, random_loader())
        make_trainer(max_epochs=2).fit(two, random_loader())
    assert torch.equal(one.head.weight, two.head.weight)


def test_12789_another_module_on_the_same_trainer_starts_from_nothing(make_trainer):
    trainer = make_trainer(max_steps=4, callbacks=[EarlyStopping("val/loss", patience=1)])
    for module in (TinyClassifier(), TinyClassifier(hidden=8)):
        trainer.fit(module, random_loader(), random_loader(seed=1))
        assert trainer.global_step == 4
        assert trainer.lightning_module is module
        assert trainer.optimizers[0].param_groups[0]["params"][0] is next(module.parameters())


def test_9636_test_and_fit_take_turns(make_trainer):
    trainer, module = make_trainer(max_epochs=1), TinyClassifier()
    before = trainer.test(module, random_loader(seed=1), None)
    trainer.fit(module, random_loader())
    between = trainer.test(module, random_loader(seed=1))
    trainer.fit(module, random_loader())
    after = trainer.test(module, random_loader(seed=1))
    assert before[0]["test/loss"] > between[0]["test/loss"] > after[0]["test/loss"]
    assert trainer.current_epoch == 1


def test_9636_checkpoints_of_a_second_fit_are_its_own(make_trainer, tmp_path):
    checkpoint = ModelCheckpoint(monitor="val/loss")
    trainer = make_trainer(max_epochs=2, callbacks=checkpoint, enable_checkpointing=True)
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
        scores.append(float(checkpoint.best_model_score))
        saved = torch.load(checkpoint.best_model_path, weights_only=True)
        assert float(saved["metrics"]["val/loss"]) == pytest.approx(scores[-1])
    assert scores[0] != scores[1]


def test_a_fit_that_was_stopped_does_not_stop_the_next_one(make_trainer):
    class StopFirst(Callback):
        fits = 0

        def on_train_start(self, trainer, module):
            self.fits += 1

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = self.fits == 1

    trainer = make_trainer(max_epochs=2, callbacks=StopFirst())
    trainer.fit(TinyClassifier(), random_loader())
    assert trainer.global_step == 1
    trainer.fit(TinyClassifier(), random_loader())
    assert (trainer.global_step, trainer.should_stop) == (6, False)


def test_values_of_an_earlier_fit_are_not_shown_as_those_of_a_later_one(make_trainer):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    trainer.fit(TinyClassifier(), random_loader())
    assert set(trainer.callback_metrics) == {"train/loss"}


def test_21448_data_is_reloaded_during_a_fit(make_trainer):
    class Growing(DataModule):
        size = 32

        def train_dataloader(self):
            self.size += 32
            return random_loader(self.size)

    class Counting(Callback):
        def __init__(self):
            self.batches = {}

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.batches[trainer.current_epoch] = batch_idx + 1

    counting = Counting()
    make_trainer(max_epochs=4, reload_dataloaders_every_n_epochs=2, callbacks=counting).fit(
        TinyClassifier(), datamodule=Growing()
    )
    assert counting.batches == {0: 2, 1: 2, 2: 3, 3: 3}


def test_21448_a_loop_may_ask_for_the_data_again_whenever_it_likes(make_trainer):
    asked = []

    class Data(DataModule):
        def train_dataloader(self):
            asked.append(self.trainer.current_epoch)
            return random_loader()

    class Reloading(FitLoop):
        def on_advance_start(self):
            if self.trainer.current_epoch == 1:
                self.trainer.run.reload("train")
            super().on_advance_start()

    trainer = make_trainer(max_epochs=3)
    trainer.fit_loop = Reloading()
    trainer.fit(TinyClassifier(), datamodule=Data())
    assert asked == [0, 1]


def test_1629_the_csv_file_has_one_row_an_epoch(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=3, logger=True, log_every_n_steps=1)
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    with (trainer.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["step"] for row in rows] == ["2", "5", "8"]
    assert all(row["train/loss"] and row["val/loss"] and row["val/accuracy"] for row in rows)
    assert float(rows[-1]["val/loss"]) == pytest.approx(float(trainer.callback_metrics["val/loss"]), rel=1e-5)


def test_10393_a_new_fit_loop_does_not_crash(make_trainer):
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop = FitLoop()
    trainer.fit(TinyClassifier(), random_loader(), random_loader(seed=1))
    assert trainer.global_step == 6


def test_10393_a_new_loop_keeps_the_limits_of_the_trainer(make_trainer):
    trainer = make_trainer(max_epochs=5, max_steps=4)
    trainer.fit_loop = FitLoop()
    trainer.fit_loop.epoch_loop = TrainingEpochLoop()
    trainer.fit(TinyClassifier(), random_loader())
    assert (trainer.global_step, trainer.fit_loop.max_epochs) == (4, 5)
    trainer.fit_loop = FitLoop(max_epochs=1)
    trainer.fit(TinyClassifier(), random_loader())
    assert trainer.global_step == 3


def test_the_sanity_check_does_not_disturb_the_generators(make_trainer):
    heads = []
    for steps in (0, 2, -1):
        torch.manual_seed(0)
        module = TinyClassifier()
        loader = torch.utils.data.DataLoader(random_loader(seed=1).dataset, batch_size=8, shuffle=True)
        train = torch.utils.data.DataLoader(random_loader().dataset, batch_size=8, shuffle=True)
        make_trainer(max_epochs=1, num_sanity_val_steps=steps).fit(module, train, loader)
        heads.append(module.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])
