"""Labels that are given at the start, by id or by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from torchloops.data.items import find_label
from torchloops.data.label_values import plain_label
from torchloops.errors import ConfigurationError, DataError

__all__ = ["WithLabels", "given_labels", "of_baal"]


def given_labels(labelled_ids: Sequence[int] | Mapping[int, Any]) -> dict[int, Any]:
    """Labels by id; None where the data knows them."""
    if isinstance(labelled_ids, Mapping):
        missing = [i for i, label in labelled_ids.items() if label is None]
        if missing:
            raise ConfigurationError(f"labelled_ids gives sample {missing[0]} the label None. Leave it out.")
        return {int(sample_id): plain_label(label) for sample_id, label in labelled_ids.items()}
    ids = [int(sample_id) for sample_id in labelled_ids]
    if len(set(ids)) != len(ids):
        raise ConfigurationError("labelled_ids names a sample twice. Name each once.")
    return dict.fromkeys(ids)


def of_baal(labelled: Any, labelled_ids: Any, eval_dataset: Any) -> tuple[Any, Any]:
    """What baal's ``ActiveLearningDataset`` holds: its data set, and the ids of its labelled samples."""
    if not type(labelled).__module__.startswith("baal.") or not hasattr(labelled, "labelled_map"):
        return labelled, labelled_ids
    if getattr(labelled, "pool_specifics", None) and eval_dataset is None:
        raise ConfigurationError(
            f"The ActiveLearningDataset sets {sorted(labelled.pool_specifics)} for its pool (pool_specifics). Give "
            "eval_dataset=..., its samples as the pool shows them."
        )
    if labelled_ids is not None:
        raise ConfigurationError("labelled_ids was given, but baal's ActiveLearningDataset says what is labelled.")
    return labelled._dataset, [i for i, step in enumerate(labelled.labelled_map) if int(step)]


class WithLabels(Dataset[Any]):
    """Samples with labels that were given by value.

    Args:
        dataset: map-style data set of inputs; where samples have a label, it must be the one given.
        labels: by sample id.
        target_key: place of the label in a sample.
    """

    def __init__(self, dataset: Any, labels: Mapping[int, Any], target_key: str | int | None) -> None:
        self.dataset = dataset
        self.labels = labels
        self.target_key = target_key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item, label = self.dataset[index], self.labels[index]
        label = torch.tensor(label) if isinstance(label, list) else label
        if isinstance(item, Mapping):
            return {**item, self.target_key or "label": label}
        own = find_label(item, self.target_key)
        if own is None:
            inputs = list(item) if isinstance(item, tuple | list) else [item]
            return (*inputs[:1], label, *inputs[1:])
        if plain_label(own) != plain_label(label):
            raise DataError(
                f"Sample {index} has the label {plain_label(own)!r} of its own, and {plain_label(label)!r} was given "
                "for it. Give labels for samples without one, or none."
            )
        return item
