"""Splitters of scikit-learn, by name or as objects, and the splits they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from torchloops.advanced.kfold.splits import Split, Splits
from torchloops.data.label_values import read_form
from torchloops.errors import ConfigurationError, DataError, did_you_mean
from torchloops.seeding import undisturbed_import

__all__ = ["SPLITTERS", "make_splits", "may_use_labels", "needs_groups", "resolve_splitter"]

_CLASSES = {
    "kfold": "KFold",
    "stratified": "StratifiedKFold",
    "group": "GroupKFold",
    "stratified_group": "StratifiedGroupKFold",
    "repeated": "RepeatedKFold",
    "repeated_stratified": "RepeatedStratifiedKFold",
    "time_series": "TimeSeriesSplit",
    "leave_one_out": "LeaveOneOut",
    "leave_one_group_out": "LeaveOneGroupOut",
    "predefined": "PredefinedSplit",
}
SPLITTERS = tuple(_CLASSES)
_SHUFFLED = ("kfold", "stratified", "stratified_group")
_REPEATED = ("repeated", "repeated_stratified")
_FIXED_NUMBER = ("leave_one_out", "leave_one_group_out", "predefined")
DEFAULT_FOLDS = 5
DEFAULT_REPEATS = 10


def resolve_splitter(
    splitter: Any,
    num_folds: int | None,
    num_repeats: int | None,
    seed: int,
    labels: Callable[[], np.ndarray | None],
    groups: np.ndarray | None,
) -> Any:
    """An object with ``split`` and ``get_n_splits``.

    Args:
        splitter: one, or a name of `SPLITTERS`; None: stratified where class labels are at hand, by group where
            groups are given, both where both are, else shuffled k-fold.
        num_folds: folds of one repeat.
        num_repeats: for the repeated ones.
        seed: of the shuffling.
        labels: gives the labels at hand, or None.
        groups: group of every sample.

    Raises:
        ConfigurationError: no such name, no splitter, or arguments that it does not take.
    """
    if splitter is None:
        splitter = _default_name(labels(), groups)
    if isinstance(splitter, str):
        return _by_name(splitter, num_folds, num_repeats, seed, groups)
    if isinstance(splitter, type) or not (hasattr(splitter, "split") and hasattr(splitter, "get_n_splits")):
        raise ConfigurationError(
            f"splitter must be a name ({', '.join(SPLITTERS)}) or an object with scikit-learn's split and "
            f"get_n_splits, got {splitter!r}." + (" Give an instance." if isinstance(splitter, type) else "")
        )
    if num_repeats is not None:
        raise ConfigurationError("num_repeats belongs to the splitter's name; give it to the splitter object itself.")
    return splitter


def _default_name(labels: np.ndarray | None, groups: np.ndarray | None) -> str:
    by_class = labels is not None and read_form(labels).is_classes
    if groups is not None:
        return "stratified_group" if by_class else "group"
    return "stratified" if by_class else "kfold"


def _by_name(name: str, num_folds: int | None, num_repeats: int | None, seed: int, groups: np.ndarray | None) -> Any:
    if name not in _CLASSES:
        raise ConfigurationError(
            f'There is no splitter "{name}"; there are {", ".join(SPLITTERS)}.{did_you_mean(name, SPLITTERS)}'
        )
    if num_repeats is not None and name not in _REPEATED:
        raise ConfigurationError(
            f'num_repeats={num_repeats} is for "repeated" and "repeated_stratified", not "{name}".'
        )
    cls = getattr(undisturbed_import("sklearn.model_selection"), _CLASSES[name])
    if name == "predefined":
        if groups is None:
            raise ConfigurationError(
                'splitter="predefined" needs the fold of every sample (-1: always train). '
                "Give them as groups: KFoldDataModule(data, groups=...)."
            )
        return cls(groups)
    if name in _FIXED_NUMBER:
        return cls()
    settings: dict[str, Any] = {"n_splits": num_folds or DEFAULT_FOLDS}
    if name in _REPEATED:
        settings |= {"n_repeats": num_repeats or DEFAULT_REPEATS, "random_state": seed}
    elif name in _SHUFFLED:
        settings |= {"shuffle": True, "random_state": seed}
    elif name == "group":
        settings |= _group_shuffling(cls, seed)
    try:
        return cls(**settings)
    except ValueError as error:
        raise ConfigurationError(f"num_folds={num_folds} is not possible: {error}") from error


def _group_shuffling(cls: Any, seed: int) -> dict[str, Any]:
    import inspect

    takes = "shuffle" in inspect.signature(cls).parameters  # scikit-learn 1.6 and later
    return {"shuffle": True, "random_state": seed} if takes else {}


def stratifies(splitter: Any) -> bool:
    """Whether a splitter is one of scikit-learn's own that keep the classes' shares."""
    return _is_own(splitter) and "Stratified" in type(splitter).__name__


def may_use_labels(splitter: Any) -> bool:
    """Whether a splitter looks at labels, or might: that is every one that is not scikit-learn's own."""
    return stratifies(splitter) or not _is_own(splitter)


def needs_groups(splitter: Any) -> bool:
    """Whether a splitter is one of scikit-learn's own that keep groups together."""
    return _is_own(splitter) and "Group" in type(splitter).__name__


def _is_own(splitter: Any) -> bool:
    return type(splitter).__module__.startswith("sklearn.")


def make_splits(
    splitter: Any,
    n_samples: int,
    sample_ids: Sequence[int],
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    num_folds: int | None,
    seed: int,
) -> Splits:
    """Ask the splitter for its folds and check them.

    Args:
        splitter: with ``split`` and ``get_n_splits``.
        n_samples: samples of the data set.
        sample_ids: ids of those that are split.
        labels, groups: of all samples of the data set, or None.
        num_folds: folds of one repeat, where that was asked for.
        seed: of the splitter, for the record.

    Raises:
        ConfigurationError: the splitter has another number of folds than ``num_folds``.
        DataError: more folds than samples, groups or members of a class; or what `Splits.check` refuses.
    """
    repeats = int(getattr(splitter, "n_repeats", 1))
    is_predefined = type(splitter).__name__ == "PredefinedSplit"
    if needs_groups(splitter) and groups is None:
        raise ConfigurationError(
            f"{type(splitter).__name__} needs the group of every sample. Give them: KFoldDataModule(data, groups=...)."
        )
    ids = np.asarray(sample_ids)
    inputs = np.zeros(len(ids))
    all_groups = groups
    labels = None if labels is None else _for_splitter(labels[ids])
    groups = None if groups is None else groups[ids]
    total = int(splitter.get_n_splits(inputs, labels, groups))
    if num_folds is not None and total != num_folds * repeats:
        raise ConfigurationError(
            f"num_folds={num_folds}, but {type(splitter).__name__} makes {total} folds"
            + (f" in {repeats} repeats" if repeats > 1 else "")
            + ". Leave num_folds out, or give the same number."
        )
    _check_numbers(splitter, len(ids), labels, groups, total // repeats)
    try:
        wanted = needs_groups(splitter) or not _is_own(splitter)
        pairs = list(splitter.split(inputs, labels, groups if wanted else None))
    except ValueError as error:
        raise DataError(f"{type(splitter).__name__} cannot split {len(ids)} samples: {error}") from error
    folds = [
        Split(index, ids[np.asarray(train)].tolist(), ids[np.asarray(test)].tolist())
        for index, (train, test) in enumerate(pairs)
    ]
    splits = Splits(n_samples, folds, type(splitter).__name__, seed, repeats)
    return splits.check(None if is_predefined else all_groups)


def _for_splitter(labels: np.ndarray) -> np.ndarray:
    """Labels as splitters take them: one-hot rows become classes, and fractions without a fraction whole numbers."""
    form = read_form(labels)
    if form.kind == "one_hot":
        return labels.argmax(axis=1)
    return labels.astype(np.int64) if form.kind == "classes" and form.written == "float" else labels


def _check_numbers(
    splitter: Any, n_samples: int, labels: np.ndarray | None, groups: np.ndarray | None, folds: int
) -> None:
    """Refuse more folds than there are samples, groups, or members of a class."""
    if folds > n_samples:
        raise DataError(f"{folds} folds need {folds} samples or more, but there are {n_samples}. Use fewer folds.")
    if needs_groups(splitter) and groups is not None and folds > len(np.unique(groups)):
        raise DataError(f"{folds} folds need {folds} groups or more, but there are {len(np.unique(groups))}.")
    if not stratifies(splitter) or labels is None:
        return
    if not read_form(labels).is_classes:
        raise DataError(
            f"{type(splitter).__name__} needs one class label a sample, got {labels.dtype} values of shape "
            f'{labels.shape}. Use splitter="kfold", or give targets=... to KFoldDataModule.'
        )
    names, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        rare = int(counts.argmin())
        raise DataError(
            f"{folds} stratified folds need {folds} members of every class or more, but class {names[rare]} has "
            f'{counts[rare]}. Use fewer folds, or splitter="kfold".'
        )
