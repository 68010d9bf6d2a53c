"""How loaders were asked for, so that a resumed run is given the same ones: data may grow from one time to the next."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torchloops.errors import taking_back
from torchloops.hooks import is_overridden
from torchloops.seeding import random_state, restore_random_state
from torchloops.trainer.attributes import is_same
from torchloops.trainer.generators import GENERATORS, generator_states
from torchloops.trainer.module_state import restore_attributes
from torchloops.trainer.sources import LOADER_HOOKS

if TYPE_CHECKING:
    from torchloops.trainer.run import Run

__all__ = ["LoaderRequests"]


class LoaderRequests:
    """What a run was like when it last asked for the loaders of a stage: counters, generators, and whom it asked.

    A resumed run that is to go on in these loaders asks for them in the same state; those after are asked for as ever.
    """

    def __init__(self) -> None:
        self._noted: dict[str, dict[str, Any]] = {}

    @contextmanager
    def asking(self, run: Run, stage: str) -> Iterator[None]:
        """A context in which the loaders of a stage are asked for.

        Args:
            run: the run.
            stage: "train", "validate", "test" or "predict".
        """
        saved = run.restored.get("asked", {}).get(stage) if stage in run.pending_data else None
        if saved is not None:
            self._noted[stage] = saved
            with _as_it_was(run, saved):
                yield
            return
        noted = {"epoch": run.epochs, "step": run.steps, "owner": _state_of_owner(run, stage), "random": None}
        noted["by_sanity_check"] = run.trainer.sanity_checking
        random, before = random_state(), generator_states()
        yield
        if any(generator.changed(state) for generator, state in zip(GENERATORS, before, strict=True)):
            noted["random"] = random
        self._noted[stage] = noted

    def state_dict(self) -> dict[str, Any]:
        """By stage: ``epoch``, ``step``, ``owner`` (attributes or a state; None: it was ``setup`` that asked),
        ``random`` (None: nothing was drawn), and ``by_sanity_check``.
        """
        return dict(self._noted)

    @property
    def repeatable(self) -> set[str]:
        """Stages whose loaders a resumed run asks for as the run that was cut did; others are asked for in set-up."""
        return {stage for stage, noted in self._noted.items() if noted["owner"] is not None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the run that was cut had noted."""
        self._noted = dict(state_dict)


@contextmanager
def _as_it_was(run: Run, saved: dict[str, Any]) -> Iterator[None]:
    state, datamodule = run.state, run.trainer.sources.outermost
    before, random = (state.current_epoch, state.global_step), random_state()
    own = None
    state.current_epoch, state.global_step = saved["epoch"], saved["step"]
    try:
        for kind, value in (saved["owner"] or {}).items():
            if kind == "module":
                restore_attributes(run.trainer.module, value)
            elif kind == "attributes":
                restore_attributes(datamodule, value)
            elif not is_same(own := copy.deepcopy(datamodule.state_dict()), value):
                with taking_back(f"{type(datamodule).__name__} cannot take back its state"):
                    datamodule.load_state_dict(copy.deepcopy(value))
            else:
                own = None
        if saved["random"] is not None:
            restore_random_state(saved["random"])
        yield
    finally:
        state.current_epoch, state.global_step = before
        restore_random_state(random)
    if own is not None:
        datamodule.load_state_dict(own)


def _state_of_owner(run: Run, stage: str) -> dict[str, Any] | None:
    """The state of whoever gives the loaders: a module, or a data module that has a ``state_dict`` or attributes."""
    trainer, sources = run.trainer, run.trainer.sources
    if trainer.data_changes is None:
        return None
    if run.state.fn != "fit" or sources.given.get(stage) is not None:
        return {}
    if sources.datamodule is None:
        changes = trainer.attribute_changes if is_overridden(trainer.module, LOADER_HOOKS[stage]) else None
        return {} if changes is None else {"module": changes.state_dict(trainer.module)}
    if sources.datamodule is not sources.outermost:
        return {}
    if is_overridden(sources.datamodule, "state_dict"):
        return {"state": copy.deepcopy(sources.datamodule.state_dict())}
    return {"attributes": trainer.data_changes.state_dict(sources.datamodule)}
