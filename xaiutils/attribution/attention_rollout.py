"""Attention rollout: attention and residual connections multiplied over all layers."""

from typing import Any

import numpy as np

from xaiutils.attribution import attention_maps as attention
from xaiutils.attribution.method import Method
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.registry import Parameter


def attention_rollout(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    fusion: str,
    discard_ratio: float,
    query: str,
) -> np.ndarray:
    """The class token's row of R_L ... R_1, with R_l the rows of (E_h[A_l] + I) divided by their sums (Abnar & Zuidema
    2020, arXiv:2005.00928, section 3).

    I stands for the residual connection. ``fusion`` takes the heads' max or min in place of their mean, and
    ``discard_ratio`` sets that fraction of each image's and each layer's fused attention, the smallest entries, to 0
    before I is added; both are common in practice, not in the paper. Where the head pools the patches, the mean of
    their rows is drawn. The map does not depend on the class that is asked for.
    """
    steps = attention.chained_attention_layers(network)
    weights = attention.query_weights(network, steps[-1], steps[-1], images, query)

    def relevance(batch: Any, _: Any) -> Any:
        _, maps, _ = attention.forward_with_attention(network, batch, steps)
        row = attention.repeated(weights, batch)
        for A in reversed(maps):
            fused = _discard(attention.FUSIONS[fusion](attention.by_head(A), axis=1), discard_ratio)
            mixed = fused + tf.eye(len(weights))
            row = attention.row_times(row, mixed / tf.reduce_sum(mixed, axis=-1, keepdims=True))
        return row

    key = ("attention rollout", fusion, discard_ratio, weights.tobytes())
    return attention.token_maps(network, images, targets, batch_size, key, steps[-1], relevance)


def _discard(fused: Any, ratio: float) -> Any:
    """The smallest entries of each image's ``(tokens, tokens)`` set to 0; entries equal to the smallest kept stay."""
    tokens = fused.shape[-1]
    dropped = int(ratio * tokens * tokens)
    if not dropped:
        return fused
    smallest_kept = tf.sort(tf.reshape(fused, [-1, tokens * tokens]), axis=1)[:, dropped]
    return tf.where(fused >= smallest_kept[:, None, None], fused, 0.0)


ATTENTION_ROLLOUT = Method(
    name="attention_rollout",
    title="Attention rollout",
    family="attention",
    paper="Abnar & Zuidema 2020, arXiv:2005.00928",
    signed=False,
    cost="1 forward",
    compute=attention_rollout,
    needs="attention",
    check=attention.chained_attention_layers,
    parameters=(
        attention.FUSION,
        Parameter(
            "discard_ratio",
            float,
            0.0,
            "fraction of each layer's attention, its smallest entries, set to 0 first; the paper: 0",
            0.0,
            0.99,
        ),
        attention.QUERY,
    ),
    suits=("vit",),
)
