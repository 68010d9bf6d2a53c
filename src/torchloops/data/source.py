"""Training samples in two views, and how they become batches: what a user's loader or data set says of that."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)  # fmt: skip

from torchloops.data.fingerprint import fingerprint
from torchloops.data.items import find_label, label_place, rows_of_label, without_label
from torchloops.data.label_values import plain_label
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import isolated_generators

__all__ = ["RandomViewWarning", "Source", "draws_nothing", "same"]

DEFAULT_BATCH_SIZE = 32
_LOOKS = 8


class RandomViewWarning(UserWarning):
    """Samples are scored through random transforms, or would be, so that scores depend on chance."""


@dataclass(frozen=True)
class Source:
    """Training samples in two views, and how they become batches.

    Args:
        train: map-style data set with training transforms.
        evaluate: the same samples in the same order with evaluation transforms.
        has_eval_view: ``evaluate`` was given, or named by the data module; else it is ``train``.
        collate_fn: joins samples to a batch.
        eval_collate_fn: joins samples that are scored; None: ``collate_fn``, unless that is random.
        batch_size: samples a batch.
        num_workers: processes that load samples.
        pin_memory: whether batches are put in page-locked memory.
        drop_last: leave out a last training batch that is smaller.
        shuffle: whether training batches come in a random order.
        weights: of every sample, where training draws by weight.
        replacement: whether a training epoch may draw a sample twice.
        num_samples: samples that a training epoch draws; None: as many as there are.
        ids: the samples that the loader draws from, ascending; None: all.
        options: further arguments of the loaders.
        target_key: place of the label in a sample.
    """

    train: Any
    evaluate: Any
    has_eval_view: bool = False
    collate_fn: Callable[[Any], Any] = default_collate
    eval_collate_fn: Callable[[Any], Any] | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    num_workers: int = 0
    pin_memory: bool = False
    drop_last: bool = False
    shuffle: bool = True
    weights: torch.Tensor | None = None
    replacement: bool = False
    num_samples: int | None = None
    ids: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target_key: str | int | None = None

    @property
    def sample_ids(self) -> Sequence[int]:
        """The ids of all samples there are to train on, ascending."""
        return range(len(self.train)) if self.ids is None else self.ids

    def describe(self) -> dict[str, Any]:
        """What decides over the batches of training, by name, as plain data; what each sample has as a hash."""
        return {
            "batch_size": self.batch_size, "shuffle": self.shuffle, "drop_last": self.drop_last,
            "samples drawn an epoch": self.num_samples, "replacement": self.replacement,
            "sampling weights (hash)": None if self.weights is None else fingerprint(self.weights),
            "samples (hash)": None if self.ids is None else fingerprint(self.ids),
        }  # fmt: skip

    def training_loader(self, sample_ids: Sequence[int], generator: torch.Generator | int | None) -> DataLoader[Any]:
        """Batches of these samples with training transforms, drawn as the user's loader draws.

        Args:
            sample_ids: of the samples.
            generator: of the order, or its seed; None: torch's global one.

        Raises:
            DataError: no batch, as a last one that is smaller is left out.
            ConfigurationError: an epoch draws more samples than there are, without replacement.
        """
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        count = len(sample_ids) if self.num_samples is None else self.num_samples
        if self.drop_last and count < self.batch_size:
            raise DataError(
                f"drop_last=True leaves no batch: an epoch has {count} samples, and a batch {self.batch_size}. Give "
                "a smaller batch_size, more samples to train on, or a loader with drop_last=False."
            )
        if count > len(sample_ids) and not self.replacement:
            raise ConfigurationError(
                f"The sampler of the training data draws num_samples={count} without replacement, and this part of "
                f"the data has {len(sample_ids)} samples. Give replacement=True, or a smaller num_samples."
            )
        dataset, collate = self._rows(self.train, sample_ids, self.collate_fn)
        order: dict[str, Any] = {"shuffle": self.shuffle}
        if self.weights is not None:
            weights = self.weights[list(sample_ids)]
            if not float(weights.sum()) > 0:
                raise DataError("The samples of this part of the data all have the sampling weight 0.")
            order = {"sampler": WeightedRandomSampler(weights.tolist(), count, self.replacement, generator)}
        elif self.replacement or self.num_samples is not None:
            drawn = None if self.num_samples is None else count
            order = {"sampler": RandomSampler(dataset, self.replacement, drawn, generator)}
        order |= {"drop_last": self.drop_last, "generator": generator, "persistent_workers": self.num_workers > 0}
        return self._loader(dataset, collate, **order)

    def evaluation_loader(self, sample_ids: Sequence[int]) -> DataLoader[Any]:
        """Batches of these samples with evaluation transforms, in the order of the ids."""
        return self._loader(*self._rows(self.evaluate, sample_ids, self.scoring_collate))

    def loader_with_ids(self, sample_ids: Sequence[int], batch_size: int) -> DataLoader[Any]:
        """Batches ``(sample_ids, batch)`` with evaluation transforms, in the order of the ids."""
        return self._loader(
            _WithIds(self.evaluate, sample_ids),
            _CollateWithIds(self.scoring_collate, self.target_key),
            batch_size=batch_size,
        )

    def input_loader(self, sample_ids: Sequence[int], batch_size: int) -> DataLoader[Any]:
        """Batches of the samples' inputs without labels, with evaluation transforms, in the order of the ids."""
        collate = _CollateInputs(self.scoring_collate, self.target_key)
        return self._loader(Subset(self.evaluate, list(sample_ids)), collate, batch_size=batch_size)

    def test_loader(self, dataset: Any) -> DataLoader[Any]:
        """Batches of another data set, loaded as these samples are when they are scored."""
        return self._loader(dataset, self.scoring_collate)

    def _loader(self, dataset: Any, collate: Any, **changes: Any) -> DataLoader[Any]:
        settings = {
            "batch_size": self.batch_size, "num_workers": self.num_workers, "pin_memory": self.pin_memory,
            "collate_fn": collate, **self.options,
        }  # fmt: skip
        return DataLoader(dataset, **{**settings, **changes})

    @staticmethod
    def _rows(view: Any, sample_ids: Sequence[int], collate: Any) -> tuple[Any, Any]:
        """Some samples of a view and how to collate them; tensors in memory are gathered batch by batch."""
        if type(view) is TensorDataset and collate is default_collate:
            return _TensorRows(view.tensors, sample_ids), _collate_rows
        return Subset(view, list(sample_ids)), collate

    # what is used to score

    @cached_property
    def scoring_collate(self) -> Callable[[Any], Any]:
        """What joins samples that are scored: never a function that draws random numbers.

        Raises:
            ConfigurationError: ``collate_fn`` is random, and torch's own cannot take its place.
        """
        if self.eval_collate_fn is not None or not self._collate_is_random():
            chosen = self.eval_collate_fn or self.collate_fn
            is_known = chosen is default_collate or not getattr(chosen, "draws_random_numbers", True)
            return chosen if is_known else _CheckedCollate(chosen, self.target_key)
        name = getattr(self.collate_fn, "__qualname__", type(self.collate_fn).__name__)
        message = f"The collate_fn of the training data ({name}) is random: the same samples gave other batches. "
        try:
            with isolated_generators():
                default_collate(self._first_items())
        except Exception as error:
            raise ConfigurationError(
                f"{message}It is not used to score, and torch's default_collate cannot take its place ({error}). Give "
                "eval_collate_fn=..., which joins samples without randomness."
            ) from error
        warnings.warn(
            f"{message}Samples are scored in batches of torch's default_collate. Give eval_collate_fn=... for others.",
            RandomViewWarning,
            stacklevel=2,
        )
        return default_collate

    def warn_if_random(self) -> None:
        """Warn where samples would be scored through random transforms."""
        if not self.has_eval_view and not draws_nothing(self.evaluate) and self._view_is_random():
            warnings.warn(
                "Samples are scored through random transforms: reading one twice gave two inputs. Give "
                "eval_dataset=..., the same samples in the same order with evaluation transforms.",
                RandomViewWarning,
                stacklevel=2,
            )

    def _first_items(self) -> list[Any]:
        return [self.evaluate[index] for index in list(self.sample_ids)[:2]]

    def _view_is_random(self) -> bool:
        with isolated_generators(0):
            first = [copy.deepcopy(without_label(item, self.target_key)) for item in self._first_items()]
            return any(
                not same(first, [without_label(item, self.target_key) for item in self._first_items()])
                for _ in range(_LOOKS - 1)
            )

    def _collate_is_random(self) -> bool:
        if self.collate_fn is default_collate or not getattr(self.collate_fn, "draws_random_numbers", True):
            return False
        with isolated_generators(0):
            items = self._first_items()
            first = self.collate_fn(copy.deepcopy(items))
            return any(not same(first, self.collate_fn(copy.deepcopy(items))) for _ in range(_LOOKS - 1))


def same(one: Any, other: Any) -> bool:
    """Whether two samples or batches hold equal values, as far as they can be compared."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    try:
        return bool((one == other) if not hasattr(one, "shape") else (one == other).all())
    except (TypeError, ValueError, AttributeError):
        return True


def draws_nothing(dataset: Any, collate: Any = default_collate) -> bool:
    """Whether a data set and its collate function are known to draw no random numbers.

    Known are data sets of tensors, parts and chains of them with ``default_collate``, and whatever has an attribute
    ``draws_random_numbers`` that is False.
    """
    if collate is not default_collate and getattr(collate, "draws_random_numbers", True):
        return False
    if type(dataset) is Subset:
        return draws_nothing(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(draws_nothing(part) for part in dataset.datasets)
    return type(dataset) is TensorDataset or getattr(dataset, "draws_random_numbers", True) is False


class _TensorRows(Dataset[Any]):
    """Some rows of tensors in memory; a batch is gathered at once, where a Subset would collate it row by row."""

    draws_random_numbers = False

    def __init__(self, tensors: Sequence[torch.Tensor], sample_ids: Sequence[int]) -> None:
        self._whole = tuple(tensors)
        self.indices = torch.tensor(list(sample_ids))

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The rows alone, as a TensorDataset has them."""
        return tuple(tensor[self.indices] for tensor in self._whole)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return tuple(tensor[self.indices[position]] for tensor in self._whole)

    def __getitems__(self, positions: list[int]) -> Any:
        rows = self.indices[positions]
        return _Gathered(tensor[rows] for tensor in self._whole)


class _Gathered(list[torch.Tensor]):
    """A batch that needs no collating."""


def _collate_rows(samples: Any) -> Any:
    return list(samples) if isinstance(samples, _Gathered) else default_collate(samples)


_collate_rows.draws_random_numbers = False  # type: ignore[attr-defined]


class _WithIds(Dataset[Any]):
    """Samples with their ids."""

    def __init__(self, dataset: Any, sample_ids: Sequence[int]) -> None:
        self.dataset = dataset
        self.sample_ids = list(sample_ids)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitems__(self, positions: list[int]) -> tuple[list[int], Any]:
        ids = [self.sample_ids[position] for position in positions]
        gather = getattr(self.dataset, "__getitems__", None)
        return ids, gather(ids) if callable(gather) else [self.dataset[sample_id] for sample_id in ids]


@dataclass(frozen=True)
class _CollateWithIds:
    """Joins ids, and samples; labels that cannot be joined, as those of samples without one, become None."""

    collate_fn: Callable[[Any], Any]
    target_key: str | int | None

    def __call__(self, samples: tuple[list[int], Any]) -> tuple[torch.Tensor, Any]:
        ids, items = samples
        place = label_place(items[0], self.target_key)
        if self.collate_fn is not default_collate or place is None:
            return torch.tensor(ids), self.collate_fn(items)
        try:
            return torch.tensor(ids), default_collate(items)
        except TypeError:
            rest = default_collate([without_label(item, self.target_key) for item in items])
        if isinstance(rest, dict):
            return torch.tensor(ids), {**rest, place: None}
        return torch.tensor(ids), [*rest[:place], None, *rest[place:]]


@dataclass(frozen=True)
class _CheckedCollate:
    """A user's collate function, refused where it leaves samples out or changes their order.

    Raises:
        DataError: answers to its batches could not be told to samples.
    """

    collate_fn: Callable[[Any], Any]
    target_key: str | int | None

    def __call__(self, items: Any) -> Any:
        batch = self.collate_fn(items)
        found = find_label(batch, self.target_key)
        if rows_of_label(found) is None:
            return batch
        labels = [plain_label(label) for label in found]
        own = [plain_label(find_label(item, self.target_key)) for item in items]
        if len(labels) != len(own) or (labels != own and sorted(map(repr, labels)) == sorted(map(repr, own))):
            name = getattr(self.collate_fn, "__qualname__", type(self.collate_fn).__name__)
            raise DataError(
                f"The collate_fn ({name}) gave {len(labels)} of {len(own)} samples"
                + (" in another order" if len(labels) == len(own) else "")
                + ", so that scores cannot be told to samples. Give eval_collate_fn=..., which keeps all samples and "
                "their order."
            )
        return batch


@dataclass(frozen=True)
class _CollateInputs:
    collate_fn: Callable[[Any], Any]
    target_key: str | int | None

    def __call__(self, items: Any) -> Any:
        _, batch = _CollateWithIds(self.collate_fn, self.target_key)(([0], items))
        rest = without_label(batch, self.target_key)
        return rest[0] if isinstance(rest, list) and len(rest) == 1 else rest
