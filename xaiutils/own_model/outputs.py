"""Outputs of a model: which one is taken, and what makes scores ``(n, k)`` of it."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import FlatGraph
from xaiutils.graph.head import find_head
from xaiutils.own_model.scalings import FunctionLayer
from xaiutils.registry import is_integer, suggest

layers, ops = keras.layers, keras.ops

HEADS = ("softmax", "sigmoid", "logits", "regression", "ordinal")

Output = str | int | Callable[[Any], Any]


@keras.saving.register_keras_serializable("xaiutils")
class OrdinalProbabilities(keras.layers.Layer):
    """Cumulative probabilities ``(n, K - 1)``, P(y > 0), P(y > 1), ..., to those of K classes ``(n, K)``.

    A running minimum comes first: sigmoids that were trained independently may rise, and no class has a negative
    probability.
    """

    def call(self, above: Any) -> Any:
        columns = [above[:, :1]]
        for k in range(1, above.shape[1]):
            columns.append(ops.minimum(columns[-1], above[:, k : k + 1]))
        edges = [ops.ones_like(columns[0]), *columns, ops.zeros_like(columns[0])]
        return ops.concatenate([a - b for a, b in pairwise(edges)], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape[0], input_shape[1] + 1


def chosen_output(outputs: Any, names: list[str], chosen: Output | None) -> tuple[keras.KerasTensor, str]:
    """One output ``(n, k)`` of a model and its name.

    ``outputs`` are as the model returns them, ``names`` those of their flat list. Raises ValueError that names the
    outputs where one must be chosen, or where it is not ``(n, k)``.
    """
    flat = keras.tree.flatten(outputs)
    said = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(names, flat, strict=True))
    if callable(chosen):
        return _scores(_by_function(outputs, chosen), "what output= returns"), getattr(chosen, "__name__", "a function")
    if chosen is None and len(flat) > 1:
        raise ValueError(
            f"the model returns {said}; choose one by output=, its name or index, or give a function of them."
        )
    if isinstance(chosen, str) and chosen not in names:
        raise ValueError(f"output={chosen!r} is no output of the model; {suggest(chosen, names)}")
    if chosen is not None and not isinstance(chosen, str) and not (is_integer(chosen) and 0 <= chosen < len(flat)):
        raise ValueError(
            f"output={chosen!r}; expected a name, an index from 0 to {len(flat) - 1}, or a function ({said})."
        )
    index = 0 if chosen is None else names.index(chosen) if isinstance(chosen, str) else int(chosen)
    return _scores(flat[index], f"the output {names[index]}"), names[index]


def output_names(model: Any, outputs: Any) -> list[str]:
    """Names of the flat list of a model's outputs: keys of a mapping, else those of the layers that make them."""
    n = len(keras.tree.flatten(outputs))
    if isinstance(outputs, Mapping) and len(outputs) == n:
        return sorted(outputs)  # as Keras flattens a mapping
    names = list(getattr(model, "output_names", []))
    return names if len(set(names)) == n else [f"output_{i}" for i in range(n)]


def _by_function(outputs: Any, function: Callable[[Any], Any]) -> Any:
    try:
        made = function(outputs)
    except Exception:  # whatever it raises: many take real tensors alone
        made = None
    if isinstance(made, keras.KerasTensor):
        return made
    try:
        made = FunctionLayer(function, name="output_function")(outputs)
    except Exception as error:  # whatever a caller's function raises
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"output= is a function that fails on the model's outputs; write it with keras.ops or TensorFlow ({said})"
        ) from error
    return made


def _scores(tensor: Any, what: str) -> keras.KerasTensor:
    """``tensor`` as ``(n, k)``: axes of one are taken out, and a number for each image is one score."""
    if not isinstance(tensor, keras.KerasTensor):
        raise ValueError(f"{what} is {type(tensor).__name__}; expected a tensor (n, k).")
    shape = tuple(tensor.shape)
    if not shape:
        raise ValueError(f"{what} is one number for all images, and one row of scores (n, k) is needed for each.")
    inner = [n for n in shape[1:] if n != 1]
    if len(shape) == 2 and shape[1] is not None:
        return tensor
    if len(inner) <= 1 and None not in shape[1:]:
        return layers.Reshape((inner[0] if inner else 1,), name="one_row")(tensor)
    raise ValueError(
        f"{what} has shape {shape}, and one row of scores (n, k) is needed for each image. Give a function that makes "
        "it, such as output=lambda y: keras.ops.mean(y, axis=(1, 2))."
    )


def with_head(images: keras.KerasTensor, scores: keras.KerasTensor, head: str | None) -> keras.KerasTensor:
    """The scores in float32, of an ordinal head as probabilities of its classes."""
    if head is not None and head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; {suggest(head, list(HEADS))}")
    if head == "regression" and scores.shape[1] != 1:
        raise ValueError(
            f"head='regression': the output has {scores.shape[1]} numbers for each image; choose one by "
            "output=lambda y: y[:, :1]."
        )
    if head == "ordinal":
        function = keras.Model(images, scores)  # kept, for the graph does not
        graph = FlatGraph(function)
        found = find_head(graph, graph.output_key)
        if found.activation != "sigmoid" and not found.bare:
            raise ValueError(
                "head='ordinal' is for cumulative probabilities P(y > k), each of a sigmoid of its own; this model "
                "ends in a softmax, whose classes are explained as they are: leave head= out."
            )
        if found.bare:
            scores = layers.Activation("sigmoid", name="cumulative", dtype="float32")(scores)
        return OrdinalProbabilities(name="ordinal", dtype="float32")(scores)
    if head in ("softmax", "sigmoid", "logits"):
        graph = FlatGraph(keras.Model(images, scores))
        find_head(graph, graph.output_key, head)  # refuses what the graph contradicts
    if keras.backend.standardize_dtype(scores.dtype) != "float32":
        return layers.Activation("linear", name="in_float32", dtype="float32")(scores)
    return scores
