"""Splits: which samples each fold trains on and which it holds out, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchloops.data.fingerprint import fingerprint
from torchloops.errors import DataError
from torchloops.schema import COUNT, Either, Whole, check, read_json

__all__ = ["SPLITS", "Split", "Splits"]

_REST = "all others"
_TRAIN = Either([COUNT], lambda part: None if part == _REST else f"should be {_REST!r}")
SPLITS = {
    "n_samples": Whole(1, 10**8), "splitter": str, "seed": int, "num_repeats": Whole(1),
    "folds": [{"test": [COUNT], "train": _TRAIN}],
}  # fmt: skip
"""What `Splits.to_dict` returns; see `torchloops.schema`."""


@dataclass(frozen=True)
class Split:
    """One fold, counted from 0: sample ids to train on and to hold out, as positions in the training data."""

    fold: int
    train: list[int]
    test: list[int]

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the sample ids."""
        return fingerprint([self.train, self.test])


@dataclass(frozen=True)
class Splits:
    """All folds of a cross-validation.

    Args:
        n_samples: samples of the training data.
        folds: in order; fold ``i`` belongs to repeat ``i // (len(folds) // num_repeats)``.
        splitter: what made them, for the record.
        seed: of the splitter.
        num_repeats: how many times the data is partitioned anew.
    """

    n_samples: int
    folds: list[Split]
    splitter: str = "unknown"
    seed: int = 0
    num_repeats: int = 1

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, fold: int) -> Split:
        return self.folds[fold]

    def repeat(self, fold: int) -> int:
        """The repeat that a fold belongs to, from 0."""
        return fold // max(len(self.folds) // self.num_repeats, 1)

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the folds."""
        return fingerprint([[split.train, split.test] for split in self.folds])

    def check(self, groups: Sequence[Any] | np.ndarray | None = None) -> Splits:
        """Return these splits, or refuse them.

        Raises:
            DataError: an empty part, an id that does not exist or stands in a list twice, a sample that a fold
                trains on and holds out, that is held out twice in one repeat, or a group on both sides.
        """
        for split in self.folds:
            _check_fold(split, self.n_samples)
            if groups is not None:
                _check_groups(split, np.asarray(groups))
        seen: dict[tuple[int, int], int] = {}
        for split in self.folds:
            for sample in split.test:
                other = seen.setdefault((self.repeat(split.fold), sample), split.fold)
                if other != split.fold:
                    raise DataError(
                        f"Sample {sample} is held out by folds {other} and {split.fold}, so it would be predicted "
                        "twice. Expected every sample in at most one held-out part (of each repeat): use a "
                        "splitter that partitions the data, or correct splits.json."
                    )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The splits as plain data, short: the training part is left out where it is all others."""
        folds = []
        for split in self.folds:
            is_rest = split.train == _others(split.test, self.n_samples)
            folds.append({"fold": split.fold, "test": split.test, "train": _REST if is_rest else split.train})
        return {
            "n_samples": self.n_samples, "num_folds": len(self.folds), "num_repeats": self.num_repeats,
            "splitter": self.splitter, "seed": self.seed, "folds": folds,
        }  # fmt: skip

    @classmethod
    def read(cls, file: Path) -> Splits:
        """The splits of a ``splits.json``.

        Raises:
            DataError: the file cannot be read, or something in it is missing or of the wrong type.
        """
        state = read_json(file, Any, DataError, "Correct it, or remove it.")
        try:
            return cls.from_dict(state)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Splits:
        """The splits that `to_dict` described, perhaps edited by hand.

        Raises:
            DataError: something is missing or of the wrong type.
        """
        check(state, SPLITS, "The splits cannot be read: splits", DataError, _EXPECTED)
        n_samples, folds = state["n_samples"], []
        for index, entry in enumerate(state["folds"]):
            test = list(entry["test"])
            train = _others(test, n_samples) if entry["train"] == _REST else list(entry["train"])
            folds.append(Split(index, train, test))
        return cls(n_samples, folds, state["splitter"], state["seed"], state["num_repeats"])


_EXPECTED = (
    'Expected n_samples, splitter, seed, num_repeats, and for every fold a list "test" and "train" (a list or '
    '"all others") of sample ids, which count from 0.'
)


def _others(test: list[int], n_samples: int) -> list[int]:
    held_out = set(test)
    return [index for index in range(n_samples) if index not in held_out]


def _check_fold(split: Split, n_samples: int) -> None:
    for name, part in (("train", split.train), ("test", split.test)):
        if not part:
            raise DataError(
                f"Fold {split.fold} has an empty {name} part. Every fold needs samples to train on and samples to "
                "hold out: use fewer folds, or correct the splitter."
            )
        wrong = [index for index in part if not 0 <= index < n_samples]
        if wrong:
            raise DataError(
                f"Fold {split.fold} names sample {wrong[0]} in its {name} part, but there are {n_samples} samples "
                "(ids count from 0). Were the splits made for other data?"
            )
        if len(set(part)) != len(part):
            twice = next(index for index in part if part.count(index) > 1)
            raise DataError(f"Fold {split.fold} names sample {twice} twice in its {name} part. Name it once.")
    both = set(split.train) & set(split.test)
    if both:
        raise DataError(
            f"Fold {split.fold} trains on sample {min(both)} and holds it out ({len(both)} such samples). A held-out "
            "sample must not be trained on."
        )


def _check_groups(split: Split, groups: np.ndarray) -> None:
    shared = set(groups[split.train].tolist()) & set(groups[split.test].tolist())
    if shared:
        name = min(shared, key=str)
        raise DataError(
            f"Group {name!r} is on both sides of fold {split.fold} ({len(shared)} such groups): what is learnt from "
            'its training samples would help on its held-out ones. Use splitter="group" or "stratified_group".'
        )
