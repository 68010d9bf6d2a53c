import os

import numpy
import pytest
import torch
from conftest import draw
from PIL import Image

from torchloops import ImageClassificationData, ImageClassifier, download_data
from torchloops.errors import ConfigurationError, DataError
from torchloops.vision.checking import find_broken_images
from torchloops.vision.predicting import list_inputs
from torchloops.vision.reading import as_image_tensor, list_images, read_image


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tiff", "ppm"])
def test_lossless_formats_give_the_pixels_of_pil(tmp_path, suffix):
    path = draw(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as picture:
        expected = torch.from_numpy(numpy.array(picture.convert("RGB"))).permute(2, 0, 1)
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 10, 12)
    assert torch.equal(image, expected)


def test_jpeg_agrees_with_pil_up_to_rounding(tmp_path):
    path = draw(tmp_path / "a.jpg", quality=95)
    with Image.open(path) as picture:
        expected = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)
    assert (read_image(path).int() - expected.int()).abs().max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb_or_grey(tmp_path, mode):
    if mode == "CMYK":
        path = tmp_path / "a.jpg"
        Image.new("CMYK", (12, 10)).save(path)
    elif mode == "I;16":
        path = tmp_path / "a.png"
        Image.fromarray(numpy.full((10, 12), 0x8000, dtype=numpy.uint16)).save(path)
    else:
        path = tmp_path / "a.png"
        Image.new("RGB", (12, 10), (200, 100, 50)).convert(mode).save(path)
    assert read_image(path).shape == (3, 10, 12)
    assert read_image(path, channels=1).shape == (1, 10, 12)
    if mode == "I;16":
        assert read_image(path).float().mean() == pytest.approx(128, abs=1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    picture = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_image(tmp_path / f"a.{suffix}").shape == (3, 20, 10)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text\.jpg is not a readable image"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(DataError, match=r"no file .*gone\.png"):
        read_image(tmp_path / "gone.png")


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    draw(tmp_path / "a.png")
    assert read_image("~/a.png").shape == (3, 10, 12)


def test_arrays_and_pictures_become_tensors():
    assert as_image_tensor(numpy.zeros((4, 5), dtype=numpy.uint8)).shape == (1, 4, 5)
    assert as_image_tensor(numpy.zeros((4, 5, 3), dtype=numpy.float32)).shape == (3, 4, 5)
    assert as_image_tensor(Image.new("L", (5, 4))).shape == (1, 4, 5)
    assert as_image_tensor(Image.new("L", (5, 4)), channels=3).shape == (3, 4, 5)
    with pytest.raises(DataError, match="got str"):
        as_image_tensor("a.png")


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("b.JPG", "._b.jpg", ".cache/c.jpg", "deep/er/a.png", "notes.txt"):
        draw(tmp_path / name, format="PNG")
    assert [path.name for path in list_images(tmp_path)] == ["b.JPG", "a.png"]


def test_broken_files_are_found_and_sound_ones_are_not(tmp_path):
    sound = [draw(tmp_path / f"sound{index}.{suffix}") for index, suffix in enumerate(("jpg", "png", "webp", "gif"))]
    trailing = draw(tmp_path / "trailing.jpg")
    trailing.write_bytes(trailing.read_bytes() + b"appended by a camera")
    broken = {}
    for suffix in ("jpg", "png"):
        whole = draw(tmp_path / f"whole.{suffix}", size=(90, 70)).read_bytes()
        half = len(whole) // 2
        broken[tmp_path / f"cut.{suffix}"] = whole[:half]
        broken[tmp_path / f"zeros.{suffix}"] = whole[:half] + bytes(len(whole) - half)
        broken[tmp_path / f"empty.{suffix}"] = b""
        broken[tmp_path / f"page.{suffix}"] = b"<html>404</html>"
    for path, content in broken.items():
        path.write_bytes(content)
    found = find_broken_images([*sound, trailing, *broken, tmp_path / "missing.jpg"])
    assert set(found) == {*broken, tmp_path / "missing.jpg"}
    assert found[tmp_path / "empty.jpg"] == "the file is empty"
    assert all(reason for reason in found.values())
    for path in set(broken) - {tmp_path / "zeros.jpg"}:  # decoders take zeros for grey pixels
        with pytest.raises(DataError):
            read_image(path)


def test_checking_does_not_decode_whole_files(tmp_path, monkeypatch):
    paths = [draw(tmp_path / f"{index}.{suffix}") for index, suffix in enumerate(("jpg", "png"))]
    monkeypatch.setattr("torchloops.vision.checking.read_image", lambda path: pytest.fail("decoded"))
    assert find_broken_images(paths) == {}


def test_every_folder_is_walked_once_under_its_own_name(tmp_path):
    for name in ("a/1.png", "a/deep/2.png", "z/3.png", "outside/4.png"):
        draw(tmp_path / name)
    root = tmp_path / "a"
    (root / "again").symlink_to(root)
    (root / "deep" / "up").symlink_to("..")
    (root / "0").symlink_to(root / "deep")
    (root / "more").symlink_to(tmp_path / "outside")
    (root / "other").symlink_to(tmp_path / "outside")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(root)) for path in list_images(root)]
    assert found == ["1.png", "deep/2.png", "more/4.png"]
    assert [path.name for path in list_images(tmp_path / "a" / "other")] == ["4.png"]


def test_a_loop_of_links_does_not_multiply_pictures(folder):
    (folder / "train" / "ants" / "loop").symlink_to(folder / "train" / "ants")
    assert len(list_images(folder)) == 10
    assert len(ImageClassificationData.from_folders(folder / "train").train_dataset) == 8
    assert len(ImageClassificationData.from_folders(predict_folder=folder / "train").predict_dataset) == 8


@pytest.mark.parametrize("target", ["train", "train/bees"])
def test_a_folder_that_links_put_into_two_classes_is_refused(folder, target):
    (folder / "train" / "ants" / "more").symlink_to(folder / target)
    with pytest.raises(DataError, match=r"train/bees and .*/ants/more.* are one folder, in two classes"):
        ImageClassificationData.from_folders(folder / "train")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    draw(tmp_path / "a" / "1.png")
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("a"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"folder .*a cannot be read: Permission denied"):
        list_images(tmp_path)


@pytest.mark.parametrize("path", ["", [""], ["a.png", ""]])
def test_an_empty_path_does_not_mean_the_working_folder(path, tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="is an empty path"):
        list_inputs(path)
    assert [image.name for image in list_inputs(".")[0]] == ["a.png"]


def test_empty_paths_of_images_and_folders_are_refused(tmp_path):
    for call in (
        lambda: read_image(""),
        lambda: ImageClassificationData.from_folders(""),
        lambda: ImageClassificationData.from_folders(predict_folder=""),
        lambda: ImageClassifier("mlp", num_classes=2, weights=""),
        lambda: download_data("http://127.0.0.1:1/a.zip", ""),
    ):
        with pytest.raises(ConfigurationError, match="is an empty path"):
            call()
