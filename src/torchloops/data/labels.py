"""The label of every sample: where it is kept, whether that can be believed, and what form labels have."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from torchloops.data.items import TARGET_KEYS, find_label, label_of
from torchloops.errors import DataError, did_you_mean
from torchloops.seeding import derive_seed, isolated_generators

__all__ = [
    "LabelForm", "Labels", "as_array", "class_codes", "class_names", "held_labels", "number_of_classes",
    "plain_label", "read_column", "read_form",
]  # fmt: skip

_NAMES = ("targets", "labels", "_labels")
_CHECKED_PER_CLASS = 16
_CHECKED_SPREAD = 8
_SECONDS_WITHOUT_BAR = 2.0


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
    """

    kind: str
    written: str
    n_classes: int | None = None
    least: int = 0
    shape: tuple[int, ...] = ()

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


def class_codes(values: np.ndarray) -> list[int]:
    """A number for the class of every sample, of labels that are classes; names count in order of the alphabet."""
    if values.ndim == 2:
        return values.argmax(axis=1).tolist()
    if values.dtype.kind in "US":
        return np.unique(values, return_inverse=True)[1].tolist()
    return values.astype(np.int64).tolist()


def plain_label(value: Any) -> Any:
    """One label as plain data: a number, a bool, a name, or a list of numbers."""
    if isinstance(value, torch.Tensor):
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
    if isinstance(values, torch.Tensor):
        found = values.detach().cpu().numpy()
    elif hasattr(values, "to_numpy"):
        found = values.to_numpy()
    elif isinstance(values, np.ndarray):
        found = values
    else:
        listed = [plain_label(value) for value in values]
        _check_present(listed, what)
        try:
            found = np.asarray(listed)
        except ValueError as error:
            raise DataError(f"The {what} have different lengths ({error}); expected one shape for all.") from error
    if found.dtype.kind in "Of":
        _check_present(found, what)
    if found.dtype.kind == "O":
        found = np.asarray(found.tolist())
    if found.dtype.kind == "O":
        raise DataError(f"The {what} are of mixed types ({sorted({type(v).__name__ for v in found.flat})}).")
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _check_present(values: Any, what: str) -> None:
    missing: list[int]
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        missing = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1)).tolist() if len(values) else []
    else:
        missing = [index for index, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise DataError(
            f"Sample {missing[0]} has no value among the {what} (None or NaN; {len(missing)} of {len(values)} such "
            "samples). Leave these samples out (torch.utils.data.Subset), or give their values. Active learning "
            "over partly labelled data takes labelled_ids=..."
        )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


# where labels are kept


def held_labels(dataset: Any, target_key: str | int | None = None, properties: bool = True) -> Any:
    """What a data set keeps beside its samples and looks like their labels, by position; None where there is nothing.

    That is ``targets``, ``labels`` or ``_labels``, the second entries of ``samples``, the second of a TensorDataset's
    tensors, or a column of that name, through Subset and ConcatDataset. It may differ from what the samples say.

    Args:
        dataset: map-style data set.
        target_key: place of the label in a sample.
        properties: also ask properties, which may read samples.
    """
    if isinstance(dataset, Subset):
        inner = held_labels(dataset.dataset, target_key, properties)
        return None if inner is None else _array_or_none(inner, list(dataset.indices))
    if isinstance(dataset, ConcatDataset):
        parts = [held_labels(part, target_key, properties) for part in dataset.datasets]
        if any(part is None for part in parts):
            return None
        arrays = [_array_or_none(part) for part in parts]
        return None if any(array is None for array in arrays) else _joined(arrays)
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and tensors and len(tensors[0]) == len(dataset):  # a TensorDataset, or one like it
        place = target_key if isinstance(target_key, int) else 1
        return tensors[place] if len(tensors) > 1 and -len(tensors) <= place < len(tensors) else None
    return _held_attribute(dataset, target_key, properties)


def _held_attribute(dataset: Any, target_key: str | int | None, properties: bool) -> Any:
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list | tuple):
        names = TARGET_KEYS if target_key is None else (target_key,)
        found = [name for name in names if name in columns]
        return dataset[found[0]] if len(found) == 1 else None
    for name in _NAMES:
        if not properties and isinstance(getattr(type(dataset), name, None), property | cached_property):
            continue
        values = getattr(dataset, name, None)
        if _fits(values, dataset):
            return values
    samples: Any = getattr(dataset, "samples", None)
    if _fits(samples, dataset) and all(isinstance(entry, tuple | list) for entry in islice(samples, 1)):
        return [entry[1] for entry in samples]
    return None


def _fits(values: Any, dataset: Any) -> bool:
    if values is None or callable(values) or isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return False
    return hasattr(dataset, "__len__") and len(values) == len(dataset)


def _array_or_none(values: Any, rows: list[int] | None = None) -> np.ndarray | None:
    try:
        return as_array(values)[slice(None) if rows is None else rows]
    except DataError:  # some are missing, so that nothing can be compared
        return None


def _joined(arrays: list[Any]) -> np.ndarray | None:
    same = len({(array.dtype.kind in "OUS", array.shape[1:]) for array in arrays}) == 1
    return np.concatenate(arrays) if same else None


def read_column(dataset: Any, given: Any, what: str) -> np.ndarray:
    """Values of all samples that a user has given: in order, by the name of a column or attribute, or by a function.

    Args:
        dataset: map-style data set; Subset and ConcatDataset are looked through for a name.
        given: the values, a name, or a function of the data set.
        what: the argument's name.

    Raises:
        DataError: no such column, another number of values than samples, or some are missing.
    """
    if isinstance(given, str):
        values = _column(dataset, given, what)
    else:
        values = given(dataset) if isinstance(given, Callable) else given  # type: ignore[arg-type]
    found = as_array(values, what)
    if found.ndim == 0 or len(found) != len(dataset):
        raise DataError(
            f"{what} must hold one value a sample: expected {len(dataset)}, got "
            f"{len(found) if found.ndim else 'a single value'}. Give them in the order of the training data."
        )
    return found


def _column(dataset: Any, name: str, what: str) -> Any:
    if isinstance(dataset, Subset):
        return as_array(_column(dataset.dataset, name, what), what)[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([as_array(_column(part, name, what), what) for part in dataset.datasets])
    if name in (getattr(dataset, "column_names", None) or ()):
        return dataset[name]
    if hasattr(dataset, name):
        return getattr(dataset, name)
    names = list(getattr(dataset, "column_names", None) or ())
    for table in getattr(dataset, "__dict__", {}).values():
        if hasattr(table, "columns") and hasattr(table, "iloc"):
            if name in table.columns:
                return table[name]
            names += map(str, table.columns)
    names = names or [key for key in vars(dataset) if not key.startswith("_")]
    raise DataError(
        f"{what}={name!r}: {type(dataset).__name__} has no column or attribute of that name; it has {names}."
        f"{did_you_mean(name, names)} Give the values themselves, or a function of the data set."
    )


def class_names(given: Sequence[str] | None, *owners: Any) -> list[str] | None:
    """Names of the classes as they are given, or as the first of some data modules and data sets has them; or None."""
    found = given or next((names for owner in owners if (names := getattr(owner, "classes", None))), None)
    return [str(name) for name in found] if isinstance(found, list | tuple) else None


def number_of_classes(labels: Labels, *owners: Any) -> int:
    """Number of classes: as the first of some data modules and data sets names it, else of the labels.

    Raises:
        DataError: the labels are no classes.
    """
    for owner in owners:
        known = getattr(owner, "num_classes", None) or len(getattr(owner, "classes", None) or ())
        if known:
            return int(known)
    count = len(labels.classes) if labels.classes else labels.form.n_classes
    if count is None:
        raise DataError(f"The labels are {labels.form.kind} ({labels.form.written}), so there is no number of classes.")
    return count


# what the labels are


class Labels:
    """The labels of the samples of a data set, by position.

    A sample's label is what a batch hands to the module, see `label_of`. What a data set keeps beside its samples is
    a shortcut: it is compared with some samples, of every class, before it is believed; where it differs, and where
    there is none, the samples are read.

    Args:
        dataset: map-style data set; the view without random transforms where there is one.
        target_key: place of the label in a sample.
        given: labels of all samples, as `read_column` takes them.
        hints: further places where labels may be kept, each a sequence or None.
        classes: names of the classes in the order of their indices, for labels that are names.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        target_key: str | int | None = None,
        given: Any = None,
        hints: Iterable[Any] = (),
        classes: Sequence[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.target_key = target_key
        self.given = given
        self.hints = tuple(hints)
        self.classes = None if classes is None else [str(name) for name in classes]
        self._read: np.ndarray | None = None

    @cached_property
    def at_hand(self) -> np.ndarray | None:
        """All labels where they are known without reading all samples, ``(n_samples, ...)``; else None.

        Raises:
            DataError: given labels that do not fit the data.
        """
        if self.given is not None:
            return read_column(self.dataset, self.given, "targets")
        if len(self.dataset) == 0:
            return None
        held = [hint for hint in self.hints if _fits(hint, self.dataset)]
        found = held_labels(self.dataset, self.target_key)
        for values in [*held, *([] if found is None else [found])]:
            array = _array_or_none(values)
            if array is not None and len(array) == len(self.dataset):
                if getattr(self.dataset, "targets_are_checked", False):
                    return array
                checked = self._checked(array)
                if checked is not None:
                    return checked
        return None

    @property
    def known(self) -> np.ndarray | None:
        """All labels where they are at hand, or were read already; else None."""
        return self._read if self.at_hand is None else self.at_hand

    @property
    def reads_inputs(self) -> bool:
        """Whether labels can be read only together with the inputs."""
        return self.known is None

    def all(self) -> np.ndarray:
        """The labels of all samples, ``(n_samples, ...)``, out of the samples where they are not at hand.

        Raises:
            DataError: a sample has no label.
        """
        if self.known is None:
            self._read = as_array(self._read_items(range(len(self.dataset))))
        found = self.known
        assert found is not None
        return found

    def __call__(self, sample_ids: Sequence[int]) -> list[Any]:
        """The labels of these samples as plain data; where all labels were not looked at, these samples are read.

        Raises:
            DataError: one has none.
        """
        known = self._read if self.__dict__.get("at_hand") is None else self.at_hand
        if known is not None:
            return [plain_label(known[index]) for index in sample_ids]
        found = [plain_label(value) for value in self._read_items(sample_ids)]
        for sample_id, value in zip(sample_ids, found, strict=True):
            if _is_missing(value):
                raise DataError(
                    f"Sample {sample_id} has no label (None or NaN), and it is needed. Leave the sample out, or "
                    "give its label."
                )
        return found

    @cached_property
    def form(self) -> LabelForm:
        """What the labels are; reads them all."""
        return read_form(self.all())

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Labels ``(n_samples, ...)`` as class indices, to be compared with a model's classes.

        Raises:
            DataError: names, and the order of the classes is not known or does not hold one of them.
        """
        form = read_form(values)
        if form.written == "text":
            return self._indices_of(values)
        return values.argmax(axis=1) if values.ndim == 2 and self.form.kind == "one_hot" else values.astype(np.int64)

    def class_indices(self, sample_ids: Sequence[int], needed_for: str) -> list[int]:
        """A number for the class of every sample, for a draw that keeps the classes' shares.

        Raises:
            DataError: a sample has no class.
        """
        if not self.form.is_classes:
            raise DataError(
                f"{needed_for} needs one class a sample, and the labels are {self.form.kind} "
                f"({self.form.written}, of shape {self.form.shape}). Give stratify=False."
            )
        return class_codes(self.all()[list(sample_ids)])

    def _indices_of(self, values: np.ndarray) -> np.ndarray:
        if self.classes is None:
            names = [str(name) for name in np.unique(values.astype(str))][:10]
            raise DataError(
                f"The labels are names ({', '.join(names)}), and which output of the model stands for which is not "
                "known. Give classes=[...], the names in the order of the model's outputs, to the data module."
            )
        index = {name: position for position, name in enumerate(self.classes)}
        unknown = sorted({str(name) for name in values.flat} - index.keys())
        if unknown:
            raise DataError(
                f"The label {unknown[0]!r} is none of classes={self.classes}.{did_you_mean(unknown[0], self.classes)}"
            )
        return np.array([index[str(name)] for name in values.flat], dtype=np.int64).reshape(values.shape)

    # reading samples

    def _read_items(self, sample_ids: Sequence[int]) -> list[Any]:
        advice = "Or give the labels: targets=..."
        read = lambda index: label_of(self.dataset[index], self.target_key, f"sample {index}", advice)  # noqa: E731
        with isolated_generators():
            return [read(index) for index in _with_bar(sample_ids, "Reading labels")]

    def _checked(self, held: np.ndarray) -> np.ndarray | None:
        """Labels that agree with those of some samples, with their type; None where they do not."""
        positions = _positions_to_check(held)
        with isolated_generators():
            try:
                items = [plain_label(find_label(self.dataset[index], self.target_key)) for index in positions]
                truth = as_array(items)
            except DataError:
                return None
        part = held[positions]
        comparable = (part.dtype.kind in "iubf") == (truth.dtype.kind in "iubf")
        if not comparable or part.shape != truth.shape or not bool((part == truth).all()):
            return None
        return held if held.dtype.kind == truth.dtype.kind else held.astype(truth.dtype)


def _positions_to_check(held: np.ndarray) -> list[int]:
    """The first and last sample, some drawn by a fixed seed, and the first of each of some classes."""
    size = len(held)
    drawn = np.random.default_rng(derive_seed("labels", size)).integers(0, size, _CHECKED_SPREAD)
    chosen = {0, size - 1, *drawn.tolist()}
    if held.ndim == 1:
        chosen |= set(np.unique(held, return_index=True)[1][:_CHECKED_PER_CLASS].tolist())
    return sorted(int(index) for index in chosen)


def _with_bar(sample_ids: Sequence[int], description: str) -> Iterable[int]:
    """The ids, with a progress bar as soon as it is seen that they take long."""
    start = perf_counter()
    for done, index in enumerate(sample_ids):
        elapsed = perf_counter() - start
        if done and elapsed > 0.2 and elapsed / done * len(sample_ids) > _SECONDS_WITHOUT_BAR:
            from rich.console import Console
            from rich.progress import track

            yield from track(
                list(sample_ids)[done:], description, total=len(sample_ids), completed=done, transient=True,
                console=Console(stderr=True),
            )  # fmt: skip
            return
        yield index
