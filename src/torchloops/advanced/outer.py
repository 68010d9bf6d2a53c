"""What loops around fits have in common: a slot for the fit, and going on with a run that was cut."""

from __future__ import annotations

from typing import Any

from torchloops.data.fingerprint import check_same
from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop

__all__ = ["OuterLoop"]


class OuterLoop(Loop):
    """Base of loops that run a fit in each iteration.

    A subclass says in `start_over` what belongs to one run, and saves `limits_state` with its own state. A run that
    was loaded goes on where it was cut, or where it had ended and its limits were raised; any other starts over.
    """

    fit_loop: Loop

    def connect(self, fit_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop of a fit: ``loop.connect(trainer.fit_loop)``."""
        super().connect(**loops if fit_loop is None else {"fit_loop": fit_loop, **loops})

    def start_over(self) -> None:
        """Forget what an earlier run left behind."""

    def reset(self) -> None:
        if not self.restarting:
            self.start_over()

    def check_connected(self) -> None:
        """Refuse to run without a fit.

        Raises:
            ConfigurationError: there is none.
        """
        if "fit_loop" not in vars(self):
            raise ConfigurationError(f"{type(self).__name__} trains nothing yet. Call loop.connect(trainer.fit_loop).")

    # limits

    @property
    def limits(self) -> dict[str, Any]:
        """What says how many fits there are, by name. Only the outermost loop can be extended."""
        return {}

    @property
    def fit_limits(self) -> dict[str, Any]:
        """How long a fit inside lasts; fits that are finished cannot be made longer."""
        return {"max_epochs": self.trainer.max_epochs, "max_steps": self.trainer.max_steps}

    def limits_state(self) -> dict[str, Any]:
        """Limits as plain data, for `check_limits` after a resume."""
        return {"own": self.limits, "fit": {} if self._trainer is None else self.fit_limits}

    def check_limits(self, saved: dict[str, Any]) -> None:
        """Refuse limits that finished fits did not have.

        Args:
            saved: what `limits_state` returned when the run was saved.

        Raises:
            CheckpointError: some have changed.
        """
        if self._trainer is None or not saved:
            return
        name = type(self).__name__
        check_same(f"Every fit inside {name}", saved["fit"], self.fit_limits)
        if self._trainer.fit_loop is not self:
            check_same(f"{name}, inside a loop that cannot extend what is finished,", saved["own"], self.limits)
