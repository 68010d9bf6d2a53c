from pathlib import Path

import pytest
import torch
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def draw(path: Path, size=(12, 10), seed=0, mode="RGB", **options) -> Path:
    """Write a small image of random pixels; ``size`` is (width, height)."""
    generator = torch.Generator().manual_seed(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three ants and five bees in ``train``, one of each in ``val``."""
    for split, counts in {"train": (3, 5), "val": (1, 1)}.items():
        for name, count in zip(("ants", "bees"), counts, strict=True):
            for index in range(count):
                draw(tmp_path / split / name / f"{index}.jpg", seed=index)
    return tmp_path


@pytest.fixture
def hymenoptera():
    place = SHARED / "hymenoptera_data"
    if not place.is_dir():
        pytest.skip("the folder hymenoptera_data of ants and bees is not beside this checkout")
    return place


@pytest.fixture
def lite0_weights():
    place = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    if not place.is_file():
        pytest.skip("the weights tf_efficientnet_lite0.safetensors are not beside this checkout")
    return place
