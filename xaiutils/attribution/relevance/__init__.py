"""Layer-wise relevance propagation (LRP), and its contrastive forms CLRP and SGLRP.

The backward pass is linear in the relevance that enters at the logits (`seeds`), so contrasts of two of them are one
pass. A head of one sigmoid unit with the logit z is read as a softmax over the logits z and a constant 0: the unit
takes the relevance S = z for class 1 and S = -z for class 0, or the seed's number with that sign, and the two classes'
maps are each other's negative. Units of independent sigmoids are read so too, each for itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xaiutils.attribution import backward_rules as rules
from xaiutils.attribution.method import SHARES, Method
from xaiutils.attribution.relevance.linear_rules import Settings
from xaiutils.attribution.relevance.propagation import COMPOSITES, Propagation
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, reduce_channels
from xaiutils.registry import Parameter

Seed = Callable[[Network, Any, Any], Any]  # (network, logits, targets) -> relevance of the logits


def lrp(
    network, images, targets, batch_size, *, rule: str, first: str, epsilon, gamma, alpha, bias, reduction: str
) -> np.ndarray:
    """Relevance R of the pixels, summed over channels unless ``reduction`` says otherwise, when the target's logit is
    S = R (Bach et al. 2015, doi:10.1371/journal.pone.0130140).

    ``rule`` names the rules of the learned linear layers by their depth: one for all ("epsilon", "z_plus",
    "alpha_beta", "gamma", "flat", "w2"; see `linear_rules`), or a composite: "epsilon_plus" has z_plus in convolutions
    and epsilon in dense layers, "epsilon_alpha_beta" alpha_beta and epsilon, each also with "_flat" at the layer that
    reads the pixels; "epsilon_gamma_box" gamma, epsilon and z_box at the pixels (Montavon et al. 2019,
    doi:10.1007/978-3-030-28954-6_10); "deep_taylor" z_plus and z_box (Montavon et al. 2017, arXiv:1512.02479).
    ``first`` sets another rule at the pixels. `propagation` says how every other layer is passed.

    The paper's own rules are "epsilon" and "alpha_beta"; "epsilon_plus", the default, is what later work recommends for
    convolutional networks. Where the epsilon rule holds in the last layer a constant added to all logits changes
    nothing, for the bias takes its own share of S. Under the others the map's sign follows that of S: where S is
    negative, the same pattern is negative.

    Maps sum to S but for what epsilon takes, what goes to biases (``bias=True``: also batch norm's, LayerNorm's, the
    class token's and position embeddings' share), what reaches units without a positive contribution (z_plus,
    alpha_beta), and what the rule for attention's softmax does not conserve. In deep networks with batch norm biases
    take nearly all (EfficientNet-Lite0 with "epsilon_plus" keeps less than a thousandth of S in its pixels): read the
    pattern, not the sum. ``bias=False`` leaves biases out of the denominators: more is conserved, but results near 0
    then have relevance that is large and of both signs, and overflows in deep networks with the epsilon rule in
    convolutions.
    """
    settings = Settings(epsilon, gamma, alpha, bias)
    found = relevance(network, images, targets, batch_size, logit_seed, rule, first, settings)
    return reduce_channels(found, reduction)


def clrp(
    network, images, targets, batch_size, *, variant: str, rule: str, first: str, epsilon, gamma, alpha, bias
) -> np.ndarray:
    """Contrastive LRP: the target's relevance less that of all other classes (Gu, Yang & Tresp 2018, arXiv:1812.02100).

    ``variant="published"``: R - R_dual, where R starts with abs(S_t) at the target t, and R_dual with abs(S_t) /
    (N - 1) at each of the N - 1 other classes. The paper writes S_t, its code takes the absolute value: with a negative
    logit, which a constant added to all logits can make, the map would be turned over. ``variant="code"``: as the
    published code, R_dual is rescaled to the sum of R, and negative values are cut. The rules are the paper's: z_plus,
    z_box at the pixels, and no relevance for biases. For the other parameters see `lrp`.
    """
    settings = Settings(epsilon, gamma, alpha, bias)
    if variant == "published":
        return relevance(network, images, targets, batch_size, clrp_seed, rule, first, settings).sum(axis=-1)
    return _rescaled_contrast(network, images, targets, batch_size, clrp_target, clrp_dual, rule, first, settings)


def sglrp(
    network, images, targets, batch_size, *, variant: str, rule: str, first: str, epsilon, gamma, alpha, bias
) -> np.ndarray:
    """Softmax-gradient LRP (Iwana, Kuroki & Uchida 2019, arXiv:1908.04351).

    Relevance starts with the softmax's gradient: p_t (1 - p_t) at the target t and -p_t p_n at every other class n, so
    the classes that compete most are contrasted most. A probability near 1 makes maps small. ``variant="code"``: the
    positive and the negative part are propagated alone, the latter is rescaled to the sum of the former and
    subtracted, and negative values are cut. The rules are the paper's: z_plus, z_box at the pixels, and no relevance
    for biases. For the other parameters see `lrp`.
    """
    settings = Settings(epsilon, gamma, alpha, bias)
    if variant == "published":
        return relevance(network, images, targets, batch_size, sglrp_seed, rule, first, settings).sum(axis=-1)
    return _rescaled_contrast(network, images, targets, batch_size, sglrp_target, sglrp_dual, rule, first, settings)


def _rescaled_contrast(network, images, targets, batch_size, seed, dual, rule, first, settings) -> np.ndarray:
    """relu(R - R_dual * sum R / sum R_dual), as the methods' code has it."""
    R, R_dual = (
        relevance(network, images, targets, batch_size, start, rule, first, settings).sum(axis=-1)
        for start in (seed, dual)
    )
    wanted, found = (maps.sum(axis=(1, 2), keepdims=True, dtype=np.float64) for maps in (R, R_dual))
    scale = np.divide(wanted, found, out=np.zeros_like(wanted), where=found != 0)
    return np.maximum(R - scale * R_dual, 0).astype(np.float32)


def relevance(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    seed: Seed,
    rule: str,
    first: str = "",
    settings: Settings = Settings(),  # noqa: B008 (it is frozen)
) -> np.ndarray:
    """Relevance of the pixels in all channels, ``(n, height, width, 3)`` float32, for a seed at the logits."""
    key = ("relevance", seed, rule, first, settings)
    known = network.compiled("kinds of LRP", lambda: rules.kinds(network, "LRP"))

    def make(batch: Any) -> Propagation:
        return Propagation(network, known, batch, rule, "" if first == "as_rule" else first, settings)

    run = rules.input_signal(network, key, make, lambda scores, wanted: seed(network, scores, wanted))
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, "relevance")])


# Seeds: the relevance of the logits ---------------------------------------------------------------------------------


def place(network: Network, targets: Any, at_target: Any, elsewhere: Any) -> Any:
    """Relevance ``at_target`` (n,) of the target's logit and ``elsewhere`` (n,) or (n, classes) of the others'.

    Of two logits (-z, z) that are one unit, all relevance is put on z, with the sign of the target's logit.
    """
    target = tf.one_hot(targets, network.n_classes)
    if network.activation == "binary":
        sign = 2.0 * tf.cast(targets, tf.float32) - 1.0
        return tf.one_hot(tf.ones_like(targets), 2) * (sign * at_target)[:, None]
    if network.activation == "sigmoid":
        return target * at_target[:, None]
    elsewhere = elsewhere if len(elsewhere.shape) == 2 else elsewhere[:, None]
    return target * at_target[:, None] + (1 - target) * elsewhere


def target_scores(network: Network, logits: Any, targets: Any) -> Any:
    """S of each image, ``(n,)``; of one unit, z: `place` gives it its sign."""
    if network.activation == "binary":
        return logits[:, 1]
    return tf.gather(logits, targets, axis=1, batch_dims=1)


def logit_seed(network: Network, logits: Any, targets: Any) -> Any:
    """S_t at the target."""
    scores = target_scores(network, logits, targets)
    return place(network, targets, scores, tf.zeros_like(scores))


def clrp_target(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) at the target."""
    size = tf.abs(target_scores(network, logits, targets))
    return place(network, targets, size, tf.zeros_like(size))


def clrp_dual(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) / (N - 1) at the other classes."""
    size = tf.abs(target_scores(network, logits, targets))
    return place(network, targets, tf.zeros_like(size), size / max(network.n_classes - 1, 1))


def clrp_seed(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) at the target, -abs(S_t) / (N - 1) at the other classes."""
    return clrp_target(network, logits, targets) - clrp_dual(network, logits, targets)


def sglrp_target(network: Network, logits: Any, targets: Any) -> Any:
    """p_t (1 - p_t) at the target."""
    own, others = _softmax_gradient(network, logits, targets)
    return place(network, targets, own, tf.zeros_like(others))


def sglrp_dual(network: Network, logits: Any, targets: Any) -> Any:
    """p_t p_n at the other classes."""
    own, others = _softmax_gradient(network, logits, targets)
    return place(network, targets, tf.zeros_like(own), others)


def sglrp_seed(network: Network, logits: Any, targets: Any) -> Any:
    """p_t (1 - p_t) at the target, -p_t p_n at the other classes: the gradient of p_t by the logits."""
    return sglrp_target(network, logits, targets) - sglrp_dual(network, logits, targets)


def _softmax_gradient(network: Network, logits: Any, targets: Any) -> tuple[Any, Any]:
    """p_t (1 - p_t) ``(n,)``, without loss of digits where p_t is near 1, and p_t p_n ``(n, classes)``."""
    if network.activation == "softmax":
        p = tf.nn.softmax(logits)
        own = tf.gather(p, targets, axis=1, batch_dims=1)[:, None]
        rest = tf.reduce_sum(p * (1 - tf.one_hot(targets, network.n_classes)), axis=1)
        return own[:, 0] * rest, own * p
    z = target_scores(network, logits, targets)
    return tf.sigmoid(z) * tf.sigmoid(-z), tf.zeros_like(logits)


def _parameters(rule: str, bias: bool) -> tuple[Parameter, ...]:
    """The parameters of LRP with a method's own defaults."""
    return (
        Parameter(
            "rule",
            str,
            rule,
            "the linear layers' rule, or a composite by depth",
            choices=tuple(COMPOSITES),
        ),
        Parameter(
            "first",
            str,
            "as_rule",
            "rule of the layer that reads the pixels, instead of what rule says",
            choices=("as_rule", "epsilon", "z_plus", "alpha_beta", "gamma", "flat", "w2", "z_box"),
        ),
        Parameter("epsilon", float, 1e-6, "stabiliser of the epsilon rule, in units of the layer's output", 0.0, 1e6),
        Parameter("gamma", float, 0.25, "weight of positive contributions in the gamma rule", 0.0, 1e6),
        Parameter(
            "alpha", float, 2.0, "weight of positive contributions in the alpha-beta rule; beta = alpha - 1", 1.0, 1e3
        ),
        Parameter("bias", bool, bias, "biases take their share of relevance"),
    )


def _starts_with_what_its_weights_give(parameters: Mapping[str, Any]) -> bool:
    """Whether the last layer hands on x_i w_ij alone, the bias its own share of the logit, whatever the bias is."""
    return COMPOSITES[parameters["rule"]][1] == "epsilon" and parameters["bias"] and parameters["epsilon"] <= 1e-6


_VARIANT = Parameter(
    "variant",
    str,
    "published",
    "the published difference; or, as the published code, the dual rescaled and negative values cut",
    choices=("published", "code"),
)
LRP = Method(
    name="lrp",
    title="LRP",
    family="relevance",
    paper="Bach, Binder, Montavon, Klauschen, Mueller & Samek 2015, doi:10.1371/journal.pone.0130140; AttnLRP: "
    "Achtibat et al. 2024, arXiv:2402.05602",
    signed=True,
    cost="1 gradient (epsilon) to about 3",
    compute=lrp,
    shift_invariant_by=_starts_with_what_its_weights_give,
    reading_by=lambda parameters: "magnitude" if parameters["rule"] == "epsilon" else "positive",
    parameters=(*_parameters("epsilon_plus", bias=True), SHARES),
)

CLRP = Method(
    name="clrp",
    title="Contrastive LRP",
    family="relevance",
    paper="Gu, Yang & Tresp 2018, arXiv:1812.02100",
    signed=True,
    cost="as lrp (variant code: twice)",
    compute=clrp,
    shift_invariant=False,  # in its scale alone, which is that of the logit
    signed_by=lambda parameters: parameters["variant"] == "published",
    parameters=(_VARIANT, *_parameters("deep_taylor", bias=False)),
)

SGLRP = Method(
    name="sglrp",
    title="Softmax-gradient LRP",
    family="relevance",
    paper="Iwana, Kuroki & Uchida 2019, arXiv:1908.04351",
    signed=True,
    cost="as lrp (variant code: twice)",
    compute=sglrp,
    shift_invariant_by=lambda parameters: not parameters["bias"],
    signed_by=lambda parameters: parameters["variant"] == "published",
    parameters=(_VARIANT, *_parameters("deep_taylor", bias=False)),
)
