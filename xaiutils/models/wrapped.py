"""A user's model as `xaiutils.wrap` hands it on: a Keras model of images in [0, 255], and what is known of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf


@dataclass(frozen=True)
class ModelFacts:
    """What `xaiutils.wrap` was told of a model, or found out.

    Attributes:
        source: the file, or the type of the model object.
        scaling: how images in [0, 255] are scaled before they enter ``core``: a name of `xaiutils.wrap`, or in words.
        scaling_from: "given", "measured" on a sample, or "assumed".
        class_names: of the output's classes (of one sigmoid unit: of both sides, 0 and 1); of a score, its one name;
            None where they were not given.
        positive_class: the one of them that is to be detected, or None.
        head: what the output is, where the user said so: "softmax", "sigmoid", "logits", "regression" or "ordinal"
            (whose output here are the probabilities of its classes); None: read from the graph.
        output: the name of the output of ``core`` that is taken.
        channels: of the images.
        case_inputs: names of the inputs of which every case brings its own row.
        notes: sentences that a user should read.
    """

    source: str
    scaling: str
    scaling_from: str
    class_names: tuple[str, ...] | None
    positive_class: str | None
    head: str | None
    output: str
    channels: int
    case_inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@keras.saving.register_keras_serializable("xaiutils")
class WrappedModel(keras.Model):
    """A functional Keras model from images ``(n, height, width, channels)`` in [0, 255] to one output ``(n, k)``.

    Scaling, the user's own model ``core`` (whose weights it shares), and the chosen output are layers of it. Made by
    `xaiutils.wrap`; ``facts`` says what is known of it.
    """

    def __init__(self, inputs: Any, outputs: Any, core: Any, facts: ModelFacts, **kwargs: Any):
        super().__init__(inputs, outputs, **kwargs)
        self._core = core
        self.facts = facts
        self.remake: Callable[..., WrappedModel] | None = None  # set by `xaiutils.wrap`

    def with_options(self, **changes: Any) -> "WrappedModel":
        """The same model, weights shared, with other options of `xaiutils.wrap`: ``with_options(scaling="0-1")``."""
        if self.remake is None and not changes:
            return self
        if self.remake is None:
            raise ValueError(f"{self.name} is a copy, or was not made by xaiutils.wrap; wrap its core anew.")
        return self.remake(**changes)

    def save(self, filepath: Any, **kwargs: Any) -> None:
        """Write it as a plain Keras model of images in [0, 255], which needs no wrapping any more; `facts` stay behind.

        Raises ValueError where it holds what no file of Keras keeps: values of further inputs, functions, code.
        """
        plain = self._plain()
        plain.get_config()  # refuses what cannot be written, before a file is begun
        plain.save(filepath, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """What copies and pickles are made of, which keep the facts."""
        return {"graph": self._plain().get_config(), "core": self.core.name, "facts": asdict(self.facts)}

    def _plain(self) -> keras.Model:
        """The model without its facts. Raises ValueError where Keras could write it, but not read it again."""
        if unknown := sorted(set(_unregistered(self.layers))):
            raise ValueError(
                f"{self.core.name} holds {', '.join(unknown)}, which no file, copy or clone of Keras finds again: keep "
                "the file that it is from and wrap that, or register the class "
                "(@keras.saving.register_keras_serializable())."
            )
        return keras.Model(self.inputs[0], self.outputs[0], name=self.name)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "WrappedModel":
        plain = keras.Model.from_config(config["graph"], custom_objects)
        facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["facts"].items()}
        core = plain.get_layer(config["core"])
        return cls(plain.inputs[0], plain.outputs[0], core, ModelFacts(**facts), name=plain.name)

    @property
    def core(self) -> Any:
        """The user's model, or the layer that holds it."""
        return self._core

    @property
    def held_inputs(self) -> dict[str, "HeldInput"]:
        """The layers that hold the values of inputs other than the image, by the names of those inputs."""
        return {layer.input_name: layer for layer in self.layers if isinstance(layer, HeldInput)}


def _unregistered(layers: Iterable[Any]) -> Iterator[str]:
    """Names of the classes that Keras does not find by their names, of layers and of those within them."""
    for layer in layers:
        kind = type(layer)
        if not kind.__module__.startswith("keras.") and ">" not in keras.saving.get_registered_name(kind):
            yield kind.__name__
        yield from _unregistered(getattr(layer, "layers", ()))


def facts_of(model: Any) -> ModelFacts | None:
    """What is known of a model from `xaiutils.wrap`; None for any other."""
    return model.facts if isinstance(model, WrappedModel) else None


@keras.saving.register_keras_serializable("xaiutils")
class HeldInput(keras.layers.Layer):
    """An input of a model that is no image, held while images are changed: rows ``(1 or n, ...)``.

    Called with the images, it returns a row for each: the held rows, or the one row for all. Zeros are held until
    `hold` is called. ``table``: where the model looks the numbers up, how many entries there are, and in which layer.

    Args:
        input_name: of the input in the user's model.
        shape: of one row, () for a number.
        dtype: of the rows.
    """

    def __init__(self, input_name: str, shape: tuple[int, ...], dtype: str, **kwargs: Any):
        super().__init__(trainable=False, dtype="float32", autocast=False, **kwargs)
        self.input_name, self.row_shape, self.row_dtype = input_name, tuple(shape), dtype
        self.table: tuple[int, str] | None = None
        # The number of rows is open, so that passes that are compiled already read the new ones. A variable of
        # TensorFlow's own: it is no weight, and must not be drawn anew with the weights.
        start = np.zeros((1, *self.row_shape), dtype)
        self._rows = tf.Variable(start, trainable=False, shape=(None, *self.row_shape), dtype=dtype)

    def hold(self, rows: Any) -> None:
        """Hold rows ``(1 or n, ...)``, in the order of the images to come."""
        self._rows.assign(tf.cast(rows, self.row_dtype))

    def get_config(self) -> dict[str, Any]:
        raise ValueError(
            f"the input {self.input_name!r} is held beside the images, which no file, copy or clone keeps; save or "
            "copy the wrapped model's core, and wrap that again."
        )

    def check_table(self, rows: np.ndarray) -> None:
        """Raise ValueError for rows ``(n, ...)`` with a number that is no entry of `table`: TensorFlow fails on a CPU,
        and takes zeros on a GPU."""
        size, layer = self.table or (0, "")
        wrong = ((rows < 0) | (rows >= size)).reshape(len(rows), -1).any(axis=1)
        if size and wrong.any():
            cases, values = np.flatnonzero(wrong)[:10].tolist(), np.unique(rows[(rows < 0) | (rows >= size)])[:10]
            of = f": the rows of the cases {cases} hold" if len(rows) > 1 else " holds"
            raise ValueError(
                f"inputs[{self.input_name!r}]{of} {', '.join(f'{v:g}' for v in values)}; the model's layer {layer} has "
                f"entries from 0 to {size - 1}."
            )

    @property
    def rows(self) -> np.ndarray:
        """The rows that are held."""
        return self._rows.numpy()

    def call(self, images: Any) -> Any:
        rows = self._rows.value()
        return tf.broadcast_to(rows, tf.concat([tf.shape(images)[:1], tf.shape(rows)[1:]], axis=0))

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        return keras.KerasTensor((images.shape[0], *self.row_shape), dtype=self.row_dtype)
