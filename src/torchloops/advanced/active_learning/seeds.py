"""Seeds that belong to active learning alone: each purpose and round has its own."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "generator_for"]


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in 0 .. 2**32 - 1 that depends on ``seed`` and all ``keys`` and on nothing else.

    Example:
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 3)
        True
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 4)
        False
    """
    digest = hashlib.blake2b(repr((int(seed), *keys)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def generator_for(seed: int, *keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys))
