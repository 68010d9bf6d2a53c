"""Image classification: data from folders, classifiers on pretrained backbones, downloads."""

from torchloops.vision.classifier import ImageClassifier
from torchloops.vision.data import ImageClassificationData
from torchloops.vision.download import download_data
from torchloops.vision.gan import ImageGAN
from torchloops.vision.output import Labels, Logits, Probabilities

__all__ = [
    "ImageClassificationData",
    "ImageClassifier",
    "ImageGAN",
    "Labels",
    "Logits",
    "Probabilities",
    "download_data",
]
