"""Statistics of a method's maps over noisy copies of the image: their mean, mean square and variance.

The noise is N(0, sigma^2), sigma = ``noise`` times the range (max - min) of each image; copies are not clipped. Every
image gets the same unit noise, so that its map does not depend on the others in the batch. The target stays that of the
image itself.

``base`` is the method that is smoothed. For the plain gradient the statistic is taken of the gradient and the colour
channels are reduced afterwards, as published; for any other base it is taken of the base's maps, as ``base_parameters``
give them. So the mean keeps the sign of a signed base, and Smooth Grad-CAM++ is smoothgrad of grad_cam_plus_plus.
``base_reading`` reads the gradients, or maps, of each copy first: the mean of magnitudes does not cancel.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xaiutils.attribution.method import (
    BASE_READING,
    METHODS,
    REDUCTION,
    SEED,
    Method,
    base_is_shift_invariant,
    base_is_signed,
)
from xaiutils.graph.network import Network
from xaiutils.graph.passes import input_gradients, moved_copies, reduce_channels
from xaiutils.map_reading import read_maps
from xaiutils.registry import Parameter, check_parameters

FAMILIES = ("gradients", "backprop", "relevance", "cam")  # of the methods that can be smoothed
_NAMES = ("smoothgrad", "smoothgrad_squared", "vargrad")
_PLAIN = "vanilla_gradients"
_PER_IMAGE = ("baseline_image",)  # arrays that may hold one entry for each image


def smoothgrad(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any
) -> np.ndarray:
    """Mean gradient over noisy copies (Smilkov et al. 2017, arXiv:1706.03825), or mean map of another base."""
    mean, _ = _moments(network, images, targets, batch_size, options)
    return _as_maps(mean, options)


def smoothgrad_squared(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any
) -> np.ndarray:
    """Mean of the squared gradients over noisy copies (Hooker et al. 2019, arXiv:1806.10758), or of another base's
    squared maps."""
    mean, variance = _moments(network, images, targets, batch_size, options)
    return _as_maps(mean**2 + variance, options)


def vargrad(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any) -> np.ndarray:
    """Variance of the gradient over noisy copies (Adebayo et al. 2018, arXiv:1810.03307), or of another base's maps.

    The sum of squares is divided by n_samples, not n_samples - 1, so that smoothgrad_squared is the squared mean plus
    the variance; the order of pixels is the same either way.
    """
    _, variance = _moments(network, images, targets, batch_size, options)
    return _as_maps(variance, options)


def _moments(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, options: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over the copies, float64: of the plain base's gradients by channel, or of another base's maps.
    ``options`` are the parameters that the methods declare."""
    n_samples = options["n_samples"]
    compute = _base(network, images, options["base"], options["base_parameters"], batch_size, options["reduction"])
    sigma = np.float32(options["noise"]) * np.ptp(images, axis=(1, 2, 3), keepdims=True)

    @functools.lru_cache(maxsize=1)  # samples come in order
    def unit_noise(point: int) -> np.ndarray:
        return np.random.default_rng([options["seed"], point]).standard_normal(images.shape[1:], np.float32)

    def place(members: np.ndarray, point: int) -> np.ndarray:
        return images[members] + sigma[members] * unit_noise(point)

    mean = np.zeros(images.shape if options["base"] == _PLAIN else images.shape[:3], np.float64)
    squares = np.zeros_like(mean)  # sum of squared distances from the mean, updated as Welford 1962
    for placed, members, rows in moved_copies(len(images), n_samples, place, batch_size, "noisy copies"):
        found = read_maps(compute(placed, targets[members], members), options["base_reading"])
        for point, at in rows:
            which = members[at]
            step = found[at] - mean[which]
            mean[which] += step / (point + 1)
            squares[which] += step * (found[at] - mean[which])
    return mean, squares / n_samples


def _as_maps(statistic: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    maps = reduce_channels(statistic, options["reduction"]) if statistic.ndim == 4 else statistic
    return maps.astype(np.float32)


def _base(
    network: Network, images: np.ndarray, base: str, given: Mapping[str, Any], batch_size: int, reduction: str
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Function (copies, targets, indices of their images) -> what is smoothed: gradients by channel, or maps."""
    method = METHODS[base]
    if base in _NAMES:
        raise ValueError(f"base={base!r} is itself a mean over noisy copies; give the method that it smooths.")
    if method.family not in FAMILIES:
        allowed = [name for name, m in METHODS.items() if m.family in FAMILIES and name not in _NAMES]
        raise ValueError(f"base={base!r} cannot be smoothed; choose one of {', '.join(allowed)}.")
    if base == _PLAIN:
        if given:
            raise ValueError(f"base_parameters={dict(given)!r}: {base} has none here; give reduction itself.")
        gradients = input_gradients(network)
        return lambda copies, targets, _: gradients(copies, targets)
    if reduction != REDUCTION.default:
        raise ValueError(f"reduction={reduction!r} is for the plain gradient's channels; {base} gives maps without.")
    chosen = check_parameters(f"base_parameters of {base!r}", method.parameters, given)
    per_image = {k: chosen.pop(k) for k in _PER_IMAGE if chosen.get(k) is not None and chosen[k].ndim == 4}
    for name, array in per_image.items():
        if len(array) not in (1, len(images)):
            raise ValueError(f"{name} holds {len(array)} images; expected one, or one for each of {len(images)}.")

    def maps(copies: np.ndarray, targets: np.ndarray, members: np.ndarray) -> np.ndarray:
        own = {k: v[members] if len(v) > 1 else v for k, v in per_image.items()}
        return method.compute(network, copies, targets, batch_size, **chosen, **own)

    return maps


def _keeps_signs(parameters: Mapping[str, Any]) -> bool:
    """Whether a mean over copies is signed: as what it is a mean of."""
    base = METHODS[parameters["base"]]
    if base.name == _PLAIN:
        return parameters["reduction"] == "sum" and parameters["base_reading"] == "signed"
    return base_is_signed(parameters)


def _read_as_base(parameters: Mapping[str, Any]) -> str:
    return METHODS[parameters["base"]].own_reading(parameters["base_parameters"])


def _declare(
    name: str,
    title: str,
    paper: str,
    compute: Callable[..., np.ndarray],
    fewest: int = 1,
    signed_by: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> Method:
    return Method(
        name=name,
        title=title,
        family="gradients",
        paper=paper,
        signed=False,
        cost="n_samples times the base, by default 1 gradient",
        compute=compute,
        shift_invariant_by=base_is_shift_invariant,
        parameters=(
            Parameter(
                "n_samples",
                int,
                25,
                "noisy copies; Smilkov: 50, above it little changes",
                fewest,
                1000,
            ),
            Parameter("noise", float, 0.15, "sigma as a fraction of each image's range; Smilkov: 0.1 to 0.2", 0.0, 1.0),
            REDUCTION,
            SEED,
            Parameter("base", str, _PLAIN, f"the method that is smoothed, of {', '.join(FAMILIES)}"),
            Parameter("base_parameters", dict, {}, "parameters of the base"),
            BASE_READING,
        ),
        signed_by=signed_by,
        reading_by=_read_as_base,
    )


SMOOTHGRAD = _declare(
    "smoothgrad",
    "SmoothGrad",
    "Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, arXiv:1706.03825",
    smoothgrad,
    signed_by=_keeps_signs,
)
SMOOTHGRAD_SQUARED = _declare(
    "smoothgrad_squared",
    "SmoothGrad squared",
    "Hooker, Erhan, Kindermans & Kim 2019, arXiv:1806.10758",
    smoothgrad_squared,
)
VARGRAD = _declare(
    "vargrad",
    "VarGrad",
    "Adebayo, Gilmer, Goodfellow & Kim 2018, arXiv:1810.03307",
    vargrad,
    fewest=2,
)
