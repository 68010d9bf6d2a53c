"""Random generators: seeding all of them, and their states as plain data."""

from __future__ import annotations

import hashlib
import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

__all__ = [
    "derive_seed",
    "generator_state",
    "is_generator",
    "is_random_state",
    "isolated_generators",
    "random_state",
    "restore_generator",
    "restore_random_state",
    "seed_everything",
    "undisturbed_import",
]


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
    random.setstate(_python_state(state))
    np.random.set_state(_numpy_state(state))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def undisturbed_import(name: str) -> Any:
    """Import a module and leave the generators as they are: rich, for one, draws when it is first imported.

    A resumed run imports it again, and would go on with other random numbers than the run that was cut.
    """
    if (module := sys.modules.get(name)) is not None:  # None: its import is forbidden
        return module
    with isolated_generators():
        return importlib.import_module(name)


def is_random_state(state: Any) -> bool:
    """Whether `restore_random_state` takes it."""
    try:
        random.Random().setstate(_python_state(state))
        np.random.RandomState().set_state(_numpy_state(state))
        torch.Generator().set_state(state["torch"])
        return all(one.dtype == torch.uint8 for one in state["cuda"])
    except Exception:  # whatever somebody has put in its place
        return False


def _python_state(state: dict[str, Any]) -> tuple[Any, ...]:
    version, keys, gauss = state["python"]
    return version, tuple(keys.tolist() if isinstance(keys, torch.Tensor) else keys), gauss


def _numpy_state(state: dict[str, Any]) -> tuple[Any, ...]:
    name, vector, position, has_gauss, cached = state["numpy"]
    return name, vector.numpy().astype(np.uint32), position, has_gauss, cached


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


def is_generator(value: Any) -> bool:
    """Whether a value is a random generator of torch, Python or numpy."""
    return isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState)


def generator_state(generator: Any) -> Any:
    """The state of a generator of torch, Python or numpy, as data a safe load accepts."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, keys, gauss = generator.getstate()
        return [version, list(keys), gauss]
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def restore_generator(generator: Any, state: Any) -> None:
    """Put a generator back into a state that `generator_state` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate((state[0], tuple(state[1]), state[2]))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_arrays(state))
    else:
        generator.bit_generator.state = _arrays(state)


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"bytes": state.tobytes(), "type": state.dtype.str}
    return state.item() if isinstance(state, np.generic) else state


def _arrays(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"bytes", "type"}:
        return np.frombuffer(state["bytes"], dtype=state["type"]).copy()
    return {name: _arrays(value) for name, value in state.items()} if isinstance(state, dict) else state
