"""The committed notebooks: their form, and that they still run and print what they printed."""

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from forked_kernels import SERVER
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from xaiutils.workbook.parameters import OWN_DEFAULTS, PARAMETERS, check
from xaiutils.workbook.run_all import ON_REQUEST, ROOT, notebooks, studies

NAMES = [
    "01_data_preparation",
    "02_train_models",
    "03_attribution_explorer",
    "04_qualitative_comparison",
    "05_quantitative_comparison",
    "06_sanity_checks",
    "07_retraining_checks",
    "08_beyond_one_map",
    "09_mammograms",
    "10_label_wise_localisation",
    "11_shortcuts",
]
PATHS = notebooks(ROOT / "notebooks", on_request=True)
STUDIES = list(studies().values())  # run small by test_studies
OWN = {
    "02_train_models": {"models": ["efficientnet_lite0", "vit_mini16"]},
    **OWN_DEFAULTS,
    "09_mammograms": {
        "data_options": {"task": "shortcut", "difficulty": "easy", "tag_probability": 1.0},
        "image_size": 512,
        **{"n_train": 80, "n_val": 24, "n_test": 64, "n_images": 16, "batch_size": 8, "epochs": 3},
        "run_name": "mammograms",
    },
}
# What no check cell prints, small: every number that is compared is that of the default run. The second model, the
# gallery and what is left out here run in test_run_all and test_batch_survives.
ONE = {"models": ["efficientnet_lite0"]}
SMALLER = {
    "02_train_models": ONE,
    "03_attribution_explorer": ONE,
    "04_qualitative_comparison": {**ONE, "transforms": ["original", "rotate_180"], "gallery_images": []},
    "05_quantitative_comparison": {
        **ONE,
        "metrics": ["iou", "pointing_game", "roc_auc", "entropy", "insertion_auc", "average_drop"],
        "n_faithfulness": 3,
        "faithfulness_steps": 4,
        "more": False,
    },
    "06_sanity_checks": {"transforms": ["gaussian_noise", "rotate_180"], "axiom_channels": 8, "n_passes": 2},
}
LONGER = ("09_mammograms", "10_label_wise_localisation")
READ_IN_TEN_MINUTES = [p for p in [*PATHS, *STUDIES] if p.stem not in LONGER]
each = pytest.mark.parametrize("path", [*PATHS, *STUDIES], ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook, tag=None):
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return [c for c in cells if tag in c.metadata.get("tags", [])] if tag else cells


def test_the_walk_is_complete():
    assert [p.stem for p in PATHS] == NAMES
    assert [p.stem for p in notebooks()] == [name for name in NAMES if name not in ON_REQUEST]


@each
def test_form(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1e6
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for part in ("**Goal.**", "**You need**", "**Time**", "**memory**", "## Try this", "## Next", "## References"):
        assert part in text, part
    assert notebook.cells[0].source.startswith("# Study: " if path in STUDIES else f"# {path.stem[:2]} - ")
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 15 or "parameters" in cell.metadata.get("tags", []), cell.source
        assert not any(o.output_type == "error" for o in cell.outputs)
        assert not any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs), cell.source
    assert all(c.execution_count for c in code(notebook)), "commit the notebooks executed: make notebooks"
    shown = [d for c in code(notebook) for o in c.outputs for d in o.get("data", {})]
    assert "image/png" in shown or "image/jpeg" in shown


@pytest.mark.parametrize("path", READ_IN_TEN_MINUTES, ids=lambda p: p.stem)
def test_it_reads_in_ten_minutes(path):
    notebook = read(path)
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    assert words <= 900
    assert 12 <= len(code(notebook)) <= 18
    (parameters,) = code(notebook, "parameters")
    assert len(parameters.source.splitlines()) <= 20
    lengths = [len(c.source.splitlines()) for c in code(notebook) if c is not parameters]
    assert statistics.median(lengths) <= 6


@each
def test_links_lead_somewhere(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for target in cell.source.split("](")[1:]:
                link = target.split(")")[0]
                name = link if "." in Path(link).name else f"{link}.md"
                assert "://" in link or (path.parent / name).exists() or (path.parent / link).exists(), link


@each
def test_parameters_are_declared_and_seen_by_papermill(path):
    (cell,) = code(read(path), "parameters")
    assigned = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    assert set(papermill.inspect_notebook(str(path))) == set(assigned)
    check(assigned)
    own = OWN.get(path.stem, {})
    if path in STUDIES:
        own = {"data_dir": "../../data", "runs_dir": "../../runs", "run_name": path.stem, **own}
    for name, value in assigned.items():
        if name not in ("methods", "method_parameters", "transforms", "model"):
            default = own.get(name, PARAMETERS[name].default)
            assert value == default, f"{name}: the notebook and xaiutils.workbook.parameters differ"


@each
def test_check_cells_can_fail(path):
    """nbval compares nothing in a cell without a stored count and output: such a notebook would always pass."""
    checks = code(read(path), "nbval-check-output")
    assert checks
    for cell in checks:
        assert cell.execution_count
        assert any(o.output_type == "stream" and o.text.strip() for o in cell.outputs)
        assert "keep_output" in cell.metadata.tags


def nbval(folder, *paths):
    environment = {**os.environ, "XAI_RUNS": str(folder / "runs"), "XAI_PROGRESS": "off", "CUDA_VISIBLE_DEVICES": "-1"}
    options = ["--nbval-lax", "--nbval-cell-timeout=900", "--nbval-kernel-startup-timeout=120"]
    if SERVER not in environment:  # else the kernel python3 is the server's
        options.append("--nbval-current-env")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-o",
        "timeout=0",
        *options,
    ]
    return subprocess.run([*command, *map(str, paths)], env=environment, capture_output=True, text=True, cwd=ROOT)


def test_nbval_notices_a_wrong_number(tmp_path):
    """The guard itself: a check cell whose stored output is not what it prints now must fail."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell("print(1 + 1)", execution_count=1)
    cell.metadata["tags"] = ["nbval-check-output", "keep_output"]
    notebook.cells.append(cell)
    path = tmp_path / "a.ipynb"
    for printed, status in (("2\n", 0), ("3\n", 1)):
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)]
        nbformat.write(notebook, path)
        assert nbval(tmp_path, path).returncode == status


def smaller(path):
    """A notebook with its `SMALLER` parameters, and without the stored lines of a model that it then does not train."""
    notebook = load_notebook_node(str(path))
    if path.stem in SMALLER:
        notebook = parameterize_notebook(notebook, SMALLER[path.stem])
        for output in (o for cell in code(notebook, "nbval-check-output") for o in cell.outputs):
            lines = output.text.splitlines(keepends=True)
            output.text = "".join(line for line in lines if not line.startswith("vit_mini16,"))
    return notebook


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("forked")
def test_notebooks_run_and_their_check_cells_hold(tmp_path):
    paths = [path for path in PATHS if path.stem != "09_mammograms"]  # smaller, and without its numbers: below
    copies = [tmp_path / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        nbformat.write(smaller(path), copy)
    result = nbval(tmp_path, *copies)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert (tmp_path / "runs" / "default" / "tables" / "metrics.csv").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_notebook_of_mammograms_runs_small(tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_RUNS", str(tmp_path))
    small = {"image_size": 192, "n_train": 8, "n_val": 4, "n_test": 8, "epochs": 1, "n_images": 2}
    (path,) = (path for path in PATHS if path.stem == "09_mammograms")
    papermill.execute_notebook(
        path,
        tmp_path / "out.ipynb",
        {**small, "methods": ["hirescam", "smoothgrad"]},
        cwd=path.parent,
        progress_bar=False,
    )
    assert {p.stem for p in (tmp_path / "mammograms" / "tables").glob("*.csv")} >= {"evidence_use", "froc", "points"}
