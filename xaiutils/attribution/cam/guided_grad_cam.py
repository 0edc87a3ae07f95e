"""Guided Grad-CAM: what Grad-CAM finds, at the resolution of guided backpropagation."""

from typing import Any

import numpy as np

from xaiutils.attribution.cam.gradient_cams import GRAD_CAM
from xaiutils.attribution.guided_backprop import GUIDED_BACKPROP, guided_backprop
from xaiutils.attribution.method import LAYER, Method, check_network
from xaiutils.graph.network import Network


def guided_grad_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, **guided: Any
) -> np.ndarray:
    """Grad-CAM enlarged to the image, times guided backpropagation (Selvaraju et al. 2017, arXiv:1610.02391).

    ``guided`` are the parameters of `guided_backprop`, which refuses networks without ReLU unless told how to go on.
    Grad-CAM is not negative, so the product may be taken after the colour channels have become one.
    """
    fine = guided_backprop(network, images, targets, batch_size, **guided)
    return GRAD_CAM.compute(network, images, targets, batch_size, layer=layer) * fine


def _check(network: Network) -> None:
    check_network(GUIDED_BACKPROP, network)
    network.cam_layers()


GUIDED_GRAD_CAM = Method(
    name="guided_grad_cam",
    title="Guided Grad-CAM",
    family="cam",
    precision="float32",
    paper="Selvaraju et al. 2017, arXiv:1610.02391",
    signed=GUIDED_BACKPROP.signed,
    cost="2 gradients",
    compute=guided_grad_cam,
    needs="layers",
    check=_check,
    parameters=(LAYER, *GUIDED_BACKPROP.parameters),
    suits=GUIDED_BACKPROP.suits,
    reading=GUIDED_BACKPROP.own_reading({}),  # its sign is that of a gradient
)
