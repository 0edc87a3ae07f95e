"""Does a map stay where it was when the image changes in a way that should not matter, and change with the class?

These metrics explain anew, so they need to know the method.
"""

import zlib
from typing import Any

import numpy as np

from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.progress import progress
from xaiutils.registry import Parameter
from xaiutils.transforms import TRANSFORMS


def transform_consistency(
    case: Case, *, transform: str, transform_parameters: dict[str, Any], similarity: str, seed: int
) -> np.ndarray:
    """Similarity of the map of the changed image, brought back, with the map of the image; 1: it stayed.

    Both explain the class of the unchanged image. Pixels that the change pushes out of the image are not compared.
    """
    change = TRANSFORMS[transform]
    changed = change.apply(
        case.images,
        seed=seed,
        model=case.model,
        targets=case.targets,
        batch_size=case.batch_size,
        **transform_parameters,
    )
    back = change.invert(case.explain(changed), **transform_parameters)
    seen = change.invert(np.ones(case.maps.shape, np.float32), **transform_parameters) > 0.99
    return SIMILARITIES[similarity](case.maps, back, seen)


def max_sensitivity(case: Case, *, n_samples: int, noise: float, seed: int) -> np.ndarray:
    """Largest change of the map, norm(map' - map) / norm(map), among noisy copies of the image (Yeh et al. 2019).

    Noise is uniform in plus or minus ``noise`` times the image's range, the same field for all images; copies are
    clipped to [0, 255]. NaN for a map of zeros.
    """
    n = len(case.maps)
    reach = noise * np.ptp(case.images, axis=(1, 2, 3), keepdims=True)
    norm = np.linalg.norm(case.maps.reshape(n, -1).astype(np.float64), axis=1)
    worst = np.zeros(n)
    for sample in progress(range(n_samples), title="max-sensitivity"):
        field = np.random.default_rng([seed, sample]).uniform(-1, 1, case.images.shape[1:])
        moved = case.explain(np.clip(case.images + reach * field, 0, 255).astype(np.float32)) - case.maps
        worst = np.maximum(worst, np.linalg.norm(moved.reshape(n, -1).astype(np.float64), axis=1))
    return np.divide(worst, norm, out=np.full(n, np.nan), where=norm > 0)


def random_logit(case: Case, *, similarity: str, seed: int) -> np.ndarray:
    """Similarity of the map with that of another class, drawn at random for each image, by its pixels and the seed; 1:
    the map does not depend on what it explains (Sixt et al. 2020, section 4). NaN where a map is constant."""
    classes, pixels = case.logits().shape[1], [zlib.crc32(image.tobytes()) for image in case.images]
    steps = [np.random.default_rng([seed, of_image]).integers(1, classes) for of_image in pixels]
    other = case.explain(case.images, (case.targets + np.array(steps)) % classes)
    return SIMILARITIES[similarity](case.maps, other)


TRANSFORM_CONSISTENCY = Metric(
    "transform_consistency",
    "Consistency under a transform",
    "method",
    True,
    "the thesis' question (UNED 2021) as a number; Adebayo et al. 2018 for the similarities",
    transform_consistency,
    (
        Parameter("transform", str, "rotate_180", "the change", choices=tuple(TRANSFORMS)),
        Parameter("transform_parameters", dict, {}, "parameters of the transform"),
        Parameter("similarity", str, "spearman", "how maps are compared", choices=tuple(SIMILARITIES)),
        Parameter("seed", int, 0, "seed of what the transform draws", 0),
    ),
)
MAX_SENSITIVITY = Metric(
    "max_sensitivity",
    "Max-sensitivity",
    "method",
    False,
    "Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392",
    max_sensitivity,
    (
        Parameter("n_samples", int, 10, "noisy copies", 1, 1000),
        Parameter("noise", float, 0.02, "reach of the noise as a fraction of each image's range", 0.0, 1.0),
        Parameter("seed", int, 0, "seed of the noise", 0),
    ),
    reading="signed",  # the distance of two maps as they are
)
RANDOM_LOGIT = Metric(
    "random_logit",
    "Random logit",
    "method",
    False,
    "Sixt, Granz & Landgraf 2020, When explanations lie, arXiv:1912.09818",
    random_logit,
    (
        Parameter("similarity", str, "ssim", "how maps are compared; the paper: SSIM", choices=tuple(SIMILARITIES)),
        Parameter("seed", int, 0, "seed of the other classes", 0),
    ),
    of_probability=True,
)
