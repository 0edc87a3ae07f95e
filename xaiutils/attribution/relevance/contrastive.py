"""Contrastive LRP: the relevance of the target class less that of its competitors (CLRP and SGLRP)."""

from typing import Any

import numpy as np

from xaiutils.attribution.method import Method
from xaiutils.attribution.relevance.lrp import relevance, rule_parameters
from xaiutils.attribution.relevance.seeds import Seed, at_logits, target_scores
from xaiutils.backend import tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import ModelError, Network
from xaiutils.registry import Parameter


def _check_classes(network: Network, method: str) -> None:
    if network.activation == "score":
        raise ModelError(f"{method} contrasts a class with the other classes, and a score has none; use lrp.")
    kinds(network, "LRP")


def clrp(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, variant: str, **options: Any
) -> np.ndarray:
    """Contrastive LRP: the target's relevance less that of all other classes (Gu, Yang & Tresp 2018, arXiv:1812.02100).

    ``variant="published"``: R - R_dual, where R starts with abs(S_t) at the target t, and R_dual with abs(S_t) /
    (N - 1) at each of the N - 1 other classes. The paper writes S_t, its code takes the absolute value: with a negative
    logit, which a constant added to all logits can make, the map would change its sign. ``variant="code"``: as the
    published code, R_dual is rescaled to the sum of R, and negative values are cut. The rules are the paper's: z_plus,
    z_box at the pixels, and no relevance for biases. For the other parameters see `lrp`.
    """
    _check_classes(network, "clrp")
    if variant == "published":
        return relevance(network, images, targets, batch_size, clrp_seed, **options).sum(axis=-1)
    return _rescaled_contrast(network, images, targets, batch_size, (clrp_target, clrp_dual), **options)


def clrp_seed(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) at the target, -abs(S_t) / (N - 1) at the other classes."""
    return clrp_target(network, logits, targets) - clrp_dual(network, logits, targets)


def clrp_target(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) at the target."""
    size = tf.abs(target_scores(network, logits, targets))
    return at_logits(network, targets, size, tf.zeros_like(size))


def clrp_dual(network: Network, logits: Any, targets: Any) -> Any:
    """abs(S_t) / (N - 1) at the other classes."""
    size = tf.abs(target_scores(network, logits, targets))
    return at_logits(network, targets, tf.zeros_like(size), size / max(network.n_classes - 1, 1))


def sglrp(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, variant: str, **options: Any
) -> np.ndarray:
    """Softmax-gradient LRP (Iwana, Kuroki & Uchida 2019, arXiv:1908.04351).

    Relevance starts with the softmax's gradient: p_t (1 - p_t) at the target t and -p_t p_n at every other class n, so
    the classes that compete most are contrasted most. A probability near 1 makes maps small. ``variant="code"``: the
    positive and the negative part are propagated alone, the latter is rescaled to the sum of the former and
    subtracted, and negative values are cut. The rules are the paper's: z_plus, z_box at the pixels, and no relevance
    for biases. For the other parameters see `lrp`.
    """
    _check_classes(network, "sglrp")
    if variant == "published":
        return relevance(network, images, targets, batch_size, sglrp_seed, **options).sum(axis=-1)
    return _rescaled_contrast(network, images, targets, batch_size, (sglrp_target, sglrp_dual), **options)


def sglrp_seed(network: Network, logits: Any, targets: Any) -> Any:
    """p_t (1 - p_t) at the target, -p_t p_n at the other classes: the gradient of p_t by the logits."""
    return sglrp_target(network, logits, targets) - sglrp_dual(network, logits, targets)


def sglrp_target(network: Network, logits: Any, targets: Any) -> Any:
    """p_t (1 - p_t) at the target."""
    own, others = _softmax_gradient(network, logits, targets)
    return at_logits(network, targets, own, tf.zeros_like(others))


def sglrp_dual(network: Network, logits: Any, targets: Any) -> Any:
    """p_t p_n at the other classes."""
    own, others = _softmax_gradient(network, logits, targets)
    return at_logits(network, targets, tf.zeros_like(own), others)


def _softmax_gradient(network: Network, logits: Any, targets: Any) -> tuple[Any, Any]:
    """p_t (1 - p_t) ``(n,)``, without loss of digits where p_t is near 1, and p_t p_n ``(n, classes)``."""
    if network.activation == "softmax":
        p = tf.nn.softmax(logits)
        own = tf.gather(p, targets, axis=1, batch_dims=1)[:, None]
        rest = tf.reduce_sum(p * (1 - tf.one_hot(targets, network.n_classes)), axis=1)
        return own[:, 0] * rest, own * p
    z = target_scores(network, logits, targets)
    return tf.sigmoid(z) * tf.sigmoid(-z), tf.zeros_like(logits)


def _rescaled_contrast(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, seeds: tuple[Seed, Seed], **options: Any
) -> np.ndarray:
    """relu(R - R_dual * sum R / sum R_dual), as the methods' code has it."""
    R, R_dual = (relevance(network, images, targets, batch_size, seed, **options).sum(axis=-1) for seed in seeds)
    wanted, found = (maps.sum(axis=(1, 2), keepdims=True, dtype=np.float64) for maps in (R, R_dual))
    scale = np.divide(wanted, found, out=np.zeros_like(wanted), where=found != 0)
    return np.maximum(R - scale * R_dual, 0).astype(np.float32)


_PARAMETERS = (
    Parameter(
        "variant",
        str,
        "published",
        "the published difference; or, as the published code, the dual rescaled and negative values cut",
        choices=("published", "code"),
    ),
    *rule_parameters("deep_taylor", bias=False),
)
CLRP = Method(
    name="clrp",
    title="Contrastive LRP",
    family="relevance",
    paper="Gu, Yang & Tresp 2018, arXiv:1812.02100",
    signed=True,
    cost="as lrp (variant code: twice)",
    compute=clrp,
    needs="rules",
    check=lambda network: _check_classes(network, "clrp"),
    shift_invariant=False,  # in its scale alone, which is that of the logit
    signed_by=lambda parameters: parameters["variant"] == "published",
    parameters=_PARAMETERS,
)
SGLRP = Method(
    name="sglrp",
    title="Softmax-gradient LRP",
    family="relevance",
    paper="Iwana, Kuroki & Uchida 2019, arXiv:1908.04351",
    signed=True,
    cost="as lrp (variant code: twice)",
    compute=sglrp,
    needs="rules",
    check=lambda network: _check_classes(network, "sglrp"),
    shift_invariant_by=lambda parameters: not parameters["bias"],
    signed_by=lambda parameters: parameters["variant"] == "published",
    parameters=_PARAMETERS,
)
