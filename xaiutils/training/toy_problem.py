"""The thesis' optimiser on a problem that anything should solve: two Gaussians in 768 dimensions.

A step of the `thesis` recipe is at most rate * clip / (1 - momentum) = 1e-5 long for each variable, however wrong the
model is. The decay, which TF-Addons does not multiply by the rate, takes 1e-4 of each weight off: 2e-3 of length from
a fresh 768 x 256 kernel, two hundred times more. So the weights do little but shrink, and what accuracy comes is that
of a small gradient, added up over thousands of steps, showing through random weights that fade.

The clip alone is at fault: without it the same decay does no harm, and with it a decay in the modern sense is slower
still, as the random weights then stay.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from xaiutils.backend import keras, tf
from xaiutils.progress import progress
from xaiutils.training.loop import compiled
from xaiutils.training.losses import make_loss
from xaiutils.training.optimisation import make_optimizer, make_schedule
from xaiutils.training.recipe import Recipe
from xaiutils.training.recipes import RECIPES

BAYES = 0.99  # the best accuracy that any classifier can have on the toy
_DIMENSIONS, _UNITS = 768, 256  # ViT-Base's features, the head's hidden layer


def toy_recipes() -> tuple[Recipe, Recipe, Recipe]:
    """The thesis' recipe, the same without the clip, and the corrected one."""
    thesis = RECIPES["thesis"]
    return thesis, replace(thesis, name="thesis without the clip", clip=0.0), RECIPES["thesis_corrected"]


def toy_optimisers(
    seed: int = 0,
    n_steps: int = 10_000,
    every: int = 1000,
    recipes: Sequence[str | Recipe] | None = None,
    n_train: int = 8192,
    n_test: int = 4096,
) -> pd.DataFrame:
    """Accuracy by step of the thesis' head under its optimiser, and under others.

    The data stand for the features of a frozen ViT-Base: two classes, Gaussians of unit variance in 768 dimensions,
    so far apart that the best possible accuracy is 0.99. The head is the thesis': dropout 0.2, 256 units with GELU,
    two logits. Batches of 64. Of a recipe only the optimiser, the clip, the schedule, the loss and dropout matter;
    its cosine, if it has one, spans ``n_steps``.

    Args:
        seed: of the data, the initial weights and the batches; the recipes share all three.
        n_steps: at least 1; after 10,000 the thesis' optimiser is at about 0.6.
        every: steps between two measurements, at least 1.
        recipes: names or recipes; by default those of `toy_recipes`.
        n_train, n_test: images (points), at least 64 and 1.

    Returns:
        Columns recipe, step, accuracy (of the test points), weight_norm (L2, of the first kernel); a row for step 0
        and each measurement.
    """
    if n_steps < 1 or every < 1 or n_train < 64 or n_test < 1:
        raise ValueError(
            f"n_steps={n_steps}, every={every}, n_test={n_test} must be at least 1 and n_train={n_train} at least 64."
        )
    chosen = toy_recipes() if recipes is None else [RECIPES[r] if isinstance(r, str) else r for r in recipes]
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=_DIMENSIONS)
    direction *= norm.ppf(BAYES) / np.linalg.norm(direction)
    (x, y), (test_x, test_y) = (_points(n, direction, rng) for n in (n_train, n_test))
    order = np.concatenate(
        [rng.permutation(n_train)[: n_train // 64 * 64] for _ in range(-(-n_steps * 64 // n_train) + 1)]
    )
    batches = order[: n_steps * 64].reshape(n_steps, 64)
    rows = []
    for recipe in progress(chosen, title="recipes"):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((_DIMENSIONS,))
        hidden = keras.layers.Dense(_UNITS, activation="gelu")(inputs)
        head = keras.Model(inputs, keras.layers.Dense(2)(hidden))
        optimizer = make_optimizer(recipe, make_schedule(recipe, n_steps))
        loss = make_loss(recipe, y, 2)
        step, forward = compiled(None, head, head.trainable_variables, loss, optimizer, recipe, seed)

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.int64)], autograph=False)
        def run(chosen, step=step):  # many steps in one call
            def one(i):
                step(tf.gather(x, chosen[i]), tf.gather(y, chosen[i]))
                return [i + 1]

            tf.while_loop(lambda i: i < tf.shape(chosen)[0], one, [0], parallel_iterations=1)

        done = 0
        for mark in [*range(0, n_steps, every), n_steps]:
            run(batches[done:mark])
            done = mark
            accuracy = float((forward(test_x).numpy().argmax(axis=1) == test_y).mean())
            weight_norm = float(np.linalg.norm(head.trainable_variables[0].numpy()))
            rows.append({"recipe": recipe.name, "step": mark, "accuracy": accuracy, "weight_norm": weight_norm})
    return pd.DataFrame(rows)


def _points(n: int, direction: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, n)
    return (rng.normal(size=(n, len(direction))) + np.outer(2 * labels - 1, direction)).astype(np.float32), labels
