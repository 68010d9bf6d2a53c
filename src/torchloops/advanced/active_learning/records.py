"""Rounds and queries as rows, and as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torchloops.advanced.active_learning.labelled_map import LabelRecord
from torchloops.advanced.active_learning.querying import Query

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["new_round", "note_query", "queries_table", "rounds_table"]

_ROUND_COLUMNS = (
    "round", "n_labelled", "n_pool", "n_queried", "epochs", "train/loss", "test/accuracy", "outputs", "score_mean",
    "score_std", "seconds_train", "seconds_query", "seconds_label",
)  # fmt: skip
_QUERY_COLUMNS = ("round", "rank", "sample_id", "score", "prediction", "label", "annotator", "seconds")
_NAN = float("nan")


def new_round(
    index: int, n_labelled: int, n_pool: int, epochs: int, seconds: float, metrics: dict[str, float]
) -> dict[str, Any]:
    """The row of a round that was trained and has asked nothing yet."""
    row: dict[str, Any] = dict.fromkeys(_ROUND_COLUMNS, _NAN)
    row |= {"round": index, "n_labelled": n_labelled, "n_pool": n_pool, "n_queried": 0, "epochs": epochs}
    row |= {"seconds_train": seconds, "seconds_query": 0.0, "seconds_label": 0.0}
    row["outputs"] = None
    return row | {name: float(value) for name, value in metrics.items()}


def note_query(row: dict[str, Any], query: Query, n_labelled: int, seconds_label: float) -> None:
    """Add to a round's row what was asked at its end, and how many labels came of it."""
    row["n_queried"] = n_labelled
    row["score_mean"], row["score_std"] = query.score_mean, query.score_std
    row["seconds_query"], row["seconds_label"] = query.seconds, seconds_label


def rounds_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a round; metrics that are no fixed column follow in alphabetical order."""
    import pandas as pd

    rows = list(rows)
    others = sorted({name for row in rows for name in row} - set(_ROUND_COLUMNS))
    return pd.DataFrame(rows, columns=[*_ROUND_COLUMNS, *others])


def queries_table(records: Iterable[LabelRecord]) -> pd.DataFrame:
    """One row a label, in the order in which they were given; initial labels have round -1."""
    import pandas as pd

    rows = [(r.round, r.rank, r.sample_id, r.score, r.prediction, r.label, r.source, r.seconds) for r in records]
    table = pd.DataFrame(rows, columns=list(_QUERY_COLUMNS))
    whole = {name: "Int64" for name in ("prediction", "label") if _are_whole(table[name])}  # with gaps
    return table.astype({"score": "float64", "seconds": "float64", **whole})


def _are_whole(values: Iterable[Any]) -> bool:
    known = [value for value in values if value is not None and value == value]
    return all(isinstance(value, int | float) and float(value).is_integer() for value in known)
