"""`wrap`: any Keras image classifier as a model that takes images in [0, 255] and returns one output."""

from pathlib import Path

from xaiutils.backend import keras
from xaiutils.class_names import check_class_names
from xaiutils.graph.flat_graph import as_function
from xaiutils.models.wrapped import ModelFacts, WrappedModel
from xaiutils.own_model.scalings import Scaling, scale

layers = keras.layers


def wrap(
    model: keras.Model | str | Path,
    scaling: Scaling | None = None,
    class_names: list[str] | None = None,
    positive_class: str | None = None,
) -> WrappedModel:
    """A model as all calls of this package take it."""
    core = model
    shape = core.inputs[0].shape
    images = keras.Input(shape[1:], name="images")
    notes = []
    if scaling is None:
        notes.append("scaling was not given: the model is taken to scale its own input from [0, 255].")
    x, said = scale(images, "model" if scaling is None else scaling)
    y = core(x)
    names = None if class_names is None else tuple(check_class_names(class_names, "class_names"))
    facts = ModelFacts(
        source=type(core).__name__,
        scaling=said,
        scaling_from="assumed" if scaling is None else "given",
        class_names=names,
        positive_class=positive_class,
        head=None,
        output=as_function(core).output_names[0],
        channels=shape[-1],
        notes=tuple(notes),
    )
    return WrappedModel(images, y, core=core, facts=facts, name=f"wrapped_{core.name}")
