"""ActiveLearningLoop: train, ask for labels where the model is unsure, train again."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchloops.advanced.active_learning.datamodule import ActiveLearningDataModule
from torchloops.advanced.active_learning.labelled_map import LabelRecord
from torchloops.advanced.active_learning.querying import PoolQuery
from torchloops.advanced.active_learning.records import new_round, note_query, queries_table, rounds_table
from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ActiveLearningLoop"]


class ActiveLearningLoop(Loop):
    """Train on the labelled samples, score the pool, label the best of it, and train again.

    Use it where inputs are many and labels cost: it needs an `ActiveLearningDataModule`, and takes as many
    fits as rounds plus ``inference_iteration`` forward passes over the pool a round (what stands before the
    first dropout runs once).

        for round in range(max_rounds):             # until the pool is empty or the budget is spent
            if round > 0:                           # so the last round asks for nothing
                scores = score_pool(model)          # dropout on, evaluation transforms
                datamodule.label(best query_size)
            with trainer.isolated(f"round_{round}"):    # fresh weights, optimizers, schedulers, callbacks
                fit_loop.run()
                trainer.evaluate("test")
            trainer.call_hook("on_round_end", row)

    How long it goes on, and how long a round trains:

    | given | rounds | epochs a round |
    | --- | --- | --- |
    | no ``max_rounds``, no ``budget`` (Flash) | the Trainer's ``max_epochs`` | ``label_epoch_frequency`` |
    | ``max_rounds``, ``budget`` or both | until the first is reached | the same, else the Trainer's limits |

    With no initial labels the first round trains nothing, and the first query is drawn at random. After the
    run the model is that of the last round. A second ``fit`` goes on with the labels there are;
    ``datamodule.reset()`` before it starts over.

    Args:
        label_epoch_frequency: epochs a round trains before it asks for labels. Default: see the table; 1 as
            in Flash where the Trainer's ``max_epochs`` counts rounds.
        inference_iteration: dropout draws a sample in scoring. Default 20 (Flash has 2, with which the
            ranking is mostly noise).
        should_reset_weights: begin each round with the weights of the start; False goes on with the last
            round's. Optimizers, schedulers and callbacks are fresh in either case.
        max_rounds: rounds, each with one training.
        budget: labels in all, the initial ones included; the last query is cut to fit.
        to_probabilities: turns what the model returns into probabilities ``(B, n_classes, ...)``; default:
            softmax, unless the output is a distribution already.

    Attributes:
        rounds: DataFrame with a row a round, counted from 0.
        queries: DataFrame with a row a label; the initial ones have round -1.

    Raises:
        ConfigurationError: the data module is no `ActiveLearningDataModule`, or the heuristic needs dropout
            and the model has none.

    Example:
        >>> loop = ActiveLearningLoop(max_rounds=5)
        >>> loop.connect(trainer.fit_loop)          # doctest: +SKIP
        >>> trainer.fit_loop = loop                 # doctest: +SKIP

    References:
        Gal, Islam, Ghahramani 2017, "Deep Bayesian Active Learning with Image Data", arXiv 1703.02910;
        Lightning Flash's ``ActiveLearningLoop``.
    """

    fit_loop: Loop
    result_tables = ("rounds", "queries")

    def __init__(
        self,
        label_epoch_frequency: int | None = None,
        inference_iteration: int = 20,
        should_reset_weights: bool = True,
        max_rounds: int | None = None,
        budget: int | None = None,
        to_probabilities: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("label_epoch_frequency", label_epoch_frequency), ("inference_iteration", inference_iteration),
            ("max_rounds", max_rounds), ("budget", budget),
        ):  # fmt: skip
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be 1 or more, got {value}.")
        self.label_epoch_frequency = label_epoch_frequency
        self.inference_iteration = inference_iteration
        self.should_reset_weights = should_reset_weights
        self.max_rounds = max_rounds
        self.budget = budget
        self.to_probabilities = to_probabilities
        self._start: Any = None
        self._rows: list[dict[str, Any]] = []
        self._records: list[LabelRecord] = []
        self._saved: dict[str, Any] | None = None

    def connect(self, fit_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop that trains a round: ``loop.connect(trainer.fit_loop)``."""
        super().connect(**loops if fit_loop is None else {"fit_loop": fit_loop, **loops})

    @property
    def rounds(self) -> pd.DataFrame:
        """One row a round: sizes, metrics of its training and test, scores of the pool, seconds."""
        return rounds_table(self._rows)

    @property
    def queries(self) -> pd.DataFrame:
        """One row a label: round, rank, sample_id, score, prediction, label, annotator, seconds."""
        return queries_table(self._records)

    @property
    def datamodule(self) -> ActiveLearningDataModule:
        """The data of the run.

        Raises:
            ConfigurationError: it is no `ActiveLearningDataModule`.
        """
        datamodule = self.trainer.datamodule
        if not isinstance(datamodule, ActiveLearningDataModule):
            raise ConfigurationError(
                f"ActiveLearningLoop needs an ActiveLearningDataModule, got {type(datamodule).__name__}. "
                "Wrap your data: trainer.fit(model, datamodule=ActiveLearningDataModule(data))."
            )
        return datamodule

    # the loop

    @property
    def done(self) -> bool:
        if not self._rows:
            return False
        limit, data = self._round_limit, self.datamodule
        spent = self.budget is not None and data.n_labelled >= self.budget
        return spent or data.n_pool == 0 or (limit is not None and len(self._rows) >= limit)

    def reset(self) -> None:
        if not self.restarting:
            self._rows, self._start = [], None

    def on_run_start(self) -> None:
        if "fit_loop" not in vars(self):
            raise ConfigurationError("ActiveLearningLoop trains nothing yet. Call loop.connect(trainer.fit_loop).")
        if self._saved is not None:
            self.datamodule.load_state_dict(self._saved)
            self._saved = None
        self._pool_query.check()
        self._records = self.datamodule.labelled_map.records
        if self._start is None:
            self._start = self.trainer.snapshot()

    def on_advance_start(self) -> None:
        if self.restarting:
            self.fit_loop.restarting = False  # a round that was cut is trained again from its beginning

    def advance(self) -> None:
        if self._rows and self._rows[-1]["n_queried"] == 0:
            self._query(self._rows[-1])
        data, trainer = self.datamodule, self.trainer
        index, start = data.round, perf_counter()
        fresh = self._start if self.should_reset_weights else None
        with trainer.isolated(f"round_{index}", start=fresh) as run:
            run.state.limits.max_epochs = self._epochs_per_round or trainer.max_epochs
            if data.n_labelled:
                self.fit_loop.run()
            tested = trainer.evaluate("test")
            metrics = {name: float(value) for name, value in (run.metrics | tested).items()}
        row = new_round(index, data.n_labelled, data.n_pool, run.epochs, perf_counter() - start, metrics)
        self._rows.append(row)

    def on_advance_end(self) -> None:
        self.trainer.call_hook("on_round_end", dict(self._rows[-1]))

    # limits

    @property
    def _counts_rounds_by_epochs(self) -> bool:
        return self.max_rounds is None and self.budget is None

    @property
    def _round_limit(self) -> int | None:
        if not self._counts_rounds_by_epochs:
            return self.max_rounds
        limit = self.trainer.max_epochs
        return None if limit is None or limit < 0 else limit

    @property
    def _epochs_per_round(self) -> int | None:
        """Epochs of one round; None: the Trainer's limits hold for each."""
        return self.label_epoch_frequency or (1 if self._counts_rounds_by_epochs else None)

    # asking

    @property
    def _pool_query(self) -> PoolQuery:
        return PoolQuery(self.trainer, self.datamodule, self.inference_iteration, self.to_probabilities)

    def _query(self, row: dict[str, Any]) -> None:
        start, query = perf_counter(), self._pool_query
        pool = query.score()
        best = query.best(pool, self.budget)
        seconds = perf_counter() - start
        seconds_label = self.datamodule.label(best)
        self._records = self.datamodule.labelled_map.records
        note_query(row, pool, len(best.sample_ids), seconds, seconds_label)

    # state

    def on_save_checkpoint(self) -> dict[str, Any]:
        attached = self._trainer is not None and isinstance(self._trainer.datamodule, ActiveLearningDataModule)
        return {
            "rows": [dict(row) for row in self._rows],
            "start": None if self._start is None else self._start.state_dict(),
            "data": self.datamodule.state_dict() if attached else self._saved,
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        from torchloops.trainer.snapshot import Snapshot

        self._rows = [dict(row) for row in state_dict["rows"]]
        start = state_dict["start"]
        self._start = None if start is None else Snapshot.from_state_dict(start)
        self._saved = state_dict["data"]
