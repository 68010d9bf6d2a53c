"""Small networks for small images, by the names "mlp" and "small_cnn"."""

from torch import Tensor, nn

from torchloops.errors import ConfigurationError

__all__ = ["MLP", "SmallCNN"]


class MLP(nn.Module):
    """One hidden layer with dropout: ``in_features -> Linear -> ReLU -> Dropout``.

    With the default head it is the 64-128-10 network of the digits study. Input ``(B, ...)`` is flattened to
    ``(B, in_features)``; output ``(B, hidden)``.

    Args:
        in_features: numbers in one image: 64 for 8x8 digits, 784 for MNIST.
        hidden: width of the hidden layer.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(self, in_features: int = 64, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_features = hidden
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, images: Tensor) -> Tensor:
        width = images.shape[1:].numel()
        if width != self.in_features:
            raise ConfigurationError(
                f"MLP takes images of {self.in_features} numbers, got shape {tuple(images.shape)}. "
                f'Give backbone_options={{"in_features": {width}}}.'
            )
        return self.layers(images)


class SmallCNN(nn.Module):
    """Two convolutions and a dense layer, with dropout after each stage: the network of Gal et al. for MNIST.

    Input ``(B, in_channels, image_size, image_size)``; output ``(B, hidden)``.

    Args:
        in_channels: 1 for grey images, 3 for RGB.
        image_size: height and width in pixels, 8 or more.
        channels: of both 4x4 convolutions.
        hidden: width of the dense layer.
        dropout: probabilities after the pooling and after the dense layer.

    References: Gal, Islam, Ghahramani, Deep Bayesian Active Learning with Image Data, 2017.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        channels: int = 32,
        hidden: int = 128,
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise ConfigurationError(f"SmallCNN needs images of 8x8 pixels or more, got image_size={image_size}.")
        self.input_shape = (in_channels, image_size, image_size)
        self.num_features = hidden
        side = (image_size - 6) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 4),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(dropout[0]),
            nn.Flatten(),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(dropout[1]),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.input_shape:
            expected = ("batch", *self.input_shape)
            raise ConfigurationError(
                f"SmallCNN takes images of shape {expected}, got {tuple(images.shape)}. Give "
                'backbone_options={"in_channels": ..., "image_size": ...}.'
            )
        return self.layers(images)
