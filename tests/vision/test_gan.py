"""ImageGAN: one forward pass of the generator a step, and how well its images cover real ones."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchloops import YieldLoop
from torchloops.vision import ImageGAN
from torchloops.vision.gan import coverage


def train(make_trainer, **options):
    torch.manual_seed(0)
    gan = ImageGAN(hidden=16, latent=4, **options)
    trainer = make_trainer(max_epochs=2)
    trainer.fit_loop.epoch_loop.batch_loop.connect(optimizer_loop=YieldLoop())
    trainer.fit(gan, DataLoader(TensorDataset(torch.rand(24, 1, 8, 8)), 8))
    return gan, trainer


def test_generating_twice_gives_the_same_weights_with_twice_the_forward_passes(make_trainer):
    once, trainer = train(make_trainer)
    twice, _ = train(make_trainer, reuse=False)
    assert (once.forward_passes, twice.forward_passes, trainer.global_step) == (6, 12, 12)
    pairs = zip(once.parameters(), twice.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert {"train/loss_discriminator", "train/loss_generator"} <= set(trainer.callback_metrics)


def test_images_stay_in_the_range_of_pixels():
    images = ImageGAN(image_size=5, pixel_range=(-0.5, 2.5))(100 * torch.randn(50, 32))
    assert images.shape == (50, 1, 5, 5)
    assert -0.5 <= images.min() < 0 < 2 < images.max() <= 2.5


def test_coverage_of_the_same_images_is_one_and_of_one_far_image_none():
    real = torch.rand(60, 1, 3, 3)
    assert coverage(real, real) == 1
    assert coverage(torch.full((60, 1, 3, 3), 9.0), real) == 0


def test_coverage_tells_half_of_two_clusters():
    real = torch.cat([torch.rand(50, 4), 10 + torch.rand(50, 4)])
    assert coverage(torch.rand(500, 4), real) == pytest.approx(0.5, abs=0.03)
