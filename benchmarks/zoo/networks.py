"""All networks of the contract, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import keras
from zoo.checks import Subject
from zoo.foreign import Foreign, foreign, images
from zoo.own import own
from zoo.shapes import shapes

BOTH = ("float32", "mixed_bfloat16")


@dataclass(frozen=True)
class Entry:
    """A network: where it comes from, and the function that makes it, with its images, in a precision."""

    source: str
    subject: Callable[[str], Subject]
    precisions: tuple[str, ...] = BOTH


def networks() -> dict[str, Entry]:
    """Hand-built shapes first, then the package's own backbones, then what others wrote, the small ones first."""
    found = {f"shape: {name}": Entry("by hand", make) for name, make in shapes().items()}
    found |= {name: Entry("xaiutils", make) for name, make in own().items()}
    order = sorted(foreign().items(), key=lambda item: item[1].source != "zeromodels")
    return found | {name: Entry(one.source, lambda precision, one=one: _foreign(one, precision)) for name, one in order}


def _foreign(one: Foreign, precision: str) -> Subject:
    keras.config.set_dtype_policy(precision)
    try:
        by_hand = one.make()
    finally:
        keras.config.set_dtype_policy("float32")
    model = by_hand
    if one.source == "keras.applications":  # zeromodels' graphs are tested as they come, with logits
        model = keras.Model(by_hand.inputs, keras.layers.Softmax(dtype="float32")(by_hand.output))
    return Subject(
        model,
        lambda x: by_hand(x, training=False),
        images(2, one.size),
        np.array([1, 2]),
        precision,
        core=by_hand.layers[-1],
        before_core=by_hand.layers[1],
    )
