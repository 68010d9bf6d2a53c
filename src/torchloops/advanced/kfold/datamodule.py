"""KFoldDataModule: the samples of one training data set, given out fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from torchloops.advanced.kfold.fold_data import FoldData
from torchloops.advanced.kfold.inner_split import draw_inner_split
from torchloops.advanced.kfold.splits import Split, Splits
from torchloops.data.columns import read_column
from torchloops.data.fingerprint import fingerprint
from torchloops.data.labels import Labels, class_names, number_of_classes
from torchloops.data.loader_settings import source_of
from torchloops.data.proxy import DataModuleProxy
from torchloops.data.source import Source
from torchloops.errors import ConfigurationError
from torchloops.seeding import derive_seed

__all__ = ["KFoldDataModule"]


class KFoldDataModule(DataModuleProxy):
    """Training data for a `KFoldLoop`: each fold trains on one part of it and is scored on the rest.

    Samples are known by their id, the position in the training data set. Training batches of a fold have
    training transforms; the held-out part has evaluation transforms where the data has both views. Batch size,
    workers, the order and the sampler's settings are those of the original loader. Validation data of its own is not
    used: the held-out part takes its place.

    Args:
        data: a data module (a `DataModule`, ``LightningDataModule``, `ImageClassificationData`,
            `ActiveLearningDataModule` ...), a DataLoader, or a map-style data set.
        batch_size: samples a batch. Default: the original loader's; 32 for a data set.
        num_workers: processes that load samples. Default: the original loader's; 0 for a data set.
        targets: labels of all samples to split by: in order, the name of a column or attribute of the data set, or a
            function of the data set. Default: the samples' own labels; samples are read for them only where nothing
            else holds them and a splitter or a score needs them. Scores always compare with a sample's own label.
        groups: likewise, for splitters by group; with ``splitter="predefined"`` the fold of every sample.
        eval_dataset: the training samples in the same order with evaluation transforms. Default: the data
            module's ``train_dataset_eval``; else the training data as it is, with a warning if it is random.
        eval_collate_fn: joins samples to batches that are scored. Default: as in training, unless that is random.
        test_dataset: a test set, where ``data`` has none.
        shuffle: whether training batches come in a random order. Default: as the original loader; True for a
            data set.
        target_key: key or position of the label in a sample. Default: the second entry of a tuple, or the one key of
            a dict among ``label``, ``labels``, ``target``, ``targets``, ``y``.
        classes: names of the classes in the order of the model's outputs. Default: ``classes`` of the data module or
            data set. Labels that are names cannot be scored without.

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
        eval_collate_fn: Callable[[Any], Any] | None = None,
        test_dataset: Any = None,
        shuffle: bool | None = None,
        target_key: str | int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(data if hasattr(data, "train_dataloader") else None)
        self.data = data
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._targets = targets
        self._groups = groups
        self._eval_dataset = eval_dataset
        self._eval_collate_fn = eval_collate_fn
        self.test_dataset = test_dataset
        self._shuffle = shuffle
        self._target_key = target_key
        self._classes = classes
        self.splits: Splits | None = None

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
    def source(self) -> Source:
        """Samples in two views and batch settings; sets up the data module when first asked."""
        self.set_up("fit")
        own: dict[str, Any] = {
            "batch_size": self._batch_size, "num_workers": self._num_workers, "shuffle": self._shuffle,
            "eval_dataset": self._eval_dataset, "eval_collate_fn": self._eval_collate_fn,
            "target_key": self._target_key,
        }  # fmt: skip
        study = self.data.source_settings if self.is_study else {}
        settings: dict[str, Any] = {name: study.get(name) if value is None else value for name, value in own.items()}
        source = source_of(self.base, "Cross-validation", **settings)
        source.warn_if_random()
        return source

    @property
    def n_samples(self) -> int:
        """Samples of the training data set, those that its sampler leaves out included."""
        return len(self.source.train)

    @property
    def sample_ids(self) -> Sequence[int]:
        """Ids of the samples that are dealt out to folds, ascending."""
        return self.source.sample_ids

    @property
    def target_key(self) -> str | int | None:
        """Key or position of the label in a sample, where it was given."""
        return self.source.target_key

    @cached_property
    def labels(self) -> Labels:
        """The samples' own labels: what batches hand to the module."""
        hint = None if self.datamodule is None else getattr(self.base, "targets", None)
        given = self._classes or getattr(self.data, "given_classes", None)
        names = class_names(given, self.base if self.datamodule is not None else None, self.source.train)
        return Labels(self.source.evaluate, target_key=self.target_key, hints=[hint], classes=names)

    @property
    def targets(self) -> np.ndarray | None:
        """Labels to split by, ``(n_samples, ...)``, where they are at hand without reading samples; else None."""
        return self.labels.known if self._given_targets is None else self._given_targets

    @cached_property
    def _given_targets(self) -> np.ndarray | None:
        given = self._targets if self._targets is not None else getattr(self.data, "given_targets", None)
        return None if given is None else read_column(self.source.train, given, "targets")

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Group of every sample, ``(n_samples,)``, or None."""
        if self._groups is not None:
            return read_column(self.source.train, self._groups, "groups")
        values = getattr(self.datamodule, "groups", None)
        return None if values is None or callable(values) else read_column(self.source.train, values, "groups")

    def read_targets(self) -> np.ndarray:
        """Labels to split by, out of the samples themselves where they are not at hand."""
        return self.labels.all() if self._given_targets is None else self._given_targets

    def describe(self) -> dict[str, Any]:
        """What must be the same when a cross-validation is resumed, by name, as plain data."""
        found = {"labels (hash)": self.targets, "groups (hash)": self.groups}
        hashes = {name: None if values is None else fingerprint(values) for name, values in found.items()}
        return {"number of samples": self.n_samples, **self.source.describe(), **hashes}

    @property
    def num_classes(self) -> int:
        """Number of classes: the data module's, or one more than the largest label."""
        return number_of_classes(self.labels, self.base if self.datamodule is not None else None, self.source.train)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", ... where the data has none."""
        return self.labels.classes or [str(index) for index in range(self.num_classes)]

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
        whole = self._part(self.sample_ids, None, None, seed)
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
        if stage == "fit":
            self.set_up(stage)

    def train_dataloader(self) -> Any:
        """All samples, with training transforms."""
        return self.source.training_loader(self.sample_ids, 0)

    def test_dataloader(self) -> Any:
        """The test set of the data module, or ``test_dataset``."""
        return self.own_loader("test") if self.test_dataset is None else self.source.test_loader(self.test_dataset)

    def predict_dataloader(self) -> Any:
        """The data module's own prediction data."""
        return self.own_loader("predict")

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        if "fit" not in self._stages:
            for name in ("source", "labels"):
                self.__dict__.pop(name, None)
