"""Learning to reweight examples: a weight for each training sample from its gradient and the guide's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchloops.errors import ConfigurationError
from torchloops.loops.step import call_step
from torchloops.seeding import isolated_generators

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["ReweightedLossWarning", "SampleLosses", "alignments", "classification_losses"]

_CONTRACT = (
    'scale="reweight" needs a loss for every sample. Return {"loss": losses.mean(), "losses": losses} from '
    "training_step, with losses of shape (batch_size,), or give "
    "ValidationGuidedLoop(sample_losses=lambda module, batch: ...)."
)


class ReweightedLossWarning(UserWarning):
    """The losses that are weighted are not those that the module trains by."""


class SampleLosses:
    """``(batch, batch_idx) -> (what training_step returned, losses)`` with losses ``(batch_size,)``.

    A ``training_step`` that returns a dictionary with ``"losses"`` is run once. Else the losses come from a
    forward pass of their own, and ``training_step`` runs beside it without gradients, for what it logs.

    Args:
        trainer: the Trainer that runs.
        training_step: ``(batch, batch_idx)``.
        index: which optimizer the step is for.
        sample_losses: ``(module, batch) -> losses``; None: cross-entropy of a classifier.
    """

    def __init__(
        self,
        trainer: Trainer,
        training_step: Callable[..., Any],
        index: int,
        sample_losses: Callable[[Any, Any], Tensor] | None,
    ) -> None:
        module = trainer.module
        self._step = training_step if trainer.world_size == 1 else _unsynced(trainer, index)
        function = sample_losses or classification_losses
        self._losses = trainer.engine.under_precision(lambda batch: function(module, batch))
        self._given = sample_losses is not None
        self._returns_losses = not self._given

    def compare(self, batch: Any, batch_idx: int) -> None:
        """Say so where the mean of the losses is not what the module trains by; called with everything else at rest."""
        with isolated_generators(0):
            output = self._step(batch, batch_idx)
        loss = output.get("loss") if isinstance(output, dict) else output
        losses = None if self._given or not isinstance(output, dict) else output.get("losses")
        with isolated_generators(0):
            losses = self._losses(batch) if losses is None else losses
        if not isinstance(loss, Tensor) or not isinstance(losses, Tensor):
            return
        mean = losses.float().mean()
        if not torch.isclose(loss.float(), mean, rtol=1e-3, atol=1e-5):
            warnings.warn(
                f'scale="reweight" weighs losses whose mean is {float(mean):.4g}, where training_step returns '
                f"{float(loss):.4g}: weighted steps train by another loss than the module's own (smoothed labels, "
                'weights of classes, penalties). Return {"loss": ..., "losses": losses}, or give sample_losses.',
                ReweightedLossWarning,
                stacklevel=2,
            )

    def __call__(self, batch: Any, batch_idx: int) -> tuple[dict[str, Any], Tensor | None]:
        with torch.set_grad_enabled(self._returns_losses):
            output = self._step(batch, batch_idx)
        if output is None:
            return {}, None
        rest = dict(output) if isinstance(output, dict) else {}
        losses = None if self._given else rest.pop("losses", None)
        if losses is None:
            self._returns_losses = False
            losses = self._losses(batch)
        return rest, _check(losses)


def _unsynced(trainer: Trainer, index: int) -> Callable[..., Any]:
    """The step without the strategy: gradients are taken several times, and averaged once, when a step is due."""
    several = len(trainer.optimizers) > 1
    step = call_step(trainer, synced=False, several=several)
    return (lambda batch, batch_idx: step(batch, batch_idx, index)) if several else step


def classification_losses(module: Any, batch: Any) -> Tensor:
    """Cross-entropy of every sample, for a batch ``(inputs, class indices)`` and a module that returns logits.

    Returns:
        losses ``(batch_size,)``.

    Raises:
        ConfigurationError: the batch is another one.
    """
    pair = isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(item, Tensor) for item in batch)
    if not pair or batch[1].dim() != 1 or batch[1].is_floating_point():
        raise ConfigurationError(f"{_CONTRACT} The batch is no pair of inputs and class indices.")
    logits = module(batch[0])
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ConfigurationError(f"{_CONTRACT} {type(module).__name__}(inputs) gives no logits (batch_size, classes).")
    return nn.functional.cross_entropy(logits, batch[1], reduction="none")


def _check(losses: Any) -> Tensor:
    if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.requires_grad:
        came = type(losses).__name__
        if isinstance(losses, Tensor):
            came = f"shape {tuple(losses.shape)}" if losses.dim() != 1 else "losses without a gradient"
        raise ConfigurationError(f"{_CONTRACT} Got {came}.")
    return losses


def alignments(losses: Tensor, parameters: list[Tensor], direction: list[Tensor | None]) -> Tensor:
    """Dot products of every sample's gradient with ``direction``, by differentiating twice.

    The gradient of ``sum(weights * losses)`` is linear in the weights; its derivative along ``direction`` is what
    is asked for. Costs two backward passes, whatever the batch size. The graph of ``losses`` is kept.

    Args:
        losses: ``(batch_size,)``, with their graph.
        parameters: of the model.
        direction: a tensor for each parameter, of its shape; None: zeros.

    Returns:
        ``(batch_size,)``, detached; zeros where no loss depends on a parameter with a direction.
    """
    weights = torch.zeros_like(losses, requires_grad=True)
    gradients = torch.autograd.grad(losses, parameters, grad_outputs=weights, create_graph=True, allow_unused=True)
    pairs = [
        (gradient, along)
        for gradient, along in zip(gradients, direction, strict=True)
        if gradient is not None and along is not None
    ]
    if not pairs:
        return torch.zeros_like(losses)
    (found,) = torch.autograd.grad(
        [gradient for gradient, _ in pairs], weights, grad_outputs=[along for _, along in pairs]
    )
    return found.detach()
