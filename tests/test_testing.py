"""The public helpers for people who test loops."""

import torch

from torchloops.callbacks.callback import HOOKS
from torchloops.hooks import is_overridden
from torchloops.testing import RecordingCallback, TinyClassifier, random_batches, random_dataset, random_loader
from torchloops.trainer import Trainer


def make_trainer(folder, *callbacks, **options):
    torch.set_num_threads(1)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        **{"max_epochs": 1, **options},
    )


def test_the_classifier_learns(tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, max_epochs=8)
    module = TinyClassifier(optimizer="Adam", lr=0.01)
    (before,) = trainer.validate(module, random_loader(seed=1))
    trainer.fit(module, random_loader(), random_loader(seed=1))
    (after,) = trainer.validate(module, random_loader(seed=1))
    assert after["val/accuracy"] > 0.8 > before["val/accuracy"]
    assert set(after) == {"val/loss", "val/accuracy"}


def test_the_classifier_predicts_probabilities(tmp_path):
    predictions = make_trainer(tmp_path).predict(TinyClassifier(num_classes=4), random_loader(40, num_classes=4))
    assert [batch.shape for batch in predictions] == [(32, 4), (8, 4)]
    assert torch.allclose(predictions[0].sum(dim=1), torch.ones(32))


def test_data_depends_on_the_seed_alone_and_leaves_generators():
    state = torch.get_rng_state()
    first, same, other = random_dataset(8), random_dataset(8), random_dataset(8, seed=1)
    assert torch.equal(first.tensors[0], same.tensors[0])
    assert not torch.equal(first.tensors[0], other.tensors[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_batches():
    batches = random_batches(3, 16)
    assert [(inputs.shape, targets.shape) for inputs, targets in batches] == [((16, 32), (16,))] * 3


def test_the_recorder_defines_every_hook_and_more():
    recorder = RecordingCallback("on_guide_start")
    assert all(is_overridden(recorder, name) for name in (*HOOKS, "on_guide_start"))


def test_the_recorder_sees_a_fit_in_order(tmp_path):
    recorder = RecordingCallback()
    make_trainer(tmp_path, recorder).fit(TinyClassifier(), random_batches(1))
    assert recorder.calls == [
        "setup",
        "on_fit_start",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_train_end",
        "on_fit_end",
        "teardown",
    ]
    assert recorder.arguments[0] == ("fit",)


def test_the_recorder_hears_hooks_of_other_names(tmp_path):
    recorder = RecordingCallback("on_guide_start")
    trainer = make_trainer(tmp_path, recorder)
    trainer.fit(TinyClassifier(), random_batches(1))
    trainer.call_hook("on_guide_start", 3)
    assert (recorder.calls[-1], recorder.arguments[-1]) == ("on_guide_start", (3,))
