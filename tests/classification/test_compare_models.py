"""Pairs of models on the same images."""

import numpy as np
import pandas as pd
import pytest
from simulated_predictions import simulated

from xaiutils.classification import compare_models

pytestmark = pytest.mark.filterwarnings("error")


def test_compare_models():
    patients = {"patient": np.arange(400) // 2}
    models = {f"m{i}": simulated(400, skill=s, seed=5, groups=patients) for i, s in enumerate((2.0, 1.9, 0.3))}
    table = compare_models(models)
    assert table["quantity"].tolist() == ["AUC"] * 3 + ["accuracy"] * 4
    assert table["test"].iloc[-1] == "Cochran's Q, images as units"
    assert table["p"].iloc[-1] < 1e-6
    assert set(table["unit"].iloc[:-1]) == {"patient"}
    assert (table["n"].iloc[:-1] == 200).all()
    pair = table.set_index(["a", "b", "quantity"])
    assert pair.loc[("m0", "m2", "AUC"), "p_holm"] < 1e-6
    far = pair.loc[("m0", "m2", "accuracy")]
    assert far["low"] < far["difference"] < far["high"]
    assert far["difference"] == pytest.approx(far["value_a"] - far["value_b"])
    assert (table["p_holm"].iloc[:-1] >= table["p"].iloc[:-1]).all()
    same = compare_models({"a": models["m0"], "b": models["m0"]})
    assert same["p"].tolist() == [1, 1]
    assert same["difference"].tolist() == [0, 0]
    assert same[["low", "high"]].isna().all(axis=None)  # no difference on any unit is not certainty
    assert isinstance(compare_models({"a": simulated(90, 3), "b": simulated(90, 3, skill=3)}), pd.DataFrame)
    with pytest.raises(ValueError, match="'b' and 'a' were not given the same images"):
        compare_models({"a": simulated(30, seed=0), "b": simulated(30, seed=1)})
    with pytest.raises(ValueError, match="two or more models"):
        compare_models({"a": models["m0"]})
