"""Transformer attribution: attention weighted by the gradient of the score, multiplied over all layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaiutils.attribution import attention_maps as attention
from xaiutils.attribution.method import Method
from xaiutils.attribution.relevance.transformer import TransformerPropagation
from xaiutils.backend import tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import Network, Rule, Step
from xaiutils.graph.passes import class_scores
from xaiutils.registry import Parameter


def transformer_attribution(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, form: str, query: str
) -> np.ndarray:
    """The class token's row of (I + M_L) ... (I + M_1) (Chefer, Gur & Wolf 2021), S the logit of the target.

    ``form="generic"`` (default): M_l = E_h[relu(dS/dA_l * A_l)] (arXiv:2103.15679, eq. 5 and 6: R = I, then for each
    layer R = R + M_l R). ``form="relevance"``: M_l = E_h[relu(dS/dA_l * R(A_l))] (arXiv:2012.09838, eq. 13 and 14),
    R(A_l) the probabilities' relevance when the target's logit has relevance 1, propagated by the paper's own rules
    (`xaiutils.attribution.relevance.transformer`), which for LayerNorm, softmax and sums are not those of the method
    lrp. A head of one sigmoid unit starts with relevance 1 for either class, and the gradient has the class's sign.

    The map is specific to the class. Where the head pools the patches, the mean of their rows is drawn, without I's
    own share, which is the same for every patch.
    """
    steps = attention.chained_attention_layers(network)
    start = attention.query_weights(network, steps[-1], steps[-1], images, query)
    known = network.compiled("kinds of LRP", lambda: kinds(network, "LRP")) if form == "relevance" else None

    def relevance(batch: Any, chosen: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            logits, maps, _ = attention.forward_with_attention(network, batch, steps, tape.watch)
            total = tf.reduce_sum(class_scores(network, logits, chosen, "logit"))
        gradients = attention.gradients_by_attention(tape, total, maps, steps)
        if known is None:
            weights = [attention.by_head(A) for A in maps]
        else:
            weights = _relevance_of_attention(network, known, batch, chosen, steps)
        row = first = attention.repeated(start, batch)
        for weight, g in zip(reversed(weights), reversed(gradients), strict=True):
            row += attention.row_times(row, tf.reduce_mean(tf.nn.relu(g * weight), axis=1))
        return row - first

    key = ("transformer attribution", form, start.tobytes())
    return attention.token_maps(network, images, targets, batch_size, key, steps[-1], relevance)


def _relevance_of_attention(
    network: Network, known: dict[Step, str], images: Any, targets: Any, steps: Sequence[Step]
) -> list[Any]:
    """Relevance of the probabilities of ``steps``, by head; ``known`` are the kinds of the network's steps."""

    def propagation(asking: dict[Step, Step]) -> Rule:
        of_all = {**known, **{stand_in: known[step] for step, stand_in in asking.items()}}
        return TransformerPropagation(network, of_all, images)

    units = tf.ones_like(targets) if network.activation == "binary" else targets
    with network.in_float32():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            logits, maps, _ = attention.forward_with_attention(network, images, steps, tape.watch, inner=propagation)
        seed = tf.one_hot(units, network.n_classes)
        return attention.gradients_by_attention(tape, logits, maps, steps, seed)


TRANSFORMER_ATTRIBUTION = Method(
    name="transformer_attribution",
    title="Transformer attribution",
    family="attention",
    precision="float32",
    paper="Chefer, Gur & Wolf 2021, arXiv:2103.15679 (generic) and arXiv:2012.09838 (relevance)",
    signed=False,
    cost="1 gradient (relevance: about 4)",
    compute=transformer_attribution,
    needs="attention",
    check=attention.chained_attention_layers,
    parameters=(
        Parameter(
            "form",
            str,
            "generic",
            "what the gradient is multiplied by: attention (ICCV 2021), or its LRP relevance (CVPR 2021)",
            choices=("generic", "relevance"),
        ),
        attention.QUERY,
    ),
    suits=("vit",),
)
