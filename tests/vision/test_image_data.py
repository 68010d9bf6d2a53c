import pickle

import pytest
import torch
from conftest import draw
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate
from torchvision.transforms import v2

from torchloops import DataModule
from torchloops.errors import ConfigurationError, DataError
from torchloops.vision import ImageClassificationData
from torchloops.vision.datasets import GatheredBatch
from torchloops.vision.reading import read_image


def from_folders(folder, **options):
    options = {"train_folder": folder / "train", "val_folder": folder / "val", "image_size": 8, **options}
    return ImageClassificationData.from_folders(**options)


def test_batches_are_normalised_floats(folder):
    data = from_folders(folder, batch_size=3)
    assert isinstance(data, DataModule)
    assert data.classes == ["ants", "bees"]
    assert data.num_classes == 2
    images, targets = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 8, 8)
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert targets.tolist() == [0, 1]
    sample, target = data.val_dataset[0]
    assert sample.dtype == torch.uint8
    assert target == 0
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (sample / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(images[0], expected)


def test_targets_are_known_without_decoding(folder, monkeypatch):
    monkeypatch.setattr("torchloops.vision.datasets.read_image", lambda path: pytest.fail("decoded"))
    data = from_folders(folder, val_split=0.4, val_folder=None)
    assert data.targets == data.train_dataset.targets == data.train_dataset_eval.targets
    assert len(data.targets) == len(data.train_dataset)


def test_train_eval_view_has_the_same_samples_without_randomness(folder):
    data = from_folders(folder)
    assert data.train_dataset.paths == data.train_dataset_eval.paths
    assert torch.equal(data.train_dataset_eval[4][0], data.train_dataset_eval[4][0])
    torch.manual_seed(0)
    drawn = [data.train_dataset[4][0] for _ in range(8)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_eval_transform_resizes_and_crops_the_centre(folder):
    path = draw(folder / "val" / "ants" / "wide.png", size=(64, 32))
    data = from_folders(folder, image_size=(16, 24))
    assert data.val_dataset[0][0].shape == (3, 16, 24)
    square = from_folders(folder, image_size=28)
    index = square.val_dataset.paths.index(path)
    expected = v2.functional.center_crop(v2.functional.resize(read_image(path), [32], antialias=True), [28, 28])
    assert torch.equal(square.val_dataset[index][0], expected)


def test_shuffling_depends_on_the_seed_only(folder):
    def order(seed):
        data = from_folders(folder, batch_size=1, seed=seed)
        loader = data.train_dataloader()
        return [[int(t) for _, batch in loader for t in batch] for _ in range(4)]

    torch.manual_seed(1)
    first = order(0)
    torch.manual_seed(2)
    assert order(0) == first
    assert order(1) != first
    assert len({tuple(epoch) for epoch in first}) > 1


def test_workers_stay_alive_and_give_the_same_batches(folder):
    alone = from_folders(folder, batch_size=3).val_dataloader()
    helped = from_folders(folder, batch_size=3, num_workers=1).val_dataloader()
    assert helped.persistent_workers
    assert not alone.persistent_workers
    for (images, targets), (others, other_targets) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)


def test_validation_split_is_stratified_and_seeded(folder):
    for index in range(20):
        draw(folder / "train" / "bees" / f"more{index}.jpg", seed=index)
    data = from_folders(folder, val_folder=None, val_split=0.2, seed=3)
    again = from_folders(folder, val_folder=None, val_split=0.2, seed=3)
    other = from_folders(folder, val_folder=None, val_split=0.2, seed=4)
    assert data.val_dataset.paths == again.val_dataset.paths != other.val_dataset.paths
    assert sorted(data.val_dataset.targets) == [0] + [1] * 5
    assert not set(data.val_dataset.paths) & set(data.train_dataset.paths)
    assert len(data.val_dataset) + len(data.train_dataset) == 28
    assert torch.equal(data.val_dataset[0][0], data.val_dataset[0][0])


def test_predict_folder_gives_images_alone_in_order(folder):
    data = from_folders(folder, predict_folder=folder / "train")
    assert data.predict_dataset.paths == sorted(data.predict_dataset.paths)
    batch = next(iter(data.predict_dataloader()))
    assert batch.shape == (4, 3, 8, 8)
    assert data.test_dataloader() is None


def test_own_float_transforms_are_not_normalised_again(folder):
    own = v2.Compose([v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True)])
    data = from_folders(folder, eval_transform=own)
    images, _ = next(iter(data.val_dataloader()))
    assert torch.equal(images[0], data.val_dataset[0][0])
    assert data.preprocessing.custom


def test_images_of_several_sizes_in_a_batch_are_refused(folder):
    draw(folder / "val" / "ants" / "other.png", size=(20, 20))
    data = from_folders(folder, image_size=None)
    with pytest.raises(DataError, match="one shape"):
        list(data.val_dataloader())


def test_all_problems_of_the_folders_are_reported_together(folder):
    (folder / "train" / "wasps").mkdir()
    (folder / "train" / "bees" / "broken.jpg").write_bytes(b"")
    draw(folder / "val" / "flies" / "a.png")
    with pytest.raises(DataError) as caught:
        from_folders(folder, test_folder=folder / "tset", predict_folder=folder / "train" / "wasps")
    message = str(caught.value)
    assert "no image in the class folders ['wasps']" in message
    assert "val_folder: lacks the classes ['wasps']" in message
    assert "val_folder: has the classes ['flies']" in message
    assert "there is no folder" in message
    assert "tset" in message
    assert "predict_folder: no image" in message
    assert "broken.jpg (the file is empty)" in message


def test_one_class_and_no_image_are_refused(tmp_path):
    draw(tmp_path / "one" / "ants" / "a.png")
    with pytest.raises(DataError, match="only one class, 'ants'"):
        ImageClassificationData.from_folders(train_folder=tmp_path / "one")
    (tmp_path / "none" / "ants").mkdir(parents=True)
    with pytest.raises(DataError, match=r"class folders \['ants'\] hold no"):
        ImageClassificationData.from_folders(train_folder=tmp_path / "none")
    draw(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match="move each into a folder named after its class"):
        ImageClassificationData.from_folders(train_folder=tmp_path / "flat")
    with pytest.raises(DataError, match=r"a\.png is a file"):
        ImageClassificationData.from_folders(train_folder=tmp_path / "flat" / "a.png")


def test_checking_of_files_can_be_switched_off(folder):
    broken = folder / "train" / "ants" / "broken.jpg"
    broken.write_bytes(draw(folder / "whole.jpg", size=(90, 70)).read_bytes()[:900])
    with pytest.raises(DataError, match=r"broken\.jpg"):
        from_folders(folder)
    data = from_folders(folder, check_images=False)
    with pytest.raises(DataError, match=r"broken\.jpg is not a readable image"):
        list(data.train_dataloader())


def test_long_lists_of_broken_files_are_shortened(folder):
    for index in range(30):
        (folder / "train" / "ants" / f"broken{index:02}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="30 files cannot be read") as caught:
        from_folders(folder)
    assert "and 10 more" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_split": 0.2}, "val_split=0.2 and val_folder"),
        ({"val_split": 1.2, "val_folder": None}, "above 0 and below 1"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"num_workers": -1}, "num_workers must be 0 or more"),
        ({"image_size": 0}, "positive"),
        ({"image_size": (1, 2, 3)}, "height, width"),
        ({"mean": None}, "belong together"),
        ({"mean": (123, 117, 104), "std": (58, 57, 57)}, "Divide them by 255"),
        ({"std": (0.2, 0.2, 0)}, "positive"),
        ({"mean": (0.5, 0.5)}, "equally long"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(folder, options, message):
    with pytest.raises(ConfigurationError, match=message):
        from_folders(folder, **options)


def digits(count=20, size=8):
    torch.manual_seed(0)
    return TensorDataset(torch.rand(count, 1, size, size), torch.arange(count) % 10)


def test_tensors_are_gathered_and_equal_item_by_item():
    dataset = digits()
    data = ImageClassificationData.from_datasets(dataset, test_dataset=digits(5), batch_size=7, val_split=0.5)
    assert data.num_classes == 10
    assert data.classes[3] == "3"
    view = data.val_dataset
    items = view.__getitems__([0, 2])
    assert isinstance(items, GatheredBatch)
    assert [target for _, target in items] == [view[0][1], view[2][1]]
    images, targets = data.collate_fn(items)
    assert torch.equal(images, torch.stack([view[0][0], view[2][0]]))
    assert targets.dtype == torch.int64
    plain = default_collate(items)
    assert torch.equal(plain[0], images)
    assert torch.equal(plain[1], targets)
    seen = torch.cat([targets for _, targets in data.train_dataloader()])
    assert sorted(seen.tolist()) == sorted(data.targets) == list(range(10))


def test_subsets_of_a_view_are_loadable():
    data = ImageClassificationData.from_datasets(digits())
    loader = torch.utils.data.DataLoader(Subset(data.train_dataset, [3, 1]), 2, collate_fn=data.collate_fn)
    images, targets = next(iter(loader))
    assert targets.tolist() == [3, 1]
    assert torch.equal(images[0], data.train_dataset[3][0])


class Pictures(Dataset):
    """PIL images; counts how many were made."""

    classes = ("one", "two")

    def __init__(self, mode="L"):
        self.mode, self.asked = mode, 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.asked += 1
        return Image.new(self.mode, (5, 4), 255 if self.mode == "L" else "white"), index % 2


def test_pictures_become_scaled_tensors():
    pictures = Pictures()
    data = ImageClassificationData.from_datasets(pictures, predict_dataset=Pictures())
    assert data.classes == ["one", "two"]
    assert data.preprocessing.channels == 1
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (4, 1, 4, 5)
    assert images.eq(1).all()
    assert next(iter(data.predict_dataloader())).shape == (4, 1, 4, 5)
    resized = ImageClassificationData.from_datasets(Pictures("RGB"), image_size=8, mean=0.5, std=0.5)
    images, _ = next(iter(resized.train_dataloader()))
    assert images.shape == (4, 3, 8, 8)
    assert images.eq(1).all()


def test_given_targets_spare_a_pass_over_the_images():
    pictures = Pictures()
    data = ImageClassificationData.from_datasets(pictures, targets=[0, 1] * 3, val_split=0.5)
    assert len(data.targets) == len(data.val_dataset) == 3
    assert set(data.targets) == set(data.val_dataset.targets) == {0, 1}
    assert pictures.asked == 1
    assert ImageClassificationData.from_datasets(Pictures()).targets == [0, 1] * 3


def test_targets_are_found_through_wrappers():
    joined = ConcatDataset([digits(), Subset(digits(), [4, 2])])
    assert ImageClassificationData.from_datasets(joined).targets == [*(list(range(10)) * 2), 4, 2]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: {"train_dataset": digits(0)}, DataError, "empty"),
        (lambda: {"train_dataset": iter([1])}, DataError, "map-style"),
        (lambda: {"train_dataset": digits(), "num_classes": 5}, DataError, r"from 0 to 4, got \[5, 6"),
        (lambda: {"train_dataset": digits(), "test_dataset": digits(), "num_classes": 9}, DataError, "train_data"),
        (lambda: {"train_dataset": digits(), "num_classes": 9, "classes": ["a"]}, ConfigurationError, "1 names"),
        (lambda: {"train_dataset": digits(), "targets": [1]}, ConfigurationError, "20 training samples"),
        (lambda: {"train_dataset": digits(), "mean": 0.5, "std": 0.5}, ConfigurationError, "uint8 images"),
        (lambda: {"train_dataset": digits(5), "val_split": 0.5}, DataError, "two samples or more"),
        (lambda: {"test_dataset": digits(5), "val_split": 0.5}, ConfigurationError, "needs training data"),
        (
            lambda: {"train_dataset": TensorDataset(torch.rand(4, 8), torch.rand(4))},
            DataError,
            "Sample 0 has the target",
        ),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        ImageClassificationData.from_datasets(**make())


def test_data_module_can_be_pickled(folder):
    data = pickle.loads(pickle.dumps(from_folders(folder)))
    assert len(next(iter(data.train_dataloader()))[0]) == 4


def test_ants_and_bees(hymenoptera):
    data = ImageClassificationData.from_folders(
        train_folder=hymenoptera / "train", val_folder=hymenoptera / "val", image_size=32, batch_size=2
    )
    assert (len(data.train_dataset), len(data.val_dataset)) == (244, 153)
    assert data.targets == [0] * 123 + [1] * 121
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 32)
