"""Lightning #19764, #18780, #19815, #20277: a run resumed within an epoch starts its loader at sample 0 again."""

from contextlib import suppress

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from torchloops import Callback, seed_everything
from torchloops.testing import TinyClassifier, random_dataset


class Recorded(Dataset):
    """Writes down which samples are asked for."""

    def __init__(self):
        self.data, self.asked = random_dataset(24), []

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.data[index]


class Save(Callback):
    def __init__(self, path, epoch, batch_idx, stop=False):
        self.path, self.at, self.stop = path, (epoch, batch_idx), stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)
            if self.stop:
                raise KeyboardInterrupt


def run(make_trainer, callback=None, ckpt_path=None, **options):
    seed_everything(2)
    data, module = Recorded(), TinyClassifier()
    trainer = make_trainer(max_epochs=2, callbacks=callback, **options)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with suppress(KeyboardInterrupt):
        trainer.fit(module, loader, ckpt_path=ckpt_path)
    return data.asked, module, trainer


# what the data set and the module have kept of the run before is there again, so the lists are those of both


def test_19764_no_sample_is_seen_twice_and_none_is_left_out(make_trainer, tmp_path):
    first, _, _ = run(make_trainer, Save(tmp_path / "a.ckpt", 0, 2, stop=True))
    second, _, _ = run(make_trainer, ckpt_path=tmp_path / "a.ckpt")
    assert len(first) == 12
    assert second[:12] == first
    assert sorted(second[:24]) == sorted(second[24:]) == list(range(24))


def test_19764_the_order_of_samples_is_that_of_the_run_that_was_not_cut(make_trainer, tmp_path):
    whole, module, _ = run(make_trainer)
    run(make_trainer, Save(tmp_path / "a.ckpt", 1, 1, stop=True))
    rest, resumed, _ = run(make_trainer, ckpt_path=tmp_path / "a.ckpt")
    assert rest == whole
    assert torch.equal(module.head.weight, resumed.head.weight)


def test_20277_skipped_batches_are_not_loaded(make_trainer, tmp_path):
    run(make_trainer, Save(tmp_path / "a.ckpt", 0, 4, stop=True))
    rest, _, _ = run(make_trainer, ckpt_path=tmp_path / "a.ckpt")
    assert len(rest) == 20 + 4 + 24


def test_19815_a_stateful_loader_of_ones_own_goes_on_too(make_trainer, tmp_path):
    class Batches:
        def __iter__(self):
            inputs, targets = random_dataset(24).tensors
            yield from zip(inputs.split(4), targets.split(4), strict=True)

    class Summing(TinyClassifier):
        def training_step(self, batch, batch_idx):
            self.sums.append(batch[0].sum().item())
            return super().training_step(batch, batch_idx)

    def fit(**options):
        seed_everything(1)
        module = Summing()
        module.sums = []
        make_trainer(max_epochs=1, callbacks=options.pop("callbacks", None)).fit(module, Batches(), **options)
        return module.sums

    whole = fit(callbacks=Save(tmp_path / "a.ckpt", 0, 1))
    assert fit(ckpt_path=tmp_path / "a.ckpt") == whole


@pytest.mark.parametrize("batch_idx", [0, 3, 5])
def test_18780_progress_and_batch_idx_go_on(make_trainer, tmp_path, batch_idx):
    class Indices(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.seen.append((trainer.current_epoch, batch_idx, trainer.global_step))

    run(make_trainer, Save(tmp_path / "a.ckpt", 0, batch_idx, stop=True))
    indices = Indices()
    _, _, trainer = run(make_trainer, indices, ckpt_path=tmp_path / "a.ckpt")
    expected = [(step // 6, step % 6, step) for step in range(batch_idx + 1, 12)]
    assert indices.seen == expected
    assert trainer.global_step == 12


def test_validation_within_the_epoch_comes_at_the_same_batches_after_a_resume(make_trainer, tmp_path):
    class Validations(Callback):
        def __init__(self, *save):
            self.steps, self.save = [], Save(*save) if save else None

        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                self.steps.append(trainer.global_step)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if self.save:
                self.save.on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def fit(callback, **options):
        seed_everything(2)
        trainer = make_trainer(max_epochs=2, val_check_interval=4, check_val_every_n_epoch=None, callbacks=callback)
        trainer.fit(TinyClassifier(), DataLoader(random_dataset(24), 4), DataLoader(random_dataset(8, 1), 4), **options)

    whole, rest = Validations(tmp_path / "a.ckpt", 0, 4), Validations()
    fit(whole)
    fit(rest, ckpt_path=tmp_path / "a.ckpt")
    assert whole.steps == [4, 8, 12]
    assert rest.steps == [8, 12]
