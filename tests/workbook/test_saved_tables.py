"""Tables of a run, written as CSV and read back."""

import numpy as np
import pandas as pd
import pytest

from xaiutils.workbook.saved_tables import read_saved_table

ODD = ["NA", "null", "None", "nan", "N/A", "NULL", "", "-", "<NA>", "inf"]
LIKE_NUMBERS = ["02", "1e5", "1_0", "9" * 20, "+1", "1.50", " 1", "nan", "True", "1.2.840", "\u0661"]


def round_trip(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return read_saved_table(path)


@pytest.mark.parametrize("name", ["found", "class", "image_id", "true class"])
def test_text_is_shown_as_it_was(tmp_path, name):
    for column in (ODD, ["001", "0007", "12"], *([cell, "2"] for cell in LIKE_NUMBERS)):
        assert round_trip(tmp_path / "t.csv", **{name: column, "n": range(len(column))})[name].tolist() == column


def test_ids_of_digits_stay_text_and_numbers_are_numbers(tmp_path):
    ids, scores = ["1", "20"], [0.1 + 0.2, -1e-300]
    read = round_trip(tmp_path / "t.csv", image_id=ids, model=ids, score=scores, n=[3, -4], gap=[np.nan, 2.0])
    assert read["image_id"].tolist() == read["model"].tolist() == ids
    assert read["score"].tolist() == scores
    assert read["n"].dtype == np.int64
    assert read["n"].tolist() == [3, -4]
    np.testing.assert_array_equal(read["gap"], [np.nan, 2.0])
    assert round_trip(tmp_path / "t.csv", **{"p of the original's class": [0.5, 1.0]}).dtypes.tolist() == [np.float64]
    limits = round_trip(tmp_path / "t.csv", score=[np.inf, 1e300], none=[np.nan, np.nan], whole=[2.0, 1e15])
    assert limits["score"].tolist()[0] == np.inf
    assert limits["none"].isna().all()
    assert limits["whole"].dtype == np.float64


@pytest.mark.parametrize("held", [b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_what_is_no_table_is_named(tmp_path, held):
    (tmp_path / "metrics.csv").write_bytes(held)
    with pytest.raises(ValueError, match=r"metrics\.csv cannot be read as a table"):
        read_saved_table(tmp_path / "metrics.csv")
