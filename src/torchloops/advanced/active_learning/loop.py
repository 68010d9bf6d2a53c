"""ActiveLearningLoop: train, ask for labels where the model is unsure, train again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchloops.advanced.active_learning.datamodule import STUDY, ActiveLearningDataModule
from torchloops.advanced.active_learning.labelled_map import RECORDS, LabelRecord, records_from_state, records_to_state
from torchloops.advanced.active_learning.querying import QUERY, PoolQuery, Query
from torchloops.advanced.active_learning.records import new_round, note_query, queries_table, rounds_table
from torchloops.advanced.active_learning.stopping import StoppingCriterion, StudyProgress
from torchloops.data.asking import Asker
from torchloops.data.fingerprint import check_same, describe
from torchloops.data.outputs import Meaning, check_outputs_name
from torchloops.data.reader import Reader, declared_classes
from torchloops.errors import ConfigurationError, DataError
from torchloops.loops import OuterLoop
from torchloops.schema import COUNT, Either, check
from torchloops.trainer.checkpoint_schema import LIMITS, MEANING, SNAPSHOT

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ActiveLearningLoop"]

_ROW = {"round": COUNT, "n_labelled": COUNT, "n_pool": COUNT, "n_queried": COUNT, "epochs": COUNT}
_STATE = {
    "rows": [_ROW], "start": Either(SNAPSHOT, None), "data": Either(STUDY, None), "records?": Either(RECORDS, None),
    "query?": Either(QUERY, None), "limits?": LIMITS, "meaning?": MEANING, "made_by?": {str: Any},
}  # fmt: skip


class ActiveLearningLoop(OuterLoop):
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
        to_probabilities: turns what the model answers into probabilities ``(B, n_classes, ...)``, in place of
            ``outputs``.
        predict: how the model is asked, ``predict(module, batch)``. Default: the module's own ``predict_step``, else
            ``forward`` with all entries of a batch but the label.
        outputs: what the answers are: "logits", "probabilities", "one_logit", "one_probability" (of yes or no),
            "multilabel_logits", "multilabel_probabilities", or "numbers". Default: found once from the model's last
            operation, else from all answers to the first pool and the form of the labels; column ``outputs``.
        num_estimators: rows a sample has in the answers of an ensemble, ``(M * B, ...)`` member after member, taken as
            draws. Default: one row a sample.

        stopping: rules that end the study, such as `Plateau` or `TargetReached`; ``stopped_by`` is what the first says.

    Attributes:
        rounds: DataFrame with a row a round, counted from 0.
        queries: DataFrame with a row a label; the initial ones have round -1.

    Raises:
        ConfigurationError: the data module is no `ActiveLearningDataModule`, the heuristic needs dropout and the
            model has none, or answers cannot be read or scored; found before training where two samples show it.
        DataError: nobody knows the labels of the pool.

    Example:
        >>> loop = ActiveLearningLoop(max_rounds=5)
        >>> loop.connect(trainer.fit_loop)          # doctest: +SKIP
        >>> trainer.fit_loop = loop                 # doctest: +SKIP

    References:
        Gal, Islam, Ghahramani 2017, "Deep Bayesian Active Learning with Image Data", arXiv 1703.02910;
        Lightning Flash's ``ActiveLearningLoop``.
    """

    result_tables = ("rounds", "queries")
    fixed_settings = ("inference_iteration", "should_reset_weights", "num_estimators")

    def __init__(
        self,
        label_epoch_frequency: int | None = None,
        inference_iteration: int = 20,
        should_reset_weights: bool = True,
        max_rounds: int | None = None,
        budget: int | None = None,
        to_probabilities: Callable[[Any], Tensor] | None = None,
        predict: Callable[[nn.Module, Any], Tensor] | None = None,
        outputs: str | None = None,
        num_estimators: int | None = None,
        stopping: Sequence[StoppingCriterion] = (),
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
        self.predict = predict
        self.outputs = outputs
        self.num_estimators = num_estimators
        self.stopping = tuple(stopping)
        check_outputs_name(outputs)
        self._reader: Reader | None = None
        self._meaning: Meaning | None = None
        self._rows: list[dict[str, Any]] = []
        self._records: list[LabelRecord] = []
        self._query: Query | None = None
        self._has_trained = True
        self._saved: dict[str, Any] | None = None

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
        if not self._rows or self._rows[-1]["n_queried"]:
            return False  # the labels are there, and the round that trains on them was cut
        limit, data = self._round_limit, self.datamodule
        spent = self.budget is not None and data.n_labelled >= self.budget
        is_over = spent or data.n_pool == 0 or (limit is not None and len(self._rows) >= limit)
        return is_over or self.stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """What the first rule in ``stopping`` that ends the study says; None: none does."""
        largest = None
        if self._query is not None and self._records:  # a first query without labels is drawn at random
            largest = float(self._query.best.scores.max())
        progress = StudyProgress(self._rows, self._records, largest)
        return next((reason for rule in self.stopping if (reason := rule(progress)) is not None), None)

    def start_over(self) -> None:
        self._rows, self._query, self._meaning = [], None, None

    def on_run_start(self) -> None:
        super().on_run_start()
        saved, self._saved = self._saved, None
        if saved is not None and self.restarting:
            self.datamodule.load_state_dict(saved)
        self._records = self.datamodule.labelled_map.records
        self._reader = self._make_reader()
        self._check_early()

    def advance(self) -> None:
        self._has_trained = True
        if self._rows and self._rows[-1]["n_queried"] == 0:
            self._ask()
            if not self._rows[-1]["n_queried"]:
                self._has_trained = False  # nobody labelled what was left, or it was not worth to ask
                return
        data, trainer = self.datamodule, self.trainer
        index, start = data.round, perf_counter()
        fresh = self.start if self.should_reset_weights else None
        data.note("training", self._rows)
        with trainer.isolated(f"round_{index}", start=fresh) as run:
            run.state.limits.max_epochs = self.fit_limits["max_epochs"]
            if data.n_labelled:
                run.once("fit", self._train)
            tested = run.once("test", lambda: trainer.evaluate("test"))
            metrics = {name: float(value) for name, value in (run.metrics | tested).items()}
        row = new_round(index, data.n_labelled, data.n_pool, run.epochs, perf_counter() - start, metrics)
        row |= {"outputs": self._outputs, **data.round_columns}
        self._rows.append(row)

    def _train(self) -> None:
        self.fit_loop.run()

    def on_advance_end(self) -> None:
        if self._has_trained:
            self.trainer.call_hook("on_round_end", dict(self._rows[-1]))

    def on_run_end(self) -> None:
        self.datamodule.note("finished", self._rows)

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
    def limits(self) -> dict[str, Any]:
        return {"max_rounds": self.max_rounds, "budget": self.budget}

    @property
    def fit_limits(self) -> dict[str, Any]:
        limits = super().fit_limits
        own = self.label_epoch_frequency or (1 if self._counts_rounds_by_epochs else None)
        return limits if own is None else {**limits, "max_epochs": own}

    # asking

    @property
    def _pool_query(self) -> PoolQuery:
        assert self._reader is not None
        return PoolQuery(self.trainer, self.datamodule, self.inference_iteration, self._reader)

    @property
    def _outputs(self) -> str | None:
        """How the model's answers are read, for the tables; None where it is not known."""
        meaning = self._meaning if self._reader is None or self._reader.meaning is None else self._reader.meaning
        return None if meaning is None else meaning.kind

    def _make_reader(self) -> Reader:
        trainer, data = self.trainer, self.datamodule
        asker = Asker(trainer.module, self.predict, data.target_key, trainer.engine.under_precision)
        declared = declared_classes(trainer.module, data.datamodule, data.source.train)
        reader = Reader(
            asker,
            outputs=self.outputs,
            to_probabilities=self.to_probabilities,
            num_estimators=self.num_estimators,
            labels=data.label_form,
            declared=declared | ({len(data.truth.classes)} if data.truth.classes else set()),
        )
        reader.meaning = reader.meaning or self._meaning
        return reader

    def _check_early(self) -> None:
        """Find what cannot be asked, scored or answered before a round is trained."""
        if self._round_limit == 1:
            return
        if not self.datamodule.has_answers:
            raise DataError(
                "Nobody knows the labels of the pool: labelled_ids gives some by value, and the others have none. "
                "Give targets=labels of all samples, or train once: ActiveLearningLoop(max_rounds=1)."
            )
        self._pool_query.check()
        if not self.restarting:
            self.start.restore(self.trainer.module)

    def _ask(self) -> None:
        """Score the pool, then have the best of it labelled; saved after each, so that neither is done twice.

        Where nobody gives a label, the next best are asked for.
        """
        n_before = self.datamodule.n_labelled
        while self.datamodule.n_labelled == n_before and self.datamodule.n_pool and self.stopped_by is None:
            self._ask_once()

    def _ask_once(self) -> None:
        trainer, data = self.trainer, self.datamodule
        if self._query is None:
            data.note("asking", self._rows)
            with trainer.indivisible():
                data.take_over()
                self._query = self._pool_query.ask(self.budget)
            trainer.safe_point(save=True)
        if self.stopped_by is not None:
            return
        query, row, n_before = self._query, dict(self._rows[-1]), data.n_labelled
        seconds_label = data.label(query.best)
        self._meaning = None if self._reader is None else self._reader.meaning
        note_query(row, query, data.n_labelled - n_before, row["seconds_label"] + seconds_label)
        row["outputs"] = self._outputs
        self._rows[-1], self._query = row, None
        self._records = data.labelled_map.records
        trainer.safe_point(save=True)

    # state

    def on_save_checkpoint(self) -> dict[str, Any]:
        attached = self._trainer is not None and isinstance(self._trainer.datamodule, ActiveLearningDataModule)
        data = self.datamodule.state_dict() if attached else self._saved
        return {
            **super().on_save_checkpoint(),
            "rows": [dict(row) for row in self._rows],
            "start": None if self.start is None else self.start.state_dict(),
            "data": data,
            "records": records_to_state(self._records) if data is None else None,  # else they are in the data's state
            "query": None if self._query is None else self._query.state_dict(),
            "meaning": None if self._meaning is None else vars(self._meaning),
            "made_by": self._made_by,
        }

    @property
    def _made_by(self) -> dict[str, Any]:
        return {name: describe(getattr(self, name)) for name in ("predict", "to_probabilities", "outputs")}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        from torchloops.trainer.snapshot import Snapshot

        check(state_dict, _STATE, "ActiveLearningLoop: state")
        super().on_load_checkpoint(state_dict)
        check_same("ActiveLearningLoop", state_dict.get("made_by", {}), self._made_by)
        meaning = state_dict.get("meaning")
        self._meaning = None if meaning is None else Meaning(**meaning)
        self._rows = [dict(row) for row in state_dict["rows"]]
        start, query = state_dict["start"], state_dict.get("query")
        self.start = None if start is None else Snapshot.from_state_dict(start)
        self._query = None if query is None else Query.from_state_dict(query)
        self._saved = state_dict["data"]
        records = state_dict.get("records") or (self._saved or {}).get("labelled_map", {}).get("records", [])
        self._records = records_from_state(records)
