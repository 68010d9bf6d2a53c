"""Map-style data sets of images: files on disk, and views of any data set with a transform of their own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from torchloops.data.label_values import plain_label
from torchloops.data.labels import Labels
from torchloops.errors import DataError
from torchloops.vision.depth import ValueRange
from torchloops.vision.reading import as_image_tensor, read_image

__all__ = ["GatheredBatch", "ImageFiles", "ImageView", "find_targets", "known_targets", "split_item"]


class ImageFiles(Dataset):
    """Image files, decoded when they are asked for.

    ``files[i]`` is ``(image, target)``: a uint8 tensor ``(3, height, width)`` and an int; without targets it
    is the image alone. A path that is None has no file.
    """

    targets_are_checked = True

    def __init__(
        self, paths: Sequence[Path | None], targets: Sequence[int] | None = None, value_range: ValueRange | None = None
    ) -> None:
        self.paths = list(paths)
        self.value_range = value_range
        self.targets = None if targets is None else list(targets)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        path = self.paths[index]
        if path is None:
            raise DataError(f"The file of sample {index} is gone. Put it back into the pool.")
        image = read_image(path, value_range=self.value_range)
        return image if self.targets is None else (image, self.targets[index])


class GatheredBatch(Sequence):
    """Samples of one batch, taken from memory at once; reads as a sequence of ``(image, target)``."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.images[index], int(self.targets[index])


class ImageView(Dataset):
    """Some samples of a data set, seen through a transform; nothing is copied.

    ``view[i]`` is ``(transform(image), target)``. The image is a uint8 tensor ``(C, H, W)`` unless the source
    or the transform gives another type; the target is an int. It is not normalised: that is done per batch.

    Args:
        source: data set of ``(image, target)`` or images.
        transform: of one image tensor; None leaves it as it is.
        indices: which samples, in this order; default: all.
        with_targets: False gives the image alone, also where the source has targets.
        targets: class index of every sample **of the source**; default: asked from the source when needed.
        value_range: of PIL images with more than 8 bits, see `read_image`.
    """

    def __init__(
        self,
        source: Any,
        transform: Callable[[Tensor], Tensor] | None = None,
        indices: Sequence[int] | None = None,
        *,
        with_targets: bool = True,
        targets: Sequence[int] | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.indices = None if indices is None else list(indices)
        self.with_targets = with_targets
        self.value_range = value_range
        self._source_targets = None if targets is None else [int(target) for target in targets]

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Any:
        image, target = split_item(self.source[self._source_index(index)])
        image = as_image_tensor(image, value_range=self.value_range)
        if self.transform is not None:
            image = self.transform(image)
        if not self.with_targets:
            return image
        if target is None:
            raise DataError("The data set gives no target. Expected items (image, target).")
        return image, int(target)

    def __getitems__(self, indices: list[int]) -> Sequence[Any]:
        if not self._in_memory:
            return [self[index] for index in indices]
        images, targets = self.source.tensors
        chosen = torch.tensor(indices if self.indices is None else [self.indices[index] for index in indices])
        return GatheredBatch(images[chosen], targets[chosen])

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    @property
    def targets(self) -> list[int]:
        """Class index of every sample, in order, without decoding an image where the source knows them."""
        if self._source_targets is None:
            self._source_targets = find_targets(self.source)
        if self.indices is None:
            return list(self._source_targets)
        return [self._source_targets[index] for index in self.indices]

    @property
    def paths(self) -> list[Path] | None:
        """File of every sample, in order; None where the source has no files."""
        paths = getattr(self.source, "paths", None)
        if paths is None or self.indices is None:
            return paths
        return [paths[index] for index in self.indices]

    @property
    def draws_random_numbers(self) -> bool:
        """False: the samples are known to be the same each time they are read."""
        return not self._in_memory

    @property
    def _in_memory(self) -> bool:
        if self.transform is not None or not self.with_targets or not isinstance(self.source, TensorDataset):
            return False
        return len(self.source.tensors) == 2 and self.source.tensors[1].ndim == 1

    def _source_index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        position = index % len(self)
        return position if self.indices is None else self.indices[position]


def split_item(item: Any) -> tuple[Any, Any]:
    """Split an item into image and target; a lone image has the target None."""
    if isinstance(item, tuple | list):
        if len(item) >= 2:
            return item[0], item[1]
        return item[0], None
    return item, None


def find_targets(dataset: Any) -> list[int]:
    """Return the class index of every sample; images are decoded only where there is no other way.

    Raises:
        DataError: an item has no target, or one that is no whole number.
    """
    return _as_integers(plain_label(value) for value in Labels(dataset).all())


def known_targets(dataset: Any) -> list[int] | None:
    """Return the class index of every sample where they are known without decoding all images, else None."""
    values = Labels(dataset).at_hand
    return None if values is None else _as_integers(plain_label(value) for value in values)


def _as_integers(targets: Iterable[Any]) -> list[int]:
    integers = []
    for index, target in enumerate(targets):
        try:
            integer = int(target)
            if integer != target or integer < 0:
                raise ValueError(target)
            integers.append(integer)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Sample {index} has the target {target!r}; expected a class index (a whole number from 0). "
                "Give targets=[...], or data sets of (image, int)."
            ) from error
    return integers
