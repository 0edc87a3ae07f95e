"""What several tests of the panel need."""

import numpy as np
from matplotlib.text import Text

from xaiutils.datasets import ImageDataset
from xaiutils.widgets.scene_drawing import Drawing


def toy_dataset(images: np.ndarray) -> ImageDataset:
    """Five images of three classes, all but the fourth with a square of evidence."""
    masks = np.zeros((5, 32, 32), bool)
    masks[:, 4:12, 4:12] = True
    masks[3] = False
    pixels = images.astype(np.uint8)
    return ImageDataset(pixels, [0, 1, 2, 0, 1], ("a", "b", "c"), [f"i{k}" for k in range(5)], masks, name="toy")


def written(drawing: Drawing) -> list[str]:
    """All words of a picture, line by line."""
    texts = drawing.figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [line for text in texts for line in text.get_text().splitlines() if line]
