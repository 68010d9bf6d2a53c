"""What a study of active learning leaves behind, made from its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchloops.files import readable
from torchloops.report.folder import RunFolder
from torchloops.report.page import read_texts, write_page
from torchloops.report.plots import plot_accuracy_vs_labels, plot_queried_samples
from torchloops.report.summary import accuracy_table, summarise_rounds
from torchloops.report.text import as_label

if TYPE_CHECKING:
    import numpy
    import pandas
    from rich.table import Table

__all__ = ["comparison_table", "plot_queries", "write_active_learning_report"]


def write_active_learning_report(
    run: RunFolder,
    rounds: pandas.DataFrame,
    queries: pandas.DataFrame,
    *,
    get_image: Callable[[int], numpy.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write the tables, ``summary.json``, the plots and ``report.html``; return the summary.

    Args:
        run: the folder to write to; its ``config.yaml`` and ``command.txt``, if any, are shown on the page.
        rounds: one row a strategy, seed and round: ``strategy``, ``seed``, ``n_labelled``, ``test/accuracy``
            and more; written to ``rounds.csv``.
        queries: one row a sample asked for: ``strategy``, ``seed``, ``round``, ``rank``, ``sample_id``,
            ``label`` and more; the first labels have round -1; written to ``queries.csv``.
        get_image: from a sample id to an image with values 0 to 1; None: no picture of what was asked for.
        class_names: what to print for a label; default: the label itself.
    """
    summary = summarise_rounds(rounds)
    run.write_table("rounds.csv", rounds)
    run.write_table("queries.csv", queries)
    run.write_json("summary.json", summary)
    plot_accuracy_vs_labels(rounds, run.file("plots", "accuracy_vs_labels.png"))
    if get_image is not None:
        plot_queries(run, queries[queries["round"] >= 0], get_image, class_names)
    _write_page(run, rounds, summary)
    return summary


def plot_queries(
    run: RunFolder,
    queries: pandas.DataFrame,
    get_image: Callable[[int], numpy.ndarray],
    class_names: Sequence[str] | None,
) -> None:
    """Draw the queries of the first strategy and seed, if there are any."""
    if queries.empty:
        return
    strategy, seed = queries["strategy"].iloc[0], queries["seed"].iloc[0]
    chosen = queries[(queries["strategy"] == strategy) & (queries["seed"] == seed)]
    if class_names is not None:
        chosen = chosen.assign(label=[class_names[int(label)] for label in chosen["label"]])
    title = f"Samples that {as_label(strategy)} asked for, with their labels (seed {seed})"
    plot_queried_samples(chosen, get_image, run.file("plots", "queried_samples.png"), title=title)


def comparison_table(rounds: pandas.DataFrame) -> Table:
    """For the terminal: test accuracy in percent against the number of labels, a column a strategy."""
    from rich.table import Table

    accuracy = accuracy_table(rounds)
    strategies = list(accuracy.columns[1:])
    table = Table(title=f"test accuracy, %{_over_seeds(rounds)}", title_justify="left")
    for heading in ("labels", *strategies, *(["difference"] if len(strategies) == 2 else [])):
        table.add_column(readable(heading), justify="right")
    for row in accuracy.itertuples(index=False):
        cells = [str(int(row[0])), *(f"{value:.1f}" for value in row[1:])]
        if len(strategies) == 2:
            cells.append(f"{row[1] - row[2]:+.1f}")
        table.add_row(*cells)
    return table


def _over_seeds(rounds: pandas.DataFrame) -> str:
    n_seeds = rounds["seed"].nunique()
    return f" (mean of {n_seeds} seeds)" if n_seeds > 1 else " (one seed)"


def _write_page(run: RunFolder, rounds: pandas.DataFrame, summary: dict[str, Any]) -> None:
    write_page(
        run.path / "report.html",
        title=f"Active learning: {' against '.join(summary)}",
        introduction=_introduction(rounds, summary),
        pictures={
            "Test accuracy against number of labels": run.path / "plots" / "accuracy_vs_labels.png",
            "Samples asked for": run.path / "plots" / "queried_samples.png",
        },
        tables={
            f"Test accuracy in percent{_over_seeds(rounds)}": accuracy_table(rounds),
            "Summary": _summary_table(summary),
        },
        texts=read_texts(run.path),
    )


def _introduction(rounds: pandas.DataFrame, summary: dict[str, Any]) -> str:
    n_labels = int(rounds["n_labelled"].max())
    scores = ", ".join(f"{name} {100 * of['test/accuracy']['mean']:.1f} %" for name, of in summary.items())
    n_seeds = rounds["seed"].nunique()
    doubt = " Fewer than 10 seeds show a tendency, no more." if n_seeds < 10 else ""
    return f"Test accuracy with {n_labels} labels{_over_seeds(rounds)}: {scores}.{doubt}"


def _summary_table(summary: dict[str, Any]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(
        [
            {"strategy": strategy, "measure": measure, **{key: of[key] for key in ("mean", "std", "n")}}
            for strategy, measures in summary.items()
            for measure, of in measures.items()
        ]
    )
