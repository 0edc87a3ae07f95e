"""How well a model predicts a measured quantity: errors in its own units, against always saying the mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.statistics.bootstrap import percentile_interval, replicates

_LEAST = 3  # units for an interval
FIGURES = ("MAE", "RMSE", "R2", "Spearman")


@dataclass(frozen=True)
class ValuePredictions:
    """Measured and predicted values, float ``(n,)``, and whose images they are; ``groups["patient"]``, where given, is
    the unit of the bootstrap. Raises ValueError where shapes disagree, there are none, or one is not finite."""

    values: np.ndarray
    predicted: np.ndarray
    groups: Mapping[str, Sequence[str] | np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        values, predicted = np.asarray(self.values, float), np.asarray(self.predicted, float)
        if values.ndim != 1 or values.shape != predicted.shape or not len(values):
            raise ValueError(f"values and predicted must both be (n,), got {values.shape} and {predicted.shape}.")
        for name, array in (("values", values), ("predicted", predicted)):
            if bad := int((~np.isfinite(array)).sum()):
                raise ValueError(f"{bad} of {len(array)} {name} are NaN or infinite: they cannot be scored.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "predicted", predicted)

    @property
    def units(self) -> np.ndarray:
        """The number of each image's patient, or of the image, int64 ``(n,)``."""
        return pd.factorize(np.asarray(self.groups.get("patient", np.arange(len(self.values)))))[0]


@dataclass(frozen=True)
class ValueReport:
    """How a model predicts a quantity on one split.

    Attributes:
        name, split, value_name: of the model, the data and the quantity.
        predictions: what it is computed from.
        metrics: rows MAE (mean absolute error), RMSE, R2 (1 - squared errors / squared deviations from these images'
            mean) and Spearman (rank correlation; NaN where one of both does not vary); columns value, low, high
            (bootstrap over patients, else images) and mean: what always saying ``constant`` scores.
        agreement: of predicted less measured values (Bland & Altman 1986, Lancet 327): bias and the limits of
            agreement, bias -+ 1.96 standard deviations; columns value, low, high.
        constant: what the baseline always says; ``constant_of`` says of which images it is the mean.
        gain: by how much MAE is below the baseline's, with its interval: value, low, high.
        confidence, n_resamples, seed: of the intervals.
    """

    name: str
    split: str
    value_name: str
    predictions: ValuePredictions
    metrics: pd.DataFrame
    agreement: pd.DataFrame
    constant: float
    constant_of: str
    gain: pd.Series
    confidence: float
    n_resamples: int
    seed: int

    @property
    def beats_mean(self) -> bool:
        """Whether the mean absolute error is below that of always saying the mean, by more than chance."""
        return bool(self.gain["low"] > 0)

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        mae, mean = self.metrics.loc["MAE"], self.metrics.loc["MAE", "mean"]
        interval = f" [{mae['low']:.3g} to {mae['high']:.3g}]" if np.isfinite(mae["low"]) else ""
        better = "less than" if self.beats_mean else "which does not differ by more than chance from"
        bias = self.agreement.loc["bias"]
        shifted = np.isfinite(bias["low"]) and not bias["low"] <= 0 <= bias["high"]
        constant = f"{self.constant:.4g}, the mean of {self.constant_of}"
        said = f" On average it says {abs(bias['value']):.3g} too {'much' if bias['value'] > 0 else 'little'}."
        return (
            f"The mean absolute error of {self.value_name or 'the value'} is {mae['value']:.3g}{interval}, {better} "
            f"the {mean:.3g} of always saying {constant}.{said if shifted else ''}"
        )

    def as_text(self) -> pd.DataFrame:
        """``metrics`` and ``agreement`` for the eye."""
        whole = pd.concat([self.metrics, self.agreement])
        columns = whole[["value", "low", "high", "mean"]].to_numpy(float)
        texts = [f"{v:.3g}" + (f" [{low:.3g} to {high:.3g}]" if low == low else "") for v, low, high, _ in columns]
        means = [f"{m:.3g}" if m == m else "" for m in columns[:, 3]]
        return pd.DataFrame({self.name: texts, "always the mean": means}, index=whole.index)


def assess_values(
    predictions: ValuePredictions,
    constant: float | None = None,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "model",
    split: str = "test",
    value_name: str = "",
) -> ValueReport:
    """Report on ``predictions`` of a measured quantity.

    ``constant``: what the baseline always says, the mean of the training images; None: that of the judged images, which
    knows more than a model can. ``n_resamples``, ``confidence`` and ``seed`` are of the bootstrap, by patient where
    ``predictions`` knows them; ``name``, ``split`` and ``value_name`` are for titles.

    Raises ValueError where an argument is out of range.
    """
    if n_resamples < 1000:
        raise ValueError(f"n_resamples={n_resamples}; at least 1000 are needed.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a number between 0 and 1, such as 0.95.")
    y, units = predictions.values, predictions.units
    said = float(y.mean()) if constant is None else float(constant)
    once = _figures(predictions, said, np.ones((len(y), 1), np.int32))
    blocks = [_figures(predictions, said, weights) for weights in replicates(units, n_resamples, seed)]
    few = len(np.unique(units)) < _LEAST
    rows = {}
    for key, value in once.items():
        samples = np.concatenate([block[key] for block in blocks])
        interval = (np.nan, np.nan) if few else percentile_interval(samples, confidence)
        rows[key] = {"value": float(value[0]), "low": interval[0], "high": interval[1]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    metrics, agreement = table.loc[list(FIGURES)], table.loc[list(_AGREEMENT)]
    always = _figures(ValuePredictions(y, np.full(len(y), said)), said, np.ones((len(y), 1), np.int32))
    return ValueReport(
        name,
        split,
        value_name,
        predictions,
        metrics.assign(mean=[float(always[key][0]) for key in FIGURES]),
        agreement,
        said,
        "these images" if constant is None else "the training images",
        table.loc["gain"],
        confidence,
        n_resamples,
        seed,
    )


_AGREEMENT = ("bias", "lower limit", "upper limit")


def _figures(predictions: ValuePredictions, constant: float, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each figure for weights ``(n, b)`` of the images, ``(b,)``."""
    y, p = predictions.values, predictions.predicted
    error, n = p - y, weights.sum(axis=0)
    mae, squared, bias = (values @ weights / n for values in (np.abs(error), error**2, error))
    spread = np.maximum(y**2 @ weights / n - (y @ weights / n) ** 2, 0)
    varies = spread > 1e-12 * max(float(np.abs(y).max()) ** 2, 1e-300)
    # n - 1, as the standard deviation of a sample is; rounding may leave a little less than 0
    deviation = np.sqrt(np.maximum(squared - bias**2, 0) * n / np.maximum(n - 1, 1))
    return {
        "MAE": mae,
        "RMSE": np.sqrt(squared),
        "R2": np.where(varies, 1 - squared / np.where(varies, spread, 1), np.nan),
        "Spearman": np.array([_spearman(np.repeat(y, w), np.repeat(p, w)) for w in weights.T]),
        "bias": bias,
        "lower limit": bias - 1.96 * deviation,
        "upper limit": bias + 1.96 * deviation,
        "gain": np.abs(constant - y) @ weights / n - mae,
    }


def _spearman(y: np.ndarray, p: np.ndarray) -> float:
    if np.ptp(y) == 0 or np.ptp(p) == 0:
        return np.nan
    return float(np.corrcoef(stats.rankdata(y), stats.rankdata(p))[0, 1])
