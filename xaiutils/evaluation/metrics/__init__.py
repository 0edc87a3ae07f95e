"""`METRICS`, the list of all metrics in reading order. A new one is a module with its constant, and a line here."""

from xaiutils.evaluation.metrics import (
    complexity,
    confidence,
    insertion_deletion,
    localisation,
    road,
    robustness,
    sensitivity_n,
)
from xaiutils.evaluation.metrics.metric import Metric
from xaiutils.registry import Registry

METRICS: Registry[Metric] = Registry(
    "metric",
    [
        localisation.IOU,
        localisation.INTERSECTION_OVER_SUM,
        localisation.DICE,
        localisation.BEST_DICE,
        localisation.PIXEL_ACCURACY,
        localisation.POINTING_GAME,
        localisation.HIT_RATE,
        localisation.RELEVANCE_MASS,
        localisation.RELEVANCE_RANK,
        localisation.ENERGY_POINTING_GAME,
        localisation.PIXEL_ROC_AUC,
        localisation.AVERAGE_PRECISION,
        insertion_deletion.INSERTION_AUC,
        insertion_deletion.DELETION_AUC,
        confidence.AVERAGE_DROP,
        confidence.AVERAGE_INCREASE,
        confidence.AVERAGE_GAIN,
        confidence.CONFIDENCE_DROP,
        confidence.FIDELITY,
        confidence.PIXEL_PERTURBATION,
        sensitivity_n.SENSITIVITY_N,
        road.ROAD_MORF,
        road.ROAD_LERF,
        road.ROAD,
        robustness.TRANSFORM_CONSISTENCY,
        robustness.MAX_SENSITIVITY,
        complexity.SPARSENESS,
        complexity.ENTROPY,
        complexity.EFFECTIVE_COMPLEXITY,
    ],
)
