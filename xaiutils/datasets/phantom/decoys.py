"""What a lesion has for company: findings of its size, brightness and sharpness that decide no class.

Dense islands without a border, masses with fat in their middle, lymph nodes with their hilum, and calcified vessels.
None of them is a solid mass with a smooth or a spiculated border, nor a cluster of calcifications.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from xaiutils.datasets.phantom.anatomy import Anatomy
from xaiutils.datasets.phantom.lesions import FIELD_MM, MassShape, draw_mass, mass_profiles, patch_around, step

KINDS = ("island", "mass with fat", "node", "vessel")
_FAT = 0.7  # of the contrast, that the fat inside a mass or a node lacks
_LUMEN = 2.0  # mm, half the distance of a vessel's walls


def draw_decoys(
    rng: np.random.Generator,
    anatomy: Anatomy,
    taken: Sequence[tuple[tuple[int, int], float]],
    n: int,
    radii: tuple[float, float],
    contrasts: Sequence[tuple[float, float]],
) -> np.ndarray:
    """What ``n`` decoys add to the brightness: float32 ``(size, size)``, 0 where none is.

    ``taken``: centres in pixels and radii in mm that they keep away from; each takes a place of its own, and one that
    finds none is left out. ``radii`` in mm and ``contrasts``, of masses and of calcium, are drawn from as a lesion's.
    """
    size = anatomy.breast.shape[0]
    places = np.arange(size, dtype=np.float32) * np.float32(FIELD_MM / size)
    added = np.zeros((size, size), np.float32)
    free = ndimage.distance_transform_edt(~anatomy.pectoral) * FIELD_MM / size if anatomy.pectoral.any() else np.inf
    free = np.minimum(free, FIELD_MM * anatomy.depth)
    for centre, radius in taken:
        free = np.minimum(free, _distance(places, centre) - radius)
    for i in range(n):
        kind, radius = KINDS[i % len(KINDS)], rng.uniform(*radii)
        low, high = contrasts[kind == "vessel"]
        contrast, place, seed = rng.uniform(low, high), rng.random(), rng.integers(2**32)
        allowed = np.flatnonzero(free > 1.1 * radius)
        if not len(allowed):
            continue
        centre = divmod(int(allowed[int(place * len(allowed))]), size)
        added += np.float32(contrast) * _profile(np.random.default_rng(seed), kind, radius, centre, size)
        free = np.minimum(free, _distance(places, centre) - 1.1 * radius)
    return added


def _distance(places, centre):
    """From the pixel ``centre`` to every pixel, in mm; ``places`` are those of rows and of columns."""
    pitch = np.float32(FIELD_MM / len(places))
    return np.hypot((places - pitch * centre[0])[:, None], places - pitch * centre[1])


def _profile(rng, kind, radius, centre, size):
    """One decoy in [0, 1], float32 ``(size, size)``."""
    if kind == "vessel":
        return _vessel(rng, radius, centre, size)
    shape = draw_mass(rng, radius, malignant=False)
    if kind == "island":
        return mass_profiles(_island(rng, shape), centre, size).added
    fat, angle = (0.65, 0.0) if kind == "mass with fat" else (0.5, rng.uniform(0, 2 * np.pi))
    aside = 0.0 if kind == "mass with fat" else 0.5 * radius * size / FIELD_MM
    inner = (round(centre[0] + aside * np.sin(angle)), round(centre[1] + aside * np.cos(angle)))
    hollow = mass_profiles(replace(shape, radius=fat * shape.radius), inner, size).added
    return mass_profiles(shape, centre, size).added * (1 - np.float32(_FAT) * hollow)


def _island(rng, shape: MassShape) -> MassShape:
    """A mass without a border: it fades over most of its radius."""
    orders = np.arange(2, 6)
    amplitudes, phases = rng.uniform(0, 0.15, len(orders)), rng.uniform(0, 2 * np.pi, len(orders))
    return replace(
        shape,
        margin=0.3 * shape.radius,
        orders=orders,
        amplitudes=amplitudes,
        phases=phases,
        radius=1.05 * shape.radius,
    )


def _vessel(rng, radius, centre, size):
    """Two walls of a winding vessel, as broken lines of calcium across the decoy's disc."""
    pitch = FIELD_MM / size
    patch, down, right = patch_around(centre, size, 1.1 * radius)
    angle = rng.uniform(0, np.pi)
    along = right * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    across = down * np.float32(np.cos(angle)) - right * np.float32(np.sin(angle))
    across = across - 0.2 * radius * np.sin(np.float32(rng.uniform(2, 4)) * along / radius + rng.uniform(0, 6))
    blur = 0.75 * pitch
    wall = np.maximum(*(step(0.6 - np.abs(across + s * _LUMEN), blur) for s in (-1, 1)))
    broken = step(np.sin(along * rng.uniform(0.7, 1.2) + rng.uniform(0, 6)) + 0.4, 0.5)
    ends = step(radius - np.hypot(along, across), 2 * pitch)
    added = np.zeros((size, size), np.float32)
    added[patch] = wall * broken * ends
    return added / max(float(added.max()), 1e-6)
