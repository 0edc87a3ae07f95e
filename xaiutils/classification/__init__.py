"""How well classifiers do, from their predictions alone: `assess`, `results_table`, `compare_models`, `model_card`."""

from xaiutils.classification.assess import assess
from xaiutils.classification.claim import claim_checklist
from xaiutils.classification.compare_models import compare_models
from xaiutils.classification.curves import SCREENING, mean_auc
from xaiutils.classification.grades import assess_grades
from xaiutils.classification.labels import LabelPredictions, LabelReport, assess_labels
from xaiutils.classification.model_card import model_card
from xaiutils.classification.predictions import Predictions
from xaiutils.classification.report import Report, results_table
from xaiutils.classification.values import ValuePredictions, ValueReport, assess_values

__all__ = [
    "SCREENING",
    "LabelPredictions",
    "LabelReport",
    "Predictions",
    "Report",
    "ValuePredictions",
    "ValueReport",
    "assess",
    "assess_grades",
    "assess_labels",
    "assess_values",
    "claim_checklist",
    "compare_models",
    "mean_auc",
    "model_card",
    "results_table",
]
