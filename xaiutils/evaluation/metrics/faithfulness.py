"""Maps against the model: does the score follow when the pixels that the map names go, or come?"""

import numpy as np

from xaiutils.attribution.baselines import FILLS, fill_images
from xaiutils.evaluation.metrics.metric import METRICS, Metric
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.graph.passes import masked_scores
from xaiutils.registry import Parameter


def perturbation_curve(
    network, images, maps, targets, batch_size, *, n_steps: int, fill: str, insert: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of pixels changed ``(n_steps + 1,)`` and the target's probability at each, ``(n, n_steps + 1)``.

    Pixels go in the order of their value, highest first (ties by position). ``insert`` starts from the fill and shows
    pixels of the image; otherwise starts from the image and replaces pixels by the fill.
    """
    n, height, width = maps.shape
    rank = pixel_ranks(maps)
    counts = np.rint(np.linspace(0, height * width, n_steps + 1)).astype(int)
    members, steps = np.divmod(np.arange(n * len(counts)), len(counts))

    def masks(batch: slice) -> np.ndarray:
        changed = rank[members[batch]] < counts[steps[batch]][:, None, None]
        return (changed if insert else ~changed).astype(np.float32)

    title = "insertion" if insert else "deletion"
    scores = masked_scores(
        network, images, fill_images(images, fill), targets, members, masks, batch_size, "probability", title
    )
    return counts / (height * width), scores.reshape(n, len(counts))


def _auc(insert: bool):
    def compute(network, images, maps, targets, batch_size, *, n_steps: int, fill: str) -> np.ndarray:
        fractions, curve = perturbation_curve(
            network, images, maps, targets, batch_size, n_steps=n_steps, fill=fill, insert=insert
        )
        return np.trapezoid(curve.astype(np.float64), fractions, axis=1)

    return compute


_STEPS = Parameter("n_steps", int, 50, "parts in which the pixels are changed; the paper: 224", 1, 10_000)
_PAPER = "Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421"
METRICS.add(
    Metric(
        "insertion_auc",
        "Insertion AUC",
        "model",
        True,
        _PAPER
        + "; from a blur of a tenth of the height, stronger than the paper's 5 pixels, which leaves lesions readable",
        _auc(insert=True),
        (_STEPS, Parameter("fill", str, "blur", "the image that pixels are inserted into", choices=FILLS)),
    )
)
METRICS.add(
    Metric(
        "deletion_auc",
        "Deletion AUC",
        "model",
        False,
        _PAPER + "; to the image's mean colour, the paper's 0 after normalising",
        _auc(insert=False),
        (_STEPS, Parameter("fill", str, "mean", "what deleted pixels show", choices=FILLS)),
    )
)
