"""Plots: data in, one PNG file out. Figures are made without pyplot, so nothing stays open."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchloops.files import write_whole
from torchloops.report.text import as_label, draw_literally

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
_CELL_HEIGHT = 1.3
"""Of a picture with its label, in widths of a picture."""


def plot_accuracy_vs_labels(rounds: pandas.DataFrame, path: Path, *, title: str | None = None) -> Path:
    """Draw test accuracy against the number of labels: one line a strategy, the mean over its seeds.

    With more than one seed, a band goes from the lowest to the highest seed.

    Args:
        rounds: one row a strategy, seed and round, with the columns ``strategy``, ``seed``, ``n_labelled``
            and ``test/accuracy`` (0 to 1); strategies are drawn in order of first appearance.
        path: the PNG file to write.
        title: default names the variable, the number of seeds and the band.
    """
    figure = _new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    n_seeds = rounds["seed"].nunique()
    for index, (strategy, rows) in enumerate(rounds.groupby("strategy", sort=False)):
        _draw_curve(axes, rows, as_label(strategy), index, band=n_seeds > 1)
    seeds = f"mean of {n_seeds} seeds, band: lowest to highest" if n_seeds > 1 else "one seed"
    axes.set_title(title or f"Test accuracy against number of labels\n({seeds})")
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
        axes.fill_between(accuracy.index, accuracy["min"], accuracy["max"], color=colour, alpha=0.18, linewidth=0)


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
            ``label`` (what is printed above a picture).
        get_image: from a sample id to an image of shape ``(height, width)`` or ``(height, width, 3)``,
            values 0 to 1.
        path: the PNG file to write.
        title: printed above the grid.
        max_rounds: rows drawn at most, the first rounds.
        max_columns: pictures drawn at most in a row.
    """
    groups = list(queries.sort_values(["round", "rank"]).groupby("round"))[:max_rounds]
    n_columns = min(max_columns, max((len(rows) for _, rows in groups), default=1))
    figure = _new_figure(1.2 + 0.62 * n_columns, 0.6 + 0.78 * len(groups))
    axes = figure.add_subplot(xlim=(-1.5, n_columns), ylim=(len(groups) * _CELL_HEIGHT, 0), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title)
    for row, (number, samples) in enumerate(groups):
        bottom = (row + 1) * _CELL_HEIGHT
        axes.text(-0.2, bottom - 0.5, f"round {number}", ha="right", va="center", fontsize=9)
        for column, (sample_id, label) in enumerate(
            zip(samples["sample_id"][:n_columns], samples["label"], strict=False)
        ):
            _draw_image(axes, get_image(int(sample_id)), as_label(label, 10), column, bottom)
    return _save(figure, path)


def _draw_image(axes: Axes, image: Any, label: str, left: float, bottom: float) -> None:
    """Put an image into its cell of one large plot: a plot an image would take seconds to lay out."""
    extent = (left + 0.05, left + 0.95, bottom - 0.05, bottom - 0.95)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.text(left + 0.5, bottom - 1.0, label, ha="center", va="bottom", fontsize=8)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    draw_literally(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = BytesIO()
    figure.savefig(picture, dpi=_DOTS_PER_INCH)
    return write_whole(path, picture.getvalue())
