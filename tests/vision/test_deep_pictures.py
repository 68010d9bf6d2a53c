"""Pictures of more than 8 bits a channel, and of every mode: the right grey, or a refusal that says what to do."""

import struct
import warnings
import zlib

import numpy
import pytest
import torch
from PIL import Image

from torchloops import ImageClassificationData, ImageClassifier
from torchloops.errors import ConfigurationError, DataError
from torchloops.vision.checking import find_broken_images
from torchloops.vision.preprocessing import Preprocessing
from torchloops.vision.reading import as_image_tensor, read_image


def values_up_to(highest, kind, shape=(6, 5), lowest=0):
    """Random values with both ends among them."""
    values = numpy.random.default_rng(0).uniform(lowest, highest, shape)
    values.flat[0], values.flat[-1] = lowest, highest
    return values.astype(kind)


def scaled(values, black, white):
    return numpy.rint((values.astype(float) - black) * (255 / (white - black))).astype(numpy.uint8)


def write_png(path, values, colour_type=0, depth=16):
    """A PNG of 16 bits a channel, which Pillow writes in grey only."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def write_tiff(path, values, bits, sample_format=1, photometric=1):
    """An uncompressed little-endian grey TIFF; ``values`` is what its strip holds."""
    height, width = values.shape
    data = values.tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    entries += [(278, height), (279, len(data)), (339, sample_format)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + table + bytes(4))
    return path


def grey(path, **options):
    picture = read_image(path, **options)
    assert torch.equal(picture[0], picture[1])
    assert torch.equal(picture[:1], read_image(path, channels=1, **options))
    return picture[0].numpy()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_as_a_whole(tmp_path, suffix):
    values = values_up_to(65535, numpy.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 5 6 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert (grey(path) == scaled(values, 0, 65535)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_are_refused_until_the_range_is_named(tmp_path, suffix):
    values = values_up_to(4095, numpy.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"a\.{suffix} .*16 bits, but .* 0 to 4095.*value_range=.*\(0, 4095\)"):
        read_image(path)
    assert (grey(path, value_range=(0, 4095)) == scaled(values, 0, 4095)).all()
    assert (grey(path, value_range=(0, 65535)) == scaled(values, 0, 65535)).all()


def test_an_all_black_picture_of_16_bits_is_black(tmp_path):
    Image.fromarray(numpy.zeros((4, 5), numpy.uint16)).save(tmp_path / "a.png")
    assert not grey(tmp_path / "a.png").any()


def test_a_range_that_the_file_states_is_taken(tmp_path):
    values = values_up_to(4095, numpy.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 5 6 4095\n" + values.astype(">u2").tobytes())
    assert abs(grey(tmp_path / "a.pgm").astype(int) - scaled(values, 0, 4095)).max() <= 1
    pairs = values_up_to(4095, numpy.uint16, (4, 6)).reshape(-1, 2).astype(int)  # two pixels in three bytes
    packed = numpy.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    path = write_tiff(tmp_path / "a.tif", packed.astype(numpy.uint8).reshape(4, 9), 12)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HHII", 256, 4, 1, 9), struct.pack("<HHII", 256, 4, 1, 6)))
    assert (grey(path) == scaled(pairs.reshape(4, 6), 0, 4095)).all()


def test_floats_from_0_to_1_are_scaled(tmp_path):
    values = values_up_to(0.9, numpy.float32, lowest=0.1)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert (grey(tmp_path / "a.tif") == scaled(values, 0, 1)).all()


@pytest.mark.parametrize(
    ("values", "value_range"),
    [
        (values_up_to(255, numpy.float32), (0, 255)),
        (values_up_to(1, numpy.float32, lowest=-1), (-1, 1)),
        (values_up_to(255, numpy.int32), (0, 255)),
        (values_up_to(3000, numpy.int32, lowest=-1000), (-1000, 3000)),
        (values_up_to(1, numpy.int32), (0, 1)),
    ],
)
def test_floats_outside_and_32_bits_are_refused_until_the_range_is_named(tmp_path, values, value_range):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif .*its values go from .*Give value_range="):
        read_image(tmp_path / "a.tif")
    assert (grey(tmp_path / "a.tif", value_range=value_range) == scaled(values, *value_range)).all()
    with pytest.raises(DataError, match="outside of value_range"):
        read_image(tmp_path / "a.tif", value_range=(0.25, value_range[1]))


@pytest.mark.parametrize(
    ("values", "bits", "sample_format", "value_range"),
    [
        (values_up_to(2**32 - 1, numpy.uint32), 32, 1, (0, 2**32 - 1)),
        (values_up_to(2**31 - 1, numpy.int32, lowest=-(2**31)), 32, 2, (-(2**31), 2**31 - 1)),
        (values_up_to(32767, numpy.int16, lowest=-32768), 16, 2, (-32768, 32767)),
        (values_up_to(127, numpy.int8, lowest=-128), 8, 2, (-128, 127)),
    ],
)
def test_signs_of_a_tiff_are_heeded(tmp_path, values, bits, sample_format, value_range):
    path = write_tiff(tmp_path / "a.tif", values, bits, sample_format)
    with pytest.raises(DataError, match="value_range"):
        read_image(path)
    assert (grey(path, value_range=value_range) == scaled(values, *value_range)).all()


def test_white_is_zero_where_a_tiff_says_so(tmp_path):
    values = values_up_to(65535, numpy.uint16)
    path = write_tiff(tmp_path / "a.tif", values, 16, photometric=0)
    assert (grey(path) == 255 - scaled(values, 0, 65535)).all()
    shallow = values_up_to(255, numpy.uint8)
    assert (grey(write_tiff(path, shallow, 8, photometric=0)) == 255 - shallow).all()


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad):
    values = values_up_to(1, numpy.float32)
    values[2, 2] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    for value_range in (None, (0, 1)):
        with pytest.raises(DataError, match="no numbers"):
            read_image(tmp_path / "a.tif", value_range=value_range)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_read_by_their_upper_half_or_refused(tmp_path, colour_type, channels):
    values = values_up_to(65535, numpy.uint16, (6, 5, channels))
    colours = (values >> 8)[..., [0, 0, 0] if channels == 2 else [0, 1, 2]].astype(numpy.uint8)
    path = write_png(tmp_path / "a.png", values, colour_type)
    assert (read_image(path).numpy() == colours.transpose(2, 0, 1)).all()
    values[..., :3] //= 16
    dark = write_png(tmp_path / "dark.png", values, colour_type)
    for value_range in (None, (0, 4095)):
        with pytest.raises(DataError, match=r"dark\.png .*16 bits.*Convert it"):
            read_image(dark, value_range=value_range)
    assert read_image(dark, value_range=(0, 65535)).max() < 17


def test_pictures_of_8_bits_keep_their_values_whatever_the_range(tmp_path):
    shallow = values_up_to(255, numpy.uint8)
    Image.fromarray(shallow).save(tmp_path / "a.png")
    assert (grey(tmp_path / "a.png", value_range=(0, 4095)) == shallow).all()


def test_grey_with_alpha_and_one_bit_keep_their_values(tmp_path):
    both = values_up_to(255, numpy.uint8, (6, 5, 2))
    Image.fromarray(both, "LA").save(tmp_path / "la.png")
    assert (grey(tmp_path / "la.png") == both[..., 0]).all()
    bits = values_up_to(2, int) > 0
    Image.fromarray(bits).save(tmp_path / "1.png")
    assert (grey(tmp_path / "1.png") == 255 * bits).all()


def test_colours_with_alpha_and_cmyk_keep_their_colours(tmp_path):
    values = values_up_to(255, numpy.uint8, (6, 5, 4))
    Image.fromarray(values, "RGBA").save(tmp_path / "rgba.png")
    assert (read_image(tmp_path / "rgba.png").numpy() == values[..., :3].transpose(2, 0, 1)).all()
    Image.fromarray(values, "CMYK").save(tmp_path / "cmyk.tif")
    ink = values.astype(float)
    expected = (255 - ink[..., :3]) * (1 - ink[..., 3:] / 255)
    assert abs(read_image(tmp_path / "cmyk.tif").numpy() - expected.transpose(2, 0, 1)).max() <= 1


def test_a_palette_with_transparent_colours_keeps_them(tmp_path):
    palette = values_up_to(255, numpy.uint8, (256, 3))
    index = values_up_to(255, numpy.uint8)
    picture = Image.fromarray(index, "P")
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert (read_image(tmp_path / "a.png").numpy() == palette[index].transpose(2, 0, 1)).all()
    assert read_image(tmp_path / "a.png", channels=1).shape == (1, 6, 5)


def test_turned_pictures_of_16_bits_are_set_upright(tmp_path):
    values = values_up_to(65535, numpy.uint16, (4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert (grey(tmp_path / "a.png") == numpy.rot90(scaled(values, 0, 65535), -1)).all()


def test_pil_images_of_a_data_set_are_scaled_alike():
    values = values_up_to(4095, numpy.uint16)
    picture = Image.fromarray(values)
    with pytest.raises(DataError, match=r"PIL image .*value_range"):
        as_image_tensor(picture)
    assert (as_image_tensor(picture, value_range=(0, 4095)).numpy() == scaled(values, 0, 4095)).all()
    pairs = [(picture, 0), (Image.fromarray(4095 - values), 1)] * 4
    with pytest.raises(DataError, match=r"PIL image .*value_range"):
        ImageClassificationData.from_datasets(pairs)
    data = ImageClassificationData.from_datasets(pairs, value_range=[0, 4095])
    assert (data.train_dataset[1][0].numpy() == scaled(4095 - values, 0, 4095)).all()
    assert data.preprocessing.channels == 1


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0,), 4095, (0, float("inf")), ("a", "b"), (float("nan"), 1)])
def test_ranges_that_are_none_are_refused(value_range):
    with pytest.raises(ConfigurationError, match="value_range must be"):
        ImageClassificationData.from_folders("nowhere", value_range=value_range)


def write_folder(folder):
    for name, shift in (("dark", 0), ("light", 2000)):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            values = values_up_to(2095, numpy.uint16, (8, 8)) + shift
            Image.fromarray(numpy.roll(values, index)).save(folder / name / f"{index}.png")
    return folder


def test_deep_pictures_of_a_folder_are_told_before_training(tmp_path):
    folder = write_folder(tmp_path / "train")
    with pytest.raises(DataError, match=r"8 files cannot be read:(\n.*0\.png \(it has 16 bits, but .* so dark\))"):
        ImageClassificationData.from_folders(folder)
    broken = find_broken_images([folder / "dark" / "0.png"])
    assert next(iter(broken.values())).startswith("it has 16 bits")
    assert find_broken_images([folder / "dark" / "0.png"], (0, 4095)) == {}


def test_a_model_keeps_the_range_of_its_data(tmp_path):
    folder = write_folder(tmp_path / "train")
    data = ImageClassificationData.from_folders(folder, value_range=(0, 4095), image_size=8)
    image, target = data.train_dataset_eval[5]
    assert target == 1
    assert image.float().mean() > 120
    model = ImageClassifier("mlp", num_classes=2, backbone_options={"in_features": 192})
    model.preprocessing = Preprocessing.from_dict(data.preprocessing.to_dict())
    path = folder / "light" / "1.png"
    expected = model.predict(read_image(path, value_range=(0, 4095)))
    assert torch.equal(model.predict(path), expected)
    assert torch.equal(model.predict(Image.open(path)), expected)
    assert not torch.equal(model.predict(path, value_range=(0, 65535)), expected)
    model.preprocessing = Preprocessing.create(8, None, None)
    with pytest.raises(DataError, match="value_range"):
        model.predict(path)


def test_no_picture_warns(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"):
            path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
            Image.new(mode, (5, 4)).save(path)
            read_image(path)
    assert not caught
