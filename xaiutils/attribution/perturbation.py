"""Methods that hide parts of the image and watch the score."""

import numpy as np

from xaiutils.attribution.gradients import baseline_images
from xaiutils.attribution.method import METHODS, Method
from xaiutils.attribution.passes import class_scores, logits, masked_scores
from xaiutils.registry import Parameter

FILLS = ("grey", "black", "white", "mean", "blur")


def fill_images(images: np.ndarray, fill: str) -> np.ndarray:
    """What hidden pixels show: mid-grey 127.5, or a baseline of `xaiutils.attribution.gradients.baseline_images`."""
    return np.full_like(images, 127.5) if fill == "grey" else baseline_images(images, fill)


def window_starts(length: int, patch: int, stride: int) -> np.ndarray:
    """First pixels of the windows along one side; the last window may reach over the edge and is cut there."""
    last = max(0, length - patch)
    return np.arange(0, -(-last // stride) * stride + 1, stride)


def occlusion(
    network, images, targets, batch_size, *, patch_size: int, stride: int, fill: str, score: str
) -> np.ndarray:
    """Mean over the windows that cover a pixel of S(x) - S(x with the window hidden) (Zeiler & Fergus 2014,
    arXiv:1311.2901).

    Positive: hiding the pixel lowers the score. Windows start at every ``stride`` pixels (0: ``patch_size``, side by
    side) and cover the image to its edges.
    """
    n, height, width = images.shape[:3]
    patch_size = min(patch_size, height, width)
    stride = min(stride or patch_size, patch_size)
    windows = [
        (slice(y, y + patch_size), slice(x, x + patch_size))
        for y in window_starts(height, patch_size, stride)
        for x in window_starts(width, patch_size, stride)
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
    total, covers = np.zeros((n, height, width)), np.zeros((height, width))
    for k, window in enumerate(windows):
        total[:, window[0], window[1]] += (whole - hidden[:, k])[:, None, None]
        covers[window] += 1
    return (total / covers).astype(np.float32)


METHODS.add(
    Method(
        name="occlusion",
        title="Occlusion",
        family="perturbation",
        paper="Zeiler & Fergus 2014, arXiv:1311.2901",
        signed=True,
        cost="1 forward for each window, + 1",
        compute=occlusion,
        parameters=(
            Parameter("patch_size", int, 15, "side of the window in pixels; the thesis: 5, 10, 15", 1, 1024),
            Parameter("stride", int, 0, "pixels between windows; 0: patch_size (at most patch_size)", 0, 1024),
            Parameter("fill", str, "grey", "what hidden pixels show", choices=FILLS),
            Parameter("score", str, "logit", "the score whose drop is drawn", choices=("logit", "probability")),
        ),
    )
)
