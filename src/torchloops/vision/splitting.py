"""A validation split that keeps the share of every class and depends on the seed only."""

from collections import Counter
from collections.abc import Sequence

import torch

from torchloops.data.draws import draw_samples
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
    values = [int(target) for target in targets]
    for target, members in sorted(Counter(values).items()):
        if members < 2:
            raise DataError(
                f"val_split needs two samples or more of every class, but class {target} has {members}. "
                "Add samples, or give a validation set of its own."
            )
    generator = torch.Generator().manual_seed(seed)
    count = max(round(fraction * len(values)), len(set(values)))
    validation = draw_samples(range(len(values)), count, generator, values, leave_one=True)
    held_out = set(validation)
    return [index for index in range(len(values)) if index not in held_out], validation
