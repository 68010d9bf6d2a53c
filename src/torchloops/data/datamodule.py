"""DataModule: the data of all stages in one object, with Lightning's hook names."""

from __future__ import annotations

from typing import Any

from torchloops.hooks import base_class

__all__ = ["DataModule"]


@base_class
class DataModule:
    """Data for training, validation, test and prediction.

    Define the ``*_dataloader`` methods there is data for; each returns one loader (validation, test and
    prediction also a list) or None. ``prepare_data`` runs in one process and should set no attributes;
    ``setup(stage)`` runs in each, with stage "fit", "validate", "test" or "predict". A ``LightningDataModule``
    works in its place.

    Attributes:
        trainer: the Trainer of the current or last run; None before.
    """

    trainer: Any = None

    def prepare_data(self) -> None:
        """Download or write files; one process."""

    def setup(self, stage: str) -> None:
        """Build data sets; every process."""

    def train_dataloader(self) -> Any:
        """Training data, or None."""
        return None

    def val_dataloader(self) -> Any:
        """Validation data, or None."""
        return None

    def test_dataloader(self) -> Any:
        """Test data, or None."""
        return None

    def predict_dataloader(self) -> Any:
        """Data to predict, or None."""
        return None

    def teardown(self, stage: str) -> None:
        """Undo ``setup``."""

    def on_exception(self, exception: BaseException) -> None:
        """An error, or Ctrl-C, ends the fit or evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints, as plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trainer": None}
