"""Each notebook of ``notebooks/studies`` runs by its command, small: ``tests/studies/NAME.yml`` has its parameters."""

import json

import pytest

from xaiutils.batch.matrix import read_matrix
from xaiutils.batch.plan import jobs
from xaiutils.workbook.run_all import ROOT, main, studies

SMALL = ROOT / "tests" / "studies"


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("name", studies())
def test_a_study_runs_small(name, tmp_path):
    """Every cell, in well under a minute on two quiet cores, and the report. Other numbers than the default run's."""
    assert main(["--study", name, "--parameters", str(SMALL / f"{name}.yml"), "--runs", str(tmp_path)]) == 0
    record = json.loads((tmp_path / name / "record" / f"{name}.json").read_text())
    assert record["finished"]
    assert (tmp_path / name / "report.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("path", sorted((SMALL / "little").glob("*.yml")), ids=lambda path: path.stem)
def test_sections_that_nothing_is_asked_of_are_left_out(path, tmp_path):
    """Empty lists, and as few seeds as there can be: `tests/studies/little/NAME.yml`."""
    assert main(["--study", path.stem, "--parameters", str(path), "--runs", str(tmp_path)]) == 0
    assert json.loads((tmp_path / path.stem / "record" / f"{path.stem}.json").read_text())["finished"]
    text = (tmp_path / path.stem / "notebooks" / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    assert "left out." in text


def test_each_study_has_small_parameters_and_a_row_in_the_readme():
    assert sorted(path.stem for path in SMALL.glob("*.yml")) == list(studies())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in studies() if f"(notebooks/studies/{name}.ipynb)" not in readme]


@pytest.mark.parametrize("path", sorted((ROOT / "matrices").glob("*.yml")), ids=lambda path: path.stem)
def test_the_matrices_can_be_run(path):
    matrix, problems = read_matrix(path)
    assert not problems
    assert jobs(matrix)


def test_an_unknown_study_is_refused_with_those_there_are(capsys):
    assert main(["--study", "atention"]) == 1
    assert "there is no study 'atention'; did you mean attention" in capsys.readouterr().err
