"""ActiveLearningDataModule: labelled set, pool and validation split of one training data set."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

from torch.utils.data import Subset

from torchloops.advanced.active_learning.baal_heuristics import resolve_heuristic
from torchloops.advanced.active_learning.given import WithLabels, given_labels, of_baal
from torchloops.advanced.active_learning.heuristics import Heuristic
from torchloops.advanced.active_learning.labelled_map import MAP, LabelledMap
from torchloops.advanced.active_learning.scoring import PoolScores
from torchloops.advanced.active_learning.seeds import generator_for
from torchloops.data.draws import draw_samples
from torchloops.data.fingerprint import check_same, describe, fingerprint
from torchloops.data.label_values import LabelForm, as_array, read_form
from torchloops.data.labels import Labels, class_names, number_of_classes
from torchloops.data.loader_settings import source_of
from torchloops.data.proxy import DataModuleProxy
from torchloops.data.source import Source
from torchloops.errors import ConfigurationError, DataError
from torchloops.schema import COUNT, check

__all__ = ["STUDY", "ActiveLearningDataModule", "SmallLabelledSetWarning"]


STUDY = {
    "labelled_map": MAP, "round": COUNT, "settings?": {str: Any}, "data?": {str: Any}, "datamodule?": Any,
    "people?": {str: Any},
}  # fmt: skip
"""What `ActiveLearningDataModule.state_dict` returns; see `torchloops.schema`."""


class SmallLabelledSetWarning(UserWarning):
    """The validation split is larger than the labelled set: labels are spent on watching, not on learning."""


class ActiveLearningDataModule(DataModuleProxy):
    """Hide the labels of a labelled data set, and give them out sample by sample.

    The training data falls into three parts that never overlap: a **validation split**, fixed at the start;
    the **labelled set**, which trains with training transforms; and the **pool**, which is scored with
    evaluation transforms. Samples are known by their id, the position in the training data set.

    Labels of the pool are not asked for before a query names them, with one exception: stratified draws (of the
    initial labels and the validation split) look at the labels of all samples once; ``stratify=False`` does
    without. Where nothing holds them beside the samples, that look reads every sample.

    Batch size, workers, the order and the sampler's settings are those of the original loader; of a
    SubsetRandomSampler only the samples that it names are labelled and asked for.

    Args:
        labelled: a data module with training data (its test and prediction data are used too, and its
            validation data where ``val_split`` is None), a map-style data set of ``(input, label)``, or baal's
            ``ActiveLearningDataset``, whose labelled samples are then the first.
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
        eval_dataset: the training samples in the same order with evaluation transforms. Default: the labelled
            module's ``train_dataset_eval``; else the training data as it is, with a warning if it is random.
        eval_collate_fn: joins samples to batches that are scored. Default: as in training, unless that is random.
        test_dataset: test data, where ``labelled`` is a data set.
        shuffle: whether training batches come in a random order. Default: as the original loader; True for a data set.
        stratify: whether draws keep the classes' shares. Default: where each sample has one class.
        targets: labels of all samples, where samples do not hold them: in order, the name of a column or attribute of
            the data set, or a function of it. Labelled samples then train as ``(input, label)``.
        target_key: key or position of the label in a sample. Default: the second entry of a tuple, or the one key of
            a dict among ``label``, ``labels``, ``target``, ``targets``, ``y``.
        classes: names of the classes in the order of the model's outputs. Default: ``classes`` of the labelled module
            or data set.
        labelled_ids: ids of samples that are labelled at the start, and after `reset`; or a dict from id to label,
            for samples without labels of their own.

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
        eval_dataset: Any = None,
        eval_collate_fn: Callable[[Any], Any] | None = None,
        test_dataset: Any = None,
        shuffle: bool | None = None,
        stratify: bool | None = None,
        targets: Any = None,
        target_key: str | int | None = None,
        classes: Sequence[str] | None = None,
        labelled_ids: Sequence[int] | Mapping[int, Any] | None = None,
    ) -> None:
        _check_counts(initial_num_labels, query_size, val_split)
        labelled, labelled_ids = of_baal(labelled, labelled_ids, eval_dataset)
        super().__init__(labelled if hasattr(labelled, "train_dataloader") else None)
        self.labelled = labelled
        self.heuristic: Heuristic = resolve_heuristic(heuristic, query_size)
        self.initial_num_labels = initial_num_labels
        self.query_size = query_size
        self.val_split = val_split
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pool_batch_size = pool_batch_size
        self.eval_dataset = eval_dataset
        self.eval_collate_fn = eval_collate_fn
        self.test_dataset = test_dataset
        self.shuffle = shuffle
        self.stratify = stratify
        self.target_key = target_key
        self.ahead = 0
        self.round = 0
        self.given_targets = targets
        self.given_classes = classes
        self._given = None if labelled_ids is None else given_labels(labelled_ids)
        self._warned = False

    @classmethod
    def from_folder(
        cls, pool: str | os.PathLike[str], classes: Sequence[str], **options: Any
    ) -> ActiveLearningDataModule:
        """Pictures that nobody has labelled, and people who label them while the model learns.

        Args:
            pool: folder of the pictures, at any depth.
            classes: names of the classes, in the order of the model's outputs.
            **options: see `AnnotatedDataModule.open`, such as ``annotator``, ``test`` and ``labels``.
        """
        from torchloops.advanced.active_learning.annotated import AnnotatedDataModule

        return AnnotatedDataModule.open(pool, classes, **options)

    # what there is

    @property
    def source_settings(self) -> dict[str, Any]:
        """What is not taken from the original loader, by argument of `source_of`."""
        names = ("batch_size", "num_workers", "shuffle", "eval_dataset", "eval_collate_fn", "target_key")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def source(self) -> Source:
        """Training samples in two views, and batch settings; sets up the labelled module when first asked."""
        self.set_up("fit")
        data = self.labelled
        if isinstance(data, list | tuple):  # samples; of a Subset nobody takes them for batches
            data = Subset(data, range(len(data)))  # type: ignore[arg-type]
        source = source_of(data, "Active learning", **self.source_settings)
        source.warn_if_random()
        return source

    @cached_property
    def truth(self) -> Labels:
        """Who knows the labels: ``truth(sample_ids)``."""
        hint = None if self.datamodule is None else getattr(self.labelled, "targets", None)
        return Labels(
            self.source.evaluate,
            target_key=self.target_key,
            given=self.given_targets,
            hints=[hint],
            classes=class_names(self.given_classes, self.datamodule, self.source.train),
        )

    @cached_property
    def labelled_map(self) -> LabelledMap:
        """Which samples are labelled, since when and why."""
        outside = set(range(len(self.source.train))) - set(self.source.sample_ids)
        given = self._given or {}
        validation = self._draw_validation(given)
        labelled = LabelledMap(len(self.source.train), [*outside, *validation])
        if given:
            _check_given(given, self.source.sample_ids)
            labels = self._labels_of_given(given)
            labelled.label(list(given), round=-1, source="given", labels=labels)
        if self.initial_num_labels:
            chosen = self._draw(labelled.pool_ids, self.initial_num_labels, "initial_num_labels")
            labelled.label(chosen, round=-1, source="initial", labels=self._on_record(self.truth(chosen)))
        self._warn_if_small(len(validation), labelled.n_labelled)
        return labelled

    def _labels_of_given(self, given: dict[int, Any]) -> list[Any]:
        return list(given.values()) if self._given_by_value else self._on_record(self.truth(list(given)))

    def _on_record(self, labels: list[Any]) -> list[Any]:
        """Labels as they are written down: one-hot rows as the index of their class."""
        is_one_hot = self._looks_at_all and self.truth.form.kind == "one_hot"
        return [row.index(max(row)) for row in labels] if is_one_hot else labels

    @property
    def _given_by_value(self) -> bool:
        return any(label is not None for label in (self._given or {}).values())

    @property
    def label_form(self) -> LabelForm | None:
        """What labels are, as far as it may be known: of all samples where draws look at all, else of those labelled.

        None where no label is known yet.
        """
        if self.stratify is not False and (self.initial_num_labels or self.val_split):
            with suppress(DataError):
                return self.truth.form
        known = [record.label for record in self.labelled_map.records if record.label is not None]
        if not known:
            return None
        form = replace(read_form(as_array(known)), is_partial=True)
        return form if form.shape else replace(form, n_classes=None)  # there may be more classes

    @cached_property
    def _looks_at_all(self) -> bool:
        """Whether draws look at the labels of all samples."""
        if self.stratify is not None:
            return self.stratify
        try:
            return bool(self.initial_num_labels or self.val_split) and self.truth.form.is_classes
        except DataError:
            if self._given is None:
                raise
            return False

    @property
    def has_answers(self) -> bool:
        """Whether the data knows the labels of the pool, so that a query can be answered."""
        if not self.n_pool or self.given_targets is not None or self._given is None:
            return True
        try:
            self.truth(self.pool_ids[:1])
        except DataError:
            return False
        return True

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
        return sorted(self.labelled_map.excluded & set(self.source.sample_ids))

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
        self.set_up("fit")
        return number_of_classes(self.truth, self.datamodule, self.source.train)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; "0", "1", ... where the data has none."""
        return self.truth.classes or [str(index) for index in range(self.num_classes)]

    def part_of(self, value: Any) -> Any:
        source = self.__dict__.get("source")
        if source is None or value is not source.train or "labelled_map" not in self.__dict__:
            return value
        return Subset(value, sorted(self.labelled_ids))

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
        labels = self._on_record(self.truth(scores.sample_ids))
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

    @property
    def round_columns(self) -> dict[str, Any]:
        """Further columns of the row of a round."""
        return {}

    def take_over(self) -> None:
        """Called before the pool is scored: the place to take over what people have changed meanwhile."""

    def note(self, phase: str, rounds: Sequence[dict[str, Any]]) -> None:
        """Called when the study begins to train or to ask, and when it is over: for whoever shows where it is.

        Args:
            phase: "training", "asking" or "finished".
            rounds: a row a round, so far.
        """

    def reset(self) -> None:
        """Start over: the initial labels only, drawn as at first, and round 0."""
        self.__dict__.pop("labelled_map", None)
        self.round = 0

    def with_data(self, labelled: Any) -> ActiveLearningDataModule:
        """The same study over other data: nothing is asked yet, and the first labels are drawn anew.

        Cross-validation makes one a fold. The evaluation view, the test data and batch settings are those of
        ``labelled``, a data module whose ``train_ids`` say which of the samples it has.
        """
        study = copy.copy(self)
        for name in _CACHED:
            study.__dict__.pop(name, None)
        DataModuleProxy.__init__(study, labelled)
        study.labelled, study.eval_dataset, study.eval_collate_fn, study.test_dataset = labelled, None, None, None
        study.round, study._warned = 0, False
        position = {sample_id: index for index, sample_id in enumerate(labelled.train_ids)}
        if self._given is not None:
            study._given = {position[i]: label for i, label in self._given.items() if i in position}
        if self.given_targets is not None:
            study.given_targets = self.truth.all()[labelled.train_ids]
        return study

    # loaders

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.set_up(stage)
            _ = self.labelled_map  # draws are made, and complained about, before anything is trained

    def train_dataloader(self) -> Any:
        """The labelled samples with training transforms, in an order set by the seed and the round."""
        if not self.n_labelled:
            return None
        generator = generator_for(self.seed, "train", self.round)
        return self._training_source.training_loader(sorted(self.labelled_ids), generator)

    @property
    def _training_source(self) -> Source:
        """The source of labelled samples, which get their labels where samples do not hold them."""
        if self.given_targets is None and not self._given_by_value:
            return self.source
        labels = {record.sample_id: record.label for record in self.labelled_map.records}
        if self.given_targets is not None:  # on record, a one-hot row is an index
            labels = dict(zip(labels, self.truth(list(labels)), strict=True))
        return replace(self.source, train=WithLabels(self.source.train, labels, self.target_key))

    def val_dataloader(self) -> Any:
        """The validation split with evaluation transforms, or the labelled module's validation data."""
        return self.own_loader("val") if self.val_split is None else self.source.evaluation_loader(self.val_ids)

    def test_dataloader(self) -> Any:
        """The labelled module's test data, or ``test_dataset``."""
        return self.own_loader("test") if self.test_dataset is None else self.source.test_loader(self.test_dataset)

    def predict_dataloader(self) -> Any:
        """The labelled module's prediction data; where it has none, the inputs of the pool in order of ids."""
        own = self.own_loader("predict")
        return own if own is not None else self.source.input_loader(self.pool_ids, self._pool_batch)

    def pool_dataloader(self) -> Any:
        """Batches ``(sample_ids, batch)`` of the pool, with evaluation transforms, as the module gets them."""
        return self.source.loader_with_ids(self.pool_ids, self._pool_batch)

    @property
    def _pool_batch(self) -> int:
        return self.pool_batch_size or max(self.source.batch_size, 32)

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        if "fit" not in self._stages:
            for name in ("source", "truth"):
                self.__dict__.pop(name, None)

    # state

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must be the same when a study is resumed, by name, as plain data."""
        names = ("seed", "initial_num_labels", "query_size", "val_split", "stratify")
        own = {name: getattr(self, name) for name in names}
        asking = {"heuristic": describe(self.heuristic), "pool_batch_size": self._pool_batch}
        return {**own, **asking, **self.source.describe()}

    @cached_property
    def description(self) -> dict[str, Any]:
        """What identifies the training data: its size, and a hash of all labels where they may be looked at.

        That is where draws are stratified, and no input is read for a label.
        """
        size = len(self.source.train)
        known = self.truth.at_hand if self._looks_at_all else None
        return {"number of samples": size, "labels (hash)": None if known is None else fingerprint(known)}

    def state_dict(self) -> dict[str, Any]:
        """The labelled map and the round, with what they belong to, as plain data."""
        return {
            "labelled_map": self.labelled_map.state_dict(), "round": self.round,
            "settings": self.settings, "data": self.description, "datamodule": super().state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            CheckpointError: the state is of other data, or of a study with other settings.
        """
        check(state_dict, STUDY, "ActiveLearningDataModule: state")
        settings = state_dict.get("settings", state_dict)  # format 1 had the seed beside the rest
        check_same("The study's data module", settings, self.settings)
        check_same("The training data of the study", state_dict.get("data", {}), self.description)
        super().load_state_dict(state_dict.get("datamodule", {}))
        labelled = LabelledMap(len(self.source.train))
        labelled.load_state_dict(state_dict["labelled_map"])
        self._check_labels(labelled)
        self.__dict__["labelled_map"] = labelled
        self.round = state_dict["round"]

    def _check_labels(self, labelled: LabelledMap) -> None:
        """Refuse data whose labels are no longer those that were given."""
        records = [record for record in labelled.records if record.source in ("initial", "truth")]
        now = self._on_record(self.truth([record.sample_id for record in records]))
        saved = {f"the label of sample {record.sample_id}": record.label for record in records}
        check_same("The training data of the study", saved, dict(zip(saved, now, strict=True)))

    # draws

    def _draw_validation(self, given: Mapping[int, Any]) -> list[int]:
        if self.val_split is None:
            return []
        if self.own_loader("val") is not None:
            raise ConfigurationError(
                f"val_split={self.val_split} was given, but the labelled data module has validation data of "
                "its own. Leave val_split out, or give a data module without validation data."
            )
        ids = [sample_id for sample_id in self.source.sample_ids if sample_id not in given]
        count = round(self.val_split * len(ids)) if self.val_split < 1 else int(self.val_split)
        return self._draw(ids, max(count, 1), "val_split", leave_one=True)

    def _draw(self, ids: Sequence[int], count: int, needed_for: str, leave_one: bool = False) -> list[int]:
        if count > len(ids) - leave_one:
            raise DataError(
                f"{needed_for} asks for {count} samples, but there are {len(ids)}"
                + (" and one must be left to train with." if leave_one else " outside the validation split.")
            )
        labels = self.truth.class_indices(ids, f"{needed_for} (stratified)") if self._looks_at_all else None
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


_CACHED = ("source", "truth", "labelled_map", "num_classes", "description", "_looks_at_all")


def _check_given(given: Mapping[int, Any], sample_ids: Sequence[int]) -> None:
    outside = sorted(set(given) - set(sample_ids))
    if outside:
        raise DataError(
            f"labelled_ids names sample {outside[0]}, which is none of the {len(sample_ids)} samples of the training "
            f"data (ids from {sample_ids[0]} to {sample_ids[-1]})."
        )


def _check_counts(initial_num_labels: int | None, query_size: int, val_split: float | int | None) -> None:
    if initial_num_labels is not None and initial_num_labels < 0:
        raise ConfigurationError(f"initial_num_labels must be 0 or more, got {initial_num_labels}.")
    if query_size < 1:
        raise ConfigurationError(f"query_size must be 1 or more, got {query_size}.")
    if val_split is not None and (val_split <= 0 or (isinstance(val_split, float) and val_split >= 1)):
        raise ConfigurationError(
            f"val_split must be a share above 0 and below 1, or a whole number of samples, got {val_split}."
        )
