"""XAI Workbook's helper package: visual attribution for image classifiers, in notebooks.

The public names below load on first use, so that ``import xaiutils`` does not import TensorFlow.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_dataset": "xaiutils.datasets",
    "ImageDataset": "xaiutils.datasets",
    "DATASETS": "xaiutils.datasets",
    "TRANSFORMS": "xaiutils.transforms",
    "signal_to_noise": "xaiutils.transforms",
    "build_model": "xaiutils.models",
    "MODELS": "xaiutils.models",
    "describe": "xaiutils.own_model",
    "wrap": "xaiutils.own_model",
    "train": "xaiutils.training",
    "RECIPES": "xaiutils.training",
    "explain": "xaiutils.attribution",
    "explain_all": "xaiutils.attribution",
    "predict_and_explain": "xaiutils.attribution",
    "METHODS": "xaiutils.attribution",
    "predict": "xaiutils.graph.predict",
    "evaluate": "xaiutils.evaluation",
    "METRICS": "xaiutils.evaluation",
    "export_maps": "xaiutils.workbook.export_maps",
    "evidence_use": "xaiutils.evaluation.studies.evidence_use",
    "tcav": "xaiutils.evaluation.studies.concepts",
    "dissect": "xaiutils.evaluation.studies.dissection",
}
_MODULES = {
    "workbook": "xaiutils.workbook",
    "plots": "xaiutils.plots",
    "widgets": "xaiutils.widgets",
    "evaluation": "xaiutils.evaluation",
    "attribution": "xaiutils.attribution",
    "datasets": "xaiutils.datasets",
    "models": "xaiutils.models",
    "training": "xaiutils.training",
    "classification": "xaiutils.classification",
    "callbacks": "xaiutils.workbook.training_callbacks",
    "transforms": "xaiutils.transforms",
    "adversarial": "xaiutils.transforms.attacks",
    "class_model": "xaiutils.beyond_maps.class_model",
    "segmentation": "xaiutils.beyond_maps.segmentation",
}
__all__ = ["__version__", *_MODULES, *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'xaiutils' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
