"""All notebooks, unattended: parameters refused in words before anything runs, notebooks with other parameters, the
report."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trees import make_cbis, make_inbreast

from xaiutils.datasets import DATASETS
from xaiutils.workbook.assignments import read_arguments
from xaiutils.workbook.execute import NotebookError, execute
from xaiutils.workbook.html_report import write_report
from xaiutils.workbook.parameters import PARAMETERS
from xaiutils.workbook.run_all import (
    PREPARE,
    ROOT,
    check_data,
    main,
    notebooks,
    prepare,
    run_notebooks,
)

PATHS = notebooks(ROOT / "notebooks")
TINY = {
    "image_size": 64,
    "n_train": 80,
    "n_val": 20,
    "n_test": 20,
    "models": ["efficientnet_lite0"],
    "epochs": 4,
    "methods": ["vanilla_gradients", "grad_cam"],
    "transforms": ["original", "rotate_180"],
    "n_images": 4,
    "n_faithfulness": 2,
    "faithfulness_steps": 3,
    "seed": 1,
}
LATER = {"n_sanity": 4, "n_stages": 3, "n_axioms": 2, "axiom_channels": 8, "n_passes": 2, "class_image_steps": 10}


def test_arguments_are_typed_as_declared(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text(
        "dataset: folder\nn_train: 10\nmethod_parameters: {smoothgrad: {n_samples: 3, noise: 0.2}}\nrun_name: 007\n"
    )
    values = read_arguments(["models=a, b", "n_train=12", "run_name=007", "data_options={mask_values: [1]}"], file)
    assert values == {
        "dataset": "folder",
        "n_train": 12,
        "models": ["a", "b"],
        "run_name": "007",
        "data_options": {"mask_values": [1]},
        "method_parameters": {"smoothgrad": {"n_samples": 3, "noise": 0.2}},
    }
    dotted = ["data_options.task=five", "data_options.margin=0.5", "method_parameters.smoothgrad.n_samples=3"]
    assert read_arguments(dotted) == {
        "data_options": {"task": "five", "margin": 0.5},
        "method_parameters": {"smoothgrad": {"n_samples": 3}},
    }
    assert read_arguments(["data_options={a: 1}", "data_options.b=2"]) == {"data_options": {"a": 1, "b": 2}}
    with pytest.raises(ValueError, match=r"data_options\.a\.b: a is 1, which has no entries"):
        read_arguments(["data_options.a=1", "data_options.a.b=2"])
    with pytest.raises(ValueError, match="YAML wants a blank after each colon; or write data_options.NAME=VALUE"):
        read_arguments(["data_options={task:shortcut}"])
    with pytest.raises(ValueError, match="not of the form name=value"):
        read_arguments(["dataset"])
    with pytest.raises(ValueError, match="cannot be read"):
        read_arguments([], tmp_path / "nothing.yml")
    with pytest.raises(ValueError, match="n_train='@5' cannot be read as YAML; expected an integer from 0"):
        read_arguments(["n_train=@5"])
    file.write_text("- a list")
    with pytest.raises(ValueError, match="name: value"):
        read_arguments([], file)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data_set": "phantom"}, "unknown parameter 'data_set'; did you mean dataset"),
        ({"dataset": "phantoms"}, "'phantoms' is not allowed; did you mean phantom"),
        ({"n_train": "many"}, "n_train='many' is of type str; expected an integer from 0"),
        ({"models": ["efficientnet"]}, "Unknown model 'efficientnet'; did you mean efficientnet_"),
        ({"methods": ["gradcam"]}, "did you mean grad_cam"),
        ({"methods": []}, "methods is an empty list"),
        ({"methods": ["grad_cam", "grad_cam"]}, "twice"),
        ({"method_parameters": {"smoothgrad": {"samples": 3}}}, "no parameter 'samples'; did you mean n_samples"),
        ({"methods": ["early"], "method_parameters": {"early": {"method": "gradcam"}}}, "did you mean grad_cam"),
        ({"methods": ["early"], "method_parameters": {"grad_cam": {}}}, "Unknown method 'early'"),
        ({"method_parameters": {"grad_cam": 3}}, "expected the method's parameters by name"),
        ({"metrics": ["iuo"]}, "did you mean iou"),
        ({"transforms": ["rotate"]}, "did you mean rotate_180"),
        ({"image_size": 10}, "image_size=10 is out of range"),
        ({"run_name": "../evil"}, "run_name='../evil' is not a folder name"),
        ({"data_dir": "images"}, "dataset='phantom' reads no files"),
        ({"data_options": {"tasks": "five"}}, "phantom has no option 'tasks'; did you mean task"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(tmp_path, values, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        run_notebooks(values, tmp_path)
    assert not list(tmp_path.iterdir())


def test_all_errors_come_at_once():
    with pytest.raises(ValueError, match=r"(?s)n_train.*n_val.*modells"):
        prepare({"n_train": -1, "n_val": 1.5, "modells": []}, PATHS)


def test_each_notebook_gets_its_own_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"model": "vit_mini16", "dataset": "folder", "data_dir": "my images", "n_images": 5, "seed": 3}
    shared = prepare(values, PATHS)
    assert shared[PATHS[0]] == {"dataset": "folder", "data_dir": str(tmp_path / "my images"), "seed": 3}
    assert shared[PATHS[1]]["models"] == ["vit_mini16"]
    assert shared[PATHS[2]]["model"] == "vit_mini16"
    assert shared[PATHS[4]]["n_images"] == 5


def test_the_command_line_says_what_is_wrong(capsys, tmp_path):
    assert main(["datset=phantom", "--runs", str(tmp_path)]) == 1
    assert "did you mean dataset" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "image_size = 224" in capsys.readouterr().out


def test_the_commands_of_the_guides_are_read_as_meant(tmp_path, monkeypatch):
    """Every ``make run ...`` of the guides, through make and the shell, as far as the notebooks' parameters."""
    text = (ROOT / "README.md").read_text() + (ROOT / "data" / "README.md").read_text()
    commands = [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("make run")]
    assert len(commands) >= 5
    (tmp_path / "mine.yml").write_text("dataset: folder\ndata_dir: images\n")
    (tmp_path / "path").mkdir()
    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(pixels))).save(tmp_path / "path" / "mine.keras")
    monkeypatch.chdir(tmp_path)  # a model's path is that of the caller
    for command in commands:
        made = subprocess.run(f"{command} -n", shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (call,) = [line for line in made.splitlines() if "xaiutils.workbook.run_all" in line]
        shown = "printf '%s\\n' " + call.split("xaiutils.workbook.run_all", 1)[1]
        words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout.split("\n")
        words = [w for w in words if w]
        file = tmp_path / words[words.index("--parameters") + 1] if "--parameters" in words else None
        values = read_arguments([w for w in words if "=" in w], file)
        prepare(values, PATHS)
    assert values["data_dir"] in ("images", "path/to/images")


def write_notebook(path, source):
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell('run_name: str = "default"\nruns_dir: str = "../runs"')
    cell.metadata["tags"] = ["parameters"]
    notebook.cells += [cell, nbformat.v4.new_code_cell(source)]
    nbformat.write(notebook, path)
    return path


def test_a_failing_notebook_is_kept_and_named(tmp_path, capsys):
    step = write_notebook(tmp_path / "01_a.ipynb", "print('so far')\nraise RuntimeError('no luck')")
    with pytest.raises(NotebookError, match=r"01_a failed in cell \d: RuntimeError: no luck"):
        run_notebooks({"run_name": "x"}, tmp_path / "runs", [step])
    folder = tmp_path / "runs" / "x"
    assert (folder / "notebooks" / "01_a.failed.ipynb").exists()
    assert not (folder / "notebooks" / "01_a.ipynb").exists()
    assert "so far" in (folder / "log" / "01_a.log").read_text()
    assert "[1/1] 01_a ... failed" in capsys.readouterr().out


def test_what_needs_nothing_of_each_other_runs_two_at_a_time_each_in_its_own_folder(tmp_path, capsys, monkeypatch):
    """Each of two notebooks waits until the other has begun; a third begins where one has ended, or failed."""
    monkeypatch.setattr("xaiutils.workbook.run_all._at_once", lambda: 2)
    wait = (
        "import os, pathlib, time\nhere = pathlib.Path('NAME')\nhere.touch()\n"
        "while not pathlib.Path('OTHER').exists():\n    time.sleep(0.05)\n"
        "pathlib.Path(os.environ['XAI_RUNS'], run_name, 'NAME.txt').write_text('')"
    )
    before = Path.cwd()
    for name, other in (("03_a", "04_b"), ("04_b", "03_a")):
        write_notebook(tmp_path / f"{name}.ipynb", wait.replace("NAME", name).replace("OTHER", other))
    write_notebook(tmp_path / "05_c.ipynb", "raise RuntimeError('no luck')")
    write_notebook(tmp_path / "06_d.ipynb", "1")
    steps = sorted(tmp_path.glob("*.ipynb"))
    with pytest.raises(NotebookError, match="05_c failed in cell 3: RuntimeError: no luck"):
        run_notebooks({"run_name": "x"}, tmp_path / "runs", steps)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ...")[0] for line in lines] == ["[1/4] 03_a", "[2/4] 04_b", "[3/4] 05_c"]
    assert {p.name for p in (tmp_path / "runs" / "x").glob("*.txt")} == {"03_a.txt", "04_b.txt"}
    assert {p.stem for p in tmp_path.iterdir() if not p.suffix} == {"03_a", "04_b", "runs"}
    assert Path.cwd() == before


def test_notebooks_that_run_at_once_share_the_cores(tmp_path, monkeypatch):
    """What runs alone has all of them, and what the user set stays."""
    names = ("TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS")
    told = {}

    def execute(step, *_, tell):
        told[step.stem[:2]] = [os.environ.get(name) for name in names]

    monkeypatch.delenv(names[0], raising=False)
    monkeypatch.setenv(names[1], "3")
    monkeypatch.setattr("xaiutils.workbook.run_all.execute", execute)
    monkeypatch.setattr("xaiutils.workbook.run_all._at_once", lambda: 2)
    monkeypatch.setattr("xaiutils.workbook.run_all.os.cpu_count", lambda: 16)
    for steps, at_once in ((PATHS[:4], "8"), ([PATHS[0], PATHS[4]], None)):
        told.clear()
        with pytest.raises(FileNotFoundError, match="no record"):
            run_notebooks({"run_name": "x"}, tmp_path, steps)
        expected = {step.stem[:2]: [None if step.stem[:2] in PREPARE else at_once, "3"] for step in steps}
        assert told == expected
        assert names[0] not in os.environ


def test_a_killed_kernel_is_reported_and_old_results_are_gone(tmp_path):
    folder = tmp_path / "runs" / "x"
    write_notebook(tmp_path / "01_a.ipynb", "print(1)")
    with pytest.raises(FileNotFoundError, match="no record"):  # this notebook records nothing
        run_notebooks({"run_name": "x"}, tmp_path / "runs", [tmp_path / "01_a.ipynb"])
    assert (folder / "notebooks" / "01_a.ipynb").exists()
    write_notebook(tmp_path / "01_a.ipynb", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(NotebookError, match=r"01_a broke off: DeadKernelError"):
        run_notebooks({"run_name": "x"}, tmp_path / "runs", [tmp_path / "01_a.ipynb"])
    assert [p.name for p in (folder / "notebooks").iterdir()] == ["01_a.failed.ipynb"]


def make(*arguments, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}  # the tests run under make
    command = ["make", "-n", "-B", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**clean, **environment})


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_passes_parameters_and_refuses_unknown_ones():
    out = make(
        "run", "DATASET=folder", "DATA_DIR=my images/it's $5", "MODEL=a,b", "NAME=x", "SET=epochs=3 seed=1"
    ).stdout
    command = shlex.split(out.strip().splitlines()[-1])
    expected = ["dataset=folder", "data_dir=my images/it's $5", "models=a,b", "run_name=x", "epochs=3", "seed=1"]
    assert command[1:] == ["-m", "xaiutils.workbook.run_all", *expected]
    for wrong in ("DATSET=folder", "METHODS=grad_cam", "Dataset=folder"):
        result = make("run", wrong)
        assert result.returncode != 0
        assert f"unknown: {wrong.split('=')[0]}" in result.stderr
    study = make("study", "NAME=attention", "RUN=mine", "MODEL=mobilenet_v2", "SET=epochs=1").stdout
    command = shlex.split(study.strip().splitlines()[-1])
    assert command[3:] == ["--study", "attention", "models=mobilenet_v2", "run_name=mine", "epochs=1"]
    plain = make("run", NAME="host", MODEL="car").stdout
    assert plain.strip().endswith("-m xaiutils.workbook.run_all")


@pytest.mark.usefixtures("forked")
def test_a_notebook_refuses_a_parameter_that_papermill_would_swallow(tmp_path):
    """papermill sets a mistyped name without a word; the notebook's start finds it."""
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'n_trian'; did you mean n_train"):
        papermill.execute_notebook(
            str(PATHS[0]), str(tmp_path / "o.ipynb"), {"n_trian": 5, "runs_dir": str(tmp_path)},
            cwd=str(PATHS[0].parent), progress_bar=False, kernel_name="python3",
        )  # fmt: skip


def test_report_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_run_all_with_other_parameters(tmp_path, capsys):
    folder = run_notebooks({**TINY, **LATER, "dataset": "digits", "run_name": "digits"}, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    n = len(PATHS)
    assert [line.split(" ... ")[0] for line in lines[:n]] == [f"[{i}/{n}] {p.stem}" for i, p in enumerate(PATHS, 1)]
    assert all(re.search(r"\d+ s$", line) for line in lines[:n])
    metrics = pd.read_csv(folder / "tables" / "metrics.csv")
    controls = {"random", "centre", "edges", "laplace", "intensity", "oracle", "oracle_full", "chance"}
    methods = {"vanilla_gradients", "grad_cam"}
    assert set(metrics["method"]) == methods | controls
    assert {w: set(rows["method"]) for w, rows in metrics.groupby("weights")} == {
        "trained": methods, "random": methods, "none": controls
    }  # fmt: skip
    assert set(metrics["metric"]) == set(PARAMETERS["metrics"].default)
    assert metrics[metrics["metric"] == "roc_auc"].groupby(["method", "weights"]).size().eq(8).all()
    assert pd.read_parquet(folder / "tables" / "metrics.parquet").shape == metrics.shape
    with np.load(folder / "maps" / "test_efficientnet_lite0.npz", allow_pickle=False) as maps:
        assert maps["grad_cam"].shape == (4, 64, 64)
    assert {p.name for p in (folder / "notebooks").iterdir()} == {p.name for p in PATHS}
    html = (folder / "report.html").read_text()
    for part in (
        "image_size",
        "tensorflow",
        "05_quantitative_comparison",
        "executed notebook",
        "data:image/",
        "grad_cam",
    ):
        assert part in html
    assert "http" not in re.sub(r'lang="en"', "", html).replace("http-equiv", ""), "the report must open offline"
    record = json.loads((folder / "record" / "02_train_models.json").read_text())
    assert record["finished"]
    assert record["parameters"]["epochs"] == 4
    assert record["environment"]["versions"]["keras"].startswith("3.")
    assert not [p for p in folder.rglob("*") if p.name.startswith(".") or ".part" in p.name]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_folder_with_blanks_in_its_name(tmp_path):
    """Two classes of squares, left and right, with masks, and a broken file: read, said and kept by notebook 01."""
    images = tmp_path / "my images"
    rng = np.random.default_rng(0)
    for i in range(60):
        pixels, mask = rng.integers(0, 60, (64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
        square = np.s_[20:40, 4:24] if i % 2 else np.s_[20:40, 40:60]
        pixels[square], mask[square] = 230, 255
        folder = images / ("right", "left")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        Image.fromarray(mask).save(folder / f"{i}_mask.png")
    (images / "left" / "broken.jpg").write_bytes(b"\xff\xd8")
    values = {"dataset": "folder", "data_dir": str(images), "image_size": 64, "n_test": 12, "run_name": "squares"}
    run = run_notebooks(values, tmp_path / "runs", [PATHS[0]])
    assert "broken.jpg" in (run / "tables" / "skipped.csv").read_text()
    splits = pd.read_csv(run / "tables" / "splits.csv").set_index("split")
    assert splits["images"].sum() == splits["with evidence"].sum() == 60
    sizes = pd.read_csv(run / "tables" / "evidence_size.csv").set_index("what").loc["percent of the image"]
    assert sizes[["min", "max"]].to_numpy() == pytest.approx(100 * 400 / 4096, rel=0.01)
    assert "squares" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_run_all_on_a_real_folder(tmp_path, kit):
    values = {
        "dataset": "busi",
        "data_dir": str(kit / "busi"),
        "image_size": 128,
        "n_train": 200,
        "n_val": 20,
        "n_test": 60,
        "models": ["efficientnet_lite0"],
        "epochs": 0,
        "seed": 1,
        "run_name": "busi",
    }
    folder = run_notebooks(values, tmp_path, PATHS[:2])
    result = pd.read_csv(folder / "tables" / "classification.csv").iloc[0]
    assert result["AUC"] > 0.65


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("name", "make", "options", "said"),
    [
        ("cbis_ddsm", make_cbis, {"abnormality": "both"}, "8 patients are in both official splits; 16 images are left"),
        ("inbreast", make_inbreast, {"task": "birads"}, "BI-RADS 6"),
    ],
)
def test_notebook_01_on_mammograms_in_their_true_layout(tmp_path, name, make, options, said):
    make(tmp_path / "downloaded", patients=32)
    values = {"dataset": name, "data_dir": str(tmp_path / "downloaded"), "data_options": options, "image_size": 64}
    run = run_notebooks(values, tmp_path / "runs", [PATHS[0]])
    sheet, report = (run / "datasheet.md").read_text(), (run / "report.html").read_text()
    entry = DATASETS[name]
    assert entry.licence in sheet
    assert f"{next(iter(options))}={next(iter(options.values()))!r}" in sheet
    assert said in sheet
    assert "Datasheet of the data." in report
    splits = pd.read_csv(run / "tables" / "splits.csv").set_index("split")
    assert splits["images"].sum() == (80 if name == "cbis_ddsm" else 64)
    assert splits["patients"].astype(int).sum() == 32


NAMES = [
    "no",
    "yes",
    "on",
    "off",
    "1",
    "1.0",
    "001",
    "null",
    "~",
    "NA",
    "2020-01-01",
    "1e3",
    "0x1F",
    "true",
    "1_000",
    "12:30",
]


def test_names_of_classes_are_texts_in_every_way_in(tmp_path):
    """YAML alone makes booleans, numbers, dates and nothing of them."""
    listed = f"[{', '.join(NAMES)}]"
    file = tmp_path / "p.yml"
    file.write_text(
        f"positive_class: no\nrun_name: 007\nn_train: 0x10\ndata_options:\n  classes: {listed}\n  keep_aspect: yes\n"
        "  mask_values: [1, 3]\n"
    )
    expected = {"classes": NAMES, "keep_aspect": True, "mask_values": [1, 3]}
    assert read_arguments([], file) == {
        "positive_class": "no", "run_name": "007", "n_train": 16, "data_options": expected,
    }  # fmt: skip
    for text in (
        f"data_options.classes={listed}",
        f"data_options={{classes: {listed}}}",
        f"data_options.classes={','.join(NAMES)}",
    ):
        assert read_arguments([text])["data_options"]["classes"] == NAMES
    assert read_arguments(["positive_class=1.0", "data_options.background=off", "data_options.patient_from=1"]) == {
        "positive_class": "1.0", "data_options": {"background": "off", "patient_from": "1"},
    }  # fmt: skip
    assert read_arguments(["data_options.keep_aspect=true"])["data_options"]["keep_aspect"] is True


@pytest.mark.parametrize(("variable", "parameter"), [("runs", ""), ("", "runs"), ("runs", "elsewhere")])
def test_results_go_where_they_are_asked_for(tmp_path, monkeypatch, variable, parameter):
    monkeypatch.setenv("XAI_RUNS", variable and str(tmp_path / variable))
    step = write_notebook(tmp_path / "01_a.ipynb", "1 / 0")
    with pytest.raises(NotebookError):
        run_notebooks({"run_name": "x", "runs_dir": str(tmp_path / parameter)}, steps=[step])
    assert (tmp_path / "runs" / "x" / "notebooks" / "01_a.failed.ipynb").exists()


def test_a_wrong_folder_is_refused_before_a_notebook_starts(tmp_path, capsys):
    for place, words in (
        ("nowhere", "does not exist; give the folder"),
        ("one", "1 folders with images (only)"),
        ("file", "is a file"),
    ):
        (tmp_path / "one" / "only").mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / "one" / "only" / "a.png")
        (tmp_path / "file").write_text("")
        values = {"dataset": "folder", "data_dir": str(tmp_path / place)}
        with pytest.raises(ValueError, match=re.escape(words)):
            run_notebooks(values, tmp_path / "runs")
    for place in ("file", "file/new", "nowhere/new"):  # of a set that is downloaded
        with pytest.raises(ValueError, match="is no folder, nor can it be a new one"):
            run_notebooks({"dataset": "mnist", "data_dir": str(tmp_path / place)}, tmp_path / "runs")
    with pytest.raises(ValueError, match="It holds only/"):
        run_notebooks({"dataset": "folder", "data_dir": str(tmp_path / "one")}, tmp_path / "runs")
    with pytest.raises(ValueError, match="no images of class"):
        run_notebooks(
            {**values, "data_dir": str(tmp_path / "one"), "data_options": {"classes": ["x", "y"]}}, tmp_path / "runs"
        )
    for p in range(8):
        for label in "ab":
            (tmp_path / "two" / label / f"p{p}").mkdir(parents=True)
            Image.new("L", (9, 9), p).save(tmp_path / "two" / label / f"p{p}" / "a.png")
    with pytest.raises(ValueError, match="positive_class='A' is not one of the classes 'a', 'b'"):
        run_notebooks({**values, "data_dir": str(tmp_path / "two"), "positive_class": "A"}, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    capsys.readouterr()
    check_data({"dataset": "folder", "data_dir": str(tmp_path / "two")})
    said = capsys.readouterr()
    assert "16 images of 2 classes" in said.out
    assert "patient_from=1" in said.err


def test_a_run_that_is_ended_says_what_it_keeps_and_how_it_goes_on(tmp_path, monkeypatch, capsys):
    def execute(step, *_, tell):
        assert tell is None, "nobody looks"
        if step.stem.startswith("02"):
            raise KeyboardInterrupt

    monkeypatch.setattr("xaiutils.workbook.run_all.execute", execute)
    assert main(["run_name=mine", f"runs_dir={tmp_path}"]) == 130
    said = capsys.readouterr()
    assert "[2/7] 02_train_models ... interrupted\nKept in " in said.out
    assert "mine: 01_data_preparation. The same command starts over" in said.out
    assert "from 02_train_models with run_name = 'mine'" in said.out
    assert not said.err


def test_a_terminal_shows_which_cell_is_under_way(tmp_path, monkeypatch, capsys):
    made = [
        nbformat.v4.new_markdown_cell("# The title\n\ntext\n\n## A part"),
        nbformat.v4.new_code_cell("1"),
        nbformat.v4.new_markdown_cell("more, without a heading"),
        nbformat.v4.new_code_cell("2"),
    ]
    spec = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=spec), tmp_path / "01_made.ipynb")
    told = []
    execute(tmp_path / "01_made.ipynb", {}, tmp_path / "run", {}, tell=lambda *place: told.append(place))
    assert told == [(1, 2, "A part"), (2, 2, "A part")]

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(
        "xaiutils.workbook.run_all.execute", lambda step, *_, tell: step.stem.startswith("02") or tell(3, 9, "A part")
    )
    with pytest.raises(FileNotFoundError):  # no notebook left a record
        run_notebooks({"run_name": "mine"}, tmp_path)
    first, *_ = capsys.readouterr().out.split("[2/7]")
    assert first == "[1/7] 01_data_preparation ... \r\x1b[K[1/7] 01_data_preparation ... cell 3 of 9: A part" + (
        "\r\x1b[K[1/7] 01_data_preparation ... 0 s\n"
    )
