"""Gradients x inputs: each pixel's share of the score to first order."""

import numpy as np

from xaiutils.attribution.libra import BALANCED, balanced_network
from xaiutils.attribution.method import SHARES, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batched_input_gradients, reduce_channels


def gradients_x_inputs(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, reduction: str, balanced: bool
) -> np.ndarray:
    """x * dS/dx, x in [0, 255], summed over channels unless ``reduction`` says otherwise (Shrikumar et al. 2016,
    arXiv:1605.01713).

    The product is with the raw image, so a black pixel gets 0: it explains the difference to a black image, to first
    order. It sums to that difference for a linear model only.

    ``balanced`` takes the gradient of `xaiutils.attribution.libra` in place of dS/dx.
    """
    network = balanced_network(network) if balanced else network
    return reduce_channels(images * batched_input_gradients(network, images, targets, batch_size), reduction)


GRADIENTS_X_INPUTS = Method(
    name="gradients_x_inputs",
    title="Gradients x inputs",
    family="gradients",
    paper="Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713",
    signed=True,
    cost="1 gradient",
    compute=gradients_x_inputs,
    parameters=(SHARES, BALANCED),
)
