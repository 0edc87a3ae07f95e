"""The breast without lesion: outline, parenchyma, pectoral muscle.

Positions are fractions of the field, so the same anatomy scales with the image.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

# Glandular fraction of the breast area by class; the fractions of VICTRE (Badano et al. 2018), in BI-RADS' order.
DENSITIES = {"fatty": 0.05, "scattered": 0.15, "heterogeneous": 0.34, "dense": 0.60}
_SKIN_DEPTH = 0.10  # of the field: over this distance from the skin the compressed breast gets thinner
_AXILLA = 0.06  # of the field: skin and fat in front of the pectoral muscle


@dataclass(frozen=True)
class Anatomy:
    """A breast seen from one side.

    ``tissue`` is float32 ``(size, size)``, brightness without lesion, about 0 to 0.7; ``breast``, ``pectoral`` and
    ``gland`` (more glandular than fatty, the muscle apart) are bool ``(size, size)``; ``depth`` is float32, the
    distance to the skin in fractions of the field. ``beta`` is the exponent of the texture's power spectrum. A left
    breast ("L") has its chest wall at the left edge of the image, a right one ("R") at the right edge. ``landmarks``,
    float64 ``(3, 2)``: (row, column) of the nipple and of the upper and lower end of the breast at the chest wall.
    """

    tissue: np.ndarray
    breast: np.ndarray
    pectoral: np.ndarray
    gland: np.ndarray
    depth: np.ndarray
    view: str
    side: str
    density: str
    beta: float
    landmarks: np.ndarray


def draw_anatomy(rng: np.random.Generator, size: int, view: str = "", density: str = "") -> Anatomy:
    """A random breast: side and view with equal chances, each density class too, unless ``view`` or ``density`` says
    which."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    drawn, side = str(rng.choice(["CC", "MLO"])), str(rng.choice(["L", "R"]))
    view = view or drawn
    breast, (nipple, *ends) = _outline(rng, rows, columns, view)
    pectoral = np.zeros_like(breast)
    if view == "MLO":
        pectoral, axilla = _pectoral(rng, rows, columns)
        breast = ndimage.gaussian_filter((breast | axilla).astype(np.float32), 0.02 * size) > 0.5  # rounds the fold
    depth = ndimage.distance_transform_edt(breast).astype(np.float32) / size
    thickness = np.sqrt(1 - (1 - np.minimum(depth / _SKIN_DEPTH, 1)) ** 2)
    drawn = str(rng.choice(list(DENSITIES)))
    density = density or drawn
    beta = float(np.clip(rng.normal(3.0, 0.25), 2.4, 3.6))  # Burgess 2001; Chen 2012
    texture = _power_law_field(rng, size, beta)
    glandular = _glandular(rng, rows, columns, breast, nipple, texture, DENSITIES[density])
    tissue = thickness * (0.28 + 0.26 * glandular + 0.05 * texture * (0.4 + glandular))
    if view == "MLO":
        cover = ndimage.gaussian_filter(pectoral.astype(np.float32), 0.006 * size)
        tissue += cover * np.maximum(thickness * (0.55 + 0.03 * texture) - tissue, 0)
    gland = breast & ~pectoral & (glandular > 0.5)
    landmarks = size * np.array([nipple, *ends])
    anatomy = Anatomy(tissue, breast, pectoral, gland, depth, view, side, density, beta, landmarks)
    return anatomy if side == "L" else _mirrored(anatomy)


def _outline(rng, rows, columns, view):
    """Breast region with the chest wall at column 0, and (row, column) of the nipple and of both ends at the wall."""
    half_height, width = rng.uniform(0.34, 0.46), rng.uniform(0.42, 0.72)
    centre = 0.5 + rng.uniform(-0.03, 0.03) + (0.04 if view == "MLO" else 0.0)
    power = rng.uniform(1.9, 2.5)
    sag = rng.uniform(0, 0.12) if view == "MLO" else 0.0
    offset = np.abs(rows - centre - sag * columns) / half_height
    ends = ((centre - half_height, 0.0), (centre + half_height, 0.0))
    return offset**power + (columns / width) ** power < 1, ((centre + sag * width, width), *ends)


def _pectoral(rng, rows, columns):
    """The muscle in the upper corner at the chest wall, and the region of muscle and axilla together."""
    width, height, power = rng.uniform(0.20, 0.34), rng.uniform(0.35, 0.60), rng.uniform(0.9, 1.2)
    muscle = (columns / width) ** power + (rows / height) ** power < 1
    axilla = (columns / (width + _AXILLA)) ** power + (rows / (height + _AXILLA)) ** power < 1
    return muscle, axilla


def _glandular(rng, rows, columns, breast, nipple, texture, fraction):
    """How glandular each place is, 0 to 1: mostly behind the nipple, covering ``fraction`` of the breast."""
    patches = _power_law_field(rng, rows.shape[0], 4.0)
    behind_nipple = np.exp(-((rows - nipple[0]) ** 2 + (columns - 0.75 * nipple[1]) ** 2) / (2 * 0.22**2))
    propensity = 0.5 * patches + 1.2 * behind_nipple + 0.35 * texture
    threshold = np.quantile(propensity[breast], 1 - fraction)
    return 1 / (1 + np.exp((threshold - propensity) / np.float32(0.15)))


def _power_law_field(rng, size, beta):
    """Gaussian random field with a power spectrum falling as frequency**-beta, zero mean, unit variance."""
    frequency = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None]).astype(np.float32) * size
    amplitude = np.maximum(frequency, 1) ** np.float32(-beta / 2)
    field = fft.irfft2(fft.rfft2(rng.standard_normal((size, size), np.float32)) * amplitude, s=(size, size))
    return (field - field.mean()) / field.std()


def _mirrored(anatomy):
    maps = {name: value for name, value in vars(anatomy).items() if isinstance(value, np.ndarray)}
    landmarks = maps.pop("landmarks") * [1, -1] + [0, anatomy.breast.shape[1] - 1]
    return replace(anatomy, **{name: value[:, ::-1] for name, value in maps.items()}, landmarks=landmarks)
