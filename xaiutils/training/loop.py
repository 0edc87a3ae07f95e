"""The training loop: one compiled step, validation after each epoch, early stopping, and a state to resume from."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.backend import keras, tf
from xaiutils.progress import progress
from xaiutils.training.augmentation import augment
from xaiutils.training.losses import epoch_order, make_loss
from xaiutils.training.optimisation import make_optimizer, make_schedule
from xaiutils.training.recipes import Recipe
from xaiutils.training.report import mean_auc
from xaiutils.training.state import State, load_state, save_state

SAVE_SECONDS = 10.0  # between two states of a run that does not say how many epochs


@dataclass(frozen=True)
class Split:
    """Inputs and int64 labels. ``x`` is ``(n, ...)``, images or features; for training with augmented copies of the
    features it is ``(copies, n, ...)``."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Checkpoint:
    """Where a run's state is written, each ``every`` epochs (None: by `SAVE_SECONDS`), and whether to begin from it.
    ``about`` identifies the run, see `state.fingerprint`."""

    path: Path
    every: int | None
    resume: bool
    about: dict[str, Any]

    def due(self, epoch: int, age: float) -> bool:
        return age >= SAVE_SECONDS if self.every is None else epoch % self.every == 0


def fit(
    body: keras.Model | None,
    head: keras.Model,
    train: Split,
    val: Split,
    recipe: Recipe,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> pd.DataFrame:
    """Train ``head`` after ``body`` (None: the inputs are what the head takes) and leave the best epoch's weights.

    Returns the history; its ``attrs["kept_epoch"]`` is the epoch whose weights were kept.
    """
    part = head if body is None else keras.Model(body.inputs, head(body.outputs[0]))
    # Batches of one size, so that the step is compiled once: each epoch leaves out a random remainder.
    batch_size = min(recipe.batch_size, len(train.y))
    steps = len(train.y) // batch_size
    schedule = make_schedule(recipe, steps * recipe.epochs)
    optimizer = make_optimizer(recipe, schedule)
    loss = make_loss(recipe, train.y, head.output_shape[-1])
    trained = [*_trained(body, recipe), *head.trainable_variables]
    step, forward = compiled(body, head, trained, loss, optimizer, recipe, seed)
    rng = np.random.default_rng(seed)
    variables = [*(v for m in (body, head) if m is not None for v in m.variables), *optimizer.variables]
    probe = np.asarray(val.x[: 8 * recipe.batch_size], np.float32).mean(axis=0) if recipe.frozen else np.zeros(0)
    state = State()
    if checkpoint is not None and checkpoint.resume and checkpoint.path.exists():
        state = load_state(checkpoint.path, checkpoint.about, rng, variables, probe)
    saved = time.monotonic()
    for epoch in progress(range(state.epoch + 1, recipe.epochs + 1), title="epochs"):
        if state.rows and epoch - 1 - state.best_epoch >= recipe.patience:
            break
        start = time.monotonic()
        order = epoch_order(train.y, steps * batch_size, recipe.balance == "balanced_batches", rng)
        seen = [step(_inputs(train.x, batch, recipe, rng), train.y[batch]) for batch in order.reshape(steps, -1)]
        mean_loss, accuracy = np.mean(seen, axis=0)
        measured = validate(forward, val.x, val.y, recipe)
        if not np.isfinite(mean_loss) or not np.isfinite(measured["val_loss"]):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower learning_rate ({recipe}).")
        row = {"epoch": epoch, "loss": float(mean_loss), "accuracy": float(accuracy), **measured}
        rate = float(schedule(epoch * steps))
        state.rows.append(row | {"learning_rate": rate, "seconds": time.monotonic() - start})
        state.epoch = epoch
        score = measured[recipe.monitor] * (-1 if recipe.monitor == "val_loss" else 1)
        if score > state.best + recipe.min_delta:
            state.best, state.best_epoch, state.weights = score, epoch, part.get_weights()
        if checkpoint is not None and checkpoint.due(epoch, time.monotonic() - saved):
            save_state(checkpoint.path, state, checkpoint.about, rng, variables, probe)
            saved = time.monotonic()
    part.set_weights(state.weights)
    history = pd.DataFrame(state.rows)
    history.attrs["kept_epoch"] = state.best_epoch
    return history


def _inputs(x: np.ndarray, batch: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """One batch, float32: of images, augmented; of features, each from one of its image's copies."""
    if not recipe.frozen:
        return augment(x[batch].astype(np.float32), recipe, rng) if recipe.augments else x[batch].astype(np.float32)
    if recipe.copies:
        return x[rng.integers(len(x), size=len(batch)), batch]
    return x[batch]


def _trained(body: keras.Model | None, recipe: Recipe) -> list[keras.Variable]:
    """The body's variables that the recipe trains."""
    layers = [layer for layer in _leaves(body) if layer.trainable_variables]
    if recipe.freeze_norm:
        layers = [layer for layer in layers if not isinstance(layer, keras.layers.BatchNormalization)]
    return [v for layer in layers[-recipe.last_layers :] for v in layer.trainable_variables]


def _leaves(model: keras.Model | None) -> list[keras.layers.Layer]:
    """Layers from input to output, those of nested models in their place."""
    layers = [] if model is None else model.layers
    return [leaf for layer in layers for leaf in (_leaves(layer) if isinstance(layer, keras.Model) else [layer])]


def compiled(
    body: keras.Model | None,
    head: keras.Model,
    trained: Sequence[keras.Variable],
    loss: Callable,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    seed: int,
) -> tuple[Callable, Callable]:
    """A training step (batch, labels) -> (loss, accuracy), and the forward pass to logits.

    The step moves the variables ``trained``. The recipe's ``dropout`` acts between ``body`` and ``head``; what it
    drops, and what ``mixup`` mixes, is decided by ``seed`` and the optimiser's count of steps. Keras' own
    train_on_batch does the same and takes three times as long to trace.
    """
    optimizer.build(trained)
    batch = tf.TensorSpec((head if body is None else body).inputs[0].shape, tf.float32)

    def this_step(stream):
        return tf.stack([(seed + stream) % 2**31, tf.cast(optimizer.iterations.value, tf.int32)])

    def logits_of(x, training):
        x = x if body is None else body(x, training=training and not recipe.freeze_norm)
        if training and recipe.dropout:
            x = tf.nn.experimental.stateless_dropout(x, recipe.dropout, seed=this_step(0))
        return head(x, training=training)

    @tf.function(input_signature=[batch, tf.TensorSpec([None], tf.int64)], autograph=False)
    def step(x, y):
        if recipe.mixup:
            x, other, part = mix(x, y, recipe.mixup, this_step(1))
        with tf.GradientTape() as tape:
            logits = logits_of(x, training=True)
            value = loss(y, logits)
            if recipe.mixup:
                value = part * value + (1 - part) * loss(other, logits)
        optimizer.apply(tape.gradient(value, trained), trained)
        return value, tf.reduce_mean(tf.cast(tf.argmax(logits, axis=1) == y, tf.float32))

    forward = tf.function(lambda x: logits_of(x, training=False), input_signature=[batch], autograph=False)
    return step, forward


def mix(x: tf.Tensor, y: tf.Tensor, alpha: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412): each input mixed with another of its batch.

    Returns part * x + (1 - part) * x', the labels of x', and ``part``, one number in [0.5, 1] for the batch: the
    larger of a draw from Beta(alpha, alpha) and its complement, so that x is what is seen most.
    """
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    part = tf.reduce_max(gammas) / tf.reduce_sum(gammas)
    order = tf.argsort(tf.random.stateless_uniform(tf.shape(y), seed + 1))
    return part * x + (1 - part) * tf.gather(x, order), tf.gather(y, order), part


def validate(forward: Callable, x: np.ndarray, y: np.ndarray, recipe: Recipe) -> dict[str, float]:
    """val_loss (mean cross-entropy, whatever the recipe minimises), val_accuracy, and val_auc where it is watched.

    NaN logits give a NaN loss.
    """
    starts = range(0, len(y), recipe.batch_size)
    logits = np.concatenate([forward(x[i : i + recipe.batch_size].astype(np.float32)).numpy() for i in starts])
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    measured = {
        "val_loss": float(-log_p[np.arange(len(y)), y].mean()),
        "val_accuracy": float((logits.argmax(axis=1) == y).mean()),
    }
    if recipe.monitor == "val_auc" and np.isfinite(measured["val_loss"]):
        measured["val_auc"] = mean_auc(y, np.exp(log_p))
    return measured
