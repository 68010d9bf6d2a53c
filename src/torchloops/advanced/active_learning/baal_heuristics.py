"""baal's heuristic objects behind our contract: a score a sample id, high means ask first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloops.advanced.active_learning.baal_import import import_baal
from torchloops.advanced.active_learning.heuristics import BALD, HEURISTICS, Heuristic, Random
from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["BaalHeuristic", "resolve_heuristic"]

# names that stand for an object of baal; the number is what it is asked to select at once
_BAAL_NAMES = {"batch_bald": "BatchBALD", "power_bald": "PowerBALD", "power_entropy": "PowerEntropy"}
_ELEMENTWISE = {"BALD", "Entropy", "Margin", "Certainty", "Variance"}
_NEED_DRAWS = {"BALD", "BatchBALD", "Variance"}
_BOUNDED_CERTAINTY = {"Margin", "Certainty"}


def resolve_heuristic(heuristic: Any, query_size: int = 1) -> Heuristic:
    """Return the heuristic that a user asked for by name or by object.

    Args:
        heuristic: None (BALD), a name, one of our heuristics, or an object with baal's ``get_ranks``.
        query_size: samples asked in one query; baal's batch heuristics by name are built for it.

    Raises:
        ConfigurationError: no heuristic has that name, or the object has no ``get_ranks``.
        MissingDependencyError: the name is one of baal's batch heuristics, and baal is not installed.
    """
    if heuristic is None:
        return BALD()
    if isinstance(heuristic, str):
        return _by_name(heuristic, query_size)
    if isinstance(heuristic, Heuristic):
        return heuristic
    if isinstance(heuristic, type):
        raise ConfigurationError(
            f"heuristic expects an object, got the class {heuristic.__name__}. Give {heuristic.__name__}()."
        )
    if not callable(getattr(heuristic, "get_ranks", None)):
        raise ConfigurationError(
            "heuristic expects a name, a Heuristic or an object with get_ranks(predictions) -> (ranks, "
            f"scores), got {heuristic!r}."
        )
    bases = _baal_bases(heuristic)
    if "EPIG" in bases:
        raise ConfigurationError(
            "EPIG needs predictions on a set of target inputs, which this loop does not make. Use "
            'heuristic="bald" instead.'
        )
    return Random() if "Random" in bases else BaalHeuristic(heuristic)


def _by_name(name: str, query_size: int) -> Heuristic:
    plain = {known.replace("_", ""): known for known in (*HEURISTICS, *_BAAL_NAMES)}
    known = plain.get(name.lower().replace("_", "").replace("-", "").replace(" ", ""))
    if known is None:
        names = [*HEURISTICS, *_BAAL_NAMES]
        raise ConfigurationError(
            f"There is no heuristic {name!r}; there are {', '.join(sorted(names))}." + did_you_mean(name, names)
        )
    if known in HEURISTICS:
        return HEURISTICS[known]()
    folder = "heuristics" if known == "batch_bald" else "heuristics.aliases"
    module = import_baal(folder, f"The heuristic {known!r}")
    return BaalHeuristic(getattr(module, _BAAL_NAMES[known])(query_size))


class BaalHeuristic(Heuristic):
    """An object with baal's contract, with its known faults put right.

    - ``Margin``, ``Certainty`` and others with ``reversed = False`` are turned round.
    - Stochastic heuristics (``PowerSampling``, ``GibbsSampling``, ``RankBasedSampling``) keep their
      distribution, but draw from the seeded generator and for any query size: log probability plus Gumbel
      noise, whose largest k are a draw of k without replacement (Kool, van Hoof, Welling 2019, arXiv
      1903.06059). Over ``Margin`` or ``Certainty`` they use 1 - value, so that they favour the unsure.
    - ``BatchBALD``: the chosen samples come first, in the order in which they were chosen, the first
      included.
    - ``CombineHeuristics``: every part gets the model's only output.
    - Any other object: its ``get_ranks`` decides; the score is the negative rank where it has no scores.

    Objects whose scores may depend on the other samples see the whole pool at once as float32
    ``(n_pool, n_classes, ..., n_draws)``: mind the memory. ``shuffle_prop`` (deprecated in baal) is not
    heeded.

    Args:
        heuristic: the object.
    """

    def __init__(self, heuristic: Any) -> None:
        self.heuristic = heuristic
        self.kind = _kind_of(heuristic)
        self.needs_draws = bool(_NEED_DRAWS & _baal_bases(_innermost(heuristic)))
        self.scores_numbers = self.kind == "other" or "Variance" in _baal_bases(_innermost(heuristic))
        self.streams = type(heuristic).__name__ in _ELEMENTWISE and _is_baal(type(heuristic))

    @property
    def name(self) -> str:
        return type(self.heuristic).__name__

    def score(self, probabilities: Tensor) -> Tensor:
        predictions = probabilities.float().cpu().numpy()
        scores = np.asarray(_SCORERS[self.kind](self.heuristic, predictions), dtype=np.float64)
        if scores.shape != (len(predictions),):
            raise ConfigurationError(
                f"{self.name} gave scores of shape {scores.shape}; expected one a sample, "
                f"({len(predictions)},). "
                f'Give it a reduction: {self.name}(reduction="mean").'
            )
        return torch.from_numpy(scores)

    compute_score = score


def _baal_bases(heuristic: Any) -> set[str]:
    return {cls.__name__ for cls in type(heuristic).__mro__ if _is_baal(cls)}


def _is_baal(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "baal"


def _innermost(heuristic: Any) -> Any:
    while "StochasticHeuristic" in _baal_bases(heuristic):
        heuristic = heuristic._bh
    return heuristic


def _kind_of(heuristic: Any) -> str:
    bases = _baal_bases(heuristic)
    for base in ("BatchBALD", "CombineHeuristics", "StochasticHeuristic", "AbstractHeuristic"):
        if base in bases:
            return base
    return "other"


def _plain_scores(heuristic: Any, predictions: np.ndarray) -> np.ndarray:
    scores = np.asarray(heuristic.get_uncertainties(predictions))
    return scores if heuristic.reversed else -scores


def _combined_scores(heuristic: Any, predictions: np.ndarray) -> np.ndarray:
    parts = heuristic.get_uncertainties([predictions] * len(heuristic.composed_heuristic))
    weights = np.asarray(heuristic.weights, dtype=float)
    weighted = [weight * part for weight, part in zip(weights / weights.sum(), parts, strict=True)]
    scores = heuristic.reduction(np.swapaxes(np.vstack(weighted), 0, -1))
    return scores if heuristic.reversed else -scores


def _sampled_scores(heuristic: Any, predictions: np.ndarray) -> np.ndarray:
    base = heuristic._bh
    kind = _kind_of(base)
    if _BOUNDED_CERTAINTY & _baal_bases(base):
        scores = 1 - np.asarray(base.get_uncertainties(predictions), dtype=np.float64)
    else:
        scores = np.asarray(_SCORERS[kind](base, predictions), dtype=np.float64)
    if "PowerSampling" in _baal_bases(heuristic):
        scores = np.clip(scores, 0, None)
        if not scores.any():
            scores = np.ones_like(scores)
    shares = np.clip(np.asarray(heuristic._make_distribution(scores.copy()), dtype=np.float64), 1e-300, None)
    noise = -np.log(-np.log(np.random.uniform(1e-300, 1, len(shares))))
    return np.log(shares) + noise


def _batch_bald_scores(heuristic: Any, predictions: np.ndarray) -> np.ndarray:
    bald = BALD().get_uncertainties(predictions).astype(np.float64)
    if len(predictions) <= heuristic.num_samples + 1:  # all are chosen; baal would choose some twice
        return bald
    values = np.asarray(heuristic.get_uncertainties(predictions), dtype=np.float64)
    # baal gives unchosen samples 0 and each chosen one the joint score of its step; those rise with the steps
    chosen = [int(i) for i in np.flatnonzero(values)]
    chosen.sort(key=lambda i: (i != int(bald.argmax()), values[i]))
    scores = bald / (1 + bald.max())
    scores[chosen] = 1 + np.arange(len(chosen), 0, -1)
    return scores


def _ranked_scores(heuristic: Any, predictions: np.ndarray) -> np.ndarray:
    ranks = np.asarray(heuristic.get_ranks(predictions)[0])
    scores = np.full(len(predictions), -float(len(predictions)))
    scores[ranks] = -np.arange(len(ranks), dtype=np.float64)
    return scores


_SCORERS: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "AbstractHeuristic": _plain_scores,
    "BatchBALD": _batch_bald_scores,
    "CombineHeuristics": _combined_scores,
    "StochasticHeuristic": _sampled_scores,
    "other": _ranked_scores,
}
