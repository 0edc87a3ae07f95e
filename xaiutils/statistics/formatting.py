"""Numbers as text: proportions, figures of merit with their intervals, p-values, plurals."""

import numpy as np
import pandas as pd


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal; "not defined" if it is not finite."""
    return "not defined" if not np.isfinite(value) else f"{100 * value:.1f} %"


def score(value: float) -> str:
    """A figure of merit with two decimals, near 1 with three."""
    return f"{value:.3f}" if 0.985 < value < 1 else f"{value:.2f}"


def with_interval(row: pd.Series, as_percent: bool = False) -> str:
    """The ``value`` of a row and, where it has one, its interval: "0.72 [0.61 to 0.80]", "72.0 % [61.0 to 80.0 %]".
    Of a narrow one the ends have as many decimals more as tell them apart."""
    value = percent(row["value"]) if as_percent else score(row["value"])
    if not np.isfinite(row["low"]):
        return value
    low, high = (f"{100 * v:.1f}" if as_percent else score(v) for v in (row["low"], row["high"]))
    for digits in range(2, 6):
        if low == high and row["low"] < row["high"]:
            low, high = (f"{(100 if as_percent else 1) * v:.{digits}f}" for v in (row["low"], row["high"]))
    return f"{value} [{low} to {high}{' %' if as_percent else ''}]"


def p_value(p: float) -> str:
    """A p-value in words; those below 0.001 are all written as such."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def plural(noun: str, n: int = 2) -> str:
    """The plural of a noun that takes an s, for n other than 1."""
    return noun if n == 1 else f"{noun}s"
