"""OuterLoop: a loop around fits."""

from __future__ import annotations

from typing import Any

from torchloops.data.fingerprint import check_same
from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop

__all__ = ["OuterLoop"]


class OuterLoop(Loop):
    """Base of loops that run a fit in each iteration: cross-validation, active learning, and one of yours.

    A subclass says when it is ``done``, how to ``advance``, in `start_over` what a run gathers, and in ``saved`` the
    names of those attributes and ``"start"``. A run that was loaded goes on where it was cut, or where it had ended and
    its limits were raised; any other starts over.

        start_over()                              # unless it goes on with a saved run
        start = trainer.snapshot()
        while not done:
            advance()                             # with trainer.isolated(name, start=start): fit_loop.run()

    Attributes:
        fit_loop: the loop of a fit.
        start: the module as it was when the run began, for ``trainer.isolated(..., start=self.start)``; None before.
    """

    fit_loop: Loop
    start: Any = None

    def connect(self, fit_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop of a fit: ``loop.connect(trainer.fit_loop)``."""
        super().connect(**loops if fit_loop is None else {"fit_loop": fit_loop, **loops})

    def start_over(self) -> None:
        """Forget what an earlier run left behind."""

    def reset(self) -> None:
        if not self.restarting:
            self.start = None
            self.start_over()

    def on_run_start(self) -> None:
        self.check_connected()
        if self.start is None:
            self.start = self.trainer.snapshot()
        self.trainer.complete(self.start)

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {"limits": self.limits_state()}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        self.check_limits(state_dict.get("limits", {}))

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
