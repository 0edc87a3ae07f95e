"""What a model is trained for, which its last layer says: one class for each image, several labels, or a quantity."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.classification.curves import mean_auc, mean_label_auc
from xaiutils.datasets import ImageDataset
from xaiutils.models import VALUE_LAYER
from xaiutils.training.losses import make_label_loss, make_loss, squared_error
from xaiutils.training.recipe import Recipe

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Objective(Protocol):
    """How targets ``y`` are made of a data set, and what logits ``(n, outputs)`` are worth.

    ``score_name`` is the column of the history that ``score`` fills, beside the loss; ``validate`` gives those of the
    validation images: val_loss, val_ with the score's name, and val_auc if asked for and there is one.
    """

    score_name: str

    def check(self, name: str, ds: ImageDataset, outputs: int) -> None:
        """Raise ValueError for a data set that the model cannot be trained or validated on."""

    def targets(self, ds: ImageDataset) -> np.ndarray: ...

    def spec(self, outputs: int) -> tf.TensorSpec: ...

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss: ...

    def score(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor: ...

    def validate(self, y: np.ndarray, logits: np.ndarray, auc: bool) -> dict[str, float]: ...

    def has_auc(self, ds: ImageDataset) -> bool:
        """Whether there is an AUC on ``ds``."""


class Classes:
    """One class for each image: softmax."""

    score_name = "accuracy"

    def check(self, name: str, ds: ImageDataset, outputs: int) -> None:
        if ds.multi_label:
            raise ValueError(
                f"the images of {name} have several labels; the model names one class. Build it with "
                "outputs='sigmoid', or take one label: of_label(name)."
            )
        if len(ds.class_names) != outputs:
            raise ValueError(f"{name} has {len(ds.class_names)} classes; the model {outputs}. Build it with n_classes.")

    def targets(self, ds: ImageDataset) -> np.ndarray:
        return ds.labels

    def spec(self, outputs: int) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.int64)

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss:
        return make_loss(recipe, y, outputs)

    def score(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.cast(tf.argmax(logits, axis=1) == y, tf.float32))

    def validate(self, y: np.ndarray, logits: np.ndarray, auc: bool) -> dict[str, float]:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        measured = {
            "val_loss": float(-log_p[np.arange(len(y)), y].mean()),
            "val_accuracy": float((logits.argmax(axis=1) == y).mean()),
        }
        if auc and np.isfinite(measured["val_loss"]):
            measured["val_auc"] = mean_auc(y, np.exp(log_p))
        return measured

    def has_auc(self, ds: ImageDataset) -> bool:
        return len(np.unique(ds.labels)) > 1


class OneUnit(Classes):
    """Two classes by one sigmoid unit z, which is the softmax of the logits 0 and z."""

    def check(self, name: str, ds: ImageDataset, outputs: int) -> None:
        super().check(name, ds, 2)

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss:
        of_two = super().loss(recipe, y, 2)
        return lambda y, z: of_two(y, tf.concat([tf.zeros_like(z), z], axis=1))

    def score(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return super().score(y, tf.concat([tf.zeros_like(logits), logits], axis=1))

    def validate(self, y: np.ndarray, logits: np.ndarray, auc: bool) -> dict[str, float]:
        return super().validate(y, np.concatenate([np.zeros_like(logits), logits], axis=1), auc)


class Labels:
    """Several labels in one image: a sigmoid for each; where a label is unknown, it counts for nothing."""

    score_name = "accuracy"

    def check(self, name: str, ds: ImageDataset, outputs: int) -> None:
        if not ds.multi_label:
            raise ValueError(
                f"the images of {name} have one class each; the model has a sigmoid for each label. Build it with "
                "outputs='softmax'."
            )
        if len(ds.class_names) != outputs:
            raise ValueError(f"{name} has {len(ds.class_names)} labels; the model {outputs}. Build it with n_classes.")
        if not (ds.labels >= 0).any():
            raise ValueError(f"every label of {name} is unknown (-1).")

    def targets(self, ds: ImageDataset) -> np.ndarray:
        return ds.labels

    def spec(self, outputs: int) -> tf.TensorSpec:
        return tf.TensorSpec([None, outputs], tf.int8)

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss:
        return make_label_loss(recipe, y)

    def score(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        known = tf.cast(y >= 0, tf.float32)
        right = tf.cast((logits > 0) == (y == 1), tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(right * known), tf.reduce_sum(known))

    def validate(self, y: np.ndarray, logits: np.ndarray, auc: bool) -> dict[str, float]:
        z, known = logits.astype(np.float64), y >= 0
        each = np.logaddexp(0, np.where(y == 1, -z, z))
        measured = {
            "val_loss": float(each[known].mean()),
            "val_accuracy": float(((z > 0) == (y == 1))[known].mean()),
        }
        if auc and np.isfinite(z).all():
            measured["val_auc"] = mean_label_auc(y, z)
        return measured

    def has_auc(self, ds: ImageDataset) -> bool:
        return bool(((ds.labels == 1).any(axis=0) & (ds.labels == 0).any(axis=0)).any())


class Values:
    """A measured quantity: squared error. ``logits`` are its standardised values; ``mean`` and ``deviation``, which the
    model's last layer has, put them into their own units."""

    score_name = "mae"

    def __init__(self, mean: float, deviation: float):
        self.mean, self.deviation = mean, deviation

    def check(self, name: str, ds: ImageDataset, outputs: int) -> None:
        if ds.values is None:
            raise ValueError(f"{name} has no measured values (ImageDataset.values), which the model is to predict.")

    def targets(self, ds: ImageDataset) -> np.ndarray:
        if ds.values is None:
            raise ValueError("the data set has no measured values.")
        return ((ds.values - self.mean) / self.deviation).astype(np.float32)

    def spec(self, outputs: int) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.float32)

    def loss(self, recipe: Recipe, y: np.ndarray, outputs: int) -> Loss:
        if recipe.loss == "focal" or recipe.label_smoothing or recipe.balance != "none":
            raise ValueError(
                f"recipe {recipe.name}: a focal loss, label_smoothing and balance are for classes, not for a quantity."
            )
        return squared_error

    def score(self, y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return self.deviation * tf.reduce_mean(tf.abs(logits[:, 0] - y))

    def validate(self, y: np.ndarray, logits: np.ndarray, auc: bool) -> dict[str, float]:
        error = logits[:, 0].astype(np.float64) - y
        return {"val_loss": float((error**2).mean()), "val_mae": float(self.deviation * np.abs(error).mean())}

    def has_auc(self, ds: ImageDataset) -> bool:
        return False


def objective_of(model: keras.Model, train_ds: ImageDataset) -> Objective:
    """What ``model`` is trained for, by its last layer. A new regression model gets the mean and the deviation of the
    training values as the weights of that layer; one that has been trained keeps its own.

    Raises ValueError where all training values are the same.
    """
    last: Any = model.layers[-1]
    if last.name == VALUE_LAYER:
        scale, offset = (float(w[0]) for w in (last.kernel.numpy()[0], last.bias.numpy()))
        if (scale, offset) == (1.0, 0.0) and train_ds.values is not None:
            scale, offset = float(train_ds.values.std()), float(train_ds.values.mean())
            if scale == 0:
                raise ValueError(f"all values of train_ds are {offset:g}: there is nothing to learn.")
            last.set_weights([np.array([[scale]]), np.array([offset])])
        return Values(offset, scale)
    if isinstance(last, keras.layers.Activation) and last.activation is keras.activations.sigmoid:
        return OneUnit() if last.output.shape[-1] == 1 and not train_ds.multi_label else Labels()
    return Classes()
