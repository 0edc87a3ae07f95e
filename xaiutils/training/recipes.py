"""Recipes: everything that decides how a model is trained, as one frozen value with a name. `RECIPES` has them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from xaiutils.registry import Registry, suggest
from xaiutils.training.augmentation import AUGMENTATIONS
from xaiutils.training.optimisation import OPTIMIZERS, SCHEDULES
from xaiutils.yaml_text import NumberLoader, load_yaml

MONITORS = ("val_loss", "val_accuracy", "val_auc", "loss")
LOSSES = ("cross_entropy", "binary_cross_entropy", "focal")
SCALINGS = ("any", "z_norm")
BALANCES = ("none", "class_weights", "balanced_batches")
_ALWAYS_SHOWN = ("batch_size", "optimizer", "clip", "schedule", "monitor", "patience")


def _about(text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"about": text})


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The best epoch's weights are kept, by ``monitor``: of equals in val_auc, which is 1 in
    many epochs where the data are easy, the one of the lowest val_loss, else the first.

    `recipe_differences` tells two apart, in words; `read_recipe` takes one from YAML and `to_yaml` writes it.

    Raises (when made): TypeError, ValueError: a field of the wrong type or out of range, or fields that do not go
    together.
    """

    name: str
    frozen: bool = _about("only the head is trained, on the backbone's features, which are computed once")
    learning_rate: float = _about("the highest rate of the schedule")
    weight_decay: float = _about("part of each weight taken off a step, times the rate if decay_by_rate")
    epochs: int = _about("at most so many passes over the training images")
    batch_size: int = _about("images a step; 0: by the number of training images, see `batch_size_for`", 32)
    warmup: float = _about('part of all steps in which the rate rises; schedule "cosine"', 0.05)
    clip: float = _about("largest L2 norm of the gradient, see clip_by; 0: none", 1.0)
    patience: int = _about("epochs without a better monitor before the run stops", 10)
    flip: bool = _about("random horizontal and vertical mirroring, where a mirrored image keeps its class", False)

    optimizer: str = _about("adamw, adam, sgdw or radam", "adamw")
    momentum: float = _about("of sgdw", 0.9)
    decay_by_rate: bool = _about("weight decay times the learning rate (Keras 3, PyTorch), or not (TF-Addons)", True)
    clip_by: str = _about("global: one norm over all variables; variable: each variable's own", "global")
    schedule: str = _about("cosine (with warm-up, over all steps), restarts (SGDR) or constant", "cosine")
    first_decay_steps: int = _about('steps until the first restart; schedule "restarts"', 1000)
    t_mul: float = _about("each period is so many times as long as the last", 2.0)
    m_mul: float = _about("each period starts at so many times the rate of the last", 1.0)
    alpha: float = _about("lowest rate, as a fraction of learning_rate", 0.0)

    monitor: str = _about("what is watched for early stopping: val_loss, val_accuracy, val_auc or loss", "val_loss")
    also_keep: str = _about("the same choice: train also saves the epoch that is best by it; empty: none", "")
    min_delta: float = _about("a smaller gain of the monitor is none", 0.0)
    loss: str = _about("cross_entropy, binary_cross_entropy or focal", "cross_entropy")
    focal_gamma: float = _about("how far the focal loss looks away from easy images; 0 is cross-entropy", 2.0)
    label_smoothing: float = _about("probability given away evenly to all classes", 0.0)
    balance: str = _about("for rare classes: none, class_weights or balanced_batches", "none")
    dropout: float = _about("rate on the features; a head with Dropout layers must have this rate; 0: as it is", 0.0)

    freeze_norm: bool = _about(
        "a backbone that trains does so in inference mode: its batch norm stays as it is, its dropout is off", False
    )
    last_layers: int = _about(
        "so many of the backbone's last layers with weights train, which needs freeze_norm; 0: all", 0
    )

    mixup: float = _about(
        "alpha of mixup, which blends the images (or features) of a batch and their labels; 0: none", 0.0
    )
    flip_horizontal: bool = _about("random left-right mirroring alone, under the same condition as flip", False)
    rotation: float = _about("random rotation, degrees either way", 0.0)
    shift: float = _about("random shift down and across, fraction of the side either way", 0.0)
    shear: float = _about("random shear, degrees either way", 0.0)
    zoom: float = _about("random zoom of height and width, factors from 1 - zoom to 1 + zoom", 0.0)
    copies: int = _about("augmented copies of each image whose features a frozen backbone makes", 0)

    scaling: str = _about("the scaling= that build_model is to be given; train warns of a model without it", "any")
    then: "Recipe | None" = field(
        default=None, metadata={"about": "the stage that follows, which begins with the best weights of this one"}
    )

    def __post_init__(self) -> None:
        if self.then is not None and not isinstance(self.then, Recipe):
            raise TypeError(f"then={self.then!r}; expected a Recipe or None.")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "then":
                continue
            if f.type is float:
                if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                    raise TypeError(f"{f.name}={value!r}; expected a number ({f.metadata['about']}).")
                object.__setattr__(self, f.name, float(value))
            elif not isinstance(value, f.type) or (f.type is int and isinstance(value, bool)):
                raise TypeError(f"{f.name}={value!r}; expected {f.type.__name__} ({f.metadata.get('about', f.name)}).")
        if self.epochs < 1 or self.batch_size < 0 or self.learning_rate <= 0:
            raise ValueError(f"epochs, batch_size (or 0) and learning_rate must be positive; got {self}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; {suggest(getattr(self, name), known)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected {low:g} to {high:g}.")
        if self.frozen and not self.copies and (changed := [n for n in AUGMENTATIONS if getattr(self, n)]):
            raise ValueError(
                f"{changed[0]}={getattr(self, changed[0])} has no effect with frozen=True: features are computed once. "
                "Give frozen=False, or copies=4 for the features of four augmented copies of each image."
            )
        if self.frozen and (self.freeze_norm or self.last_layers):
            raise ValueError("freeze_norm and last_layers are for a backbone that trains; give frozen=False.")
        if self.last_layers and not self.freeze_norm:
            raise ValueError(
                f"last_layers={self.last_layers} needs freeze_norm=True: the batch norm of the layers that do not "
                "train would follow the data."
            )
        if self.optimizer == "radam" and not self.decay_by_rate:
            raise ValueError("decay_by_rate=False goes with sgdw and adamw; radam's decay is times the rate.")
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError(f"weight_decay={self.weight_decay} has no effect with adam; take adamw, or 0.")
        if self.then is not None and self.then.frozen and not self.frozen:
            raise ValueError(f"then={self.then.name}: a frozen stage cannot follow one that trains the backbone.")
        if self.also_keep and (self.also_keep == self.monitor or self.then):
            raise ValueError(
                f"also_keep={self.also_keep!r} must differ from monitor={self.monitor!r}, and be of the last stage."
            )

    @property
    def stages(self) -> "list[Recipe]":
        """This recipe and those that follow it, each without its own ``then``."""
        return [replace(self, then=None), *(self.then.stages if self.then else [])]

    @property
    def augments(self) -> bool:
        """Whether training images are changed at random."""
        return any(getattr(self, name) for name in AUGMENTATIONS)

    def __str__(self) -> str:
        """Its name, and every field that it must have, that matters always, or that is not as usual."""
        shown = [
            f.name
            for f in fields(self)
            if f.name != "name"
            and (f.default is MISSING or f.name in _ALWAYS_SHOWN or getattr(self, f.name) != f.default)
        ]
        values = {name: getattr(self, name) for name in shown}
        return f"recipe {self.name}: " + ", ".join(
            f"{name}=({value})" if name == "then" else f"{name}={value}" for name, value in values.items()
        )

    def to_yaml(self) -> str:
        """All fields, as `read_recipe` takes them."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


_CHOICES = {
    "optimizer": list(OPTIMIZERS),
    "schedule": list(SCHEDULES),
    "clip_by": ["global", "variable"],
    "monitor": list(MONITORS),
    "also_keep": ["", *MONITORS],
    "scaling": list(SCALINGS),
    "loss": list(LOSSES),
    "balance": list(BALANCES),
}
# Fields that matter only where another has one of these values.
_NEEDS = {
    "momentum": ("optimizer", ("sgdw",)),
    "decay_by_rate": ("optimizer", ("sgdw", "adamw")),
    "focal_gamma": ("loss", ("focal",)),
    "warmup": ("schedule", ("cosine",)),
    **dict.fromkeys(("first_decay_steps", "t_mul", "m_mul", "alpha"), ("schedule", ("restarts",))),
}
_RANGES = {
    "weight_decay": (0, 1),
    "warmup": (0, 1),
    "clip": (0, float("inf")),
    "patience": (1, float("inf")),
    "momentum": (0, 1),
    "first_decay_steps": (1, float("inf")),
    "t_mul": (1, float("inf")),
    "m_mul": (0, 1),
    "alpha": (0, 1),
    "min_delta": (0, float("inf")),
    "focal_gamma": (0, 20),
    "label_smoothing": (0, 0.99),
    "dropout": (0, 0.99),
    "mixup": (0, 100),
    "last_layers": (0, float("inf")),
    "rotation": (0, 180),
    "shift": (0, 1),
    "shear": (0, 60),
    "zoom": (0, 0.9),
    "copies": (0, 1000),
}

RECIPES: Registry[Recipe] = Registry("recipe")
# Head on frozen features: seconds on a CPU once the features are there.
RECIPES.add(
    Recipe("modern", frozen=True, learning_rate=1e-3, weight_decay=1e-4, epochs=60, patience=10, monitor="val_auc")
)
# All weights from a random start, for models without pretrained weights.
RECIPES.add(
    Recipe(
        "scratch",
        frozen=False,
        learning_rate=1e-3,
        weight_decay=0.05,
        epochs=12,
        warmup=0.1,
        flip=True,
        patience=6,
    )
)
# The second stage of two, after "modern": the whole network at a lower rate, batch norm frozen.
RECIPES.add(
    Recipe(
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
)
# Both stages in one call. Of all epochs the best is kept, so that fine-tuning that does harm is undone.
RECIPES.add(replace(RECIPES["modern"], name="modern_finetune", then=RECIPES["finetune"]))
# Gonçalves & Cardoso 2021, Preliminary study on the impact of attention mechanisms for medical image classification
# (RECPAD): two sets of weights, and no early stopping. Its batches are of 1 to 4 images; the ranges of its rotation,
# translation and scale are not given, those here are ours.
RECIPES.add(
    Recipe(
        "attention_study",
        frozen=False,
        learning_rate=1e-4,
        weight_decay=0.0,
        epochs=300,
        batch_size=4,
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
        zoom=0.1,
        scaling="z_norm",
    )
)
# The thesis' own, in every number that it states. It can hardly learn: see `xaiutils.training.toy`. What differs: the
# frozen backbone sees each image in 4 fixed augmented versions, not in a fresh one each epoch. Its batches are of 16,
# 32 or 64 images, "by the size of the data set": see `batch_size_for`. Its shear "angle of 0.15" is in degrees, which
# is next to nothing.
RECIPES.add(
    Recipe(
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
)
# The same with the three faults of its optimiser mended, and nothing else.
RECIPES.add(
    replace(
        RECIPES["thesis"],
        name="thesis_corrected",
        clip=1.0,
        clip_by="global",
        decay_by_rate=True,
        schedule="cosine",
    )
)


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


def chained(stages: Sequence[Recipe]) -> Recipe:
    """The recipe whose `Recipe.stages` these are."""
    first, *rest = stages
    return replace(first, then=chained(rest) if rest else None)


def in_every_stage(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with fields changed in it and in all that follow it."""
    return replace(recipe, **changes, then=recipe.then and in_every_stage(recipe.then, **changes))


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

    Indexed by field. Two recipes of one name are told apart as "name (1)" and "name (2)".
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
