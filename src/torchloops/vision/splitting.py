"""A validation split that keeps the share of every class and depends on the seed only."""

from collections.abc import Sequence

import torch

from torchloops.errors import ConfigurationError, DataError

__all__ = ["stratified_split"]


def stratified_split(targets: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split sample indices into train and validation, class by class.

    Args:
        targets: class index of every sample.
        fraction: share of the samples for validation, above 0 and below 1.
        seed: of the split; the same seed gives the same split.

    Returns:
        ``(train, validation)``: sorted, disjoint indices, together all samples. Every class keeps at least
        one training sample, and has at least one validation sample.

    Raises:
        ConfigurationError: ``fraction`` is not between 0 and 1.
        DataError: a class has fewer than two samples.
    """
    if not 0 < fraction < 1:
        raise ConfigurationError(f"val_split must be above 0 and below 1, got {fraction}.")
    generator = torch.Generator().manual_seed(seed)
    values = torch.as_tensor(list(targets), dtype=torch.long)
    validation: list[int] = []
    for target in sorted(set(values.tolist())):
        members = (values == target).nonzero().flatten()
        if len(members) < 2:
            raise DataError(
                f"val_split needs two samples or more of every class, but class {target} has {len(members)}. "
                "Add samples, or give a validation set of its own."
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator)
        validation.extend(members[order[:count]].tolist())
    held_out = set(validation)
    return [index for index in range(len(values)) if index not in held_out], sorted(validation)
