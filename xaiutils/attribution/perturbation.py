"""Methods that hide parts of the image and watch the score: what they share, and occlusion."""

import numpy as np

from xaiutils.attribution.gradients import baseline_images
from xaiutils.attribution.method import Method
from xaiutils.graph.passes import class_scores, logits, masked_scores
from xaiutils.registry import Parameter

FILLS = ("grey", "black", "white", "mean", "blur")
SCORES = ("logit", "probability")


def fill_images(images: np.ndarray, fill: str) -> np.ndarray:
    """What hidden pixels show: mid-grey 127.5, or a baseline of `xaiutils.attribution.gradients.baseline_images`."""
    return np.full_like(images, 127.5) if fill == "grey" else baseline_images(images, fill)


def window_starts(length: int, patch: int, stride: int) -> np.ndarray:
    """First pixels of the windows along one side; the last window may reach over the edge and is cut there."""
    last = max(0, length - patch)
    return np.arange(0, -(-last // stride) * stride + 1, stride)


def check_stride(stride: int, window: int) -> None:
    """ValueError where windows of this side, at every ``stride`` pixels, would leave pixels between them uncovered."""
    if stride > window:
        raise ValueError(
            f"stride={stride} is larger than the window of {window} pixels: pixels between the windows would get no "
            "value. Give a smaller stride, or 0 for windows side by side."
        )


def occlusion(
    network, images, targets, batch_size, *, patch_size: int, patch_width: int, stride: int, fill: str, score: str
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
    whole = class_scores(network, logits(network, images, batch_size), targets, score).numpy()
    return mean_over_windows(whole[:, None] - hidden, windows, height, width)


def mean_over_windows(values: np.ndarray, windows: list[tuple[slice, slice]], height: int, width: int) -> np.ndarray:
    """Each pixel's mean over the windows that cover it of their values ``(n, windows)``; float32 maps."""
    total, covers = np.zeros((len(values), height, width)), np.zeros((height, width))
    for k, window in enumerate(windows):
        total[:, window[0], window[1]] += values[:, k, None, None]
        covers[window] += 1
    return (total / covers).astype(np.float32)


OCCLUSION = Method(
    name="occlusion",
    title="Occlusion",
    family="perturbation",
    paper="Zeiler & Fergus 2014, arXiv:1311.2901",
    signed=True,
    cost="1 forward for each window, + 1",
    compute=occlusion,
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
