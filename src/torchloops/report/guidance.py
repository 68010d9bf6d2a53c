"""What a study of guided training leaves behind, made from its curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchloops.files import readable
from torchloops.report.curves import plot_curves, plot_panels
from torchloops.report.folder import RunFolder
from torchloops.report.page import read_texts, write_page
from torchloops.report.summary import summarise

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

__all__ = ["guidance_table", "write_guidance_report"]

_PANELS = {
    "guide loss (nats)": "guide/loss",
    "scale": "guide/scale",
    "gradient norm": "guide/grad_norm",
    "norm after scaling": "guide/grad_norm_scaled",
    "share of samples\nwith a weight": "guide/share_weighted",
}


def write_guidance_report(run: RunFolder, curves: pandas.DataFrame, seconds: pandas.DataFrame) -> dict[str, Any]:
    """Write ``metrics.csv``, ``summary.json``, the plots and ``report.html``; return the summary.

    Args:
        run: the folder of the run.
        curves: one row a strategy, seed and epoch: ``strategy``, ``seed``, ``epoch``, ``step``, ``test/accuracy``
            (0 to 1), and where a strategy is guided ``guide/...``.
        seconds: one row a training: ``strategy``, ``seed``, ``steps``, ``seconds``.
    """
    summary = _summarise(curves, seconds)
    run.write_table("metrics.csv", curves)
    run.write_json("summary.json", summary)
    plot_curves(
        curves,
        run.file("plots", "accuracy_vs_steps.png"),
        x="step",
        y="test/accuracy",
        by="strategy",
        title=f"Test accuracy against optimizer steps\n{_over_seeds(curves)}",
        x_label="optimizer steps",
        y_label="test accuracy (%)",
        factor=100.0,
        lowest=100 * min(of["test/accuracy"]["mean"] for of in summary.values()) - 15,  # the first steps are cut off
    )
    plot_panels(
        curves,
        run.file("plots", "guide.png"),
        x="step",
        by="strategy",
        panels=_PANELS,
        title=f"What guides the steps, mean over an epoch\n{_over_seeds(curves)}",
        x_label="optimizer steps",
    )
    _write_page(run, curves, summary)
    return summary


def _over_seeds(curves: pandas.DataFrame) -> str:
    n_seeds = curves["seed"].nunique()
    return f"(mean of {n_seeds} seeds, band: lowest to highest)" if n_seeds > 1 else "(one seed)"


def _summarise(curves: pandas.DataFrame, seconds: pandas.DataFrame) -> dict[str, Any]:
    """For every strategy: the last test accuracy, the highest of any epoch, and the time of a step, over the seeds."""
    result: dict[str, Any] = {}
    for strategy, rows in curves.groupby("strategy", sort=False):
        scores = rows.sort_values(["seed", "epoch"]).groupby("seed")["test/accuracy"]
        times = seconds[seconds["strategy"] == strategy]
        result[str(strategy)] = {
            "test/accuracy": summarise(list(scores.last())),
            "highest test/accuracy": summarise(list(scores.max())),
            "milliseconds a step": summarise(list(1000 * times["seconds"] / times["steps"])),
        }
    return result


def guidance_table(summary: dict[str, Any]) -> Table:
    """For the terminal: a row a strategy."""
    from rich.table import Table

    n_seeds = next(iter(summary.values()))["test/accuracy"]["n"]
    title = f"test accuracy, % ({f'mean of {n_seeds} seeds' if n_seeds > 1 else 'one seed'})"
    table = Table(title=title, title_justify="left")
    for heading in ("strategy", "at the end", "std", "highest of all epochs", "ms a step"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    for strategy, of in summary.items():
        last, highest, time = of["test/accuracy"], of["highest test/accuracy"], of["milliseconds a step"]
        std = "" if last["std"] is None else f"{100 * last['std']:.1f}"
        cells = (f"{100 * last['mean']:.1f}", std, f"{100 * highest['mean']:.1f}", f"{time['mean']:.2f}")
        table.add_row(readable(strategy), *cells)
    return table


def _write_page(run: RunFolder, curves: pandas.DataFrame, summary: dict[str, Any]) -> None:
    import pandas

    rows = [
        {"strategy": strategy, "measure": measure, **{key: values[key] for key in ("mean", "std", "n")}}
        for strategy, measures in summary.items()
        for measure, values in measures.items()
    ]
    scores = ", ".join(f"{name} {100 * of['test/accuracy']['mean']:.1f} %" for name, of in summary.items())
    doubt = " Fewer than 10 seeds show a tendency, no more." if curves["seed"].nunique() < 10 else ""
    write_page(
        run.path / "report.html",
        title="Training on wrong labels, guided by a few right ones",
        introduction=f"Test accuracy at the end of training {_over_seeds(curves)}: {scores}. The highest accuracy of "
        f"all epochs is chosen by the test set, so it is optimistic.{doubt}",
        pictures={
            "Test accuracy against optimizer steps": run.path / "plots" / "accuracy_vs_steps.png",
            "Guide loss, scale and gradient norms": run.path / "plots" / "guide.png",
        },
        tables={"Summary": pandas.DataFrame(rows)},
        texts=read_texts(run.path),
    )
