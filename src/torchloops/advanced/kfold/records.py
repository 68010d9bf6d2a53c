"""Results of folds: as plain data, and as the tables of folds, of scores and of out-of-fold predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloops.advanced.kfold.left_behind import LEFT_BEHIND, LeftBehind
from torchloops.advanced.kfold.weights import load_weights
from torchloops.schema import COUNT, Either, check

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RESULT", "FoldResult", "corrected_interval", "folds_table", "inner_tables", "oof_table", "per_sample_interval",
    "per_sample_values", "summary_table",
]  # fmt: skip

_COLUMNS = (
    "fold", "repeat", "n_train", "n_test", "epochs", "steps", "seed", "initial_weights", "checkpoint", "outputs",
    "optimistic", "threads", "seconds",
)  # fmt: skip
_SUMMARY_COLUMNS = ("metric", "mean", "std", "nb_low", "nb_high", "oof_low", "oof_high", "n_folds", "optimistic")
_NOT_NEGATIVE = ("oof/log_loss", "oof/mse", "oof/mae")
_SHARES = {"accuracy", "acc", "auroc", "auc", "f1", "f1_score", "precision", "recall", "iou", "jaccard", "dice", "top5"}


_OPTIONAL = Either(Tensor, None)
RESULT = {
    "row": {"fold": COUNT, "repeat": COUNT, "n_train": COUNT, "n_test": COUNT, "epochs": COUNT, "steps": COUNT},
    "sample_ids": [COUNT], "predictions?": _OPTIONAL, "probabilities?": _OPTIONAL, "targets?": _OPTIONAL,
    "answers?": _OPTIONAL, "kind?": str | None, "classes?": Either([str], None), "last?": str | None,
    "weights?": {str: Any}, "weights_hash?": str, "left?": Either(LEFT_BEHIND, None), "tables?": {str: {str: list}},
}  # fmt: skip
"""What `FoldResult.state_dict` returns; see `torchloops.schema`."""


@dataclass
class FoldResult:
    """What a fold leaves behind.

    Args:
        row: its row in the table of folds; names that are no fixed column are metrics.
        sample_ids: held-out samples in the order of the predictions; empty where they are unknown.
        predictions: class or number ``(n_test,)``, or numbers ``(n_test, n_outputs)``; None: not asked for.
        probabilities: ``(n_test, n_classes)``, or None.
        targets: ``(n_test, ...)``, or None.
        kind: how the module's answers were read; see `Meaning`.
        classes: names of the classes, where labels are names.
        answers: of the module to the held-out part, until they are read; see `collect_answers`.
        labels: of the held-out part, until they are read: a tensor or a list of names.
        last: the model's last operation; see `last_operation`.
        weights: of the trained module, by name.
        left: what the fold has left in the module beside its weights.
        tables: results of the loop inside the fold, a dict of columns each, by name.
    """

    row: dict[str, Any]
    sample_ids: list[int] = field(default_factory=list)
    predictions: Tensor | None = None
    probabilities: Tensor | None = None
    targets: Tensor | None = None
    kind: str | None = None
    classes: list[str] | None = None
    answers: Tensor | None = None
    labels: Any = None
    last: str | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    left: LeftBehind = field(default_factory=LeftBehind)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    @property
    def fold(self) -> int:
        """Index of the fold, from 0."""
        return int(self.row["fold"])

    @property
    def metrics(self) -> dict[str, float]:
        """Values by name, without what describes the fold."""
        return {name: value for name, value in self.row.items() if name not in _COLUMNS}

    def per_sample_values(self) -> dict[str, np.ndarray]:
        """What its scores ``oof/...`` are means of; see `per_sample_values`."""
        if self.predictions is None or self.targets is None:
            return {}
        return per_sample_values(self.predictions, self.probabilities, self.targets, self.kind != "numbers")

    def state_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {**{entry.name: getattr(self, entry.name) for entry in fields(self)}, "left": self.left.state_dict()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FoldResult:
        """The result that `state_dict` described.

        Raises:
            DamagedCheckpointError: it is none.
        """
        check(state, RESULT, "The result of a fold: result")
        known = {entry.name: state[entry.name] for entry in fields(cls) if entry.name in state}
        return cls(**{**known, "left": LeftBehind(state.get("left"))})

    def put_into(self, module: nn.Module) -> None:
        """Make ``module`` the trained one."""
        load_weights(module, self.weights)
        self.left.put_into(module)


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
    columns |= _numbered("target", result.targets, len(predictions), result.classes)
    columns |= _numbered("prediction", predictions, len(predictions), result.classes)
    if result.probabilities is not None:
        columns |= {f"prob_{k}": column.numpy() for k, column in enumerate(result.probabilities.unbind(1))}
    return pd.DataFrame(columns)


def _numbered(name: str, values: Tensor | None, length: int, classes: list[str] | None) -> dict[str, Any]:
    if values is None:
        return {name: [math.nan] * length}
    if values.ndim == 1:
        return {name: values.numpy() if classes is None else [classes[index] for index in values.tolist()]}
    return {f"{name}_{k}": column.numpy() for k, column in enumerate(values.flatten(1).unbind(1))}


def summary_table(results: Sequence[FoldResult]) -> pd.DataFrame:
    """One row a metric: mean, standard deviation, and 95 % intervals of the mean.

    ``std`` is the sample standard deviation (over n - 1) of the folds' values; it is no error of the mean. ``nb_low``
    and ``nb_high`` are Nadeau and Bengio's interval over folds; ``oof_low`` and ``oof_high`` the per-sample interval of
    Bayle et al., which is narrower, for scores ``oof/...`` that are computed from out-of-fold predictions.
    """
    import pandas as pd

    rows = []
    for name in sorted({name for result in results for name in result.metrics}):
        known = [result for result in results if name in result.metrics]
        rows.append(_summary_row(name, known, [result.metrics[name] for result in known]))
    return pd.DataFrame(rows, columns=list(_SUMMARY_COLUMNS))


def _summary_row(name: str, results: Sequence[FoldResult], values: Sequence[float]) -> dict[str, Any]:
    shares = [result.row["n_test"] / max(result.row["n_train"], 1) for result in results]
    mean, std, low, high = corrected_interval(values, sum(shares) / len(shares), is_share=_is_share(name))
    each = [result.per_sample_values() for result in results] if name.startswith("oof/") else []
    samples = [values[name.removeprefix("oof/")] for values in each if name.removeprefix("oof/") in values]
    repeats = len({result.row["repeat"] for result in results})
    oof_low, oof_high = per_sample_interval(samples, _is_share(name), repeats) if samples else (math.nan, math.nan)
    if name in _NOT_NEGATIVE:
        low, oof_low = max(low, 0.0), max(oof_low, 0.0)
    return {
        "metric": name, "mean": mean, "std": std, "nb_low": low, "nb_high": high, "oof_low": oof_low,
        "oof_high": oof_high, "n_folds": len(values), "optimistic": any(result.row["optimistic"] for result in results),
    }  # fmt: skip


def _is_share(name: str) -> bool:
    """Whether a metric of this name lies in 0 to 1."""
    return bool(_SHARES & set(re.split(r"[/_. -]", name.lower())))


def per_sample_values(
    predicted: Tensor, probabilities: Tensor | None, targets: Tensor, are_classes: bool
) -> dict[str, np.ndarray]:
    """What scores are means of, a value a sample ``(n_samples,)``: accuracy and log_loss, or mse and mae.

    Of several labels the values of a sample are means over its labels. Empty where answers and labels do not have one
    shape.
    """
    if not are_classes:
        if predicted.shape != targets.shape or targets.dtype.is_complex:
            return {}
        difference = (predicted.double() - targets.double()).reshape(len(targets), -1)
        return {"mse": difference.square().mean(1).numpy(), "mae": difference.abs().mean(1).numpy()}
    if predicted.shape != targets.shape:
        return {}
    found = {"accuracy": (predicted == targets).double().reshape(len(targets), -1).mean(1).numpy()}
    if probabilities is not None:
        least = torch.finfo(probabilities.dtype).tiny
        if targets.ndim == 1:
            chosen = probabilities.gather(1, targets.long()[:, None])
        else:
            chosen = torch.where(targets.bool(), probabilities, 1 - probabilities)
        found["log_loss"] = -chosen.clamp_min(least).double().log().mean(1).numpy()
    return found


def per_sample_interval(
    values: Sequence[np.ndarray], is_share: bool = False, repeats: int = 1, level: float = 0.95
) -> tuple[float, float]:
    """``(low, high)`` of the mean over all held-out samples, after Bayle et al.

    The scores of samples that one model predicts differ by ``sigma ** 2``, the mean over folds of the variance within a
    fold; the mean of n of them by ``sigma ** 2 / n``. Measured coverage is 0.87 to 0.95 at half the width of the
    interval over folds (0.96 to 0.98).

    Args:
        values: a value a held-out sample, an array a fold.
        is_share: they lie in 0 to 1, and so does the interval.
        repeats: of the cross-validation; a sample that is held out again is no further sample.
        level: of the interval.

    References:
        Bayle, Bayle, Janson, Mackey 2020, "Cross-validation Confidence Intervals for Test Error", arXiv 2007.12671.
    """
    from scipy.stats import norm

    joined = np.concatenate(values)
    if min(len(each) for each in values) < 2:
        return math.nan, math.nan
    variance = float(np.mean([each.var(ddof=1) for each in values]))
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt(variance * repeats / len(joined))
    return _bounded(float(joined.mean()), half, is_share)


def _bounded(mean: float, half: float, is_share: bool) -> tuple[float, float]:
    low, high = mean - half, mean + half
    return (max(low, 0.0), min(high, 1.0)) if is_share and 0 <= mean <= 1 else (low, high)


def corrected_interval(
    values: Sequence[float], test_over_train: float, level: float = 0.95, is_share: bool = False
) -> tuple[float, float, float, float]:
    """``(mean, std, low, high)`` of scores over folds, after Nadeau and Bengio.

    Folds share training samples, so their scores vary less than those of independent studies; the variance of the
    mean is taken as ``(1 / n + n_test / n_train) * std ** 2`` instead of ``std ** 2 / n``, with Student's t of
    n - 1 degrees of freedom.

    Args:
        values: scores, one a fold.
        test_over_train: held-out samples over training samples, of one fold.
        level: of the interval.
        is_share: they lie in 0 to 1, and so does the interval.

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
    return mean, std, *_bounded(mean, half, is_share)


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
