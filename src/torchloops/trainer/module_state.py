"""What a checkpoint holds of a module's Python attributes: those that have changed since the fit began."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from torchloops.errors import ResumeWarning
from torchloops.trainer.attributes import NO_STATE, is_kept, names_of
from torchloops.values import NotPlainError, decode, encode, mark_or_identity

__all__ = ["AttributeChanges", "restore_attributes"]


class AttributeChanges:
    """Tells which attributes of a module and its parts are others than they were when this was made.

    Args:
        module: what is looked at; loaders, data sets, optimizers, functions and objects of this library are left out,
            and so are metrics of torchmetrics, whose states are saved by themselves.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = {(path, name): mark_or_identity(value) for path, name, value in _attributes(module)}

    def state_dict(self, module: nn.Module) -> dict[str, Any]:
        """Keys: ``values``, by path of the part and name; ``unsaved``, names of what has changed and is no plain data;
        ``gone``, path and name of what is no longer there.
        """
        values: dict[str, dict[str, Any]] = {}
        unsaved, seen = [], set()
        for path, name, value in _attributes(module):
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


def restore_attributes(module: nn.Module, state: dict[str, Any]) -> None:
    """Give a module the attributes back that `AttributeChanges.state_dict` returned; warn of those that are lost."""
    lost = list(state.get("unsaved", ()))
    parts = dict(module.named_modules())
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
        warnings.warn(
            f"{type(module).__name__} had changed attributes that the checkpoint could not hold: {', '.join(lost)}. "
            "The run goes on with what they are now, and may not end as it would have. Keep plain data in them "
            "(numbers, text, tensors, lists, dicts), give their classes state_dict and load_state_dict, or save them "
            "in on_save_checkpoint and load them in on_load_checkpoint.",
            ResumeWarning,
            stacklevel=2,
        )


def _attributes(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    own = {id(value) for value in [*module.parameters(), *module.buffers(), *module.modules()]}
    for path, part in module.named_modules():
        if hasattr(part, "metric_state"):
            continue
        for name in names_of(part):
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
