"""ImageClassificationData: folders or data sets of labelled images as loaders of normalised batches."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from torchloops.data.datamodule import DataModule
from torchloops.errors import ConfigurationError
from torchloops.vision.collate import ImageCollator
from torchloops.vision.datasets import ImageFiles, ImageView
from torchloops.vision.depth import ValueRange, check_value_range
from torchloops.vision.folders import FolderScan, LabelledFiles, targets_of
from torchloops.vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from torchloops.vision.sources import ImageSources, describe_sources

__all__ = ["ImageClassificationData"]

Folder = str | os.PathLike[str] | None
Size = int | Sequence[int] | None
Statistics = Sequence[float] | float | None
Transform = Callable[[Tensor], Any] | None


class ImageClassificationData(DataModule):
    """Labelled images for training, validation, test and prediction; build it with `from_folders` or
    `from_datasets`.

    A batch is ``(images, targets)``: float ``(B, C, H, W)``, normalised, and int64 ``(B,)``; a prediction
    batch is ``images`` alone. A sample, ``data.train_dataset[i]``, is ``(image, target)`` with a uint8 image
    ``(C, H, W)`` that is transformed but not yet normalised: `collate_fn` normalises a whole batch at once.
    Code that builds loaders of its own passes ``collate_fn=data.collate_fn``.

    Attributes:
        classes: names of the classes; a target is an index into them (counted from 0).
        num_classes: how many there are.
        targets: target of every training sample, in order; no image is decoded.
        train_dataset: training samples with the training transform.
        train_dataset_eval: the same samples in the same order with the evaluation transform.
        val_dataset, test_dataset, predict_dataset: with the evaluation transform; None where there is no
            data.
        eval_transform: of one uint8 image ``(C, H, W)``, without randomness; None leaves it as it is.
        collate_fn: joins samples to a normalised batch.
        preprocessing: how a picture becomes an input of the network; a model keeps it for `predict`.
        batch_size, num_workers, seed: as given.

    Shuffling has a generator of its own, started from ``seed`` each time a training loader is built, so it
    depends on no other random numbers. Random transforms draw from torch's global generator
    (`seed_everything`).
    """

    def __init__(
        self,
        sources: ImageSources,
        preprocessing: Preprocessing,
        *,
        train_transform: Transform = None,
        eval_transform: Transform = None,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        _check_numbers(batch_size, num_workers)
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        self.classes = sources.classes
        self.collate_fn = ImageCollator(preprocessing)
        evaluate = preprocessing.eval_transform() if eval_transform is None else eval_transform
        self.eval_transform = evaluate
        train = preprocessing.train_transform() if train_transform is None else train_transform
        self.train_dataset = sources.view("train", train, with_targets=sources.has_labels)
        self.train_dataset_eval = sources.view("train", evaluate, with_targets=sources.has_labels)
        self.val_dataset = sources.view("val", evaluate)
        self.test_dataset = sources.view("test", evaluate)
        self.predict_dataset = sources.view("predict", evaluate, with_targets=False)

    @classmethod
    def from_folders(
        cls,
        train_folder: Folder = None,
        val_folder: Folder = None,
        test_folder: Folder = None,
        predict_folder: Folder = None,
        *,
        batch_size: int = 4,
        num_workers: int = 0,
        image_size: Size = 224,
        train_transform: Transform = None,
        eval_transform: Transform = None,
        val_split: float | None = None,
        mean: Statistics = IMAGENET_MEAN,
        std: Statistics = IMAGENET_STD,
        value_range: Sequence[float] | None = None,
        seed: int = 0,
        check_images: bool = True,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> "ImageClassificationData":
        """Read ``<folder>/<class>/<image>``; everything is checked here, before anything is trained.

        Args:
            train_folder: one sub-folder per class; the classes are their names in alphabetical order.
            val_folder: the same classes; or give ``val_split``.
            test_folder: the same classes.
            predict_folder: images without labels, sorted by path.
            batch_size: samples in a batch.
            num_workers: processes that load images; they stay alive between epochs.
            image_size: pixels, one number or ``(height, width)``.
            train_transform: of one uint8 tensor ``(3, H, W)``; default: random resized crop and horizontal
                flip.
                One that returns floats does its own normalisation: ``mean`` and ``std`` are for uint8 images.
            eval_transform: likewise; default: resize to 8/7 of ``image_size``, then centre crop.
            val_split: share of the training images to validate with, above 0 and below 1, class by class.
            mean: per channel, on the scale 0 to 1; default: ImageNet's. None with ``std=None``: only scaled
                to 0 to 1.
            std: likewise.
            value_range: the values that are black and white in pictures of more than 8 bits: ``(0, 4095)`` for 12 bits.
                Default: as the file says; whole 16 bits; 0 to 1 for floats; others are refused. The model keeps it.
            seed: of the shuffling and of ``val_split``.
            check_images: look into every file for a broken image (about 5,000 files a second; pictures of more than 8
                bits are decoded).
            drop_last: leave out the last training batch if it is smaller.
            pin_memory: use page-locked memory, for faster copies to a GPU.

        Raises:
            DataError: names everything found: a missing folder, no image, an empty class folder, one class
                only, classes that differ between the folders, files that are no readable image.
            ConfigurationError: arguments that do not fit together.
        """
        _check_split(val_split, val_folder, "val_folder")
        known_range = check_value_range(value_range)
        scan = FolderScan()
        folders = {"train": train_folder, "val": val_folder, "test": test_folder}
        files = {role: scan.labelled(f"{role}_folder", folder) for role, folder in folders.items()}
        files["predict"] = scan.unlabelled("predict_folder", predict_folder)
        scan.compare_classes()
        if check_images:
            scan.check_images(known_range)
        scan.raise_problems()
        sources = _file_sources(files, known_range)
        sources.split_validation(val_split, seed)
        custom = eval_transform is not None
        return cls(
            sources,
            Preprocessing.create(image_size, mean, std, custom=custom, value_range=known_range),
            train_transform=train_transform,
            eval_transform=eval_transform,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            drop_last=drop_last,
            pin_memory=pin_memory,
        )

    @classmethod
    def from_unlabelled(
        cls,
        paths: Sequence[Path | None],
        classes: Sequence[str],
        test_folder: Folder = None,
        *,
        batch_size: int = 4,
        num_workers: int = 0,
        image_size: Size = 224,
        train_transform: Transform = None,
        eval_transform: Transform = None,
        mean: Statistics = IMAGENET_MEAN,
        std: Statistics = IMAGENET_STD,
        value_range: Sequence[float] | None = None,
        seed: int = 0,
        check_images: bool = True,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> "ImageClassificationData":
        """Pictures whose labels nobody knows yet: a training sample is the image alone.

        Args:
            paths: the files, in order of the samples' ids; None where there is no file.
            classes: names of the classes, in the order of the model's outputs.
            test_folder: class folders of these classes; some may be missing.

        The other arguments are those of `from_folders`.

        Raises:
            DataError: no picture, pictures that cannot be read, or a test folder of other classes.
        """
        known_range = check_value_range(value_range)
        scan = FolderScan()
        scan.given("pool", [path for path in paths if path is not None])
        test = scan.labelled("test_folder", test_folder)
        if check_images:
            scan.check_images(known_range)
        scan.raise_problems()
        sources: dict[str, Any] = {"train": ImageFiles(paths, None, known_range)}
        if test is not None:
            sources["test"] = ImageFiles(test.paths, targets_of(test, classes), known_range)
        return cls(
            ImageSources(sources, list(classes), has_labels=False),
            Preprocessing.create(image_size, mean, std, custom=eval_transform is not None, value_range=known_range),
            train_transform=train_transform,
            eval_transform=eval_transform,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            drop_last=drop_last,
            pin_memory=pin_memory,
        )

    @classmethod
    def from_datasets(  # type: ignore[override]
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        *,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        targets: Sequence[int] | None = None,
        batch_size: int = 4,
        num_workers: int = 0,
        image_size: Size = None,
        train_transform: Transform = None,
        eval_transform: Transform = None,
        val_split: float | None = None,
        mean: Statistics = None,
        std: Statistics = None,
        value_range: Sequence[float] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> "ImageClassificationData":
        """Use map-style data sets of ``(image, int)``: a TensorDataset, torchvision's MNIST, your own.

        An image is a PIL image, a numpy array, or a tensor of any shape. Float tensors are taken as they are;
        PIL images and uint8 tensors are scaled to 0 to 1 and, where ``mean`` and ``std`` are given,
        normalised. Without ``image_size`` and transforms an image keeps its size. A TensorDataset without
        transforms is gathered batch-wise from memory. Give a data set **without** its own random transform:
        it would also be applied in validation and pool scoring.

        Args:
            num_classes: default: counted from ``classes``, the data set's ``classes``, or the targets.
            classes: names; default: the data set's ``classes``, else "0", "1", ...
            targets: of the training samples, for a data set that would have to decode images to know them.
            predict_dataset: of images, or of ``(image, target)``, whose targets are left out.

        The other arguments are those of `from_folders`.

        Raises:
            DataError: an empty data set, or targets that are no class index below ``num_classes``.
            ConfigurationError: arguments that do not fit together.
        """
        _check_split(val_split, val_dataset, "val_dataset")
        known_range = check_value_range(value_range)
        given = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        sources, channels = describe_sources(
            given, num_classes, classes, targets, normalised=mean is not None, value_range=known_range
        )
        sources.split_validation(val_split, seed)
        custom = eval_transform is not None
        return cls(
            sources,
            Preprocessing.create(image_size, mean, std, channels=channels, custom=custom, value_range=known_range),
            train_transform=train_transform,
            eval_transform=eval_transform,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            drop_last=drop_last,
            pin_memory=pin_memory,
        )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def targets(self) -> list[int]:
        if self.train_dataset is None or not self.train_dataset.with_targets:
            raise ConfigurationError("There are no targets: this data module has no labelled training data.")
        return self.train_dataset.targets

    def train_dataloader(self) -> Any:
        if self.train_dataset is None:
            return None
        shuffling = {"shuffle": True, "drop_last": self.drop_last}
        return self._loader(self.train_dataset, generator=self._generator(), **shuffling)

    def val_dataloader(self) -> Any:
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> Any:
        return self._loader(self.test_dataset)

    def predict_dataloader(self) -> Any:
        return self._loader(self.predict_dataset)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _loader(self, dataset: ImageView | None, **options: Any) -> DataLoader | None:
        if dataset is None:
            return None
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            **options,
        )


def _file_sources(files: dict[str, LabelledFiles | None], value_range: ValueRange | None) -> ImageSources:
    classes = next((found.classes for found in files.values() if found is not None and found.classes), [])
    sources = {
        role: ImageFiles(found.paths, found.targets, value_range) for role, found in files.items() if found is not None
    }
    return ImageSources(dict(sources), classes)


def _check_split(val_split: float | None, validation: Any, name: str) -> None:
    if val_split is not None and validation is not None:
        raise ConfigurationError(f"val_split={val_split} and {name} were both given; give one of them.")


def _check_numbers(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be 1 or more, got {batch_size}.")
    if num_workers < 0:
        raise ConfigurationError(f"num_workers must be 0 or more, got {num_workers}.")
