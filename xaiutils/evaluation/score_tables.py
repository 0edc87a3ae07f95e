"""Tables of scores: what their rows stand for, and which of them may be compared.

A table is that of `xaiutils.evaluation.evaluate_all`: a value for each map, image and metric. Its column ``weights``
says whether a method's map explains the trained model ("trained") or the model with random weights ("random"), or
whether the row is of a control, or of chance, which explain no model ("none"). A table without that column has no maps
of random weights.
"""

import numpy as np
import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics import METRICS
from xaiutils.map_reading import check_reading
from xaiutils.statistics.summaries import UNIT, check_one_reading, summarise

TRAINED, RANDOM, NO_MODEL = "trained", "random", "none"
CHANCE = "chance"  # the method of the rows of `xaiutils.evaluation.chance`
ORACLES = ("oracle", "oracle_full")  # the evidence itself
CONTROLS = ("random", "centre", "edges", "laplace", "intensity", *ORACLES)
UNDECIDED = "undecided"  # the verdict where a test shows no difference


class ScoreTable(pd.DataFrame):
    """The table that `xaiutils.evaluate` returns, and what is made of it: a data frame with a `summary`."""

    @property
    def _constructor(self) -> type["ScoreTable"]:
        return ScoreTable

    def summary(self, ds: ImageDataset | None = None) -> pd.DataFrame:
        """Means with 95 % intervals, as `xaiutils.evaluation.summarise` makes them: a row for each metric, and for each
        model, method, weights and reading where the table says them.

        ``ds``: the images that were scored. Where their patients are known these are drawn, not images, which is as in
        a table with a column patient_id. Raises ValueError where the table is none of scores, or of other images.
        """
        by = [name for name in ("model", "method", "weights", "metric", "reading") if name in self]
        if not {"image_id", "metric", "value"} <= set(self.columns):
            raise ValueError(f"a table of {', '.join(map(str, self.columns))} has no scores of images to summarise.")
        if ds is None or ds.patients is None:
            return summarise(self, by)
        patients = self["image_id"].map(dict(zip(ds.ids, ds.patients, strict=True)))
        if patients.isna().any():
            raise ValueError(f"ds does not have {patients.isna().sum()} of the table's rows; give the scored images.")
        return summarise(self.assign(**{UNIT: patients}), by)


def is_control(method: str) -> bool:
    """Whether a name in a table is that of a control, an oracle or chance."""
    return method in CONTROLS or method == CHANCE


def of_methods(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that explain the trained model."""
    return table[table["weights"] == TRAINED] if "weights" in table else table[~table["method"].map(is_control)]


def without_random_weights(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that explain the trained model, of controls, and of chance."""
    return table[table["weights"] != RANDOM] if "weights" in table else table


def of_random_weights(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that explain the model with random weights."""
    return table[table["weights"] == RANDOM] if "weights" in table else table[:0]


def of_kind(table: pd.DataFrame, *needs: str) -> pd.DataFrame:
    """The rows of metrics that need ``needs``: "masks" (the evidence), "model" (they run it), "method" or "maps"."""
    return table[table["metric"].map(lambda m: METRICS[m].needs in needs).astype(bool)]


def by_image(table: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Values of a metric with a row for each image and a column for each method that have any, and each row's unit."""
    METRICS[metric]  # an unknown name raises with its neighbours
    rows = check_one_reading(table[table["metric"] == metric])
    keys = [UNIT, "image_id"] if UNIT in table else ["image_id"]
    wide = rows.pivot_table(values="value", index=keys, columns="method", sort=False, observed=True)
    return wide, wide.index.get_level_values(0).to_numpy()


# Readings of maps -------------------------------------------------------------------------------------------------


def _of_one_reading(table: pd.DataFrame) -> pd.Series:
    """Whether a row's metric is defined for one reading of maps alone."""
    return table["metric"].map(lambda m: bool(METRICS[m].reading))


def readings(table: pd.DataFrame) -> list[str]:
    """The readings of the maps in a table, as they occur, except those that a metric is defined by; none where it does
    not say."""
    return list(dict.fromkeys(table.loc[~_of_one_reading(table), "reading"])) if "reading" in table else []


def of_reading(table: pd.DataFrame, reading: str) -> pd.DataFrame:
    """The rows of maps read by ``reading``, and those of metrics that are defined for one reading alone."""
    return table[_of_one_reading(table) | (table["reading"] == check_reading(reading))]


def by_reading(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(reading, rows) for each reading by which the table has all maps; a metric of one reading alone is in the first.

    A table that has each map once, whatever its reading, is whole: ("", table).
    """
    try:
        check_one_reading(table, by=["weights"] if "weights" in table else [])
    except ValueError:
        fixed, (first, *others) = _of_one_reading(table), readings(table)
        return [(first, of_reading(table, first)), *((r, table[~fixed & (table["reading"] == r)]) for r in others)]
    return [("", table)]
