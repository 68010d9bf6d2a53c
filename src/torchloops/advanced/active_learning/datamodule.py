"""ActiveLearningDataModule: labelled set, pool and validation split of one training data set."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import cached_property
from time import perf_counter
from typing import Any

from torchloops.advanced.active_learning.baal_heuristics import resolve_heuristic
from torchloops.advanced.active_learning.heuristics import Heuristic
from torchloops.advanced.active_learning.labelled_map import LabelledMap
from torchloops.advanced.active_learning.scoring import PoolScores
from torchloops.advanced.active_learning.seeds import generator_for
from torchloops.advanced.active_learning.sources import Source, is_random, source_of
from torchloops.advanced.active_learning.splits import draw_samples
from torchloops.advanced.active_learning.truth import MaskedTruth
from torchloops.advanced.describing import check_same, describe, fingerprint
from torchloops.datamodule import DataModule
from torchloops.errors import ConfigurationError, DataError
from torchloops.hooks import is_overridden

__all__ = ["ActiveLearningDataModule", "AugmentedPoolWarning", "SmallLabelledSetWarning"]


class SmallLabelledSetWarning(UserWarning):
    """The validation split is larger than the labelled set: labels are spent on watching, not on learning."""


class AugmentedPoolWarning(UserWarning):
    """The pool is read through random transforms, so scores depend on chance."""


class ActiveLearningDataModule(DataModule):
    """Hide the labels of a labelled data set, and give them out sample by sample.

    The training data falls into three parts that never overlap: a **validation split**, fixed at the start;
    the **labelled set**, which trains with training transforms; and the **pool**, which is scored with
    evaluation transforms. Samples are known by their id, the position in the training data set.

    Labels of the pool are not read before they are asked for, with one exception: stratified draws (of the
    initial labels and the validation split) look at the labels of all samples once; ``stratify=False`` does
    without. Where a data set has no ``targets``, that look reads every item.

    Args:
        labelled: a data module with training data (its test and prediction data are used too, and its
            validation data where ``val_split`` is None), or a map-style data set of ``(input, label)``.
        heuristic: what to ask first: a name ("bald", "entropy", "margin", "certainty", "variance",
            "mean_std", "random"; "batch_bald", "power_bald", "power_entropy" need baal), a `Heuristic`, or
            any heuristic object of baal. Default: BALD.
        initial_num_labels: labels at the start, drawn by ``seed`` and stratified: in proportion to the
            classes, one or more a class where there are enough. Default: none; then the first query is drawn
            at random.
        query_size: samples asked in one query.
        val_split: share (below 1) or number (1 or more) of training samples to validate with, stratified.
        seed: of the initial labels, the split, the order of training batches, dropout masks of scoring, and
            ties.
        batch_size: of training and validation. Default: the labelled module's; 32 for a data set.
        num_workers: processes that load samples. Default: the labelled module's; 0 for a data set.
        pool_batch_size: of scoring, which keeps no gradients. Default: ``batch_size``, 32 or more.
        pool_dataset: the training samples in the same order with evaluation transforms. Default: the labelled
            module's ``train_dataset_eval``; else the training data as it is, with a warning if it is random.
        test_dataset: test data, where ``labelled`` is a data set.
        stratify: whether draws keep the classes' shares.

    Raises:
        ConfigurationError: values that do not fit together.
        DataError: the data is empty, iterable or too small.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> dataset = TensorDataset(torch.randn(10, 2), torch.arange(10) % 2)
        >>> data = ActiveLearningDataModule(dataset, initial_num_labels=4, val_split=3)
        >>> data.n_labelled, data.n_pool, data.num_classes
        (4, 3, 2)

    References:
        Settles 2009, "Active Learning Literature Survey", pool-based sampling.
    """

    def __init__(
        self,
        labelled: Any,
        heuristic: Any = None,
        initial_num_labels: int | None = None,
        query_size: int = 1,
        val_split: float | int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        *,
        num_workers: int | None = None,
        pool_batch_size: int | None = None,
        pool_dataset: Any = None,
        test_dataset: Any = None,
        stratify: bool = True,
    ) -> None:
        super().__init__()
        _check_counts(initial_num_labels, query_size, val_split)
        self.labelled = labelled
        self.heuristic: Heuristic = resolve_heuristic(heuristic, query_size)
        self.initial_num_labels = initial_num_labels
        self.query_size = query_size
        self.val_split = val_split
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pool_batch_size = pool_batch_size
        self.pool_dataset = pool_dataset
        self.test_dataset = test_dataset
        self.stratify = stratify
        self.round = 0
        self._stages: set[str] = set()
        self._warned = False

    # what there is

    @cached_property
    def source(self) -> Source:
        """Training samples in two views, and batch settings; sets up the labelled module when first asked."""
        self._set_up_labelled("fit")
        source = source_of(self.labelled, self.batch_size, self.num_workers, self.pool_dataset)
        if not source.has_eval_view and is_random(source.pool):
            warnings.warn(
                "The pool is read through random transforms: reading one sample twice gave two inputs. Give "
                "pool_dataset=..., the same samples in the same order with evaluation transforms.",
                AugmentedPoolWarning,
                stacklevel=2,
            )
        return source

    @cached_property
    def truth(self) -> MaskedTruth:
        """Who knows the labels: ``truth(sample_ids)``."""
        targets = getattr(self.labelled, "targets", None) if hasattr(self.labelled, "train_dataloader") else None
        return MaskedTruth(self.source.train, targets)

    @cached_property
    def labelled_map(self) -> LabelledMap:
        """Which samples are labelled, since when and why."""
        validation = self._draw_validation()
        labelled = LabelledMap(len(self.source.train), validation)
        if self.initial_num_labels:
            chosen = self._draw(labelled.pool_ids, self.initial_num_labels, "initial_num_labels")
            labelled.label(chosen, round=-1, source="initial", labels=self.truth(chosen))
        self._warn_if_small(len(validation), labelled.n_labelled)
        return labelled

    @property
    def labelled_ids(self) -> list[int]:
        """Ids of the labelled samples, in the order in which they were labelled."""
        return self.labelled_map.labelled_ids

    @property
    def pool_ids(self) -> list[int]:
        """Ids of the samples that may still be asked for, ascending."""
        return self.labelled_map.pool_ids

    @property
    def val_ids(self) -> list[int]:
        """Ids of the validation split, ascending."""
        return sorted(self.labelled_map.excluded)

    @property
    def n_labelled(self) -> int:
        """Number of labelled samples."""
        return self.labelled_map.n_labelled

    @property
    def n_pool(self) -> int:
        """Number of samples that may still be asked for."""
        return self.labelled_map.n_pool

    @cached_property
    def num_classes(self) -> int:
        """Number of classes: the labelled module's, or one more than the largest label."""
        self._set_up_labelled("fit")
        for owner in (self.labelled, self.source.train):
            known = getattr(owner, "num_classes", None) or len(getattr(owner, "classes", None) or ())
            if known:
                return int(known)
        return max(self.truth.all_classes(range(len(self.source.train)), "num_classes")) + 1

    @property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", ... where the data has none."""
        for owner in (self.labelled, self.source.train):
            if names := getattr(owner, "classes", None):
                return [str(name) for name in names]
        return [str(index) for index in range(self.num_classes)]

    # what a query does

    def label(self, scores: PoolScores, source: str = "truth") -> float:
        """Ask for the labels of these samples, put them on record, and begin the next round.

        Args:
            scores: the samples to label, first asked first; see `PoolScores.best`.
            source: who gives the labels.

        Returns:
            Seconds until the labels were there.
        """
        start = perf_counter()
        labels = self.truth(scores.sample_ids)
        seconds = perf_counter() - start
        self.labelled_map.label(
            scores.sample_ids,
            round=self.round,
            source=source,
            scores=[None if value != value else value for value in scores.scores.tolist()],
            predictions=scores.predictions,
            labels=labels,
            seconds=seconds,
        )
        self.round += 1
        return seconds

    def reset(self) -> None:
        """Start over: the initial labels only, drawn as at first, and round 0."""
        self.__dict__.pop("labelled_map", None)
        self.round = 0

    def with_data(self, labelled: Any) -> ActiveLearningDataModule:
        """The same study over other data: nothing is asked yet, and the first labels are drawn anew.

        Cross-validation makes one a fold. The pool's view, the test data and batch settings are those of
        ``labelled``, which must be a data module.
        """
        study = copy.copy(self)
        for name in ("source", "truth", "labelled_map", "num_classes", "description"):
            study.__dict__.pop(name, None)
        study.labelled, study.pool_dataset, study.test_dataset = labelled, None, None
        study.round, study._stages, study._warned = 0, set(), False
        return study

    # loaders

    def prepare_data(self) -> None:
        if hasattr(self.labelled, "prepare_data"):
            self.labelled.prepare_data()

    def setup(self, stage: str) -> None:
        self._set_up_labelled(stage)
        if stage == "fit":
            _ = self.labelled_map  # draws are made, and complained about, before anything is trained

    def train_dataloader(self) -> Any:
        """The labelled samples with training transforms, in an order set by the seed and the round."""
        if not self.n_labelled:
            return None
        return self.source.loader(sorted(self.labelled_ids), generator_for(self.seed, "train", self.round))

    def val_dataloader(self) -> Any:
        """The validation split with evaluation transforms, or the labelled module's validation data."""
        if self.val_split is None:
            return self._labelled_loader("fit", "val_dataloader")
        return self.source.loader(self.val_ids)

    def test_dataloader(self) -> Any:
        """The labelled module's test data, or ``test_dataset``."""
        if self.test_dataset is None:
            return self._labelled_loader("test", "test_dataloader")
        from torch.utils.data import DataLoader

        return DataLoader(self.test_dataset, batch_size=self.source.batch_size, collate_fn=self.source.collate_fn)

    def predict_dataloader(self) -> Any:
        """The labelled module's prediction data; where it has none, the inputs of the pool in order of ids."""
        own = self._labelled_loader("predict", "predict_dataloader")
        return own if own is not None else self.source.pool_loader(self.pool_ids, self._pool_batch, with_ids=False)

    def pool_dataloader(self) -> Any:
        """Batches ``(sample_ids, inputs)`` of the pool, with evaluation transforms and without labels."""
        return self.source.pool_loader(self.pool_ids, self._pool_batch)

    @property
    def _pool_batch(self) -> int:
        return self.pool_batch_size or max(self.source.batch_size, 32)

    def teardown(self, stage: str) -> None:
        if hasattr(self.labelled, "teardown"):
            self.labelled.teardown(stage)
        self._stages.discard(stage)

    # state

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must be the same when a study is resumed, by name, as plain data."""
        names = ("seed", "initial_num_labels", "query_size", "val_split", "stratify")
        batches = {"batch_size": self.source.batch_size, "pool_batch_size": self._pool_batch}
        return {name: getattr(self, name) for name in names} | {"heuristic": describe(self.heuristic)} | batches

    @cached_property
    def description(self) -> dict[str, Any]:
        """What identifies the training data: its size, and a hash of all labels where they may be looked at.

        That is where draws are stratified, and no input is read for a label.
        """
        size = len(self.source.train)
        known = self.stratify and not self.truth.reads_inputs
        return {"number of samples": size, "labels (hash)": fingerprint(self.truth(range(size))) if known else None}

    def state_dict(self) -> dict[str, Any]:
        """The labelled map and the round, with what they belong to, as plain data."""
        return {
            "labelled_map": self.labelled_map.state_dict(), "round": self.round,
            "settings": self.settings, "data": self.description,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            CheckpointError: the state is of other data, or of a study with other settings.
        """
        settings = state_dict.get("settings", state_dict)  # format 1 had the seed beside the rest
        check_same("The study's data module", settings, self.settings)
        check_same("The training data of the study", state_dict.get("data", {}), self.description)
        labelled = LabelledMap(len(self.source.train))
        labelled.load_state_dict(state_dict["labelled_map"])
        self._check_labels(labelled)
        self.__dict__["labelled_map"] = labelled
        self.round = state_dict["round"]

    def _check_labels(self, labelled: LabelledMap) -> None:
        """Refuse data whose labels are no longer those that were given, as far as that shows without reading inputs."""
        if self.truth.reads_inputs:
            return
        records = [record for record in labelled.records if record.source in ("initial", "truth")]
        now = self.truth([record.sample_id for record in records])
        saved = {f"the label of sample {record.sample_id}": record.label for record in records}
        check_same("The training data of the study", saved, dict(zip(saved, now, strict=True)))

    # draws

    def _draw_validation(self) -> list[int]:
        if self.val_split is None:
            return []
        if self._labelled_loader("fit", "val_dataloader") is not None:
            raise ConfigurationError(
                f"val_split={self.val_split} was given, but the labelled data module has validation data of "
                "its own. Leave val_split out, or give a data module without validation data."
            )
        size = len(self.source.train)
        count = round(self.val_split * size) if self.val_split < 1 else int(self.val_split)
        return self._draw(range(size), max(count, 1), "val_split", leave_one=True)

    def _draw(self, ids: Sequence[int], count: int, needed_for: str, leave_one: bool = False) -> list[int]:
        if count > len(ids) - leave_one:
            raise DataError(
                f"{needed_for} asks for {count} samples, but there are {len(ids)}"
                + (" and one must be left to train with." if leave_one else " outside the validation split.")
            )
        labels = self.truth.all_classes(ids, f"{needed_for} (stratified)") if self.stratify else None
        return draw_samples(ids, count, generator_for(self.seed, needed_for), labels, leave_one)

    def _warn_if_small(self, n_validation: int, n_labelled: int) -> None:
        if n_validation > n_labelled and not self._warned:
            self._warned = True
            warnings.warn(
                f"The validation split ({n_validation} samples) is larger than the labelled set "
                f"({n_labelled}): its labels would teach the model more than they tell about it. Make "
                "val_split smaller or initial_num_labels larger.",
                SmallLabelledSetWarning,
                stacklevel=2,
            )

    # the labelled module

    def _set_up_labelled(self, stage: str) -> None:
        if stage in self._stages:
            return
        self._stages.add(stage)
        if self.trainer is not None and hasattr(self.labelled, "trainer"):
            self.labelled.trainer = self.trainer
        if hasattr(self.labelled, "setup"):
            self.labelled.setup(stage)

    def _labelled_loader(self, stage: str, name: str) -> Any:
        if not is_overridden(self.labelled, name):
            return None
        self._set_up_labelled(stage)
        return getattr(self.labelled, name)()


def _check_counts(initial_num_labels: int | None, query_size: int, val_split: float | int | None) -> None:
    if initial_num_labels is not None and initial_num_labels < 0:
        raise ConfigurationError(f"initial_num_labels must be 0 or more, got {initial_num_labels}.")
    if query_size < 1:
        raise ConfigurationError(f"query_size must be 1 or more, got {query_size}.")
    if val_split is not None and (val_split <= 0 or (isinstance(val_split, float) and val_split >= 1)):
        raise ConfigurationError(
            f"val_split must be a share above 0 and below 1, or a whole number of samples, got {val_split}."
        )
