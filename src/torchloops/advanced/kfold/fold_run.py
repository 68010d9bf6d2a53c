"""One fold: an isolated run on its training part, then a score on its held-out part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from torchloops.advanced.describing import check_same
from torchloops.advanced.kfold.best import KeepBest
from torchloops.advanced.kfold.predicting import Predictions, interpret, predict_loader
from torchloops.advanced.kfold.records import FoldResult
from torchloops.advanced.kfold.splits import Split
from torchloops.advanced.kfold.weights import draw_weights, weights_of
from torchloops.loops.loop import Loop
from torchloops.seeding import derive_seed

if TYPE_CHECKING:
    from torchloops.trainer.snapshot import Snapshot

__all__ = ["FoldPlan", "run_final", "run_fold", "threads_set_to"]


@dataclass(frozen=True)
class FoldPlan:
    """What all folds of a run have in common.

    Args:
        start: the module that folds start from.
        seed: of the run; each fold derives its own.
        new_weights: draw new initial weights in each fold.
        inner_split: share or number of training samples to validate with, or None.
        monitor: value to follow on the inner split and its mode; None: the last epoch is scored.
        test_each_fold: score each fold on the test set too.
        predict: how to predict: a function of (module, batch), None: the module's own way, False: not at all.
        threads: torch threads a fold computes with; None: as they are.
    """

    start: Snapshot
    seed: int
    new_weights: bool = False
    inner_split: float | int | None = None
    monitor: tuple[str, str] | None = None
    test_each_fold: bool = False
    predict: Any = None
    threads: int | None = None


@contextmanager
def threads_set_to(number: int | None) -> Iterator[None]:
    """A context in which torch computes with so many threads; None: as it does."""
    before = torch.get_num_threads()
    if number is not None and number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def run_fold(trainer: Any, fit_loop: Loop, data: Any, plan: FoldPlan, fold: int, repeat: int = 0) -> FoldResult:
    """Train ``fit_loop`` on a fold of ``data`` and score what it made of the module.

    Nothing in it depends on folds that ran before: weights, generators, optimizers, callbacks, counters and loaders
    are the fold's own. A fold that was cut goes on where it was: what is done once is remembered in the checkpoint.

    Raises:
        CheckpointError: the fold that goes on has other samples now.
    """
    started = perf_counter()
    split = data.split(fold)
    nested = "fit_loop" in vars(fit_loop)
    seed = derive_seed("kfold", plan.seed, "fold", split.fold)
    study = data.training_data(split, seed, plan.inner_split, nested)
    scoring = data.scoring_data(split, seed)
    with threads_set_to(plan.threads), trainer.isolated(f"fold_{split.fold}", start=plan.start, seed=seed) as run:
        began = run.once("start", lambda: _begin(trainer, plan, split))
        check_same(f"Fold {split.fold}", {"samples (hash)": began["samples"]}, {"samples (hash)": split.hash})
        keeper = _add_keeper(run, plan)
        trained = run.once("fit", lambda: _train(trainer, run, fit_loop, study, split))
        if keeper is not None:
            keeper.restore(trainer.module)
        with trainer.using_data(scoring):
            scores = run.once("validate", lambda: trainer.evaluate("validate"))
            tested = run.once("test", lambda: trainer.evaluate("test")) if plan.test_each_fold else {}
            with trainer.indivisible():  # which saves: no result of a fold is there before a checkpoint is
                found = run.once("predict", lambda: _predict(trainer, scoring, data, split, plan))
        weights = weights_of(trainer.module)
        threads = torch.get_num_threads()
    predictions = None if found is None else Predictions(**found)
    held_out_watched = plan.inner_split is None and not nested and not data.is_study
    row = {
        "fold": split.fold, "repeat": repeat,
        "n_train": len(study.train_ids) if hasattr(study, "train_ids") else len(split.train),
        "n_test": len(split.test) or (0 if predictions is None else len(predictions.values)),
        "epochs": trained["epochs"], "steps": trained["steps"], "seed": seed, "initial_weights": began["weights"],
        "checkpoint": _describe(keeper), "optimistic": bool(held_out_watched and set(trained["watched"]) & set(scores)),
        "threads": threads, "seconds": perf_counter() - started,
    }  # fmt: skip
    values = trained["metrics"]
    inner = {f"inner/{name}": values[name] for name in scores if plan.inner_split and name in values}
    row |= {name: float(value) for name, value in (values | inner | scores | tested).items()}
    return _result(row, split, predictions, weights, trained["tables"])


def _begin(trainer: Any, plan: FoldPlan, split: Split) -> dict[str, str]:
    """Draw the weights a fold starts from, if it is to have its own; hashes of them and of its samples."""
    if plan.new_weights:
        draw_weights(trainer.module)
    return {"weights": trainer.snapshot().hash, "samples": split.hash}


def _train(trainer: Any, run: Any, fit_loop: Loop, study: Any, split: Split) -> dict[str, Any]:
    """Train on ``study``; what it leaves to tell, as plain data."""
    with trainer.using_data(study):
        fit_loop.run()
        return {
            "metrics": dict(run.metrics), "watched": sorted(_watched_values(run)),
            "epochs": run.epochs, "steps": run.steps,
            "tables": {name: _columns_of(table, split) for name, table in tables_of(fit_loop).items()},
        }  # fmt: skip


def run_final(trainer: Any, fit_loop: Loop, data: Any, plan: FoldPlan) -> None:
    """Train once on all samples; the module keeps the weights."""
    seed = derive_seed("kfold", plan.seed, "final")

    def train() -> None:
        with trainer.using_data(data.all_data(seed)):
            fit_loop.run()

    with threads_set_to(plan.threads), trainer.isolated("final", start=plan.start, seed=seed) as run:
        if plan.new_weights:
            run.once("start", lambda: draw_weights(trainer.module))
        run.once("fit", train)


def _add_keeper(run: Any, plan: FoldPlan) -> KeepBest | None:
    if plan.monitor is None:
        return None
    keeper = KeepBest(*plan.monitor)
    run.add_callback(keeper)
    return keeper


def _describe(keeper: KeepBest | None) -> str:
    return "last epoch" if keeper is None else f"best {keeper.monitor} on the inner split, epoch {keeper.epoch}"


def _watched_values(run: Any) -> set[str]:
    """Names of the values by which the run was stopped early or its learning rate was set."""
    stoppers = [callback for callback in run.callbacks if hasattr(callback, "stopped_epoch")]
    names = {getattr(callback, "monitor", None) for callback in stoppers}
    names |= {getattr(config, "monitor", None) for config in run.schedulers_or_none()}
    return {name for name in names if name}


def _predict(trainer: Any, scoring: Any, data: Any, split: Split, plan: FoldPlan) -> dict[str, Any] | None:
    """`Predictions` for the held-out part as plain data; None where none are asked for."""
    if plan.predict is False:
        return None
    loader = scoring.val_dataloader()
    loader = loader[0] if isinstance(loader, list | tuple) else loader
    outputs, targets = predict_loader(trainer, loader, plan.predict)
    known = data.targets
    if known is not None and known.dtype.kind in "iufb" and len(outputs) == len(split.test):
        targets = torch.as_tensor(known[split.test])
    return dict(vars(interpret(outputs, targets)))


def tables_of(fit_loop: Any) -> dict[str, Any]:
    """Tables of results that a loop names in ``result_tables``, and those of the loops inside it."""
    tables = {name: getattr(fit_loop, name) for name in getattr(type(fit_loop), "result_tables", ())}
    return tables | dict(getattr(fit_loop, "tables", {}))


def _columns_of(table: Any, split: Split) -> dict[str, list[Any]]:
    """A table as plain columns; sample ids inside the fold become those of the whole."""
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        column = table[name].astype(object)
        values = [None if missing else _plain(value) for value, missing in zip(column, column.isna(), strict=True)]
        if name == "sample_id" and split.train:
            values = [None if value is None else split.train[value] for value in values]
        columns[_inner_name(str(name))] = values
    return columns


def _inner_name(name: str) -> str:
    return f"inner_{name}" if name.removeprefix("inner_") in ("fold",) or name == "repeat" else name


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _result(
    row: dict[str, Any], split: Split, predictions: Predictions | None, weights: dict[str, Any], tables: dict[str, Any]
) -> FoldResult:
    if predictions is None:
        return FoldResult(row, list(split.test), weights=weights, tables=tables)
    known = len(split.test) == len(predictions.values)
    return FoldResult(
        row,
        list(split.test) if known else [],
        predictions.values,
        predictions.probabilities,
        predictions.targets,
        predictions.kind,
        weights,
        tables,
    )
