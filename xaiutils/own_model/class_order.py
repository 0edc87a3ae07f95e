"""A model's outputs in the order of a data set's classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.models.wrapped import WrappedModel

ops = keras.ops


def in_order_of(model: WrappedModel, class_names: Sequence[str], positive_class: str = "") -> WrappedModel:
    """The model with its outputs in the order of ``class_names``, by the names in its facts.

    The weights of its last Dense layer are exchanged where that does it (so the model must be the caller's to change),
    else its outputs. Without names of its own the model is taken to have the order of ``class_names``, but one unit of
    two classes is the probability of ``positive_class`` where that is given. A model of a score is returned as it is.

    Raises ValueError where the names or their number differ.
    """
    network, wanted = Network.of(model), tuple(class_names)
    if network.activation == "score":
        return model
    if network.n_classes != len(wanted):
        raise ValueError(
            f"the model answers with {network.n_classes} classes and the data have {len(wanted)} "
            f"({', '.join(wanted[:5])}): they do not belong together."
        )
    positive_class = positive_class or model.facts.positive_class or ""
    names = model.facts.class_names or wanted
    if model.facts.class_names is None and network.activation == "binary" and positive_class in wanted:
        names = (*(name for name in wanted if name != positive_class), positive_class)
    if sorted(names) != sorted(wanted):
        raise ValueError(
            f"the model's class_names are {', '.join(names)}, and the data's classes {', '.join(wanted)}. Give the "
            "names as the data have them, in the order of the model's outputs."
        )
    order = [names.index(name) for name in wanted]
    facts = replace(model.facts, class_names=wanted)
    (output,) = model.outputs
    if order != sorted(order) and not _exchanged(model, network, order):
        output = 1 - output if network.activation == "binary" else ops.take(output, np.array(order), axis=-1)
    return WrappedModel(model.inputs, output, model.core, facts, name=model.name)


def _exchanged(model: WrappedModel, network: Network, order: list[int]) -> bool:
    """Exchange the columns of the last Dense layer (of one unit: its sign), if the outputs follow; else change nothing
    and return False."""
    dense = [s.operation for s in network.steps if isinstance(s.operation, keras.layers.Dense)]
    if not dense or dense[-1].units not in (1, len(order)):
        return False
    size = [n or 96 for n in model.input_shape[1:3]]
    noise = np.random.default_rng(0).uniform(0, 255, (4, *size, model.input_shape[-1])).astype(np.float32)

    def answers() -> np.ndarray:
        return network.logits(noise).numpy()

    before, weights = answers()[:, order], dense[-1].get_weights()
    changed = [-w for w in weights] if dense[-1].units == 1 else [w[..., order] for w in weights]
    dense[-1].set_weights(changed)
    if np.allclose(answers(), before, rtol=1e-4, atol=1e-5):
        return True
    dense[-1].set_weights(weights)
    return False
