"""What a KFoldLoop refuses before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchloops.advanced.kfold.ensemble import check_ensemble
from torchloops.advanced.kfold.splitters import SPLITTERS
from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["OptimisticScoreWarning", "UnusedValidationDataWarning", "check_arguments", "check_folds", "check_free"]


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


def check_folds(folds: Sequence[int] | None, count: int) -> list[int]:
    """The folds to run, ascending; all of them where none are named.

    Raises:
        ConfigurationError: none at all, one that does not exist, or one named twice.
    """
    if folds is None:
        return list(range(count))
    wrong = [fold for fold in folds if not _is_whole(fold) or not 0 <= fold < count]
    if wrong or not folds or len(set(folds)) != len(folds):
        raise ConfigurationError(
            f"folds={list(folds)} must name folds from 0 to {count - 1}, each once"
            + (f"; {wrong[0]!r} is none of them." if wrong else ".")
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
