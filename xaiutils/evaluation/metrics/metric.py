"""What a metric declares: `METRICS` feeds `evaluate`, the notebooks, the docs and the tests."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.registry import Parameter, Registry


@dataclass(frozen=True)
class Metric:
    """One score of a map. ``needs`` is "maps" (nothing else), "masks", "model" or "method".

    ``compute`` returns one float for each image, NaN where the metric has no meaning: ``compute(maps, **parameters)``;
    with masks ``compute(maps, masks, **parameters)``; with the model ``compute(network, images, maps, targets,
    batch_size, **parameters)``; with the method, which explains changed images anew, ``compute(model, images, maps,
    targets, batch_size, explain, **parameters)``, ``explain(images, targets)`` returning maps. ``chance(masks,
    **parameters)`` is the expected value of a map without any knowledge, where it is known.

    ``compute`` is given maps read as the caller of `evaluate` asks (`xaiutils.map_reading`). ``reading`` is for a
    metric that is defined for one reading alone: it is then always given that one.
    """

    name: str
    title: str
    needs: str
    higher_is_better: bool
    paper: str
    compute: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    chance: Callable[..., np.ndarray] | None = None
    reading: str = ""

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"


METRICS: Registry[Metric] = Registry("metric")


def check_classes(model: keras.Model | None, ds: ImageDataset) -> None:
    """Raise ValueError where the model answers with another number of classes than the data have: labels would name the
    wrong outputs. One output stands for two classes."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None:
        return
    outputs = max(2, shape[-1])
    if outputs != len(ds.class_names):
        raise ValueError(
            f"the model answers with {outputs} classes and the data have {len(ds.class_names)} "
            f"({', '.join(ds.class_names[:5])}): they do not belong together. Load the data that the model learnt."
        )
