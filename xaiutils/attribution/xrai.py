"""XRAI: regions ranked by another method's map."""

import functools
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
from skimage.morphology import disk
from skimage.segmentation import felzenszwalb
from skimage.transform import resize

from xaiutils.attribution.method import BASE_READING, METHODS, Method, base_is_shift_invariant, base_is_signed
from xaiutils.graph.network import Network
from xaiutils.images import as_rgb
from xaiutils.map_reading import read_maps
from xaiutils.progress import progress
from xaiutils.registry import Parameter, check_parameters

# The authors' settings of the segmentation, at 224 x 224 pixels in [-1, 1].
_SIZE, _SCALES, _SIGMA, _MIN_SIZE, _DILATION = (224, 224), (50, 100, 150, 250, 500, 1200), 0.8, 150, 5


def regions(image: np.ndarray) -> list[np.ndarray]:
    """Overlapping regions, bool ``(height, width)``: Felzenszwalb's segments of the image at six scales, each widened
    by a disk of 5 pixels. An image of one colour is one region."""
    if np.ptp(image) == 0:
        return [np.ones(image.shape[:2], bool)]
    if image.shape[-1] == 1:  # the settings are those of three channels
        image = as_rgb(image)
    scaled = 2 * (image.astype(np.float64) - image.min()) / np.ptp(image) - 1
    scaled = resize(scaled, _SIZE, order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    found = []
    for labels in _segments(scaled.tobytes(), image.shape[-1]):
        labels = resize(
            labels, image.shape[:2], order=0, mode="constant", preserve_range=True, anti_aliasing=False
        ).astype(int)
        # As the package does, in a twentieth of its time.
        found += [cv2.dilate((labels == k).astype(np.uint8), disk(_DILATION)) for k in range(labels.max() + 1)]
    return [region.astype(bool) for region in found]


@functools.lru_cache(maxsize=16)  # an image is often explained by several methods and models; 2 MB each
def _segments(scaled: bytes, channels: int) -> list[np.ndarray]:
    """Segment numbers at each scale of a scaled image, given as its float64 values."""
    pixels = np.frombuffer(scaled, np.float64).reshape(*_SIZE, channels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got image with third dimension")  # of other than three channels
        found = [felzenszwalb(pixels, scale=scale, sigma=_SIGMA, min_size=_MIN_SIZE) for scale in _SCALES]
    return [labels.astype(np.uint16) for labels in found]


def xrai(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    base: str,
    base_parameters: dict,
    algorithm: str,
    base_reading: str,
) -> np.ndarray:
    """Each pixel's region's mean attribution, regions taken in the order of that mean (Kapishnikov, Bolukbasi, Viegas &
    Terry 2019, arXiv:1906.02825).

    Starts from the map of the method ``base``, in the paper integrated gradients, the mean over a black and a white
    baseline. Of all `regions`, the one whose pixels not yet taken have the largest mean is taken next, until the image
    is covered; "fast" ranks regions once, by their whole mean. The package ``saliency`` does this; like it, nothing is
    random here, so the map is as repeatable as the base's. The base's map has its colours summed, where the package's
    own integrated gradients take the largest. Signed if the base is and ``base_reading`` leaves it so: by another
    reading regions are ranked by what speaks for the class, or by what matters either way.

    ValueError: the base is this method.
    """
    if base == "xrai":
        raise ValueError("base='xrai': XRAI ranks regions by another method's map; choose a gradient method.")
    method = METHODS[base]
    chosen = check_parameters(f"method {base!r}", method.parameters, base_parameters)
    maps = read_maps(method.maps(network, images, targets, batch_size, **chosen), base_reading)
    return rank_regions(images, maps, algorithm)


def rank_regions(
    images: np.ndarray,
    maps: np.ndarray,
    algorithm: str = "full",
    segments: Sequence[list[np.ndarray]] | None = None,
) -> np.ndarray:
    """XRAI's maps, float32 ``(n, height, width)``, from maps that are there, of the same shape; ``algorithm`` as of
    `xrai`, images ``(n, height, width, C)``. ``segments``: each image's `regions`, where they are known."""
    from saliency.core import XRAI, XRAIParameters

    found = np.empty(images.shape[:3], np.float32)
    for i in progress(range(len(images)), title="XRAI"):
        found[i] = XRAI().GetMask(
            images[i],
            None,
            segments=regions(images[i]) if segments is None else segments[i],
            base_attribution=np.broadcast_to(maps[i, ..., None], images[i].shape),
            extra_parameters=XRAIParameters(algorithm=algorithm),
        )
    return found


XRAI = Method(
    name="xrai",
    title="XRAI",
    family="regions",
    paper="Kapishnikov, Bolukbasi, Viegas & Terry 2019, arXiv:1906.02825",
    signed=True,
    signed_by=base_is_signed,
    cost="those of the base method",
    compute=xrai,
    shift_invariant_by=base_is_shift_invariant,
    parameters=(
        Parameter("base", str, "integrated_gradients_bw", "method whose map ranks the regions"),
        Parameter("base_parameters", dict, {}, "parameters of the base method"),
        Parameter("algorithm", str, "full", "how regions are ranked; fast: once", choices=("full", "fast")),
        BASE_READING,
    ),
)
