"""Maps that do not depend on the trained model, and the evidence itself: what every table of metrics is read beside."""

import numpy as np
from skimage.filters import laplace, sobel

from xaiutils.datasets import ImageDataset
from xaiutils.graph.passes import enlarge


def control_maps(ds: ImageDataset, seed: int = 0, grid: tuple[int, int] = (7, 7)) -> dict[str, np.ndarray]:
    """Maps float32 ``(n, height, width)`` by name, those of `xaiutils.evaluation.score_tables.CONTROLS`.

    ``random``: uniform noise, each image its own. ``centre``: a Gaussian at the image's centre, sigma a quarter of its
    height. ``edges``: Sobel magnitude. ``laplace``: absolute value of the Laplacian of 3 x 3 pixels. ``intensity``:
    brightness. Only with masks, ``oracle``: the mask averaged over ``grid`` (rows, columns) and enlarged, the evidence
    as coarse as the map, not the optimum of every metric; and ``oracle_full``: the mask itself.
    """
    n, height, width = ds.pixels.shape[:3]
    grey = ds.pixels.mean(axis=-1, dtype=np.float32)
    rows, columns = np.mgrid[0:height, 0:width]
    distance = ((rows - (height - 1) / 2) / height) ** 2 + ((columns - (width - 1) / 2) / height) ** 2
    noise = [np.random.default_rng([seed, i]).random((height, width), np.float32) for i in range(n)]
    maps = {
        "random": np.stack(noise),
        "centre": np.broadcast_to(np.exp(-distance / (2 * 0.25**2)).astype(np.float32), (n, height, width)),
        "edges": np.stack([sobel(image).astype(np.float32) for image in grey]),
        "laplace": np.stack([np.abs(laplace(image, ksize=3)).astype(np.float32) for image in grey]),
        "intensity": grey,
    }
    if ds.masks is not None:
        maps["oracle"] = enlarge(_averaged(ds.masks, grid), height, width)
        maps["oracle_full"] = ds.masks.astype(np.float32)
    return maps


def _averaged(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of the masks over a grid of fields that differ by at most a pixel in size."""
    for axis, fields in zip((1, 2), grid, strict=True):
        fields = min(fields, masks.shape[axis])
        edges = np.rint(np.linspace(0, masks.shape[axis], fields + 1)).astype(int)
        sums = np.add.reduceat(masks.astype(np.float32), edges[:-1], axis=axis)
        sizes = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(3)])
        masks = sums / sizes
    return masks
