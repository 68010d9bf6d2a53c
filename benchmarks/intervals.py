"""How often the intervals of a cross-validated accuracy hold the true one, and how wide they are.

Data of a known kind are drawn again and again; a logistic regression is cross-validated on each; the truth is the
accuracy of the folds' models on 20,000 further samples, averaged. Usage: python benchmarks/intervals.py [repeats]
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from torchloops.advanced.kfold.records import corrected_interval, per_sample_interval


def draw(rng, n_samples, noise):
    """Samples ``(n, 10)`` of two classes, their label turned with probability ``noise``."""
    inputs = rng.normal(size=(n_samples, 10))
    labels = inputs[:, :3].sum(axis=1) + rng.normal(size=n_samples) > 0
    return inputs, np.where(rng.random(n_samples) < noise, ~labels, labels).astype(int)


def intervals(rng, n_samples, folds, noise):
    """The truth, and ``(low, high)`` by name."""
    inputs, labels = draw(rng, n_samples, noise)
    other_inputs, other_labels = draw(rng, 20_000, noise)
    right, truth = [], []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(inputs, labels):
        model = LogisticRegression().fit(inputs[train], labels[train])
        right.append((model.predict(inputs[test]) == labels[test]).astype(float))
        truth.append(model.score(other_inputs, other_labels))
    scores = [float(each.mean()) for each in right]
    mean, std, low, high = corrected_interval(scores, 1 / (folds - 1), is_share=True)
    return float(np.mean(truth)), {
        "over folds (Nadeau and Bengio)": (low, high),
        "over samples (Bayle et al.)": per_sample_interval(right, is_share=True),
        "mean +- std": (mean - std, mean + std),
    }


def main(repeats=400):
    print(f"{'samples':>8} {'folds':>6}  {'interval':32} {'coverage':>9} {'width':>7}")
    for n_samples, folds, noise in ((100, 5, 0.1), (400, 5, 0.1), (400, 10, 0.1), (400, 5, 0.3)):
        rng = np.random.default_rng(0)
        found = [intervals(rng, n_samples, folds, noise) for _ in range(repeats)]
        for name in found[0][1]:
            pairs = [(truth, *named[name]) for truth, named in found]
            coverage = np.mean([low <= truth <= high for truth, low, high in pairs])
            width = np.mean([high - low for _, low, high in pairs])
            print(f"{n_samples:8} {folds:6}  {name:32} {coverage:9.3f} {width:7.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
