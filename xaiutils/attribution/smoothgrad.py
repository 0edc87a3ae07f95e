"""Statistics of a method's maps over noisy copies of the image: their mean, mean square and variance.

The noise is N(0, sigma^2), sigma = ``noise`` times the range (max - min) of each image; copies are not clipped. Every
image gets the same unit noise, so that its map does not depend on the others in the batch. The target stays that of the
image itself.

``base`` is the method that is smoothed. For the plain gradient the statistic is taken of the gradient and the colour
channels are reduced afterwards, as published; for any other base it is taken of the base's maps, as ``base_parameters``
give them. So the mean keeps the sign of a signed base, and Smooth Grad-CAM++ is smoothgrad of grad_cam_plus_plus.
``base_reading`` reads the gradients, or maps, of each copy first: the mean of magnitudes does not cancel.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
from xaiutils.graph.passes import batches, reduce_channels
from xaiutils.graph.paths import Points, gradient_sums, shifted
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
    mean, _ = _moments(network, images, targets, batch_size, options, squares=False)
    return _as_maps(mean, options)


def smoothgrad_squared(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any
) -> np.ndarray:
    """Mean of the squared gradients over noisy copies (Hooker et al. 2019, arXiv:1806.10758), or of another base's
    squared maps."""
    _, square = _moments(network, images, targets, batch_size, options)
    return _as_maps(square, options)


def mean_and_square(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The maps of `smoothgrad` and of `smoothgrad_squared`, from the same passes."""
    mean, square = _moments(network, images, targets, batch_size, options)
    return _as_maps(mean, options), _as_maps(square, options)


def vargrad(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **options: Any) -> np.ndarray:
    """Variance of the gradient over noisy copies (Adebayo et al. 2018, arXiv:1810.03307), or of another base's maps.

    The sum of squares is divided by n_samples, not n_samples - 1, so that smoothgrad_squared is the squared mean plus
    the variance; the order of pixels is the same either way.
    """
    mean, square = _moments(network, images, targets, batch_size, options)
    return _as_maps(np.maximum(square - mean**2, 0), options)


def _moments(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    options: Mapping[str, Any],
    squares: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square over the copies, float64: of the plain base's gradients by channel, or of another base's
    maps. Float32 values have no digits that their float64 sums could lose. ``options`` are the parameters that the
    methods declare; without ``squares`` the second is the first."""
    n, count, reading = len(images), options["n_samples"], options["base_reading"]
    compute = _base(network, images, options["base"], options["base_parameters"], batch_size, options["reduction"])
    sigma = np.float32(options["noise"]) * np.ptp(images, axis=(1, 2, 3))
    with _unit_noise(images.shape[1:], options["seed"], count) as noise:
        if compute is None:
            scales = np.broadcast_to(sigma, (count, n))
            weights = np.full(count, 1 / count)
            points = Points(weights, scales, lambda at, _: noise(at)[:, None], shifted, reading, squares)
            size = min(batch_size, n * -(-count // 2))  # the second half's noise is drawn while the first half passes
            sums = gradient_sums(network, images, targets, points, size, "noisy copies")
            return sums[0], sums[-1]
        mean = np.zeros(images.shape[:3])
        square = np.zeros_like(mean)
        for batch in batches(n * count, batch_size, "noisy copies"):
            draws, members = np.divmod(np.arange(batch.start, batch.stop), n)
            unit = noise(slice(draws[0], draws[-1] + 1))[draws - draws[0]]
            copies = images[members] + sigma[members, None, None, None] * unit
            found = read_maps(compute(copies, targets[members], members), reading).astype(np.float64) / count
            np.add.at(mean, members, found)
            np.add.at(square, members, found**2 * count)
    return mean, square


@contextmanager
def _unit_noise(shape: tuple[int, ...], seed: int, count: int) -> Iterator[Callable[[slice], np.ndarray]]:
    """Function (slice of the copies) -> their standard normal noise, float32 ``(copies, *shape)``.

    As many copies that follow are drawn in other threads meanwhile, so that a pass does not wait for its noise.
    """
    coming: dict[tuple[int, int], tuple[np.ndarray, list[Future]]] = {}

    def draw(copy: int, into: np.ndarray) -> None:
        np.random.default_rng([seed, copy]).standard_normal(dtype=np.float32, out=into)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def begin(start: int, stop: int) -> tuple[np.ndarray, list[Future]]:
            made = np.empty((stop - start, *shape), np.float32)
            return made, [pool.submit(draw, start + k, row) for k, row in enumerate(made)]

        def noise(at: slice) -> np.ndarray:
            wanted = at.start, at.stop
            made, drawn = coming[wanted] if wanted in coming else begin(*wanted)
            following = at.stop, min(2 * at.stop - at.start, count)
            coming.clear()
            if following[0] < following[1]:
                coming[following] = begin(*following)
            for job in drawn:
                job.result()
            return made

        yield noise


def _as_maps(statistic: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    maps = reduce_channels(statistic, options["reduction"]) if statistic.ndim == 4 else statistic
    return maps.astype(np.float32)


def _base(
    network: Network, images: np.ndarray, base: str, given: Mapping[str, Any], batch_size: int, reduction: str
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None:
    """Function (copies, targets, indices of their images) -> maps that are smoothed; None for the plain gradient."""
    method = METHODS[base]
    if base in _NAMES:
        raise ValueError(f"base={base!r} is itself a mean over noisy copies; give the method that it smooths.")
    if method.family not in FAMILIES:
        allowed = [name for name, m in METHODS.items() if m.family in FAMILIES and name not in _NAMES]
        raise ValueError(f"base={base!r} cannot be smoothed; choose one of {', '.join(allowed)}.")
    if base == _PLAIN:
        if given:
            raise ValueError(f"base_parameters={dict(given)!r}: {base} has none here; give reduction itself.")
        return None
    if reduction != REDUCTION.default:
        raise ValueError(f"reduction={reduction!r} is for the plain gradient's channels; {base} gives maps without.")
    chosen = check_parameters(f"base_parameters of {base!r}", method.parameters, given)
    per_image = {k: chosen.pop(k) for k in _PER_IMAGE if chosen.get(k) is not None and chosen[k].ndim == 4}
    for name, array in per_image.items():
        if len(array) not in (1, len(images)):
            raise ValueError(f"{name} holds {len(array)} images; expected one, or one for each of {len(images)}.")

    def maps(copies: np.ndarray, targets: np.ndarray, members: np.ndarray) -> np.ndarray:
        own = {k: v[members] if len(v) > 1 else v for k, v in per_image.items()}
        return method.maps(network, copies, targets, batch_size, **chosen, **own)

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
