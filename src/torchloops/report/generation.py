"""What the training of a generator leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchloops.report.curves import plot_panels
from torchloops.report.folder import RunFolder
from torchloops.report.page import read_texts, write_page

if TYPE_CHECKING:
    import pandas

__all__ = ["forward_pass_table", "write_generation_report"]


def write_generation_report(
    run: RunFolder, metrics: pandas.DataFrame, coverages: pandas.DataFrame, turns: pandas.DataFrame
) -> dict[str, Any]:
    """Write ``summary.json``, ``turns.csv``, the plot of losses and ``report.html``; return the summary.

    Args:
        run: the folder of the run.
        metrics: one row an epoch, with ``epoch``, ``train/loss_discriminator`` and ``train/loss_generator``.
        coverages: one row a kind of images: ``images``, ``coverage`` (0 to 1); the first are the generated ones.
        turns: one row a timing: ``turn``, ``forward_passes`` (1 or 2), ``steps``, ``seconds``; or no row.
    """
    from torchloops.report.summary import summarise

    names = {"train/loss_discriminator": "discriminator", "train/loss_generator": "generator"}
    long = metrics.melt("epoch", list(names), "optimizer", "loss").dropna()
    long = long.assign(optimizer=long["optimizer"].map(names), seed=0)
    plot_panels(
        long,
        run.file("plots", "losses.png"),
        x="epoch",
        by="optimizer",
        panels={"loss (nats)": "loss"},
        title="Loss of each optimizer, mean over an epoch",
        x_label="epoch",
    )
    summary: dict[str, Any] = {
        str(row["images"]): {"coverage": summarise([row["coverage"]])} for row in coverages.to_dict("records")
    }
    timing = forward_pass_table(turns)
    if timing is not None:
        run.write_table("turns.csv", turns)
        for row in timing.to_dict("records"):
            scores = {name: summarise([row[name]]) for name in ("milliseconds a step", "seconds in all")}
            summary[f"forward passes: {row['forward passes']}"] = scores
    run.write_json("summary.json", summary)
    _write_page(run, coverages, timing)
    return summary


def forward_pass_table(turns: pandas.DataFrame) -> pandas.DataFrame | None:
    """Median time a step with one forward pass of the generator and with two, over the turns; and what is saved.

    None where there was no turn.
    """
    import pandas

    if turns.empty:
        return None
    each = 1000 * turns["seconds"] / turns["steps"]
    by_turn = turns.assign(each=each).pivot(index="turn", columns="forward_passes", values="each")
    rows = [
        {
            "forward passes": str(passes),
            "milliseconds a step": by_turn[passes].median(),
            "lowest": by_turn[passes].min(),
            "highest": by_turn[passes].max(),
            "seconds in all": turns.loc[turns["forward_passes"] == passes, "seconds"].sum(),
        }
        for passes in (1, 2)
    ]
    saved = by_turn[2] - by_turn[1]
    rows.append(
        {
            "forward passes": "saved",
            "milliseconds a step": saved.median(),
            "lowest": saved.min(),
            "highest": saved.max(),
            "seconds in all": rows[1]["seconds in all"] - rows[0]["seconds in all"],
        }
    )
    return pandas.DataFrame(rows)


def _write_page(run: RunFolder, coverages: pandas.DataFrame, timing: pandas.DataFrame | None) -> None:
    plots = run.path / "plots"
    text = f"The generated images cover {100 * coverages['coverage'].iloc[0]:.0f} % of the real test images."
    tables = {"Coverage of the test images (0 to 1)": coverages}
    if timing is not None:
        steps = timing.set_index("forward passes")["milliseconds a step"]
        text += f" A step with one forward pass of the generator took {steps['1']:.2f} ms, with two {steps['2']:.2f} ms"
        text += " (medians over the turns)."
        tables["Time of a step, by forward passes of the generator"] = timing
    write_page(
        run.path / "report.html",
        title="A GAN by a training step that yields",
        introduction=text,
        pictures={
            "Generated images by epoch": plots / "samples.png",
            "Loss of each optimizer": plots / "losses.png",
        },
        tables=tables,
        texts=read_texts(run.path),
    )
