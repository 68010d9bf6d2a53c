"""Data modules that make their folds themselves: Lightning's ``setup_folds`` and ``setup_fold_index``."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from torchloops.advanced.kfold.fold_data import ProtocolFold
from torchloops.advanced.kfold.splits import Split
from torchloops.errors import ConfigurationError, DataError
from torchloops.hooks import is_overridden

__all__ = ["ProtocolData", "follows_protocol"]


def follows_protocol(data: Any) -> bool:
    """Whether ``data`` has the two methods of Lightning's ``BaseKFoldDataModule``."""
    return callable(getattr(data, "setup_folds", None)) and callable(getattr(data, "setup_fold_index", None))


class ProtocolData:
    """The folds of a data module that splits its data itself.

    Its ``val_dataloader`` is the held-out part. Sample ids are known where its loaders are over Subsets of one
    data set, as in Lightning's example; overlaps between the two parts are then refused.

    Args:
        datamodule: with ``setup_folds(num_folds)`` and ``setup_fold_index(fold_index)``, indices from 0.
    """

    is_study = False
    targets: np.ndarray | None = None
    groups = None
    labels = None
    target_key = None

    def __init__(self, datamodule: Any) -> None:
        self.datamodule = datamodule
        self.trainer: Any = None

    def set_up(self, num_folds: int) -> None:
        """Have the data module make its folds."""
        self.datamodule.setup_folds(num_folds)

    def split(self, fold: int) -> Split:
        """Make ``fold`` the current one, and return its sample ids where they are known (else empty lists).

        Raises:
            DataError: a part is empty, or both hold the same sample.
        """
        self.datamodule.setup_fold_index(fold)
        loaders = [self._single(name) for name in ("train_dataloader", "val_dataloader")]
        datasets: list[Any] = [getattr(loader, "dataset", None) for loader in loaders]
        for name, loader, dataset in zip(("training", "validation"), loaders, datasets, strict=True):
            if loader is None or (hasattr(dataset, "__len__") and len(dataset) == 0):
                raise DataError(
                    f"Fold {fold} has no {name} samples: {type(self.datamodule).__name__}.setup_fold_index({fold}) "
                    "left its loader empty."
                )
        if (
            not all(isinstance(dataset, Subset) for dataset in datasets)
            or datasets[0].dataset is not datasets[1].dataset
        ):
            return Split(fold, [], [])
        train, test = ([int(index) for index in dataset.indices] for dataset in datasets)
        both = set(train) & set(test)
        if both:
            raise DataError(
                f"Fold {fold} of {type(self.datamodule).__name__} trains on sample {min(both)} and holds it out "
                f"({len(both)} such samples). A held-out sample must not be trained on; see setup_fold_index."
            )
        return Split(fold, train, test)

    def training_data(self, split: Split, seed: int, inner_split: Any = None, nested: bool = False) -> Any:
        """The data module in its current fold."""
        if inner_split is not None:
            raise ConfigurationError(
                f"inner_split cuts folds that KFoldLoop makes, but {type(self.datamodule).__name__} makes its own "
                "(setup_fold_index). Leave inner_split out, or wrap a data module without these methods."
            )
        return self.scoring_data(split, seed)

    def scoring_data(self, split: Split, seed: int) -> ProtocolFold:
        """The data module in its current fold; its validation data is the held-out part."""
        part = ProtocolFold(self.datamodule)
        part.trainer = self.trainer
        return part

    def test_dataloader(self) -> Any:
        """The test data of the data module."""
        return ProtocolFold(self.datamodule).test_dataloader()

    def all_data(self, seed: int) -> Any:
        raise ConfigurationError(
            f"refit=True needs all training samples, and {type(self.datamodule).__name__} gives them fold by fold "
            "(setup_fold_index). Leave refit out."
        )

    def _single(self, name: str) -> DataLoader[Any] | None:
        loader = getattr(self.datamodule, name)() if is_overridden(self.datamodule, name) else None
        if isinstance(loader, list | tuple):
            loader = loader[0] if len(loader) == 1 else None
        return loader
