"""What a fold leaves in a module beside its weights: Python attributes, and buffers that ``state_dict`` leaves out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from torchloops.trainer.attributes import Attributes, is_same
from torchloops.trainer.buffers import collect_buffers, restore_buffers
from torchloops.trainer.plain import plain_or_none
from torchloops.trainer.snapshot import Snapshot

__all__ = ["LEFT_BEHIND", "LeftBehind", "LostAttributesWarning", "warn_of_lost"]


LEFT_BEHIND = {"buffers": {str: Tensor}, "attributes": {str: Any}, "others": [str]}
"""What `LeftBehind.state_dict` returns; see `torchloops.schema`."""


class LostAttributesWarning(UserWarning):
    """Members of an ensemble lack attributes that their folds had when they were scored."""


class LeftBehind:
    """Attributes and non-persistent buffers that a fold has changed.

    All of them are there in the process that ran the fold; in others, and after a resume, those that are plain data,
    tensors or the like.

    Args:
        state: what `state_dict` returned elsewhere.
        attributes: all attributes.

    Attributes:
        lost: names of attributes that the fold has changed and that are not there.
    """

    def __init__(self, state: dict[str, Any] | None = None, attributes: Attributes | None = None) -> None:
        self._state = state or {"buffers": {}, "attributes": {}, "others": []}
        self._all = attributes

    @classmethod
    def found_in(cls, module: nn.Module, start: Snapshot) -> LeftBehind:
        """What is in ``module`` now and was not in the start of the fold."""
        now = Attributes(module)
        changed = {} if start.attributes is None else now.changed_since(start.attributes)
        plain = {name: plain_or_none(value) for name, value in changed.items()}
        kept = {name: value for name, value in plain.items() if is_same(value, changed[name])}
        buffers = {name: value.detach().cpu().clone() for name, value in collect_buffers(module).items()}
        others = [name for name in sorted(changed.keys() - kept.keys()) if not _is_remade(changed[name])]
        return cls({"buffers": buffers, "attributes": kept, "others": others}, now)

    @property
    def lost(self) -> list[str]:
        return [] if self._all is not None else self._state["others"]

    def put_into(self, module: nn.Module) -> None:
        """Give ``module`` what is there."""
        restore_buffers(module, self._state["buffers"])
        if self._all is not None:
            self._all.restore(module)
            return
        parts = dict(module.named_modules())
        for name, value in self._state["attributes"].items():
            path, _, attribute = name.rpartition(".")
            if path in parts:
                parts[path].__dict__[attribute] = copy.deepcopy(value)

    def state_dict(self) -> dict[str, Any]:
        """What can be written, as plain data."""
        return self._state


def _is_remade(value: Any) -> bool:
    """Whether it is of the library, as `ImageClassifier.preprocessing`, which no forward pass asks for."""
    return type(value).__module__.startswith("torchloops.")


def warn_of_lost(module: nn.Module, left: Iterable[LeftBehind]) -> None:
    """Say which attributes members of an ensemble lack."""
    lost = sorted({name for each in left for name in each.lost})
    if lost:
        warnings.warn(
            f"Members of the ensemble lack what their folds had left in attributes of {type(module).__name__}: "
            f"{', '.join(lost)}. The folds ran in other processes or before the run was resumed, and of these only "
            "weights and plain data are kept. Where predictions depend on it, keep it in buffers or plain attributes.",
            LostAttributesWarning,
            stacklevel=4,
        )
