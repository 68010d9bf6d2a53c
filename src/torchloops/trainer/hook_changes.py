"""What the first hooks of a run have changed in a module's attributes, so that the runs inside begin without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from torchloops.trainer.attributes import Attributes, is_same

__all__ = ["HookChanges"]

_ABSENT = object()


class HookChanges:
    """Attributes and buffers of a module that the hooks of a run have filled.

    ``if self.mean is None: self.mean = ...`` in ``setup`` or ``on_fit_start`` computes nothing where it has done so
    before. What an outer run computed from all data would so be there in each of its folds.

    Attributes:
        filled_buffers: path of the part and name of each buffer that was None (True) or not registered (False).
    """

    def __init__(self) -> None:
        self._changed: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.filled_buffers: dict[tuple[str, str], bool] = {}

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """A context for hooks of the run."""
        parts, before = dict(module.named_modules()), Attributes(module).values
        buffers = _is_filled(module)
        yield
        known = {path for path, part in module.named_modules() if parts.get(path) is part}
        for place, is_filled in _is_filled(module).items():
            if is_filled and not buffers.get(place) and place[0] in known:
                self.filled_buffers.setdefault(place, place in buffers)
        after = Attributes(module).values
        for path in known:
            for name in after[path]:
                then, now = before[path].get(name, _ABSENT), after[path][name]
                if not is_same(then, now):
                    self._changed[path, name] = self._changed.get((path, name), (then,))[0], now

    def undo(self, values: dict[str, dict[str, Any]]) -> None:
        """Put attributes back to what they were before the hooks, where they still are what the hooks left.

        Args:
            values: copies of attributes by path of the part and name; changed in place.
        """
        for (path, name), (then, left) in self._changed.items():
            names = values.get(path, {})
            if name not in names or not is_same(names[name], left):
                continue
            if then is _ABSENT:
                del names[name]
            else:
                names[name] = then


def _is_filled(module: nn.Module) -> dict[tuple[str, str], bool]:
    return {
        (path, name): value is not None
        for path, part in module.named_modules()
        for name, value in part._buffers.items()
    }
