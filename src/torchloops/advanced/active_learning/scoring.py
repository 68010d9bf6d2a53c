"""Score the pool: one number a sample id, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchloops.advanced.active_learning.heuristics import Heuristic
from torchloops.advanced.active_learning.seeds import generator_for
from torchloops.advanced.active_learning.stochastic import StochasticForward, mc_dropout
from torchloops.data.asking import Asker
from torchloops.data.reader import Reader
from torchloops.errors import ConfigurationError, DataError, TorchloopsError
from torchloops.module import evaluating
from torchloops.seeding import derive_seed, isolated_generators

__all__ = ["PoolScores", "score_ids", "score_pool", "try_heuristic"]


@dataclass(frozen=True)
class PoolScores:
    """Scores of the pool; **high means ask first**.

    Args:
        sample_ids: ids in the training data set.
        scores: ``(n_pool,)``, float64, on the CPU.
        predictions: most likely class of every sample, its labels (a list of 0 and 1), or a number; None where the
            model was not asked.
        seed: decides between equal scores.
    """

    sample_ids: list[int]
    scores: Tensor
    predictions: list[Any] | None = None
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
    reader: Reader | None = None,
    move: Callable[[Any, int], Any] | None = None,
) -> PoolScores:
    """Score every sample of the pool with Monte-Carlo dropout.

        with dropout on, everything else in evaluation mode, generators seeded:
            for ids, batch in batches:
                probabilities = draws answers of the module         # (B, n_classes, ..., draws)
                scores[ids] = heuristic.score(probabilities)        # high means ask first

    The module's modes and all random generators are as before afterwards, also after an error. Predictions of
    the whole pool are kept only for heuristics that compare samples with each other (``streams = False``).

    Args:
        module: the module.
        batches: ``(sample_ids, batch)``, to be gone through as often as needed; see
            `ActiveLearningDataModule.pool_dataloader`.
        heuristic: see `resolve_heuristic`.
        draws: answers a sample.
        seed: of the dropout masks and of ties.
        reader: how the module is asked and its answers are read. Default: by its ``predict_step`` or ``forward``; the
            meaning of the answers is found from its last operation or all of them.
        move: brings a batch to the module's device, with the transfer hooks around it.

    Raises:
        ConfigurationError: the heuristic needs draws that differ, and they do not; or answers cannot be read.
        DataError: a score is not finite.
    """
    reader = Reader(Asker(module)) if reader is None else reader
    move = _unmoved if move is None else move
    parts: list[_Part] = []
    differ = False
    with isolated_generators(derive_seed(seed, "meaning")):  # found once: the draws do not depend on when
        _find_meaning(module, batches, reader, move)
    with isolated_generators(derive_seed(seed, "draws")), mc_dropout(module):
        forward = StochasticForward(reader, draws)
        for ids, batch in batches:
            probabilities = _checked(forward(move(batch, 0), len(ids)), reader)
            differ = differ or _draws_differ(probabilities)
            values = heuristic.score(probabilities) if heuristic.streams else probabilities
            parts.append(_Part(ids.tolist(), values.cpu(), _predicted(probabilities, reader)))
    if heuristic.needs_draws and parts and not differ:
        raise _no_draws(heuristic, module)
    return _joined(parts, heuristic, seed)


def _unmoved(batch: Any, index: int) -> Any:
    return batch


@torch.no_grad()
def _find_meaning(
    module: nn.Module, batches: Iterable[tuple[Tensor, Any]], reader: Reader, move: Callable[[Any, int], Any]
) -> None:
    """Ask for answers until it is known what they mean: for a batch mostly, for all of the pool where that must be."""
    if reader.meaning is not None and reader.is_tried:
        return
    seen: list[Tensor] = []
    with evaluating(module):
        for ids, batch in batches:
            seen.append(reader.answers(move(batch, 0), len(ids)).cpu())
            if reader.settle(seen[-1], is_all=False):
                return
    if seen:
        reader.settle(torch.cat(seen), is_all=True)


def _checked(probabilities: Tensor, reader: Reader) -> Tensor:
    """Probabilities, refused where they are none: a later answer contradicts what was found of the first."""
    meaning = reader.meaning
    given = meaning is not None and meaning.kind.endswith(("probabilities", "probability"))
    if meaning is not None and given and bool(probabilities.isfinite().all()):
        first = 1 if meaning.is_multilabel or meaning.kind == "one_probability" else 0
        meaning.check(probabilities[:, first:], reader.name)
    return probabilities


def score_ids(sample_ids: Sequence[int], heuristic: Heuristic, seed: int = 0) -> PoolScores:
    """Score samples by a heuristic that does not ask the model; no input is read."""
    with isolated_generators(derive_seed(seed, "draws")):
        scores = heuristic.score(torch.empty(len(sample_ids), 1, 1)).double()
    return PoolScores(list(sample_ids), scores, None, seed)


def try_heuristic(
    module: nn.Module, heuristic: Heuristic, reader: Reader, batch: Any, n_samples: int, draws: int = 8
) -> None:
    """Score a few samples with the untrained module, so that what cannot be scored is found before it is trained.

    A model with active dropout modules may give equal answers on all draws: before training (a head of zeros) that
    says nothing.

    Args:
        module: the module.
        heuristic: of the query.
        reader: has asked the module already.
        batch: as it reaches the module.
        n_samples: samples of the batch.
        draws: answers a sample.

    Raises:
        ConfigurationError: the heuristic needs draws that differ; they do not, and no dropout module has p > 0. Or it
            cannot score such answers.
    """
    if reader.meaning is None:
        return
    with isolated_generators(0), mc_dropout(module) as dropouts:
        probabilities = StochasticForward(reader, draws)(batch, n_samples)
        active = any(part.p > 0 for part in dropouts)  # type: ignore[operator]
        if heuristic.needs_draws and not active and not _draws_differ(probabilities):
            raise _no_draws(heuristic, module)
        try:
            scores = heuristic.score(probabilities)
        except TorchloopsError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"{heuristic.name} cannot score answers of shape {tuple(probabilities.shape)} (samples, classes, ..., "
                f"draws): {type(error).__name__}: {error}. Use another heuristic, or give predict= or "
                "to_probabilities=..."
            ) from error
    if scores.shape != (n_samples,):
        raise ConfigurationError(
            f"{heuristic.name} gave scores of shape {tuple(scores.shape)} for {n_samples} samples; expected one each."
        )


@dataclass(frozen=True)
class _Part:
    """What one batch leaves: its scores, or its predictions where the heuristic needs the whole pool."""

    sample_ids: list[int]
    values: Tensor
    predicted: list[Any] | None


def _draws_differ(probabilities: Tensor) -> bool:
    return bool((probabilities != probabilities[..., :1]).any())


def _predicted(probabilities: Tensor, reader: Reader) -> list[Any] | None:
    """What the model expects of every sample: a class, 0 or 1 for each label, or a number; None where it is dense."""
    meaning, mean = reader.meaning, probabilities.mean(-1)
    if meaning is not None and meaning.kind == "numbers":
        return (mean[:, 0] if mean.shape[1] == 1 else mean).tolist()
    if meaning is not None and meaning.is_multilabel:
        return (mean[:, 1] > 0.5).long().tolist()
    return mean.argmax(1).tolist() if mean.ndim == 2 else None


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
