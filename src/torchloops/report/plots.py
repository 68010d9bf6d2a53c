"""Plots: data in, one PNG file out. Figures are made without pyplot, so nothing stays open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "plot_accuracy_vs_labels", "plot_queried_samples"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's palette: told apart also by colour-blind readers."""
_MARKERS = "osD^vPX"
_DOTS_PER_INCH = 150


def plot_accuracy_vs_labels(rounds: pandas.DataFrame, path: Path, *, title: str | None = None) -> Path:
    """Draw test accuracy against the number of labels: one line a strategy, the mean over its seeds.

    With more than one seed, a band goes from the lowest to the highest seed.

    Args:
        rounds: one row a strategy, seed and round, with the columns ``strategy``, ``seed``, ``n_labelled``
            and ``test/accuracy`` (0 to 1); strategies are drawn in order of first appearance.
        path: the PNG file to write.
        title: default names the variable, the number of seeds and the band.
    """
    figure, axes = _new_figure(width=7.0, height=4.5)
    n_seeds = rounds["seed"].nunique()
    for index, (strategy, rows) in enumerate(rounds.groupby("strategy", sort=False)):
        _draw_curve(axes, rows, str(strategy), index, band=n_seeds > 1)
    seeds = f"mean of {n_seeds} seeds, band: lowest to highest" if n_seeds > 1 else "one seed"
    axes.set_title(title or f"Test accuracy against number of labels ({seeds})")
    axes.set_xlabel("labelled samples (count)")
    axes.set_ylabel("test accuracy (%)")
    axes.legend(title="strategy", loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    return _save(figure, path)


def _draw_curve(axes: Axes, rows: pandas.DataFrame, strategy: str, index: int, *, band: bool) -> None:
    accuracy = 100 * rows.groupby("n_labelled")["test/accuracy"].agg(["mean", "min", "max"])
    colour, marker = COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]
    axes.plot(accuracy.index, accuracy["mean"], color=colour, marker=marker, markersize=4, label=strategy)
    if band:
        axes.fill_between(
            accuracy.index, accuracy["min"], accuracy["max"], color=colour, alpha=0.18, linewidth=0
        )


def plot_queried_samples(
    queries: pandas.DataFrame,
    get_image: Callable[[int], numpy.ndarray],
    path: Path,
    *,
    title: str = "Samples asked for, by round",
    max_rounds: int = 20,
    max_columns: int = 12,
) -> Path:
    """Draw what was asked for: one row a round, the first asked on the left, its label above it.

    Args:
        queries: rows of one strategy and one seed, with the columns ``round``, ``rank``, ``sample_id`` and
            ``label`` (the name or index to print).
        get_image: from a sample id to an image of shape ``(height, width)`` or ``(height, width, 3)``,
            values 0 to 1.
        path: the PNG file to write.
        title: printed above the grid.
        max_rounds: rows drawn at most, the first rounds.
        max_columns: pictures drawn at most in a row.
    """
    groups = list(queries.sort_values(["round", "rank"]).groupby("round"))[:max_rounds]
    n_columns = min(max_columns, max((len(rows) for _, rows in groups), default=1))
    figure, grid = _new_grid(len(groups) or 1, n_columns)
    for axes_row, (number, rows) in zip(grid, groups, strict=False):
        for axes, (_, query) in zip(axes_row, rows.iterrows(), strict=False):
            _draw_image(axes, get_image(int(query["sample_id"])), str(query["label"]))
        axes_row[0].text(
            -0.35,
            0.5,
            f"round {number}",
            transform=axes_row[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    figure.suptitle(title)
    return _save(figure, path)


def _draw_image(axes: Axes, image: Any, label: str) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(label, fontsize=8, pad=2)


def _new_figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _new_grid(n_rows: int, n_columns: int) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 0.62 * n_columns, 0.6 + 0.72 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path
