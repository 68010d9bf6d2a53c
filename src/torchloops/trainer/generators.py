"""The process's random generators, watched and exchanged cheaply."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

__all__ = ["GENERATORS", "generator_states", "isolated", "restore_generator_states"]


class _Python:
    """Python's generator."""

    state = staticmethod(random.getstate)
    restore = staticmethod(random.setstate)
    seed = staticmethod(random.seed)

    @staticmethod
    def changed(state: Any) -> bool:
        return random.getstate() != state


class _Numpy:
    """numpy's global generator; asking for its whole state is slow, so that is done only when it has changed."""

    def __init__(self) -> None:
        self._known: Any = (None, None)

    def state(self) -> Any:
        mark = _numpy_mark()
        if mark != self._known[0] or self._known[1][3]:  # a kept normal number may be used up without a trace
            self._known = mark, _numpy_state()
        return self._known

    def changed(self, state: Any) -> bool:
        return bool(_numpy_mark() != state[0] or (state[1][3] and not _numpy_state()[3]))

    def restore(self, state: Any) -> None:
        if self.changed(state):
            np.random.set_state(state[1])

    def seed(self, seed: int) -> None:
        np.random.seed(seed)


def _numpy_state() -> Any:
    return np.random.get_state()


def _numpy_mark() -> bytes:
    """The bytes of numpy's generator, by which one sees that it has moved."""
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if type(generator) is not np.random.MT19937:
        return repr(generator.state).encode()
    return ctypes.string_at(generator.ctypes.state_address, 625 * 4)  # the key of 624 words and the position


class _Torch:
    """torch's generator of the CPU."""

    state = staticmethod(torch.default_generator.get_state)
    restore = staticmethod(torch.default_generator.set_state)
    seed = staticmethod(torch.default_generator.manual_seed)

    @staticmethod
    def changed(state: Any) -> bool:
        return not torch.equal(torch.default_generator.get_state(), state)


GENERATORS: tuple[Any, ...] = (_Python(), _Numpy(), _Torch())


def generator_states() -> list[Any]:
    """The states of `GENERATORS`."""
    return [generator.state() for generator in GENERATORS]


def restore_generator_states(states: list[Any]) -> None:
    """Put `GENERATORS` back into states that `generator_states` returned."""
    for generator, state in zip(GENERATORS, states, strict=True):
        generator.restore(state)


def isolated(iterator: Iterator[Any], seed: int) -> Iterator[Any]:
    """``iterator`` with generators of its own, seeded with ``seed``; free where the first item draws nothing."""
    return chain.from_iterable(_first_and_rest(iterator, seed))


def _first_and_rest(iterator: Iterator[Any], seed: int) -> Iterator[Iterable[Any]]:
    before = generator_states()
    for generator in GENERATORS:
        generator.seed(seed)
    start = generator_states()
    try:
        first = list(_take_one(iterator))
        draws = any(generator.changed(state) for generator, state in zip(GENERATORS, start, strict=True))
        own = generator_states()
    finally:
        restore_generator_states(before)
    yield first
    yield _exchanging(iterator, own) if draws else iterator


def _exchanging(iterator: Iterator[Any], own: list[Any]) -> Iterator[Any]:
    """``iterator``, run under the states ``own``, which it moves on."""
    while True:
        before = generator_states()
        try:
            restore_generator_states(own)
            item = list(_take_one(iterator))
            own = generator_states()
        finally:
            restore_generator_states(before)
        if not item:
            return
        yield item[0]


def _take_one(iterator: Iterator[Any]) -> Iterator[Any]:
    for item in iterator:
        yield item
        return
