"""What a resumed run is put back to when it is where its checkpoint was taken, whatever set-up has done on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchloops.errors import CheckpointError
from torchloops.seeding import restore_random_state
from torchloops.trainer.attributes import is_same
from torchloops.trainer.module_state import restore_attributes
from torchloops.trainer.position import has_state

if TYPE_CHECKING:
    from torchloops.trainer.run import Run

__all__ = ["Arrival", "modes_of", "restore_modes"]


class Arrival:
    """Generators, attributes, weights, modes and settings of optimizers, as they were where the checkpoint was taken.

    `on_fit_start`, `on_train_start` and their like run again in a resumed run, and draw, freeze, and set weights and
    learning rates as they did in the run that was cut, before it trained.

    Args:
        checkpoint: it was taken in the innermost of its runs.

    Attributes:
        name: of that run.
    """

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        self.name: str = checkpoint["name"]
        self._random = checkpoint["random"]
        self._attributes = checkpoint.get("attributes") or {}
        self._data_attributes = checkpoint.get("datamodule_attributes") or {}
        self._modes: dict[str, list[str]] | None = None
        self._values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._groups: list[tuple[Any, list[Any], list[dict[str, Any]]]] = []
        self._schedulers: list[tuple[Any, Any]] = []

    def note(self, run: Run) -> None:
        """Note the module and the optimizers of a run that has just been restored."""
        module = run.trainer.module
        self._modes = modes_of(module)
        self._values = {name: (value, value.detach().clone()) for name, value in _values_of(module).items()}
        self._groups = [
            (optimizer, list(optimizer.param_groups), [_copied(group) for group in optimizer.param_groups])
            for optimizer in run.optimizers_or_none()
        ]
        schedulers = [config.scheduler for config in run.schedulers_or_none()]
        self._schedulers = [(each, copy.deepcopy(each.state_dict())) for each in schedulers if has_state(each)]

    def reach(self, run: Run) -> None:
        """Put all of it back."""
        module = run.trainer.module
        now = _values_of(module)
        for name, (owner, value) in self._values.items():
            if now.get(name) is not owner:
                _put(module, name, owner)
            if not torch.equal(owner, value):
                with torch.no_grad():
                    owner.copy_(value)
        for optimizer, groups, values in self._groups:
            for group, then in zip(groups, values, strict=True):
                group.clear()
                group.update(then)
            optimizer.param_groups[:] = groups
        for scheduler, state in self._schedulers:
            if not is_same(scheduler.state_dict(), state):
                scheduler.load_state_dict(state)
        if self._modes is not None:
            restore_modes(module, self._modes, run.modes_outside)
        restore_attributes(run.trainer.sources.outermost, self._data_attributes)
        restore_attributes(module, self._attributes)
        if self._random is not None:
            restore_random_state(self._random)


def modes_of(module: Any, outside: list[tuple[Any, bool]] | None = None) -> dict[str, list[str]]:
    """Names of the parameters that are frozen (``frozen``), and of the parts in evaluation mode (``evaluating``).

    Args:
        module: the module.
        outside: parts and the modes that they will have again, where they are evaluated now.
    """
    later = {id(part): training for part, training in outside or ()}
    return {
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "evaluating": [name for name, part in module.named_modules() if not later.get(id(part), part.training)],
    }


def restore_modes(module: Any, modes: Mapping[str, Any], outside: list[tuple[Any, bool]] | None = None) -> None:
    """Freeze parameters and set modes as `modes_of` found them.

    Args:
        module: the module.
        modes: what `modes_of` returned.
        outside: parts and the modes that they will have again, where they are evaluated now: these are set instead.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in modes["frozen"])
    trains = [(part, name not in modes["evaluating"]) for name, part in module.named_modules()]
    if outside is not None:
        outside[:] = trains
        return
    for part, training in trains:
        part.training = training


def _values_of(module: Any) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _put(module: Any, name: str, value: torch.Tensor) -> None:
    """Put back a parameter or buffer in whose place set-up has put another: optimizers have the former."""
    path, _, own = name.rpartition(".")
    part = dict(module.named_modules()).get(path)
    kind = "_parameters" if isinstance(value, torch.nn.Parameter) else "_buffers"
    place = {} if part is None else getattr(part, kind)
    now = place.get(own)
    if kind == "_parameters" and (now is None or now.shape != value.shape):
        raise CheckpointError(
            f"The checkpoint has a parameter {name} of shape {tuple(value.shape)}, and on_fit_start or on_train_start "
            f"has {'taken it away' if now is None else f'put one of shape {tuple(now.shape)} in its place'}. Leave "
            "this out in a fit that goes on with a checkpoint, or do it in setup or configure_model."
        )
    if own in place:
        place[own] = value


def _copied(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings of a group, which refers to the same parameters."""
    return {name: list(value) if name == "params" else copy.deepcopy(value) for name, value in group.items()}
