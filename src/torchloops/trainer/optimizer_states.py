"""The states of optimizers and schedulers: of which class they are, and whether they fit those that the module has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from torchloops.errors import CheckpointError, taking_back

__all__ = ["kind_of", "load_each", "state_of_optimizer"]

_OTHER_SHAPES = {"LBFGS", "Adafactor"}  # of torch.optim: whose state is not shaped as the parameters are


def kind_of(part: Any) -> str:
    """The class of an optimizer or scheduler, with those of the schedulers inside."""
    inner = getattr(part, "_schedulers", None)
    name = type(part).__qualname__
    return f"{name}({', '.join(map(kind_of, inner))})" if isinstance(inner, list | tuple) else name


def state_of_optimizer(optimizer: Any) -> dict[str, Any]:
    """What ``state_dict`` of an optimizer returns.

    Raises:
        CheckpointError: it has states of parameters that it does not have.
    """
    if _is_torchs(optimizer):
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(isinstance(key, torch.Tensor) and id(key) not in own for key in optimizer.state):
            name = type(optimizer).__name__
            raise CheckpointError(
                f"{name} has states of parameters that are in none of its groups, so it cannot be saved. Where you "
                "take a parameter out of a group, take its state out, too: optimizer.state.pop(parameter, None)."
            )
    return optimizer.state_dict()


def load_each(
    what: str,
    targets: list[Any],
    states: list[Any],
    kinds: list[str] | None,
    prepare: Callable[[int, Any], None] | None = None,
) -> None:
    """Load states into what the module configures.

    Args:
        what: "optimizers" or "learning-rate schedulers".
        targets: as the module configures them.
        states: of the checkpoint.
        kinds: what `kind_of` said of those that had the states; None: not known, as of older checkpoints.
        prepare: called with the number of each and itself, before it gets its state.

    Raises:
        CheckpointError: they are others, or the states do not fit.
    """
    if len(targets) != len(states):
        raise CheckpointError(
            f"The checkpoint holds {len(states)} {what}, the module configures {len(targets)}. "
            "Resume with the module as it was when saved."
        )
    now = [kind_of(target) for target in targets]
    if kinds is not None and kinds != now:
        raise CheckpointError(
            f"The checkpoint's {what} are {', '.join(kinds)}, the module configures {', '.join(now)}. Resume with "
            "those that the run had, or begin a new fit from its weights: load_from_checkpoint."
        )
    for number, (target, state) in enumerate(zip(targets, states, strict=True)):
        if prepare is not None:
            prepare(number, target)
        with taking_back(f"the {what} do not fit the module's"):
            before = target.state_dict() if _is_torchs(target) else {}
            target.load_state_dict(state)
            wrong = next(_misfits(target, before, state), None)
        if wrong is not None:
            raise CheckpointError(
                f"The checkpoint's {what} do not fit the module's: {type(target).__name__}: {wrong}. Resume with the "
                "module as it was when saved; if it is the same, the checkpoint was edited."
            )


def _is_torchs(part: Any) -> bool:
    return type(part).__module__.startswith("torch.optim")


def _misfits(target: Any, before: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a state that was loaded: found out now, not in the middle of the next step."""
    if not _is_torchs(target):
        return
    if not isinstance(target, Optimizer):
        number = len(getattr(getattr(target, "optimizer", None), "param_groups", ()))
        yield from _misfits_of(state, _with_groups(before, state, number))
        if "last_epoch" in before and "last_epoch" not in state:
            yield "last_epoch is missing"
        return
    for group, now in zip(target.param_groups, before["param_groups"], strict=True):
        yield from _misfits_of(group, {name: value for name, value in now.items() if name != "params"})
        yield from (f"{name} is missing" for name in now if name not in group)
    states = [(parameter, target.state[parameter]) for parameter in target.state]
    names = next((one.keys() for _, one in states if one), ())
    for parameter, one in states:
        if one and one.keys() != names:
            yield f"parameters have different states, {sorted(names)} and {sorted(one)}"
        for name, value in one.items():
            first = next(other[name] for _, other in states if name in other)
            if value is not None and first is not None and type(value) is not type(first):
                yield f"{name} is a {type(value).__name__} of one parameter and a {type(first).__name__} of another"
            has_its_shape = not isinstance(value, torch.Tensor) or value.shape in (parameter.shape, ())
            if not has_its_shape and type(target).__name__ not in _OTHER_SHAPES:
                yield f"{name} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"


def _with_groups(now: Any, saved: Any, number: int) -> Any:
    """What a scheduler holds, with as many entries as its optimizer has groups: some may have come during the fit."""
    if isinstance(now, Mapping) and isinstance(saved, Mapping):
        return {name: _with_groups(value, saved.get(name), number) for name, value in now.items()}
    if not isinstance(now, list) or not isinstance(saved, list) or not now:
        return now
    if len(saved) == number != len(now):
        return [now[0]] * number
    return [_with_groups(one, other, number) for one, other in zip(now, saved, strict=False)]


def _misfits_of(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in now:
        if name in saved and not _fits(saved[name], now[name]):
            yield f"{name} is {saved[name]!r}, expected something like {now[name]!r}"


def _fits(saved: Any, now: Any) -> bool:
    """Whether a saved value can stand where another stands now; what is None now may become anything."""
    if now is None or isinstance(now, bool):
        return now is None or saved is None or isinstance(saved, bool)
    if isinstance(now, torch.Tensor) and now.numel() != 1:
        return isinstance(saved, torch.Tensor) and saved.shape == now.shape
    if isinstance(now, int | float | torch.Tensor):
        is_number = isinstance(saved, int | float) and not isinstance(saved, bool)
        return is_number or (isinstance(saved, torch.Tensor) and saved.numel() == 1)
    if isinstance(now, Mapping):
        return isinstance(saved, Mapping) and not any(_misfits_of(saved, now))
    if isinstance(now, list | tuple):
        alike = isinstance(saved, list | tuple) and len(saved) == len(now)
        return alike and all(_fits(one, other) for one, other in zip(saved, now, strict=True))
    return not isinstance(now, str) or isinstance(saved, str)
