"""Which samples are labelled, since when, and why: by data-set-level sample id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torchloops.advanced.active_learning.baal_import import import_baal
from torchloops.errors import ConfigurationError, DataError
from torchloops.schema import COUNT, Either, Whole, check

__all__ = ["MAP", "RECORDS", "LabelRecord", "LabelledMap", "records_from_state", "records_to_state"]


_RECORD = {
    "sample_id": COUNT, "round": Whole(-1), "rank": COUNT, "source": str, "score?": float | None, "seconds?": float,
}  # fmt: skip
RECORDS = Either({name.removesuffix("?"): [kind] for name, kind in _RECORD.items()}, [_RECORD])
"""What `records_to_state` returns, and what format 1 had; see `torchloops.schema`."""

MAP = {"num_samples": COUNT, "excluded": [COUNT], "records": RECORDS}
"""What `LabelledMap.state_dict` returns."""


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One label: what was asked, when, why, and the answer.

    Args:
        sample_id: position of the sample in the training data set, from 0.
        round: the round at whose end it was asked; -1 for the initial labels.
        rank: place within its query, 0 was asked first.
        source: who gave the label: "initial", "truth" or an annotator's name.
        score: value of the heuristic, high means ask first; None where nothing was scored.
        prediction: what the model expected, as labels are given; None where it was not asked.
        label: the label that was given: a class index or name, a number, or a list of 0 and 1 (several labels) or of
            numbers; None where it is not known.
        seconds: seconds the answer took.
    """

    sample_id: int
    round: int
    rank: int
    source: str
    score: float | None = None
    prediction: Any = None
    label: Any = None
    seconds: float = 0.0


def records_to_state(records: Iterable[LabelRecord]) -> dict[str, list[Any]]:
    """Records as plain data, a list a field."""
    records = list(records)
    return {entry.name: [getattr(record, entry.name) for record in records] for entry in fields(LabelRecord)}


def records_from_state(state: dict[str, list[Any]] | list[dict[str, Any]]) -> list[LabelRecord]:
    """The records that `records_to_state` described; a list of dicts, as in format 1, is read too."""
    if isinstance(state, list):
        return [LabelRecord(**record) for record in state]
    rows = zip(*state.values(), strict=True)
    return [LabelRecord(**dict(zip(state, row, strict=True))) for row in rows]


class LabelledMap:
    """The labelled set, the pool, and the record of how one became the other.

    Every sample has one id for ever, its position in the training data set: neither labelling nor resuming
    shifts ids. Excluded samples (the validation split) belong to neither side and can never be labelled.
    ``label``, ``is_labelled``, ``n_labelled`` and ``n_pool`` take constant time a sample; the lists of ids
    are built when asked for after a change.

    Args:
        num_samples: size of the training data set.
        excluded: ids that are neither labelled nor in the pool.

    Raises:
        ConfigurationError: an excluded id is not in 0 .. num_samples - 1.

    Example:
        >>> labelled = LabelledMap(5, excluded=[4])
        >>> labelled.label([2], round=-1, source="initial")
        >>> labelled.labelled_ids, labelled.pool_ids
        ([2], [0, 1, 3])
    """

    def __init__(self, num_samples: int, excluded: Iterable[int] = ()) -> None:
        self.num_samples = num_samples
        self.excluded = frozenset(int(sample_id) for sample_id in excluded)
        self._records: dict[int, LabelRecord] = {}
        self._pool: list[int] | None = None
        if outside := sorted(i for i in self.excluded if not 0 <= i < num_samples):
            raise ConfigurationError(
                f"excluded holds the ids {outside[:5]}, but the {num_samples} samples have the ids "
                f"0 to {num_samples - 1}."
            )

    @property
    def n_labelled(self) -> int:
        """Number of labelled samples."""
        return len(self._records)

    @property
    def n_pool(self) -> int:
        """Number of samples that may still be asked for."""
        return self.num_samples - len(self.excluded) - len(self._records)

    @property
    def labelled_ids(self) -> list[int]:
        """Ids of the labelled samples, in the order in which they were labelled."""
        return list(self._records)

    @property
    def pool_ids(self) -> list[int]:
        """Ids of the samples that may still be asked for, ascending."""
        if self._pool is None:
            taken = self._records.keys() | self.excluded
            self._pool = [i for i in range(self.num_samples) if i not in taken]
        return list(self._pool)

    @property
    def records(self) -> list[LabelRecord]:
        """All labels, in the order in which they were given."""
        return list(self._records.values())

    def is_labelled(self, sample_id: int) -> bool:
        """Whether the sample with this id has a label."""
        return sample_id in self._records

    def label(
        self,
        sample_ids: Sequence[int],
        *,
        round: int,
        source: str | Sequence[str] = "truth",
        scores: Sequence[float | None] | None = None,
        predictions: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        seconds: float | Sequence[float] = 0.0,
    ) -> None:
        """Move samples from the pool to the labelled set; either all of them or, on an error, none.

        Args:
            sample_ids: ids in the training data set (never positions in the pool), first asked first.
            round: the round at whose end they were asked, -1 for initial labels.
            source: who gave the labels; one for all, or one a sample.
            scores, predictions, labels: one entry a sample, or None.
            seconds: time for all of them together, which is shared out evenly; or of each.

        Raises:
            DataError: an id is unknown, excluded, labelled already, or given twice.
            ConfigurationError: a list is not as long as ``sample_ids``.
        """
        ids = [int(sample_id) for sample_id in sample_ids]
        self._check(ids)
        if isinstance(source, str):
            source = [source] * len(ids)
        if isinstance(seconds, int | float):
            seconds = [seconds / max(len(ids), 1)] * len(ids)
        given = {"source": source, "scores": scores, "predictions": predictions, "labels": labels, "seconds": seconds}
        columns = [self._column(name, values, len(ids)) for name, values in given.items()]
        rows = zip(ids, *columns, strict=True)
        for rank, (sample_id, who, score, prediction, label, took) in enumerate(rows):
            value = None if score is None else float(score)
            self._records[sample_id] = LabelRecord(sample_id, round, rank, who, value, prediction, label, took)
        self._pool = None

    def relabel(self, sample_id: int, label: Any, source: str) -> None:
        """Give a labelled sample another label; round, rank and score stay on record.

        Raises:
            DataError: it has no label yet.
        """
        if sample_id not in self._records:
            raise DataError(f"Sample {sample_id} has no label that could be changed. Use `label`.")
        self._records[sample_id] = replace(self._records[sample_id], label=label, source=source)

    def unlabel(self, sample_ids: Iterable[int]) -> None:
        """Return labelled samples to the pool."""
        for sample_id in sample_ids:
            self._records.pop(sample_id, None)
        self._pool = None

    def exclude(self, sample_ids: Iterable[int]) -> None:
        """Take samples out of the pool for good.

        Raises:
            DataError: there is no such sample, or it is labelled.
        """
        ids = {int(sample_id) for sample_id in sample_ids}
        wrong = sorted(i for i in ids if not 0 <= i < self.num_samples or i in self._records)
        if wrong:
            raise DataError(
                f"Sample {wrong[0]} cannot be excluded: it is labelled, or none of the {self.num_samples} samples."
            )
        self.excluded |= ids
        self._pool = None

    def _check(self, ids: list[int]) -> None:
        seen: set[int] = set()
        for sample_id in ids:
            if not 0 <= sample_id < self.num_samples:
                raise DataError(
                    f"There is no sample {sample_id} to label: ids are positions in the training data set, "
                    f"0 to {self.num_samples - 1}."
                )
            if sample_id in self.excluded:
                raise DataError(f"Sample {sample_id} belongs to the validation split and cannot be labelled.")
            if sample_id in self._records:
                record = self._records[sample_id]
                raise DataError(
                    f"Sample {sample_id} was labelled already, in round {record.round} by {record.source!r}. "
                    "Ask only for ids in `pool_ids`."
                )
            if sample_id in seen:
                raise DataError(f"Sample {sample_id} was given twice in one call.")
            seen.add(sample_id)

    @staticmethod
    def _column(name: str, values: Sequence[Any] | None, length: int) -> Sequence[Any]:
        if values is None:
            return [None] * length
        if len(values) != length:
            raise ConfigurationError(f"{name} has {len(values)} entries; expected {length}, one a sample.")
        return values

    def state_dict(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and dicts."""
        return {
            "num_samples": self.num_samples,
            "excluded": sorted(self.excluded),
            "records": records_to_state(self._records.values()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            DataError: the state is of a data set of another size, or names samples that are not there.
        """
        check(state_dict, MAP, "The labels of the study: state")
        if state_dict["num_samples"] != self.num_samples:
            raise DataError(
                f"The saved labels belong to a data set of {state_dict['num_samples']} samples, this one has "
                f"{self.num_samples}. Use the data the run was started with."
            )
        records = {record.sample_id: record for record in records_from_state(state_dict["records"])}
        excluded = frozenset(state_dict["excluded"])
        if max([*excluded, *records], default=-1) >= self.num_samples or excluded & records.keys():
            raise DataError(
                f"The saved labels name samples beyond the {self.num_samples} that there are, or some that belong to "
                "the validation split. The checkpoint was edited: resume from one that was not."
            )
        self.excluded, self._records = excluded, records
        self._pool = None

    def to_baal(self, dataset: Any) -> Any:
        """Return baal's ``ActiveLearningDataset`` over ``dataset`` with the same samples labelled.

        baal knows no validation split: excluded samples are left out, so its ids count the others only.
        Its step is our round + 2, since baal keeps 0 for the pool and our initial labels are of round -1.

        Raises:
            MissingDependencyError: baal is not installed.
        """
        import numpy as np

        baal_dataset = import_baal("dataset", "LabelledMap.to_baal")
        ids = [i for i in range(self.num_samples) if i not in self.excluded]
        steps = np.array([self._records[i].round + 2 if i in self._records else 0 for i in ids], dtype=np.int64)
        if self.excluded:
            from torch.utils.data import Subset

            dataset = Subset(dataset, ids)
        return baal_dataset.ActiveLearningDataset(dataset, labelled=steps)

    @classmethod
    def from_baal(cls, active_dataset: Any, excluded: Iterable[int] = ()) -> LabelledMap:
        """Return the map of a baal ``ActiveLearningDataset``: the inverse of `to_baal`.

        Args:
            active_dataset: the data set, or its ``labelled_map`` (array with a step per sample, 0: pool).
            excluded: ids that were left out of the baal data set.
        """
        steps = getattr(active_dataset, "labelled_map", active_dataset)
        held_out = frozenset(excluded)
        labelled = cls(len(steps) + len(held_out), held_out)
        ids = [i for i in range(labelled.num_samples) if i not in held_out]
        for step in sorted({int(step) for step in steps} - {0}):
            chosen = [i for i, value in zip(ids, steps, strict=True) if int(value) == step]
            labelled.label(chosen, round=step - 2, source="baal")
        return labelled
