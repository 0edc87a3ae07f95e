"""What a recipe is: everything that decides how a model is trained, as one frozen value with a name."""

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

import yaml

from xaiutils.registry import suggest
from xaiutils.training.augmentation import AUGMENTATIONS
from xaiutils.training.optimisation import OPTIMIZERS, SCHEDULES

MONITORS = ("val_loss", "val_accuracy", "val_auc", "loss")
LOSSES = ("cross_entropy", "binary_cross_entropy", "focal")
BALANCES = ("none", "class_weights", "balanced_batches")
_ALWAYS_SHOWN = ("batch_size", "optimizer", "clip", "schedule", "monitor", "patience")


def _about(text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"about": text})


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The best epoch's weights are kept, by ``monitor``: of equals in val_auc, which is 1 in
    many epochs where the data are easy, the one of the lowest val_loss, else the first.

    `recipe_differences` compares two, in words; `read_recipe` takes one from YAML and `to_yaml` writes it.

    Raises (when made): TypeError, ValueError: a field of the wrong type or out of range, or fields that do not go
    together.
    """

    name: str
    frozen: bool = _about("only the head is trained, on the backbone's features, which are computed once")
    learning_rate: float = _about("the highest rate of the schedule")
    weight_decay: float = _about("fraction of each weight taken off a step, times the rate if decay_by_rate")
    epochs: int = _about("at most so many passes over the training images")
    batch_size: int = _about("images a step; 0: by the number of training images, see `batch_size_for`", 32)
    warmup: float = _about('fraction of all steps in which the rate rises; schedule "cosine"', 0.05)
    clip: float = _about("largest L2 norm of the gradient, see clip_by; 0: none", 1.0)
    patience: int = _about("epochs without a better monitor before the run stops", 10)
    flip: bool = _about("random horizontal and vertical mirroring, where a mirrored image keeps its class", False)

    optimizer: str = _about("adamw, adam, adamax, sgdw or radam", "adamw")
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
    min_delta: float = _about("a smaller gain of the monitor does not count", 0.0)
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

    frozen_lower: bool = _about(
        "the layers up to stride 8 stay as they are; what they make of the images is kept in half precision", False
    )
    crop: int = _about("training sees crops of so many pixels, about evidence and elsewhere; 0: whole images", 0)
    where: float = _about('weight of what is asked of the map of where; head "where_and_what", from masks', 0.0)
    what: float = _about("weight of what is asked of the maps of what, where the evidence is; the same head", 0.0)
    average: float = _about("the weights kept are a moving average of so much memory a step, as 0.99; 0: the last", 0.0)

    mixup: float = _about(
        "alpha of mixup, which blends the images (or features) of a batch and their labels; 0: none", 0.0
    )
    flip_horizontal: bool = _about("random left-right mirroring alone, under the same condition as flip", False)
    flip_vertical: bool = _about("random up-down mirroring alone, under the same condition", False)
    rotation: float = _about("random rotation, degrees either way", 0.0)
    shift: float = _about("random shift down and across, fraction of the side either way", 0.0)
    shear: float = _about("random shear, degrees either way", 0.0)
    shift_across: float = _about("random shift across, where it is to differ from shift; 0: as shift", 0.0)
    zoom: float = _about("random zoom of height and width, factors from 1 - zoom to 1 + zoom", 0.0)
    zoom_alike: bool = _about("one factor of zoom for height and width", False)
    black: bool = _about("beyond the edge of a moved image lies black, not its nearest pixel", False)
    contrast: float = _about("random contrast about an image's mean, factors from 1 - contrast to 1 + contrast", 0.0)
    copies: int = _about("augmented copies of each image whose features a frozen backbone makes", 0)
    fresh: bool = _about(
        "a frozen backbone sees every image changed anew in every epoch, and is run in each of them, not once for all; "
        "without copies",
        False,
    )

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
            elif type(value) is not f.type:
                kind = getattr(f.type, "__name__", f.type)
                raise TypeError(f"{f.name}={value!r}; expected {kind} ({f.metadata.get('about', f.name)}).")
        if self.epochs < 1 or self.batch_size < 0 or self.learning_rate <= 0:
            raise ValueError(f"epochs, batch_size (or 0) and learning_rate must be positive; got {self}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; {suggest(getattr(self, name), known)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected {low:g} to {high:g}.")
        self._check_places()
        once = self.frozen or self.frozen_lower
        if once and not (self.copies or self.fresh) and (changed := [n for n in AUGMENTATIONS if getattr(self, n)]):
            raise ValueError(
                f"{changed[0]}={getattr(self, changed[0])} has no effect where features are computed once (frozen, "
                "frozen_lower). Give frozen=False, or copies=4 for the features of four augmented copies of each image;"
                " where the whole backbone is frozen also fresh=True, by which it is run in every epoch."
            )
        if self.fresh and (not self.frozen or self.copies or not self.augments):
            raise ValueError("fresh=True is for a frozen recipe that changes images, with copies=0.")
        if self.frozen and (self.freeze_norm or self.last_layers):
            raise ValueError("freeze_norm and last_layers are for a backbone that trains; give frozen=False.")
        if self.last_layers and not self.freeze_norm:
            raise ValueError(
                f"last_layers={self.last_layers} needs freeze_norm=True: the batch norm of the layers that do not "
                "train would follow the data."
            )
        if self.optimizer == "radam" and not self.decay_by_rate:
            raise ValueError("decay_by_rate=False goes with sgdw and adamw; radam's decay is times the rate.")
        if self.optimizer in ("adam", "adamax") and self.weight_decay:
            raise ValueError(f"weight_decay={self.weight_decay} has no effect with {self.optimizer}; take adamw, or 0.")
        if self.then is not None and self.then.frozen and not self.frozen:
            raise ValueError(f"then={self.then.name}: a frozen stage cannot follow one that trains the backbone.")
        if self.also_keep and (self.also_keep == self.monitor or self.then):
            raise ValueError(
                f"also_keep={self.also_keep!r} must differ from monitor={self.monitor!r}, and be of the last stage."
            )

    def _check_places(self) -> None:
        """Raise ValueError where fields of training by places do not go with others."""
        fields_of_places = ("frozen_lower", "crop", "where", "what")
        if not (chosen := [name for name in fields_of_places if getattr(self, name)]):
            return
        for other in ("frozen", "last_layers", "dropout", "mixup"):
            if getattr(self, other):
                raise ValueError(
                    f"{chosen[0]}={getattr(self, chosen[0])} does not go with {other}; leave one of them out."
                )
        if self.crop % 32 or (self.crop and not (self.where or self.what)):
            raise ValueError(
                f"crop={self.crop}; expected a multiple of 32, and where or what above 0, which it is for."
            )

    @property
    def by_places(self) -> bool:
        """Whether a stage needs more than whole images and their labels; see `xaiutils.training.places`."""
        return bool(self.frozen_lower or self.crop or self.where or self.what)

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
    "loss": list(LOSSES),
    "balance": list(BALANCES),
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
    "shift_across": (0, 1),
    "shear": (0, 60),
    "zoom": (0, 0.9),
    "contrast": (0, 0.9),
    "copies": (0, 1000),
    "crop": (0, 100_000),
    "where": (0, 100),
    "what": (0, 100),
    "average": (0, 0.99999),
}


def chained(stages: Sequence[Recipe]) -> Recipe:
    """The recipe whose `Recipe.stages` these are."""
    first, *rest = stages
    return replace(first, then=chained(rest) if rest else None)


def in_every_stage(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with fields changed in it and in all that follow it."""
    return replace(recipe, **changes, then=recipe.then and in_every_stage(recipe.then, **changes))
