"""A pool of small pictures whose classes are known, and a store over it."""

import numpy as np
import pytest
from PIL import Image

from torchloops.annotation import LabelStore, index_pool

CLASSES = ["dark", "bright"]


def picture(seed, bright):
    pixels = np.random.default_rng(seed).integers(0, 90, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels + (150 if bright else 0))


@pytest.fixture
def truth(tmp_path):
    """A folder of class folders with 24 pictures of each class."""
    for seed in range(48):
        place = tmp_path / "truth" / CLASSES[seed % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(seed, seed % 2).save(place / f"{seed:02d}.png")
    return tmp_path / "truth"


@pytest.fixture
def pool(truth, tmp_path):
    """The same pictures in one folder, unlabelled."""
    place = tmp_path / "pool"
    place.mkdir()
    for file in sorted(truth.glob("*/*.png")):
        (place / f"photo_{file.name}").write_bytes(file.read_bytes())
    return place


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "labels.sqlite") as store:
        store.set_classes(CLASSES)
        yield store


@pytest.fixture
def samples(store, pool):
    store.set_setting("pool", str(pool))
    return index_pool(store, pool)
