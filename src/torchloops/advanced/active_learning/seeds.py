"""Random numbers that belong to active learning alone: derived seeds, and a context that leaves no trace."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive_seed", "generator_for", "isolated_generators"]


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in 0 .. 2**63 - 1 that depends on ``seed`` and all ``keys`` and on nothing else.

    Example:
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 3)
        True
        >>> derive_seed(0, "pool", 3) == derive_seed(0, "pool", 4)
        False
    """
    digest = hashlib.blake2b(repr((int(seed), *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(seed: int, *keys: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *keys))


@contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of python, numpy and torch (CPU and CUDA) inside, and put them back after.

    The state found at the start is restored also after an error.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            # not torch.manual_seed: it would also seed a CUDA that starts later, outside this context
            torch.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
