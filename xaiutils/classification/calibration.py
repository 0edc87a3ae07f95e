"""Whether probabilities mean what they say. ``p`` is float ``(n,)`` in [0, 1], ``y`` bool ``(n,)``: what happened.

Bins hold as many images each as they can (equal mass), and equal probabilities share a bin.
"""

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from xaiutils.classification.predictions import Predictions
from xaiutils.statistics.proportions import wilson

_CLIP = 1e-7  # about the rounding of float32: a stated certainty has no finite logit
_TEMPERATURES = (0.05, 20.0)


def equal_mass_bins(p: np.ndarray, n_bins: int = 10) -> np.ndarray:
    """The bin of each probability, int64 ``(n,)``, numbered from the lowest; bins without members are left out."""
    ranks = stats.rankdata(p)
    return np.unique(((ranks - 0.5) * n_bins / len(p)).astype(np.int64), return_inverse=True)[1]


def reliability_table(y: np.ndarray, p: np.ndarray, n_bins: int = 10, confidence: float = 0.95) -> pd.DataFrame:
    """A row a bin: n, probability (its mean), frequency (of what happened), low and high (Wilson's interval)."""
    b = equal_mass_bins(p, n_bins)
    n = np.bincount(b)
    happened = np.bincount(b, y)
    intervals = [wilson(h, k, confidence) for h, k in zip(happened, n, strict=True)]
    low, high = np.array(intervals).T
    return pd.DataFrame(
        {"n": n, "probability": np.bincount(b, p) / n, "frequency": happened / n, "low": low, "high": high}
    )


def expected_calibration_error(y: np.ndarray, p: np.ndarray, n_bins: int = 10) -> float:
    """ECE: the mean over images of |mean probability - frequency| of their bin (Naeini et al. 2015; Guo et al. 2017,
    arXiv:1706.04599, with equal-mass bins as Nixon et al. 2019, arXiv:1904.01685)."""
    b = equal_mass_bins(p, n_bins)
    return float(np.abs(np.bincount(b, p - y)).sum() / len(p))


def calibrated_error(p: np.ndarray, n_bins: int = 10, n_draws: int = 200, seed: int = 0) -> float:
    """The ECE that so many images give on average where the probabilities are true: outcomes are drawn from them."""
    order = np.argsort(p, kind="stable")
    sorted_p = p[order]
    starts = np.unique(equal_mass_bins(p, n_bins)[order], return_index=True)[1]
    drawn = np.random.default_rng(seed).random((len(p), n_draws), dtype=np.float32) < sorted_p[:, None]
    gaps = np.add.reduceat(sorted_p, starts)[:, None] - np.add.reduceat(drawn, starts, axis=0, dtype=np.int64)
    return float(np.abs(gaps).sum(axis=0).mean() / len(p))


def brier_decomposition(y: np.ndarray, p: np.ndarray, n_bins: int = 10) -> dict[str, float]:
    """Brier score = reliability - resolution + uncertainty + within bins (Murphy 1973).

    The last term, variance less twice the covariance within bins, makes the sum exact (Stephenson et al. 2008).
    ``skill`` is 1 - Brier / uncertainty: 0 for always stating the frequency; NaN if only one class occurs.
    """
    y = y.astype(float)
    b = equal_mass_bins(p, n_bins)
    n = np.bincount(b)
    mean_p, mean_y = (np.bincount(b, p) / n)[b], (np.bincount(b, y) / n)[b]
    brier, uncertainty = np.mean((p - y) ** 2), y.mean() * (1 - y.mean())
    return {
        "Brier": float(brier),
        "reliability": float(np.mean((mean_p - mean_y) ** 2)),
        "resolution": float(np.mean((mean_y - y.mean()) ** 2)),
        "uncertainty": float(uncertainty),
        "within bins": float(np.mean((p - mean_p) ** 2) - 2 * np.mean((p - mean_p) * (y - mean_y))),
        "skill": float(1 - brier / uncertainty) if uncertainty > 0 else np.nan,
    }


def calibration_line(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Cox's (1958) calibration: logit P(y) = intercept + slope * logit(p), fitted by maximum likelihood.

    A slope under 1: the probabilities are too extreme; over 1: too timid. "slope error" is its standard error, for
    independent images. "intercept at slope 1" above 0: they are too low on the whole. NaN where only one class occurs;
    slope and intercept also where ``p`` is constant, or separates the classes perfectly (the likelihood then has no
    maximum). ``p`` is clipped to [1e-7, 1 - 1e-7].
    """
    found = dict.fromkeys(("slope", "slope error", "intercept", "intercept at slope 1"), np.nan)
    if y.all() or not y.any():
        return found
    x = special.logit(np.clip(p.astype(float), _CLIP, 1 - _CLIP))
    y = y.astype(float)
    found["intercept at slope 1"] = float(optimize.brentq(lambda a: (special.expit(a + x) - y).sum(), -60, 60))
    no, yes = x[y == 0], x[y == 1]
    if np.ptp(x) < 1e-9 or no.max() <= yes.min() or yes.max() <= no.min():
        return found
    from statsmodels.discrete.discrete_model import Logit  # takes half a second to import

    centre, scale = x.mean(), x.std()  # so that Newton's method converges from 0
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    fit = Logit(y, design).fit(method="newton", tol=1e-10, maxiter=100, disp=False)
    found["slope"], found["slope error"] = float(fit.params[1] / scale), float(fit.bse[1] / scale)
    found["intercept"] = float(fit.params[0] - fit.params[1] * centre / scale)
    return found


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature T in [0.05, 20] at which softmax(log p / T) is most likely (Guo et al. 2017,
    arXiv:1706.04599): over 1 for a model that is too sure. Fit it on validation images.

    NaN where they fix none: an end of the range does as well, as of a model that is always right, whose likelihood
    grows without end as T falls, or of one that is worse than guessing."""
    logits = np.log(np.clip(probabilities.astype(float), _CLIP, None))

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float((special.logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(_TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x)) if found.fun < min(loss(low), loss(high)) - 1e-9 else np.nan


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T) ``(n, classes)``: no answer changes, only how sure it is."""
    return special.softmax(np.log(np.clip(probabilities.astype(float), _CLIP, None)) / temperature, axis=1)


def calibration_row(y: np.ndarray, p: np.ndarray, n_bins: int = 10, seed: int = 0) -> dict[str, float]:
    """All numbers of this module for one event."""
    return {
        "ECE": expected_calibration_error(y, p, n_bins),
        "ECE if calibrated": calibrated_error(p, n_bins, seed=seed),
        **brier_decomposition(y, p, n_bins),
        **calibration_line(y, p),
    }


def stated_events(
    found: Predictions, positive: int | None, probabilities: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is stated with a probability (default: the predictions'): the positive of two classes, or the top class,
    then each. By name: whether it happened, bool ``(n,)``, and its stated probability, float64 ``(n,)``."""
    p = (found.probabilities if probabilities is None else probabilities).astype(float)
    names = [f"'{name}'" for name in found.class_names]
    each = {name: (found.labels == c, p[:, c]) for c, name in enumerate(names)}
    if positive is not None and len(names) == 2:
        return {names[positive]: each[names[positive]]}
    return {"the top class": (found.predicted == found.labels, p.max(axis=1)), **each}


def calibration_tables(
    found: Predictions, positive: int | None, temperature: float, confidence: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`Report.calibration` and `Report.reliability`; without a scaled row where ``temperature`` is NaN."""
    stated = stated_events(found, positive)
    rows = {f"probability of {name}": calibration_row(*event, seed=seed) for name, event in stated.items()}
    if np.isfinite(temperature):
        scaled = stated_events(found, positive, apply_temperature(found.probabilities, temperature))
        name, event = next(iter(scaled.items()))
        rows[f"probability of {name}, temperature {temperature:.3g}"] = calibration_row(*event, seed=seed)
    y, p = next(iter(stated.values()))
    rows["always its frequency"] = calibration_row(y, np.full(len(y), y.mean()), seed=seed)
    return pd.DataFrame.from_dict(rows, orient="index"), reliability_table(y, p, confidence=confidence)
