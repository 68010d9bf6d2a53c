"""Digits: 1,797 handwritten digits of 8x8 pixels, inside scikit-learn."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

from torchloops.vision import ImageClassificationData

TEST_SIZE = 500


def load(
    data_dir: str | Path | None = None,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
    download: bool = False,
) -> ImageClassificationData:
    """Split the digits into 1,297 training and 500 test images, class by class.

    Images are float ``(1, 8, 8)``, 0 (paper) to 1 (ink); targets are the digits 0 to 9.

    Args:
        data_dir: not used; nothing is read but scikit-learn's own copy.
        batch_size: samples in a batch.
        num_workers: processes that load; 0 is fastest for data in memory.
        seed: of the split and of the shuffling.
        download: not used.
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    targets = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(targets)), test_size=TEST_SIZE, stratify=digits.target, random_state=seed)
    return ImageClassificationData.from_datasets(
        train_dataset=TensorDataset(images[train], targets[train]),
        test_dataset=TensorDataset(images[test], targets[test]),
        num_classes=10,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
    )
