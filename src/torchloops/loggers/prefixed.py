"""PrefixedLogger: the logger of an inner run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PrefixedLogger"]


class PrefixedLogger:
    """Forwards to another logger, with a prefix before every name: the logger of an inner run.

    Args:
        logger: the logger that writes.
        prefix: for instance ``"round_3/"``.
    """

    def __init__(self, logger: Any, prefix: str) -> None:
        self.logger = logger
        self.prefix = prefix

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Forward values under the prefix."""
        self.logger.log_metrics({f"{self.prefix}{name}": value for name, value in metrics.items()}, step)

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Nothing: the outermost run has logged them."""

    def save(self) -> None:
        """Have the other logger write."""
        self.logger.save()

    def finalize(self, status: str = "success") -> None:
        """Have the other logger write; it stays open for the runs that follow."""
        self.logger.save()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the state of the other logger belongs to the outer run."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing, as `state_dict`."""

    def __getattr__(self, name: str) -> Any:
        if name in ("logger", "prefix") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.logger, name)
