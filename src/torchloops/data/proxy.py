"""A data module in the place of a user's: base of those that cross-validation and active learning work with."""

from __future__ import annotations

from typing import Any

from torchloops.data.datamodule import DataModule
from torchloops.hooks import is_overridden

__all__ = ["DataModuleProxy"]

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class DataModuleProxy(DataModule):
    """A data module around a user's: what it does not have itself is asked of that one.

    The inner data module is prepared once, set up once a stage, and for test and prediction only where their loaders
    cannot be had without, for a second ``setup`` may split the data anew. Its transfer hooks and its state count.

    Args:
        datamodule: the user's, or None.
        is_prepared: its ``prepare_data`` has run already.
    """

    datamodule: Any = None

    def __init__(self, datamodule: Any = None, is_prepared: bool = False) -> None:
        super().__init__()
        self.datamodule = datamodule
        self._stages: set[str] = set()
        self.is_prepared = is_prepared
        for name in _TRANSFER_HOOKS:
            if datamodule is not None and is_overridden(datamodule, name):
                self.__dict__[name] = getattr(datamodule, name)

    def __getattr__(self, name: str) -> Any:
        other = self.__dict__.get("datamodule")
        if other is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}.")
        return self.part_of(getattr(other, name))

    def part_of(self, value: Any) -> Any:
        """What stands for an attribute of the inner data module: its whole training data is cut to this part."""
        return value

    def prepare_data(self) -> None:
        if not self.is_prepared and is_overridden(self.datamodule, "prepare_data"):
            self.datamodule.prepare_data()
        self.is_prepared = True

    def set_up(self, stage: str) -> None:
        """Set up the inner data module for a stage, if it is not."""
        if stage in self._stages:
            return
        self._stages.add(stage)
        if self.datamodule is not None:
            if self.trainer is not None:
                self.datamodule.trainer = self.trainer
            if is_overridden(self.datamodule, "setup"):
                self.datamodule.setup(stage)

    def teardown(self, stage: str) -> None:
        if stage in self._stages and is_overridden(self.datamodule, "teardown"):
            self.datamodule.teardown(stage)
            self._stages.discard(stage)  # what is left of the data must be set up again

    def own_loader(self, stage: str) -> Any:
        """The inner data module's loader, or loaders, of a stage ("val", "test" or "predict"); None: it has none."""
        name = f"{stage}_dataloader"
        if not is_overridden(self.datamodule, name):
            return None
        self.set_up("fit")
        if stage != "val" and stage not in self._stages:
            try:
                found = getattr(self.datamodule, name)()
                if not _is_missing(found):
                    return found
            except Exception:  # it is not set up for the stage: if that is not all, the error comes again below
                pass
            self.set_up(stage)
        found = getattr(self.datamodule, name)()
        return None if isinstance(found, list | tuple | dict) and not found else found

    def state_dict(self) -> dict[str, Any]:
        """The state of the inner data module."""
        return self.datamodule.state_dict() if hasattr(self.datamodule, "state_dict") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the inner data module its state back."""
        if hasattr(self.datamodule, "load_state_dict"):
            self.datamodule.load_state_dict(state_dict)


def _is_missing(found: Any) -> bool:
    loaders = list(found.values()) if isinstance(found, dict) else found
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    return not loaders or any(getattr(loader, "dataset", loader) is None for loader in loaders)
