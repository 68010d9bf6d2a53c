"""How far two people agree."""

from __future__ import annotations

from collections.abc import Mapping

from torchloops.annotation.events import Agreement

__all__ = ["agreement_of"]


def agreement_of(pairs: Mapping[str, tuple[str, str]]) -> Agreement:
    """Compare two labels a sample.

    Args:
        pairs: the first and the second label, by sample.

    References:
        Cohen 1960, "A Coefficient of Agreement for Nominal Scales"; computed by scikit-learn.
    """
    differing = tuple((sample, *pair) for sample, pair in pairs.items() if pair[0] != pair[1])
    labels = {label for pair in pairs.values() for label in pair}
    if len(pairs) < 2 or len(labels) < 2:
        return Agreement(len(pairs), None, differing)
    from sklearn.metrics import cohen_kappa_score

    firsts, seconds = zip(*pairs.values(), strict=True)
    return Agreement(len(pairs), float(cohen_kappa_score(firsts, seconds)), differing)
