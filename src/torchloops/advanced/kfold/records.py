"""Results of folds: as plain data, and as the tables of folds, of scores and of out-of-fold predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FoldResult", "corrected_interval", "folds_table", "inner_tables", "oof_table", "summary_table"]

_COLUMNS = (
    "fold", "repeat", "n_train", "n_test", "epochs", "steps", "seed", "initial_weights", "checkpoint", "optimistic",
    "threads", "seconds",
)  # fmt: skip
_SUMMARY_COLUMNS = ("metric", "mean", "std", "low", "high", "n_folds", "optimistic")


@dataclass
class FoldResult:
    """What a fold leaves behind.

    Args:
        row: its row in the table of folds; names that are no fixed column are metrics.
        sample_ids: held-out samples in the order of the predictions; empty where they are unknown.
        predictions: class or number ``(n_test,)``, or numbers ``(n_test, n_outputs)``; None: not asked for.
        probabilities: ``(n_test, n_classes)``, or None.
        targets: ``(n_test, ...)``, or None.
        kind: how the module's outputs were read; see `Predictions`.
        weights: of the trained module, by name.
        tables: results of the loop inside the fold, a dict of columns each, by name.
    """

    row: dict[str, Any]
    sample_ids: list[int] = field(default_factory=list)
    predictions: Tensor | None = None
    probabilities: Tensor | None = None
    targets: Tensor | None = None
    kind: str | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    @property
    def fold(self) -> int:
        """Index of the fold, from 0."""
        return int(self.row["fold"])

    @property
    def metrics(self) -> dict[str, float]:
        """Values by name, without what describes the fold."""
        return {name: value for name, value in self.row.items() if name not in _COLUMNS}

    def state_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FoldResult:
        """The result that `state_dict` described."""
        return cls(**{entry.name: state[entry.name] for entry in fields(cls)})


def folds_table(results: Iterable[FoldResult]) -> pd.DataFrame:
    """One row a fold; metrics follow the fixed columns in alphabetical order."""
    import pandas as pd

    rows = [result.row for result in sorted(results, key=lambda result: result.fold)]
    metrics = sorted({name for row in rows for name in row} - set(_COLUMNS))
    return pd.DataFrame(rows, columns=[*_COLUMNS, *metrics])


def oof_table(results: Iterable[FoldResult]) -> pd.DataFrame:
    """One row a held-out sample, by repeat and sample id: ``sample_id, fold, target, prediction, prob_0, ...``.

    With several repeats a column ``repeat`` follows ``fold``; targets and predictions of several numbers become
    ``target_0, ...`` and ``prediction_0, ...``.
    """
    import pandas as pd

    ordered = sorted(results, key=lambda result: result.fold)
    several = len({result.row["repeat"] for result in ordered}) > 1
    parts = [_oof_part(result, several) for result in ordered if result.predictions is not None]
    if not parts:
        return pd.DataFrame(columns=["sample_id", "fold", "target", "prediction"])
    table = pd.concat(parts, ignore_index=True)
    keys = ["repeat", "sample_id"] if several else ["sample_id"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def _oof_part(result: FoldResult, with_repeat: bool) -> pd.DataFrame:
    import pandas as pd

    predictions = result.predictions
    assert predictions is not None
    ids: Any = result.sample_ids or pd.array([None] * len(predictions), dtype="Int64")
    columns: dict[str, Any] = {"sample_id": ids, "fold": result.fold}
    if with_repeat:
        columns["repeat"] = result.row["repeat"]
    columns |= _numbered("target", result.targets, len(predictions))
    columns |= _numbered("prediction", predictions, len(predictions))
    if result.probabilities is not None:
        columns |= {f"prob_{k}": column.numpy() for k, column in enumerate(result.probabilities.unbind(1))}
    return pd.DataFrame(columns)


def _numbered(name: str, values: Tensor | None, length: int) -> dict[str, Any]:
    if values is None:
        return {name: [math.nan] * length}
    if values.ndim == 1:
        return {name: values.numpy()}
    return {f"{name}_{k}": column.numpy() for k, column in enumerate(values.flatten(1).unbind(1))}


def summary_table(results: Sequence[FoldResult]) -> pd.DataFrame:
    """One row a metric: mean, standard deviation and corrected 95 % interval over the folds.

    ``std`` is the sample standard deviation (over n - 1) of the folds' values; it is no error of the mean.
    """
    import pandas as pd

    rows = []
    for name in sorted({name for result in results for name in result.metrics}):
        values = [result.metrics[name] for result in results if name in result.metrics]
        shares = [result.row["n_test"] / max(result.row["n_train"], 1) for result in results if name in result.metrics]
        mean, std, low, high = corrected_interval(values, sum(shares) / len(shares))
        doubtful = any(result.row["optimistic"] for result in results if name in result.metrics)
        rows.append((name, mean, std, low, high, len(values), doubtful))
    return pd.DataFrame(rows, columns=list(_SUMMARY_COLUMNS))


def corrected_interval(
    values: Sequence[float], test_over_train: float, level: float = 0.95
) -> tuple[float, float, float, float]:
    """``(mean, std, low, high)`` of scores over folds, after Nadeau and Bengio.

    Folds share training samples, so their scores vary less than those of independent studies; the variance of the
    mean is taken as ``(1 / n + n_test / n_train) * std ** 2`` instead of ``std ** 2 / n``, with Student's t of
    n - 1 degrees of freedom.

    Args:
        values: scores, one a fold.
        test_over_train: held-out samples over training samples, of one fold.
        level: of the interval.

    References:
        Nadeau and Bengio 2003, "Inference for the Generalization Error", Machine Learning 52;
        Bouckaert and Frank 2004, for repeated cross-validation.
    """
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
    mean, n = float(numbers.mean()), len(numbers)
    if n < 2:
        return mean, math.nan, math.nan, math.nan
    from scipy.stats import t

    std = float(numbers.std())
    half = float(t.ppf(0.5 + level / 2, n - 1)) * std * math.sqrt(1 / n + test_over_train)
    return mean, std, mean - half, mean + half


def inner_tables(results: Iterable[FoldResult]) -> dict[str, pd.DataFrame]:
    """Tables of the loops inside the folds, joined by name, with the fold as their first column."""
    import pandas as pd

    ordered = sorted(results, key=lambda result: result.fold)
    names = list(dict.fromkeys(name for result in ordered for name in result.tables))
    return {
        name: pd.concat(
            [pd.DataFrame({"fold": result.fold, **result.tables[name]}) for result in ordered if name in result.tables],
            ignore_index=True,
        )
        for name in names
    }
