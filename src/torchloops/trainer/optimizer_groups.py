"""Which parameters the groups of optimizers have, by name, so that groups that a fit has changed are there again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torchloops.errors import CheckpointError

__all__ = ["GroupNames", "regroup"]

Names = list[list[Any]]
"""Of each group: the names of its parameters; the shape of one that has left the module; None: never was in it."""


class GroupNames:
    """The parameters of a run's optimizers, as they were configured and as they are.

    Attributes:
        made: `Names` of each optimizer when ``configure_optimizers`` had returned it.
        frozen: names of the parameters that were frozen then.
    """

    def __init__(self) -> None:
        self.made: list[Names] = []
        self.frozen: list[str] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    @contextmanager
    def configuring(self, module: nn.Module, before: Mapping[str, Any]) -> Iterator[None]:
        """A context for ``configure_optimizers``, which may leave out what is frozen.

        Args:
            module: the module.
            before: what `state_dict` returned in the run that goes on: it sees those parameters frozen that were then.
        """
        now = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
        if before:
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name not in before["frozen"])
        self.frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        yield
        if before:
            for parameter, flag in now:
                parameter.requires_grad_(flag)

    def note(self, module: nn.Module, optimizers: list[Any]) -> None:
        """Note the optimizers that were just made."""
        self.made = [names_in(optimizer, module) for optimizer in optimizers]
        self.know(module)

    def know(self, module: nn.Module) -> None:
        """Note the module's parameters, by which one that leaves it is known."""
        self._known.update({id(parameter): weakref.ref(parameter) for parameter in module.parameters()})

    def state_dict(self, module: nn.Module, optimizers: list[Any]) -> dict[str, Any]:
        """As plain data: ``frozen``, ``made``, and ``now``: `Names` of each optimizer."""
        if not optimizers:
            return {}
        self.know(module)
        now = [names_in(optimizer, module, self._known) for optimizer in optimizers]
        return {"frozen": self.frozen, "made": self.made, "now": now}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over how the run that was cut had made its optimizers."""
        self.made, self.frozen = state_dict["made"], state_dict["frozen"]


def names_in(optimizer: Any, module: nn.Module, known: Mapping[int, Any] | None = None) -> Names:
    """The names of the parameters in each group of an optimizer; of ``known`` ones the shapes."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}

    def name_of(parameter: Any) -> Any:
        reference = (known or {}).get(id(parameter))
        was_known = reference is not None and reference() is parameter
        return names.get(id(parameter), list(parameter.shape) if was_known else None)

    return [[name_of(parameter) for parameter in group["params"]] for group in getattr(optimizer, "param_groups", ())]


def regroup(optimizer: Any, module: nn.Module, made: Names, then: Names) -> None:
    """Give an optimizer the groups that it had when the checkpoint was taken; their settings are loaded later.

    Args:
        optimizer: as the module configures it, or with its groups already.
        module: whose parameters it has.
        made: its parameters as the run configured it.
        then: its parameters when the checkpoint was taken.

    Raises:
        CheckpointError: the module configures another one, or parameters of it are nowhere to be found.
    """
    now, kind, owner = names_in(optimizer, module), type(optimizer).__name__, type(module).__name__
    if now == then:
        return
    parameters = dict(module.named_parameters())
    grown = set(parameters) & _flat(then) - _flat(made)  # which on_load_checkpoint has made, perhaps
    configured = [[name for name in group if name not in grown] for group in now]
    _check_configured([group for group in configured if group], [group for group in made if group], kind)
    for number, group in enumerate(then):
        if None in group:
            raise CheckpointError(
                f"The checkpoint cannot be resumed: group {number} of {kind} was changed during the fit, and has "
                f"parameters that are none of {owner}'s, which a checkpoint does not hold. Make them parameters of the "
                "module: an attribute that is an nn.Parameter, an nn.ParameterList or a part."
            )
        missing = [name for name in group if isinstance(name, str) and name not in parameters]
        if missing:
            raise CheckpointError(
                f"The checkpoint cannot be resumed: group {number} of {kind} had {', '.join(missing)}, which {owner} "
                "does not have. Make what the module got during the fit in its on_load_checkpoint(checkpoint), too."
            )
    members = [
        [parameters[name] if isinstance(name, str) else nn.Parameter(torch.zeros(()).expand(name)) for name in group]
        for group in then
    ]
    groups = optimizer.param_groups
    del groups[len(members) :]
    for group, own in zip(groups, members, strict=False):
        group["params"] = own
    named = any("param_names" in group for group in groups)
    for number in range(len(groups), len(members)):
        pairs = [(str(name), own) for name, own in zip(then[number], members[number], strict=True)]
        optimizer.add_param_group({"params": pairs if named else members[number]})


def _flat(names: Names) -> set[str]:
    return {name for group in names for name in group if isinstance(name, str)}


def _check_configured(now: Names, made: Names, kind: str) -> None:
    if now == made:
        return
    number = next((i for i, (one, other) in enumerate(zip(now, made, strict=False)) if one != other), None)
    if number is None:
        what = f"{kind} had {len(made)} groups of parameters when it was configured, and has {len(now)}"
    else:
        what = (
            f"group {number} of {kind} had {_listed(made[number])} when it was configured, and has "
            f"{_listed(now[number])}"
        )
    raise CheckpointError(
        f"The checkpoint cannot be resumed: {what}. Resume with the configure_optimizers that the run had, or begin a "
        "new fit from its weights: load_from_checkpoint."
    )


def _listed(names: list[Any], most: int = 8) -> str:
    shown = [name if isinstance(name, str) else "a parameter that is none of the module's" for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
