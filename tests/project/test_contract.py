"""The contract of `benchmarks/contract.py`: its page says what its file holds, and a sample of it stands."""

import pytest
from zoo import networks
from zoo.checks import check
from zoo.page import PAGE, page_text
from zoo.results import OUTCOMES, RESULTS, Results

import xaiutils as xai

SAMPLE = ("channels first inside", "two branches", "CBAM", "one unit", "image and table", "own call, opaque")


@pytest.fixture(scope="module")
def results():
    return Results.read(RESULTS)


def test_the_page_says_what_the_file_holds(results):
    assert PAGE.read_text(encoding="utf-8") == page_text(results), "python benchmarks/contract.py --page"


def test_the_file_is_whole(results):
    foreign = {key for key in results.cells if key.endswith("| float32") and not key.startswith("shape: ")}
    assert len(foreign) >= 30
    for key, of_method in results.cells.items():
        assert set(of_method) <= set(xai.METHODS), key
        for method, cell in of_method.items():
            assert cell["outcome"] in OUTCOMES
            assert (cell["note"] is None) == (cell["outcome"] == "passed"), (key, method)
            if cell["note"] is not None:
                assert results.notes[cell["note"]]


@pytest.mark.parametrize("name", SAMPLE)
def test_every_method_keeps_the_contract(results, name):
    subject = networks()[f"shape: {name}"].subject("float32")
    subject.compiled = True
    for method in xai.METHODS:
        cell = check(subject, method)
        assert cell.outcome in ("passed", "refused"), f"{method}: {cell.reason}"
        known = results.cell(f"shape: {name}", "float32", method)
        assert known is None or cell.outcome == known["outcome"], f"{method}: {cell.reason}"
