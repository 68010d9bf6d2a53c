"""Scaling gradients: the function, the factor from a guide loss, and when it changes nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchloops.errors import ConfigurationError

__all__ = ["CancelledScaleWarning", "Scale", "gradients_of", "scale_gradients", "warn_if_cancelled"]

_ADAPTIVE = (
    "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LAMB", "Lamb", "Lion", "NAdam", "Prodigy",
    "RAdam", "RMSprop", "Rprop", "SparseAdam",
)  # fmt: skip


class CancelledScaleWarning(UserWarning):
    """The optimizer or the clipping divides a constant gradient scale out again."""


def gradients_of(target: nn.Module | Optimizer | Iterable[Tensor]) -> list[Tensor]:
    """The gradients there are: of a module's parameters, of an optimizer's, or of given parameters."""
    if isinstance(target, nn.Module):
        parameters: Iterable[Tensor] = target.parameters()
    elif hasattr(target, "param_groups"):
        parameters = (parameter for group in target.param_groups for parameter in group["params"])
    elif isinstance(target, Tensor):
        parameters = [target]
    else:
        parameters = target
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def scale_gradients(model: nn.Module | Optimizer | Iterable[Tensor], factor: float | Tensor) -> None:
    """Multiply all gradients by ``factor``, in place.

    Call it between ``loss.backward()`` and ``optimizer.step()``. Parameters without a gradient are left alone;
    nothing waits for a device.

    Args:
        model: a module, an optimizer, or parameters.
        factor: a number or a tensor of one element.

    Raises:
        ConfigurationError: ``factor`` is a tensor of several elements.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> scale_gradients(layer, 0.5)
        >>> layer.weight.grad
        tensor([[0.5000, 0.5000]])
    """
    if isinstance(factor, Tensor):
        if factor.numel() != 1:
            raise ConfigurationError(
                f"scale_gradients takes one factor for all gradients, got a tensor of shape {tuple(factor.shape)}."
            )
        factor = factor.detach().reshape(())
    gradients = gradients_of(model)
    dense = [gradient for gradient in gradients if gradient.layout == torch.strided]
    if dense:
        torch._foreach_mul_(dense, factor)
    for gradient in gradients:
        if gradient.layout != torch.strided:
            gradient.mul_(factor)


class Scale:
    """The factor for the gradients, from the guide loss.

    Args:
        how: "inverse" for ``1 / guide_loss``, or a function of the guide loss and of the earlier ones.
        epsilon: "inverse" takes a smaller guide loss for this one.
        minimum: least factor; None: no limit.
        maximum: greatest factor; None: no limit.
    """

    def __init__(
        self,
        how: str | Callable[[Tensor, Sequence[Tensor]], Any],
        epsilon: float,
        minimum: float | None,
        maximum: float | None,
    ) -> None:
        self.how, self.epsilon, self.minimum, self.maximum = how, epsilon, minimum, maximum

    def __call__(self, guide_loss: Tensor, history: Sequence[Tensor]) -> float | Tensor:
        """The factor; ``history`` holds the earlier guide losses, the oldest first."""
        if callable(self.how):
            factor = self.how(guide_loss, history)
        else:
            if not history:
                _check_positive(guide_loss)  # the only time a device is waited for
            factor = 1 / (guide_loss.clamp(min=self.epsilon) if self.epsilon else guide_loss)
        if isinstance(factor, Tensor):
            return self._clamped(factor)
        if not isinstance(factor, int | float):
            raise ConfigurationError(
                f"scale(guide_loss, history) returns a number or a tensor of one element, got {type(factor).__name__}."
            )
        low = -math.inf if self.minimum is None else self.minimum
        return min(max(float(factor), low), math.inf if self.maximum is None else self.maximum)

    def _clamped(self, factor: Tensor) -> Tensor:
        if factor.numel() != 1:
            raise ConfigurationError(
                "scale(guide_loss, history) returns a number or a tensor of one element, got a tensor of shape "
                f"{tuple(factor.shape)}."
            )
        factor = factor.detach().reshape(())
        if self.minimum is None and self.maximum is None:
            return factor
        return factor.clamp(self.minimum, self.maximum)


def _check_positive(guide_loss: Tensor) -> None:
    if float(guide_loss) < 0:
        raise ConfigurationError(
            f'scale="inverse" divides by the guide loss, which must not be negative; the first one is '
            f"{float(guide_loss):.4g}. Give a function: scale=lambda guide_loss, history: ..."
        )


def warn_if_cancelled(optimizers: Iterable[Any], clips_by_norm: bool) -> bool:
    """Warn where a constant gradient scale changes nothing; return whether it did."""
    names = {type(optimizer).__name__ for optimizer in optimizers}
    adaptive = sorted(name for name in names if name in _ADAPTIVE)
    reasons = [f"{name} divides every gradient by its recent size" for name in adaptive]
    if clips_by_norm:
        reasons.append("clipping by norm, which follows the scaling, brings every gradient above it to one norm")
    if not reasons:
        return False
    warnings.warn(
        f"ValidationGuidedLoop scales the gradients, but {' and '.join(reasons)}: a constant factor cancels, and only "
        "its change from step to step is left. Use SGD without clipping by norm for the scale to act as written, or "
        'scale="reweight", which changes the direction of the gradient.',
        CancelledScaleWarning,
        stacklevel=2,
    )
    return True
