"""Seeds that belong to cross-validation alone: each purpose and fold has its own."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in 0 .. 2**32 - 1 that depends on ``seed`` and all ``keys`` and on nothing else."""
    digest = hashlib.blake2b(repr(("kfold", int(seed), *keys)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
