"""KFoldLoop: cross-validation as one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchloops.advanced.kfold.best import find_monitor
from torchloops.advanced.kfold.checks import (
    check_arguments,
    check_folds,
    check_free,
    check_new,
    warn_of_other_threads,
)
from torchloops.advanced.kfold.ensemble import build_ensemble, check_votes
from torchloops.advanced.kfold.ensemble_scores import score_ensemble
from torchloops.advanced.kfold.export import KFoldFolder, find_folder
from torchloops.advanced.kfold.fold_run import FoldPlan, run_final, run_fold
from torchloops.advanced.kfold.parallel import number_of_jobs, run_in_parallel
from torchloops.advanced.kfold.predicting import Asking, interpret, settle, settle_early
from torchloops.advanced.kfold.preparing import check_test_data, find_data, find_splits, settings_of
from torchloops.advanced.kfold.records import FoldResult, folds_table, inner_tables, oof_table, summary_table
from torchloops.advanced.kfold.splits import Splits
from torchloops.advanced.kfold.state import KFOLD_STATE, KFoldState
from torchloops.advanced.kfold.worker import has_jobs, remove_jobs, take_over_jobs
from torchloops.data.fingerprint import check_same, describe
from torchloops.data.label_values import as_array
from torchloops.data.outputs import Meaning, check_outputs_name
from torchloops.errors import ConfigurationError
from torchloops.loops import OuterLoop
from torchloops.schema import check
from torchloops.trainer.loaders import as_loaders
from torchloops.trainer.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KFoldLoop"]


class KFoldLoop(OuterLoop):
    """Train one fresh model a fold, score each on the samples it has not seen, and put the scores together.

    Use it to say how well a way of training works on data of this size. It costs as many fits as there are folds
    (folds are independent: ``n_jobs`` runs several at once).

        for fold, (train, held_out) in enumerate(splits):
            with trainer.isolated(f"fold_{fold}"):  # same initial weights; fresh optimizers, callbacks, counters
                fit_loop.run()                      # on the training part
                trainer.evaluate("validate")        # on the held-out part, with the weights that are scored
                predict held_out
            trainer.call_hook("on_fold_end", row)
        test the ensemble

    Connect it to the loop that trains a fold: ``loop.connect(trainer.fit_loop)``. That may be any loop, also
    another KFoldLoop (nested cross-validation) or an `ActiveLearningLoop`; a fold's held-out part is hidden from
    it, except that a study of active learning is tested on it. Inside another loop a KFoldLoop trains a last model
    on all of its samples (``refit``), so that the outer loop scores something that has seen no held-out sample.

    Folds, repeats and sample ids count from 0. After the run the model is as it was before, so that the next fit
    starts afresh too (until then, lists that were empty keep what the last fold wrote); take `ensemble`, or
    ``refit=True``.

    Args:
        num_folds: folds of one repeat. Default: 5, or what the splitter object says.
        export_path: folder for ``splits.json`` (made once; used again and may be edited; without ``num_folds`` and
            ``splitter`` one that is there is taken as it is, whatever made it), ``folds.csv``,
            ``oof_predictions.csv``, ``summary.json`` and a folder a fold. A later run with ``folds=[...]`` adds
            the folds named. Inside another loop: a folder of that name in the outer fold's. Default: nothing is
            written.
        splitter: an object with scikit-learn's ``split`` and ``get_n_splits``, or a name: "kfold", "stratified",
            "group", "stratified_group", "repeated", "repeated_stratified", "time_series", "leave_one_out",
            "leave_one_group_out", "predefined" (groups are folds; -1: always train). Those that can shuffle do.
            Default: stratified where class labels are at hand, by group where groups are, both where both are,
            else "kfold".
        num_repeats: for "repeated" and "repeated_stratified". Default: 10.
        folds: run only these. Default: all.
        seed: of splits, of every fold's generators and of the order of its batches.
        new_weights: draw new initial weights in each fold, with ``reset_parameters()`` of the module or of all its
            parts. Default: every fold starts from the weights the module has.
        checkpoint: weights that a fold is scored with: "last", those of the last epoch; "best", the best by
            ``monitor`` on the inner split.
        inner_split: share (below 1) or number of each fold's training samples to validate with while it trains, cut
            by group or class where possible. Default: none; then the curves of ``val/...`` are those of the
            held-out part, and stopping early by them marks the score as optimistic.
        monitor, mode: value to follow for "best", and whether "min" or "max" is better. Default: those of a
            ModelCheckpoint among the callbacks.
        test_each_fold: evaluate each fold on the test set too.
        test_ensemble: how the ensemble is tested where there is a test set: "soft", "hard", "weights", or None.
        refit: train on all samples at the end and leave the model so. Default: only inside another loop.
        predict: how to predict a batch, ``predict(module, batch)`` to ``(B, n_classes)``, ``(B,)`` or
            ``(B, n_outputs)``. Default: the module's own ``predict_step``, else ``forward`` with all entries of a
            batch but the label; False: not at all.
        outputs: what the answers are: "logits", "probabilities", "one_logit", "one_probability" (of yes or no),
            "multilabel_logits", "multilabel_probabilities", or "numbers". Default: found once from the model's last
            operation, else from all answers of the first fold and the form of the labels; column ``outputs``.
        to_probabilities: turns answers into probabilities ``(B, n_classes)``, in place of ``outputs``.
        num_estimators: rows a sample has in the answers of an ensemble, ``(M * B, ...)`` member after member; their
            probabilities are averaged. Default: one row a sample.
        n_jobs: folds at once, each in a process, through joblib; -1: a fold a core. Default: 1, or as
            ``joblib.parallel_config`` says, which also names the backend ("loky", "ray", "dask").
        threads: torch threads a fold computes with. Default: as they are; with ``n_jobs`` the share of each job.

    Attributes:
        splits: the folds of the last run, or None.
        folds: DataFrame with a row a fold, ``initial_weights`` being a hash of what it started from.
        summary: DataFrame with a row a metric: mean, std and 95 % intervals, ``nb_low`` and ``nb_high`` over folds
            (Nadeau and Bengio), ``oof_low`` and ``oof_high`` over samples (Bayle et al.) for the rows ``oof/...``.
        oof: DataFrame with a row a held-out sample: sample_id, fold, target, prediction, prob_0, ...
        tables: DataFrames of the loop inside (rounds, queries, folds ...), by name, with a column ``fold``.
        missing_folds: folds without a result.
        ensemble_scores: of the ensemble on the test set, by name; empty where it was not tested.

    Raises:
        ConfigurationError: arguments that do not fit together, an ``export_path`` of another run, a score that
            would be optimistic by construction, or answers that cannot be read; before a fold is trained where a look
            at two samples shows it.
        DataError: more folds than samples or than members of a class, an empty fold, a sample held out twice, a
            group on both sides, iterable data.

    Example:
        >>> loop = KFoldLoop(num_folds=5, splitter="stratified")
        >>> loop.connect(trainer.fit_loop)                                  # doctest: +SKIP
        >>> trainer.fit_loop = loop                                         # doctest: +SKIP
        >>> trainer.fit(model, KFoldDataModule(dataset, batch_size=64))     # doctest: +SKIP

    References:
        Lightning's KFold example; Nadeau and Bengio 2003, "Inference for the Generalization Error"; Bayle et al. 2020,
        "Cross-validation Confidence Intervals for Test Error", arXiv 2007.12671.
    """

    result_tables = ("folds", "oof")
    fixed_settings = (
        "num_repeats", "seed", "new_weights", "checkpoint", "inner_split", "monitor", "mode", "test_each_fold",
        "threads", "num_estimators",
    )  # fmt: skip

    def __init__(
        self,
        num_folds: int | None = None,
        export_path: str | Path | None = None,
        splitter: Any = None,
        *,
        num_repeats: int | None = None,
        folds: Sequence[int] | None = None,
        seed: int = 0,
        new_weights: bool = False,
        checkpoint: str = "last",
        inner_split: float | int | None = None,
        monitor: str | None = None,
        mode: str = "min",
        test_each_fold: bool = False,
        test_ensemble: str | None = "soft",
        refit: bool | None = None,
        predict: Callable[[nn.Module, Any], Tensor] | bool | None = None,
        n_jobs: int | None = None,
        threads: int | None = None,
        outputs: str | None = None,
        to_probabilities: Callable[[Any], Tensor] | None = None,
        num_estimators: int | None = None,
    ) -> None:
        super().__init__()
        self.num_folds = num_folds
        self.export_path = export_path
        self.splitter = splitter
        self.num_repeats = num_repeats
        self._folds = None if folds is None else list(folds)
        self.seed = seed
        self.new_weights = new_weights
        self.checkpoint = checkpoint
        self.inner_split = inner_split
        self.monitor = monitor
        self.mode = mode
        self.test_each_fold = test_each_fold
        self.test_ensemble = test_ensemble
        self.refit = refit
        self.predict = predict
        self.n_jobs = n_jobs
        self.threads = threads
        self.outputs = outputs
        self.to_probabilities = to_probabilities
        self.num_estimators = num_estimators
        check_arguments(self)
        check_outputs_name(outputs)
        self._state = KFoldState()
        self._to_run: list[int] = []
        self._module: nn.Module | None = None
        self._data: Any = None
        self._fold_plan: Any = None
        self._current: Any = None
        self._folder: KFoldFolder | None = None
        self._elsewhere: Iterator[FoldResult] | None = None
        self._target_key: str | int | None = None

    # results

    @property
    def results(self) -> list[FoldResult]:
        """What the finished folds left behind, by fold."""
        return [self._state.results[fold] for fold in sorted(self._state.results)]

    @property
    def splits(self) -> Splits | None:
        """The folds of the last run; None before it, and where the data module makes them."""
        return self._state.splits

    @property
    def ensemble_scores(self) -> dict[str, float]:
        """Scores of the ensemble on the test set, by name; empty where it was not tested."""
        return self._state.ensemble_scores

    @property
    def folds(self) -> pd.DataFrame:
        """One row a fold: sizes, epochs, seed, hash of the initial weights, which checkpoint was scored, metrics."""
        return folds_table(self.results)

    @property
    def summary(self) -> pd.DataFrame:
        """One row a metric: mean, std, corrected 95 % interval (low, high), number of folds."""
        return summary_table(self.results)

    @property
    def oof(self) -> pd.DataFrame:
        """One row a held-out sample: sample_id, fold, target, prediction, prob_0, ..."""
        return oof_table(self.results)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Results of the loop inside the folds by name, each with a column ``fold``."""
        return inner_tables(self.results)

    @property
    def missing_folds(self) -> list[int]:
        """Folds without a result."""
        return self._state.missing

    def ensemble(self, kind: str = "soft") -> nn.Module:
        """The folds' models as one new module, in evaluation mode; `ensemble_scores` are the scores of this module.

        Members are asked as in the folds (``predict``, ``predict_step`` or ``forward``). Asked by ``forward`` with
        inputs alone, a ``predict_step`` gets a batch whose label is None.

        Args:
            kind: "soft": ``forward`` gives the mean of their probabilities ``(B, n_classes)``; "hard": the share of
                their votes; "weights": one model with the mean of their weights, which is of use only where they
                stayed close to a common start (fine-tuning), and whose batch-norm statistics are means too.

        Raises:
            ConfigurationError: no fold is finished, or ``kind`` does not fit.
        """
        if not self._state.results or self._module is None:
            raise ConfigurationError("There is no ensemble before a fold is finished. Call trainer.fit first.")
        meaning = self._meaning or Meaning("logits")
        return build_ensemble(self._module, self.results, kind, self._asking, meaning)

    # the loop

    @property
    def done(self) -> bool:
        return all(fold in self._state.results for fold in self._to_run)

    def start_over(self) -> None:
        self._state = KFoldState()

    def on_run_start(self) -> None:
        super().on_run_start()
        trainer, state = self.trainer, self._state
        self._module, self._folder = trainer.module, find_folder(self.export_path, trainer.run)
        self._data = find_data(trainer)
        find_splits(self, self._data, self._folder, state)
        self._to_run = check_folds(self._folds, state.count, state.unfinished)
        self._check_early()
        self._take_finished()
        self._fold_plan = self._make_plan()
        self._send_elsewhere()

    def advance(self) -> None:
        state = self._state
        fold = self._next_fold if state.unfinished is None else state.unfinished
        if self._elsewhere is not None and state.unfinished is None:
            self._wait_for(fold)
        if fold in state.arrived:
            result = state.arrived.pop(fold)
        else:
            state.unfinished = fold
            result = run_fold(self.trainer, self.fit_loop, self._data, self._fold_plan, fold, self._repeat(fold))
            state.unfinished = None
        self._read(result)
        check_new(result, self.results)
        state.add(result)
        self._current = result

    @property
    def _next_fold(self) -> int:
        return next(fold for fold in self._to_run if fold not in self._state.results)

    def _wait_for(self, fold: int) -> None:
        """Take in folds that run elsewhere, in the order in which they end, until this one is there."""
        while fold not in self._state.arrived:
            with self.trainer.indivisible():  # which saves those that are there, and lets a signal interrupt at once
                remove_jobs(self.trainer.run_dir, self._state.arrived)
                result = next(self._elsewhere, None) if self._elsewhere is not None else None
            if result is None:
                raise ConfigurationError("joblib returned fewer folds than were sent to it.")
            self._state.arrived[result.fold] = result

    def on_advance_end(self) -> None:
        result = self._current
        self._write(result)
        self.trainer.call_hook("on_fold_end", dict(result.row))

    def on_run_end(self) -> None:
        trainer, state = self.trainer, self._state
        self._test_ensemble()
        if not self.refit and (self.refit is not None or not trainer.run_name):
            self.start.restore(trainer.module, keep_records=True)
            trainer.returned_optimizers.put_back()
        elif not state.is_refitted:
            run_final(trainer, self.fit_loop, self._data, self._fold_plan)
            state.is_refitted = True
        self._write()
        if has_jobs(trainer.run_dir):
            trainer.safe_point(save=True)
            remove_jobs(trainer.run_dir, state.results)

    def teardown(self) -> None:
        elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere is not None:
            elsewhere.close()  # type: ignore[attr-defined]
        self._data = self._fold_plan = self._current = None

    # inside

    def _take_finished(self) -> None:
        """Take over folds that an earlier run left in the folder, and write those that are not there yet."""
        folder, state = self._folder, self._state
        found = {}
        if folder is not None:
            folder.refuse_strays(state.count)
            found = folder.read_results(self)
        if folder is not None and not self.restarting:
            check_free(folder.path, list(found), self._to_run, state.count)
        state.read_weights(found, folder)
        kinds = [result.kind for result in found.values() if result.kind is not None]
        if state.meaning is None and kinds:
            state.meaning = vars(Meaning(kinds[0], "earlier folds"))
        for fold, result in found.items():
            if fold not in self._to_run:
                state.results.setdefault(fold, result)
                state.note_written(result)
        for result in self.results:
            if folder is not None and result.fold not in found:
                self._write(result)

    def _send_elsewhere(self) -> None:
        """Have folds run in other processes, where several are to run at once."""
        state = self._state
        take_over_jobs(self.trainer.run_dir, resumed=self.restarting)
        known = {*state.results, *state.arrived, state.unfinished}
        left = [fold for fold in self._to_run if fold not in known]
        jobs = number_of_jobs(self.n_jobs)
        if not left or state.job_threads is None:  # where folds ran elsewhere before a resume, the last one does too
            jobs = min(jobs, len(left))
        if state.job_threads is None and jobs > 1:
            state.job_threads = self.threads or max(torch.get_num_threads() // jobs, 1)
        self._fold_plan = replace(self._fold_plan, threads=state.job_threads or self.threads)
        threads = self._fold_plan.threads or torch.get_num_threads()
        if left or state.unfinished is not None:
            warn_of_other_threads(state.threads, threads, jobs)
            state.threads = threads
        if jobs > 1:
            folds = [(fold, self._repeat(fold)) for fold in left]
            self._elsewhere = run_in_parallel(self.trainer, self.fit_loop, self._data, self._fold_plan, folds, jobs)

    def _make_plan(self) -> FoldPlan:
        monitor = None
        if self.checkpoint == "best":
            monitor = find_monitor(self.monitor, self.mode, self.trainer.callbacks)
        return FoldPlan(
            self.start,
            self.seed,
            self.new_weights,
            self.inner_split,
            monitor,
            self.test_each_fold,
            self._asking,
            self.threads,
            self._meaning,
        )

    # reading answers

    @property
    def _asking(self) -> Asking:
        key = None if self._data is None else self._data.target_key
        key = self._target_key if key is None else key
        return Asking(self.predict, self.outputs, self.to_probabilities, self.num_estimators, key)

    @property
    def _meaning(self) -> Meaning | None:
        """How answers are read, the same in all folds."""
        known = self._state.meaning
        return None if known is None else Meaning(**known)

    def _check_early(self) -> None:
        """Look at two samples and at the test data before a fold is trained."""
        trainer, data, state = self.trainer, self._data, self._state
        self._target_key = data.target_key
        if self.test_each_fold or (self._tests_ensemble and not trainer.run_name):
            check_test_data(data)
        if self.predict is False or not hasattr(data, "source"):
            return
        meaning = settle_early(trainer, data, self._asking)
        if state.meaning is None and meaning is not None:
            state.meaning = vars(meaning)
        if meaning is not None:
            check_votes(self.test_ensemble, meaning)
        if not self.restarting:
            self.start.restore(trainer.module)

    def _read(self, result: FoldResult) -> None:
        """Read the answers of a fold by the meaning that is common to all; the first fold's settle it."""
        answers, labels = result.answers, result.labels
        if answers is None:
            return
        labels = None if labels is None else as_array(labels)
        if self._meaning is None:
            self._state.meaning = vars(settle(self.trainer, self._data, self._asking, answers, result.last, labels))
        meaning = self._meaning
        assert meaning is not None
        check_votes(self.test_ensemble, meaning)
        meaning.check(answers.movedim(-1, 0).flatten(0, 1) if self.num_estimators else answers, "the model")
        known = self._data.labels
        found = interpret(answers, labels, meaning, known)
        result.predictions, result.probabilities, result.targets = found.values, found.probabilities, found.targets
        result.kind = result.row["outputs"] = meaning.kind
        has_names = labels is not None and labels.dtype.kind in "US" and known is not None and meaning.are_classes
        result.classes = known.classes if has_names else None
        result.row |= {f"oof/{name}": float(values.mean()) for name, values in result.per_sample_values().items()}
        result.answers = result.labels = None

    @property
    def _tests_ensemble(self) -> bool:
        return self.test_ensemble is not None and self.predict is not False

    def _repeat(self, fold: int) -> int:
        return self.splits.repeat(fold) if self.splits is not None else 0

    def _test_ensemble(self) -> None:
        """Score the ensemble on the test set, once all folds are there and only in the outermost loop."""
        trainer = self.trainer
        if not self._tests_ensemble or self.missing_folds or trainer.run_name:
            return
        if self._state.is_tested:
            return
        loaders, meaning = as_loaders(self._data.test_dataloader()), self._meaning
        if loaders and meaning is not None:
            labels = self._data.labels
            with trainer.indivisible():
                self._state.ensemble_scores = score_ensemble(
                    trainer, loaders, self.results, str(self.test_ensemble), self._asking, meaning, labels
                )
        self._state.is_tested = True

    def _write(self, result: FoldResult | None = None) -> None:
        """Keep a new result, or the tables over all of them, in the folder."""
        folder = self._folder
        if folder is None or not self.trainer.is_global_zero:
            return
        if result is not None:
            folder.write_fold(self, result)
            self._state.note_written(result)
        outputs = self._state.meaning or {}
        state = {
            "missing_folds": self.missing_folds, "ensemble": self.ensemble_scores,
            "outputs": outputs.get("kind"), "outputs_known_from": outputs.get("told"),
        }  # fmt: skip
        folder.write_tables(self.results, self.tables, state)

    # state

    @property
    def limits(self) -> dict[str, Any]:
        return {"folds": self._folds}

    @property
    def _made_by(self) -> dict[str, Any]:
        return {name: describe(getattr(self, name)) for name in ("splitter", "predict", "to_probabilities", "outputs")}

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the result of a fold in the current run, by name, as plain data."""
        own = {name: getattr(self, name) for name in self.fixed_settings}
        return {**settings_of(self.trainer), **own, **self._made_by, **self._state.data, **self.fit_limits}

    def on_save_checkpoint(self) -> dict[str, Any]:
        start = None if self.start is None else self.start.state_dict()
        return {**super().on_save_checkpoint(), **self._state.state_dict(), "start": start, "made_by": self._made_by}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, KFOLD_STATE, "KFoldLoop: state")
        super().on_load_checkpoint(state_dict)
        check_same("KFoldLoop", state_dict.get("made_by", {}), self._made_by)
        self._state = KFoldState.from_state_dict(state_dict)
        start = state_dict["start"]
        self.start = None if start is None else Snapshot.from_state_dict(start)
