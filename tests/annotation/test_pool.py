"""Pictures are known by their content."""

import os
import shutil

import pytest
from PIL import Image

import torchloops.annotation.pool as pool_module
from torchloops.annotation import Answer, LabelStore, Query, index_pool, near_duplicates
from torchloops.errors import AnnotationError


def test_moved_renamed_and_copied_files_are_the_same_samples(store, pool, samples):
    assert [sample.number for sample in samples] == list(range(48))
    assert [sample.hash for sample in samples] == sorted(sample.hash for sample in samples)
    store.ask([Query(samples[3].hash)])
    store.record(Answer(samples[3].hash, "label", "dark", "Ada"))
    (pool / "deep" / "er").mkdir(parents=True)
    moved = samples[3].paths[0].rename(pool / "deep" / "er" / "Ü $ <b>.PNG")
    shutil.copy(samples[4].paths[0], pool / "copy.png")
    Image.new("RGB", (3, 3)).save(pool / "new.png")
    again = index_pool(store, pool)
    assert [sample.hash for sample in again[:48]] == [sample.hash for sample in samples]
    assert again[3].paths == (moved,)
    assert len(again[4].paths) == 2
    assert (len(again), again[48].number) == (49, 48)
    assert store.labels() == {again[3].hash: "dark"}


def test_a_file_is_read_once(store, pool, samples, monkeypatch):
    read = []
    monkeypatch.setattr(pool_module, "content_hash", lambda path: read.append(path) or "00")
    index_pool(store, pool)
    assert read == []
    os.utime(samples[0].paths[0], (1, 1))
    index_pool(store, pool)
    assert read == [samples[0].paths[0]]


def test_a_file_whose_content_changes_is_another_sample(store, pool, samples):
    Image.new("RGB", (5, 5), "red").save(samples[0].paths[0])
    again = index_pool(store, pool)
    assert samples[0].hash not in {sample.hash for sample in again}
    assert again[-1].number == 48


def test_hidden_files_links_to_folders_and_other_files_are_left_out(store, tmp_path):
    place = tmp_path / "place"
    (place / ".hidden").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for file in (place / "a.png", place / ".b.png", place / ".hidden" / "c.png", tmp_path / "outside" / "d.png"):
        Image.new("L", (2, 2), len(str(file)) % 200).save(file)
    (place / "notes.txt").write_text("x")
    (place / "link").symlink_to(tmp_path / "outside")
    assert [sample.paths[0].name for sample in index_pool(store, place)] == ["a.png"]


def test_pictures_that_look_alike_are_found(store, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    photograph = Image.radial_gradient("L").convert("RGB")
    photograph.save(place / "large.png")
    photograph.resize((120, 120)).save(place / "small.jpg", quality=70)
    Image.linear_gradient("L").rotate(90).save(place / "other.png")
    found = near_duplicates(index_pool(store, place))
    assert [{path.name for sample in group for path in sample.paths} for group in found] == [{"large.png", "small.jpg"}]
    (place / "broken.png").write_bytes(b"x")
    with pytest.raises(AnnotationError, match=r"broken\.png is not a readable picture"):
        near_duplicates(index_pool(store, place))


def test_two_stores_give_the_same_numbers(pool, tmp_path):
    one, two = (index_pool(LabelStore(tmp_path / name), pool) for name in ("a.sqlite", "b.sqlite"))
    assert one == two
