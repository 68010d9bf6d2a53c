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

from torchloops.data.reader import Reader
from torchloops.module import evaluating

__all__ = ["StochasticForward", "mc_dropout"]

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
        reader: asks the model and knows what its answers mean.
        draws: answers a sample.
    """

    def __init__(self, reader: Reader, draws: int) -> None:
        self.reader = reader
        self.draws = draws
        self._ways: list[Callable[[Any, int], Tensor]] = [self._vmapped, self._folded, self._looped]

    @property
    def way(self) -> str:
        """The way in use: "vmapped", "folded" or "looped"."""
        return self._ways[0].__name__.strip("_")

    @torch.no_grad()
    def __call__(self, batch: Any, n_samples: int) -> Tensor:
        """Probabilities ``(B, n_classes, ..., draws)``, or numbers ``(B, n_outputs, draws)``, float32, on the device.

        Of several labels each is a place with two classes: ``(B, 2, n_labels, draws)``. The members of an ensemble
        are draws: there are ``num_estimators`` times as many.
        """
        while len(self._ways) > 1:
            try:
                return self._ways[0](batch, n_samples)
            except Exception:  # whatever a model does that this way cannot do; the last way shows a true error
                self._ways.pop(0)
        return self._ways[0](batch, n_samples)

    def _answer(self, batch: Any, n_samples: int) -> Tensor:
        """One draw, or one of each member of an ensemble: ``(B, n_classes, ..., members)``."""
        reader = self.reader
        answers = reader.answers(batch, n_samples).float()
        if reader.num_estimators is None:
            answers = answers.unsqueeze(-1)
        meaning = reader.meaning
        assert meaning is not None
        if meaning.kind == "numbers":
            return answers
        probabilities = meaning.probabilities(answers)
        return torch.stack([1 - probabilities, probabilities], 1) if meaning.is_multilabel else probabilities

    def _vmapped(self, batch: Any, n_samples: int) -> Tensor:
        numbers = torch.arange(self.draws)
        draw = torch.func.vmap(
            lambda _: self._answer(batch, n_samples), randomness="different", out_dims=-1, chunk_size=_DRAWS_AT_ONCE
        )
        return draw(numbers).flatten(-2).contiguous()

    def _folded(self, batch: Any, n_samples: int) -> Tensor:
        if self.reader.num_estimators is not None or _batch_size(batch) != n_samples:
            raise ValueError("only the rows of single models are known to keep their order")
        parts = []
        at_once = max(1, _FOLDED_SAMPLES // n_samples)
        for start in range(0, self.draws, at_once):
            count = min(at_once, self.draws - start)
            folded = tree_map_only(Tensor, partial(_repeat, count=count), batch)
            answers = self._answer(folded, count * n_samples).squeeze(-1)
            parts.append(answers.unflatten(0, (count, n_samples)).movedim(0, -1))
        return torch.cat(parts, -1).contiguous()

    def _looped(self, batch: Any, n_samples: int) -> Tensor:
        return torch.cat([self._answer(batch, n_samples) for _ in range(self.draws)], -1)


def _batch_size(inputs: Any) -> int:
    sizes = {len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if len(sizes) != 1:
        raise ValueError(f"expected tensors of one batch size, got {sorted(sizes)}")
    return sizes.pop()


def _repeat(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape).flatten(0, 1)
