"""LIME by its authors' package. It is imported when it is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xaiutils.attribution.libraries.adapter import Adapter
from xaiutils.attribution.lime import segments_of_images
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import logits
from xaiutils.images import as_rgb
from xaiutils.progress import progress


def lime_of_package(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    n_samples: int,
    kernel_width: float,
    seed: int,
    **superpixels: Any,
) -> np.ndarray:
    """`xaiutils.attribution.lime.lime` by the package ``lime``, on the same ``superpixels`` (segments, segmentation and
    n_segments, as there): probabilities, alpha 1, hidden by their mean colour.

    ImportError, saying how to install it, without the package.
    """
    try:
        from lime import lime_image
    except ImportError as error:
        raise ImportError("library='lime' needs the package lime: pip install lime") from error

    if network.channels not in (1, 3):
        raise ModelError(
            f"the package lime takes grey and RGB images, and the model takes {network.channels} channels; use "
            "library='xaiutils'."
        )

    def classify(batch: np.ndarray) -> np.ndarray:
        batch = batch[..., : network.channels].astype(np.float32)
        return network.probabilities(logits(network, batch, 32)).numpy()

    segments = segments_of_images(images, seed=seed, **superpixels)
    maps = np.empty(segments.shape, np.float32)
    for i in progress(range(len(images)), title="LIME by the package"):
        explainer = lime_image.LimeImageExplainer(kernel_width=kernel_width, random_state=seed)
        with _no_bar(lime_image):
            found = explainer.explain_instance(
                as_rgb(images[i]),
                classify,
                labels=(int(targets[i]),),
                top_labels=None,
                num_samples=n_samples,
                batch_size=32,
                segmentation_fn=lambda _, i=i: segments[i],
            )
        weights = dict(found.local_exp[int(targets[i])])
        maps[i] = np.array([weights[k] for k in range(segments[i].max() + 1)])[segments[i]]
    return maps


@contextmanager
def _no_bar(module: Any) -> Iterator[None]:
    """The package draws a progress bar for each image, which no option turns off."""
    bar, module.tqdm = module.tqdm, iter
    try:
        yield
    finally:
        module.tqdm = bar


ADAPTERS = (
    Adapter(
        "lime",
        "lime",
        lime_of_package,
        ("n_samples", "segmentation", "n_segments", "segments", "kernel_width", "seed"),
        "its own random draws; probability, alpha 1 and superpixel means are fixed",
    ),
)
