"""Masses and clusters of calcifications, as profiles in [0, 1] that are added to the breast. Lengths in millimetres.

Every profile ends exactly at zero a few pixels beyond its border, so that the evidence is bounded.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull

FIELD_MM = 224.0  # height and width of the image
_SPICULE_BRIGHTNESS = 0.85  # of the mass
_SPICULE_HALF_WIDTH = (0.35, 1.3)  # at the tip and at the root
_ROOT = 0.7  # spicules begin inside the mass, at this fraction of its radius
_TURN = np.linspace(-np.pi, np.pi, 361)
_COARSE_PITCH = 2.0  # coarser than most images: precise enough for an energy, and quick
_REACH = np.arange(-56, 56.1, _COARSE_PITCH, dtype=np.float32)
_COARSE_GRID = np.hypot(_REACH[:, None], _REACH), np.arctan2(_REACH[:, None], _REACH)  # distances and angles


@dataclass(frozen=True)
class Profiles:
    """A lesion on the image grid. ``added``: float32 ``(size, size)`` in [0, 1], to be scaled by the contrast.

    ``lesion``, ``core`` and ``spicules`` are bool ``(size, size)``. Of a mass, the core is its body and the lesion is
    core and spicules. Of a cluster, the core is the grains, and the lesion the convex region that holds them, since
    their arrangement is part of the evidence.
    """

    added: np.ndarray
    lesion: np.ndarray
    core: np.ndarray
    spicules: np.ndarray


@dataclass(frozen=True)
class MassShape:
    """A mass whose border is ``radius * (1 + sum of amplitude * cos(order * angle + phase))``.

    ``margin`` is the width of the border; the spicules have angles, lengths in radii, and bends in radians.
    """

    radius: float
    margin: float
    orders: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray
    angles: np.ndarray
    lengths: np.ndarray
    bends: np.ndarray


@dataclass(frozen=True)
class Cluster:
    """Grains of calcium: places from the centre ``(n, 2)``, radii, elongations, directions, brightness in [0, 1]."""

    places: np.ndarray
    radii: np.ndarray
    elongations: np.ndarray
    directions: np.ndarray
    brightness: np.ndarray


def no_lesion(size: int) -> Profiles:
    empty = np.zeros((size, size), bool)
    return Profiles(np.zeros((size, size), np.float32), empty, empty, empty)


def draw_mass(rng: np.random.Generator, radius: float, malignant: bool) -> MassShape:
    """A mass as large as a disc of ``radius``: smooth and oval, or lobed, blurred and spiculated.

    The border of a malignant mass follows a power law over the orders (after de Sisternes et al. 2015). Its core is
    made smaller, so that core and spicules together have the energy (sum of squares) of the disc: otherwise the mean
    and the spread of the image would distinguish the classes. Equal sums, with a still smaller core, would shift its
    bright percentiles instead.
    """
    if malignant:
        orders = np.arange(2, 13)
        amplitudes = rng.uniform(0.10, 0.16) * orders**-0.75 * rng.uniform(0.6, 1.4, len(orders))
        margin, spicules = rng.uniform(1.5, 2.5), int(rng.integers(12, 25))
    else:
        orders = np.array([2, 3])
        amplitudes = np.array([rng.uniform(0, 0.18), rng.uniform(0, 0.05)])
        margin, spicules = rng.uniform(0.8, 1.2), 0
    shape = MassShape(
        radius=radius,
        margin=margin,
        orders=orders,
        amplitudes=amplitudes,
        phases=rng.uniform(0, 2 * np.pi, len(orders)),
        angles=rng.uniform(0, 2 * np.pi, spicules),
        lengths=rng.uniform(0.8, 1.6, spicules),
        bends=0.6 * rng.normal(0, 0.25, spicules),
    )
    return _with_energy(shape, np.pi * radius**2)


def mass_profiles(shape: MassShape, centre: tuple[int, int], size: int) -> Profiles:
    """The mass on an image of ``size`` pixels, its centre at the pixel ``centre``."""
    reach = shape.radius * (1 + shape.lengths.max(initial=0.8)) + 6
    patch, down, right = patch_around(centre, size, reach)
    core, spicules = _mass_parts(shape, np.hypot(down, right), np.arctan2(down, right), FIELD_MM / size)
    profiles = no_lesion(size)
    added, body, rays = profiles.added, np.zeros((size, size), bool), np.zeros((size, size), bool)
    added[patch] = _mass(core, spicules)
    body[patch] = core > 0.5
    rays[patch] = (spicules > 0.15) & (core <= 0.5)  # so low that thin tips are in the mask of small images too
    return Profiles(added, body | rays, body, rays)


def draw_cluster(rng: np.random.Generator, radius: float, malignant: bool) -> Cluster:
    """Grains within ``radius`` of the centre: few, round and alike, or many, of mixed forms, along branches.

    The few are larger, so that both kinds add about the same light.
    """
    n = int(rng.integers(10, 26) if malignant else rng.integers(4, 10))
    if malignant:
        places = _branches(rng, n)
        radii, elongations = rng.uniform(0.5, 1.2, n), rng.uniform(1, 4, n)
        brightness = rng.uniform(0.7, 1, n)
    else:
        places = rng.normal(size=(n, 2))
        radii, elongations = np.full(n, rng.uniform(0.9, 1.4)), np.ones(n)
        brightness = np.ones(n)
    places = places - places.mean(axis=0)
    places *= radius / np.hypot(*places.T).max()
    return Cluster(places, radii, elongations, rng.uniform(0, np.pi, n), brightness / brightness.max())


def cluster_profiles(cluster: Cluster, centre: tuple[int, int], size: int) -> Profiles:
    """The cluster on an image of ``size`` pixels, no grain under a pixel wide."""
    pitch = FIELD_MM / size
    patch, down, right = patch_around(centre, size, np.hypot(*cluster.places.T).max() + 2.5 + 3 * pitch)
    down = down - cluster.places[:, 0, None, None].astype(np.float32)
    right = right - cluster.places[:, 1, None, None].astype(np.float32)
    radii = np.maximum(cluster.radii, 0.5 * pitch)
    stretch = np.minimum(np.sqrt(cluster.elongations), radii / (0.5 * pitch))
    cos, sin, stretch, radii, brightness = (
        values[:, None, None].astype(np.float32)
        for values in (np.cos(cluster.directions), np.sin(cluster.directions), stretch, radii, cluster.brightness)
    )
    distance = np.hypot((right * cos + down * sin) / stretch, (down * cos - right * sin) * stretch)
    grains = brightness * step(radii - distance, 0.6 * pitch)
    profiles = no_lesion(size)
    added, core, hull = profiles.added, np.zeros((size, size), bool), np.zeros((size, size), bool)
    added[patch] = grains.max(axis=0)
    added /= added.max()  # the brightest grain has the full contrast, wherever it falls on the grid
    core[patch] = added[patch] > 0.3
    hull[patch] = _hull(added[patch] > 0)
    return Profiles(added, hull, core, np.zeros_like(core))


def _with_energy(shape, energy):
    """The shape scaled until the sum of its squared profile, in square millimetres, is ``energy``."""
    for _ in range(3):
        found = np.sum(_mass(*_mass_parts(shape, *_COARSE_GRID, _COARSE_PITCH)) ** 2) * _COARSE_PITCH**2
        shape = replace(shape, radius=shape.radius * float(np.sqrt(energy / found)))
    return shape


def _mass(core, spicules):
    return np.maximum(core, _SPICULE_BRIGHTNESS * spicules)


def _mass_parts(shape, distance, angle, pitch):
    """Profiles of core and spicules at distances and angles from the centre, on a grid of ``pitch`` millimetres."""
    waves = np.cos(shape.orders[:, None] * _TURN + shape.phases[:, None])
    border = shape.radius * (1 + shape.amplitudes @ waves)
    core = step(np.interp(angle, _TURN, border).astype(np.float32) - distance, max(1.8 * shape.margin, 0.7 * pitch))
    spicules = np.zeros_like(core)
    if len(shape.angles):
        near = (distance > _ROOT * shape.radius) & (distance < shape.radius * (1 + shape.lengths.max()))
        spicules[near] = _spicules(shape, distance[near], angle[near], pitch)
    return core, spicules


def _spicules(shape, distance, angle, pitch):
    """Tapering, slightly bent rays; at each place the strongest."""
    angles, lengths, bends = (v[:, None].astype(np.float32) for v in (shape.angles, shape.lengths, shape.bends))
    progress = (distance - shape.radius) / (shape.radius * lengths)  # 0 at the border of the mass, 1 at the tip
    tip, root = _SPICULE_HALF_WIDTH
    half_width = np.clip(root * (1 - progress), tip, root) * (progress < 1)
    across = 2 * distance * np.abs(np.sin((angle - angles - bends * progress) / 2))
    # A line blurred by a pixel: narrow lines become faint instead of breaking up, and the sum is kept.
    blur = 0.75 * pitch
    return (step(half_width - across, blur) - step(-half_width - across, blur)).max(axis=0)


def _branches(rng, n):
    """Places along two or three wavering branches, as grains in ducts lie."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(1.2, 2.4, 3))
    branch = rng.integers(0, rng.integers(2, 4), n)
    along = rng.uniform(0, 1, n)
    direction = heading[branch] + 0.8 * along * rng.choice([-1, 1], 3)[branch]
    places = np.stack([along * np.sin(direction), along * np.cos(direction)], axis=1)
    return places + rng.normal(0, 0.12, places.shape)


def _hull(mask):
    """Pixels within the convex hull of a mask's pixels."""
    shifts = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    corners = (np.argwhere(mask)[:, None] + shifts).reshape(-1, 2)
    down, right, offset = ConvexHull(corners).equations.astype(np.float32).T[:, :, None, None]  # negative inside
    rows, columns = np.indices(mask.shape, np.float32)
    return (down * rows + right * columns + offset < 0).all(axis=0)


def patch_around(centre: tuple[int, int], size: int, reach: float) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """Slices of the image within ``reach`` mm of the pixel ``centre``, and the offsets in mm of their pixels from it
    (down, right), float32."""
    pixels = int(np.ceil(reach * size / FIELD_MM))
    patch = tuple(slice(max(c - pixels, 0), min(c + pixels + 1, size)) for c in centre)
    down, right = np.mgrid[patch].astype(np.float32) - np.reshape(centre, (2, 1, 1)).astype(np.float32)
    pitch = np.float32(FIELD_MM / size)
    return patch, pitch * down, pitch * right


def step(x: np.ndarray, half_width: float) -> np.ndarray:
    """A smooth step from 0 at ``-half_width`` to 1 at ``half_width``."""
    t = np.clip(0.5 + x / (2 * half_width), 0, 1)
    return t * t * (3 - 2 * t)
