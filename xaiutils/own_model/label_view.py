"""One label of a multi-label model, as a binary model."""

from dataclasses import replace
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.models.wrapped import WrappedModel
from xaiutils.own_model.wrap import wrap
from xaiutils.registry import is_integer, suggest


def of_label(model: keras.Model, label: str | int) -> WrappedModel:
    """The same model, weights shared, as a binary one: is ``label`` there or not? Its classes are ("no NAME", "NAME").

    Args:
        model: one with an independent probability for each of several labels; wrapped (`xaiutils.wrap`) or bare.
        label: by its name among the model's ``class_names``, or its index.

    Raises ValueError where the model has no such label, or is not of several labels.
    """
    wrapped = model if isinstance(model, WrappedModel) else wrap(model, scaling="model")
    network, names = Network.of(wrapped), wrapped.facts.class_names
    if network.activation != "sigmoid":
        raise ValueError(
            f"the model has one {network.activation} output, whose classes exclude each other; only a model of several "
            "independent labels (N sigmoids) has a view of one label."
        )
    if names is None:
        names = tuple(f"label {i}" for i in range(network.n_classes))
    if isinstance(label, str) and label not in names:
        raise ValueError(f"the model has no label {label!r}; {suggest(label, list(names))}")
    if not isinstance(label, str) and not (is_integer(label) and 0 <= label < len(names)):
        raise ValueError(f"label={label!r}; expected a name, or an index from 0 to {len(names) - 1}.")
    index = names.index(label) if isinstance(label, str) else int(label)
    facts = replace(wrapped.facts, class_names=(f"no {names[index]}", names[index]), positive_class=names[index])
    unit = wrapped.outputs[0][:, index : index + 1]
    view = WrappedModel(wrapped.inputs[0], unit, core=wrapped.core, facts=facts, name=f"{wrapped.name}_label_{index}")

    def remake(**changes: Any) -> WrappedModel:
        return of_label(wrapped.with_options(**changes), index)

    view.remake = remake
    return view
