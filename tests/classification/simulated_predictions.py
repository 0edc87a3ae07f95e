"""Predictions of classifiers that the tests share."""

from itertools import product

import numpy as np
from scipy import special

from xaiutils.classification import Predictions

TWO = ("benign", "malignant")
THESIS = {
    "INbreast ViT": ([[62, 0], [25, 1]], (0.716, 0.614, 0.800), (0.038, 0.007, 0.189), 0.519, 0.17),
    "INbreast EfficientNet": ([[57, 5], [23, 3]], (0.682, 0.579, 0.770), (0.115, 0.040, 0.290), 0.517, 0.055),
    "CBIS ViT": ([[361, 25], [236, 29]], (0.599, 0.561, 0.636), (0.109, 0.077, 0.153), 0.522, 0.08),
    "CBIS EfficientNet": ([[298, 88], [138, 127]], (0.653, 0.615, 0.688), (0.479, 0.420, 0.539), 0.626, 0.26),
}


def as_confusion(confusion, names=TWO, sure=0.9, **more):
    """Predictions with this confusion matrix, every answer given with the same probability."""
    k, labels, p = len(names), [], []
    for i, j in product(range(k), range(k)):
        labels += [i] * confusion[i][j]
        p += [np.where(np.arange(k) == j, sure, (1 - sure) / (k - 1))] * confusion[i][j]
    return Predictions(np.array(labels), np.array(p), names, **more)


def simulated(n, k=2, skill=1.0, seed=0, names=None, **more):
    """Labels by even chance, and softmax probabilities of noisy scores: calibrated for skill 1 and two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += skill
    return Predictions(labels, special.softmax(logits, axis=1), names or tuple("abcdefghij"[:k]), **more)


def scored(seed, n=40, levels=8):
    """Labels of both kinds and scores with ties."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:2] = [True, False]
    return positive, rng.integers(0, levels, n) / levels
