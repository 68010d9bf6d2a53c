"""What a cross-validation leaves behind beside its tables: a summary, plots, a page, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchloops.report.folder import RunFolder
from torchloops.report.kfold_plots import plot_confusion_matrix, plot_scores_by_fold
from torchloops.report.page import read_texts, write_page
from torchloops.report.summary import summarise

if TYPE_CHECKING:
    from rich.table import Table

    from torchloops.advanced.kfold import KFoldLoop

__all__ = ["cross_validation_table", "summarise_folds", "write_kfold_report"]

_INTERVALS = ("nb_low", "nb_high", "oof_low", "oof_high")
_METRICS = {"val/accuracy": "held-out score", "test/accuracy": "test score"}


def summarise_folds(loop: KFoldLoop) -> dict[str, Any]:
    """Every metric over the folds with its corrected interval, the ensemble's scores, and the missing folds."""
    folds: dict[str, Any] = {}
    for row in loop.summary.to_dict("records"):
        values = [result.metrics[row["metric"]] for result in loop.results if row["metric"] in result.metrics]
        interval = {key: None if row[key] != row[key] else float(row[key]) for key in _INTERVALS}
        folds[str(row["metric"])] = {**summarise(values), **interval, "optimistic": bool(row["optimistic"])}
    scores = {name.replace("ensemble/", "test/"): summarise([value]) for name, value in loop.ensemble_scores.items()}
    return {"folds": folds, "ensemble": scores, "missing_folds": loop.missing_folds}


def cross_validation_table(loop: KFoldLoop) -> Table:
    """Accuracy in percent: by fold, then mean, standard deviation and corrected interval, and the ensemble's."""
    from rich.table import Table

    metrics = [name for name in _METRICS if name in loop.folds]
    table = Table(title="accuracy, %", title_justify="left")
    for heading in ("", "trained on", "held out", "seconds", *(_METRICS[name] for name in metrics)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in loop.folds.to_dict("records"):
        cells = [f"fold {row['fold']}", str(row["n_train"]), str(row["n_test"]), f"{row['seconds']:.1f}"]
        table.add_row(*cells, *(f"{100 * row[name]:.1f}" for name in metrics))
    table.add_section()
    rows = [_percent(row) for name in metrics for row in loop.summary.to_dict("records") if row["metric"] == name]
    blank = ["", "", ""]
    table.add_row("mean", *blank, *(f"{row['mean']:.1f}" for row in rows))
    table.add_row("std", *blank, *(f"{row['std']:.1f}" for row in rows))
    table.add_row(
        "95 %", *blank, "{nb_low:.1f} to {nb_high:.1f}".format(**rows[0])
    )  # not of one test set for all folds
    if "ensemble/accuracy" in loop.ensemble_scores:
        table.add_row("ensemble", *blank, "", f"{100 * loop.ensemble_scores['ensemble/accuracy']:.1f}")
    return table


def _percent(row: Mapping[Any, Any]) -> dict[str, float]:
    return {key: 100 * row[key] for key in ("mean", "std", "nb_low", "nb_high")}


def write_kfold_report(run: RunFolder, loop: KFoldLoop, class_names: Sequence[str]) -> dict[str, Any]:
    """Write ``summary.json``, the plots and ``report.html``; return the summary.

    Args:
        run: the folder of the run; the loop has written its tables there (``export_path=run.path``).
        loop: a finished KFoldLoop over a classifier that logs ``val/accuracy``.
        class_names: of the targets 0, 1, ...
    """
    summary = summarise_folds(loop)
    run.write_json("summary.json", summary)
    ensemble = loop.ensemble_scores.get("ensemble/accuracy")
    plot_scores_by_fold(
        loop.folds,
        loop.summary,
        run.file("plots", "accuracy_by_fold.png"),
        metrics={"val/accuracy": "held-out part", "test/accuracy": "test set"},
        reference=None if ensemble is None else ("ensemble, test set", ensemble),
    )
    plot_confusion_matrix(loop.oof, class_names, run.file("plots", "confusion_matrix.png"))
    _write_page(run, loop)
    return summary


def _write_page(run: RunFolder, loop: KFoldLoop) -> None:
    import pandas

    names = ("fold", "n_train", "n_test", "epochs", "seconds", *_METRICS, "initial_weights")
    write_page(
        run.path / "report.html",
        title=f"Cross-validation with {len(loop.folds)} folds",
        introduction=_introduction(loop),
        pictures={
            "Accuracy by fold": run.path / "plots" / "accuracy_by_fold.png",
            "Out-of-fold predictions against true classes": run.path / "plots" / "confusion_matrix.png",
        },
        tables={
            "Folds": loop.folds[[name for name in names if name in loop.folds]],
            "Summary": loop.summary,
            "Ensemble of the folds, on the test set": pandas.DataFrame([loop.ensemble_scores]),
        },
        texts=read_texts(run.path),
    )


def _introduction(loop: KFoldLoop) -> str:
    row = _percent(next(row for row in loop.summary.to_dict("records") if row["metric"] == "val/accuracy"))
    text = "Held-out accuracy: {mean:.1f} %, corrected 95 % interval {nb_low:.1f} to {nb_high:.1f} %.".format(**row)
    if "ensemble/accuracy" in loop.ensemble_scores:
        score = 100 * loop.ensemble_scores["ensemble/accuracy"]
        text += f" The ensemble of all folds is right on {score:.1f} % of the test set."
    if loop.folds["optimistic"].any():
        text += " Training was steered by the samples that the folds are scored on, so the scores are optimistic."
    if loop.missing_folds:
        text += f" Missing folds: {', '.join(map(str, loop.missing_folds))}."
    return text
