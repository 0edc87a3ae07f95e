"""How well classifiers do, from their predictions alone: `assess`, `results_table`, `compare_models`, `model_card`."""

from xaiutils.classification.assess import Report, assess, results_table
from xaiutils.classification.compare_models import compare_models
from xaiutils.classification.curves import SCREENING, mean_auc
from xaiutils.classification.model_card import model_card
from xaiutils.classification.predictions import Predictions

__all__ = ["SCREENING", "Predictions", "Report", "assess", "compare_models", "mean_auc", "model_card", "results_table"]
