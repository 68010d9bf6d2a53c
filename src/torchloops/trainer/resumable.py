"""Which data cannot go on exactly after a resume, found out before a run starts."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Sampler

from torchloops.seeding import is_generator, random_state, restore_random_state
from torchloops.trainer.combined import CombinedLoader
from torchloops.trainer.loaders import is_known_sampler
from torchloops.trainer.object_state import FirstSeen, Objects
from torchloops.trainer.position import has_state

__all__ = ["obstacles"]

_LOOKS = 100


def obstacles(loader: Any) -> list[str]:
    """Sentences on what keeps a run over ``loader`` from going on exactly within an epoch; empty: nothing known."""
    if isinstance(loader, CombinedLoader):
        return [sentence for one in loader.flattened for sentence in obstacles(one)]
    loader = getattr(loader, "_dataloader", loader)
    found = []
    dataset = getattr(loader, "dataset", None)
    one_shot = next((part for part in (loader, dataset) if _is_one_shot(part)), None)
    if one_shot is not None and not has_state(loader) and not has_state(dataset):
        found.append(
            f"{type(one_shot).__name__} is an iterator that can be gone through once and cannot be brought back to "
            "where it was. Give an object whose __iter__ starts over, or one with state_dict and load_state_dict."
        )
    sampler = None if has_state(loader) else _own_sampler(loader)
    if sampler is not None and not _repeats(sampler):
        found.append(
            f"{type(sampler).__name__} does not give the same order twice from the same states of the generators, so "
            "the rest of a cut epoch would be made of other samples. Let it draw the whole order when __iter__ "
            "begins, from a generator of its own or from the epoch of set_epoch(epoch); or give it state_dict and "
            "load_state_dict."
        )
    workers = getattr(loader, "num_workers", 0)
    loading = {"dataset": dataset, "collate_fn": getattr(loader, "collate_fn", None)} if workers else {}
    generators = Objects(loading, FirstSeen(), {}).generators
    if generators and not isinstance(dataset, IterableDataset):
        found.append(
            f"{type(dataset).__name__} has a random generator of its own ({', '.join(generators)}), and "
            "each worker draws from a copy of it. Draw from the global generators of random, numpy or torch: they are "
            "seeded for every sample."
        )
    if workers and not getattr(loader, "in_order", True):
        found.append("in_order=False gives batches in the order in which workers finish. Leave it out.")
    return found


def _is_one_shot(part: Any) -> bool:
    return hasattr(type(part), "__next__") and hasattr(type(part), "__iter__")


def _own_sampler(loader: Any) -> Any:
    """The batch sampler or sampler of the user's own making that has no state to be asked for, or None."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    candidates = (batch_sampler, getattr(batch_sampler, "sampler", None), getattr(loader, "sampler", None))
    if any(has_state(part) for part in candidates):
        return None
    return next((part for part in candidates if part is not None and not is_known_sampler(part)), None)


def _repeats(sampler: Any) -> bool:
    """Whether copies of a sampler give the same first indices, also when others draw in between."""
    now = random_state()
    try:
        first = list(islice(iter(_copied(sampler)), _LOOKS))
        restore_random_state(now)
        second = list(_disturbed(iter(_copied(sampler))))
    except Exception:  # it needs what only a run has; what is wrong with it will show there
        return True
    finally:
        restore_random_state(now)
    return repr(first) == repr(second)


def _disturbed(indices: Iterator[Any]) -> Iterator[Any]:
    for index in islice(indices, _LOOKS):
        yield index
        random.random()
        np.random.random_sample()
        torch.rand(())


def _copied(sampler: Any) -> Any:
    """A shallow copy with lists, generators and samplers inside it copied too."""
    new = copy.copy(sampler)
    for name, value in getattr(new, "__dict__", {}).items():
        if isinstance(value, Sampler):
            new.__dict__[name] = _copied(value)
        elif isinstance(value, list | dict | set | np.ndarray):
            new.__dict__[name] = copy.copy(value)
        elif is_generator(value):
            new.__dict__[name] = copy.deepcopy(value)
    return new
