"""What a KFoldLoop refuses before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchloops.advanced.kfold.ensemble import check_ensemble
from torchloops.advanced.kfold.splitters import SPLITTERS
from torchloops.errors import CheckpointError, ConfigurationError, DataError, ResumeWarning, did_you_mean

if TYPE_CHECKING:
    from torchloops.advanced.kfold.records import FoldResult

__all__ = [
    "OptimisticScoreWarning",
    "UnusedValidationDataWarning",
    "check_arguments",
    "check_folds",
    "check_free",
    "check_new",
    "warn_of_other_threads",
]


class OptimisticScoreWarning(UserWarning):
    """A fold was stopped, or its learning rate set, by the samples it is scored on: the score is too good."""


class UnusedValidationDataWarning(UserWarning):
    """The data has validation data of its own, which cross-validation leaves out: held-out parts take its place."""


def check_arguments(loop: Any) -> None:
    """Refuse arguments of a KFoldLoop that make no sense, all of them in one error.

    Raises:
        ConfigurationError: with a line for each.
    """
    wrong = [
        f"{name} must be {least} or more, got {getattr(loop, name)!r}."
        for name, least in (("num_folds", 2), ("num_repeats", 1), ("threads", 1))
        if getattr(loop, name) is not None and (not _is_whole(getattr(loop, name)) or getattr(loop, name) < least)
    ]
    if isinstance(loop.splitter, str) and loop.splitter not in SPLITTERS:
        hint = did_you_mean(loop.splitter, SPLITTERS)
        wrong.append(f'There is no splitter "{loop.splitter}"; there are {", ".join(SPLITTERS)}.{hint}')
    if loop.checkpoint not in ("last", "best"):
        wrong.append(f'checkpoint is "last" or "best", got {loop.checkpoint!r}.')
    if loop.mode not in ("min", "max"):
        wrong.append(f'mode is "min" or "max", got {loop.mode!r}.')
    split = loop.inner_split
    if split is not None and (split <= 0 or (isinstance(split, float) and split >= 1)):
        wrong.append(f"inner_split is a share above 0 and below 1, or a whole number of samples, got {split!r}.")
    if loop.checkpoint == "best" and split is None:
        wrong.append(
            'checkpoint="best" without inner_split would choose the checkpoint by the samples it is scored on, and the '
            "score would be too good. Give inner_split=0.1, a part of each fold's training samples to choose by, or "
            'keep checkpoint="last".'
        )
    if loop.predict is True:
        wrong.append("predict is a function of (module, batch), None for the module's own way, or False.")
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    if loop.test_ensemble is not None:
        check_ensemble(loop.test_ensemble)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_folds(folds: Sequence[int] | None, count: int, unfinished: int | None = None) -> list[int]:
    """The folds to run, ascending; all of them where none are named.

    Args:
        folds: those named.
        count: how many there are.
        unfinished: the one that a run goes on with.

    Raises:
        ConfigurationError: none at all, one that does not exist, or one named twice.
        CheckpointError: the unfinished one is not named.
    """
    if folds is None:
        return list(range(count))
    wrong = [fold for fold in folds if not _is_whole(fold) or not 0 <= fold < count]
    if wrong or not folds or len(set(folds)) != len(folds):
        raise ConfigurationError(
            f"folds={list(folds)} must name folds from 0 to {count - 1}, each once"
            + (f"; {wrong[0]!r} is none of them." if wrong else ".")
        )
    if unfinished is not None and unfinished not in folds:
        raise CheckpointError(
            f"The checkpoint was taken inside fold {unfinished}, and folds={list(folds)} leaves it out. Name it too."
        )
    return sorted(folds)


def check_free(path: Any, finished: Sequence[int], to_run: Sequence[int], count: int) -> None:
    """Refuse to run folds again whose results are in the folder.

    Raises:
        ConfigurationError: some of them are there.
    """
    again = sorted(set(finished) & set(to_run))
    if not again:
        return
    missing = [fold for fold in range(count) if fold not in finished]
    raise ConfigurationError(
        f"{path} holds the results of fold{'s' if len(again) > 1 else ''} {', '.join(map(str, again))} of an earlier "
        "run, which are never replaced. Give another export_path"
        + (f", or folds={missing} to add the missing ones." if missing else "; no fold is missing there.")
    )


def check_new(result: FoldResult, finished: Sequence[FoldResult]) -> None:
    """Refuse a sample that an earlier fold has predicted, and say so where a score is optimistic.

    Raises:
        DataError: a sample is predicted twice in one repeat.
    """
    known = {
        sample: other.fold
        for other in finished
        if other.row["repeat"] == result.row["repeat"] and other.fold != result.fold
        for sample in other.sample_ids
    }
    twice = [sample for sample in result.sample_ids if sample in known]
    if twice:
        raise DataError(
            f"Sample {twice[0]} is predicted twice, by folds {known[twice[0]]} and {result.fold} ({len(twice)} "
            "such samples). Expected each in one held-out part at most; correct setup_folds of the data module."
        )
    if result.row["optimistic"] and not any(other.row["optimistic"] for other in finished):
        warnings.warn(
            f"Fold {result.fold} was stopped, or its learning rate set, by values on the samples that it is scored "
            "on, so its score is optimistic (column `optimistic`). Give inner_split=0.1: the fold then watches a "
            "part of its training samples.",
            OptimisticScoreWarning,
            stacklevel=2,
        )


def warn_of_other_threads(before: int | None, now: int, jobs: int) -> None:
    """Warn where folds to come are computed with another number of torch threads than those before a resume."""
    if before not in (None, now):
        warnings.warn(
            f"The folds so far were computed with {before} threads of torch, and those to come have {now} "
            f"(n_jobs={jobs}): last digits may differ. Resume with the n_jobs and threads that the run had; "
            "KFoldLoop(threads=...) holds them from the start.",
            ResumeWarning,
            stacklevel=2,
        )
