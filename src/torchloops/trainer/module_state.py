"""What a checkpoint holds of Python attributes of a module or data module: those that have changed in the fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from torchloops.errors import ResumeWarning
from torchloops.hooks import is_overridden
from torchloops.trainer.attributes import NO_STATE, is_kept, names_of
from torchloops.values import NotPlainError, decode, encode, mark_or_identity

__all__ = ["AttributeChanges", "restore_attributes"]

_OF_DATA = ("state_dict", "load_state_dict")
_HYPERPARAMETERS = {
    "_hparams",
    "_hparams_initial",
    "_hparams_name",
    "_hparams_of_bases",
    "_log_hyperparams",
}  # saved and compared apart


class AttributeChanges:
    """Tells which attributes of a module and its parts, or of a data module, are others than when this was made.

    Args:
        owner: what is looked at; loaders, data sets, optimizers, functions and objects of this library are left out,
            and so are metrics of torchmetrics, whose states are saved by themselves, and data modules that have a
            ``state_dict`` of their own.
    """

    def __init__(self, owner: Any) -> None:
        self._before = {(path, name): mark_or_identity(value) for path, name, value in _attributes(owner)}

    def state_dict(self, owner: Any) -> dict[str, Any]:
        """Keys: ``values``, by path of the part and name; ``unsaved``, names of what has changed and is no plain data;
        ``gone``, path and name of what is no longer there.
        """
        values: dict[str, dict[str, Any]] = {}
        unsaved, seen = [], set()
        for path, name, value in _attributes(owner):
            seen.add((path, name))
            now = mark_or_identity(value)
            if (path, name) in self._before and self._before[path, name] == now:
                continue
            try:
                values.setdefault(path, {})[name] = encode(value, objects=True)
            except (NotPlainError, TypeError, ValueError, RuntimeError):
                if not callable(value):
                    unsaved.append(f"{path}.{name}".removeprefix("."))
        return {"values": values, "unsaved": unsaved, "gone": [list(key) for key in self._before.keys() - seen]}


def restore_attributes(owner: Any, state: dict[str, Any]) -> None:
    """Give back the attributes that `AttributeChanges.state_dict` returned; warn of those that are lost."""
    lost = list(state.get("unsaved", ()))
    parts = _parts(owner)
    for path, names in state.get("values", {}).items():
        for name, encoded in names.items():
            part = parts.get(path)
            try:
                if part is None or name in NO_STATE:
                    raise NotPlainError(f"there is no part {path} with an attribute {name}")
                part.__dict__[name] = decode(encoded, part.__dict__.get(name))
            except (NotPlainError, TypeError, ValueError, RuntimeError, AttributeError, LookupError):
                lost.append(f"{path}.{name}".removeprefix("."))
    for path, name in state.get("gone", ()):
        if path in parts and name not in NO_STATE:
            parts[path].__dict__.pop(name, None)
    if lost:
        saves, loads = ("on_save_checkpoint", "on_load_checkpoint") if isinstance(owner, nn.Module) else _OF_DATA
        warnings.warn(
            f"{type(owner).__name__} had changed attributes that the checkpoint could not hold: {', '.join(lost)}. "
            "The run goes on with what they are now, and may not end as it would have. Keep plain data in them "
            "(numbers, text, tensors, lists, dicts), give their classes state_dict and load_state_dict, or save them "
            f"in {saves} and load them in {loads}.",
            ResumeWarning,
            stacklevel=2,
        )


def _parts(owner: Any) -> dict[str, Any]:
    """Whose attributes are looked at, by path."""
    if isinstance(owner, nn.Module):
        return dict(owner.named_modules())
    keeps_them = not hasattr(owner, "__dict__") or is_overridden(owner, "state_dict")
    return {} if keeps_them or type(owner).__module__.startswith("torchloops.") else {"": owner}


def _attributes(owner: Any) -> Iterator[tuple[str, str, Any]]:
    inside = [*owner.parameters(), *owner.buffers(), *owner.modules()] if isinstance(owner, nn.Module) else []
    own = {id(value) for value in inside}
    for path, part in _parts(owner).items():
        if hasattr(part, "metric_state"):
            continue
        for name in names_of(part) - _HYPERPARAMETERS:
            value = part.__dict__[name]
            if is_kept(value) or type(value).__module__.startswith("torchloops."):
                continue
            if not _refers_to(value, own):  # as an RNN does, to its weights: these are saved as such
                yield path, name, value


def _refers_to(value: Any, own: set[int], depth: int = 4) -> bool:
    """Whether a value is, or holds, one of some objects."""
    if id(value) in own:
        return True
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return bool(depth) and any(_refers_to(item, own, depth - 1) for item in inside)
