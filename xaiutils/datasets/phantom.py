"""A seeded generator of mammogram-like images whose lesions, and so whose evidence, are known.

Every image is a pure function of ``(seed, size, contrast range)``: nothing is stored or downloaded. The recipe
follows published numbers: power-law parenchyma (Burgess 2001; Chen 2012: exponent near 3), the density classes of
VICTRE (Badano 2018), smooth oval masses for the benign class and irregular, spiculated masses for the malignant one
(after de Sisternes 2015). Both classes share one distribution of size, contrast, place and background, so that
only the margin of the mass tells them apart.

Lengths are given in millimetres on a field of 224 mm, hence in pixels at ``size=224``.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

CLASS_NAMES = ("benign", "malignant")
FIELD_MM = 224.0
DENSITIES = (0.05, 0.15, 0.34, 0.60)  # fatty, scattered, heterogeneous, dense (VICTRE)
# Peak of the mass above its background, as a fraction of the grey range. A frozen ImageNet EfficientNet-Lite0 with
# a linear head separates "easy" and "medium" perfectly and drops to an AUC of about 0.98 on "hard".
CONTRASTS = {"easy": (0.25, 0.50), "medium": (0.12, 0.25), "hard": (0.06, 0.12)}
_SPLIT_SEEDS = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # disjoint ranges of image seeds
SPLIT_SIZES = {"train": 3000, "val": 500, "test": 500}


@dataclass(frozen=True)
class Phantom:
    """One generated image and what is known of it.

    ``image`` is float32 ``(size, size)`` in [0, 1]; ``lesion``, ``spicules``, ``breast`` and ``pectoral`` are bool
    ``(size, size)``. ``label`` is 0 (benign) or 1 (malignant), ``radius_mm`` the mean radius of the mass.
    """

    image: np.ndarray
    label: int
    lesion: np.ndarray
    spicules: np.ndarray
    breast: np.ndarray
    pectoral: np.ndarray
    view: str
    density: float
    radius_mm: float
    contrast: float


def image_seeds(split: str, n: int, seed: int = 0) -> np.ndarray:
    """Seeds of the first ``n`` images of a split; splits never share an image, nor do different ``seed`` values."""
    return _SPLIT_SEEDS[split] + 10_000_000 * seed + np.arange(n)


def generate(seed: int, size: int = 224, contrast: tuple[float, float] = CONTRASTS["easy"]) -> Phantom:
    """Draw one phantom. Odd seeds are malignant, so that every run of seeds is balanced."""
    # One stream per cause: changing the shape of the mass leaves anatomy, place and noise as they are.
    anatomy, placing, shape, detector = (np.random.default_rng([seed, stream]) for stream in range(4))
    label = int(seed) % 2
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size

    view = str(anatomy.choice(["CC", "MLO"]))
    breast, nipple = _outline(anatomy, rows, columns, view)
    depth = ndimage.distance_transform_edt(breast) / size
    density = float(anatomy.choice(DENSITIES))
    tissue, texture = _parenchyma(anatomy, rows, columns, breast, depth, nipple, density)
    pectoral = np.zeros_like(breast)
    if view == "MLO":
        pectoral = _pectoral(anatomy, rows, columns)
        soft = ndimage.gaussian_filter(pectoral.astype(np.float32), 1.2) > 0.5
        tissue = np.where(soft, np.maximum(tissue, 0.55 + 0.03 * texture), tissue)

    radius_mm = float(placing.uniform(12, 20))
    peak = float(placing.uniform(*contrast))
    centre = _centre(placing, breast, depth * FIELD_MM, pectoral, radius_mm)
    core, spicules = _mass(shape, size, centre, radius_mm * size / FIELD_MM, malignant=bool(label))

    image = tissue + peak * np.maximum(core, 0.85 * spicules)
    image = ndimage.gaussian_filter(image, 0.5)
    image += 0.02 * np.sqrt(np.maximum(image, 0.02)) * detector.standard_normal(image.shape, np.float32)
    flip = (slice(None), slice(None, None, -1)) if anatomy.random() < 0.5 else (slice(None), slice(None))
    lesion = (core > 0.5) | (spicules > 0.3)
    return Phantom(
        image=np.clip(image, 0, 1).astype(np.float32)[flip],
        label=label,
        lesion=lesion[flip],
        spicules=(lesion & (core <= 0.5))[flip],
        breast=breast[flip],
        pectoral=pectoral[flip],
        view=view,
        density=density,
        radius_mm=radius_mm,
        contrast=peak,
    )


def load(split: str, image_size: int, seed: int, limit: int | None, difficulty: str = "easy") -> dict:
    """Arrays of one split for `xaiutils.datasets.load_dataset`."""
    if difficulty not in CONTRASTS:
        raise ValueError(f"difficulty={difficulty!r} is unknown; choose one of {', '.join(CONTRASTS)}.")
    n = SPLIT_SIZES[split] if limit is None else min(limit, SPLIT_SIZES[split])
    seeds = image_seeds(split, n, seed)
    samples = [generate(int(s), image_size, CONTRASTS[difficulty]) for s in seeds]
    grey = np.stack([np.rint(255 * s.image).astype(np.uint8) for s in samples])
    return {
        "pixels": np.repeat(grey[..., None], 3, axis=-1),
        "labels": np.array([s.label for s in samples]),
        "masks": np.stack([s.lesion for s in samples]),
        "ids": [f"phantom_{s:08d}" for s in seeds],
        "class_names": CLASS_NAMES,
        "available": SPLIT_SIZES[split],
    }


def _random_field(rng: np.random.Generator, size: int, beta: float) -> np.ndarray:
    """Gaussian random field with a power spectrum falling as frequency**-beta, zero mean, unit variance."""
    frequency = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None]).astype(np.float32) * size
    amplitude = np.maximum(frequency, 1) ** (-beta / 2)
    spectrum = fft.rfft2(rng.standard_normal((size, size), np.float32)) * amplitude
    field = fft.irfft2(spectrum, s=(size, size))
    return (field - field.mean()) / field.std()


def _outline(rng, rows, columns, view):
    """Breast region (chest wall at column 0) and the nipple's (row, column), both as fractions of the field."""
    half_height, width = rng.uniform(0.34, 0.46), rng.uniform(0.42, 0.72)
    centre = 0.5 + rng.uniform(-0.03, 0.03) + (0.04 if view == "MLO" else 0.0)
    power = rng.uniform(1.9, 2.5)
    sag = rng.uniform(0, 0.12) if view == "MLO" else 0.0
    offset = np.abs(rows - centre - sag * columns) / half_height
    return offset**power + (columns / width) ** power < 1, (centre + sag * width, width)


def _parenchyma(rng, rows, columns, breast, depth, nipple, density):
    beta = float(np.clip(rng.normal(3.0, 0.25), 2.4, 3.6))
    texture = _random_field(rng, rows.shape[0], beta)
    patches = _random_field(rng, rows.shape[0], 4.0)
    toward_nipple = np.exp(-((rows - nipple[0]) ** 2 + (columns - 0.75 * nipple[1]) ** 2) / (2 * 0.22**2))
    propensity = 0.5 * patches + 1.2 * toward_nipple + 0.35 * texture
    threshold = np.quantile(propensity[breast], 1 - density)
    glandular = 1 / (1 + np.exp(-(propensity - threshold) / 0.15))
    thickness = np.sqrt(np.clip(1 - (1 - np.clip(depth / 0.10, 0, 1)) ** 2, 0, 1))  # rolls off at the skin
    return thickness * (0.28 + 0.26 * glandular + 0.05 * texture * (0.4 + glandular)), texture


def _pectoral(rng, rows, columns):
    width, height, power = rng.uniform(0.20, 0.34), rng.uniform(0.35, 0.60), rng.uniform(0.9, 1.2)
    return (columns / width) ** power + (rows / height) ** power < 1


def _centre(rng, breast, depth_mm, pectoral, radius_mm):
    """A pixel 2.2 radii from the skin and one radius from the pectoral muscle and the edges of the image."""
    size = breast.shape[0]
    edge = int(np.ceil(radius_mm * size / FIELD_MM))
    clear = np.zeros_like(breast)
    clear[edge:-edge, edge:-edge] = True
    if pectoral.any():
        clear &= ndimage.distance_transform_edt(~pectoral) * FIELD_MM / size > radius_mm
    allowed = np.argwhere(breast & clear & (depth_mm > 2.2 * radius_mm))
    if len(allowed) == 0:  # a breast too small for this mass: its deepest point outside the muscle
        return np.unravel_index(np.argmax(np.where(pectoral, 0, depth_mm)), breast.shape)
    return tuple(allowed[rng.integers(len(allowed))])


def _mass(rng, size, centre, radius, malignant):
    """Profiles in [0, 1] of the mass and of its spicules. ``radius`` in pixels."""
    pixels_per_mm = size / FIELD_MM
    dy, dx = np.mgrid[0:size, 0:size].astype(np.float32) - np.reshape(centre, (2, 1, 1)).astype(np.float32)
    angle, distance = np.arctan2(dy, dx), np.hypot(dy, dx)
    if malignant:
        orders = np.arange(2, 13)
        amplitudes = rng.uniform(0.10, 0.16) * orders**-0.75 * rng.uniform(0.6, 1.4, len(orders))
        margin = rng.uniform(1.5, 2.5) * pixels_per_mm
    else:
        orders = np.array([2, 3])
        amplitudes = np.array([rng.uniform(0, 0.18), rng.uniform(0, 0.05)])
        margin = rng.uniform(0.8, 1.2) * pixels_per_mm
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    border = np.ones_like(angle)
    for amplitude, order, phase in zip(amplitudes, orders, phases, strict=True):
        border += amplitude * np.cos(order * angle + phase)
    core = 1 / (1 + np.exp(np.clip((distance - radius * border) / (0.5 * margin), -50, 50)))
    spicules = _spicules(rng, size, centre, radius) if malignant else np.zeros_like(core)
    return core, spicules


def _spicules(rng, size, centre, radius):
    """Tapering, slightly bent lines that leave the mass in random directions."""
    pixels_per_mm = size / FIELD_MM
    canvas = np.zeros((size, size), np.float32)
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(12, 25)):
        length, bend = radius * rng.uniform(0.8, 1.6), rng.normal(0, 0.25)
        along = np.linspace(0.7 * radius, radius + length, max(int(3 * length), 2))
        progress = (along - radius) / length
        direction = angle + 0.6 * bend * progress
        strength = np.clip(1.3 * (1 - progress), 0.35, 1.3) * max(pixels_per_mm, 0.6)
        row = np.rint(centre[0] + along * np.sin(direction)).astype(int)
        column = np.rint(centre[1] + along * np.cos(direction)).astype(int)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        np.maximum.at(canvas, (row[inside], column[inside]), strength[inside].astype(np.float32))
    return np.clip(2.2 * ndimage.gaussian_filter(canvas, 0.7), 0, 1)
