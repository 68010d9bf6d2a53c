"""Curves over a training: one line a strategy, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchloops.report.plots import COLOURS, _new_figure, _save
from torchloops.report.text import as_label

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["draw_curves", "plot_curves", "plot_panels"]

_STYLES = ("-", "--", "-.", ":")


def plot_curves(
    table: pandas.DataFrame,
    path: Path,
    *,
    x: str,
    y: str,
    by: str,
    title: str,
    x_label: str,
    y_label: str,
    factor: float = 1.0,
    lowest: float | None = None,
) -> Path:
    """Draw a column against another: one line a value of ``by``, the mean over its seeds.

    With more than one seed, a band goes from the lowest to the highest seed.

    Args:
        table: one row a seed and place on the curve, with the columns ``seed``, ``x``, ``y`` and ``by``.
        path: the PNG file to write.
        x, y: columns with numbers.
        by: column that names the lines, drawn in order of first appearance.
        title, x_label, y_label: what is printed; name units in the labels.
        factor: of ``y``; 100 for per cent.
        lowest: where the axis begins; default: at the lowest value.
    """
    figure = _new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    draw_curves(axes, table, x=x, y=y, by=by, factor=factor)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=lowest)
    axes.legend(title=by, frameon=False)
    return _save(figure, path)


def plot_panels(
    table: pandas.DataFrame,
    path: Path,
    *,
    x: str,
    by: str,
    panels: Mapping[str, str],
    title: str,
    x_label: str,
) -> Path:
    """Draw several columns against one, each in a panel of its own, below one another.

    Args:
        table: as for `plot_curves`.
        path: the PNG file to write.
        x: column with numbers.
        by: column that names the lines.
        panels: label of a panel's axis, with its unit, to the column in it; columns not in the table are left out.
        title: above all panels.
        x_label: below all panels.
    """
    shown = {label: name for label, name in panels.items() if name in table}
    figure = _new_figure(7.0, 1.0 + 2.3 * max(len(shown), 1))
    all_axes = figure.subplots(max(len(shown), 1), sharex=True, squeeze=False)[:, 0]
    for axes, (label, name) in zip(all_axes, shown.items(), strict=False):
        draw_curves(axes, table, x=x, y=name, by=by)
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_title(title)
    all_axes[-1].set_xlabel(x_label)
    return _save(figure, path)


def draw_curves(axes: Axes, table: pandas.DataFrame, *, x: str, y: str, by: str, factor: float = 1.0) -> None:
    """Draw the lines into ``axes``; see `plot_curves`. A value of ``by`` without any ``y`` keeps its colour."""
    for index, (name, rows) in enumerate(table.groupby(by, sort=False)):
        rows = rows.dropna(subset=[y])
        if rows.empty:
            continue
        values = factor * rows.groupby(x)[y].agg(["mean", "min", "max"])
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(values.index, values["mean"], color=colour, linestyle=_STYLES[index % 4], label=as_label(name))
        if rows["seed"].nunique() > 1:
            axes.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.18, linewidth=0)
    axes.grid(alpha=0.3)
