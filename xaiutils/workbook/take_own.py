"""A user's own model taken into a run: wrapped, its scaling measured on the run's images, its outputs matched to the
data's classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.models.wrapped import WrappedModel
from xaiutils.own_model.class_order import in_order_of
from xaiutils.own_model.measure_scaling import IMAGES, ScalingMeasurement, measure_scaling
from xaiutils.own_model.scalings import SCALINGS
from xaiutils.workbook.own_models import Kept, OwnModel, changed_file, file_digest

_GIVEN = "as given"  # a reading that has no name


@dataclass(frozen=True)
class Taken:
    """A model for the data of a run, what is kept of it, ``readings`` (how it does by each scaling) and sentences."""

    model: WrappedModel
    kept: Kept
    readings: pd.DataFrame
    sentences: list[str]


def sample_of(splits: Mapping[str, ImageDataset]) -> ImageDataset:
    """The images by which a scaling is measured: of validation, or of training where those are too few and these more:
    on six images a wrong reading was the best by chance. Where there are neither, the test images."""
    others = [splits[name] for name in ("val", "train") if name in splits]
    return max(others or [splits["test"]], key=lambda ds: min(len(ds), IMAGES))


def take(own: OwnModel, ds: ImageDataset, positive_class: str = "") -> Taken:
    """Take a model into a run. ``ds``: labelled images by which its scaling is measured, or the given one is judged.

    Raises ValueError that names the model where it cannot be read, or does not fit the data.
    """
    plain = own.wrap(scaling="model")
    _check_images(own, plain, ds)
    if positive_class and plain.facts.class_names is None and plain.facts.positive_class is None:
        plain = plain.with_options(positive_class=positive_class)  # the labels are read as `in_order_of` does below
    given = own.options.get("scaling")
    named = given if isinstance(given, str) else None if given is None else _GIVEN
    names = [name for name in SCALINGS if plain.facts.channels == 3 or name not in ("imagenet", "caffe")]
    names += [_GIVEN] if named == _GIVEN else []

    def read(name: str) -> WrappedModel:
        return plain.with_options(scaling=tuple(given or ()) if name == _GIVEN else name)

    found = measure_scaling(read, ds, names)
    settled = OwnModel(own.name, own.path, {**own.options, "scaling": given or found.chosen}, file_digest(own.path))
    model = fit_to_data(own, read(named or found.chosen), ds, positive_class)
    if named is None:
        model.facts = replace(model.facts, scaling_from="measured")
    said = [
        f"{own.name}: {own.path}, evaluated as it is and not trained here. Nobody here knows which images it was "
        "trained on: if the test images are among them, all that follows is too good.",
        _in_words(own, model),
        *(found.sentences if named is None else _judged(named, found)),
    ]
    if named is None and ds.split == "test":
        said.append("The data have test images alone: the scaling that does best on them was taken, so what follows is "
                    "a little too good; scaling= says it beforehand.")  # fmt: skip
    return Taken(model, Kept(settled, dict(own.options)), found.table.reset_index(), said + list(model.facts.notes))


def _in_words(own: OwnModel, model: WrappedModel) -> str:
    """How the model is read: scaling, and what its outputs are."""
    facts = model.facts
    order = "as given" if own.options.get("class_names") else "taken to be in the order of the data's classes"
    outputs = f"outputs {', '.join(facts.class_names)} ({order})" if facts.class_names else "one score"
    return f"Read with scaling {facts.scaling!r}; {outputs}."


def _judged(given: str, found: ScalingMeasurement) -> list[str]:
    """What the measurement says of a scaling that was given."""
    row, best = found.table.loc[given], found.table.loc[found.chosen]
    figure = f"{row['figure']} {row['value']:.2f} [{row['low']:.2f} to {row['high']:.2f}] on {row['n']} images"
    if found.near_chance:
        return [f"ATTENTION: near chance. {found.sentences[0]}", f"With the scaling that was given: {figure}."]
    if given != found.chosen and row["p"] < 0.05:
        better = f"{found.chosen!r} does better: {best['figure']} {best['value']:.2f}"
        return [f"ATTENTION: with the scaling that was given, {figure}; {better}. See the table of readings."]
    return [f"With the scaling that was given: {figure}."]


def fit_to_data(own: OwnModel, model: WrappedModel, ds: ImageDataset, positive_class: str = "") -> WrappedModel:
    """The model with its outputs in the order of the data's classes. Raises ValueError that names the model where its
    images, classes or further inputs are not those of the data."""
    _check_images(own, model, ds)
    try:
        return in_order_of(model, ds.class_names, own.options.get("positive_class") or positive_class)
    except ValueError as error:
        raise ValueError(f"{own.name}: {error}") from error


def again(kept: Kept, own: OwnModel, ds: ImageDataset, positive_class: str = "") -> WrappedModel:
    """The model as `take` returned it, from what was kept of it. Raises ValueError as `fit_to_data` does."""
    model = fit_to_data(own, own.wrap(), ds, positive_class)
    if "scaling" not in kept.asked:
        model.facts = replace(model.facts, scaling_from="measured")
    return model


def _check_images(own: OwnModel, model: WrappedModel, ds: ImageDataset) -> None:
    """Raise ValueError where the images, or what goes with them, are not what the model takes."""
    size, found = model.input_shape[1:3], ds.pixels.shape[1:3]
    if any(one is not None and one != other for one, other in zip(size, found, strict=True)):
        raise ValueError(
            f"{own.name} takes images of {size[0]} x {size[1]} pixels, and the data were prepared with "
            f"{found[0]} x {found[1]}. Run 01_data_preparation with image_size={size[0]}."
        )
    missing = [name for name in model.facts.case_inputs if name not in (ds.inputs or {})]
    if missing:
        there = f"the data have {', '.join(ds.inputs)}" if ds.inputs else "the data have none"
        raise ValueError(
            f"{own.name} takes {', '.join(missing)} of every case, and {there}. Load them with the data "
            "(data_options), or hold a value: inputs={name: value}."
        )


def outdated(kept: Kept, asked: OwnModel) -> bool:
    """Whether a model that no notebook evaluated (``make app`` on images and a model) is to be taken again, since its
    file or its options changed; not where a batch noted what the file must be."""
    return not asked.digest and (
        (asked.path, asked.options) != (kept.own.path, kept.asked) or bool(changed_file(kept.own))
    )


def unchanged(kept: Kept, asked: OwnModel | None, run: str) -> OwnModel:
    """A kept model. Raises ValueError where its file, or what is ``asked`` of it now, is not what was evaluated."""
    own = kept.own
    if asked is not None and (asked.path, asked.options) != (own.path, kept.asked):
        raise ValueError(
            f"{own.name!r} of run {run!r} is {own.path} with {dict(kept.asked) or 'no options'}, not {asked.path} with "
            f"{dict(asked.options) or 'none'}. Run 02_train_models again, or give another 'name'."
        )
    if said := changed_file(own):
        raise ValueError(f"{said} Run 02_train_models again.")
    return own
