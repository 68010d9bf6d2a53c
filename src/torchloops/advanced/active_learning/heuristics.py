"""What to ask next: scores of uncertainty, one number a sample, high means ask first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BALD", "Certainty", "Entropy", "Heuristic", "Margin", "MeanStd", "Random", "Variance"]

_CHUNK_ELEMENTS = 131_072  # BALD over larger blocks leaves the cache: measured 4 to 8 times slower


class Heuristic:
    """Base of all heuristics: say how to turn predictions into one score a sample.

    The contract is baal's (``get_ranks``, ``get_uncertainties``, ``compute_score``), so that an object of
    either library works in the other, with two promises more: predictions are probabilities, and a **high
    score means ask first**, whatever the formula's usual direction.

    Predictions have the shape ``(n_samples, n_classes, ..., n_draws)``: probabilities over dimension 1, one
    draw of the model's dropout masks a place in the last dimension (1 for a model without randomness). Where
    dimensions stand between (pixels, say) their scores are averaged.

    Class attributes:
        needs_draws: the score measures how draws differ; a model that gives the same answer on every draw is
            an error.
        needs_predictions: False: the model is not asked at all.
        scores_numbers: it can score numbers ``(n_samples, n_outputs, n_draws)`` of a regression too.
        streams: scores of a batch do not depend on the other samples, so the pool is scored batch by batch
            and predictions are never kept.
    """

    needs_draws = False
    needs_predictions = True
    scores_numbers = False
    streams = True
    reversed = True  # baal's name for "a high score is asked first"

    @property
    def name(self) -> str:
        """How the heuristic is called in tables and messages."""
        return type(self).__name__

    def compute_score(self, probabilities: Tensor) -> Tensor:
        """Scores ``(n_samples, ...)`` of probabilities ``(n_samples, n_classes, ..., n_draws)``."""
        raise NotImplementedError(f"{self.name} must define compute_score(probabilities).")

    def score(self, probabilities: Tensor) -> Tensor:
        """One score a sample, ``(n_samples,)``, chunk by chunk; dimensions between are averaged."""
        rows = max(1, _CHUNK_ELEMENTS // max(probabilities[0].numel(), 1)) if len(probabilities) else 1
        chunks = probabilities.split(rows) if self.streams else (probabilities,)
        scores = torch.cat([self.compute_score(chunk) for chunk in chunks])
        return scores.flatten(1).mean(1) if scores.ndim > 1 else scores

    def get_uncertainties(self, predictions: Any) -> np.ndarray:
        """Scores as a numpy array of shape ``(n_samples,)``."""
        return self.score(torch.as_tensor(predictions)).cpu().numpy()

    def get_ranks(self, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
        """``(ranks, scores)``: positions to ask, best first (ties in order), and every sample's score."""
        scores = self.get_uncertainties(predictions)
        return np.argsort(-scores, kind="stable"), scores

    def __repr__(self) -> str:
        return f"{self.name}()"


class BALD(Heuristic):
    """Mutual information between a sample's label and the weights, in nats: what the draws disagree about.

        entropy(mean over draws of p) - mean over draws of entropy(p)

    High where every draw is sure and they differ; zero where all are equally unsure. Needs draws.

    References:
        Houlsby et al. 2011, arXiv 1112.5745; Gal, Islam, Ghahramani 2017, arXiv 1703.02910.
    """

    needs_draws = True

    def compute_score(self, probabilities: Tensor) -> Tensor:
        expected_entropy = _entropy(probabilities).mean(-1)
        return (_entropy(probabilities.mean(-1)) - expected_entropy).clamp_min(0)


class Entropy(Heuristic):
    """Entropy of the mean probabilities, in nats: 0 (sure) to log(n_classes).

    One draw is enough; with dropout it is Gal's "max entropy".

    References:
        Shannon 1948; Settles 2009, "Active Learning Literature Survey", section 3.1.
    """

    def compute_score(self, probabilities: Tensor) -> Tensor:
        return _entropy(probabilities.mean(-1))


class Margin(Heuristic):
    """How little the second class lacks to the first: 1 - (p_first - p_second), 0 (sure) to 1.

    The usual margin is small where the model is unsure; the difference to 1 makes high mean "ask first". One
    draw is enough.

    References:
        Scheffer, Decomain, Wrobel 2001, "Active Hidden Markov Models for Information Extraction".
    """

    def compute_score(self, probabilities: Tensor) -> Tensor:
        first, second = probabilities.mean(-1).topk(2, dim=1).values.unbind(1)
        return 1 - (first - second)


class Certainty(Heuristic):
    """Least confidence: 1 - probability of the most likely class, 0 (sure) to 1 - 1/n_classes.

    Also called least confident, and variation ratio in Gal et al. 2017. One draw is enough.

    References:
        Lewis, Gale 1994, arXiv cmp-lg/9407020.
    """

    def compute_score(self, probabilities: Tensor) -> Tensor:
        return 1 - probabilities.mean(-1).amax(1)


class Variance(Heuristic):
    """Variance of the probabilities over draws (divided by n_draws), mean over classes. Needs draws.

    References:
        baal's ``Variance``.
    """

    needs_draws = True
    scores_numbers = True

    def compute_score(self, probabilities: Tensor) -> Tensor:
        return probabilities.var(-1, correction=0).mean(1)


class MeanStd(Heuristic):
    """Standard deviation of the probabilities over draws (divided by n_draws), mean over classes. Needs
    draws.

    References:
        Kampffmeyer, Salberg, Jenssen 2016; Kendall et al. 2015; "mean STD" in Gal et al. 2017.
    """

    needs_draws = True
    scores_numbers = True

    def compute_score(self, probabilities: Tensor) -> Tensor:
        return probabilities.std(-1, correction=0).mean(1)


class Random(Heuristic):
    """A random number a sample: the baseline every other heuristic has to beat.

    The model is not asked. Within active learning the numbers depend on the data module's seed and the round
    only; called by hand they come from torch's global generator.
    """

    needs_predictions = False

    def compute_score(self, probabilities: Tensor) -> Tensor:
        return torch.rand(len(probabilities))


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(1)


HEURISTICS: dict[str, Callable[[], Heuristic]] = {
    "bald": BALD,
    "certainty": Certainty,
    "entropy": Entropy,
    "least_confidence": Certainty,
    "margin": Margin,
    "mean_std": MeanStd,
    "random": Random,
    "variance": Variance,
}
