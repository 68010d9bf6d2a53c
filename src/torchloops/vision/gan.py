"""A small generative adversarial network whose training step yields a loss for each of two optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from torchloops.module import LoopModule

__all__ = ["ImageGAN", "coverage"]


class ImageGAN(LoopModule):
    """A generator of grey images and a discriminator that tells them from real ones, both of dense layers.

    Its ``training_step`` is for a `YieldLoop`: it generates a batch once, yields the discriminator's loss, and
    yields the generator's loss on the same generated batch, judged by the discriminator already stepped.
    Logs ``train/loss_discriminator`` and ``train/loss_generator``.

    Args:
        image_size: height and width in pixels.
        pixel_range: least and greatest value of a pixel in the training data.
        latent: numbers that an image is generated from, drawn from a normal distribution.
        hidden: width of the hidden layers: two in the generator, two in the discriminator.
        learning_rate: of Adam, for both.
        reuse: False generates the batch again for the generator's loss, from the same noise: as training steps
            would that share no local variables. The weights come out the same; it is there to measure the difference.

    Attributes:
        forward_passes: of the generator in training so far.

    Example:
        >>> gan = ImageGAN(image_size=8)
        >>> gan(torch.randn(4, gan.latent)).shape
        torch.Size([4, 1, 8, 8])

    References: Goodfellow and others 2014, "Generative Adversarial Nets", arXiv 1406.2661.
    """

    def __init__(
        self,
        image_size: int = 8,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        latent: int = 32,
        hidden: int = 128,
        learning_rate: float = 1e-3,
        reuse: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        pixels = image_size**2
        self.image_size = image_size
        self.pixel_range = pixel_range
        self.latent = latent
        self.learning_rate = learning_rate
        self.reuse = reuse
        self.forward_passes = 0
        self.generator = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, pixels),
            nn.Sigmoid(),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(),
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Images ``(B, 1, image_size, image_size)`` from noise ``(B, latent)``."""
        low, high = self.pixel_range
        return low + (high - low) * self.generator(noise).view(-1, 1, self.image_size, self.image_size)

    def training_step(self, batch: Any, batch_idx: int) -> Iterator[tuple[Tensor, str]]:
        real = batch[0]
        noise = torch.randn(len(real), self.latent, device=real.device)
        fake = self._generate(noise) if self.reuse else self._generate_without_graph(noise)
        loss = self._judge(real, 1.0) + self._judge(fake.detach(), 0.0)
        self.log("train/loss_discriminator", loss, on_step=False, on_epoch=True, batch_size=len(real))
        yield loss, "discriminator"
        if not self.reuse:
            fake = self._generate(noise)
        loss = self._judge(fake, 1.0)
        self.log("train/loss_generator", loss, on_step=False, on_epoch=True, batch_size=len(real))
        yield loss, "generator"

    def configure_optimizers(self) -> Any:
        return {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr=self.learning_rate, betas=(0.5, 0.999))
            for name in ("discriminator", "generator")
        }

    def _generate(self, noise: Tensor) -> Tensor:
        self.forward_passes += 1
        return self(noise)

    @torch.no_grad()
    def _generate_without_graph(self, noise: Tensor) -> Tensor:
        return self._generate(noise)

    def _judge(self, images: Tensor, wanted: float) -> Tensor:
        """The discriminator's mean cross entropy on images that it should call real (1) or generated (0)."""
        logits = self.discriminator(images)
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))


def coverage(samples: Tensor, reference: Tensor, neighbours: int = 5) -> float:
    """The share of reference images that have a sample near by, 0 to 1: does a generator leave something out?

    Near by is within the distance of the reference image to its ``neighbours``-th nearest reference image, in
    Euclidean distance between pixels. Samples that are all alike score near 0; as many real images as references
    score about ``1 - 0.5 ** neighbours``.

    Args:
        samples: ``(n_samples, ...)``.
        reference: ``(n_reference, ...)``, real images that no generator was trained on.
        neighbours: which neighbour sets the distance.

    References: Naeem and others 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
    arXiv 2002.09797.
    """
    real = reference.flatten(1).float()
    among = torch.cdist(real, real)
    radius = among.kthvalue(neighbours + 1, dim=1).values  # the nearest is the image itself
    nearest = torch.cdist(real, samples.flatten(1).float()).min(dim=1).values
    return float((nearest <= radius).float().mean())
