"""Templates of texts: what is put in is safe for its medium, tables are Markdown, and a missing fact is an error."""

import jinja2
import numpy as np
import pandas as pd
import pytest

from xaiutils.templates import markdown_table, render, three_decimals


def test_a_table_of_markdown():
    table = pd.DataFrame({"a|b": ["x\ny", "*"], "n": [1, 2000], "value": [0.12345, np.nan]})
    assert markdown_table(table).splitlines() == [
        "| a\\|b | n | value |",
        "| --- | ---: | ---: |",
        "| x y | 1 | 0.123 |",
        "| \\* | 2000 | - |",
    ]
    assert markdown_table(table[["value"]], "{:.1f}".format).splitlines()[2] == "| 0.1 |"
    link = pd.DataFrame({"link": ["[notebook](a_b.ipynb)"]})
    assert markdown_table(link, already_markdown=["link"]).endswith("| [notebook](a_b.ipynb) |")


def test_numbers_of_tables():
    assert [three_decimals(v) for v in (0.5, -99.9, 99.9994)] == ["0.500", "-99.900", "99.999"]
    assert [three_decimals(v) for v in (100.0, -100.4, 12345.6)] == ["100", "-100", "12,346"]
    assert [three_decimals(v) for v in (np.nan, np.inf)] == ["-", "-"]


def test_a_fact_that_is_not_given_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="report"):
        render("model_card.md.j2")
