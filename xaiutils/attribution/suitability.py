"""Whether a method can explain a network, told before it runs."""

from xaiutils.attribution.method import METHODS, check_network
from xaiutils.graph.network import ModelError, Network


def suits(network: Network, method: str) -> str:
    """Why a method of `METHODS` cannot explain a network at its default parameters, and what to use instead; "" where
    it can.

    No map is made: the method's own checks of layers and rules are asked, and of those on gradients one black image is
    differentiated, once for a network. Of a model of any image size, images of 224 x 224 pixels are thought of.
    Raises UnknownNameError for an unknown method.
    """
    try:
        check_network(METHODS[method], network)
    except ModelError as reason:
        return str(reason)
    return ""
