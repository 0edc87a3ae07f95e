"""One label of a multi-label model, as a binary model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xaiutils.backend import keras
from xaiutils.class_names import check_class_names
from xaiutils.class_names import positive_class as find_positive
from xaiutils.graph.network import Network
from xaiutils.models.wrapped import WrappedModel
from xaiutils.own_model.wrap import wrap
from xaiutils.registry import is_integer, suggest


def of_label(
    model: keras.Model,
    label: str | int,
    class_names: Sequence[str] | None = None,
    positive_class: str | None = None,
) -> WrappedModel:
    """The same model, weights shared, as a binary one: is ``label`` there or not?

    Args:
        model: one with an independent probability for each of several labels; wrapped (`xaiutils.wrap`) or bare.
        label: by its name among the model's ``class_names``, or its index.
        class_names: of the two classes, what 0 means and what 1 means; None: ("no NAME", "NAME").
        positive_class: the one of them that is to be detected; None: the second.

    Raises ValueError where the model has no such label, or is not of several labels, and for names that are not two.
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
    classes = tuple(check_class_names(class_names or [f"no {names[index]}", names[index]], "class_names"))
    if len(classes) != 2:
        raise ValueError(f"class_names has {len(classes)} names; the view of one label has two classes, without and "
                         f"with {names[index]!r}.")  # fmt: skip
    detected = positive_class or classes[1]
    find_positive(classes, detected)
    facts = replace(wrapped.facts, class_names=classes, positive_class=detected)
    unit = wrapped.outputs[0][:, index : index + 1]
    view = WrappedModel(wrapped.inputs[0], unit, core=wrapped.core, facts=facts, name=f"{wrapped.name}_label_{index}")

    given = {"class_names": class_names, "positive_class": positive_class}

    def remake(**changes: Any) -> WrappedModel:
        named = {name: changes.pop(name, now) for name, now in given.items()}
        return of_label(wrapped.with_options(**changes), index, **named)

    view.remake = remake
    return view
