"""Score the pool: one number a sample id, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.advanced.active_learning.heuristics import Heuristic
from torchloops.advanced.active_learning.seeds import generator_for
from torchloops.advanced.active_learning.stochastic import StochasticForward, mc_dropout
from torchloops.errors import ConfigurationError, DataError
from torchloops.seeding import derive_seed, isolated_generators

__all__ = ["PoolScores", "check_draws_differ", "score_ids", "score_pool"]


@dataclass(frozen=True)
class PoolScores:
    """Scores of the pool; **high means ask first**.

    Args:
        sample_ids: ids in the training data set.
        scores: ``(n_pool,)``, float64, on the CPU.
        predictions: most likely class of every sample; None where the model was not asked.
        seed: decides between equal scores.
    """

    sample_ids: list[int]
    scores: Tensor
    predictions: list[int] | None = None
    seed: int = 0

    def order(self) -> list[int]:
        """Positions from the first to ask to the last; equal scores in a random order of their own seed."""
        shuffled = torch.randperm(len(self.scores), generator=generator_for(self.seed, "ties"))
        return shuffled[self.scores[shuffled].argsort(descending=True, stable=True)].tolist()

    def best(self, count: int) -> PoolScores:
        """The ``count`` samples to ask first, best first."""
        chosen = self.order()[:count]
        predictions = None if self.predictions is None else [self.predictions[i] for i in chosen]
        return PoolScores([self.sample_ids[i] for i in chosen], self.scores[chosen], predictions, self.seed)


def score_pool(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    heuristic: Heuristic,
    *,
    draws: int = 20,
    seed: int = 0,
    to_device: Callable[[Any], Any] = lambda batch: batch,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    to_probabilities: Callable[[Any], Tensor] | None = None,
) -> PoolScores:
    """Score every sample of the pool with Monte-Carlo dropout.

        with dropout on, everything else in evaluation mode, generators seeded:
            for ids, inputs in batches:
                probabilities = draws answers of module(inputs)     # (B, n_classes, ..., draws)
                scores[ids] = heuristic.score(probabilities)        # high means ask first

    The module's modes and all random generators are as before afterwards, also after an error. Predictions of
    the whole pool are kept only for heuristics that compare samples with each other (``streams = False``).

    Args:
        module: ``module(inputs)`` gives logits or probabilities ``(B, n_classes, ...)``.
        batches: ``(sample_ids, inputs)``; see `ActiveLearningDataModule.pool_dataloader`.
        heuristic: see `resolve_heuristic`.
        draws: answers a sample.
        seed: of the dropout masks and of ties.
        to_device: moves inputs to the module's device.
        autocast: context of the precision.
        to_probabilities: turns the model's output into probabilities.

    Raises:
        ConfigurationError: the heuristic needs draws that differ, and they do not.
        DataError: a score is not finite.
    """
    parts: list[_Part] = []
    differ = False
    with isolated_generators(derive_seed(seed, "draws")), mc_dropout(module):
        forward = StochasticForward(module, draws, to_probabilities)
        for ids, inputs in batches:
            with autocast():
                probabilities = forward(to_device(inputs))
            differ = differ or _draws_differ(probabilities)
            values = heuristic.score(probabilities) if heuristic.streams else probabilities
            parts.append(_Part(ids.tolist(), values.cpu(), _predicted(probabilities)))
        if heuristic.needs_draws and parts and not differ:
            raise _no_draws(heuristic, module)
        return _joined(parts, heuristic, seed)


def score_ids(sample_ids: Sequence[int], heuristic: Heuristic, seed: int = 0) -> PoolScores:
    """Score samples by a heuristic that does not ask the model; no input is read."""
    with isolated_generators(derive_seed(seed, "draws")):
        scores = heuristic.score(torch.empty(len(sample_ids), 1, 1)).double()
    return PoolScores(list(sample_ids), scores, None, seed)


def check_draws_differ(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    heuristic: Heuristic,
    *,
    draws: int = 8,
    to_device: Callable[[Any], Any] = lambda batch: batch,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    to_probabilities: Callable[[Any], Tensor] | None = None,
) -> None:
    """Look at the draws of the first batch, so that a model without randomness is found before it is trained.

    A model with active dropout modules passes: before training (a head of zeros) its answers may all be
    equal.

    Raises:
        ConfigurationError: the heuristic needs draws that differ; they do not, and no dropout module has p >
            0.
    """
    if not heuristic.needs_draws:
        return
    with isolated_generators(0), mc_dropout(module) as dropouts:
        if any(part.p > 0 for part in dropouts):  # type: ignore[operator]
            return
        for _, inputs in batches:
            with autocast():
                probabilities = StochasticForward(module, draws, to_probabilities)(to_device(inputs))
            if _draws_differ(probabilities):
                return
            raise _no_draws(heuristic, module)


@dataclass(frozen=True)
class _Part:
    """What one batch leaves: its scores, or its predictions where the heuristic needs the whole pool."""

    sample_ids: list[int]
    values: Tensor
    predicted: list[int] | None


def _draws_differ(probabilities: Tensor) -> bool:
    return bool((probabilities != probabilities[..., :1]).any())


def _predicted(probabilities: Tensor) -> list[int] | None:
    return probabilities.mean(-1).argmax(1).tolist() if probabilities.ndim == 3 else None


def _joined(parts: list[_Part], heuristic: Heuristic, seed: int) -> PoolScores:
    ids = [sample_id for part in parts for sample_id in part.sample_ids]
    if not parts:
        return PoolScores([], torch.empty(0, dtype=torch.float64), None, seed)
    values = torch.cat([part.values for part in parts])
    _check_finite(values, ids, heuristic)
    scores = (values if heuristic.streams else heuristic.score(values)).double()
    known = all(part.predicted is not None for part in parts)
    predictions = [label for part in parts for label in part.predicted or []] if known else None
    return PoolScores(ids, scores, predictions, seed)


def _check_finite(values: Tensor, ids: list[int], heuristic: Heuristic) -> None:
    finite = values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
    if not finite.all():
        wrong = [ids[i] for i in (~finite).nonzero().flatten().tolist()]
        raise DataError(
            f"{heuristic.name} has no finite score for {len(wrong)} of {len(ids)} samples (ids "
            f"{', '.join(map(str, wrong[:5]))}). The model's outputs are not finite: lower the learning "
            "rate, or look at these samples."
        )


def _no_draws(heuristic: Heuristic, module: nn.Module) -> ConfigurationError:
    with mc_dropout(module) as dropouts:
        rates = sorted({part.p for part in dropouts})  # type: ignore[type-var]
    found = f"dropout modules with p = {rates}" if rates else "no dropout module"
    return ConfigurationError(
        f"{heuristic.name} measures how the model's answers differ under dropout, but they never differ: "
        f"{type(module).__name__} has {found}. Expected a dropout module with p > 0 that acts in the forward "
        "pass (torch.nn.functional.dropout is not switched on). Add one, or use "
        'heuristic="entropy", "margin" or "certainty", which need one answer only.'
    )
