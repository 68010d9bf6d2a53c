"""The data of one fold: what a fit inside the fold sees, and what it is scored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import Subset

from torchloops.advanced.kfold.source import FoldSource
from torchloops.datamodule import DataModule
from torchloops.hooks import is_overridden

__all__ = ["FoldData", "ProtocolFold", "Stand"]

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Stand(DataModule):
    """A data module in the place of another: what it does not have itself is asked of that one.

    Args:
        datamodule: the other one, or None.
    """

    datamodule: Any = None

    def __init__(self, datamodule: Any = None) -> None:
        super().__init__()
        self.datamodule = datamodule
        for name in _TRANSFER_HOOKS:
            if datamodule is not None and is_overridden(datamodule, name):
                self.__dict__[name] = getattr(datamodule, name)

    def state_dict(self) -> dict[str, Any]:
        """The state of the other data module."""
        return self.datamodule.state_dict() if hasattr(self.datamodule, "state_dict") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the other data module its state back."""
        if hasattr(self.datamodule, "load_state_dict"):
            self.datamodule.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        other = self.__dict__.get("datamodule")
        if other is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}.")
        return getattr(other, name)


class FoldData(Stand):
    """Some samples to train on, others to validate and to test on.

    Args:
        datamodule: the data module that is cut to the fold; None for a data set alone.
        source: its samples and batch settings.
        train_ids: samples to train on; sample ``i`` of ``train_dataset`` is ``train_ids[i]`` of the whole.
        val_ids, test_ids: samples to validate and to test on, with evaluation transforms; None: no such data.
        seed: of the order of training batches.
        test_loader: gives the loader of the test set, where there are no ``test_ids``.
        values: labels of all samples of the whole, or None.
    """

    def __init__(
        self,
        datamodule: Any,
        source: FoldSource,
        train_ids: Sequence[int],
        val_ids: Sequence[int] | None = None,
        test_ids: Sequence[int] | None = None,
        *,
        seed: int = 0,
        test_loader: Callable[[], Any] | None = None,
        values: Any = None,
        groups: Any = None,
    ) -> None:
        super().__init__(datamodule)
        self.source = source
        self.train_ids = list(train_ids)
        self.val_ids = None if val_ids is None else list(val_ids)
        self.test_ids = None if test_ids is None else list(test_ids)
        self.seed = seed
        self.test_loader = test_loader
        self.values = values
        self.all_groups = groups

    @cached_property
    def train_dataset(self) -> Any:
        return Subset(self.source.train, self.train_ids)

    @cached_property
    def train_dataset_eval(self) -> Any:
        return Subset(self.source.evaluate, self.train_ids)

    @property
    def targets(self) -> Any:
        """Labels of the training samples of the fold; None where they are not at hand."""
        return None if self.values is None else self.values[self.train_ids].tolist()

    @property
    def groups(self) -> Any:
        """Groups of the training samples of the fold, or None."""
        return None if self.all_groups is None else self.all_groups[self.train_ids]

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    def train_dataloader(self) -> Any:
        return self.source.training_loader(self.train_ids, self.seed)

    def val_dataloader(self) -> Any:
        return None if self.val_ids is None else self.source.evaluation_loader(self.val_ids)

    def test_dataloader(self) -> Any:
        if self.test_ids is not None:
            return self.source.evaluation_loader(self.test_ids)
        return None if self.test_loader is None else self.test_loader()

    def predict_dataloader(self) -> Any:
        return None


class ProtocolFold(Stand):
    """The current fold of a data module with ``setup_folds`` and ``setup_fold_index``; it is not set up again."""

    def train_dataloader(self) -> Any:
        return self.datamodule.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.datamodule.val_dataloader()

    def test_dataloader(self) -> Any:
        return self.datamodule.test_dataloader() if is_overridden(self.datamodule, "test_dataloader") else None

    def predict_dataloader(self) -> Any:
        return None
