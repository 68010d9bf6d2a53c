"""Shipped files are found and loaded, and the data sets are what their cards say."""

import sys
from pathlib import Path

import pytest
import torch

from torchloops.errors import ConfigurationError, DataError
from torchloops.shipped import load_dataset, load_file, shipped_names

SHARED = Path(__file__).parents[2] / "shared" / "data"


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"needs ../shared/data/{folder}")


def test_a_loaded_file_is_registered_once(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text("x = []\n")
    module = load_file(path)
    assert sys.modules[module.__name__] is module
    assert load_file(path) is module


def test_a_file_that_fails_leaves_nothing_behind(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('halfway')\n")
    with pytest.raises(RuntimeError, match="halfway"):
        load_file(path)
    assert not [name for name in sys.modules if name.startswith("torchloops_file") and "broken" in name]


def test_an_unknown_data_set_suggests_one():
    with pytest.raises(ConfigurationError, match='Did you mean "digits"'):
        load_dataset("digit")


@pytest.mark.parametrize("name", shipped_names("datasets"))
def test_every_data_set_has_a_card(name):
    import torchloops.shipped

    card = torchloops.shipped.shipped_folder("datasets") / name / "README.md"
    assert "**Source**" in card.read_text()


def test_digits_are_split_by_class_and_seed():
    data = load_dataset("digits", batch_size=100)
    assert (len(data.train_dataset), len(data.test_dataset), data.num_classes) == (1297, 500, 10)
    images, _ = next(iter(data.test_dataloader()))
    assert images.shape == (100, 1, 8, 8)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    shares = torch.bincount(torch.tensor(data.targets)) / 1297
    assert shares.min() > 0.09
    assert load_dataset("digits").targets == data.targets
    assert load_dataset("digits", seed=1).targets != data.targets


@needs("MNIST")
def test_mnist_is_normalised():
    data = load_dataset("mnist", SHARED, batch_size=500)
    assert (len(data.train_dataset), len(data.test_dataset), data.num_classes) == (60_000, 10_000, 10)
    images, _ = next(iter(data.test_dataloader()))
    assert images.shape == (500, 1, 28, 28)
    assert images.mean().abs() < 0.1
    assert (images.std() - 1).abs() < 0.1


@needs("hymenoptera_data")
def test_ants_and_bees_are_read_from_the_folder_in_the_environment(monkeypatch):
    monkeypatch.setenv("TORCHLOOPS_DATA_DIR", str(SHARED))
    data = load_dataset("ants_bees", batch_size=2, image_size=64)
    assert data.classes == ["ants", "bees"]
    assert (len(data.train_dataset), len(data.test_dataset)) == (244, 153)
    images, _ = next(iter(data.test_dataloader()))
    assert images.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", ["mnist", "ants_bees"])
def test_missing_files_say_where_they_were_looked_for(name, tmp_path):
    with pytest.raises(DataError, match="--download"):
        load_dataset(name, tmp_path)


def test_download_fetches_the_photographs_only_where_they_are_missing(monkeypatch, tmp_path):
    loader = load_file(Path(__file__).parents[1] / "datasets" / "ants_bees" / "loader.py")
    asked = []
    monkeypatch.setattr(loader, "download_data", lambda url, path: asked.append((url, path)))
    with pytest.raises(DataError):
        loader.load(tmp_path, download=True)
    assert asked == [(loader.URL, tmp_path)]
