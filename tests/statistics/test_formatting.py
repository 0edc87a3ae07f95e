"""Numbers as text."""

import pandas as pd

from xaiutils.statistics.formatting import with_interval


def test_the_ends_of_an_interval_are_told_apart():
    def said(low, high, **more):
        return with_interval(pd.Series({"value": 0.67, "low": low, "high": high}), **more)

    assert said(0.61, 0.8) == "0.67 [0.61 to 0.80]"
    assert said(0.6681, 0.6712) == "0.67 [0.668 to 0.671]"
    assert said(0.66701, 0.66742) == "0.67 [0.6670 to 0.6674]"
    assert said(0.6701, 0.6704, as_percent=True) == "67.0 % [67.01 to 67.04 %]"
    assert said(float("nan"), float("nan")) == "0.67"
