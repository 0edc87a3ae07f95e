"""All recipes by name: `RECIPES`; recipes with changes, from YAML, and what distinguishes two."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from xaiutils.registry import Registry, suggest
from xaiutils.training.recipe import Recipe
from xaiutils.yaml_text import NumberLoader, load_yaml

# Head on frozen features: seconds on a CPU once the features are there.
MODERN = Recipe("modern", frozen=True, learning_rate=1e-3, weight_decay=1e-4, epochs=60, patience=10, monitor="val_auc")
# All weights from a random start, for models without pretrained weights.
SCRATCH = Recipe(
    "scratch",
    frozen=False,
    learning_rate=1e-3,
    weight_decay=0.05,
    epochs=12,
    warmup=0.1,
    flip=True,
    patience=6,
)
# The second stage of two, after "modern": the whole network at a lower rate, batch norm frozen.
FINETUNE = Recipe(
    "finetune",
    frozen=False,
    learning_rate=1e-4,
    weight_decay=1e-4,
    epochs=10,
    patience=4,
    flip=True,
    freeze_norm=True,
    monitor="val_auc",
)
# Both stages in one call. Of all epochs the best is kept, so that fine-tuning that does harm is undone.
MODERN_FINETUNE = replace(MODERN, name="modern_finetune", then=FINETUNE)
# Gonçalves & Cardoso 2021, Preliminary study on the impact of attention mechanisms for medical image classification
# (RECPAD), as its code has it: two sets of weights, no early stopping, batches of 2 (1 to 4 in the paper), and moved
# images of which PyTorch takes the nearest pixel, this package the mean of its neighbours. Its "z-normalisation" is by
# ImageNet's fixed mean and deviation, as its weights were trained: here any network's own scaling. Its models are
# build_model(head="flat" (ResNet: "linear") or "mldam", outputs="binary", head_options={"variant": "study"}).
ATTENTION_STUDY = Recipe(
    "attention_study",
    frozen=False,
    learning_rate=1e-4,
    weight_decay=0.0,
    epochs=300,
    batch_size=2,
    clip=0.0,
    patience=300,
    optimizer="adam",
    schedule="constant",
    loss="binary_cross_entropy",
    monitor="val_loss",
    also_keep="loss",
    flip_horizontal=True,
    rotation=10.0,
    shift=0.1,
    shift_across=0.05,
    zoom=0.05,
    zoom_alike=True,
    black=True,
)
# You 2022 (MSc thesis, Imperial College London: XRelevance-CAM), from ImageNet's weights. Its ranges of rotation and
# contrast are not stated; 15 degrees and a fifth are ours, as is the loss for its "validation gain".
XRELEVANCE_STUDY = Recipe(
    "xrelevance_study",
    frozen=False,
    learning_rate=1e-3,
    weight_decay=0.0,
    epochs=100,
    clip=0.0,
    patience=10,
    optimizer="adamax",
    schedule="constant",
    flip=True,
    rotation=15.0,
    contrast=0.2,
)
# The same for small networks from a random start, in a minute on a CPU. Rate and epochs are ours.
XRELEVANCE_STUDY_SMALL = replace(XRELEVANCE_STUDY, name="xrelevance_study_small", learning_rate=3e-3, epochs=12)
# ATTENTION_STUDY for minutes on a CPU: a backbone that stays as it is, and 4 fixed versions of each image, not endless
# ones. Rate, epochs and batches are ours. The study's variant of the head "mldam" cannot be trained so: its batch norms
# begin without statistics.
ATTENTION_STUDY_FROZEN = replace(
    ATTENTION_STUDY,
    name="attention_study_frozen",
    frozen=True,
    learning_rate=3e-4,
    epochs=30,
    batch_size=32,
    copies=4,
)
# The thesis' own, in every number that it states. It can hardly learn: see `xaiutils.training.toy_problem`. What
# differs: the frozen backbone sees each image in 4 fixed augmented versions. As written, in a fresh one each epoch, it
# is by copies=0, fresh=True, at the cost of a pass of the backbone in each of up to 300 epochs, in place of 4. Its
# batches are of 16, 32 or 64 images, "by the size of the data set": see `batch_size_for`. Its shear "angle of 0.15"
# is in degrees, which is next to nothing.
THESIS = Recipe(
    "thesis",
    frozen=True,
    learning_rate=1e-3,
    weight_decay=1e-4,
    epochs=300,
    batch_size=0,
    patience=50,
    optimizer="sgdw",
    momentum=0.9,
    decay_by_rate=False,
    clip=0.001,
    clip_by="variable",
    schedule="restarts",
    first_decay_steps=100_000,
    t_mul=2.0,
    m_mul=1.0,
    alpha=1e-6,
    monitor="val_accuracy",
    min_delta=1e-4,
    dropout=0.2,
    flip_horizontal=True,
    rotation=20.0,
    shift=0.2,
    shear=0.15,
    zoom=0.15,
    copies=4,
)
# The same with the three faults of its optimiser mended, and nothing else.
THESIS_CORRECTED = replace(
    THESIS,
    name="thesis_corrected",
    clip=1.0,
    clip_by="global",
    decay_by_rate=True,
    schedule="cosine",
)

# For build_model(head="where_and_what") and masks or boxes. The values are those of a prototype on the masses of
# CBIS-DDSM at 800 x 608 pixels; what they give there is in benchmarks/mammograms.md. Whole images: what the image is,
# how much attention lies on its evidence, and what each place is. "loss" as the monitor keeps the last epochs' average:
# on a hundred validation images the best epoch is chance.
WHERE_AND_WHAT_IMAGES = Recipe(
    "where_and_what_images",
    frozen=False,
    frozen_lower=True,
    freeze_norm=True,
    learning_rate=1.5e-4,
    weight_decay=0.05,
    epochs=3,
    batch_size=6,
    warmup=0.1,
    clip_by="variable",
    monitor="loss",
    label_smoothing=0.1,
    where=0.3,
    what=0.5,
    average=0.99,
    flip_vertical=True,
    rotation=15.0,
    shift=0.03,
    zoom=0.15,
    copies=4,
)
# The same without masks: the labels of the images are all that it learns from.
WHERE_AND_WHAT_LABELS = replace(
    WHERE_AND_WHAT_IMAGES, name="where_and_what_labels", learning_rate=5e-4, epochs=12, where=0.0, what=0.0
)
# First crops about the evidence, and elsewhere, for the two maps alone; then whole images.
WHERE_AND_WHAT = replace(
    WHERE_AND_WHAT_IMAGES,
    name="where_and_what",
    learning_rate=5e-4,
    epochs=10,
    batch_size=32,
    crop=192,
    where=1.0,
    what=1.0,
    then=WHERE_AND_WHAT_IMAGES,
)
# Twice as long, on four times as many changed copies, which take 10 MB of disk for a mammogram: the best of what was
# compared by cross-validation, in benchmarks/mammograms.md.
WHERE_AND_WHAT_LONG = replace(
    WHERE_AND_WHAT,
    name="where_and_what_long",
    epochs=20,
    copies=16,
    then=replace(WHERE_AND_WHAT_IMAGES, epochs=6, copies=16),
)

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [
        MODERN,
        SCRATCH,
        FINETUNE,
        MODERN_FINETUNE,
        ATTENTION_STUDY,
        XRELEVANCE_STUDY,
        XRELEVANCE_STUDY_SMALL,
        ATTENTION_STUDY_FROZEN,
        THESIS,
        THESIS_CORRECTED,
        WHERE_AND_WHAT,
        WHERE_AND_WHAT_IMAGES,
        WHERE_AND_WHAT_LABELS,
        WHERE_AND_WHAT_LONG,
    ],
)

# Fields that matter only where another has one of these values.
_NEEDS = {
    "momentum": ("optimizer", ("sgdw",)),
    "decay_by_rate": ("optimizer", ("sgdw", "adamw")),
    "focal_gamma": ("loss", ("focal",)),
    "warmup": ("schedule", ("cosine",)),
    **dict.fromkeys(("first_decay_steps", "t_mul", "m_mul", "alpha"), ("schedule", ("restarts",))),
}


def batch_size_for(n_images: int) -> int:
    """The thesis' batches of 16, 32 or 64 by the size of the data set: up to 2,000 training images, up to 10,000, more.

    The thesis does not say where it draws the lines. These fit the sizes it used: a thousand mammograms, twenty
    thousand cats and dogs, sixty thousand digits.
    """
    return 16 if n_images <= 2000 else 32 if n_images <= 10_000 else 64


def change_recipe(recipe: str | Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe, by name or as it is, with some fields changed; ``then`` may be a name or a mapping, see `read_recipe`.

    TypeError on a field that recipes do not have, ValueError on one that has no effect in the changed recipe.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    changed = replace(recipe, **_known(changes))
    for name in changes:
        needed, values = _NEEDS.get(name, ("", ()))
        if needed and getattr(changed, needed) not in values and getattr(changed, name) != getattr(recipe, name):
            raise ValueError(
                f"{name}={changes[name]!r} has no effect with {needed}={getattr(changed, needed)!r}; "
                f"it is for {' and '.join(values)}."
            )
    return changed


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, a following stage as a `Recipe`. TypeError on a field that recipes do not have."""
    known = [f.name for f in fields(Recipe) if f.name != "name"]
    for name in values:
        if name not in known:
            raise TypeError(f"a recipe has no field {name!r}; {suggest(name, known)}")
    values = dict(values)
    if isinstance(then := values.get("then"), str | Mapping):
        values["then"] = RECIPES[then] if isinstance(then, str) else read_recipe(then)
    return values


def read_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """A recipe from YAML: a file's path, a text, or the mapping itself.

    ``base`` names the recipe that it starts from, and the other fields change it; without ``base`` all fields that
    have no default are needed. ``name`` defaults to that of the base::

        base: thesis_corrected
        name: longer
        patience: 100
        then: finetune  # a second stage: a name, or again a mapping

    Raises TypeError, ValueError or KeyError that names the field, the recipe, or what is not YAML.
    """
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".yaml", ".yml"))):
        source = Path(source).read_text(encoding="utf-8")
    if isinstance(source, str):
        try:
            source = load_yaml(source, NumberLoader)
        except ValueError as error:
            raise ValueError(f"the recipe is not YAML: {error}") from None
    if not isinstance(source, Mapping):
        raise TypeError(f"a recipe is a mapping of fields, got {source!r}.")
    values = dict(source)
    if "base" in values:
        base = RECIPES[values.pop("base")]
        name = values.pop("name", base.name)
        return replace(change_recipe(base, values), name=name)
    missing = [f.name for f in fields(Recipe) if f.default is MISSING and f.name not in values]
    if missing:
        raise TypeError(f"the recipe lacks {', '.join(missing)}; give them, or a recipe to start from as 'base'.")
    first = {f.name: values.pop(f.name) for f in fields(Recipe) if f.default is MISSING}
    return replace(Recipe(**first), **_known(values))


def recipe_differences(a: str | Recipe, b: str | Recipe) -> pd.DataFrame:
    """The fields in which two recipes differ: a row each, with a column for either recipe, and what the field means.

    Indexed by field. Two recipes of one name are called "name (1)" and "name (2)".
    """
    a, b = (RECIPES[r] if isinstance(r, str) else r for r in (a, b))

    def shown(recipe: Recipe, name: str) -> Any:
        value = getattr(recipe, name)
        return str(value) if isinstance(value, Recipe) else value

    names = (a.name, b.name) if a.name != b.name else (f"{a.name} (1)", f"{b.name} (2)")
    rows = [
        {"field": f.name, names[0]: shown(a, f.name), names[1]: shown(b, f.name), "meaning": f.metadata["about"]}
        for f in fields(Recipe)
        if f.name != "name" and getattr(a, f.name) != getattr(b, f.name)
    ]
    return pd.DataFrame(rows, columns=["field", *names, "meaning"], dtype=object).set_index("field")
