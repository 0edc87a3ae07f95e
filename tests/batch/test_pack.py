"""Archives for colleagues: whole for generated data; of patients' only what can show none."""

import hashlib
import json
import zipfile

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from xaiutils import workbook
from xaiutils.batch.pack import WITHOUT_PATIENTS, main, pack
from xaiutils.datasets import DATASETS
from xaiutils.plots import image_grid
from xaiutils.workbook.html_report import write_report

PARAMETERS = {"data_options": {}, "image_size": 64, "n_train": 6, "n_val": 2, "n_test": 4, "seed": 0, "run_name": "r"}
PNG = "iVBORw0KGgo="
MARKER = json.dumps(
    {
        "key": {"parameters": {"dataset": "phantom"}, "notebook": "", "code": "", "inputs": {}},
        **{"product": "", "files": {}, "seconds": 1},
    }
)


def make_run(folder, dataset, data_dir=""):
    """A run with what notebooks leave: data, a model, maps, a figure with pictures and one without, tables, texts."""
    parameters = {**PARAMETERS, "dataset": dataset, "data_dir": str(data_dir), "runs_dir": str(folder / "runs")}
    run = workbook.start("01_x", parameters)
    ds = run.dataset("test")
    run.save_figure(image_grid(ds), "examples", "Images.")
    plot = Figure()
    plot.subplots().imshow(np.eye(3))  # a confusion matrix: an image of Matplotlib's, but none of a patient
    run.save_figure(plot, "confusion", "Confusion.")
    patients = ds.patients or ds.ids
    scores = pd.DataFrame({"image_id": ds.ids, "patient_id": patients, "value": np.arange(len(ds)) / 7})
    run.save_table(scores, "metrics", "Scores.")
    run.save_table(pd.DataFrame({"file": [f"{ds.ids[0]}.png"], "reason": ["broken"]}), "skipped", "Unread.")
    run.save_table(pd.DataFrame({"model": ["a"], "accuracy": [0.9]}), "classification", "Scores of the models.")
    run.save_text(f"The image {ds.ids[0]}. It is of {patients[0]}.", "datasheet", "Datasheet.")
    run.save_maps("test", {"grad_cam": np.ones((len(ds), 64, 64), np.float32)}, ds.ids)
    (run.folder / "exported").mkdir()
    (run.folder / "exported" / "a_grad_cam.dcm").write_bytes(b"Anna")
    (run.model_folder("a") / "model.keras").parent.mkdir(parents=True)
    (run.model_folder("a") / "model.keras").write_bytes(b"weights")
    notebook = nbformat.v4.new_notebook()
    outputs = [
        nbformat.v4.new_output("display_data", {"image/png": PNG, "text/plain": "<Picture 10 x 10>"}),
        nbformat.v4.new_output("stream", name="stdout", text=f"worst: {ds.ids[1]}\n"),
        nbformat.v4.new_output("display_data", {"text/html": f"<b>{ds.ids[1]}</b>", "text/plain": ds.ids[1]}),
    ]
    notebook.cells.append(nbformat.v4.new_code_cell("show()", outputs=outputs))
    (run.folder / "notebooks").mkdir()
    nbformat.write(notebook, run.folder / "notebooks" / "01_x.ipynb")
    run.finish()
    write_report(run.folder)
    return run.folder, ds


@pytest.fixture
def patients(tmp_path):
    """A folder of images whose names are those of patients, and the run on it."""
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "images" / ("benign", "malignant")[i % 2] / f"Anna_Muster_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return make_run(tmp_path, "folder", tmp_path / "images")


def content(path):
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def test_of_a_patients_run_only_what_can_show_none_goes_along(patients, capsys):
    folder, _ = patients
    assert main([str(folder)]) == 0
    files = content(folder.with_name("r.zip"))
    assert set(files) == {
        "figures/confusion.png",
        "figures/confusion.pdf",
        "tables/classification.csv",
        "CONTENTS.md",
        "SHA256SUMS",
    }
    assert [name for name, text in files.items() if b"Anna" in text] == []
    left = {}
    for line in files["CONTENTS.md"].decode().splitlines():
        if line.startswith("- `"):
            name, _, why = line[3:].partition("`: ")
            left[name] = why
    for name, word in (("figures/examples.png", "images"), ("exported/a_grad_cam.dcm", "images"),
                       ("figures/examples.pdf", "images"), ("maps/test.npz", "maps"), ("models/a/model.keras", "model"),
                       ("tables/skipped.csv", "name"), ("tables/metrics.csv", "name"), ("datasheet.md", "name"),
                       ("notebooks/01_x.ipynb", "images"), ("record/01_x.json", "name")):  # fmt: skip
        assert word in left[name], name
    inside = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert inside == set(left) | set(files) - {"CONTENTS.md", "SHA256SUMS"}, "every file goes along or is listed"
    assert f"{len(left)} files left out" in capsys.readouterr().out
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest


def test_what_is_asked_for_goes_along(patients, tmp_path, capsys):
    folder, ds = patients
    to = tmp_path / "all.zip"
    assert main([str(folder), "--to", str(to), "--include", "pictures", "names", "maps", "models", "data"]) == 0
    assert "all.zip" in capsys.readouterr().out
    files = content(to)
    assert {"figures/examples.png", "maps/test.npz", "models/a/model.keras"} <= set(files)
    assert ds.ids[1] in files["tables/metrics.csv"].decode()
    assert PNG in files["notebooks/01_x.ipynb"].decode()
    assert any(name.startswith("data/test-") for name in files)


def test_generated_data_keep_their_pictures(tmp_path):
    folder, ds = make_run(tmp_path, "phantom")
    files = content(pack(folder))
    assert {"figures/examples.png", "maps/test.npz", "tables/skipped.csv"} <= set(files)
    assert PNG in files["notebooks/01_x.ipynb"].decode()
    assert ds.ids[0] in files["tables/metrics.csv"].decode()
    assert "data:image" in files["report.html"].decode()
    assert not any(name.startswith(("data/", "models/")) for name in files), "large, and made again from the seed"


def test_of_a_batch_only_what_is_done_goes_along(tmp_path):
    for name in ("05_x/done", "05_x/old"):
        (tmp_path / "b" / name / "tables").mkdir(parents=True)
        (tmp_path / "b" / name / "tables" / "x.csv").write_text("a\n1\n")
    (tmp_path / "b/05_x/done/done.json").write_text(MARKER)
    (tmp_path / "b/report").mkdir()
    (tmp_path / "b/report/grid_a.png").write_bytes(b"picture")
    (tmp_path / "b/lock").write_text("")
    (tmp_path / "b/plan").mkdir()
    (tmp_path / "b/plan/plan.json").write_text("{}")
    files = set(content(pack(tmp_path / "b")))
    assert files == {"05_x/done/tables/x.csv", "05_x/done/done.json", "report/grid_a.png", "CONTENTS.md", "SHA256SUMS"}


def test_a_run_whose_data_set_is_unknown_may_hold_patients(tmp_path):
    for name, marker in (("a", "{"), ("b", '{"key": 3}'), ("c", MARKER)):
        (tmp_path / "m/05_x" / name).mkdir(parents=True)
        (tmp_path / "m/05_x" / name / "done.json").write_text(marker)
        (tmp_path / "m/05_x" / name / "note.md").write_text("x")
    files = content(pack(tmp_path / "m"))
    assert [name for name in files if name.endswith("note.md")] == ["05_x/c/note.md"]


def test_what_cannot_be_packed(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main([str(tmp_path), "--include", "everything"]) == 2
    assert "'everything' is unknown; known: pictures" in capsys.readouterr().err


def test_only_sets_of_no_patients_are_listed():
    assert set(WITHOUT_PATIENTS) <= set(DATASETS)
    assert not {"busi", "cbis_ddsm", "inbreast", "mimic_cxr", "folder", "table", "coco"} & set(WITHOUT_PATIENTS)


def test_a_record_says_which_figures_show_images(patients):
    folder, _ = patients
    items = json.loads((folder / "record" / "01_x.json").read_text())["items"]
    assert {i["file"]: i["pictures"] for i in items if i["kind"] == "figure"} == {
        "figures/examples.png": True,
        "figures/confusion.png": False,
    }
