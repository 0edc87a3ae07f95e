"""Facts of public sets of mammograms: table 1 of the thesis that the workbook grew from, with what it has wrong."""

from importlib.resources import files

import pandas as pd


def mammography_sets() -> pd.DataFrame:
    """A row for each set: data set, origin, cases, images, size (pixels), kind and annotations as the thesis states
    them (Rodriguez Sampayo, UNED 2021, table 1), and correction: what must be known beside. All are texts."""
    with (files("xaiutils.datasets") / "mammography_sets.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str)
