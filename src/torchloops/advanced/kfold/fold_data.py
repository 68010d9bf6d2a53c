"""The data of one fold: what a fit inside the fold sees, and what it is scored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Subset

from torchloops.data.proxy import DataModuleProxy
from torchloops.data.source import Source
from torchloops.hooks import is_overridden

__all__ = ["FoldData", "ProtocolFold"]


class FoldData(DataModuleProxy):
    """Some samples to train on, others to validate and to test on.

    An attribute of the user's data module that is its training data set stands here for the fold's part of it.

    Args:
        datamodule: the data module that is cut to the fold; None for a data set alone.
        source: its samples and batch settings.
        train_ids: samples to train on; sample ``i`` of ``train_dataset`` is ``train_ids[i]`` of the whole.
        val_ids, test_ids: samples to validate and to test on, with evaluation transforms; None: no such data.
        seed: of the order of training batches.
        test_loader: gives the loader of the test set, where there are no ``test_ids``.
        values: labels of all samples of the whole, or None.
        groups: groups of all samples of the whole, or None.
    """

    def __init__(
        self,
        datamodule: Any,
        source: Source,
        train_ids: Sequence[int],
        val_ids: Sequence[int] | None = None,
        test_ids: Sequence[int] | None = None,
        *,
        seed: int = 0,
        test_loader: Callable[[], Any] | None = None,
        values: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        super().__init__(datamodule)
        self.source = source
        self.train_ids = list(train_ids)
        self.val_ids = None if val_ids is None else list(val_ids)
        self.test_ids = None if test_ids is None else list(test_ids)
        self.seed = seed
        self.test_loader = test_loader
        self.values = values
        self.all_groups = groups

    @cached_property
    def train_dataset(self) -> Any:
        return Subset(self.source.train, self.train_ids)

    @cached_property
    def train_dataset_eval(self) -> Any:
        return Subset(self.source.evaluate, self.train_ids)

    def part_of(self, value: Any) -> Any:
        if value is self.source.train:
            return self.train_dataset
        return self.train_dataset_eval if value is self.source.evaluate else value

    @property
    def targets(self) -> Any:
        """Labels of the training samples of the fold; None where they are not at hand."""
        return None if self.values is None else self.values[self.train_ids].tolist()

    @property
    def groups(self) -> Any:
        """Groups of the training samples of the fold, or None."""
        return None if self.all_groups is None else self.all_groups[self.train_ids]

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    @property
    def eval_collate_fn(self) -> Any:
        """What joins samples that are scored."""
        return self.source.scoring_collate

    def train_dataloader(self) -> Any:
        return self.source.training_loader(self.train_ids, self.seed)

    def val_dataloader(self) -> Any:
        return None if self.val_ids is None else self.source.evaluation_loader(self.val_ids)

    def test_dataloader(self) -> Any:
        if self.test_ids is not None:
            return self.source.evaluation_loader(self.test_ids)
        return None if self.test_loader is None else self.test_loader()

    def predict_dataloader(self) -> Any:
        return None


class ProtocolFold(DataModuleProxy):
    """The current fold of a data module with ``setup_folds`` and ``setup_fold_index``; it is not set up again."""

    def train_dataloader(self) -> Any:
        return self.datamodule.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.datamodule.val_dataloader()

    def test_dataloader(self) -> Any:
        return self.datamodule.test_dataloader() if is_overridden(self.datamodule, "test_dataloader") else None

    def predict_dataloader(self) -> Any:
        return None
