"""What a run's steps do under guidance: scale gradients, or weigh samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchloops.advanced.validation_guided.guide import GuidePass
from torchloops.advanced.validation_guided.reweighting import SampleLosses, alignments
from torchloops.advanced.validation_guided.scaling import gradients_of, scale_gradients
from torchloops.errors import ConfigurationError
from torchloops.schema import COUNT, Either, Whole, check, scalar

if TYPE_CHECKING:
    from torchloops.advanced.validation_guided.loop import ValidationGuidedLoop

__all__ = ["GuidedSteps"]

_TRACK = {
    "steps": COUNT, "guided_at": Whole(-1), "factor": scalar, "share?": Either(scalar, None),
    "history": torch.Tensor | None, "direction": [torch.Tensor | None],
}  # fmt: skip
_STATE = {"guide": Any, "tracks": [_TRACK]}

_HISTORY = 1000  # earlier guide losses that a scale function sees


class _Track:
    """One optimizer: its steps so far, and what the last guide pass gave for it."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps = 0
        self.guided_at = -1
        self.history: deque[Tensor] = deque(maxlen=_HISTORY)
        self.factor: float | Tensor = 1.0
        self.direction: list[Tensor | None] = []
        self.share: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        is_kept = self.every > 1 or self.guided_at == self.steps  # else the next step computes it again
        return {
            "steps": self.steps, "guided_at": self.guided_at, "factor": self.factor, "share": self.share,
            "history": torch.stack(list(self.history)) if self.history else None,
            "direction": self.direction if is_kept else [],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.guided_at, self.factor = state["steps"], state["guided_at"], state["factor"]
        self.history.extend(() if state["history"] is None else state["history"])
        self.direction, self.share = list(state["direction"]), state.get("share")


class GuidedSteps:
    """The guidance of one run, hung on its optimizers.

    Args:
        loop: the loop that guides.
        guide: computes the guide loss.

    Attributes:
        calls: optimizer steps it has seen.
    """

    def __init__(self, loop: ValidationGuidedLoop, guide: GuidePass) -> None:
        trainer = loop.trainer
        self.loop, self.trainer, self.guide = loop, trainer, guide
        self.scale, self.every = loop._scale_function(), loop.every_n_steps
        self.reduction, self.logs = loop.guide_reduction, loop.log_guide
        optimizers = trainer.optimizers
        self.several = len(optimizers) > 1
        self.index = {id(optimizer): index for index, optimizer in enumerate(optimizers)}
        names = trainer.run.optimization.names or [str(index) for index in range(len(optimizers))]
        self.suffixes = [f"/{name}" if self.several else "" for name in names]
        self.tracks = [_Track(self.every) for _ in optimizers]
        self.calls = 0
        run = trainer.run
        if loop.scale == "reweight":
            run.step_wrappers.append(self.wrap)
            run.gradient_hooks.append(self.after_weighing)
        else:
            run.gradient_hooks.append(self.before_step)

    # scaling

    def before_step(self, optimizer: Any) -> None:
        """Scale the gradients of an optimizer; called once a step, unscaled and before clipping."""
        index = self.index[id(optimizer)]
        track = self.tracks[index]
        self.calls += 1
        if track.steps % self.every == 0:
            loss = self.guide.loss(index, self.reduction)
            track.factor = self.scale(loss, tuple(track.history) if callable(self.loop.scale) else track.history)
            track.history.append(loss)
        norm = torch.nn.utils.get_total_norm(gradients_of(optimizer)) if self.logs else None
        scale_gradients(optimizer, track.factor)
        track.steps += 1
        if norm is not None:
            magnitude: Any = abs(track.factor)
            scaled = norm * magnitude
            values = {"loss": track.history[-1], "scale": track.factor, "grad_norm": norm, "grad_norm_scaled": scaled}
            self._log(index, values)

    # weighing

    def wrap(self, training_step: Callable[..., Any], index: int) -> Callable[..., Any]:
        """The training step of an optimizer with its samples weighted."""
        losses_of = SampleLosses(self.trainer, training_step, index, self.loop.sample_losses)
        is_compared = False

        def step(batch: Any, batch_idx: int) -> Any:
            nonlocal is_compared
            rest, losses = losses_of(batch, batch_idx)
            if losses is None:
                return None
            if not is_compared:
                is_compared = True
                with self.guide.unnoticed(), torch.no_grad():
                    losses_of.compare(batch, batch_idx)
            return {**rest, "loss": (self._weights(losses, index) * losses).sum()}

        return step

    def _weights(self, losses: Tensor, index: int) -> Tensor:
        """Weights ``(batch_size,)``: 0 or more, with the sum 1 over all processes' batches, times their number."""
        track = self.tracks[index]
        parameters = self._parameters(index)
        if not track.direction or (track.steps % self.every == 0 and track.guided_at != track.steps):
            loss, track.direction = self.guide.gradient(index, parameters)
            track.history.append(loss)
            track.guided_at = track.steps
            if all(part is None for part in track.direction):
                raise ConfigurationError(
                    'scale="reweight": the guide\'s loss has no gradient for any parameter of this optimizer, so every '
                    "sample would weigh nothing. Check that the optimizer holds what the loss depends on, and that "
                    "torch.utils.checkpoint, where it is used, has use_reentrant=False."
                )
        weights = alignments(losses, parameters, track.direction).clamp(min=0)
        engine = self.trainer.engine
        total = engine.all_reduce(weights.sum(), "mean")
        track.share = (weights > 0).float().mean()
        return torch.where(total > 0, weights / total, torch.zeros_like(weights))

    def _parameters(self, index: int) -> list[Tensor]:
        groups = self.trainer.optimizers[index].param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]

    def after_weighing(self, optimizer: Any) -> None:
        """Note a step on weighted samples; average its gradients, which the strategy has not seen."""
        index = self.index[id(optimizer)]
        track = self.tracks[index]
        self.calls += 1
        if track.share is None:
            inner = getattr(self.loop.batch_loop, "optimizer_loop", self.loop.batch_loop)
            raise ConfigurationError(
                'scale="reweight" weighs samples inside the training step, and '
                f"{type(inner).__name__} does not run it as one step with one loss. Use the OptimizerLoop, or "
                'scale="inverse".'
            )
        if not self.several:
            self.trainer.engine.average_gradients(self._parameters(index))
        track.steps += 1
        if self.logs:
            norm = torch.nn.utils.get_total_norm(gradients_of(optimizer))
            self._log(index, {"loss": track.history[-1], "share_weighted": track.share, "grad_norm": norm})

    def _log(self, index: int, values: dict[str, Any]) -> None:
        log, suffix = self.trainer.module.log, self.suffixes[index]
        for name, value in values.items():
            log(f"guide/{name}{suffix}", value, on_step=False, on_epoch=True, batch_size=1)

    # state

    def state_dict(self) -> dict[str, Any]:
        """Position in the guide data, generators, and each optimizer's track, as plain data."""
        return {"guide": self.guide.state_dict(), "tracks": [track.state_dict() for track in self.tracks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        check(state, _STATE, "The guidance: state")
        self.guide.load_state_dict(state["guide"])
        for track, saved in zip(self.tracks, state["tracks"], strict=True):
            track.load_state_dict(self.trainer.to_device(saved))
