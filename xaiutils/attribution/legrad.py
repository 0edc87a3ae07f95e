"""LeGrad: the gradient of each block's own score by its attention, summed over blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaiutils.attribution import attention_maps as attention
from xaiutils.attribution.method import Method
from xaiutils.backend import tf
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.graph.passes import class_scores
from xaiutils.registry import Parameter


def legrad(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, pooling: str) -> np.ndarray:
    """Sum over layers of the mean over heads and queries of relu(ds_l/dA_l) (Bousselham et al. 2024,
    arXiv:2404.03214).

    s_l is the target's logit when the model's last norm and head are given the tokens that leave block l (after its
    last residual addition). ``pooling="mean"`` (default, as the authors' code): where the head reads the class token
    alone it is given the mean of all tokens, to which every query then contributes; a head that pools the tokens itself
    gets them as they are. ``pooling="model"``: the class token, as the model is used. There is no product with A_l. The
    paper scales the map to [0, 1] at the end; here it is left as it is. The map is specific to the class.
    """
    steps = attention.chained_attention_layers(network)
    last, ends = steps[-1], _block_ends(network, steps)
    averaged = pooling == "mean" and attention.class_tokens(network, last, images).size > 0

    def relevance(batch: Any, chosen: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            _, maps, tokens = attention.forward_with_attention(network, batch, steps, tape.watch, ends)
            read = tf.concat(tokens, axis=0)
            if averaged:  # in every place, so also in that of a class token
                read = tf.zeros_like(read) + tf.reduce_mean(read, axis=1, keepdims=True)
            scores = network.from_layer(ends[-1].path, read)
            total = tf.reduce_sum(class_scores(network, scores, tf.tile(chosen, [len(ends)]), "logit"))
        gradients = attention.gradients_by_attention(tape, total, maps, steps)
        return tf.add_n([tf.reduce_mean(tf.nn.relu(g), axis=(1, 2)) for g in gradients])

    return attention.token_maps(network, images, targets, batch_size, ("LeGrad", averaged), last, relevance)


def _block_ends(network: Network, steps: Sequence[Step]) -> list[Step]:
    """The last residual addition after each attention layer, before the next."""
    places = [network.steps.index(step) for step in steps]
    ends = []
    for step, place, stop in zip(steps, places, [*places[1:], len(network.steps)], strict=True):
        shape = network.shapes[step.outputs[0]]
        additions = [
            other
            for other in network.steps[place:stop]
            if type(other.operation).__name__ == "Add"
            and len(set(other.reads)) == 2
            and network.shapes[other.outputs[0]][1:] == shape[1:]
            and network.leads_to_logits(other)
        ]
        if not additions:
            raise ModelError(
                f"no residual addition (keras.layers.Add or +) of tokens {shape} follows layer {step.path!r}, so the "
                "end of its block cannot be found; use transformer_attribution."
            )
        ends.append(additions[-1])
    return ends


LEGRAD = Method(
    name="legrad",
    title="LeGrad",
    family="attention",
    paper="Bousselham, Boggust, Chaybouti, Strobelt & Kuehne 2024, arXiv:2404.03214",
    signed=False,
    cost="1 gradient",
    compute=legrad,
    needs="attention",
    check=lambda network: _block_ends(network, attention.chained_attention_layers(network)),
    parameters=(
        Parameter(
            "pooling",
            str,
            "mean",
            "what a head that reads the class token is given of each block: the mean of its tokens, or that token",
            choices=("mean", "model"),
        ),
    ),
    suits=("vit",),
)
