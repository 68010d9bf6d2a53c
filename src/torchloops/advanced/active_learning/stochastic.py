"""Monte-Carlo dropout: many answers of one model, each under its own dropout masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves, tree_map_only

from torchloops.errors import ConfigurationError
from torchloops.module import evaluating

__all__ = ["StochasticForward", "class_probabilities", "mc_dropout"]

_FOLDED_SAMPLES = 256  # larger folded batches leave the cache: measured twice as slow as a loop
_DRAWS_AT_ONCE = 32  # more are done in turns, so that memory does not grow with the number of draws


@contextmanager
def mc_dropout(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Put ``module`` into evaluation mode with its dropout switched on; yields the dropout modules.

    Batch norm and everything else stand as in evaluation. All of torch's dropout modules and their subclasses
    are switched on (Dropout, Dropout1d, 2d, 3d, AlphaDropout, FeatureAlphaDropout). Each module's own mode
    comes back at the end, also after an error. What is **not** switched on: ``torch.nn.functional.dropout``
    called with ``self.training``, the ``dropout`` argument of RNNs and of attention, stochastic depth. Use a
    dropout module there.
    """
    dropouts = [part for part in module.modules() if isinstance(part, _DropoutNd)]
    inplace = [part.inplace for part in dropouts]
    try:
        with evaluating(module):
            for part in dropouts:
                part.training = True
                part.inplace = False  # a shared input must survive the first draw
            yield list(dropouts)
    finally:
        for part, value in zip(dropouts, inplace, strict=True):
            part.inplace = value


class StochasticForward:
    """Calls a model many times on the same input and returns probabilities with the draws in the last
    dimension.

    Three ways, the fastest that works is found on the first batch and kept: ``torch.func.vmap`` over the
    draws, which runs everything before the first dropout only once; the draws folded into the batch; one call
    after the other. They give the same distribution, not the same random numbers. Every draw has its own mask
    for every sample.

    Args:
        module: the model; ``module(inputs)`` returns logits or probabilities ``(B, n_classes, ...)``.
        draws: answers a sample.
        to_probabilities: turns the model's output into probabilities; default: `class_probabilities`.
    """

    def __init__(self, module: nn.Module, draws: int, to_probabilities: Callable[[Any], Tensor] | None = None) -> None:
        self.module = module
        self.draws = draws
        self.to_probabilities = to_probabilities or class_probabilities
        self._ways: list[Callable[[Any], Tensor]] = [self._vmapped, self._folded, self._looped]

    @property
    def way(self) -> str:
        """The way in use: "vmapped", "folded" or "looped"."""
        return self._ways[0].__name__.strip("_")

    @torch.no_grad()
    def __call__(self, inputs: Any) -> Tensor:
        """Probabilities of shape ``(B, n_classes, ..., draws)``, float32, on the model's device."""
        while len(self._ways) > 1:
            try:
                return self._ways[0](inputs)
            except Exception:  # whatever a model does that this way cannot do; the last way shows a true error
                self._ways.pop(0)
        return self._ways[0](inputs)

    def _answer(self, inputs: Any) -> Tensor:
        return self.to_probabilities(self.module(inputs))

    def _vmapped(self, inputs: Any) -> Tensor:
        numbers = torch.arange(self.draws)
        draw = torch.func.vmap(
            lambda _: self._answer(inputs), randomness="different", out_dims=-1, chunk_size=_DRAWS_AT_ONCE
        )
        return draw(numbers).contiguous()

    def _folded(self, inputs: Any) -> Tensor:
        parts = []
        size = _batch_size(inputs)
        at_once = max(1, _FOLDED_SAMPLES // size)
        for start in range(0, self.draws, at_once):
            count = min(at_once, self.draws - start)
            folded = tree_map_only(Tensor, partial(_repeat, count=count), inputs)
            parts.append(self._answer(folded).unflatten(0, (count, size)).movedim(0, -1))
        return torch.cat(parts, -1).contiguous()

    def _looped(self, inputs: Any) -> Tensor:
        return torch.stack([self._answer(inputs) for _ in range(self.draws)], -1)


def _batch_size(inputs: Any) -> int:
    sizes = {len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if len(sizes) != 1:
        raise ValueError(f"expected tensors of one batch size, got {sorted(sizes)}")
    return sizes.pop()


def _repeat(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape).flatten(0, 1)


def class_probabilities(output: Any) -> Tensor:
    """Probabilities ``(B, n_classes, ...)`` in float32 of a model's output.

    An output whose values are non-negative and sum to 1 over dimension 1 is taken for probabilities; any
    other is taken for logits (softmax over dimension 1). A single column is one logit of a yes-or-no answer
    and becomes two columns.

    Raises:
        ConfigurationError: the output is no tensor of two or more dimensions.
    """
    if not isinstance(output, Tensor) or output.ndim < 2:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"The pool cannot be scored: the model returned {what}; expected logits or probabilities of "
            "shape (batch, n_classes, ...). Give ActiveLearningLoop(to_probabilities=...)."
        )
    values = output.float()
    if values.shape[1] == 1:
        positive = values.sigmoid()
        return torch.cat([1 - positive, positive], 1)
    is_distribution = (values >= 0).all() & ((values.sum(1) - 1).abs() < 1e-3).all()
    return torch.where(is_distribution, values, values.softmax(1))
