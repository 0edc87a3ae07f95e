"""Axioms as numbers: sensitivity and conservation of class activation maps at any layer.

A is a layer's activation ``(rows, columns, channels)``, S(A) the explained score as it follows from A, and M_k the sum
over space of channel k's part of the map, before any ReLU and before enlarging: w_k sum_ij A_k where the map is a
weighted sum of channels. Fu et al. 2020 (XGrad-CAM, arXiv:2008.02312) ask of a map

- sensitivity: S(A) - S(A without channel k) = M_k for every k; its error is
  sum_k abs(S(A) - S(A without k) - M_k) / sum_k abs(S(A) - S(A without k));
- conservation: sum_k M_k = S(A); its error is abs(S(A) - sum_k M_k) / abs(S(A)).

The errors are eq. 5.5 and 5.6 of the XRelevance-CAM thesis (You 2022), which takes them from that paper, for one image
and with a slip corrected: the thesis prints w_k R_k, R the relevance, where its own eq. 2.15, 2.16 and 4.10 have
w_k A_k, as here. 0 is the best value of both, and 1 is that of a map of zeros: an error near 1 may well come from a map
that is merely small. The thesis gives means over images, which single images with S near 0 can dominate; look at
medians too.

XGrad-CAM and HiResCAM share their channel sums, so both errors are the same for the two, up to XGrad-CAM's epsilon. At
the last layer of a network with mean pooling and one linear layer S is linear in A: they and Grad-CAM satisfy
sensitivity exactly, and conservation up to the linear layer's bias. (The thesis' table 5.8 has a sensitivity error of
0.999 there, beside a conservation error of 0.002 in table 5.9; eq. 5.5 does not give that.) Ablation-CAM's weights are
the drops themselves: they would satisfy sensitivity if they were divided by sum_ij A_k, as the thesis overlooks.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS
from xaiutils.attribution.cam.ablation_cam import channel_drops
from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.attribution.cam.relevance_cam import activations_and_relevance
from xaiutils.attribution.cam.score_cam import score_cam_weights
from xaiutils.attribution.method import Method
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activations_and_gradients, batches
from xaiutils.graph.predict import prepare
from xaiutils.progress import progress
from xaiutils.registry import suggest

SCORES = ("own", "logit")


# Methods whose weights come from one pass, and those whose weights need one for each channel.
DEFAULT_METHODS = (
    *("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hirescam", "layer_cam"),
    *("relevance_cam", "xrelevance_cam"),
)
CAM_METHODS = (*DEFAULT_METHODS, "score_cam", "ablation_cam")


def cam_axioms(
    model: keras.Model,
    ds: ImageDataset,
    methods: Sequence[str] = DEFAULT_METHODS,
    layers: Sequence[str] = (),
    targets: int | Iterable[int] | None = None,
    score: str = "own",
    max_channels: int = 0,
    batch_size: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """Errors of sensitivity and conservation (see this module) of class activation maps, 0 at best.

    Args:
        model: as `xaiutils.explain` takes.
        ds: the images, ``batch_size`` of them in one pass.
        methods: of `CAM_METHODS`, with the parameters that `xaiutils.METHODS` has as defaults. "score_cam" runs the
            whole model once for each channel; its weights do not have the unit of a score, so nothing makes it satisfy
            the axioms.
        layers: paths of feature maps or tokens; empty: the last layer of each resolution, or what enters the attention
            of each block of a transformer (`xaiutils.attribution.cam.layer_aggregate.default_layers`).
        targets: class index for all images, one for each, or None for each image's predicted class.
        score: "own": S is the target's logit S_t, and for Relevance-CAM and XRelevance-CAM the relevance that they
            start with here, S_t at the target and -S_t / N at each other of N classes, in all S_t / N, as in the
            thesis: their maps start with 1 and -1 / N, which do not have the unit of a score, and are multiplied by
            S_t. "logit": S_t for all.
        max_channels: > 0: sensitivity from this many channels, drawn by ``seed``, the same for all images and methods;
            0: from all. Every channel costs a pass of the layers after ``layer``. Conservation takes all in any case.

    Returns:
        A row for each method, layer, image and axiom: method, layer, image_id, axiom ("sensitivity" or
        "conservation"), value; NaN where S, or all its changes, are 0.

    Raises:
        ValueError: a method, a score or a number is not as needed. ModelError: a layer has no map.
    """
    unknown = [m for m in methods if m not in CAM_METHODS and (m not in METHODS or METHODS[m].weights is None)]
    if unknown or not methods:
        raise ValueError(f"methods: {unknown or methods}; {suggest(unknown[0] if unknown else '', list(CAM_METHODS))}")
    if score not in SCORES:
        raise ValueError(f"score={score!r}; {suggest(score, list(SCORES))}")
    if max_channels < 0 or (max_channels and "ablation_cam" in methods):
        raise ValueError(f"max_channels={max_channels}; expected 0 or more, and 0 with ablation_cam, which needs all.")
    network, images, classes = prepare(model, ds.images, targets, batch_size)
    paths = [network.cam_layer(layer) for layer in layers] or default_layers(network)
    tables = []
    for path in progress(list(dict.fromkeys(paths)), title="axioms"):
        field = network.field(path)
        n_channels = field.shape[field.channels]
        drawn = np.random.default_rng(seed).permutation(n_channels)[: max_channels or n_channels]
        channels = np.sort(drawn).astype(np.int32)
        found = [
            _errors(network, path, images[b], classes[b], methods, score, channels, batch_size)
            for b in batches(len(images), batch_size, "axioms")
        ]
        for method in methods:
            for axiom in ("sensitivity", "conservation"):
                values = np.concatenate([part[method, axiom] for part in found])
                columns = {"method": method, "layer": path, "image_id": ds.ids, "axiom": axiom, "value": values}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _errors(
    network: Network,
    path: str,
    images: np.ndarray,
    classes: np.ndarray,
    methods: Sequence[str],
    score: str,
    channels: np.ndarray,
    batch_size: int,
) -> dict[tuple[str, str], np.ndarray]:
    """Both errors ``(n,)`` of each method by (method, axiom); sensitivity from ``channels``, their numbers."""
    scores, _, drops = channel_drops(network, images, classes, batch_size, path, channels)
    scores, drops = scores.numpy().astype(np.float64), drops.numpy().astype(np.float64)
    sums = channel_sums(network, path, images, classes, [METHODS[m] for m in methods], batch_size, drops)
    # A start with S_t sums to S_t (1 - (N - 1) / N); of one unit and of independent sigmoids it is S_t. One unit's
    # score z stands for both classes, with -1 for class 0, so its unit of relevance is z.
    unit = scores * (2 * classes - 1) if network.activation == "binary" else scores
    share = 1 / network.n_classes if network.activation == "softmax" and score == "own" else 1.0
    errors = {}
    for method in methods:
        M, own = sums[method], 1.0
        # Propagation is linear in what it starts with, which is 1 for the target.
        if METHODS[method].signals is activations_and_relevance:
            M, own = M * unit[:, None], share
        change = own * drops
        errors[method, "sensitivity"] = _ratio(np.abs(change - M[:, channels]).sum(axis=1), np.abs(change).sum(axis=1))
        errors[method, "conservation"] = _ratio(np.abs(own * scores - M.sum(axis=1)), np.abs(own * scores))
    return errors


def _ratio(error: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(error, whole, out=np.full_like(error, np.nan), where=whole > 0)


def channel_sums(
    network: Network,
    path: str,
    images: np.ndarray,
    classes: np.ndarray,
    methods: Sequence[Method],
    batch_size: int,
    drops: np.ndarray,
) -> dict[str, np.ndarray]:
    """M ``(n, channels)`` float64 of each method by the weights of its maps, those of all channels; ``drops``
    ``(n, channels)`` are the weights of Ablation-CAM."""
    sums, found = {}, {}
    for method in methods:
        signals = method.signals or activations_and_gradients
        if signals not in found:
            (found[signals],) = signals(network, [path])(images, classes)
        A, signal = found[signals]
        if method.weights is not None:
            weights = method.weights(A, signal)
        elif method.name == "score_cam":
            weights = score_cam_weights(network, images, classes, A.numpy(), batch_size, path)[:, None, None]
        else:
            weights = drops[:, None, None]
        sums[method.name] = tf.reduce_sum(tf.cast(weights, tf.float32) * A, axis=(1, 2)).numpy().astype(np.float64)
    return sums
