"""Training by recipe: `train`, and the classification report of what it made."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from xaiutils.attribution import predict
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.progress import progress
from xaiutils.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. AdamW with a linear warm-up and cosine decay of the learning rate, early stopping on
    the validation loss, the best epoch's weights kept.

    ``frozen``: only the head is trained, on the backbone's features, which are computed once (no augmentation).
    ``flip``: random horizontal and vertical mirroring (never with ``frozen``, nor where a mirrored image changes
    class). ``patience``: epochs without a better validation loss. ``clip``: global norm of the gradient.
    """

    name: str
    frozen: bool
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int = 32
    warmup: float = 0.05
    clip: float = 1.0
    patience: int = 10
    flip: bool = False

    def __str__(self) -> str:
        return f"recipe {self.name}: " + ", ".join(f"{k}={v}" for k, v in asdict(self).items() if k != "name")


RECIPES: Registry[Recipe] = Registry("recipe")
# Head on frozen features: seconds on a CPU once the features are there.
RECIPES.add(Recipe("modern", frozen=True, learning_rate=1e-3, weight_decay=1e-4, epochs=60, patience=10))
# All weights from a random start, for models without pretrained weights.
RECIPES.add(
    Recipe(
        "scratch",
        frozen=False,
        learning_rate=1e-3,
        weight_decay=0.05,
        epochs=12,
        warmup=0.1,
        flip=True,
        patience=6,
    )
)


def train(
    model: keras.Model,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    **changes: Any,
) -> pd.DataFrame:
    """Train ``model`` in place and return its history.

    Args:
        model: as `xaiutils.build_model` makes it, ending in layers ``logits`` and ``probabilities``; a frozen recipe
            also needs its layer ``features``.
        train_ds, val_ds: data of the model's image size; the weights of the epoch with the lowest validation loss are
            kept, so ``val_ds`` must not be the test split.
        recipe: a name in `RECIPES` or a `Recipe`; ``epochs`` and ``changes`` (its fields) overlay it.
        run_dir: if given, writes ``model.keras`` and ``history.csv`` there.
        seed: of shuffling and mirroring.

    Returns:
        One row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, learning_rate, seconds. Training
        loss and accuracy are means over the epoch while the weights move; validation is measured after it.

    Raises:
        TypeError, ValueError: a recipe field, a data set or the model is not as needed. FloatingPointError: the loss
            became NaN.
    """
    recipe = _recipe(recipe, epochs, changes)
    recipe = replace(recipe, flip=recipe.flip and train_ds.mirrors)
    _check_data(model, train_ds, val_ds)
    keras.utils.set_random_seed(seed)
    part, train_x, val_x = model, train_ds.pixels, val_ds.pixels
    if recipe.frozen:
        extract, part = _split_at_features(model)
        train_x, val_x = (_features(extract, ds, recipe.batch_size) for ds in (train_ds, val_ds))
    else:
        part = keras.Model(model.inputs, model.get_layer("logits").output)
    history = _fit(part, train_x, train_ds.labels, val_x, val_ds.labels, recipe, seed)
    if run_dir is not None:
        folder = Path(run_dir)
        replace_file(folder / "model.keras", model.save)
        replace_file(folder / "history.csv", lambda path: history.to_csv(path, index=False))
    return history


def _recipe(recipe: str | Recipe, epochs: int | None, changes: Mapping[str, Any]) -> Recipe:
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    known = [f.name for f in fields(Recipe) if f.name != "name"]
    for field in changes:
        if field not in known:
            raise TypeError(f"a recipe has no field {field!r}; it has {', '.join(known)}.")
    changed = replace(recipe, **changes, **({} if epochs is None else {"epochs": epochs}))
    if changed.epochs < 1 or changed.batch_size < 1 or changed.learning_rate <= 0:
        raise ValueError(f"epochs, batch_size and learning_rate must be positive; got {changed}.")
    if changed.frozen and changed.flip:
        raise ValueError("flip=True has no effect with frozen=True: features are computed once. Give frozen=False.")
    return changed


def _check_data(model: keras.Model, train_ds: ImageDataset, val_ds: ImageDataset) -> None:
    size, classes = model.input_shape[1:3], model.output_shape[-1]
    for name, ds in (("train_ds", train_ds), ("val_ds", val_ds)):
        if len(ds) == 0:
            raise ValueError(f"{name} is empty.")
        if ds.pixels.shape[1:3] != size:
            raise ValueError(f"{name} has images of {ds.pixels.shape[1:3]} pixels; the model takes {size}.")
        if len(ds.class_names) != classes:
            raise ValueError(f"{name} has {len(ds.class_names)} classes; the model {classes}. Build it with n_classes.")
    if train_ds.class_names != val_ds.class_names:
        raise ValueError(f"the classes are {train_ds.class_names} in train_ds and {val_ds.class_names} in val_ds.")
    shared = set(train_ds.ids) & set(val_ds.ids)
    if shared:
        raise ValueError(f"{len(shared)} images are in both train_ds and val_ds, such as {min(shared)!r}.")


def _split_at_features(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Models from images to features and from features to logits, sharing the layers of ``model``."""
    try:
        features = model.get_layer("features").output
    except ValueError:
        raise ValueError("a frozen recipe needs a layer named 'features', as build_model makes it.") from None
    return keras.Model(model.inputs, features), keras.Model(features, model.get_layer("logits").output)


def _features(extract: keras.Model, ds: ImageDataset, batch_size: int) -> np.ndarray:
    images = tf.TensorSpec([None, *ds.pixels.shape[1:]], tf.float32)
    run = tf.function(lambda x: extract(x, training=False), input_signature=[images])
    steps = -(-len(ds) // batch_size)
    found = [run(tf.constant(x)).numpy() for x, _ in progress(ds.batches(batch_size), steps, f"features of {ds.split}")]
    return np.concatenate(found)


def _fit(part, train_x, train_y, val_x, val_y, recipe: Recipe, seed: int) -> pd.DataFrame:
    # Batches of one size, so that the step is compiled once: each epoch leaves out a random remainder.
    batch_size = min(recipe.batch_size, len(train_y))
    steps = len(train_y) // batch_size
    total = steps * recipe.epochs
    warmup = max(1, round(recipe.warmup * total))
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-3 * recipe.learning_rate,
        max(1, total - warmup),
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )
    step, forward = _compiled(part, recipe, schedule)
    rng = np.random.default_rng(seed)
    rows, best, best_weights = [], np.inf, None
    for epoch in progress(range(1, recipe.epochs + 1), title="epochs"):
        start = time.monotonic()
        seen = []
        for batch in rng.permutation(len(train_y))[: steps * batch_size].reshape(steps, batch_size):
            x = train_x[batch].astype(np.float32)
            seen.append(step(_mirrored(x, rng) if recipe.flip else x, train_y[batch]))
        mean_loss, accuracy = np.mean(seen, axis=0)
        val_loss, val_accuracy = _validate(forward, val_x, val_y, recipe.batch_size)
        if not np.isfinite(mean_loss) or not np.isfinite(val_loss):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower learning_rate ({recipe}).")
        rows.append(
            {
                "epoch": epoch,
                "loss": float(mean_loss),
                "accuracy": float(accuracy),
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "learning_rate": float(schedule(epoch * steps)),
                "seconds": time.monotonic() - start,
            }
        )
        if val_loss < best:
            best, best_weights, best_epoch = val_loss, part.get_weights(), epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    part.set_weights(best_weights)
    return pd.DataFrame(rows)


def _compiled(part: keras.Model, recipe: Recipe, schedule: Any) -> tuple[Callable, Callable]:
    """A training step (batch, labels) -> (loss, accuracy), and the forward pass to logits.

    Keras' own train_on_batch does the same and takes three times as long to trace.
    """
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip)
    optimizer.build(part.trainable_variables)
    batch = tf.TensorSpec(part.inputs[0].shape, tf.float32)

    @tf.function(input_signature=[batch, tf.TensorSpec([None], tf.int64)], autograph=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = part(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        optimizer.apply(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, axis=1) == y, tf.float32))

    forward = tf.function(lambda x: part(x, training=False), input_signature=[batch], autograph=False)
    return step, forward


def _validate(forward: Callable, x: np.ndarray, y: np.ndarray, batch_size: int) -> tuple[float, float]:
    """Mean cross-entropy and accuracy. NaN logits give a NaN loss."""
    starts = range(0, len(y), batch_size)
    logits = np.concatenate([forward(x[i : i + batch_size].astype(np.float32)).numpy() for i in starts])
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_p[np.arange(len(y)), y].mean()), float((logits.argmax(axis=1) == y).mean())


def _mirrored(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for axis in (1, 2):
        chosen = rng.random(len(x)) < 0.5
        x[chosen] = np.flip(x[chosen], axis=axis)
    return x


@dataclass(frozen=True)
class Report:
    """How a classifier does on one split. ``summary`` holds accuracy, AUC, balanced accuracy with the lower end of its
    95 % interval (Jeffreys), and the accuracy of always naming the largest class; ``classes`` precision,
    recall, F1 and support; ``confusion`` true classes in rows; ``probabilities`` float32 ``(n, classes)``."""

    summary: pd.Series
    classes: pd.DataFrame
    confusion: pd.DataFrame
    probabilities: np.ndarray

    @property
    def beats_chance(self) -> bool:
        """Whether the interval of balanced accuracy lies above chance: accuracy alone is fooled by class imbalance."""
        return bool(self.summary["balanced accuracy low"] > 1 / len(self.classes))


def classification_report(model: keras.Model, ds: ImageDataset, batch_size: int = 32) -> Report:
    """Evaluate ``model`` on ``ds``. The AUC is one-vs-rest, averaged over classes that occur; NaN if only one does."""
    probabilities = _predict_all(model, ds, batch_size, probabilities=True)
    predicted, names = probabilities.argmax(axis=1), list(ds.class_names)
    numbers = np.arange(len(names))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        ds.labels, predicted, labels=numbers, zero_division=0
    )
    classes = pd.DataFrame({"precision": precision, "recall": recall, "F1": f1, "support": support}, index=names)
    present = [c for c in numbers if 0 < (ds.labels == c).sum() < len(ds)]
    one_vs_rest = [metrics.roc_auc_score(ds.labels == c, probabilities[:, c]) for c in present]
    summary = {
        "n": len(ds),
        "accuracy": float((predicted == ds.labels).mean()),
        "AUC": float(np.mean(one_vs_rest)) if one_vs_rest else np.nan,
        "balanced accuracy": float(recall[support > 0].mean()),
        "balanced accuracy low": _balanced_accuracy_low(ds.labels, predicted == ds.labels),
        "majority accuracy": float(support.max() / len(ds)),
    }
    confusion = pd.DataFrame(metrics.confusion_matrix(ds.labels, predicted, labels=numbers), index=names, columns=names)
    return Report(pd.Series(summary), classes, confusion, probabilities)


def _balanced_accuracy_low(labels: np.ndarray, correct: np.ndarray, n_resamples: int = 1000) -> float:
    """2.5th percentile of balanced accuracy, each class's recall drawn from its Jeffreys posterior.

    A bootstrap would be certain of a recall of 1 seen on a single image.
    """
    rng = np.random.default_rng(0)
    groups = [correct[labels == label] for label in np.unique(labels)]
    recalls = [rng.beta(group.sum() + 0.5, (~group).sum() + 0.5, n_resamples) for group in groups]
    return float(np.percentile(np.mean(recalls, axis=0), 2.5))


def _predict_all(model: keras.Model, ds: ImageDataset, batch_size: int = 32, **options: Any) -> np.ndarray:
    """`predict` for a data set, without making all its images float32 at once."""
    return np.concatenate([predict(model, images, batch_size, **options) for images, _ in ds.batches(8 * batch_size)])


def default_recipe(weights: str | None) -> str:
    """The recipe that suits a model's start: "modern" on pretrained weights, else "scratch"."""
    return "modern" if weights else "scratch"


def clear_example(model: keras.Model, ds: ImageDataset, label: int = -1) -> int:
    """Position of the image of class ``label`` (-1: the last) whose logit leads the others by most.

    Images with evidence come first where there are masks; without any image of that class, the first image.
    """
    label = label % len(ds.class_names)
    members = np.flatnonzero(ds.labels == label)
    if ds.masks is not None and ds.masks[members].any():
        members = members[ds.masks[members].any(axis=(1, 2))]
    if len(members) == 0:
        return 0
    logits = _predict_all(model, ds.select(members))
    others = np.delete(logits, label, axis=1).max(axis=1)
    return int(members[(logits[:, label] - others).argmax()])
