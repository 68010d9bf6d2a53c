"""What is made plain can be loaded safely."""

import io
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import pytest
import torch
from torch import nn

from torchloops.errors import CheckpointError
from torchloops.trainer.plain import plain


class Level(IntEnum):
    HIGH = 3


class Name(str):
    pass


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save({"value": plain(value, "value")}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["value"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),  # is a float to isinstance
        (np.str_("a"), "a"),
        (Name("a"), "a"),
        (Level.HIGH, 3),
        (True, True),
        (np.bool_(True), True),
        ({np.int64(1): {np.str_("a"): np.float64(2)}}, {1: {"a": 2.0}}),
        (np.array(["x", "y"]), ["x", "y"]),
        (b"", bytearray()),
    ],
)
def test_it_can_be_loaded_safely(value, expected):
    found = saved_and_loaded(value)
    assert found == expected
    assert type(found) is type(expected)


def test_arrays_become_tensors_whatever_their_layout():
    assert saved_and_loaded(np.arange(3)[::-1]).tolist() == [2, 1, 0]
    assert saved_and_loaded(np.array(2.5)).shape == ()


def test_the_versions_of_the_parts_of_a_module_stay():
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    found = saved_and_loaded(state)
    assert isinstance(found, OrderedDict)
    assert found._metadata == state._metadata


def test_objects_in_an_array_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"rows\[0\]"):
        plain(np.array([object()]), "rows")
