"""The inner split: a part of a fold's training samples to choose a checkpoint by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchloops.advanced.kfold.splitters import is_classes
from torchloops.errors import ConfigurationError, DataError

__all__ = ["draw_inner_split"]


def draw_inner_split(
    train_ids: Sequence[int],
    size: float | int,
    seed: int,
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    held_out: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """Cut a validation part off a fold's training samples.

    By group where groups are given, else stratified where class labels are at hand and allow it, else at random.
    Where all training samples come before all held-out ones, as in a time series, it is the last of them.

    Args:
        train_ids: samples to cut from.
        size: share (below 1) or number (1 or more) of them.
        seed: of the draw.
        labels, groups: of **all** samples, or None.
        held_out: samples the fold is scored on.

    Returns:
        ``(rest, drawn)``, both ascending.
    """
    ids = np.asarray(sorted(train_ids))
    count = round(size * len(ids)) if size < 1 else int(size)
    if not 0 < count < len(ids):
        raise DataError(
            f"inner_split={size} leaves {len(ids) - count} of {len(ids)} samples to train with. "
            "Give a share above 0 and below 1, or a smaller number of samples."
        )
    if len(held_out) and ids.max() < min(held_out):
        return ids[:-count].tolist(), ids[-count:].tolist()
    rest, drawn = _draw(ids, count, seed, labels, groups)
    return sorted(ids[rest].tolist()), sorted(ids[drawn].tolist())


def _draw(
    ids: np.ndarray, count: int, seed: int, labels: np.ndarray | None, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    if groups is not None:
        own = groups[ids]
        if len(np.unique(own)) < 2:
            raise ConfigurationError("inner_split needs two groups or more in every fold's training samples.")
        splitter = GroupShuffleSplit(1, test_size=count / len(ids), random_state=seed)
        return next(splitter.split(ids, groups=own))
    if labels is not None and is_classes(labels):
        own = labels[ids]
        names, counts = np.unique(own, return_counts=True)
        if counts.min() >= 2 and min(count, len(ids) - count) >= len(names):
            return next(StratifiedShuffleSplit(1, test_size=count, random_state=seed).split(ids, own))
    return next(ShuffleSplit(1, test_size=count, random_state=seed).split(ids))
