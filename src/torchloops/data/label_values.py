"""Labels as values: plain data, arrays, and what form they have."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from torchloops.errors import DataError

__all__ = ["LabelForm", "as_array", "class_codes", "is_missing", "plain_label", "read_form"]


@dataclass(frozen=True)
class LabelForm:
    """What labels are.

    Args:
        kind: "classes" (an index, a bool or a name a sample), "one_hot", "multilabel" (a row of 0 and 1 a sample),
            "numbers" (one or several a sample), or "dense" (a class for every place of a sample).
        written: how they are written: "int", "bool", "text", "float".
        n_classes: classes, or columns of one-hot and multi-label rows; of numbers that are all whole, what they would
            be as classes; else None.
        least: the smallest class index; 0 where there are none.
        shape: of the label of one sample.
        is_partial: known from some of the labels only: rows that all have a single 1 may be one-hot, or of samples
            that happen to have one label.
    """

    kind: str
    written: str
    n_classes: int | None = None
    least: int = 0
    shape: tuple[int, ...] = ()
    is_partial: bool = False

    @property
    def is_classes(self) -> bool:
        """Whether each sample has one class."""
        return self.kind in ("classes", "one_hot")


def read_form(values: np.ndarray) -> LabelForm:
    """The form of labels ``(n_samples, ...)``."""
    written = _WRITTEN.get(values.dtype.kind, "text")
    shape = values.shape[1:]
    if values.ndim == 1:
        if written == "text":
            return LabelForm("classes", written, len(np.unique(values.astype(str))))
        is_binary = bool(np.isin(values, (0, 1)).all())
        least, most = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if written == "float" and not is_binary:
            could_be = least >= 0 and bool((values == np.floor(values)).all())
            return LabelForm("numbers", written, most + 1 if could_be else None, least)
        return LabelForm("classes", written, 2 if is_binary else most + 1, least)
    if values.ndim == 2 and values.shape[1] > 1 and written != "text" and bool(np.isin(values, (0, 1)).all()):
        one = bool((values.astype(np.float64).sum(axis=1) == 1).all())
        return LabelForm("one_hot" if one else "multilabel", written, values.shape[1], shape=shape)
    return LabelForm("numbers" if written == "float" else "dense", written, shape=shape)


_WRITTEN = {"i": "int", "u": "int", "b": "bool", "f": "float"}


_WITHOUT = "Where predictions cannot be compared with such labels, cross-validation does without: predict=False."


def class_codes(values: np.ndarray) -> list[int]:
    """A number for the class of every sample, of labels that are classes; names count in order of the alphabet."""
    if values.ndim == 2:
        return values.argmax(axis=1).tolist()
    if values.dtype.kind in "US":
        return np.unique(values, return_inverse=True)[1].tolist()
    return values.astype(np.int64).tolist()


def plain_label(value: Any) -> Any:
    """One label as plain data: a number, a bool, a name, or a list of numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.item() if value.ndim == 0 or value.numel() == 1 else value.tolist()
    if isinstance(value, np.ndarray):
        return value.item() if value.size == 1 else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def as_array(values: Any, what: str = "labels") -> np.ndarray:
    """Values in order as an array ``(n_samples, ...)``; numbers stay numbers, names become text.

    Raises:
        DataError: one is missing (None or NaN), or they have different shapes.
    """
    if isinstance(values, Tensor):
        found = values.detach().cpu().numpy()
    elif hasattr(values, "to_numpy"):
        found = values.to_numpy()
    elif isinstance(values, np.ndarray):
        found = values
    elif stacked := _rows_of_one_shape(values):
        found = np.stack(stacked)
    else:
        listed = [plain_label(value) for value in values]
        _check_present(listed, what)
        try:
            found = np.asarray(listed)
        except ValueError as error:
            raise DataError(f"The {what} have different shapes; expected one for all. {_WITHOUT}") from error
    if found.dtype.kind in "Of":
        _check_present(found, what)
    if found.dtype.kind == "O":
        found = np.asarray(found.tolist())
    if found.dtype.kind == "O":
        types = sorted({type(value).__name__ for value in found.flat})
        raise DataError(
            f"The {what} are {' and '.join(types)}; expected numbers, bools, names or arrays, of one type. {_WITHOUT}"
        )
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _rows_of_one_shape(values: Any) -> list[np.ndarray] | None:
    """Labels that are arrays, such as masks, without a detour over lists; None where they are something else."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, Tensor | np.ndarray) for value in values):
        return None
    rows = [value.detach().cpu().numpy() if isinstance(value, Tensor) else value for value in values]
    return rows if len({row.shape for row in rows}) == 1 and rows[0].size > 1 else None


def _check_present(values: Any, what: str) -> None:
    missing: list[int]
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        missing = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1)).tolist() if len(values) else []
    else:
        missing = [index for index, value in enumerate(values) if is_missing(value)]
    if missing:
        raise DataError(
            f"Sample {missing[0]} has no value among the {what} (None or NaN; {len(missing)} of {len(values)} such "
            "samples). Leave these samples out (torch.utils.data.Subset), or give their values. Active learning "
            "over partly labelled data takes labelled_ids=..."
        )


def is_missing(value: Any) -> bool:
    """Whether a value is None or not a number."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)
