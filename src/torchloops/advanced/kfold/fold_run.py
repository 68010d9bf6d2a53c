"""One fold: an isolated run on its training part, then a score on its held-out part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from torchloops.advanced.kfold.best import KeepBest
from torchloops.advanced.kfold.left_behind import LeftBehind
from torchloops.advanced.kfold.predicting import Asking, collect_answers
from torchloops.advanced.kfold.records import FoldResult
from torchloops.advanced.kfold.splits import Split
from torchloops.advanced.kfold.weights import draw_weights, weights_of
from torchloops.data.fingerprint import check_same
from torchloops.data.outputs import Meaning
from torchloops.loops.loop import Loop
from torchloops.seeding import derive_seed
from torchloops.trainer.snapshot import hash_of_weights

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
        asking: how the module is asked for predictions.
        threads: torch threads a fold computes with; None: as they are.
        meaning: how answers are read, where that is known before a fold is trained.
    """

    start: Snapshot
    seed: int
    new_weights: bool = False
    inner_split: float | int | None = None
    monitor: tuple[str, str] | None = None
    test_each_fold: bool = False
    asking: Asking = field(default_factory=Asking)
    threads: int | None = None
    meaning: Meaning | None = None


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
    held_out_watched = plan.inner_split is None and not nested and not data.is_study
    seed = derive_seed("kfold", plan.seed, "fold", split.fold)
    study = data.training_data(split, seed, plan.inner_split, nested)
    scoring = data.scoring_data(split, seed)
    inner_run = trainer.isolated(f"fold_{split.fold}", start=plan.start, seed=seed, data=study)
    with threads_set_to(plan.threads), inner_run as run:
        began = run.once("start", lambda: _begin(trainer, plan, split))
        check_same(f"Fold {split.fold}", {"samples (hash)": began.get("samples")}, {"samples (hash)": split.hash})
        keeper = _add_keeper(run, plan)
        trained = run.once("fit", lambda: _train(run, fit_loop, split))
        if keeper is not None:
            keeper.finish(trainer.module)
        with trainer.using_data(scoring):
            prefix = "" if held_out_watched else "heldout/"  # what the fit validated on has the plain names
            scores = run.once("validate", lambda: trainer.evaluate("validate", prefix))
            tested = run.once("test", lambda: trainer.evaluate("test")) if plan.test_each_fold else {}
            with trainer.indivisible():  # which saves: no result of a fold is there before a checkpoint is
                found = run.once("predict", lambda: _predict(trainer, scoring, plan))
        weights = weights_of(trainer.module)
        left = LeftBehind.found_in(trainer.module, plan.start)
        threads = torch.get_num_threads()
    row = {
        "fold": split.fold, "repeat": repeat,
        "n_train": len(study.train_ids) if hasattr(study, "train_ids") else len(split.train),
        "n_test": len(split.test) or (0 if found is None else len(found["answers"])),
        "epochs": trained["epochs"], "steps": trained["steps"], "seed": seed, "initial_weights": began["weights"],
        "checkpoint": _describe(keeper), "outputs": None,
        "optimistic": bool(held_out_watched and set(trained["watched"]) & set(scores)),
        "threads": threads, "seconds": perf_counter() - started,
    }  # fmt: skip
    values = trained["metrics"]
    inner = {f"inner/{name}": values[name] for name in scores if plan.inner_split and name in values}
    row |= {name: float(value) for name, value in (values | inner | scores | tested).items()}
    known = found is None or len(found["answers"]) <= len(split.test)
    ids = split.test if found is None else split.test[: len(found["answers"])]
    ids = list(ids) if known else []
    return FoldResult(row, ids, weights=weights, left=left, tables=trained["tables"], **(found or {}))


def _begin(trainer: Any, plan: FoldPlan, split: Split) -> dict[str, str]:
    """Draw the weights a fold starts from, if it is to have its own; hashes of them and of its samples."""
    if plan.new_weights:
        draw_weights(trainer.module)
    return {"weights": hash_of_weights(trainer.module), "samples": split.hash}


def _train(run: Any, fit_loop: Loop, split: Split) -> dict[str, Any]:
    """Train on the data of the run; what it leaves to tell, as plain data."""
    fit_loop.run()
    run.pending_data = {}  # positions in the data of the fit, for which nobody asked after a resume
    return {
        "metrics": dict(run.metrics), "watched": sorted(_watched_values(run)),
        "epochs": run.epochs, "steps": run.steps,
        "tables": {name: _columns_of(table, split) for name, table in tables_of(fit_loop).items()},
    }  # fmt: skip


def run_final(trainer: Any, fit_loop: Loop, data: Any, plan: FoldPlan) -> None:
    """Train once on all samples; the module keeps the weights."""
    seed = derive_seed("kfold", plan.seed, "final")
    inner_run = trainer.isolated("final", start=plan.start, seed=seed, data=data.all_data(seed))
    with threads_set_to(plan.threads), inner_run as run:
        if plan.new_weights:
            run.once("start", lambda: draw_weights(trainer.module))
        run.once("fit", fit_loop.run)


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


def _predict(trainer: Any, scoring: Any, plan: FoldPlan) -> dict[str, Any] | None:
    """Answers to the held-out part, its labels and the model's last operation; None where none are asked for."""
    if plan.asking.predict is False:
        return None
    loader = scoring.val_dataloader()
    loader = loader[0] if isinstance(loader, list | tuple) else loader
    reader = plan.asking.reader(trainer.module, plan.meaning, trainer.engine.under_precision)
    answers, labels = collect_answers(trainer, loader, reader)
    if labels is not None:
        labels = labels.tolist() if labels.dtype.kind in "US" else torch.as_tensor(labels)  # type: ignore[assignment]
    return {"answers": answers, "labels": labels, "last": reader.last}


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
