"""Windows that slide over the image, for the methods that hide one at a time."""

import numpy as np


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


def mean_over_windows(values: np.ndarray, windows: list[tuple[slice, slice]], height: int, width: int) -> np.ndarray:
    """Each pixel's mean over the windows that cover it of their values ``(n, windows)``; float32 maps."""
    total, covers = np.zeros((len(values), height, width)), np.zeros((height, width))
    for k, window in enumerate(windows):
        total[:, window[0], window[1]] += values[:, k, None, None]
        covers[window] += 1
    return (total / covers).astype(np.float32)
