"""Asking: from a trained model and its pool to the samples whose labels are wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.advanced.active_learning.datamodule import ActiveLearningDataModule
from torchloops.advanced.active_learning.heuristics import Random
from torchloops.advanced.active_learning.scoring import PoolScores, check_draws_differ, score_ids, score_pool
from torchloops.seeding import derive_seed

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["PoolQuery", "Query"]


@dataclass(frozen=True)
class Query:
    """What a look at the pool asks for, before anybody has answered.

    Args:
        best: the samples to label, first asked first.
        score_mean, score_std: over the whole pool.
        seconds: that scoring took.
    """

    best: PoolScores
    score_mean: float
    score_std: float
    seconds: float

    def state_dict(self) -> dict[str, Any]:
        """The query as plain data."""
        return {**vars(self), "best": dict(vars(self.best))}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Query:
        """The query that `state_dict` described."""
        return cls(**{**state, "best": PoolScores(**state["best"])})


class PoolQuery:
    """Scores the pool of a Trainer's data module with the Trainer's module.

    Args:
        trainer: gives module, device and precision.
        data: gives pool, heuristic and seed.
        draws: answers a sample.
        to_probabilities: turns the model's output into probabilities; None: see `class_probabilities`.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: ActiveLearningDataModule,
        draws: int,
        to_probabilities: Callable[[Any], Tensor] | None,
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.draws = draws
        self._forward: dict[str, Any] = {
            "to_device": trainer.to_device,
            "autocast": trainer.autocast,
            "to_probabilities": to_probabilities,
        }

    def check(self) -> None:
        """Refuse a model without randomness where the heuristic needs it; reads one batch at most.

        Raises:
            ConfigurationError: two draws never differ.
        """
        check_draws_differ(self.trainer.module, self.data.pool_dataloader(), self.data.heuristic, **self._forward)

    def ask(self, budget: int | None) -> Query:
        """Score the pool and choose what to ask for, within the budget."""
        start = perf_counter()
        pool = self.score()
        best = self.best(pool, budget)
        mean, std = float(pool.scores.mean()), float(pool.scores.std(correction=0))
        return Query(best, mean, std, perf_counter() - start)

    def score(self) -> PoolScores:
        """Scores of the whole pool; random ones where nothing has been trained or the heuristic asks no model."""
        data = self.data
        seed = derive_seed(data.seed, "round", data.round)
        heuristic = data.heuristic if data.n_labelled else Random()
        if not heuristic.needs_predictions:
            return score_ids(data.pool_ids, heuristic, seed)
        batches = data.pool_dataloader()
        return score_pool(self.trainer.module, batches, heuristic, draws=self.draws, seed=seed, **self._forward)

    def best(self, pool: PoolScores, budget: int | None) -> PoolScores:
        """The samples to ask for, at most ``query_size`` and what the budget leaves; the same in all processes."""
        left = self.data.n_pool if budget is None else budget - self.data.n_labelled
        chosen = pool.best(min(self.data.query_size, left))
        return self.trainer.engine.broadcast(chosen)
