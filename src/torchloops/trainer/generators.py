"""The process's random generators, watched and exchanged cheaply."""

from __future__ import annotations

import ctypes
import platform
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

__all__ = ["GENERATORS", "generator_states", "isolated", "restore_generator_states"]


_WORDS = 624 * 4  # bytes of a Mersenne twister


class _Marked:
    """A generator whose whole state is slow to ask for: that is done only when a mark of it has changed.

    Args:
        mark: gives something cheap that changes with every draw, or all but every draw.
        state, restore, seed: ask for the whole state, set it, set a seed.
        may_hide: whether a draw from this state may leave the mark as it is.
    """

    def __init__(self, mark: Any, state: Any, restore: Any, seed: Any, may_hide: Any = lambda state: False) -> None:
        self.seed = seed
        self._mark, self._state, self._restore, self._may_hide = mark, state, restore, may_hide
        self._known: Any = (None, None)

    def state(self) -> Any:
        mark = self._mark()
        if mark != self._known[0] or self._may_hide(self._known[1]):
            self._known = mark, self._state()
        return self._known

    def changed(self, state: Any) -> bool:
        return bool(self._mark() != state[0] or (self._may_hide(state[1]) and not self._may_hide(self._state())))

    def restore(self, state: Any) -> None:
        if self.changed(state):
            self._restore(state[1])


def _python_mark() -> Any:
    return random.getstate()


def _python_mark_from_memory() -> Any:
    return ctypes.string_at(_PYTHON_ADDRESS, 4 + _WORDS), _PYTHON.gauss_next


def _memory_is_as_expected() -> bool:
    """Whether the state of Python's generator lies in memory as CPython has it: a position and the words."""
    if platform.python_implementation() != "CPython" or type(_PYTHON).__basicsize__ < _HEAD + 4 + _WORDS:
        return False
    words = np.frombuffer(ctypes.string_at(_PYTHON_ADDRESS + 4, _WORDS), dtype=np.uint32)
    return words.tolist() == list(random.getstate()[1][:-1])


_PYTHON: Any = random.random.__self__  # type: ignore[attr-defined]
_HEAD = object.__basicsize__
_PYTHON_ADDRESS = id(_PYTHON) + _HEAD


def _numpy_mark() -> Any:
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if type(generator) is not np.random.MT19937:
        return repr(generator.state)
    return ctypes.string_at(generator.ctypes.state_address, _WORDS + 4)  # the words and a position


def _keeps_a_normal_number(state: Any) -> bool:
    return state is not None and bool(state[3])


class _Torch:
    """torch's generator of the CPU."""

    state = staticmethod(torch.default_generator.get_state)
    restore = staticmethod(torch.default_generator.set_state)
    seed = staticmethod(torch.default_generator.manual_seed)

    @staticmethod
    def changed(state: Any) -> bool:
        return not torch.equal(torch.default_generator.get_state(), state)


GENERATORS: tuple[Any, ...] = (
    _Marked(
        _python_mark_from_memory if _memory_is_as_expected() else _python_mark,
        random.getstate, random.setstate, random.seed,
    ),
    _Marked(_numpy_mark, np.random.get_state, np.random.set_state, np.random.seed, _keeps_a_normal_number),
    _Torch(),
)  # fmt: skip


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
