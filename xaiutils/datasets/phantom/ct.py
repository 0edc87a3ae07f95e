"""Axial slices of the chest as CT shows them, with and without contrast medium in the blood.

Every image is a pure function of its seed. The two classes differ in the blood alone (chambers of the heart, aorta,
vessels of the lungs), so that the mask of the blood is the evidence, to the pixel, in both. Geometry and brightness
vary more than the classes need; bone is as bright as contrast medium. Values are Hounsfield units, shown by the window
of soft tissue (level 40, width 400); lengths are millimetres on a field of 360 mm. Left in the image is the patient's
right.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.listing import Listing, Picture, Record
from xaiutils.datasets.phantom.splits import SPLIT_SIZES, image_seeds

FIELD_MM = 360.0
WINDOW = (40.0, 400.0)  # level and width in HU
CLASS_NAMES = ("without contrast", "with contrast")
IODINE = (120.0, 250.0)  # HU, what contrast medium adds to blood
NOISE = (8.0, 18.0)  # HU, standard deviation
_AIR, _LUNG, _FAT, _MUSCLE, _CANAL = -1000.0, -850.0, -95.0, 50.0, 30.0
_BLUR = 0.6  # pixels, of all but the blood, whose border stays sharp so that its mask is exact
_PEAK = 0.22  # cycles per pixel, of the noise's power: a ramp filter's rise, and the fall of its apodisation
# Chambers of the heart, in fractions of its half axes: centre (to the apex, to the back), half axes.
_CHAMBERS = (
    ((0.25, 0.34), (0.46, 0.33)),
    ((0.25, -0.45), (0.48, 0.28)),
    ((-0.5, 0.35), (0.30, 0.36)),
    ((-0.5, -0.4), (0.31, 0.34)),
)
_STREAMS = ("body", "heart", "vessels", "iodine", "noise")
_Plane = tuple[np.ndarray, np.ndarray]  # mm downward and to the right of the field's middle


@dataclass(frozen=True)
class CTPhantom:
    """One slice and what is known of it. Arrays are ``(size, size)``.

    ``label`` indexes `CLASS_NAMES`; ``hu`` float32, with noise; ``image`` the same by `WINDOW`, float32 in [0, 1];
    ``blood`` bool, where the twin of the other class differs, in every pixel of it and nowhere else; ``iodine`` float32
    in HU, what contrast medium adds there, or would; ``evidence`` float32 >= 0, the difference between the two without
    noise, as the window shows it; ``noise_hu`` the standard deviation of the noise.
    """

    seed: int
    label: int
    hu: np.ndarray
    image: np.ndarray
    blood: np.ndarray
    iodine: np.ndarray
    evidence: np.ndarray
    noise_hu: float


def generate_ct(seed: int, size: int = 224, label: int | None = None) -> CTPhantom:
    """Draw one slice.

    Args:
        seed: non-negative; decides everything, the class too (0 of even seeds, 1 of odd ones).
        size: height and width in pixels, of a field of 360 mm.
        label: another class than the seed's, all else, noise too, unchanged: the twin.

    Raises ValueError for a label that is not 0 or 1.
    """
    label = int(seed) % 2 if label is None else int(label)
    if label not in (0, 1):
        raise ValueError(f"label={label}; expected 0 ({CLASS_NAMES[0]}) or 1 ({CLASS_NAMES[1]}).")
    rng = {name: np.random.default_rng([int(seed), 101 + i]) for i, name in enumerate(_STREAMS)}
    down, right = np.indices((size, size), np.float32) * np.float32(FIELD_MM / size) - np.float32(FIELD_MM / 2)
    middle = rng["body"].uniform(-8, 8, 2)
    plane = down - np.float32(middle[0]), right - np.float32(middle[1])
    hu, lungs = _body(rng["body"], plane)
    parts = _heart(rng["heart"], plane, hu)
    parts.append(_vessels(rng["vessels"], plane, lungs & (hu < _FAT - 100)))  # beside the heart
    hu = ndimage.gaussian_filter(hu, _BLUR)
    level, blood = rng["iodine"].uniform(140, 230), np.zeros((size, size), bool)
    iodine = np.zeros((size, size), np.float32)
    for part in parts:  # the medium is not everywhere alike: it arrives in one after the other
        blood |= part
        iodine[part] = level + rng["iodine"].uniform(-20, 20)
    hu[blood] = rng["iodine"].uniform(35, 50)
    noise_hu = float(rng["noise"].uniform(*NOISE))
    found = (hu + label * iodine + noise_hu * _noise(rng["noise"], size)).astype(np.float32)
    evidence = windowed(hu + iodine) - windowed(hu)
    return CTPhantom(int(seed), label, found, windowed(found), blood, iodine, evidence, noise_hu)


def windowed(hu: np.ndarray) -> np.ndarray:
    """Hounsfield units by `WINDOW`: float32 in [0, 1]."""
    level, width = WINDOW
    return np.clip((hu - (level - width / 2)) / width, 0, 1).astype(np.float32)


def load(split: str, seed: int, limit: int | None) -> Listing:
    """Slices of chest CT with and without contrast medium; masks are the blood, in both classes: what decides."""
    n = SPLIT_SIZES[split] if limit is None else min(limit, SPLIT_SIZES[split])
    records = [Record(f"ct_phantom_{s:08d}", int(s) % 2, source=int(s)) for s in image_seeds(split, n, seed)]
    return Listing(records, CLASS_NAMES, _read, "ct_phantom", mirrors=False, available=SPLIT_SIZES[split])


CT_PHANTOM = DatasetEntry(
    "ct_phantom",
    "CT phantom",
    load,
    licence="this project's (MIT)",
    citation="after the task of Marchadour et al. 2022 (CT with or without contrast medium); see the module",
    access="generated from the seed",
    evidence="the blood: images of the two classes differ there alone",
    caution="Didactic: one level of the chest, simple organs, an easy task.",
    reads_files=False,
    generated=True,
)


def _read(image_seed: int, image_size: int) -> Picture:
    found = generate_ct(image_seed, image_size)
    facts = {"noise_hu": found.noise_hu, "mm_per_pixel": FIELD_MM / image_size}
    return Picture(np.rint(255 * found.image).astype(np.uint8), found.blood, facts)


def _ellipse(plane: _Plane, centre, axes, angle: float = 0.0, power: float = 2.0) -> np.ndarray:
    """Pixels within an ellipse of half ``axes`` (down, right) in mm, turned by ``angle``."""
    down, right = plane[0] - centre[0], plane[1] - centre[1]
    along, across = (down * np.cos(angle) - right * np.sin(angle), down * np.sin(angle) + right * np.cos(angle))
    return np.abs(along / axes[0]) ** power + np.abs(across / axes[1]) ** power < 1


def _body(rng: np.random.Generator, plane: _Plane) -> tuple[np.ndarray, np.ndarray]:
    """HU of all but heart and vessels, and the lungs."""
    half, power = np.array([rng.uniform(98, 120), rng.uniform(138, 168)]), rng.uniform(2.0, 2.6)
    inner = half - rng.uniform(5, 20)
    cavity = inner - rng.uniform(12, 18)
    hu = np.full(plane[0].shape, _AIR, np.float32)
    for axes, value in ((half, _FAT), (inner, _MUSCLE)):
        hu[_ellipse(plane, (0, 0), axes, power=power)] = value
    spine = cavity[0] - rng.uniform(24, 30)
    behind = _ellipse(plane, (spine + 14, 0), (28, rng.uniform(34, 44)))
    between = np.abs(plane[1]) < rng.uniform(20, 28)
    chest = _ellipse(plane, (0, 0), cavity, power=power) & ~behind
    lungs = chest & ~between
    hu[lungs] = (_LUNG + 30 * ndimage.gaussian_filter(rng.standard_normal(hu.shape), 2) * 4)[lungs]
    hu[chest & between] = _FAT + 40
    hu[behind] = _MUSCLE
    bone = rng.uniform(250, 500)
    for angle in np.linspace(-1.15, 1.15, 6) + rng.uniform(-0.1, 0.1):  # ribs, cut at a slant
        for side in (0, np.pi):
            wall = (inner + cavity) / 2 * (np.sin(angle), np.cos(angle + side))
            hu[_ellipse(plane, wall, (8, 4), angle=angle if side else -angle)] = bone
    hu[_ellipse(plane, (-(inner[0] + cavity[0]) / 2, 0), (5, rng.uniform(14, 20)))] = bone - 100
    size = rng.uniform(14, 18)
    hu[_ellipse(plane, (spine, 0), (size, size + 3))] = bone
    hu[_ellipse(plane, (spine, 0), (size - 4, size - 1))] = bone - 150
    hu[_ellipse(plane, (spine + size + 14, 0), (16, 5))] = bone
    hu[_ellipse(plane, (spine + size + 6, 0), (8, 9))] = _CANAL
    return hu, lungs


def _heart(rng: np.random.Generator, plane: _Plane, hu: np.ndarray) -> list[np.ndarray]:
    """Draws the heart's muscle into ``hu``; returns its chambers and the aorta."""
    centre, angle = np.array([rng.uniform(-28, -14), rng.uniform(10, 24)]), rng.uniform(0.3, 0.75)
    half = np.array([rng.uniform(30, 38), rng.uniform(44, 54)])  # across, and to the apex, which points left and front
    hu[_ellipse(plane, centre, 1.14 * half, -angle)] = _FAT
    hu[_ellipse(plane, centre, half, -angle)] = _MUSCLE - 5
    to_apex, to_back = np.array([-np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
    chambers = [
        _ellipse(plane, centre + u * half[1] * to_apex + v * half[0] * to_back, (b * half[0], a * half[1]), -angle)
        for (u, v), (a, b) in _CHAMBERS
    ]
    radius = rng.uniform(11, 14)
    aorta = _ellipse(plane, (rng.uniform(44, 54), rng.uniform(20, 30)), (radius, radius))
    return [*chambers, aorta]


def _vessels(rng: np.random.Generator, plane: _Plane, lungs: np.ndarray) -> np.ndarray:
    """Vessels of both lungs: wide ones at the root, narrow ones outside."""
    found = np.zeros_like(lungs)
    pitch = FIELD_MM / len(lungs)
    for side in (-1, 1):
        for outward in np.sort(rng.uniform(0, 1, 14)):
            centre = (rng.uniform(-45, 45) * (0.4 + outward), side * (38 + 85 * outward))
            radius = max(7.5 - 6 * outward, 0.75 * pitch)
            long = radius * rng.uniform(1, 2.5)
            found |= _ellipse(plane, centre, (radius, long), rng.uniform(0, np.pi))
    return found & lungs


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of filtered back projection, of unit variance: its power rises with the frequency and falls again."""
    frequency = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    amplitude = np.sqrt(frequency * np.exp(-((frequency / _PEAK) ** 2) / 2))
    field = fft.irfft2(fft.rfft2(rng.standard_normal((size, size))) * amplitude, s=(size, size))
    return field / field.std()
