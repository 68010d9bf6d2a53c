"""Where a Trainer's data come from: loaders it was given, a data module, or the module itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden
from torchloops.seeding import isolated_generators, random_state, restore_random_state
from torchloops.trainer.combined import CombinedLoader
from torchloops.trainer.loaders import as_loaders, number_of_batches
from torchloops.trainer.object_state import FirstSeen, restore_states, states_of
from torchloops.trainer.position import own_generators

__all__ = ["DataSources"]

LOADER_HOOKS = {
    "train": "train_dataloader",
    "validate": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


class DataSources:
    """The data of the current entry (fit, validate, test or predict), by stage.

    Args:
        overfit_batches: train and validate on these first training batches (int, or float share); 0: off.

    Attributes:
        datamodule: the data module, or None.
        outermost: the data module that the entry was given, whatever outer loops put in its place.
        given: loaders by stage, as they were given.
        ready_stages: stages whose setup hooks were called.
        first_batches_drawn_from: generators from which the batches of ``overfit_batches`` are or were drawn; None:
            not drawn yet.
        seen: what the objects in the data were when the entry first saw them.
    """

    def __init__(self, overfit_batches: int | float = 0) -> None:
        self.overfit_batches = overfit_batches
        self.datamodule: Any = None
        self.outermost: Any = None
        self.given: dict[str, Any] = {}
        self.ready_stages: list[str] = []
        self._overfit: list[Any] | None = None
        self.seen = FirstSeen()
        self.first_batches_drawn_from: dict[str, Any] | None = None

    def assign(self, given: dict[str, Any], datamodule: Any, keep: bool) -> None:
        """Take what an entry was given; a data module may stand in the place of its first loader.

        Args:
            given: loaders by stage, None where there are none.
            datamodule: the data module, or None.
            keep: with nothing given, keep the data module of the entry before.

        Raises:
            ConfigurationError: loaders beside a data module, or something that is no data module.
        """
        stage = next(iter(given))
        if datamodule is None and hasattr(given[stage], LOADER_HOOKS[stage]):
            datamodule, given = given[stage], {**given, stage: None}
        both = [name for name, loaders in given.items() if loaders is not None]
        if datamodule is not None:
            _check_datamodule(datamodule)
            if both:
                raise ConfigurationError(
                    f"Data come from loaders or from a data module, got both: {type(datamodule).__name__} and "
                    f"loaders for {both}. Leave one of them out."
                )
        if datamodule is not None or both or not keep:
            self.datamodule = self.outermost = datamodule
        self.given, self.ready_stages, self.seen = given, [], FirstSeen()
        self._overfit = self.first_batches_drawn_from = None

    def loaders(self, stage: str, module: Any) -> list[Any]:
        """The data loaders of a stage, asked for anew."""
        if self.overfit_batches and stage in ("train", "validate"):
            if self._overfit is None:
                loaders = self._find("train", module)
                self._overfit = self._first_batches(loaders[0]) if loaders else []
            return [self._overfit] if self._overfit else []
        return self._find(stage, module)

    def _find(self, stage: str, module: Any) -> list[Any]:
        given = self.given.get(stage)
        if given is None:
            owner, hook = self.datamodule if self.datamodule is not None else module, LOADER_HOOKS[stage]
            given = getattr(owner, hook)() if is_overridden(owner, hook) else None
        return as_loaders(given, training=stage == "train")

    def _first_batches(self, loader: Any) -> list[Any]:
        """The first batches of a loader, kept; a resumed run draws the same ones."""
        loaders = enumerate(loader.flattened if isinstance(loader, CombinedLoader) else [loader])
        own = {f"{at or ''}{name}": found for at, one in loaders for name, found in own_generators(one).items()}
        with isolated_generators():
            saved = self.first_batches_drawn_from
            if saved is None:
                self.first_batches_drawn_from = {"random": random_state(), "loader": states_of(own)}
            else:
                restore_random_state(saved["random"])
                restore_states(own, saved["loader"])
            return list(islice(loader, int(number_of_batches(loader, self.overfit_batches))))

    @contextmanager
    def replaced_by(self, datamodule: Any) -> Iterator[None]:
        """A context in which all data come from ``datamodule``, set up for a fit and torn down at the end."""
        if self._overfit is None:  # generators that a resumed run brought are those of the data that come now
            before = {**vars(self), "first_batches_drawn_from": None}
        else:
            before, self.first_batches_drawn_from = dict(vars(self)), None
        self.datamodule, self.given, self._overfit, self.ready_stages = datamodule, {}, None, ["fit"]
        try:
            if is_overridden(datamodule, "setup"):
                datamodule.setup("fit")
            yield
        finally:
            if is_overridden(datamodule, "teardown"):
                for stage in self.ready_stages:
                    datamodule.teardown(stage)
            vars(self).update(before)


def _check_datamodule(datamodule: Any) -> None:
    if isinstance(datamodule, type):
        raise ConfigurationError(f"datamodule= takes an instance, got the class: write {datamodule.__name__}(...).")
    if not any(hasattr(datamodule, hook) for hook in LOADER_HOOKS.values()):
        raise ConfigurationError(
            f"datamodule= takes a DataModule, got {type(datamodule).__name__}. Loaders go to train_dataloaders=, "
            "val_dataloaders= or dataloaders=."
        )
