"""Asking: from a trained model and its pool to the samples whose labels are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.advanced.active_learning.datamodule import ActiveLearningDataModule
from torchloops.advanced.active_learning.heuristics import Heuristic, Random
from torchloops.advanced.active_learning.scoring import PoolScores, score_ids, score_pool, try_heuristic
from torchloops.data.label_values import as_array
from torchloops.data.reader import Reader
from torchloops.errors import ConfigurationError
from torchloops.schema import COUNT
from torchloops.seeding import derive_seed, isolated_generators

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["QUERY", "PoolQuery", "Query"]

QUERY = {
    "best": {"sample_ids": [COUNT], "scores": Tensor, "predictions?": list | None, "seed?": int},
    "score_mean": float, "score_std": float, "seconds": float,
}  # fmt: skip
"""What `Query.state_dict` returns; see `torchloops.schema`."""

_PROVISIONAL = ("last operation", "all answers", "labels")


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
        reader: asks the module and reads its answers.
    """

    def __init__(self, trainer: Trainer, data: ActiveLearningDataModule, draws: int, reader: Reader) -> None:
        self.trainer = trainer
        self.data = data
        self.draws = draws
        self.reader = reader

    def check(self) -> None:
        """Ask the untrained module for two samples, and refuse what cannot be asked or scored.

        Raises:
            ConfigurationError: two draws never differ and the heuristic needs that they do, answers that are no
                scores of the labels, or a heuristic that cannot score them.
        """
        data, reader, trainer = self.data, self.reader, self.trainer
        if not data.heuristic.needs_predictions or not data.n_pool:
            return
        ids = data.pool_ids[:2]
        move = trainer.batch_mover()
        with isolated_generators(0):
            _, batch = next(iter(data.source.loader_with_ids(ids, len(ids))))
            batch = batch if move is None else move(batch, 0)
        answers = reader.dry_pass(trainer.module, batch, len(ids))
        if reader.labels is not None and reader.labels.written == "text" and data.truth.classes is not None:
            known = data.truth.known
            data.truth.encoded(as_array(data.truth(data.labelled_ids)) if known is None else known)
        check_scorable(reader, data.heuristic, answers)
        try_heuristic(trainer.module, data.heuristic, reader, batch, len(ids))
        if reader.labels is None and reader.meaning is not None and reader.meaning.told in _PROVISIONAL:
            reader.meaning = None  # the first labels may say otherwise

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
        self.reader.labels = data.label_form
        return score_pool(
            self.trainer.module, data.pool_dataloader(), heuristic, draws=self.draws, seed=seed,
            reader=self.reader, move=self.trainer.batch_mover(),
        )  # fmt: skip

    def best(self, pool: PoolScores, budget: int | None) -> PoolScores:
        """The samples to ask for, those ahead last, within the budget; the same in all processes."""
        left = self.data.n_pool if budget is None else budget - self.data.n_labelled
        chosen = pool.best(min(self.data.query_size + self.data.ahead, left))
        form, names = self.data.label_form, self.data.truth.classes
        if form is not None and form.written == "text" and chosen.predictions is not None:
            named = None if names is None else [names[index] for index in chosen.predictions]
            chosen = replace(chosen, predictions=named)  # an index tells nothing beside labels that are names
        return self.trainer.engine.broadcast(chosen)


def check_scorable(reader: Reader, heuristic: Heuristic, answers: Tensor) -> None:
    """Refuse answers that a heuristic cannot score.

    Args:
        reader: has found what the answers mean, or not yet.
        heuristic: of the query.
        answers: of the reader to a few samples.

    Raises:
        ConfigurationError: predicted classes, numbers where scores of classes are needed, or classes that do not stand
            in the second dimension.
    """
    meaning, labels, shape = reader.meaning, reader.labels, tuple(answers.shape)
    if meaning is None:
        return
    if meaning.kind == "classes":
        raise ConfigurationError(
            f"{reader.name} answers with whole numbers, predicted classes, and {heuristic.name} needs scores. Give "
            "ActiveLearningLoop(predict=lambda module, batch: module(batch[0])), or a function that returns scores."
        )
    if meaning.kind == "numbers" and meaning.told != "given" and labels is not None and labels.kind != "numbers":
        raise ConfigurationError(
            f"{reader.name} answers with shape {shape}, and the labels are {labels.kind}"
            + (f" ({labels.n_classes} of them)" if labels.n_classes else "")
            + ": the answers are not taken for their scores. If they are scores of more classes, give "
            'outputs="logits" or "probabilities"; else predict=function of (module, batch).'
        )
    if meaning.kind == "numbers" and not heuristic.scores_numbers:
        raise ConfigurationError(
            f"{heuristic.name} needs scores of classes, and {reader.name} answers with numbers. Use "
            'heuristic="variance", "mean_std" or "random", or a Heuristic with scores_numbers = True.'
        )
    places = answers.shape[2 : answers.ndim - (reader.num_estimators is not None)]
    if labels is not None and labels.kind == "dense" and tuple(places) != labels.shape:
        raise ConfigurationError(
            f"{reader.name} answers with shape {shape}, and a label has the shape {labels.shape}: expected (B, "
            f"n_classes, {', '.join(map(str, labels.shape))}), classes in the second dimension. Give "
            "to_probabilities=..., or predict=function of (module, batch)."
        )
