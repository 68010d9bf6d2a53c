"""The label of every sample: what is kept beside the samples, checked, or the samples themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from torchloops.data.columns import array_or_none, fits, held_labels, read_column
from torchloops.data.items import find_label, label_of
from torchloops.data.label_values import LabelForm, as_array, class_codes, is_missing, plain_label, read_form
from torchloops.errors import DataError, did_you_mean
from torchloops.seeding import derive_seed, isolated_generators

__all__ = ["Labels", "class_names", "number_of_classes"]

_CHECKED_PER_CLASS = 16
_CHECKED_SPREAD = 8
_SECONDS_WITHOUT_BAR = 2.0


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
        held = [hint for hint in self.hints if fits(hint, self.dataset)]
        found = held_labels(self.dataset, self.target_key)
        for values in [*held, *([] if found is None else [found])]:
            array = array_or_none(values)
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
        is_looked_at = self.given is not None or self.__dict__.get("at_hand") is not None
        known = self.at_hand if is_looked_at else self._read
        if known is not None:
            return [plain_label(known[index]) for index in sample_ids]
        found = [plain_label(value) for value in self._read_items(sample_ids)]
        for sample_id, value in zip(sample_ids, found, strict=True):
            if is_missing(value):
                raise DataError(
                    f"Sample {sample_id} has no label (None or NaN), and it is needed. Leave the sample out, or "
                    "give its label."
                )
        return found

    @cached_property
    def form(self) -> LabelForm:
        """What the labels are; reads them all, where that of the first sample is no array such as a mask."""
        if self.known is None and len(self.dataset):
            first = self._read_items([0])
            if getattr(first[0], "ndim", 0) > 1:
                return read_form(as_array(first))
        return read_form(self.all())

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Labels ``(n_samples, ...)`` as class indices, to be compared with a model's classes.

        Raises:
            DataError: names, and the order of the classes is not known or does not hold one of them.
        """
        form = read_form(values)
        if form.written == "text":
            return self._indices_of(values)
        if values.ndim == 2 and "one_hot" in (form.kind, self.form.kind):
            return values.argmax(axis=1)
        return values.astype(np.int64)

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
