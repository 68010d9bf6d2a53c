"""Plots of a cross-validation: scores by fold with their interval, and the confusion matrix of held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchloops.report.plots import COLOURS, _new_figure, _save
from torchloops.report.text import as_label

if TYPE_CHECKING:
    import pandas

__all__ = ["plot_confusion_matrix", "plot_scores_by_fold"]

_MOST_CLASSES = 30
"""More than these make cells too small to read."""
_SHORT = 6
"""Characters of a name that is written across."""
_CHARACTER = 0.1
"""Inches."""


def plot_scores_by_fold(
    folds: pandas.DataFrame,
    summary: pandas.DataFrame,
    path: Path,
    *,
    metrics: Mapping[str, str],
    reference: tuple[str, float] | None = None,
    title: str = "Accuracy by fold",
    y_label: str = "accuracy (%)",
    factor: float = 100.0,
) -> Path:
    """Draw the scores of every fold, and for the first metric the mean with its corrected interval.

    Args:
        folds, summary: as `KFoldLoop` gives them.
        path: the PNG file to write.
        metrics: columns to draw, each with its name in the legend; those not in ``folds`` are left out.
        reference: a name and a score that is drawn as a line, such as the ensemble's.
        title, y_label: what is printed.
        factor: of the scores; 100 for per cent.
    """
    figure = _new_figure(7.0, 4.8)
    axes = figure.add_subplot()
    shown = {name: label for name, label in metrics.items() if name in folds}
    for index, (name, label) in enumerate(shown.items()):
        axes.plot(
            folds["fold"], factor * folds[name], "os"[index % 2], color=COLOURS[index], label=as_label(label), zorder=3
        )
    rows = summary[summary["metric"] == next(iter(shown))]
    mean, low, high = (factor * float(rows[name].iloc[0]) for name in ("mean", "nb_low", "nb_high"))
    if low == low:
        label = "corrected 95 % interval of the mean"
        axes.axhspan(low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label=label)
    axes.axhline(mean, color=COLOURS[0], label=f"mean, {as_label(next(iter(shown.values())))}")
    if reference is not None:
        axes.axhline(factor * reference[1], color=COLOURS[2], linestyle="--", label=as_label(reference[0]))
    axes.set(title=title, xlabel="fold (from 0)", ylabel=y_label)
    if len(folds) <= 20:
        axes.set_xticks(list(folds["fold"]))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return _save(figure, path)


def plot_confusion_matrix(oof: pandas.DataFrame, class_names: Sequence[str], path: Path) -> Path:
    """Draw how many samples of each class were predicted as each class; the shade is the share of the true class.

    Args:
        oof: with the columns ``target`` and ``prediction``, class indices from 0.
        class_names: ``n_classes`` names.
        path: the PNG file to write.
    """
    import numpy

    n_classes = len(class_names)
    counts = numpy.zeros((n_classes, n_classes), dtype=int)
    numpy.add.at(counts, (oof["target"].to_numpy(dtype=int), oof["prediction"].to_numpy(dtype=int)), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [as_label(name) for name in class_names]
    longest = max(map(len, names))
    size = min(2.8 + 0.42 * n_classes, 14.0) + _CHARACTER * max(longest - _SHORT, 0)
    figure = _new_figure(size + 1.0, size)
    axes = figure.add_subplot()
    picture = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100)
    for (row, column), count in numpy.ndenumerate(counts):
        if count and n_classes <= _MOST_CLASSES:
            colour = "black" if shares[row, column] > 0.5 else "white"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(n_classes), names, rotation=90 if longest > _SHORT else 0)
    axes.set_yticks(range(n_classes), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"Out-of-fold predictions ({len(oof)} samples)")
    figure.colorbar(picture, label="share of the true class (%)", shrink=0.8)
    return _save(figure, path)
