"""The raw data sets behind an ImageClassificationData: which there are, their classes, their split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchloops.errors import ConfigurationError, DataError
from torchloops.vision.datasets import ImageView, find_targets, known_targets, split_item
from torchloops.vision.depth import ValueRange
from torchloops.vision.reading import as_image_tensor
from torchloops.vision.splitting import stratified_split

__all__ = ["ImageSources", "describe_sources"]


@dataclass
class ImageSources:
    """Untransformed data sets by role ("train", "val", "test", "predict").

    ``indices`` says which samples of a source a role has; a role that is not in it has all. For ``value_range`` see
    `read_image`. Without labels, a training sample is the image alone.
    """

    datasets: dict[str, Any]
    classes: list[str]
    targets: list[int] | None = None
    indices: dict[str, list[int]] = field(default_factory=dict)
    value_range: ValueRange | None = None
    has_labels: bool = True

    def view(
        self, role: str, transform: Callable[[Tensor], Any] | None, *, with_targets: bool = True
    ) -> ImageView | None:
        """Return the samples of a role seen through ``transform``; None where there are none."""
        dataset = self.datasets.get(role)
        if dataset is None:
            return None
        targets = self.targets if dataset is self.datasets.get("train") else None
        return ImageView(
            dataset,
            transform,
            self.indices.get(role),
            with_targets=with_targets,
            targets=targets,
            value_range=self.value_range,
        )

    def split_validation(self, fraction: float | None, seed: int) -> None:
        """Take ``fraction`` of the training samples for validation; None does nothing."""
        if fraction is None:
            return
        if "train" not in self.datasets:
            raise ConfigurationError(f"val_split={fraction} needs training data, but none was given.")
        train = self.datasets["train"]
        targets = find_targets(train) if self.targets is None else self.targets
        self.indices["train"], self.indices["val"] = stratified_split(targets, fraction, seed)
        self.datasets["val"] = train


def describe_sources(
    given: dict[str, Any],
    num_classes: int | None,
    classes: Sequence[str] | None,
    targets: Sequence[int] | None,
    *,
    normalised: bool,
    value_range: ValueRange | None = None,
) -> tuple[ImageSources, int]:
    """Check a user's data sets; return them with their classes, and the channels of their images."""
    datasets = {role: dataset for role, dataset in given.items() if dataset is not None}
    for role, dataset in datasets.items():
        _check_dataset(role, dataset)
    names = _class_names(datasets, num_classes, classes, targets)
    _check_targets(datasets, targets, names)
    images = [as_image_tensor(split_item(dataset[0])[0], value_range=value_range) for dataset in datasets.values()]
    if normalised:
        _check_uint8(dict(zip(datasets, images, strict=True)))
    first = next(iter(images), None)
    channels = 1 if first is not None and first.ndim == 3 and first.shape[0] == 1 else 3
    chosen = None if targets is None else [int(target) for target in targets]
    return ImageSources(datasets, names, chosen, value_range=value_range), channels


def _check_dataset(role: str, dataset: Any) -> None:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{role}_dataset must be map-style (with __getitem__ and __len__), got {type(dataset).__name__}."
        )
    if len(dataset) == 0:
        raise DataError(f"{role}_dataset is empty.")


def _class_names(
    datasets: dict[str, Any],
    num_classes: int | None,
    classes: Sequence[str] | None,
    targets: Sequence[int] | None,
) -> list[str]:
    labelled = next((dataset for role, dataset in datasets.items() if role != "predict"), None)
    if classes is None and num_classes is None:
        classes = getattr(labelled, "classes", None)
    if classes is not None:
        if num_classes not in (None, len(classes)):
            raise ConfigurationError(f"num_classes={num_classes}, but classes has {len(classes)} names.")
        return [str(name) for name in classes]
    if num_classes is None and labelled is not None:
        num_classes = max(find_targets(labelled) if targets is None else targets) + 1
    return [str(index) for index in range(num_classes or 0)]


def _check_targets(datasets: dict[str, Any], targets: Sequence[int] | None, classes: list[str]) -> None:
    train = datasets.get("train")
    if targets is not None and (train is None or len(targets) != len(train)):
        count = "no train_dataset" if train is None else f"{len(train)} training samples"
        raise ConfigurationError(f"targets has {len(targets)} entries, but there are {count}.")
    for role, dataset in datasets.items():
        given = targets if role == "train" and targets is not None else None
        known = known_targets(dataset) if given is None and role != "predict" else given
        wrong = sorted({int(target) for target in known or [] if not 0 <= int(target) < len(classes)})
        if wrong:
            raise DataError(
                f"Targets of {role}_dataset must be from 0 to {len(classes) - 1}, got {wrong[:10]}. "
                "Give the num_classes or classes that fit."
            )


def _check_uint8(images: dict[str, Tensor]) -> None:
    for role, image in images.items():
        if image.dtype != torch.uint8:
            raise ConfigurationError(
                f"mean and std apply to uint8 images, but {role}_dataset gives {image.dtype}. "
                "Normalise in the data set, or leave mean and std out."
            )
