"""DataModule: the data of all stages in one object, with Lightning's hook names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torchloops.errors import CheckpointError
from torchloops.hooks import base_class
from torchloops.hparams import HyperparametersMixin
from torchloops.module_hooks import DataHooks

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["DataModule"]


@base_class
class DataModule(HyperparametersMixin, DataHooks):
    """Data for training, validation, test and prediction.

    Define the ``*_dataloader`` methods there is data for; each returns one loader (validation, test and
    prediction also a list) or None. ``prepare_data`` runs in one process and should set no attributes;
    ``setup(stage)`` runs in each, with stage "fit", "validate", "test" or "predict". A ``LightningDataModule``
    works in its place.

    Attributes:
        trainer: the Trainer of the current or last run; None before.
        name: Lightning's; nothing reads it.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "datamodule_hparams_name"
    CHECKPOINT_HYPER_PARAMS_BASES = "datamodule_hparams_of_bases"

    trainer: Any = None
    name: str | None = None

    def on_exception(self, exception: BaseException) -> None:
        """An error, or Ctrl-C, ends the fit or evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints, as plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        val_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        test_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        predict_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> Self:
        """A data module of data sets, with a ``DataLoader`` of each; training data are shuffled.

        Args:
            train_dataset: the data set, or several of them in a list or dict, of which each step gets a batch each.
            val_dataset: one, or a list of them.
            test_dataset: as ``val_dataset``.
            predict_dataset: as ``val_dataset``.
            batch_size: samples of a batch.
            num_workers: processes that load.
            datamodule_kwargs: arguments of the constructor, which also gets the two before if it takes them.
        """
        parameters = {} if cls.__init__ is object.__init__ else inspect.signature(cls.__init__).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        settings = {"batch_size": batch_size, "num_workers": num_workers}
        own = {name: value for name, value in settings.items() if takes_all or name in parameters}
        datamodule = cls(**{**own, **datamodule_kwargs})
        given = {
            "train_dataloader": train_dataset, "val_dataloader": val_dataset,
            "test_dataloader": test_dataset, "predict_dataloader": predict_dataset,
        }  # fmt: skip
        for hook, data in given.items():
            if data is not None:
                make = _Loaders(data, batch_size, num_workers, shuffle=hook == "train_dataloader")
                setattr(datamodule, hook, make)
        return datamodule

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        hparams_file: str | Path | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A data module built with the saved hyper-parameters; see `LoopModule.load_from_checkpoint`.

        Raises:
            CheckpointError: no such file, or it holds no hyper-parameters of a data module.
            ConfigurationError: ``weights_only=False``.
        """
        checkpoint = cls._read_checkpoint(checkpoint_path, map_location, hparams_file, weights_only)
        if cls.CHECKPOINT_HYPER_PARAMS_KEY not in checkpoint and not kwargs:
            raise CheckpointError(
                f"{checkpoint_path} holds no hyper-parameters of a data module. Call self.save_hyperparameters() in "
                f"{cls.__name__}.__init__ before training, or give the arguments to load_from_checkpoint."
            )
        datamodule = cls._from_hyperparameters(checkpoint, checkpoint_path, kwargs)
        if isinstance(state := checkpoint.get("datamodule"), dict) and state:
            datamodule.load_state_dict(state)
        return datamodule

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trainer": None}


class _Loaders:
    """What a loader hook of `DataModule.from_datasets` does, so that the data module can be pickled."""

    def __init__(self, data: Any, batch_size: int, num_workers: int, shuffle: bool) -> None:
        self.data = list(data) if isinstance(data, Iterator) else data
        self.batch_size, self.num_workers, self.shuffle = batch_size, num_workers, shuffle

    def __call__(self) -> Any:
        if isinstance(self.data, dict):
            return {name: self._loader(dataset) for name, dataset in self.data.items()}
        return list(map(self._loader, self.data)) if isinstance(self.data, list | tuple) else self._loader(self.data)

    def _loader(self, dataset: Any) -> Any:
        from torch.utils.data import DataLoader, IterableDataset

        shuffle = self.shuffle and not isinstance(dataset, IterableDataset)
        return DataLoader(dataset, self.batch_size, shuffle=shuffle, num_workers=self.num_workers)
