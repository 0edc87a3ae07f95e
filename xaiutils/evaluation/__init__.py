"""Evaluation: which map can be trusted? `evaluate` and its `METRICS`, control maps, and means with error bars."""

from xaiutils.evaluation.evaluate import chance, check_classes, evaluate, evaluate_all
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.statistics.summaries import summarise

__all__ = [
    "METRICS",
    "Case",
    "Metric",
    "chance",
    "check_classes",
    "control_maps",
    "evaluate",
    "evaluate_all",
    "summarise",
]
