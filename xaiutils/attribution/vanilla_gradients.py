"""Vanilla gradients: where a small change of the image changes the score."""

import numpy as np

from xaiutils.attribution.libra import BALANCED, balanced_network
from xaiutils.attribution.method import REDUCTION, Method
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batched_input_gradients, reduce_channels


def vanilla_gradients(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, reduction: str, balanced: bool
) -> np.ndarray:
    """Saliency, max over channels of abs(dS/dx) (Simonyan et al. 2014, arXiv:1312.6034, section 3).

    ``balanced`` takes the gradient of `xaiutils.attribution.libra` in place of dS/dx.
    """
    network = balanced_network(network) if balanced else network
    return reduce_channels(batched_input_gradients(network, images, targets, batch_size), reduction)


VANILLA_GRADIENTS = Method(
    name="vanilla_gradients",
    title="Vanilla gradients",
    family="gradients",
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034",
    signed=False,
    cost="1 gradient",
    compute=vanilla_gradients,
    parameters=(REDUCTION, BALANCED),
)
