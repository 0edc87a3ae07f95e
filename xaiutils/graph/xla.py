"""Whether XLA runs a model's gradients faster; measured for each model, since depthwise convolutions lose by it."""

import os
import time

import numpy as np

from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import TARGETS, input_gradient
from xaiutils.registry import check_choice

MODES = ("auto", "on", "off")
LONG = 2000  # passes of images; shorter work does not pay for a minute of XLA's compiler
_IMAGES, _SECONDS, _GAIN = 32, 1.0, 0.9


def xla_pays(network: Network, passes: int) -> bool:
    """Whether ``passes`` gradients of images are to be run by XLA: as ``XAI_XLA`` says, "on" or "off"; by default
    "auto", if there is a GPU, the work is long, and two seconds of either say so, which is remembered of the network.
    ValueError of another mode."""
    mode = os.environ.get("XAI_XLA") or "auto"
    check_choice("XAI_XLA", mode, MODES)
    if mode != "auto":
        return mode == "on"
    if passes < LONG or not tf.config.get_visible_devices("GPU"):
        return False
    return network.compiled("xla pays", lambda: {"pays": _measured(network)})["pays"]


def _measured(network: Network) -> bool:
    height, width = (n or 224 for n in network.size_traced)
    images = tf.zeros((_IMAGES, height, width, network.channels))
    targets = tf.zeros(_IMAGES, tf.int32)

    def seconds(xla: bool) -> float:
        run = tf.function(
            lambda x, t: input_gradient(network, x, t),
            input_signature=[network.image_spec, TARGETS],
            autograph=False,
            jit_compile=xla or None,
        )
        run(images, targets).numpy()
        found: list[float] = []
        while sum(found) < _SECONDS:
            start = time.perf_counter()
            run(images, targets).numpy()
            found.append(time.perf_counter() - start)
        return float(np.median(found))

    try:
        return seconds(xla=True) < _GAIN * seconds(xla=False)
    except tf.errors.OpError:  # an operation that XLA does not know
        return False
