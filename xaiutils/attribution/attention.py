"""Methods that read the attention of a Vision Transformer.

A_l are the attention probabilities of layer l, ``(n, heads, tokens, tokens)``, rows queries and columns keys, E_h the
mean over heads, I the identity. A row says from where a token takes its values; the maps are one such row, without
the class token and the registers, laid on the grid of patches and enlarged bilinearly.

Which row: the class token's where the model's head reads that token alone, otherwise the mean of the patch tokens' rows
(a head that pools the patches).

The layers are found in the model (`xaiutils.graph.layers.attention`); Keras' own are called with
``return_attention_scores=True``. Memory is some (2 layers heads tokens^2) numbers an image of the batch.
"""

import dataclasses
import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution import backward_rules as rules
from xaiutils.attribution.method import Method
from xaiutils.attribution.relevance.transformer import TransformerPropagation
from xaiutils.backend import keras, tf
from xaiutils.graph.cam_layers import ancestors, cuts
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.network import ModelError, Network, Rule, Step
from xaiutils.graph.passes import batches, class_scores, enlarge
from xaiutils.registry import Parameter, suggest

_FUSIONS = {"mean": tf.reduce_mean, "max": tf.reduce_max, "min": tf.reduce_min}


# The layers -------------------------------------------------------------------------------------------------------


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
        if _attends_elsewhere(step):
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


def _attends_elsewhere(step: Step) -> bool:
    given = inspect.signature(step.operation.call).bind(*step.arguments.args, **step.arguments.kwargs).arguments
    tokens = keras.tree.flatten([given.get(name) for name in ("inputs", "query", "value", "key")])
    return len({id(t) for t in tokens if isinstance(t, keras.KerasTensor)}) > 1


def _same_tokens(network: Network, steps: Sequence[Step]) -> list[Step]:
    counts = [network.shapes[step.outputs[0]][1] for step in steps]
    if len(set(counts)) > 1:
        raise ModelError(
            f"the attention layers have {counts} tokens; a product or sum over layers needs the same tokens in all. "
            "Use raw_attention with layer=, or grad_cam."
        )
    return _one_stream(network, steps)


def _one_stream(network: Network, steps: Sequence[Step]) -> list[Step]:
    """The layers, if each follows from the one before; a warning where part of the score does not go through them."""
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
    told = network.compiled(("warned of a way around attention",), set)
    if not told and not cuts(network, tokens):
        told.add(True)
        warnings.warn(
            f"part of the score goes around the tokens of the attention layers (the last is {steps[-1].path!r}); their "
            "attention does not show it.",
            stacklevel=2,
        )
    return list(steps)


def _forward(
    network: Network,
    images: Any,
    steps: Sequence[Step],
    watch: Callable[[Any], None] | None = None,
    block_ends: Sequence[Step] = (),
    inner: Callable[[dict[Step, Step]], Rule] | None = None,
) -> tuple[Any, list[Any], list[Any]]:
    """Logits, the probabilities of the attention layers ``steps``, and the tokens that leave ``block_ends``.

    ``watch`` (a tape's) is called with what enters the attention layers, so that the probabilities, made inside
    them, are on the tape. Behind a block end no gradient flows back: what lies in front of it sees its tokens alone.
    ``inner`` makes the rule by which steps are computed (from the steps that stand in for ``steps``).
    """
    asking = {step: _asking(step) for step in steps}
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


def _asking(step: Step) -> Step:
    """An attention layer's call that returns tokens and probabilities: Keras' layers must be asked for them."""
    if len(step.outputs) > 1:
        return step
    given = step.arguments
    asked = type(given)(*given.args, **{**given.kwargs, "return_attention_scores": True})
    return dataclasses.replace(step, arguments=asked)


def _gradients(
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
    return [_by_head(gradient) for gradient in found]


def _by_head(probabilities: Any) -> Any:
    """Float32 ``(n, heads, tokens, tokens)``; keras.layers.Attention has one head and leaves that axis out."""
    heads = probabilities if len(probabilities.shape) == 4 else probabilities[:, None]
    return tf.cast(heads, tf.float32)


# The row that is drawn --------------------------------------------------------------------------------------------


def _start(network: Network, drawn: Step, last: Step, images: np.ndarray, query: str) -> np.ndarray:
    """Weights of the rows of layer ``drawn``, float32 ``(tokens,)``: the class token's, or all patches' alike."""
    token, patches = _class_token(network, drawn), network.field(drawn.path).order
    if query == "class_token" and token is None:
        raise ModelError("query='class_token': the model has patch tokens only; use query='patches' or 'auto'.")
    start = np.zeros(network.shapes[drawn.outputs[0]][1], np.float32)
    if query != "patches" and token is not None and (query != "auto" or _reads_alone(network, last, token, images)):
        start[token] = 1
    else:
        start[patches] = 1 / len(patches)
    return start


def _class_token(network: Network, step: Step) -> int | None:
    """The first token that is no patch."""
    others = np.setdiff1d(np.arange(network.shapes[step.outputs[0]][1]), network.field(step.path).order)
    return int(others[0]) if others.size else None


def _reads_alone(network: Network, last: Step, token: int, images: np.ndarray) -> bool:
    """Whether the head reads this (class) token and no other. Behind the last attention layer tokens do not mix, so the
    gradient of a score by that layer's tokens shows it; it is kept with the network once it is not all zero."""
    known = network.compiled(("the head reads one token alone", last.path), dict)
    if "answer" in known:
        return known["answer"]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        logits, (tokens,) = network.forward(tf.constant(images[:1]), [last.path], tape.watch)
        total = tf.reduce_sum(logits[:, -1])
    size = tf.reduce_max(tf.abs(tape.gradient(total, tokens)), axis=(0, 2)).numpy()
    if not size.any():  # a head of zeros, not trained yet
        return True
    known["answer"] = bool(size[token] > 0 and not np.delete(size, token).any())
    return known["answer"]


def _maps(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    key: tuple,
    steps: Sequence[Step],
    relevance: Callable[[Any, Any], Any],
    title: str,
) -> np.ndarray:
    """Maps from ``relevance(images, targets)``, a number for each token ``(n, tokens)``, compiled under ``key``."""
    path = steps[-1].path

    def build():
        # Without autograph, which would hide a ModelError behind its own; as Keras runs its models.
        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
        def run(batch, chosen):
            return network.to_grid(path, relevance(batch, chosen)[..., None])[..., 0]

        return run

    run = network.compiled((*key, path, network.field(path).stored), build)
    small = [run(images[b], targets[b]).numpy() for b in batches(len(images), batch_size, title)]
    return enlarge(np.concatenate(small), *images.shape[1:3], network.place(path))


def _times(row: Any, matrix: Any) -> Any:
    """``(n, tokens)`` times ``(n, tokens, tokens)``."""
    return tf.linalg.matvec(matrix, row, transpose_a=True)


def _rows(start: np.ndarray, images: Any) -> Any:
    return tf.tile(tf.constant(start)[None], [tf.shape(images)[0], 1])


# The methods ------------------------------------------------------------------------------------------------------


def raw_attention(network, images, targets, batch_size, *, layer: str, fusion: str, query: str) -> np.ndarray:
    """The class token's row of A_l, heads fused by their mean, max or min (the baseline of Abnar & Zuidema 2020,
    arXiv:2005.00928, section 3).

    ``layer`` is the path of an attention layer, by default the last. Where the head pools the patches, the mean of
    their rows is drawn. The map does not depend on the class that is asked for.
    """
    steps = attention_layers(network)
    chosen = _layer_named(network, steps, layer)
    start = _start(network, chosen, steps[-1], images, query)

    def relevance(batch, _):
        _, (A,), _ = _forward(network, batch, [chosen])
        return _times(_rows(start, batch), _FUSIONS[fusion](_by_head(A), axis=1))

    key = ("raw attention", fusion, start.tobytes())
    return _maps(network, images, targets, batch_size, key, [chosen], relevance, "attention")


def _layer_named(network: Network, steps: list[Step], layer: str) -> Step:
    if not layer:
        return _one_stream(network, steps)[-1]
    found = [step for step in steps if layer in (step.path, step.path.split("/")[-1])]
    if len(found) != 1:
        paths = [step.path for step in steps]
        raise ModelError(f"layer={layer!r} does not name one attention layer of the model; {suggest(layer, paths)}")
    return found[0]


def attention_rollout(
    network, images, targets, batch_size, *, fusion: str, discard_ratio: float, query: str
) -> np.ndarray:
    """The class token's row of R_L ... R_1, with R_l the rows of (E_h[A_l] + I) divided by their sums (Abnar & Zuidema
    2020, arXiv:2005.00928, section 3).

    I stands for the residual connection. ``fusion`` takes the heads' max or min in place of their mean, and
    ``discard_ratio`` sets that fraction of each image's and each layer's fused attention, the smallest entries, to 0
    before I is added; both are common in practice, not in the paper. Where the head pools the patches, the mean of
    their rows is drawn. The map does not depend on the class that is asked for.
    """
    steps = _same_tokens(network, attention_layers(network))
    start = _start(network, steps[-1], steps[-1], images, query)

    def relevance(batch, _):
        _, maps, _ = _forward(network, batch, steps)
        row = _rows(start, batch)
        for A in reversed(maps):
            fused = _discard(_FUSIONS[fusion](_by_head(A), axis=1), discard_ratio)
            mixed = fused + tf.eye(len(start))
            row = _times(row, mixed / tf.reduce_sum(mixed, axis=-1, keepdims=True))
        return row

    key = ("attention rollout", fusion, discard_ratio, start.tobytes())
    return _maps(network, images, targets, batch_size, key, steps, relevance, "attention rollout")


def _discard(fused: Any, ratio: float) -> Any:
    """The smallest entries of each image's ``(tokens, tokens)`` set to 0; entries equal to the smallest kept stay."""
    tokens = fused.shape[-1]
    dropped = int(ratio * tokens * tokens)
    if not dropped:
        return fused
    smallest_kept = tf.sort(tf.reshape(fused, [-1, tokens * tokens]), axis=1)[:, dropped]
    return tf.where(fused >= smallest_kept[:, None, None], fused, 0.0)


def transformer_attribution(network, images, targets, batch_size, *, form: str, query: str) -> np.ndarray:
    """The class token's row of (I + M_L) ... (I + M_1) (Chefer, Gur & Wolf 2021), S the logit of the target.

    ``form="generic"`` (default): M_l = E_h[relu(dS/dA_l * A_l)] (arXiv:2103.15679, eq. 5 and 6: R = I, then for each
    layer R = R + M_l R). ``form="relevance"``: M_l = E_h[relu(dS/dA_l * R(A_l))] (arXiv:2012.09838, eq. 13 and 14),
    R(A_l) the probabilities' relevance when the target's logit has relevance 1, propagated by the paper's own rules
    (`xaiutils.attribution.relevance.transformer`), which for LayerNorm, softmax and sums are not those of the method
    lrp. A head of one sigmoid unit starts with relevance 1 for either class, and the gradient has the class's sign.

    The map is specific to the class. Where the head pools the patches, the mean of their rows is drawn, without I's
    own share, which is the same for every patch.
    """
    steps = _same_tokens(network, attention_layers(network))
    start = _start(network, steps[-1], steps[-1], images, query)

    known = network.compiled("kinds of LRP", lambda: rules.kinds(network, "LRP")) if form == "relevance" else None

    def relevance(batch, chosen):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            logits, maps, _ = _forward(network, batch, steps, tape.watch)
            total = tf.reduce_sum(class_scores(network, logits, chosen, "logit"))
        gradients = _gradients(tape, total, maps, steps)
        weights = [_by_head(A) for A in maps] if known is None else _relevance(network, known, batch, chosen, steps)
        row = first = _rows(start, batch)
        for weight, g in zip(reversed(weights), reversed(gradients), strict=True):
            row += _times(row, tf.reduce_mean(tf.nn.relu(g * weight), axis=1))
        return row - first

    key = ("transformer attribution", form, start.tobytes())
    return _maps(network, images, targets, batch_size, key, steps, relevance, "transformer attribution")


def _relevance(network: Network, known: dict[Step, str], images: Any, targets: Any, steps: Sequence[Step]) -> list[Any]:
    """Relevance of the probabilities of ``steps``, by head; ``known`` are the kinds of the network's steps."""

    def propagation(asking: dict[Step, Step]) -> Rule:
        kinds = {**known, **{stand_in: known[step] for step, stand_in in asking.items()}}
        return TransformerPropagation(network, kinds, images)

    units = tf.ones_like(targets) if network.activation == "binary" else targets
    with network.in_float32():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            logits, maps, _ = _forward(network, images, steps, tape.watch, inner=propagation)
        return _gradients(tape, logits, maps, steps, seed=tf.one_hot(units, network.n_classes))


def legrad(network, images, targets, batch_size, *, pooling: str) -> np.ndarray:
    """Sum over layers of the mean over heads and queries of relu(ds_l/dA_l) (Bousselham et al. 2024,
    arXiv:2404.03214).

    s_l is the target's logit when the model's last norm and head are given the tokens that leave block l (behind its
    last residual addition). ``pooling="mean"`` (default, as the authors' code): where the head reads the class token
    alone it is given the mean of all tokens, which every query then has a part in; a head that pools the tokens itself
    gets them as they are. ``pooling="model"``: the class token, as the model is used. There is no product with A_l. The
    paper scales the map to [0, 1] at the end; here it is left as it is. The map is specific to the class.
    """
    steps = _same_tokens(network, attention_layers(network))
    ends = _block_ends(network, steps)
    token = _class_token(network, steps[-1])
    averaged = pooling == "mean" and token is not None and _reads_alone(network, steps[-1], token, images)

    def relevance(batch, chosen):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            _, maps, tokens = _forward(network, batch, steps, tape.watch, ends)
            read = tf.concat(tokens, axis=0)
            if averaged:  # in every place, so also in that of the class token
                read = tf.zeros_like(read) + tf.reduce_mean(read, axis=1, keepdims=True)
            scores = network.from_layer(ends[-1].path, read)
            total = tf.reduce_sum(class_scores(network, scores, tf.tile(chosen, [len(ends)]), "logit"))
        gradients = _gradients(tape, total, maps, steps)
        return tf.add_n([tf.reduce_mean(tf.nn.relu(g), axis=(1, 2)) for g in gradients])

    return _maps(network, images, targets, batch_size, ("legrad", averaged), steps, relevance, "LeGrad")


def _block_ends(network: Network, steps: Sequence[Step]) -> list[Step]:
    """The last residual addition behind each attention layer, before the next."""
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
                f"no residual addition (keras.layers.Add or +) of tokens {shape} follows layer {step.path!r}, so it "
                "cannot be told where its block ends; use transformer_attribution."
            )
        ends.append(additions[-1])
    return ends


_FUSION = Parameter("fusion", str, "mean", "how the heads become one map", choices=tuple(_FUSIONS))
_QUERY = Parameter(
    "query",
    str,
    "auto",
    "whose row is drawn: the class token's, or the mean of the patches'; auto: the first where the head reads it alone",
    choices=("auto", "class_token", "patches"),
)

RAW_ATTENTION = Method(
    name="raw_attention",
    title="Raw attention",
    family="attention",
    paper="Abnar & Zuidema 2020 (as a baseline), arXiv:2005.00928",
    signed=False,
    cost="1 forward",
    compute=raw_attention,
    parameters=(
        Parameter("layer", str, "", "path of the attention layer; empty: the last"),
        _FUSION,
        _QUERY,
    ),
    suits=("vit",),
)

ATTENTION_ROLLOUT = Method(
    name="attention_rollout",
    title="Attention rollout",
    family="attention",
    paper="Abnar & Zuidema 2020, arXiv:2005.00928",
    signed=False,
    cost="1 forward",
    compute=attention_rollout,
    parameters=(
        _FUSION,
        Parameter(
            "discard_ratio",
            float,
            0.0,
            "fraction of each layer's attention, its smallest entries, set to 0 first; the paper: 0",
            0.0,
            0.99,
        ),
        _QUERY,
    ),
    suits=("vit",),
)

TRANSFORMER_ATTRIBUTION = Method(
    name="transformer_attribution",
    title="Transformer attribution",
    family="attention",
    paper="Chefer, Gur & Wolf 2021, arXiv:2103.15679 (generic) and arXiv:2012.09838 (relevance)",
    signed=False,
    cost="1 gradient (relevance: about 4)",
    compute=transformer_attribution,
    parameters=(
        Parameter(
            "form",
            str,
            "generic",
            "what the gradient is multiplied by: attention (ICCV 2021), or its LRP relevance (CVPR 2021)",
            choices=("generic", "relevance"),
        ),
        _QUERY,
    ),
    suits=("vit",),
)

LEGRAD = Method(
    name="legrad",
    title="LeGrad",
    family="attention",
    paper="Bousselham, Boggust, Chaybouti, Strobelt & Kuehne 2024, arXiv:2404.03214",
    signed=False,
    cost="1 gradient",
    compute=legrad,
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
