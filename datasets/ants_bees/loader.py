"""Ants and bees: 397 photographs of many sizes, from local files or a download."""

import os
from collections.abc import Sequence
from pathlib import Path

from torchloops.errors import DataError
from torchloops.vision import ImageClassificationData, download_data
from torchloops.vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD

FOLDER = "hymenoptera_data"
URL = "https://pl-flash-data.s3.amazonaws.com/hymenoptera_data.zip"


def load(
    data_dir: str | Path | None = None,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    seed: int = 0,
    download: bool = False,
    image_size: int = 224,
    mean: float | Sequence[float] = IMAGENET_MEAN,
    std: float | Sequence[float] = IMAGENET_STD,
) -> ImageClassificationData:
    """Read the training photographs, and the folder ``val`` as the test set.

    Args:
        data_dir: the folder that holds ``hymenoptera_data/``; default ``$TORCHLOOPS_DATA_DIR``, else
            ``data/``.
        batch_size: samples in a batch.
        num_workers: processes that decode.
        seed: of the shuffling.
        download: fetch the photographs if they are missing (47 MB).
        image_size: pixels, both ways.
        mean: what pixels are normalised with, on the scale 0 to 1; as the backbone's weights expect it. One number
            is for all three channels.
        std: likewise.

    Raises:
        DataError: the folder is not there and ``download`` was not asked for.
    """
    folder = Path(data_dir or os.environ.get("TORCHLOOPS_DATA_DIR", "data"))
    if download and not (folder / FOLDER).is_dir():
        download_data(URL, folder)
    if not (folder / FOLDER).is_dir():
        raise DataError(
            f"The ants and bees were not found: expected the folder {folder / FOLDER}. "
            f"Name the folder that holds {FOLDER}/ with --data-dir, or add --download."
        )
    return ImageClassificationData.from_folders(
        train_folder=folder / FOLDER / "train",
        test_folder=folder / FOLDER / "val",
        image_size=image_size,
        mean=_by_channel(mean),
        std=_by_channel(std),
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
    )


def _by_channel(value: float | Sequence[float]) -> Sequence[float]:
    return (value,) * 3 if isinstance(value, int | float) else value
