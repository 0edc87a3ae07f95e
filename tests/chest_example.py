"""Twelve small images of three labels with maps, masks, probabilities and a second reader, made by arithmetic: the
example on which CheXlocalize's own code was run (`tests/golden/chexlocalize.json` holds what it gave)."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

LABELS = ("Cardiomegaly", "Edema", "Pneumothorax")
SIZE = (48, 64)  # height, width
N = 12


@dataclass(frozen=True)
class Example:
    """``maps`` float32 ``(n, k, h, w)``, ``masks`` and ``human`` bool alike, ``probabilities`` float32 ``(n, k)``,
    ``points`` by image and label a list of (x, y), ``instances`` int ``(n, k)`` the outlines that were drawn."""

    ids: list[str]
    maps: np.ndarray
    masks: np.ndarray
    human: np.ndarray
    probabilities: np.ndarray
    points: list[dict[str, list[tuple[float, float]]]]
    instances: np.ndarray


def _ellipse(y, x, a, b, turn):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    u = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    v = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def make_example(seed: int) -> Example:
    """Image 3 has no finding, image 5 a finding that the reader missed; one map is constant, one has a hole."""
    rng = np.random.default_rng(seed)
    shape = (N, len(LABELS), *SIZE)
    maps, masks, human = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    instances = np.zeros(shape[:2], int)
    points: list[dict] = [{} for _ in range(N)]
    for i in range(N):
        for k in range(len(LABELS)):
            found = 0 if i == 3 or rng.random() < 0.35 else 1 + int(rng.random() < 0.4)
            instances[i, k] = found
            places = []
            for j in range(found):
                y, x = rng.uniform(12, 36), rng.uniform(10, 24) + 30 * j
                a, b, turn = rng.uniform(4, 10), rng.uniform(3, 6), rng.uniform(0, 3)
                masks[i, k] |= _ellipse(y, x, a, b, turn)
                human[i, k] |= _ellipse(y + rng.normal(0, 2), x + rng.normal(0, 2), 1.2 * a, b, turn)
                x, y = np.clip(x + rng.normal(0, 4), 0, 63), np.clip(y + rng.normal(0, 4), 0, 47)
                places.append((float(x), float(y)))
            if found:
                points[i][LABELS[k]] = places
            seen = ndimage.gaussian_filter(masks[i, k].astype(float), 5, mode="constant")
            noise = ndimage.gaussian_filter(rng.normal(size=SIZE), 4, mode="constant")
            maps[i, k] = np.float32(seen + rng.uniform(0.5, 3) * noise)
    human[5], points[5] = False, {}
    maps[7, 1] = 0.25
    ring = _ellipse(24, 32, 14, 12, 0) & ~_ellipse(24, 32, 6, 5, 0)
    maps[2, 0] = ring + 0.1 * _ellipse(5, 5, 2, 2, 0)
    maps[2, 0, 40, 60] = 1
    probabilities = np.float32(np.clip(0.35 + 0.3 * (instances > 0) + rng.normal(0, 0.2, instances.shape), 0.01, 0.99))
    ids = [f"patient{i // 2:05d}_study{i % 2 + 1}_view1_frontal" for i in range(N)]
    return Example(ids, maps, masks, human, probabilities, points, instances)
