"""What the methods that read the attention of a Vision Transformer share.

A_l are the attention probabilities of layer l, ``(n, heads, tokens, tokens)``, rows queries and columns keys, E_h the
mean over heads, I the identity. A row says from where a token takes its values; the maps are one such row, without
the class token and the registers, laid on the grid of patches and enlarged bilinearly.

Which row: the class token's where the model's head reads that token alone (of a head that reads several tokens which
are no patches, as that of a distilled DeiT does, the mean of theirs), otherwise the mean of the patch tokens' rows (a
head that pools the patches).

The layers are found in the model (`xaiutils.graph.layers.attention`); Keras' own are called with
``return_attention_scores=True``. Memory is about (2 layers heads tokens^2) numbers for each image of the batch.
"""

import dataclasses
import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.cam_layers import ancestors, cuts
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.network import ModelError, Network, Rule, Step
from xaiutils.graph.passes import batches, enlarge
from xaiutils.graph.tiers import tiered
from xaiutils.registry import Parameter

FUSIONS = {"mean": tf.reduce_mean, "max": tf.reduce_max, "min": tf.reduce_min}
FUSION = Parameter("fusion", str, "mean", "how the heads become one map", choices=tuple(FUSIONS))
QUERY = Parameter(
    "query",
    str,
    "auto",
    "whose row is drawn: the class token's, or the mean of the patches'; auto: the first where the head reads it alone",
    choices=("auto", "class_token", "patches"),
)

# The layers ---------------------------------------------------------------------------------------------------------


def attention_layers(network: Network) -> list[Step]:
    """The self-attention layers that the logits depend on, in order.

    Raises ModelError where there are none, where they cannot be seen, or where one attends to other tokens than its
    own (cross-attention).
    """
    found = attention_steps(network)
    if not found:
        raise ModelError(
            "attention methods need self-attention layers, and none was found. For a CNN use grad_cam, a gradient "
            "method or occlusion. If this is a transformer, its attention lies inside layers of its own: make "
            "keras.layers.MultiHeadAttention a layer of the model, or a layer that returns tokens and probabilities "
            "(n, heads, tokens, tokens)."
        )
    for step in found:
        if _is_cross_attention(step):
            raise ModelError(
                f"layer {step.path!r} takes its queries and its keys from different tensors (cross-attention): its "
                "rows are not the tokens of its columns. Use grad_cam with a layer, or a gradient method."
            )
        if network.field_of(step) is None:
            raise ModelError(
                f"the tokens of layer {step.path!r}, {network.shapes[step.outputs[0]]}, cannot be laid on a grid of "
                "patches, so its attention is no map of the image (windows? a pooled sequence?). Use a gradient "
                "method."
            )
    return found


def _is_cross_attention(step: Step) -> bool:
    given = inspect.signature(step.operation.call).bind(*step.arguments.args, **step.arguments.kwargs).arguments
    tokens = keras.tree.flatten([given.get(name) for name in ("inputs", "query", "value", "key")])
    return len({id(t) for t in tokens if isinstance(t, keras.KerasTensor)}) > 1


def chained_attention_layers(network: Network) -> list[Step]:
    """`attention_layers`, if all have the same tokens and each follows from the one before, so that their attention
    can be multiplied or added; ModelError otherwise."""
    steps = attention_layers(network)
    counts = [token_count(network, step) for step in steps]
    if len(set(counts)) > 1:
        raise ModelError(
            f"the attention layers have {counts} tokens; a product or sum over layers needs the same tokens in all. "
            "Use raw_attention with layer=, or grad_cam."
        )
    check_chain(network, steps)
    return steps


def check_chain(network: Network, steps: Sequence[Step]) -> None:
    """ModelError if a layer does not follow from the one before; a warning, the first time, where part of the score
    bypasses their tokens."""
    before = ancestors(network)
    for one, next_one in itertools.pairwise(steps):
        if one not in before[next_one]:
            raise ModelError(
                f"attention layers {one.path!r} and {next_one.path!r} lie side by side (branches, or a backbone that "
                "is called several times), and their attention has no common rows. Use raw_attention with layer=, "
                "grad_cam, or a gradient method."
            )
    shape = network.shapes[steps[-1].outputs[0]]
    tokens = [
        s for s in network.steps_to_logits if network.field_of(s) and network.shapes[s.outputs[0]][1:2] == shape[1:2]
    ]
    warned = network.compiled(("warned of a way around attention",), set)
    if not warned and not cuts(network, tokens):
        warned.add(True)
        warnings.warn(
            f"part of the score goes around the tokens of the attention layers (the last is {steps[-1].path!r}); their "
            "attention does not show it.",
            stacklevel=2,
        )


# The passes ---------------------------------------------------------------------------------------------------------


def forward_with_attention(
    network: Network,
    images: Any,
    steps: Sequence[Step],
    watch: Callable[[Any], None] | None = None,
    block_ends: Sequence[Step] = (),
    inner: Callable[[dict[Step, Step]], Rule] | None = None,
) -> tuple[Any, list[Any], list[Any]]:
    """Logits, the probabilities of the attention layers ``steps``, and the tokens that leave ``block_ends``.

    ``watch`` (a tape's) is called with what enters the attention layers, so that the probabilities, made inside
    them, are on the tape. No gradient flows back through a block end. ``inner`` makes the rule by which steps are
    computed (from the steps that stand in for ``steps``).
    """
    asking = {step: _asking_for_probabilities(step) for step in steps}
    base = inner(asking) if inner else lambda step, inputs, compute: compute(inputs)
    probabilities, tokens = {}, {}

    def rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        if step in asking:
            if watch is not None:
                watch(inputs[0])
            outputs = base(asking[step], inputs, functools.partial(network.compute, asking[step]))
            probabilities[step] = outputs[1]
            return outputs[: len(step.outputs)]
        outputs = base(step, inputs, compute)
        if step in block_ends:
            tokens[step] = outputs[0]
            return [tf.stop_gradient(outputs[0])]
        return outputs

    logits, _ = network.forward(images, [], rule=rule)
    return logits, [probabilities[step] for step in steps], [tokens[step] for step in block_ends]


def _asking_for_probabilities(step: Step) -> Step:
    """An attention layer's call that returns tokens and probabilities: Keras' layers must be asked for them."""
    if len(step.outputs) > 1:
        return step
    given = step.arguments
    asked = type(given)(*given.args, **{**given.kwargs, "return_attention_scores": True})
    return dataclasses.replace(step, arguments=asked)


def gradients_by_attention(
    tape: Any, score: Any, probabilities: list[Any], steps: Sequence[Step], seed: Any | None = None
) -> list[Any]:
    """What arrives at the probabilities, by head, when ``seed`` (1 where None) goes in at the score."""
    found = tape.gradient(score, probabilities, output_gradients=seed)
    cut = [step.path for step, gradient in zip(steps, found, strict=True) if gradient is None]
    if cut:
        raise ModelError(
            f"the score does not follow from the probabilities that {cut} return: these layers must compute their "
            "tokens from the very tensor that they return."
        )
    return [by_head(gradient) for gradient in found]


def by_head(probabilities: Any) -> Any:
    """Float32 ``(n, heads, tokens, tokens)``; keras.layers.Attention has one head and leaves that axis out."""
    heads = probabilities if len(probabilities.shape) == 4 else probabilities[:, None]
    return tf.cast(heads, tf.float32)


# The row that is drawn ----------------------------------------------------------------------------------------------


def query_weights(network: Network, drawn: Step, last: Step, images: np.ndarray, query: str) -> np.ndarray:
    """Weights of the rows of layer ``drawn``, float32 ``(tokens,)``: 1 at the class token, or equal at all patches (or
    at several class tokens)."""
    others = no_patches(network, drawn)
    if query == "class_token" and not others.size:
        raise ModelError("query='class_token': the model has patch tokens only; use query='patches' or 'auto'.")
    read = others[:0] if query == "patches" else class_tokens(network, last, images)
    chosen = np.intersect1d(read, others)
    if not chosen.size and (read.size or query == "class_token"):  # a head that pools patches, or other tokens there
        chosen = others[:1]
    chosen = chosen if chosen.size else network.field(drawn.path).order
    weights = np.zeros(token_count(network, drawn), np.float32)
    weights[chosen] = 1 / len(chosen)
    return weights


def token_count(network: Network, step: Step) -> int:
    """How many tokens an attention layer returns, 0 where that depends on the image."""
    return network.shapes[step.outputs[0]][1] or 0


def no_patches(network: Network, step: Step) -> np.ndarray:
    """Which tokens are no patches, in order: class tokens and registers."""
    return np.setdiff1d(np.arange(token_count(network, step)), network.field(step.path).order)


def class_tokens(network: Network, last: Step, images: np.ndarray) -> np.ndarray:
    """The tokens that the head reads, if none of them is a patch; empty otherwise. After the last attention layer
    tokens do not mix, so the gradient of a score by that layer's tokens shows it; it is kept with the network once it
    is not all zero."""
    known, others = network.compiled(("tokens that the head reads", last.path), dict), no_patches(network, last)
    if not others.size or "answer" in known:
        return known.get("answer", others)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        logits, (tokens,) = network.forward(tf.constant(images[:1]), [last.path], tape.watch)
        total = tf.reduce_sum(logits[:, -1])
    size = tf.reduce_max(tf.abs(tape.gradient(total, tokens)), axis=(0, 2)).numpy()
    if not size.any():  # a head of zeros, not trained yet
        return others[:1]
    read = np.flatnonzero(size)
    known["answer"] = read if np.isin(read, others).all() else read[:0]
    return known["answer"]


def repeated(weights: np.ndarray, images: Any) -> Any:
    """The rows' weights for each image, ``(n, tokens)``."""
    return tf.tile(tf.constant(weights)[None], [tf.shape(images)[0], 1])


def row_times(row: Any, matrix: Any) -> Any:
    """``(n, tokens)`` times ``(n, tokens, tokens)``."""
    return tf.linalg.matvec(matrix, row, transpose_a=True)


def token_maps(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    key: tuple,
    step: Step,
    relevance: Callable[[Any, Any], Any],
) -> np.ndarray:
    """Maps from ``relevance(images, targets)``, a number for each token of ``step`` ``(n, tokens)``, compiled under
    ``key``, which begins with the method's title."""

    def build() -> Callable:
        def run(batch, chosen):
            return network.to_grid(step.path, relevance(batch, chosen)[..., None])[..., 0]

        return tiered(network, run, [network.image_spec, tf.TensorSpec([None], tf.int32)])

    run = network.compiled((*key, step.path, network.field(step.path).stored), build)
    small = [run(images[b], targets[b]).numpy() for b in batches(len(images), batch_size, key[0])]
    height, width = images.shape[1:3]
    return enlarge(np.concatenate(small), height, width, network.place(step.path))
