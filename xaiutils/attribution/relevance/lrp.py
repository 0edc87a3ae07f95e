"""Layer-wise relevance propagation (LRP) of the target's logit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import input_signal
from xaiutils.attribution.method import SHARES, Method
from xaiutils.attribution.relevance.linear_rules import RULES, Settings
from xaiutils.attribution.relevance.propagation import COMPOSITES, Propagation
from xaiutils.attribution.relevance.seeds import Seed, at_logits, target_scores
from xaiutils.backend import tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, reduce_channels
from xaiutils.registry import Parameter


def lrp(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, reduction: str, **options: Any
) -> np.ndarray:
    """Relevance R of the pixels, summed over channels unless ``reduction`` says otherwise, when the target's logit is
    S = R (Bach et al. 2015, doi:10.1371/journal.pone.0130140).

    ``rule`` names the rules of the learned linear layers by their depth: one for all ("epsilon", "z_plus",
    "alpha_beta", "gamma", "flat", "w2"; see `linear_rules`), or a composite: "epsilon_plus" has z_plus in convolutions
    and epsilon in dense layers, "epsilon_alpha_beta" alpha_beta and epsilon, each also with "_flat" at the layer that
    reads the pixels; "epsilon_gamma_box" gamma, epsilon and z_box at the pixels (Montavon et al. 2019,
    doi:10.1007/978-3-030-28954-6_10); "deep_taylor" z_plus and z_box (Montavon et al. 2017, arXiv:1512.02479).
    ``first`` sets another rule at the pixels. The bounds of z_box are what the model makes of a black and of a white
    image; where it scales each image by the image's own mean, maximum or deviation these bound nothing, and the image's
    own smallest and largest values then, with 0, take their place. `propagation` says how every other layer is passed.

    Gates, as those of squeeze and excitation or of a selective kernel, are constants; with ``gates="relevance"`` half
    of a product's relevance goes back through the layers that made its gate, which does not conserve it where there is
    a softmax among them.

    The paper's own rules are "epsilon" and "alpha_beta"; "epsilon_plus", the default, is what later work recommends for
    convolutional networks. Where the epsilon rule holds in the last layer a constant added to all logits changes
    nothing, for the bias takes its own share of S. Under the others the map's sign follows that of S: where S is
    negative, the same pattern is negative.

    Maps sum to S except for what epsilon takes, what goes to biases (``bias=True``: also batch norm's, LayerNorm's, the
    class token's and position embeddings' share), what reaches units without a positive contribution (z_plus,
    alpha_beta), and what the rule for attention's softmax does not conserve. In deep networks with batch norm biases
    take nearly all (EfficientNet-Lite0 with "epsilon_plus" keeps less than a thousandth of S in its pixels): read the
    pattern, not the sum. ``bias=False`` leaves biases out of the denominators: more is conserved, but results near 0
    then have relevance that is large and of both signs, and overflows in deep networks with the epsilon rule in
    convolutions.
    """
    return reduce_channels(relevance(network, images, targets, batch_size, logit_seed, **options), reduction)


def logit_seed(network: Network, logits: Any, targets: Any) -> Any:
    """S_t at the target."""
    scores = target_scores(network, logits, targets)
    return at_logits(network, targets, scores, tf.zeros_like(scores))


def relevance(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    seed: Seed,
    rule: str,
    first: str = "as_rule",
    **settings: Any,
) -> np.ndarray:
    """Relevance of the pixels in all channels, ``(n, height, width, C)`` float32, for a seed at the logits.

    ``settings`` are those of `Settings`: epsilon, gamma, alpha, bias and gates."""
    chosen = Settings(**settings)
    known = network.compiled("kinds of LRP", lambda: kinds(network, "LRP"))

    def make(batch: Any) -> Propagation:
        return Propagation(network, known, batch, rule, "" if first == "as_rule" else first, chosen)

    key = ("relevance", seed, rule, first, chosen)
    run = input_signal(network, key, make, lambda scores, wanted: seed(network, scores, wanted))
    return np.concatenate([run(images[b], targets[b]) for b in batches(len(images), batch_size, "relevance")])


GATES = Parameter(
    "gates",
    str,
    "constant",
    "the smaller factor of a product (squeeze and excitation, selective kernels): a constant, or half goes through it",
    choices=("constant", "relevance"),
)


def rule_parameters(rule: str, bias: bool) -> tuple[Parameter, ...]:
    """The parameters by which `relevance` propagates, with a method's own defaults of ``rule`` and ``bias``."""
    return (
        Parameter("rule", str, rule, "the linear layers' rule, or a composite by depth", choices=tuple(COMPOSITES)),
        Parameter(
            "first",
            str,
            "as_rule",
            "rule of the layer that reads the pixels, instead of what rule says",
            choices=("as_rule", *RULES),
        ),
        Parameter("epsilon", float, 1e-6, "stabiliser of the epsilon rule, in units of the layer's output", 0.0, 1e6),
        Parameter("gamma", float, 0.25, "weight of positive contributions in the gamma rule", 0.0, 1e6),
        Parameter(
            "alpha", float, 2.0, "weight of positive contributions in the alpha-beta rule; beta = alpha - 1", 1.0, 1e3
        ),
        Parameter("bias", bool, bias, "biases take their share of relevance"),
        GATES,
    )


def starts_with_what_its_weights_give(parameters: Mapping[str, Any]) -> bool:
    """Whether the last layer hands on x_i w_ij alone, the bias its own share of the logit, whatever the bias is."""
    return COMPOSITES[parameters["rule"]][1] == "epsilon" and parameters["bias"] and parameters["epsilon"] <= 1e-6


LRP = Method(
    name="lrp",
    title="LRP",
    family="relevance",
    paper="Bach, Binder, Montavon, Klauschen, Mueller & Samek 2015, doi:10.1371/journal.pone.0130140; AttnLRP: "
    "Achtibat et al. 2024, arXiv:2402.05602",
    signed=True,
    cost="1 gradient (epsilon) to about 3",
    compute=lrp,
    needs="rules",
    shift_invariant_by=starts_with_what_its_weights_give,
    reading_by=lambda parameters: "magnitude" if parameters["rule"] == "epsilon" else "positive",
    parameters=(*rule_parameters("epsilon_plus", bias=True), SHARES),
)
