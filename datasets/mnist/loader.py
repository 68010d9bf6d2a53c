"""MNIST: 70,000 handwritten digits of 28x28 pixels, from local files or a download."""

import os
from pathlib import Path

from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST

from torchloops.errors import DataError
from torchloops.vision import ImageClassificationData

MEAN, STD = 0.1307, 0.3081
"""Of the training pixels, on the scale 0 to 1."""


def load(
    data_dir: str | Path | None = None,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    seed: int = 0,
    download: bool = False,
) -> ImageClassificationData:
    """Read the 60,000 training and 10,000 test images; a batch is normalised to mean 0 and deviation 1.

    Args:
        data_dir: the folder that holds ``MNIST/raw/``; default ``$TORCHLOOPS_DATA_DIR``, else ``data/``.
        batch_size: samples in a batch.
        num_workers: processes that load; 0 is fastest for data in memory.
        seed: of the shuffling.
        download: fetch what is missing (12 MB).

    Raises:
        DataError: the files are not there and ``download`` was not asked for.
    """
    folder = Path(data_dir or os.environ.get("TORCHLOOPS_DATA_DIR", "data"))
    return ImageClassificationData.from_datasets(
        train_dataset=_read(folder, train=True, download=download),
        test_dataset=_read(folder, train=False, download=download),
        num_classes=10,
        mean=MEAN,
        std=STD,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
    )


def _read(folder: Path, *, train: bool, download: bool) -> TensorDataset:
    try:
        mnist = MNIST(folder, train=train, download=download)
    except RuntimeError as error:
        raise DataError(
            f"MNIST was not found: expected {folder / 'MNIST' / 'raw'} with the four IDX files. "
            "Name the folder that holds MNIST/ with --data-dir, or add --download."
        ) from error
    return TensorDataset(mnist.data.unsqueeze(1), mnist.targets)
