"""The one place that imports baal, which is optional."""

from __future__ import annotations

import warnings
from types import ModuleType

from torchloops.errors import require

__all__ = ["import_baal"]


def import_baal(name: str, needed_by: str) -> ModuleType:
    """Import ``baal.active.<name>``.

    Raises:
        MissingDependencyError: baal is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # baal's own imports use what others deprecate
        return require(f"baal.active.{name}", extra="active-learning", needed_by=needed_by)
