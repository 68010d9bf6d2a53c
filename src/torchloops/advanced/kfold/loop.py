"""KFoldLoop: cross-validation as one run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchloops.advanced.kfold.best import find_monitor
from torchloops.advanced.kfold.checks import OptimisticScoreWarning, check_arguments, check_folds, check_free
from torchloops.advanced.kfold.ensemble import build_ensemble
from torchloops.advanced.kfold.ensemble_scores import score_ensemble
from torchloops.advanced.kfold.export import KFoldFolder
from torchloops.advanced.kfold.fold_run import FoldPlan, run_final, run_fold
from torchloops.advanced.kfold.parallel import number_of_jobs, run_in_parallel
from torchloops.advanced.kfold.preparing import find_data, find_splits
from torchloops.advanced.kfold.records import FoldResult, folds_table, inner_tables, oof_table, summary_table
from torchloops.advanced.kfold.splits import Splits
from torchloops.errors import ConfigurationError, DataError
from torchloops.loops.loop import Loop

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KFoldLoop"]


class KFoldLoop(Loop):
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
    starts afresh too; take `ensemble`, or ``refit=True``.

    Args:
        num_folds: folds of one repeat. Default: 5, or what the splitter object says.
        export_path: folder for ``splits.json`` (made once; used again and may be edited), ``folds.csv``,
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
            ``(B, n_outputs)``. Default: the module's ``predict_step``, else ``module(inputs)``; False: not at all.
        n_jobs: folds at once, each in a process, through joblib; -1: a fold a core. Default: 1, or as
            ``joblib.parallel_config`` says, which also names the backend ("loky", "ray", "dask").
        threads: torch threads a fold computes with. Default: as they are; with ``n_jobs`` the share of each job.

    Attributes:
        splits: the folds of the last run, or None.
        folds: DataFrame with a row a fold, ``initial_weights`` being a hash of what it started from.
        summary: DataFrame with a row a metric: mean, std and corrected 95 % interval (Nadeau and Bengio).
        oof: DataFrame with a row a held-out sample: sample_id, fold, target, prediction, prob_0, ...
        tables: DataFrames of the loop inside (rounds, queries, folds ...), by name, with a column ``fold``.
        missing_folds: folds without a result.
        ensemble_scores: of the ensemble on the test set, by name; empty where it was not tested.

    Raises:
        ConfigurationError: arguments that do not fit together, an ``export_path`` of another run, or a score that
            would be optimistic by construction.
        DataError: more folds than samples or than members of a class, an empty fold, a sample held out twice, a
            group on both sides, iterable data.

    Example:
        >>> loop = KFoldLoop(num_folds=5, splitter="stratified")
        >>> loop.connect(trainer.fit_loop)                                  # doctest: +SKIP
        >>> trainer.fit_loop = loop                                         # doctest: +SKIP
        >>> trainer.fit(model, KFoldDataModule(dataset, batch_size=64))     # doctest: +SKIP

    References:
        Lightning's KFold example; Nadeau and Bengio 2003, "Inference for the Generalization Error".
    """

    fit_loop: Loop
    result_tables = ("folds", "oof")

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
        check_arguments(self)
        self.splits: Splits | None = None
        self.ensemble_scores: dict[str, float] = {}
        self._results: dict[int, FoldResult] = {}
        self._start: Any = None
        self._count = 0
        self._to_run: list[int] = []
        self._module: nn.Module | None = None
        self._data: Any = None
        self._fold_plan: Any = None
        self._current: Any = None
        self._folder: KFoldFolder | None = None
        self._elsewhere: Iterator[FoldResult] | None = None

    def connect(self, fit_loop: Loop | None = None, **loops: Loop) -> None:
        """Attach the loop that trains a fold: ``loop.connect(trainer.fit_loop)``."""
        super().connect(**loops if fit_loop is None else {"fit_loop": fit_loop, **loops})

    # results

    @property
    def results(self) -> list[FoldResult]:
        """What the finished folds left behind, by fold."""
        return [self._results[fold] for fold in sorted(self._results)]

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
        return [fold for fold in range(self._count) if fold not in self._results]

    def ensemble(self, kind: str = "soft") -> nn.Module:
        """The folds' models as one new module, in evaluation mode.

        Args:
            kind: "soft": ``forward`` gives the mean of their probabilities ``(B, n_classes)``; "hard": the share of
                their votes; "weights": one model with the mean of their weights, which is of use only where they
                stayed close to a common start (fine-tuning), and whose batch-norm statistics are means too.

        Raises:
            ConfigurationError: no fold is finished, or ``kind`` does not fit.
        """
        if not self._results or self._module is None:
            raise ConfigurationError("There is no ensemble before a fold is finished. Call trainer.fit first.")
        kinds = [result.kind for result in self.results if result.kind]
        return build_ensemble(self._module, [r.weights for r in self.results], kind, kinds[0] if kinds else "logits")

    # the loop

    @property
    def done(self) -> bool:
        return all(fold in self._results for fold in self._to_run)

    def reset(self) -> None:
        if not self.restarting:
            self._results, self._start, self.ensemble_scores = {}, None, {}

    def on_run_start(self) -> None:
        if "fit_loop" not in vars(self):
            raise ConfigurationError("KFoldLoop trains nothing yet. Call loop.connect(trainer.fit_loop).")
        trainer = self.trainer
        self._module, self._folder = trainer.module, self._find_folder()
        self._data = find_data(trainer)
        before = self.splits if self.restarting else None
        self.splits, self._count = find_splits(self, self._data, self._folder)
        if before is not None and self.splits is not None and before.hash != self.splits.hash:
            raise ConfigurationError("The run to resume had other splits. Resume it with its data and arguments.")
        self._to_run = check_folds(self._folds, self._count)
        self._start = self._start or trainer.snapshot()
        self._take_finished()
        self._fold_plan = self._make_plan()
        left = [fold for fold in self._to_run if fold not in self._results]
        jobs = min(number_of_jobs(self.n_jobs), len(left))
        if jobs > 1:
            folds = [(fold, self._repeat(fold)) for fold in left]
            self._elsewhere = run_in_parallel(trainer, self.fit_loop, self._data, self._fold_plan, folds, jobs)

    def on_advance_start(self) -> None:
        if self.restarting and "fit_loop" not in vars(self.fit_loop):
            self.fit_loop.restarting = False  # a fold that was cut is trained again from its beginning

    def advance(self) -> None:
        if self._elsewhere is not None:
            result = next(self._elsewhere, None)
            if result is None:
                raise ConfigurationError("joblib returned fewer folds than were sent to it.")
        else:
            fold = next(fold for fold in self._to_run if fold not in self._results)
            result = run_fold(self.trainer, self.fit_loop, self._data, self._fold_plan, fold, self._repeat(fold))
        self._check_new(result)
        self._results[result.fold] = result
        self._current = result

    def on_advance_end(self) -> None:
        result = self._current
        self._write(result)
        self.trainer.call_hook("on_fold_end", dict(result.row))

    def on_run_end(self) -> None:
        trainer = self.trainer
        self._test_ensemble()
        if self.refit or (self.refit is None and trainer.run_name):
            run_final(trainer, self.fit_loop, self._data, self._fold_plan)
        else:
            self._start.restore(trainer.module)
        self._write()

    def teardown(self) -> None:
        elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere is not None:
            elsewhere.close()  # type: ignore[attr-defined]
        self._data = self._fold_plan = self._current = None

    # inside

    def _find_folder(self) -> KFoldFolder | None:
        """The folder of results; the folds' runs write below it too."""
        if self.export_path is None:
            return None
        path, run = Path(self.export_path).expanduser(), self.trainer.run
        if run.name:
            return KFoldFolder(run.dir / path.name)
        run.dir = path
        return KFoldFolder(path)

    def _take_finished(self) -> None:
        """Take over folds that an earlier run left in the folder."""
        if self._folder is None:
            return
        finished = self._folder.read_results(self.splits, self._start.hash)
        if not self.restarting:
            check_free(self._folder.path, [result.fold for result in finished], self._to_run, self._count)
        for result in finished:
            self._results.setdefault(result.fold, result)

    def _make_plan(self) -> FoldPlan:
        monitor = None
        if self.checkpoint == "best":
            monitor = find_monitor(self.monitor, self.mode, self.trainer.callbacks)
        return FoldPlan(
            self._start,
            self.seed,
            self.new_weights,
            self.inner_split,
            monitor,
            self.test_each_fold,
            self.predict,
            self.threads,
        )

    def _repeat(self, fold: int) -> int:
        return self.splits.repeat(fold) if self.splits is not None else 0

    def _check_new(self, result: FoldResult) -> None:
        """Refuse a sample that an earlier fold has predicted, and say so where a score is optimistic."""
        known = {
            sample: other.fold
            for other in self.results
            if other.row["repeat"] == result.row["repeat"] and other.fold != result.fold
            for sample in other.sample_ids
        }
        twice = [sample for sample in result.sample_ids if sample in known]
        if twice:
            raise DataError(
                f"Sample {twice[0]} is predicted twice, by folds {known[twice[0]]} and {result.fold} ({len(twice)} "
                "such samples). Expected each in one held-out part at most; correct setup_folds of the data module."
            )
        if result.row["optimistic"] and not any(other.row["optimistic"] for other in self.results):
            warnings.warn(
                f"Fold {result.fold} was stopped, or its learning rate set, by values on the samples that it is scored "
                "on, so its score is optimistic (column `optimistic`). Give inner_split=0.1: the fold then watches a "
                "part of its training samples.",
                OptimisticScoreWarning,
                stacklevel=2,
            )

    def _test_ensemble(self) -> None:
        """Score the ensemble on the test set, once all folds are there and only in the outermost loop."""
        trainer = self.trainer
        if self.test_ensemble is None or self.predict is False or self.missing_folds or trainer.run_name:
            return
        test = self._data.test_dataloader()
        loaders = [test] if test is not None and not isinstance(test, list | tuple) else list(test or ())
        if loaders:
            self.ensemble_scores = score_ensemble(trainer, loaders, self.results, self.test_ensemble, self.predict)

    def _write(self, result: FoldResult | None = None) -> None:
        """Keep a new result, or the tables over all of them, in the folder."""
        folder = self._folder
        if folder is None or not self.trainer.is_global_zero:
            return
        if result is not None:
            folder.write_fold(self.trainer, result, self.splits, self._start.hash)
        state = {"missing_folds": self.missing_folds, "ensemble": self.ensemble_scores}
        folder.write_tables(self.results, self.tables, state)

    # state

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {
            "results": [result.state_dict() for result in self.results],
            "start": None if self._start is None else self._start.state_dict(),
            "splits": None if self.splits is None else self.splits.to_dict(),
            "missing_folds": self.missing_folds,
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        from torchloops.trainer.snapshot import Snapshot

        results = [FoldResult.from_state_dict(state) for state in state_dict["results"]]
        self._results = {result.fold: result for result in results}
        self._count = len(results) + len(state_dict["missing_folds"])
        start, splits = state_dict["start"], state_dict["splits"]
        self._start = None if start is None else Snapshot.from_state_dict(start)
        self.splits = None if splits is None else Splits.from_dict(splits)
