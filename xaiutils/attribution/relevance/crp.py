"""Concept relevance propagation: the relevance that goes through chosen channels of a layer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from xaiutils.attribution.backward_rules import input_signal, layer_signals, relay
from xaiutils.attribution.method import LAYER, SHARES, Method
from xaiutils.attribution.relevance.linear_rules import Settings
from xaiutils.attribution.relevance.lrp import logit_seed, rule_parameters, starts_with_what_its_weights_give
from xaiutils.attribution.relevance.propagation import Propagation
from xaiutils.backend import tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.network import Network, Step
from xaiutils.graph.passes import batches, reduce_channels
from xaiutils.registry import Parameter, is_integer


def crp(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    channels: list[int],
    reduction: str,
    **rules: Any,
) -> np.ndarray:
    """Relevance of the pixels as in `lrp`, of which at ``layer`` only that of ``channels`` goes on: R_k = 0 for every
    other channel k, at all places or tokens (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8, arXiv:2206.03208).

    Maps of single channels add up to the map of all of them, which is LRP's, less what goes around the layer. Without
    ``channels``, that of the largest absolute relevance, summed over places, is taken for each image by itself. Where
    the score goes through several layers together, each layer's map is added. The paper's rules are
    "epsilon_plus_flat": z_plus in convolutions, epsilon in dense layers, flat at the pixels. Which images of a set a
    channel is most relevant for: `xaiutils.beyond_maps.relevant_examples`.
    """
    found = np.zeros(images.shape, np.float32)
    for path in network.cam_layers(layer):
        n_channels = check_channels(network, path, channels)
        if channels:
            kept = np.repeat(np.isin(np.arange(n_channels), channels)[None], len(images), axis=0)
        else:
            totals = channel_relevance(network, images, targets, batch_size, path, **rules)
            kept = np.arange(n_channels) == np.abs(totals).argmax(axis=1)[:, None]
        found += relevance_through(network, images, targets, batch_size, path, kept, **rules)
    return reduce_channels(found, reduction)


def relevance_through(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    path: str,
    kept: np.ndarray,
    **rules: Any,
) -> np.ndarray:
    """Relevance of the pixels in all colours, ``(n, height, width, C)`` float32, that goes through the channels of the
    layer ``path`` that are ``kept`` in each image, bool ``(n, channels)``; ``rules`` are those of `channel_relevance`.
    """
    key = ("relevance through", path, *sorted(rules.items()))
    more = [tf.TensorSpec([None, kept.shape[1]], tf.float32)]
    make, start = _propagations(network, path, **rules), partial(logit_seed, network)
    run = input_signal(network, key, make, start, more)
    found = [run(images[b], targets[b], kept[b].astype(np.float32)) for b in batches(len(images), batch_size, "CRP")]
    return np.concatenate(found)


def channel_relevance(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    path: str,
    over_places: str = "sum",
    **rules: Any,
) -> np.ndarray:
    """Relevance of each channel of the layer ``path``, ``(n, channels)`` float32: its "sum" over places, or its largest
    value ("max"). ``rules`` are those of `crp`, rule, first and those of `Settings`."""
    make = _propagations(network, path, **rules)
    key = ("relevance at", path, *sorted(rules.items()))
    run = layer_signals(network, key, [path], make, partial(logit_seed, network))
    reduced = np.sum if over_places == "sum" else np.max
    found = []
    for b in batches(len(images), batch_size, "relevance of channels"):
        ((_, R),) = run(images[b], targets[b])
        found.append(reduced(R.numpy(), axis=tuple(range(1, len(R.shape) - 1))))
    return np.concatenate(found)


def _propagations(
    network: Network, path: str, rule: str, first: str = "as_rule", **settings: Any
) -> Callable[..., "_Conditional"]:
    """What makes the rule of one pass over images, and over the channels of the layer that are kept in each."""
    known = network.compiled("kinds of LRP", lambda: kinds(network, "LRP"))
    chosen, at = Settings(**settings), network.step(path)

    def make(images: Any, kept: Any = None) -> _Conditional:
        return _Conditional(at, kept, network, known, images, rule, "" if first == "as_rule" else first, chosen)

    return make


class _Conditional(Propagation):
    """`Propagation` in which of the step ``at`` the relevance of some ``channels`` goes on, ones in ``(n, channels)``;
    None: that of all."""

    def __init__(
        self,
        at: Step,
        channels: Any,
        network: Network,
        known: dict[Step, str],
        images: Any,
        composite: str,
        first: str,
        settings: Settings,
    ):
        super().__init__(network, known, images, composite, first, settings, {at})
        self._at, self._channels = at, channels

    def __call__(self, step: Any, inputs: list[Any], compute: Callable) -> list[Any]:
        y, *others = super().__call__(step, inputs, compute)
        if step is not self._at or self._channels is None:
            return [y, *others]
        mask = tf.reshape(self._channels, [-1, *[1] * (len(y.shape) - 2), y.shape[-1]])
        return [*relay([y], [y], lambda R: [R * mask]), *others]


def check_channels(network: Network, path: str, channels: Sequence[Any]) -> int:
    """How many channels a layer has; ValueError where ``channels`` are not of them."""
    n_channels = network.shapes[network.step(path).outputs[0]][-1] or 0
    wrong = [k for k in channels if not is_integer(k) or not 0 <= k < n_channels]
    if wrong:
        raise ValueError(
            f"channels={list(channels)!r}; expected numbers from 0 to {n_channels - 1}, those of {path!r}."
        )
    return n_channels


def _check(network: Network) -> None:
    network.cam_layers()
    kinds(network, "LRP")


CRP = Method(
    name="crp",
    title="CRP",
    family="relevance",
    paper="Achtibat, Dreyer, Eisenbraun, Bosse, Wiegand, Samek & Lapuschkin 2023, doi:10.1038/s42256-023-00711-8",
    signed=True,
    cost="as lrp; without channels, also relevance down to the layer",
    compute=crp,
    needs="rules",
    check=_check,
    shift_invariant_by=starts_with_what_its_weights_give,
    parameters=(
        LAYER,
        Parameter("channels", list, [], "whose relevance goes on; empty: of each image the one with the most"),
        *rule_parameters("epsilon_plus_flat", bias=True),
        SHARES,
    ),
)
