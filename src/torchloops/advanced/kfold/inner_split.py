"""The inner split: a part of a fold's training samples to choose a checkpoint by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from torchloops.data.draws import draw_samples
from torchloops.data.label_values import class_codes, read_form
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import undisturbed_import

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
    drawn = _draw(ids, count, seed, labels, groups)
    return sorted(set(ids.tolist()) - set(drawn)), drawn


def _draw(ids: np.ndarray, count: int, seed: int, labels: np.ndarray | None, groups: np.ndarray | None) -> list[int]:
    if groups is not None:
        own = groups[ids]
        if len(np.unique(own)) < 2:
            raise ConfigurationError("inner_split needs two groups or more in every fold's training samples.")
        model_selection = undisturbed_import("sklearn.model_selection")
        splitter = model_selection.GroupShuffleSplit(1, test_size=count / len(ids), random_state=seed)
        return sorted(ids[next(splitter.split(ids, groups=own))[1]].tolist())
    codes = class_codes(labels[ids]) if labels is not None and read_form(labels).is_classes else None
    return draw_samples(ids.tolist(), count, torch.Generator().manual_seed(seed), codes, leave_one=True)
