"""Guided Grad-CAM: what Grad-CAM finds, at the resolution of guided backpropagation."""

from typing import Any

import numpy as np

from xaiutils.attribution.cam.gradient_cams import GRAD_CAM
from xaiutils.attribution.guided_backprop import GUIDED_BACKPROP, deconvolution, guided_backprop
from xaiutils.attribution.method import LAYER, Method, check_network
from xaiutils.graph.network import Network
from xaiutils.registry import Parameter

_FINE = Parameter(
    "fine",
    str,
    "guided",
    "the paper's guided backpropagation, or deconvolution in its place",
    choices=("guided", "deconvolution"),
)


def guided_grad_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, fine: str, **guided: Any
) -> np.ndarray:
    """Grad-CAM enlarged to the image, times guided backpropagation (Selvaraju et al. 2017, arXiv:1610.02391).

    ``fine="deconvolution"`` takes `deconvolution` for it. ``guided`` are the parameters of both, which refuse networks
    without ReLU unless told how to go on. Grad-CAM is not negative, so the product may be taken after the colour
    channels have become one.
    """
    factor = guided_backprop if fine == "guided" else deconvolution
    found = factor(network, images, targets, batch_size, **guided)
    return GRAD_CAM.compute(network, images, targets, batch_size, layer=layer, balanced=False) * found


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
    parameters=(LAYER, _FINE, *GUIDED_BACKPROP.parameters),
    suits=GUIDED_BACKPROP.suits,
    reading=GUIDED_BACKPROP.own_reading({}),  # its sign is that of a gradient
)
