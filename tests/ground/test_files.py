"""Files that are whole, and tables that are read back as they were."""

import io

import pandas as pd
import pytest

from xaiutils.files import csv_text, write_text

NAMES = ["a\rb", "x\ny", 'q"r', "u\r\nv", "w, z", "plain"]


@pytest.mark.parametrize("names", [NAMES, ["plain", "w, z"]])
def test_texts_of_the_data_do_not_break_rows_of_a_csv(tmp_path, names):
    table = pd.DataFrame({"class": names, "n": range(len(names)), "p": [0.5] * len(names)})
    path = write_text(tmp_path / "table.csv", csv_text(table))
    pd.testing.assert_frame_equal(pd.read_csv(path), table)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(csv_text(table.set_index("class"), index=True))), table)


def test_plain_tables_are_written_without_needless_quotes():
    assert csv_text(pd.DataFrame({"a": ["x"], "b": [1]})) == "a,b\nx,1\n"
