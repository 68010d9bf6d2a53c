"""KFoldDataModule: the samples of one training data set, given out fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from torchloops.advanced.describing import fingerprint
from torchloops.advanced.kfold.fold_data import FoldData, Stand
from torchloops.advanced.kfold.inner_split import draw_inner_split
from torchloops.advanced.kfold.labels import known_values, read_targets
from torchloops.advanced.kfold.source import FoldSource, source_of
from torchloops.advanced.kfold.splits import Split, Splits
from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.seeding import derive_seed

__all__ = ["KFoldDataModule"]


class KFoldDataModule(Stand):
    """Training data for a `KFoldLoop`: each fold trains on one part of it and is scored on the rest.

    Samples are known by their id, the position in the training data set. Training batches of a fold have
    training transforms; the held-out part has evaluation transforms where the data has both views. Batch size,
    ``collate_fn``, workers, shuffling and sampling weights are those of the original loader. Validation data
    of its own is not used: the held-out part takes its place.

    Args:
        data: a data module (a `DataModule`, ``LightningDataModule``, `ImageClassificationData`,
            `ActiveLearningDataModule` ...), a DataLoader, or a map-style data set.
        batch_size: samples a batch. Default: the original loader's; 32 for a data set.
        num_workers: processes that load samples. Default: the original loader's; 0 for a data set.
        targets: labels of all samples in order, the name of a column or attribute of the data set, or a
            function of the data set. Default: ``targets`` or ``labels`` of the data module or data set, or the
            last tensor of a TensorDataset. Inputs are read for them only where a stratified splitter leaves no
            other way.
        groups: likewise, for splitters by group; with ``splitter="predefined"`` the fold of every sample.
        eval_dataset: the training samples in the same order with evaluation transforms. Default: the data
            module's ``train_dataset_eval``; else the training data as it is.
        test_dataset: a test set, where ``data`` has none.
        shuffle: whether training batches come in a random order. Default: as the original loader; True for a
            data set.

    Attributes:
        splits: the folds, once a `KFoldLoop` has made them; None before.

    Raises:
        ConfigurationError: a sampler that cannot be cut to a fold.
        DataError: the data is empty or iterable, or labels do not fit it.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = KFoldDataModule(TensorDataset(torch.randn(10, 2), torch.arange(10) % 2), batch_size=4)
        >>> data.n_samples, data.num_classes, next(iter(data.train_dataloader()))[0].shape
        (10, 2, torch.Size([4, 2]))
    """

    def __init__(
        self,
        data: Any,
        batch_size: int | None = None,
        *,
        num_workers: int | None = None,
        targets: Any = None,
        groups: Any = None,
        eval_dataset: Any = None,
        test_dataset: Any = None,
        shuffle: bool | None = None,
    ) -> None:
        super().__init__(data if hasattr(data, "train_dataloader") else None)
        self.data = data
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._targets = targets
        self._groups = groups
        self._eval_dataset = eval_dataset
        self.test_dataset = test_dataset
        self._shuffle = shuffle
        self.splits: Splits | None = None
        self._stages: set[str] = set()

    @classmethod
    def wrap(cls, data: Any) -> KFoldDataModule:
        """A KFoldDataModule over data that a Trainer has set up for fitting already."""
        wrapped = cls(data)
        wrapped._stages.add("fit")
        return wrapped

    # what there is

    @property
    def base(self) -> Any:
        """The data that holds the samples: inside a study such as `ActiveLearningDataModule`, what that is over."""
        return self.data.labelled if self.is_study else self.data

    @property
    def is_study(self) -> bool:
        """Whether each fold is a study of its own: the data module makes copies of itself over other data."""
        return hasattr(type(self.data), "with_data")

    @cached_property
    def source(self) -> FoldSource:
        """Samples in two views and batch settings; sets up the data module when first asked."""
        self._set_up("fit")
        study = self.data if self.is_study else None
        return source_of(
            self.base,
            batch_size=self._batch_size or getattr(study, "batch_size", None),
            num_workers=self._num_workers if study is None else study.num_workers,
            evaluate=self._eval_dataset if study is None else study.pool_dataset,
            shuffle=self._shuffle,
        )

    @property
    def n_samples(self) -> int:
        return len(self.source.train)

    @cached_property
    def targets(self) -> np.ndarray | None:
        """Labels of all samples, ``(n_samples, ...)``, where they are at hand without reading inputs; else None."""
        dataset = self.source.train
        if self._targets is None and (self.datamodule is not None):
            values = getattr(self.base, "targets", None)
            if values is not None and not callable(values) and len(values) == len(dataset):
                return known_values(dataset, values)
        return known_values(dataset, self._targets)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Group of every sample, ``(n_samples,)``, or None."""
        dataset = self.source.train
        if self._groups is None:
            values = getattr(self.datamodule, "groups", None)
            return None if values is None or callable(values) else known_values(dataset, values, "groups")
        return known_values(dataset, self._groups, "groups")

    def read_targets(self) -> np.ndarray:
        """Labels of all samples, out of the items themselves where they are not at hand."""
        if self.targets is None:
            self.__dict__["targets"] = read_targets(self.source.evaluate)
        found = self.targets
        assert found is not None
        return found

    def describe(self) -> dict[str, Any]:
        """What must be the same when a cross-validation is resumed, by name, as plain data."""
        source, found = self.source, {"labels (hash)": self.targets, "groups (hash)": self.groups}
        return {
            "number of samples": self.n_samples, "batch_size": source.batch_size,
            "shuffle": source.shuffle, "drop_last": source.drop_last,
            **{name: None if values is None else fingerprint(values) for name, values in found.items()},
            "sampling weights (hash)": None if source.weights is None else fingerprint(source.weights),
        }  # fmt: skip

    @property
    def num_classes(self) -> int:
        """Number of classes: the data module's, or one more than the largest label."""
        for owner in (self.datamodule, self.source.train):
            known = getattr(owner, "num_classes", None) or len(getattr(owner, "classes", None) or ())
            if known:
                return int(known)
        return int(self.read_targets().max()) + 1

    @property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", ... where the data has none."""
        for owner in (self.datamodule, self.source.train):
            if names := getattr(owner, "classes", None):
                return [str(name) for name in names]
        return [str(index) for index in range(self.num_classes)]

    @property
    def train_dataset(self) -> Any:
        return self.source.train

    @property
    def train_dataset_eval(self) -> Any:
        return self.source.evaluate

    # folds

    def split(self, fold: int) -> Split:
        """Sample ids of a fold, once a `KFoldLoop` has split the data."""
        if self.splits is None:
            raise ConfigurationError("The data is not split yet: a KFoldLoop does it when its fit begins.")
        return self.splits[fold]

    def training_data(
        self, split: Split, seed: int, inner_split: float | int | None = None, nested: bool = False
    ) -> Any:
        """The data that a fit in this fold sees.

        Args:
            split: the fold.
            seed: of its batches' order and of the inner split.
            inner_split: share or number of its training samples to validate with, instead of the held-out part.
            nested: the fit is a loop of fits, to which the held-out part is hidden.
        """
        if self.is_study:
            return self.data.with_data(self._part(split.train, None, split.test, seed))
        if nested:
            return self._part(split.train, None, None, seed)
        if inner_split is None:
            return self._part(split.train, split.test, None, seed, with_test_set=True)
        train, inner = draw_inner_split(
            split.train, inner_split, derive_seed("kfold", seed, "inner"), self.targets, self.groups, split.test
        )
        return self._part(train, inner, None, seed, with_test_set=True)

    def scoring_data(self, split: Split, seed: int) -> FoldData:
        """The data that a trained fold is scored on: the held-out part for validation, and the test set."""
        return self._part(split.train, split.test, None, seed, with_test_set=True)

    def all_data(self, seed: int) -> Any:
        """All samples to train on, for a final model."""
        whole = self._part(range(self.n_samples), None, None, seed)
        return self.data.with_data(whole) if self.is_study else whole

    def _part(
        self,
        train_ids: Sequence[int],
        val_ids: Sequence[int] | None,
        test_ids: Sequence[int] | None,
        seed: int,
        with_test_set: bool = False,
    ) -> FoldData:
        part = FoldData(
            self.base if hasattr(self.base, "train_dataloader") else None,
            self.source,
            train_ids,
            val_ids,
            test_ids,
            seed=seed,
            test_loader=self.test_dataloader if with_test_set else None,
            values=self.targets,
            groups=self.groups,
        )
        part.trainer = self.trainer
        return part

    # loaders of the whole

    def setup(self, stage: str) -> None:
        self._set_up(stage)

    def prepare_data(self) -> None:
        if is_overridden(self.datamodule, "prepare_data"):
            self.datamodule.prepare_data()

    def train_dataloader(self) -> Any:
        """All samples, with training transforms."""
        return self.source.training_loader(range(self.n_samples), 0)

    def test_dataloader(self) -> Any:
        """The test set of the data module, or ``test_dataset``."""
        if self.test_dataset is not None:
            from torch.utils.data import DataLoader

            source = self.source
            return DataLoader(
                self.test_dataset, source.batch_size, num_workers=source.num_workers, collate_fn=source.collate_fn
            )
        return self._own_loader("test")

    def predict_dataloader(self) -> Any:
        """The data module's own prediction data."""
        return self._own_loader("predict")

    def teardown(self, stage: str) -> None:
        if stage in self._stages and is_overridden(self.datamodule, "teardown"):
            self.datamodule.teardown(stage)
        self._stages.discard(stage)

    def _own_loader(self, stage: str) -> Any:
        """A loader of the data module; it is set up for the stage only where it must be, for that may split anew."""
        name = f"{stage}_dataloader"
        if not is_overridden(self.datamodule, name):
            return None
        self._set_up("fit")
        try:
            return getattr(self.datamodule, name)()
        except (AttributeError, TypeError, KeyError):
            if stage in self._stages:
                raise
            self._set_up(stage)
            return getattr(self.datamodule, name)()

    def _set_up(self, stage: str) -> None:
        if stage in self._stages:
            return
        self._stages.add(stage)
        if self.datamodule is not None:
            if self.trainer is not None:
                self.datamodule.trainer = self.trainer
            if is_overridden(self.datamodule, "setup"):
                self.datamodule.setup(stage)
