"""The notebooks' parameters, declared once: checked when a notebook starts, and before `run_all` starts any."""

import inspect
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from xaiutils.datasets import DATASETS
from xaiutils.map_reading import READINGS
from xaiutils.registry import Parameter, Registry, suggest
from xaiutils.workbook.own_models import OPTIONS, by_name, check_names

_DECLARED = (
    Parameter("dataset", str, "phantom", "the data set", choices=tuple(DATASETS)),
    Parameter("data_dir", str, "../data", "where the files of the data set are, or are downloaded to"),
    Parameter("data_options", dict, {}, "options of the data set's loader, see load_dataset"),
    Parameter("image_size", int, 224, "height and width in pixels", 32, 2048),
    Parameter("n_train", int, 600, "training images at most, 0 for all", 0),
    Parameter("n_val", int, 120, "validation images at most, 0 for all", 0),
    Parameter("n_test", int, 200, "test images at most, 0 for all", 0),
    Parameter("seed", int, 0, "seed of everything random", 0, 2**32 - 1),
    Parameter("run_name", str, "default", "folder of the results under runs_dir"),
    Parameter("runs_dir", str, "../runs", "folder of all runs; the environment variable XAI_RUNS overrides it"),
    Parameter("positive_class", str, "", "the class to detect; empty: of two the one whose name speaks of disease"),
    Parameter(
        "models",
        list,
        [],
        "names, paths of your own models, or mappings {path, name, scaling, class_names, ...}; empty: all of this run",
    ),
    Parameter("model_options", dict, {}, f"options of your own models: {', '.join(OPTIONS)}"),
    Parameter("model", str, "", "the model that is explained, by name or path; empty: the first of this run"),
    Parameter("label", str, "", "of several labels, the one that is explained; empty: that of most positive cases"),
    Parameter("weights", str, "auto", "pretrained weights where there are some, or none", choices=("auto", "none")),
    Parameter(
        "head",
        str,
        "linear",
        "what follows the backbone",
        choices=("linear", "flat", "thesis", "where_and_what", "mldam"),
    ),
    Parameter(
        "recipe",
        str,
        "auto",
        "auto: modern for pretrained backbones, scratch for others, where_and_what for that head",
        choices=(
            "auto",
            "modern",
            "modern_finetune",
            "scratch",
            "finetune",
            "thesis",
            "thesis_corrected",
            "where_and_what",
            "where_and_what_images",
            "where_and_what_labels",
            "where_and_what_long",
            "attention_study",
            "xrelevance_study",
            "xrelevance_study_small",
            "attention_study_frozen",
        ),
    ),
    Parameter("conditions", list, [], "of the study of attention: see `evaluation.studies.attention_study.CONDITIONS`"),
    Parameter("variant", str, "published", "of the head mldam", choices=("published", "study")),
    Parameter("units", list, [], "of the two layers of the head mldam; empty: those of the variant"),
    Parameter(
        "concepts_dir", str, "", "a folder for each concept's images, and one called random; empty: the phantom's"
    ),
    Parameter("n_shown", int, 24, "images that show a concept, and of each random set", 6, 10_000),
    Parameter("n_random", int, 30, "random sets that each concept is told from", 5, 1000),
    Parameter("pooling", str, "max", "of activations over places, see `xai.tcav`", choices=("none", "mean", "max")),
    Parameter("agree_on", str, "backbone", "maps of images that all are right on", choices=("backbone", "all")),
    Parameter("weight_files", dict, {}, "of the study of XRelevance-CAM: pretrained weights by model, or imagenet"),
    Parameter("transfer_epochs", int, 0, "of its networks from ImageNet and from nothing; 0: none", 0, 10_000),
    Parameter("transfer_model", str, "", "of the study of imbalance: a pretrained network; empty: a small one"),
    Parameter("then", str, "", "recipe of a second stage; empty: none", choices=("", "finetune")),
    Parameter("train_batch_size", int, 0, "images a training step, 0 for the recipe's own", 0, 4096),
    Parameter("devices", str, "auto", "auto: the first GPU, else the CPU; all: every GPU", choices=("auto", "all")),
    Parameter(
        "precision",
        str,
        "float32",
        "what training computes in",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    ),
    Parameter("maps_every", int, 0, "epochs between drawings of maps while a model trains, 0 for none", 0, 10_000),
    Parameter("epochs", int, 0, "at most so many epochs, 0 for the recipe's own", 0, 10_000),
    Parameter("batch_size", int, 32, "images in one pass; lower it when memory is short", 1, 4096),
    Parameter("methods", list, [], "the attribution methods"),
    Parameter("method", str, "grad_cam", "the attribution method that is looked at first"),
    Parameter("method_parameters", dict, {}, "parameters of methods by the method's name"),
    Parameter("transforms", list, [], "the image changes"),
    Parameter("transform", str, "original", "the image change that is looked at first"),
    Parameter("image_index", int, -1, "position in the test split; -1 for a clear example of the positive class", -1),
    Parameter("gallery_images", list, [-1], "test images drawn by every method that suits; -1: as image_index"),
    Parameter(
        "metrics",
        list,
        [
            "iou",
            "pointing_game",
            "relevance_mass",
            "roc_auc",
            "insertion_auc",
            "deletion_auc",
            "confidence_drop",
            "average_drop",
            "fidelity",
            "sparseness",
            "entropy",
        ],
        "metrics of maps; where the data has no masks, those that need them are measured on mosaics",
    ),
    Parameter(
        "readings",
        list,
        ["magnitude", "positive"],
        "how maps that have a sign are read before they are scored; tests and ranks use the first",
        choices=READINGS,
    ),
    Parameter("n_images", int, 24, "test images whose maps are scored", 2),
    Parameter("n_faithfulness", int, 12, "of these, images for metrics that run the model", 2),
    Parameter("faithfulness_steps", int, 6, "steps of the insertion and deletion curves", 2, 10_000),
    Parameter("more", bool, True, "also what stands below More in notebook 05"),
    Parameter("n_sanity", int, 8, "test images of the sanity checks", 2),
    Parameter("n_stages", int, 5, "groups of layers that lose their weights one after the other", 2, 1000),
    Parameter("n_axioms", int, 4, "of the images of the sanity checks, those whose axioms are measured", 2),
    Parameter("axiom_channels", int, 64, "channels removed to measure sensitivity, 0 for all", 0, 100_000),
    Parameter("n_passes", int, 10, "passes with dropout; the thesis: 10", 2, 10_000),
    Parameter("dropout_rate", float, 0.1, "dropout after each block; the thesis: 0.1", 0.0, 0.99),
    Parameter("class_image_steps", int, 120, "steps of the ascent to an image of each class", 1, 10_000),
    Parameter("controls", list, ["random"], "rankings of pixels that do not use the model"),
    Parameter(
        "f_fidelity",
        dict,
        {"beta": 0.1, "copies": 3, "n_samples": 10},
        "largest part of holes, copies of each training image, draws; see notebook 07",
    ),
    Parameter("modes", list, [], "what is retrained on, see notebook 07", choices=("remove", "keep", "shape")),
    Parameter("fractions", list, [0.1, 0.5, 0.9], "fractions of the pixels that are removed, or kept"),
    Parameter("n_seeds", int, 2, "models trained for each method and fraction", 1, 1000),
    Parameter("n_readers", int, 6, "simulated readers of the study of readers", 2, 1000),
    Parameter(
        "effort",
        dict,
        {"n_samples": 5, "noise": 0.15, "n_steps": 10, "n_draws": 10},
        "of the study of the CT poster: noisy copies, their noise, steps of an integral, draws of expected gradients",
    ),
    Parameter("least_accuracy", float, 0.97, "of that study: below it on test images no map is ranked", 0.0, 1.0),
    Parameter("class_sets", list, [], "choices of classes, lists of names: the first is made uneven; empty: all"),
    Parameter("n_total", int, 300, "training images of a network, where their total is held", 20),
    Parameter("shares", list, [0.5, 0.2, 0.1], "of the rare class among these; 0.5 is what others are compared with"),
    Parameter("remedies", list, ["none"], "of class imbalance: see `evaluation.studies.imbalance.REMEDIES`"),
    Parameter("fit_epochs", int, 100, "epochs to fit permuted labels", 1, 100_000),
)
PARAMETERS = {p.name: p for p in _DECLARED}
# Defaults that a notebook has for itself: 07 trains many models, on small images, and 11 small ones from nothing.
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "07_retraining_checks": {"image_size": 96, "n_train": 300, "n_val": 60},
    "11_shortcuts": {
        "data_options": {"task": "presence", "difficulty": "easy"},
        **{"image_size": 96, "n_train": 400, "n_test": 120, "epochs": 20},
        "run_name": "shortcuts",
    },
    "maps_of_classes": {
        "data_options": {"task": "five", "difficulty": "easy"},
        **{"image_size": 64, "n_train": 1000, "n_test": 300, "epochs": 30, "method": "hirescam"},
    },
    "imbalance": {
        "data_options": {"task": "five", "difficulty": "easy"},
        **{"image_size": 48, "n_train": 1500, "n_val": 20, "n_test": 300, "n_seeds": 5, "epochs": 25},
        **{"positive_class": "malignant mass", "method": "hirescam"},
        "class_sets": [
            ["normal", "malignant mass"],
            ["benign mass", "malignant mass"],
            [],
        ],
        "remedies": ["none", "class_weights", "balanced_batches", "focal"],
    },
    "attention": {
        "data_options": {"task": "presence", "difficulty": "easy"},
        **{"image_size": 128, "n_train": 300, "n_val": 100, "n_seeds": 3, "n_images": 40},
        "models": ["efficientnet_lite0"],
        "conditions": ["baseline", "baseline_augmented", "mldam", "mldam_augmented", "no_attention"],
        **{"units": [128, 64], "recipe": "attention_study_frozen"},
    },
    "readers": {
        "data_options": {"task": "presence"},
        **{"image_size": 128, "n_train": 300, "n_val": 100, "n_images": 40},
        "models": ["efficientnet_lite0"],
    },
    "xrelevance": {
        "data_options": {"task": "presence", "difficulty": "easy"},
        **{"image_size": 64, "n_train": 300, "n_val": 60, "n_test": 160, "n_images": 40, "n_passes": 5},
        "recipe": "xrelevance_study_small",
        "models": ["skresnext_mini", "resnext_mini", "resnet_mini"],
    },
    "ct_poster": {
        "dataset": "ct_phantom",
        **{"image_size": 96, "n_train": 300, "n_val": 60, "n_images": 16, "faithfulness_steps": 10},
        **{"models": ["efficientnet_lite0"], "recipe": "modern"},
    },
    "concepts": {
        "data_options": {"task": "shortcut", "difficulty": "easy"},
        **{"image_size": 64, "n_train": 800, "n_images": 120, "epochs": 25},
    },
}


# Lists of which a study takes the first, or one after another: elsewhere empty ``models`` are all of the run.
_NEEDED = {
    "attention": ("models", "conditions"),
    **dict.fromkeys(("ct_poster", "readers", "xrelevance"), ("models",)),
    "imbalance": ("shares", "remedies"),
}


@cache
def text_names() -> dict[str, bool]:
    """Parameters and data set options whose values are texts, by name, and whether a list of them: YAML must not make
    booleans, numbers or dates of them."""
    found = {p.name: False for p in PARAMETERS.values() if p.kind is str}
    found |= {"path": False, "architecture": False, "output": False, "class_names": True}  # of a user's own model
    for entry in DATASETS.values():
        for name, option in inspect.signature(entry.load).parameters.items():
            if option.kind is option.KEYWORD_ONLY and "str" in str(option.annotation):
                found[name] = not isinstance(option.default, str)
    return found


_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check(values: Mapping[str, Any], known_models: Collection[str] = ()) -> dict[str, Any]:
    """Check notebook parameters by name, all at once; ``known_models``: names of own models that the run has.

    Returns the values (an integer where a number is meant becomes a float). Raises ValueError that lists every
    unknown name, wrong type, bad value and unknown model, method or transform, with what is allowed.
    """
    problems, checked = [], {}
    for name, value in values.items():
        if name not in PARAMETERS:
            problems.append(f"unknown parameter {name!r}; {suggest(name, list(PARAMETERS))}")
            continue
        try:
            checked[name] = PARAMETERS[name].check(value)
            if name == "run_name" and not _RUN_NAME.fullmatch(value):
                raise ValueError(f"run_name={value!r} is not a folder name; use letters, digits, ., - and _.")
            if name in ("model", "models"):
                check_names(value if isinstance(value, list) else [value] if value else [], known_models)
            _check_names(name, checked[name], values.get("method_parameters"))
        except (TypeError, ValueError, KeyError) as error:
            problems.append(str(error))
    try:
        by_name({k: v for k, v in checked.items() if k in ("model", "models", "model_options")})
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("the parameters are not valid:\n- " + "\n- ".join(dict.fromkeys(problems)))
    return checked


def check_needed(notebook: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for an empty list of what the notebook needs one of."""
    empty = [name for name in _NEEDED.get(notebook, ()) if values.get(name) == []]
    if empty:
        raise ValueError(
            f"{' and '.join(empty)} of {notebook} must not be empty; give at least one "
            + ("name of xaiutils.MODELS." if empty == ["models"] else f"each ({PARAMETERS[empty[-1]].help}).")
        )


def _check_names(name: str, value: Any, method_parameters: Any) -> None:
    """Names of methods, metrics and transforms, and the parameters given to methods, which may bring names of their
    own (see `xaiutils.explain_all`)."""
    if name == "method_parameters":
        from xaiutils.attribution import resolve

        resolve([], value)
        return
    registry = _registry(name)
    if registry is None:
        return
    names = [value] if isinstance(value, str) else list(value)
    if name in ("methods", "transforms", "metrics") and not names:
        raise ValueError(f"{name} is an empty list; give at least one of {', '.join(registry)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"{name} names one of its entries twice: {names}.")
    own = method_parameters if name == "methods" and isinstance(method_parameters, Mapping) else {}
    for entry in names:
        if "method" not in (own.get(entry) or {}):
            registry[entry]


def _registry(name: str) -> Registry[Any] | None:
    """Of whose entries a parameter gives the names. Imported on demand: a command line must not wait for TensorFlow."""
    if name in ("method", "methods"):
        from xaiutils.attribution import METHODS

        return METHODS
    if name in ("transform", "transforms"):
        from xaiutils.transforms import TRANSFORMS

        return TRANSFORMS
    if name == "metrics":
        from xaiutils.evaluation import METRICS

        return METRICS
    return None
