"""Raw attention: one layer's attention from the class token to the patches, or between the places of a feature map."""

from typing import Any

import numpy as np

from xaiutils.attribution import attention_maps as attention
from xaiutils.attribution.method import Method
from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network, Step
from xaiutils.models.mldam import PlaceProduct
from xaiutils.registry import Parameter, suggest


def raw_attention(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    fusion: str,
    query: str,
) -> np.ndarray:
    """The class token's row of A_l, heads fused by their mean, max or min (the baseline of Abnar & Zuidema 2020,
    arXiv:2005.00928, section 3).

    ``layer`` is the path of an attention layer, by default the last. Where the head pools the patches, the mean of
    their rows is drawn. The map does not depend on the class that is asked for.

    Of a network with the head "mldam" A is that of its places, of which the mean row is drawn: how much of each place's
    value all places take together. It has one head and no class token.
    """
    if (places := _of_places(network, layer)) is not None:
        if query == "class_token":
            raise ModelError("query='class_token': places have none; use query='patches' or 'auto'.")
        probabilities, values = places

        def mean_row(batch: Any, _: Any) -> Any:
            return tf.reduce_mean(tf.cast(network.forward(batch, [probabilities.path])[1][0], tf.float32), axis=1)

        return attention.token_maps(network, images, targets, batch_size, ("raw attention",), values, mean_row)
    steps = attention.attention_layers(network)
    chosen = _layer_named(network, steps, layer)
    weights = attention.query_weights(network, chosen, steps[-1], images, query)

    def relevance(batch: Any, _: Any) -> Any:
        _, (A,), _ = attention.forward_with_attention(network, batch, [chosen])
        fused = attention.FUSIONS[fusion](attention.by_head(A), axis=1)
        return attention.row_times(attention.repeated(weights, batch), fused)

    key = ("raw attention", fusion, weights.tobytes())
    return attention.token_maps(network, images, targets, batch_size, key, chosen, relevance)


def _of_places(network: Network, layer: str) -> tuple[Step, Step] | None:
    """The steps that give the probabilities and the values of attention between places, the one named or the last."""
    found = {}
    for step in network.steps_to_logits:
        if isinstance(step.operation, PlaceProduct):
            read, values = network.producers(step)
            if read is not None and values is not None and isinstance(read.operation, keras.layers.Softmax):
                found[read.path] = read, values
    named = [path for path in found if layer in ("", path, path.split("/")[-1])]
    return found[named[-1]] if named else None


def _check(network: Network) -> None:
    if _of_places(network, "") is None:
        _layer_named(network, attention.attention_layers(network), "")


def _layer_named(network: Network, steps: list[Step], layer: str) -> Step:
    if not layer:
        attention.check_chain(network, steps)
        return steps[-1]
    found = [step for step in steps if layer in (step.path, step.path.split("/")[-1])]
    if len(found) != 1:
        paths = [step.path for step in steps]
        raise ModelError(f"layer={layer!r} does not name one attention layer of the model; {suggest(layer, paths)}")
    return found[0]


RAW_ATTENTION = Method(
    name="raw_attention",
    title="Raw attention",
    family="attention",
    paper="Abnar & Zuidema 2020 (as a baseline), arXiv:2005.00928",
    signed=False,
    cost="1 forward",
    compute=raw_attention,
    needs="attention",
    check=_check,
    parameters=(
        Parameter("layer", str, "", "path of the attention layer; empty: the last"),
        attention.FUSION,
        attention.QUERY,
    ),
    suits=("vit",),
)
