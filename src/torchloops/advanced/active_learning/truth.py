"""Labels that exist already but are hidden: the research case, in which the pool is labelled data."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Subset, TensorDataset

from torchloops.advanced.targets import TARGET_KEYS, target_of
from torchloops.errors import DataError

__all__ = ["MaskedTruth"]


class MaskedTruth:
    """Gives the label of a sample when it is asked for it, and reads no label before.

    Labels come from the data set's ``targets`` or ``labels`` (also through Subset and ConcatDataset), from
    the last tensor of a TensorDataset, or else from the items themselves: ``(input, label)``, or a dict with
    one of the keys target, targets, label, labels, y. Only the last way reads inputs.

    Args:
        dataset: map-style data set.
        targets: labels of all samples in order, where they are kept beside the data set.
    """

    def __init__(self, dataset: Any, targets: Sequence[Any] | None = None) -> None:
        self.dataset = dataset
        self.targets = targets
        self._read: Callable[[int], Any] | None = None

    def __call__(self, sample_ids: Sequence[int]) -> list[int | None]:
        """Labels of these samples as class indices; None where a label is no single whole number."""
        read = self._find_reader()
        return [as_class(read(sample_id)) for sample_id in sample_ids]

    @property
    def reads_inputs(self) -> bool:
        """Whether a label can be read only together with its input."""
        return self._find_reader() == self._from_item

    def _find_reader(self) -> Callable[[int], Any]:
        if self._read is None:
            self._read = _reader(self.dataset) or _sequence_reader(self.targets) or self._from_item
        return self._read

    def all_classes(self, sample_ids: Sequence[int], needed_for: str) -> list[int]:
        """Classes of these samples, for a purpose that needs them.

        Raises:
            DataError: a label is no class index.
        """
        labels = self(sample_ids)
        classes = [label for label in labels if label is not None]
        if len(classes) != len(labels):
            sample_id = sample_ids[labels.index(None)]
            raise DataError(
                f"{needed_for} needs a class index for every sample, but the label of sample {sample_id} is "
                "none. Give stratify=False."
            )
        return classes

    def _from_item(self, sample_id: int) -> Any:
        advice = "Or give the data set an attribute `targets`."
        return target_of(self.dataset[sample_id], f"sample {sample_id}", advice)


def as_class(label: Any) -> int | None:
    """``label`` as an int, or None where it is no single whole number."""
    try:
        value = label.item() if hasattr(label, "item") else label
        return int(value) if int(value) == value else None
    except (TypeError, ValueError, RuntimeError):
        return None


def input_of(item: Any) -> Any:
    """The part of an item or batch that a model sees: the label is left out."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if key not in TARGET_KEYS}
    return item[0] if isinstance(item, tuple | list) else item


def _reader(dataset: Any) -> Callable[[int], Any] | None:
    """A function from position to label that reads no input; None where there is none."""
    if isinstance(dataset, Subset):
        inner, indices = _reader(dataset.dataset), dataset.indices
        return (lambda position: inner(indices[position])) if inner else None
    if isinstance(dataset, ConcatDataset):
        return _concat_reader(dataset)
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1].__getitem__ if len(dataset.tensors) > 1 else None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
            return _sequence_reader(values)
    return None


def _sequence_reader(values: Any) -> Callable[[int], Any] | None:
    return None if values is None else values.__getitem__


def _concat_reader(dataset: ConcatDataset[Any]) -> Callable[[int], Any] | None:
    readers = [_reader(part) for part in dataset.datasets]
    if None in readers:
        return None
    ends = dataset.cumulative_sizes

    def read(position: int) -> Any:
        part = bisect.bisect_right(ends, position)
        return readers[part](position - (ends[part - 1] if part else 0))  # type: ignore[misc]

    return read
