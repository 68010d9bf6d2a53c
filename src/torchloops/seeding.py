"""Random generators: seeding all of them, and their states as plain data."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

__all__ = ["derive_seed", "isolated_generators", "random_state", "restore_random_state", "seed_everything"]


def seed_everything(seed: int | None = None, workers: bool = False) -> int:
    """Seed Python's, numpy's and torch's generators with ``seed`` and return it.

    Args:
        seed: 0 to 4294967295; None: the environment variable ``PL_GLOBAL_SEED``, else 0.
        workers: seed the workers of data loaders too.
    """
    from torchloops.trainer.engine import seed_everything as seed_with_fabric

    return seed_with_fabric(seed, workers=workers, verbose=False)


def derive_seed(*keys: int | str) -> int:
    """Return a seed in 0 .. 2**32 - 1 that depends on all ``keys``, in their order, and on nothing else.

    Example:
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 3)
        True
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 4)
        False
    """
    plain = tuple(key if isinstance(key, str) else int(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=4).digest(), "big")


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, as data a safe load accepts."""
    version, keys, gauss = random.getstate()
    name, vector, position, has_gauss, cached = cast(tuple[str, Any, int, int, float], np.random.get_state())
    return {
        "python": [version, torch.from_numpy(np.array(keys, dtype=np.int64)), gauss],  # a list is slow to pickle
        "numpy": [name, torch.from_numpy(vector.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state that `random_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys.tolist() if isinstance(keys, torch.Tensor) else keys), gauss))
    name, vector, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, vector.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def isolated_generators(seed: int | None = None) -> Iterator[None]:
    """A context after which the generators are as they were before; seeded with ``seed`` inside, if given."""
    before = random_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        yield
    finally:
        restore_random_state(before)
