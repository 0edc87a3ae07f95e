"""Occlusion: how far the score falls when a window of the image is hidden."""

import numpy as np

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.attribution.method import SCORES, Method
from xaiutils.attribution.windows import check_stride, mean_over_windows, window_starts
from xaiutils.graph.network import Network
from xaiutils.graph.passes import masked_scores, target_scores
from xaiutils.registry import Parameter


def occlusion(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    patch_size: int,
    patch_width: int,
    stride: int,
    fill: str,
    score: str,
) -> np.ndarray:
    """Mean over the windows that cover a pixel of S(x) - S(x with the window hidden) (Zeiler & Fergus 2014,
    arXiv:1311.2901).

    Positive: hiding the pixel lowers the score (the paper draws the probability that is left). A window is
    ``patch_size`` high and ``patch_width`` wide (0: square), at most the image. Windows start at every ``stride``
    pixels (0: side by side) and cover the image to its edges, where the last ones are cut. ValueError for a stride
    larger than the window.
    """
    n, height, width = images.shape[:3]
    rows, columns = min(patch_size, height), min(patch_width or patch_size, width)
    check_stride(stride, min(patch_size, patch_width or patch_size))
    windows = [
        (slice(y, y + rows), slice(x, x + columns))
        for y in window_starts(height, rows, stride or rows)
        for x in window_starts(width, columns, stride or columns)
    ]
    members = np.repeat(np.arange(n), len(windows))

    def masks(batch: slice) -> np.ndarray:
        shown = np.ones((batch.stop - batch.start, height, width), np.float32)
        for row, k in enumerate(range(batch.start, batch.stop)):
            shown[row][windows[k % len(windows)]] = 0
        return shown

    hidden = masked_scores(
        network, images, fill_images(images, fill), targets, members, masks, batch_size, score, "occlusion"
    ).reshape(n, len(windows))
    whole = target_scores(network, images, targets, batch_size, score)
    return mean_over_windows(whole[:, None] - hidden, windows, height, width)


OCCLUSION = Method(
    name="occlusion",
    title="Occlusion",
    family="perturbation",
    paper="Zeiler & Fergus 2014, arXiv:1311.2901",
    signed=True,
    cost="1 forward for each window, + 1",
    compute=occlusion,
    needs="nothing",
    parameters=(
        Parameter("patch_size", int, 15, "side of the window in pixels; the thesis: 5, 10, 15", 1, 1024),
        Parameter("patch_width", int, 0, "width of the window, patch_size its height; 0: square", 0, 1024),
        Parameter(
            "stride",
            int,
            0,
            "pixels between windows; 0: side by side; at most the window",
            0,
            1024,
        ),
        Parameter("fill", str, "grey", "what hidden pixels show; the paper: grey", choices=FILLS),
        Parameter(
            "score",
            str,
            "logit",
            "the score whose drop is drawn; the paper: the probability, which hardly drops where it is nearly 1",
            choices=SCORES,
        ),
    ),
)
