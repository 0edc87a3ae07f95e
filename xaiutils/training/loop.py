"""The training loop: one compiled step, validation after each epoch, early stopping, and a state to resume from."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.progress import progress
from xaiutils.training.augmentation import augment
from xaiutils.training.features import leaves
from xaiutils.training.losses import epoch_order
from xaiutils.training.objectives import Classes, Objective
from xaiutils.training.optimisation import MovingAverage, make_optimizer, make_schedule
from xaiutils.training.recipe import Recipe
from xaiutils.training.state import BestEpoch, State, Variables, load_variables, save_state

SAVE_SECONDS = 10.0  # between two states of a run that does not say how many epochs


@dataclass(frozen=True)
class Split:
    """Inputs and an objective's targets. ``x`` is ``(n, ...)``, images or features; for training with augmented copies
    of the features it is ``(copies, n, ...)``."""

    x: Any
    y: np.ndarray

    def batch(self, chosen: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        """Inputs, float32, and targets of one training step: of images, augmented; of features, each from one of its
        image's copies."""
        if not recipe.frozen or recipe.fresh:
            x = self.x[chosen].astype(np.float32)
            return augment(x, recipe, rng) if recipe.augments else x, self.y[chosen]
        x = self.x[rng.integers(len(self.x), size=len(chosen)), chosen] if recipe.copies else self.x[chosen]
        return x.astype(np.float32, copy=False), self.y[chosen]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run's state is written, each ``every`` epochs (None: by `SAVE_SECONDS`). ``about`` identifies the run,
    see `state.fingerprint`."""

    path: Path
    every: int | None
    about: dict[str, Any]

    def due(self, epoch: int, age: float) -> bool:
        return age >= SAVE_SECONDS if self.every is None else epoch % self.every == 0


def fit(
    body: keras.Model | None,
    head: keras.Model,
    part: keras.Model,
    train: Split,
    val: Split,
    recipe: Recipe,
    seed: int,
    state: State,
    objective: Objective,
    *,
    auc: bool = False,
    checkpoint: Checkpoint | None = None,
    strategy: tf.distribute.Strategy | None = None,
    scale_loss: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> None:
    """Train ``head`` after ``body`` by one recipe without its ``then``.

    Args:
        body: of which the recipe's ``last_layers`` train, and nothing where it is frozen: then it is run on the
            training images alone; None: the inputs are what the head takes.
        head: up to the logits, and whatever else the objective looks at; all of it trains.
        part: the model whose weights are kept in ``state``.
        train, val: inputs and labels; the inputs are images, or with ``recipe.frozen`` features (with ``fresh`` those
            of ``train`` are images).
        recipe: its ``batch_size`` must be given.
        seed: of the order of images, augmentation, mixup and dropout.
        state: is carried on: rows are added to its history, and where it is in the middle of this stage,
            ``checkpoint`` is read.
        objective: what the model is trained for.
        auc: whether val_auc is measured.
        checkpoint: where and how often the state is written; None: nowhere.
        strategy: of several devices, which ``body`` and ``head`` were made on.
        scale_loss: for training in float16.
        after_epoch: gets each row, may add to it, and may raise `StopTraining`.
    """
    # Batches of one size, so that the step is compiled once: each epoch leaves out a random remainder.
    batch_size = min(recipe.batch_size, len(train.y))
    steps = len(train.y) // batch_size
    schedule = make_schedule(recipe, steps * recipe.epochs)
    loss = objective.loss(recipe, train.y, head.outputs[0].shape[-1])
    trained = [*_trained(body, recipe), *head.trainable_variables]
    with nullcontext() if strategy is None else strategy.scope():
        optimizer = _optimizer(recipe, schedule, scale_loss)
        step, forward = compiled(body, head, trained, loss, optimizer, recipe, seed, objective)
        average = MovingAverage(trained, recipe.average)
    variables = [v for m in (None if recipe.frozen else body, head) if m is not None for v in m.variables]
    variables += [*optimizer.variables, *average.variables]
    features = recipe.frozen or recipe.frozen_lower
    probe = np.asarray(val.x[: 8 * recipe.batch_size], np.float32).mean(axis=0) if features else np.zeros(0)
    others = Variables(np.random.default_rng(seed), variables, probe)
    if state.epoch and checkpoint is not None:
        load_variables(checkpoint.path, others)
    saved, before = time.monotonic(), len(state.rows) - state.epoch
    for epoch in progress(range(state.epoch + 1, recipe.epochs + 1), title="epochs"):
        if epoch > 1 and epoch - 1 - max(0, state.kept[recipe.monitor].epoch - before) >= recipe.patience:
            break
        start, number = time.monotonic(), before + epoch
        order = epoch_order(train.y, steps * batch_size, recipe.balance == "balanced_batches", others.rng)
        seen = []
        for batch in order.reshape(steps, -1):
            seen.append(step(*train.batch(batch, recipe, others.rng)))
            average.update((epoch - 1) * steps + len(seen) - 1)
        mean_loss, mean_score = np.mean(seen, axis=0)
        with average.in_place():
            measured = validate(forward, val.x, val.y, recipe.batch_size, auc, objective)
            weights = part.get_weights()
        if not np.isfinite(mean_loss) or not np.isfinite(measured["val_loss"]):
            raise FloatingPointError(f"the loss is not finite in epoch {number}; lower learning_rate ({recipe}).")
        row = {"epoch": number, "stage": recipe.name, "loss": float(mean_loss), objective.score_name: float(mean_score)}
        row |= measured | {"learning_rate": float(schedule(epoch * steps)), "seconds": time.monotonic() - start}
        state.rows.append(row)
        state.epoch = epoch
        _keep(state, recipe, weights)
        with average.in_place():
            after_epoch(row)
        if checkpoint is not None and checkpoint.due(epoch, time.monotonic() - saved):
            save_state(checkpoint.path, state, checkpoint.about, others)
            saved = time.monotonic()


def _optimizer(recipe: Recipe, schedule: Any, scale_loss: bool) -> keras.optimizers.Optimizer:
    # The devices' gradients come to the optimiser divided by their number, see `compiled`: so must the clip.
    devices = tf.distribute.get_strategy().num_replicas_in_sync
    optimizer = make_optimizer(replace(recipe, clip=recipe.clip / devices), schedule)
    return keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer


def _keep(state: State, recipe: Recipe, weights: list[np.ndarray]) -> None:
    """Keep the weights of the last row where it is the best so far."""
    row = state.rows[-1]
    for name in filter(None, (recipe.monitor, recipe.also_keep)):
        kept = state.kept.get(name, BestEpoch())
        if is_better(name, row, kept, state.rows, recipe.min_delta):
            state.kept[name] = BestEpoch(score(name, row), row["epoch"], weights)


def score(name: str, row: dict[str, Any]) -> float:
    """A row's value of a measure, larger being better."""
    return -row[name] if name.endswith("loss") else row[name]


def is_better(name: str, row: dict[str, Any], kept: BestEpoch, rows: list[dict[str, Any]], min_delta: float) -> bool:
    """Whether a row of the history beats the kept one: by more than ``min_delta``, or in val_auc by an equal score and
    a val_loss that is lower by more than that."""
    gain = score(name, row) - kept.score
    if name == "val_auc" and gain == 0:
        gain = rows[kept.epoch - 1]["val_loss"] - row["val_loss"]
    return gain > min_delta


def _trained(body: keras.Model | None, recipe: Recipe) -> list[keras.Variable]:
    """The body's variables that the recipe trains."""
    if recipe.frozen:
        return []
    layers = [layer for layer in leaves(body) if layer.trainable_variables]
    if recipe.freeze_norm:
        layers = [layer for layer in layers if not isinstance(layer, keras.layers.BatchNormalization)]
    return [v for layer in layers[-recipe.last_layers :] for v in layer.trainable_variables]


def compiled(
    body: keras.Model | None,
    head: keras.Model,
    trained: Sequence[keras.Variable],
    loss: Callable,
    optimizer: keras.optimizers.Optimizer,
    recipe: Recipe,
    seed: int,
    objective: Objective | None = None,
) -> tuple[Callable, Callable]:
    """A training step (batch, targets) -> (loss, score of ``objective``, by default accuracy), and the forward pass to
    logits.

    The step moves the variables ``trained``. Where they were made by a strategy of several devices, each of these takes
    a share of the batch, and their gradients are added up before they are clipped, so that the step is that of one
    device; but batch norm that trains sees the device's part alone, and dropout drops the same places in each. The
    recipe's ``dropout`` acts between ``body`` and ``head``; what it
    drops, and what ``mixup`` mixes, is decided by ``seed`` and the optimiser's count of steps. Keras' own
    train_on_batch does the same and takes three times as long to trace.
    """
    strategy = tf.distribute.get_strategy()
    optimizer.build(trained)
    seen = tf.TensorSpec((head if body is None else body).inputs[0].shape, tf.float32)
    still, body = (body, None) if recipe.frozen else (None, body)
    batch = seen if still is None else tf.TensorSpec(head.inputs[0].shape, tf.float32)
    goal = Classes() if objective is None else objective

    def this_step(stream):
        return tf.stack([(seed + stream) % 2**31, tf.cast(optimizer.iterations.value, tf.int32)])

    def logits_of(x, training):
        x = x if body is None else body(x, training=training and not recipe.freeze_norm)
        if training and recipe.dropout:
            x = tf.nn.experimental.stateless_dropout(x, recipe.dropout, seed=this_step(0))
        return head(x, training=training)

    def step_of_one(x, y):
        context, count = tf.distribute.get_replica_context(), tf.shape(x)[0]
        replicas = context.num_replicas_in_sync
        if replicas > 1:
            x, y = (whole[context.replica_id_in_sync_group :: replicas] for whole in (x, y))
        share = tf.cast(tf.shape(x)[0] / count, tf.float32)
        if still is not None:  # outside the tape, which would keep all that is in between
            x = tf.cast(still(x, training=False), tf.float32)
        if recipe.mixup:
            x, other, part = mix(x, y, recipe.mixup, this_step(1))
        with tf.GradientTape() as tape:
            logits = logits_of(x, training=True)
            value = loss(y, logits)
            if recipe.mixup:
                value = part * value + (1 - part) * loss(other, logits)
            value *= share
            scaled = optimizer.scale_loss(value)
        found = [(g, v) for g, v in zip(tape.gradient(scaled, trained), trained, strict=True) if g is not None]
        gradients, variables = [g for g, _ in found], [v for _, v in found]
        if replicas > 1:  # Keras adds them up once it has clipped them; here they are added before, and again there
            gradients = [g / replicas for g in context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)]
        optimizer.apply(gradients, variables)
        return value, share * goal.score(y, logits)

    @tf.function(input_signature=[seen, goal.spec(head.outputs[0].shape[-1])], autograph=False)
    def step(x, y):
        return [strategy.reduce("SUM", part, axis=None) for part in strategy.run(step_of_one, (x, y))]

    def logits_alone(x):
        return tf.nest.flatten(logits_of(x, training=False))[0]

    forward = tf.function(logits_alone, input_signature=[batch], autograph=False)
    return step, forward


def mix(x: tf.Tensor, y: tf.Tensor, alpha: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412): each input mixed with another of its batch.

    Returns part * x + (1 - part) * x', the labels of x', and ``part``, one number in [0.5, 1] for the batch: the
    larger of a draw from Beta(alpha, alpha) and its complement, so that x is what is seen most.
    """
    # In logs, as of a small alpha most draws underflow: Gamma(alpha) is Gamma(alpha + 1) * U^(1 / alpha).
    uniform = 1 - tf.random.stateless_uniform([2], seed + 2)  # in (0, 1]
    logs = tf.math.log(tf.random.stateless_gamma([2], seed, alpha + 1)) + tf.math.log(uniform) / alpha
    part = tf.sigmoid(tf.abs(logs[0] - logs[1]))
    order = tf.argsort(tf.random.stateless_uniform(tf.shape(y)[:1], seed + 1))
    return part * x + (1 - part) * tf.gather(x, order), tf.gather(y, order), part


def validate(
    forward: Callable, x: np.ndarray, y: np.ndarray, batch_size: int, auc: bool, objective: Objective
) -> dict[str, float]:
    """val_loss (mean cross-entropy or squared error, whatever the recipe minimises), the objective's score, and val_auc
    if asked for.

    NaN logits give a NaN loss.
    """
    starts = range(0, len(y), batch_size)
    logits = np.concatenate([forward(x[i : i + batch_size].astype(np.float32)).numpy() for i in starts])
    return objective.validate(y, logits, auc)
