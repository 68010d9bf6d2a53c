"""Generators that belong to active learning alone: each purpose and round has its own."""

from __future__ import annotations

import torch

from torchloops.seeding import derive_seed

__all__ = ["generator_for"]


def generator_for(seed: int, *keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys))
