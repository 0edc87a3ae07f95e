"""Archives for colleagues: whole for generated data, without pictures and names for patients'."""

import hashlib
import json
import re
import zipfile

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from xaiutils import workbook
from xaiutils.batch.pack import WITHOUT_PATIENTS, Names, main, pack
from xaiutils.datasets import DATASETS
from xaiutils.plots import image_grid
from xaiutils.workbook.html_report import write_report

PARAMETERS = {"data_options": {}, "image_size": 64, "n_train": 6, "n_val": 2, "n_test": 4, "seed": 0, "run_name": "r"}
PNG = "iVBORw0KGgo="


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
    run.save_text(f"The image {ds.ids[0]}. It is of {patients[0]}.", "datasheet", "Datasheet.")
    run.save_maps("test", {"grad_cam": np.ones((len(ds), 64, 64), np.float32)}, ds.ids)
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


def test_a_patients_run_goes_without_pictures_and_names(patients):
    folder, ds = patients
    files = content(pack(folder))
    assert {"notebooks/01_x.ipynb", "tables/metrics.csv", "record/01_x.json", "datasheet.md", "report.html"} <= set(
        files
    )
    assert "figures/confusion.png" in files
    gone = {"figures/examples.png", "maps/test.npz", "models/a/model.keras", "tables/skipped.csv"}
    assert not gone & set(files)
    assert not any(name.startswith("data/") for name in files)
    assert [name for name, text in files.items() if b"Anna" in text] == []
    assert PNG not in files["notebooks/01_x.ipynb"].decode()
    assert "<img" not in files["report.html"].decode()
    before = pd.read_csv(folder / "tables" / "metrics.csv")
    after = pd.read_csv(pd.io.common.BytesIO(files["tables/metrics.csv"]))
    assert (before["value"] == after["value"]).all()
    assert after["image_id"].nunique() == len(ds)
    number = after["image_id"][before["image_id"].tolist().index(ds.ids[1])]
    notebook = nbformat.reads(files["notebooks/01_x.ipynb"].decode(), 4)
    assert notebook.cells[0].outputs[1].text == f"worst: {number}\n", "a name must be the same number everywhere"
    said = files["CONTENTS.md"].decode()
    for words in ("- data: ", "- maps: 1", "- models: 1", "- figures with pictures: 1", "- pictures in notebooks: 1",
                  "- tables of files: 1", "names of images and patients are numbers"):  # fmt: skip
        assert words in said, words
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
    (tmp_path / "b/05_x/done/done.json").write_text('{"parameters": {"dataset": "phantom"}}')
    (tmp_path / "b/report").mkdir()
    (tmp_path / "b/report/grid_a.png").write_bytes(b"picture")
    (tmp_path / "b/lock").write_text("")
    (tmp_path / "b/plan").mkdir()
    (tmp_path / "b/plan/plan.json").write_text("{}")
    files = set(content(pack(tmp_path / "b")))
    assert files == {"05_x/done/tables/x.csv", "05_x/done/done.json", "report/grid_a.png", "CONTENTS.md", "SHA256SUMS"}


def test_names_are_not_guessed(patients, capsys):
    folder, _ = patients
    for path in folder.glob("data/*/facts.json"):
        path.unlink()
    assert main([str(folder)]) == 2
    assert "they cannot be removed" in capsys.readouterr().err
    assert not folder.with_name("r.zip").exists()


def test_names_in_texts_and_tables():
    names = Names({"12345678", "1000", "abc", "benign/Muster_1", "P_7"})
    said = names.in_text("P_7 1000 abc 12345678. /x/benign/Muster_1.png benign/Muster_12")
    assert re.fullmatch(r"P_7 1000 abc name-2\. name-\d benign/Muster_12", said)
    table = names.in_table("image_id,value\n1000,1000\nabc,2\n")
    assert table == "image_id,value\nname-1,1000\nname-4,2\n"
    assert names.in_table("file,reason\n1000,broken\n") is None
    assert names.in_table("") == ""


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
