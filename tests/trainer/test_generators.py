"""Watching the process's generators: every draw is seen, and a state can be put back."""

import random

import numpy as np
import pytest
import torch

from torchloops.trainer import generators
from torchloops.trainer.generators import GENERATORS, generator_states, isolated, restore_generator_states

DRAWS = {
    "random": (0, lambda: random.random()),
    "gauss": (0, lambda: random.gauss(0, 1)),
    "numpy": (1, lambda: float(np.random.rand())),
    "numpy normal": (1, lambda: float(np.random.randn())),
    "torch": (2, lambda: float(torch.rand(()))),
    "torch normal": (2, lambda: float(torch.randn(()))),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_every_draw_is_seen_and_can_be_taken_back(draw, before):
    """Also one that uses up a number kept from the draw before."""
    position, function = DRAWS[draw]
    for _ in range(before):
        function()
        generator_states()
    states = generator_states()
    assert not any(generator.changed(state) for generator, state in zip(GENERATORS, states, strict=True))
    first = [function() for _ in range(3)]
    restore_generator_states(states)
    for _ in range(2):
        function()
        assert GENERATORS[position].changed(states[position])
        restore_generator_states(states)
    assert [function() for _ in range(3)] == first


def test_the_memory_of_pythons_generator_is_read_where_it_is_as_expected():
    assert generators._memory_is_as_expected()
    mark = generators._python_mark()
    assert mark == generators._python_mark()
    random.random()
    assert mark != generators._python_mark()


def test_another_global_generator_of_numpy_is_watched_too():
    known = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        before = generators._numpy_mark()
        assert before == generators._numpy_mark()
        np.random.rand()
        assert before != generators._numpy_mark()
    finally:
        np.random.set_bit_generator(known)


def test_an_iterator_that_draws_nothing_is_handed_through():
    given = iter([1, 2, 3])
    assert list(isolated(given, 0)) == [1, 2, 3]
    assert list(isolated(iter([]), 0)) == []


def test_an_isolated_iterator_depends_on_its_seed_alone():
    def drawing():
        for _ in range(3):
            yield random.random(), float(np.random.randn()), float(torch.rand(()))

    random.seed(0)
    undisturbed = [random.random() for _ in range(3)]
    random.seed(0)
    first, drawn = [], []
    for item in isolated(drawing(), 7):
        first.append(item)
        drawn.append(random.random())
    assert drawn == undisturbed
    assert list(isolated(drawing(), 7)) == first
    assert list(isolated(drawing(), 8)) != first
