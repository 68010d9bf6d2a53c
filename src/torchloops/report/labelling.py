"""What a study with people leaves behind: who labelled what, how long it took, and how good the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchloops.report.active_learning import plot_queries
from torchloops.report.folder import RunFolder
from torchloops.report.page import read_texts, write_page
from torchloops.report.plots import plot_accuracy_vs_labels
from torchloops.report.summary import summarise_rounds

if TYPE_CHECKING:
    import pandas

    from torchloops.advanced.active_learning import AnnotatedDataModule

__all__ = ["write_labelling_report"]

_SHOWN = ("round", "n_labelled", "n_pool", "n_queried", "test/accuracy", "seconds_label", "seconds_train")


def write_labelling_report(
    run: RunFolder, rounds: pandas.DataFrame, queries: pandas.DataFrame, data: AnnotatedDataModule
) -> dict[str, Any]:
    """Write ``rounds.csv``, ``queries.csv``, ``summary.json``, the plots and ``report.html``; return the summary.

    Args:
        run: the folder to write to.
        rounds: a row a round, with the columns ``strategy`` and ``seed``.
        queries: a row a label that trains, likewise.
        data: the study's; knows people, pictures and samples that measure.
    """
    import pandas

    run.write_table("rounds.csv", rounds)
    run.write_table("queries.csv", queries)
    people, scored = people_table(data), rounds.dropna(subset=["test/accuracy"])
    summary = (summarise_rounds(scored) if len(scored) else {}) | {"labels": _counts(data)}
    run.write_json("summary.json", summary)
    if len(scored):
        place = (
            "on the test folder" if data.datamodule.test_dataset is not None else "on random questions that never train"
        )
        title = f"Test accuracy against number of labels\n({place})"
        plot_accuracy_vs_labels(scored, run.file("plots", "accuracy_vs_labels.png"), title=title)
    plot_queries(run, queries[queries["round"] >= 0], lambda sample: _image(data, sample), data.classes)
    classes = pandas.DataFrame(
        [{"class": name, "pictures": list(data.store.labels().values()).count(name)} for name in data.store.classes]
    )
    write_page(
        run.path / "report.html",
        title="Labels from people",
        introduction=_introduction(data, scored),
        pictures={
            "Test accuracy against number of labels": run.path / "plots" / "accuracy_vs_labels.png",
            "Samples asked for": run.path / "plots" / "queried_samples.png",
        },
        tables={
            "Rounds (accuracy 0 to 1, times in seconds)": rounds[list(_SHOWN)],
            "Classes": classes,
            "People": people,
        },
        texts=read_texts(run.path),
    )
    return summary


def people_table(data: AnnotatedDataModule) -> pandas.DataFrame:
    """A row an annotator: how many samples they labelled, skipped and flagged, answers taken back, and minutes."""
    import pandas

    rows: dict[str, dict[str, Any]] = {}
    columns = {"label": "labelled", "skip": "skipped", "flag": "flagged"}
    for event in data.store.events():
        row = rows.setdefault(
            event.annotator,
            {"annotator": event.annotator, **dict.fromkeys(columns.values(), 0), "taken back": 0, "minutes": 0.0},
        )
        row["minutes"] += (event.seconds or 0.0) / 60
        row["taken back"] += event.action == "undo"
    for event in data.store.decisions().values():
        rows[event.annotator][columns[event.action]] += 1
    return pandas.DataFrame(list(rows.values()))


def _counts(data: AnnotatedDataModule) -> dict[str, Any]:
    agreement = data.store.agreement()
    return {
        "trained on": data.n_labelled, "measuring": data.n_tests, "in the pool": data.n_pool,
        "minutes of people": data.store.seconds_of_people() / 60,
        "labelled twice": agreement.n, "cohen_kappa": agreement.kappa,
    }  # fmt: skip


def _introduction(data: AnnotatedDataModule, scored: pandas.DataFrame) -> str:
    minutes = data.store.seconds_of_people() / 60
    text = f"{len(data.store.labels())} pictures are labelled; people spent {minutes:.1f} minutes on it."
    if len(scored):
        last = scored.iloc[-1]
        low, high = accuracy_interval(float(last["test/accuracy"]), _n_tests(data))
        text += (
            f" With {int(last['n_labelled'])} of them to learn from, the model is right on "
            f"{last['test/accuracy']:.1%} of {_n_tests(data)} test pictures (95 % interval {low:.1%} to {high:.1%}): "
            f"{_measured_on(data)}."
        )
    agreement = data.store.agreement()
    if agreement.n:
        kappa = "is not defined" if agreement.kappa is None else f"is {agreement.kappa:.2f}"
        text += (
            f" {agreement.n} pictures were labelled by two people, who differ on {len(agreement.disagreements)}; "
            f"Cohen's kappa {kappa}."
        )
    return text


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``count`` independent pictures."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _n_tests(data: AnnotatedDataModule) -> int:
    return data.n_tests or len(data.datamodule.test_dataset)


def _measured_on(data: AnnotatedDataModule) -> str:
    if data.datamodule.test_dataset is not None:
        return f"the test folder's {len(data.datamodule.test_dataset)} pictures"
    return "questions drawn at random from the pool, which never train; they grow from round to round"


def _image(data: AnnotatedDataModule, sample_id: int) -> Any:
    image = data.datamodule.train_dataset_eval[sample_id].float()
    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-9)
    return image.squeeze(0) if len(image) == 1 else image.permute(1, 2, 0)
