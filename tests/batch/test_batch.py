"""Batches: matrices refused in words, stages shared, nothing repeated, damage found, failures told. The notebooks are
played by a function here; `test_batch_survives` runs real ones and kills them."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from fake_study import NOTEBOOKS, write_matrix, write_notebook, write_study

from xaiutils.backend import keras
from xaiutils.batch import __main__ as command
from xaiutils.batch import job, marker, plan, preflight
from xaiutils.batch.matrix import read_matrix
from xaiutils.workbook.execute import NotebookError
from xaiutils.workbook.run_all import ROOT

NAMES = {
    "01_data/phantom.s0", "01_data/digits.s0",
    "02_train/phantom.vit_mini16.auto.s0", "02_train/digits.vit_mini16.auto.s0",
    *(f"05_cell/{d}.vit_mini16.auto.s0.{m}" for d in ("phantom", "digits") for m in ("grad_cam", "occlusion")),
}  # fmt: skip


class Study:
    """A study whose notebooks are a function; ``ran`` lists the jobs in the order in which they ran."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.ran, self.fail = folder, [], {}
        self.matrix = write_study(folder)
        self.code = {"data": "1", "train": "1", "cell": "1"}
        self.runs = folder / "runs" / "m"
        monkeypatch.setattr(plan, "code_version", lambda kind: self.code[kind])
        monkeypatch.setattr(job, "execute", self.execute)
        monkeypatch.setattr(command, "run_snakemake", self.run_jobs)
        monkeypatch.setattr(command, "write_report", lambda folder, results: folder / "report.html")

    def run_jobs(self, directory, *_):
        """What Snakemake does, in this process: jobs after what they need, each once."""
        jobs = json.loads((directory / "plan.json").read_text())["jobs"]
        done = {}
        for name, facts in jobs.items():
            done[name] = all(done[other] for other in facts["after"]) and job.run_job(directory.parent, name)

    def execute(self, step, parameters, folder, environment, limit):
        name = f"{step.stem}/{folder.name}"
        self.ran.append(name)
        if name in self.fail:
            (folder / "notebooks").mkdir()
            (folder / "notebooks" / f"{step.stem}.failed.ipynb").write_text("{}")
            (folder / "models").mkdir()
            raise self.fail[name]
        values = {"n_train": 6, "epochs": 1, "n_images": 2, **parameters}
        (folder / "log").mkdir()
        (folder / "log" / f"{step.stem}.log").write_text("output")
        for part, text in (
            ("data/test-1/checks.json", f"{values['dataset']} {values['n_train']} {values['seed']}"),
            ("models/vit_mini16/model.keras", f"{values['dataset']} {values['n_train']} {values['epochs']}"),
            ("tables/x.csv", str(values)),
        ):
            if (step.stem, part.split("/")[0]) in (("01_data", "data"), ("02_train", "models"), ("05_cell", "tables")):
                store_path = folder / part
                store_path.parent.mkdir(parents=True)
                store_path.write_text(text)

    def run(self, *options):
        """Run the batch; returns the exit status and what ran."""
        self.ran.clear()
        plan.notebook_digest.cache_clear()
        status = command.main([str(self.matrix), "--runs", str(self.folder / "runs"), *options])
        return status, set(self.ran)


@pytest.fixture
def study(tmp_path, monkeypatch):
    return Study(tmp_path, monkeypatch)


def test_every_job_runs_once_and_after_what_it_needs(study, capsys):
    assert study.run() == (0, NAMES)
    assert max(Counter(study.ran).values()) == 1
    order = {name: i for i, name in enumerate(study.ran)}
    for one in NAMES:
        dataset = one.split("/")[1].split(".")[0]
        assert one.startswith("01_data") or order[f"01_data/{dataset}.s0"] < order[one]
    assert "8 of 8 jobs done" in capsys.readouterr().out
    done = marker.read_marker(study.runs / "05_cell/digits.vit_mini16.auto.s0.occlusion")
    assert done["key"]["parameters"]["methods"] == ["occlusion"]
    assert done["key"]["parameters"]["models"] == ["vit_mini16"]
    assert {"tables/x.csv", "log/05_cell.log", "parameters.json"} <= set(done["files"])
    assert list(done["key"]["inputs"]) == ["01_data/digits.s0", "02_train/digits.vit_mini16.auto.s0"]
    assert not list((study.runs / "attempts").iterdir())
    assert study.run() == (0, set()), "a second run repeats something"
    assert "8 jobs, 8 done, 0 to do" in capsys.readouterr().out


def test_adding_a_method_or_a_data_set_computes_only_that(study):
    study.run()
    write_matrix(
        study.folder, methods=["grad_cam", "occlusion", {"name": "smooth", "method": "smoothgrad", "n_samples": 3}]
    )
    status, ran = study.run()
    assert (status, ran) == (0, {f"05_cell/{d}.vit_mini16.auto.s0.smooth" for d in ("phantom", "digits")})
    done = marker.read_marker(study.runs / "05_cell/phantom.vit_mini16.auto.s0.smooth")
    assert done["key"]["parameters"]["method_parameters"] == {"smooth": {"n_samples": 3, "method": "smoothgrad"}}
    write_matrix(study.folder, datasets=["phantom", "digits", {"name": "hard", "dataset": "phantom", "n_train": 4}])
    assert study.run()[1] == {
        "01_data/hard.s0", "02_train/hard.vit_mini16.auto.s0",
        "05_cell/hard.vit_mini16.auto.s0.grad_cam", "05_cell/hard.vit_mini16.auto.s0.occlusion",
    }  # fmt: skip


def test_a_change_computes_what_depends_on_it(study, capsys):
    study.run()
    write_matrix(study.folder, methods=["grad_cam", {"name": "occlusion", "patch_size": 8}])
    assert study.run()[1] == {f"05_cell/{d}.vit_mini16.auto.s0.occlusion" for d in ("phantom", "digits")}
    assert "other parameters: method_parameters" in capsys.readouterr().out
    write_matrix(study.folder, recipes=[{"name": "auto", "epochs": 2}])
    everything_trained = {name for name in NAMES if not name.startswith("01")}
    assert study.run()[1] == everything_trained, "cells of another model must be computed again"
    study.code["cell"] = "2"
    assert study.run("--any-code") == (0, set())
    assert study.run()[1] == {name for name in NAMES if name.startswith("05")}
    assert "the code of the package has changed" in capsys.readouterr().out
    parameters, source = NOTEBOOKS["05_cell"]
    write_notebook(study.folder / "05_cell.ipynb", parameters, source + "\n1 + 1")
    assert study.run()[1] == {name for name in NAMES if name.startswith("05")}
    assert "the notebook has changed" in capsys.readouterr().out


def test_data_made_again_that_are_the_same_keep_what_was_made_from_them(study, capsys):
    study.run()
    study.code["data"] = "2"
    study.code["train"] = "2"
    status, ran = study.run()
    assert (status, ran) == (0, {name for name in NAMES if not name.startswith("05")})
    assert capsys.readouterr().out.count("made from the same data and model; kept") == 4
    assert study.run() == (0, set())


@pytest.mark.parametrize(
    ("damage", "words", "again"),
    [
        (lambda f: (f / "tables/x.csv").write_text("x" * (f / "tables/x.csv").stat().st_size), "x.csv is damaged", 1),
        (lambda f: (f / "tables/x.csv").unlink(), "x.csv is missing", 1),
        (lambda f: (f / "done.json").write_text('{"files'), "the marker is damaged", 1),
        (lambda f: shutil.rmtree(f), "new", 1),
        (lambda f: (f / "more.txt").write_text("a note of mine"), "", 0),
    ],
)
def test_damage_is_found_and_mended(study, capsys, damage, words, again):
    study.run()
    name = "05_cell/phantom.vit_mini16.auto.s0.grad_cam"
    before = (study.runs / name / "tables/x.csv").read_text()
    damage(study.runs / name)
    capsys.readouterr()
    assert study.run() == (0, {name} if again else set())
    assert words in capsys.readouterr().out
    assert (study.runs / name / "tables/x.csv").read_text() == before


def test_a_damaged_model_is_trained_again_and_its_cells_kept_if_it_is_the_same(study):
    study.run()
    (study.runs / "02_train/phantom.vit_mini16.auto.s0/models/vit_mini16/model.keras").write_text("rotten")
    assert study.run() == (0, {"02_train/phantom.vit_mini16.auto.s0"})
    study.run()
    assert study.run() == (0, set())


def test_what_the_data_settle_for_later_notebooks_is_part_of_the_data(tmp_path):
    (tmp_path / "data" / "test-1").mkdir(parents=True)
    (tmp_path / "data" / "test-1" / "checks.json").write_text("the images")
    products = []
    for settled in ('{"positive_class": "a"}', '{"positive_class": "b"}'):
        (tmp_path / "data" / "settled.json").write_text(settled)
        products.append(marker.product(tmp_path))
    assert products[0] != products[1]


def test_quick_sees_sizes_alone(study):
    study.run()
    path = study.runs / "05_cell/phantom.vit_mini16.auto.s0.grad_cam/tables/x.csv"
    path.write_text("x" * path.stat().st_size)
    assert study.run("--quick") == (0, set())
    path.write_text("short")
    assert len(study.run("--quick")[1]) == 1


def test_a_failure_stops_nothing_else_and_is_listed(study, capsys):
    trained = "02_train/digits.vit_mini16.auto.s0"
    cell = "05_cell/phantom.vit_mini16.auto.s0.grad_cam"
    study.fail = {n: NotebookError(f"{n} failed in cell 2", "ValueError", "no luck") for n in (trained, cell)}
    status, ran = study.run()
    assert status == 1
    assert ran == {name for name in NAMES if not name.startswith("05_cell/digits")}
    out = capsys.readouterr().out
    assert f"failed: {cell}: ValueError: no luck ({study.runs}/plan/{cell}.log)" in out
    assert "not run: 05_cell/digits.vit_mini16.auto.s0.occlusion: 02_train/digits.vit_mini16.auto.s0 is not done" in out
    assert (study.runs / "failed" / cell / "notebooks/05_cell.failed.ipynb").exists()
    assert not (study.runs / "failed" / trained / "models").exists(), "large files of failures fill the disk"
    study.fail = {}
    assert study.run() == (0, {trained, cell, *(name for name in NAMES if name.startswith("05_cell/digits"))})
    assert not (study.runs / "failed").exists()


@pytest.mark.parametrize(
    ("error", "cause", "tried_again"),
    [
        (NotebookError("the kernel died", "DeadKernelError", "", broke_off=True), None, True),
        (NotebookError("no luck", "ValueError", ""), None, False),
        (NotebookError("No space left on device", "OSError", "", broke_off=True), OSError(28, "No space left"), False),
    ],
)
def test_only_a_dead_kernel_is_tried_again(study, error, cause, tried_again):
    """Snakemake starts a failed job once more, whatever it failed of."""
    name = "01_data/phantom.s0"
    error.__cause__ = cause
    study.fail = {name: error}
    assert study.run()[0] == 1
    study.ran.clear()
    study.fail = {}
    assert job.run_job(study.runs, name) == tried_again
    assert study.ran == [name] * tried_again
    assert (study.runs / name / "done.json").exists() == tried_again
    assert study.run()[0] == 0, "another batch does try"


def test_exclusions_grain_and_seeds(tmp_path):
    path = write_study(
        tmp_path, seeds=[0, 1], models=["vit_mini16", "efficientnet_lite0"], datasets=["phantom"],
        exclude=[{"model": "vit_mini16", "seed": 1}, {"method": "occlusion", "seed": [0]}],
    )  # fmt: skip
    matrix, problems = read_matrix(path)
    assert not problems
    names = {one.name for one in plan.jobs(matrix)}
    assert "02_train/phantom.vit_mini16.auto.s1" not in names
    assert "05_cell/phantom.vit_mini16.auto.s0.grad_cam" in names
    assert "05_cell/phantom.vit_mini16.auto.s0.occlusion" not in names
    assert "05_cell/phantom.efficientnet_lite0.auto.s1.occlusion" in names
    assert "05_cell/phantom.vit_mini16.auto.s1.grad_cam" not in names, "its model is left out"
    content = yaml.safe_load(path.read_text())
    content["notebooks"]["cells"] = [{"name": "05_cell", "grain": "model", "n_images": 7}]
    path.write_text(yaml.safe_dump(content))
    (one,) = [j for j in plan.jobs(read_matrix(path)[0]) if j.name == "05_cell/phantom.efficientnet_lite0.auto.s0"]
    assert one.parameters["methods"] == ["grad_cam"]
    assert one.parameters["n_images"] == 7
    assert [
        j.parameters["methods"]
        for j in plan.jobs(read_matrix(path)[0])
        if j.name.endswith("auto.s1") and j.kind == "cell"
    ] == [["grad_cam", "occlusion"]]


def test_all_problems_come_at_once_and_nothing_starts(study, capsys, monkeypatch):
    write_matrix(
        study.folder,
        nmae="x",
        grain="cell",
        datasets=[
            "phantoms",
            {"name": "mine", "dataset": "folder", "data_dir": str(study.folder / "nowhere")},
            {"name": "few", "dataset": "phantom", "data_options": {"tasks": "five"}, "n_train": "many"},
            {"name": "cut", "dataset": "phantom", "image_size": 72},
            {"name": "a.b", "dataset": "digits"},
        ],
        models=["vit_mini16", "vit_mini16", {"name": "big", "model": "vit_mini16", "n_train": 3}],
        methods=["gradcam", {"name": "occlusion", "patchsize": 3}, "cam"],
        recipes=["modern", "modem"],
        seeds=[0, -1, "x"],
        exclude=[{"methods": "grad_cam"}, {"model": "resnet50"}],
        common={"imagesize": 64, "faithfulness_steps": 3, "models": ["a"], "n_train": 10, "image_size": 64},
    )
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert study.run() == (2, set())
    said = capsys.readouterr().err
    for words in (
        "unknown key 'nmae'; did you mean name",
        "grain='cell' is unknown; ",
        "'phantoms' is no dataset; did you mean phantom",
        "datasets/mine: there is no folder",
        "datasets/few: data_options: phantom has no option 'tasks'; did you mean task",
        "datasets/few: n_train='many' is of type str",
        "datasets: 'a.b' is not a label",
        "image_size=72 is not a multiple of the patch size 16",
        "models: 'vit_mini16' is given twice",
        "models/big: n_train is one of the data",
        "'gradcam' is no method; did you mean grad_cam",
        "method 'occlusion' has no parameter 'patchsize'; did you mean patch_size",
        "cam cannot explain vit_mini16, a vit; add to exclude: {model: vit_mini16, method: [cam]}",
        "recipes: 'modem' is no recipe; did you mean modern",
        "seeds: -1 is not an integer from 0",
        "seeds: 'x' is not an integer from 0",
        "exclude: unknown axis 'methods'; did you mean method",
        "exclude: no model is named 'resnet50'",
        "common: unknown parameter 'imagesize'; did you mean image_size",
        "common: no notebook here takes the parameter 'faithfulness_steps'",
        "common: models is an axis of the matrix",
        "are needed below",
    ):
        assert words in said, words
    assert not (study.folder / "runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must hold 'name: value' lines"),
        ("datasets: [phantom", "cannot be read"),
        ("datasets: [phantom]\ndatasets: [digits]", "the key 'datasets' is given twice"),
    ],
)
def test_files_that_are_no_matrix(tmp_path, capsys, text, words):
    (tmp_path / "m.yml").write_text(text)
    assert command.main([str(tmp_path / "m.yml"), "--runs", str(tmp_path / "runs")]) == 2
    assert words in capsys.readouterr().err


def test_numbers_of_yaml(tmp_path):
    """PyYAML takes 1e-3 for a text, which the notebook would refuse in the middle of the night."""
    path = write_study(tmp_path)
    path.write_text(path.read_text() + "cell_hours: 1e-1\n")
    assert read_matrix(path)[0].cell_hours == 0.1


def test_too_little_disk_is_said_before(study, capsys, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3_000_000}))
    assert study.run() == (2, set())
    assert "MB are needed below" in capsys.readouterr().err


def test_a_finished_batch_needs_no_disk(study, capsys, monkeypatch):
    study.run()
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    capsys.readouterr()
    assert study.run("--dry-run") == (0, set())
    assert "8 jobs, 8 done, 0 to do" in capsys.readouterr().out
    assert study.run() == (0, set())
    (study.runs / "05_cell/phantom.vit_mini16.auto.s0.grad_cam/tables/x.csv").unlink()
    assert study.run("--dry-run") == (2, set()), "what is done again lies beside what it replaces"
    assert "to spare" in capsys.readouterr().err


MARKS = {
    "no object": lambda _: 7,
    "no key": lambda m: m | {"key": 3},
    "parameters": lambda m: m | {"key": m["key"] | {"parameters": [1]}},
    "seconds": lambda m: m | {"seconds": "3"},
    "nan": lambda m: m | {"seconds": float("nan")},
    "inputs": lambda m: m | {"key": m["key"] | {"inputs": None}},
    "files": lambda m: m | {"files": ["tables/x.csv"]},
    "entry": lambda m: m | {"files": {"tables/x.csv": 3}},
    "sizes": lambda m: m | {"files": {"tables/x.csv": ["3", "a"]}},
    "above": lambda m: m | {"files": {"../../../../m.yml": [3, "a"]}},
    "absolute": lambda m: m | {"files": {"/etc/passwd": [3, "a"]}},
    "NUL": lambda m: m | {"files": {"a\0b": [3, "a"]}},
    "digest": lambda m: m | {"key": m["key"] | {"notebook": {}}},
}


@pytest.mark.parametrize("name", [*MARKS, "deep", "bytes", "folder", "pipe", "a file in its place"])
def test_a_marker_that_is_none_is_named_and_its_cell_made_again(study, capsys, name):
    study.run()
    cell = "05_cell/phantom.vit_mini16.auto.s0.grad_cam"
    path = study.runs / cell / "done.json"
    held = json.loads(path.read_text())
    path.unlink()
    if name in MARKS:
        path.write_text(json.dumps(MARKS[name](held)))
    elif name in ("deep", "bytes"):
        path.write_bytes({"deep": b"[" * 200_000, "bytes": b"\xff\x00"}[name])
    elif name == "folder":
        (path / "in it").mkdir(parents=True)
    elif name == "pipe":
        os.mkfifo(path)
    else:
        shutil.rmtree(path.parent)
        path.parent.write_text("")
    capsys.readouterr()
    assert study.run() == (0, {cell})
    out = capsys.readouterr().out
    assert ("new" if name.startswith("a file") else "the marker is damaged") in out
    assert study.run() == (0, set())


def test_a_failure_that_cannot_be_read_stops_nothing(study, capsys):
    study.fail["05_cell/phantom.vit_mini16.auto.s0.grad_cam"] = NotebookError("no", "ValueError", "no")
    assert study.run()[0] == 1
    jobs = plan.jobs(read_matrix(study.matrix)[0])
    path = next((study.runs / "failed").rglob("failed.json"))
    for text in ("[]", "{}", '{"error": 3}', '{"error": null, "log": {}}', "[" * 100_000, "\0"):
        path.write_text(text)
        results = plan.outcomes(study.runs, jobs, plan.survey(study.runs, jobs))
        assert [r.status for r in results].count("done") == 7


def test_a_place_that_cannot_be_written_is_named(study, capsys):
    (study.folder / "full").write_text("a file")
    given = [str(study.matrix), "--runs", str(study.folder / "full" / "runs")]
    assert command.main(given) == 2
    assert "cannot be written (Not a directory); give another place by --runs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plan", "Failed", "report", "attempts", "lock", ".hidden", "two\nlines", "a{b}"])
def test_notebooks_whose_folder_would_be_the_batchs_own(study, capsys, name):
    write_notebook(study.folder / f"{name}.ipynb", *NOTEBOOKS["05_cell"])
    notebooks = {"folder": ".", "data": "01_data", "train": "02_train", "cells": [name]}
    write_matrix(study.folder, notebooks=notebooks)
    assert study.run() == (2, set())
    assert "cannot be a folder of the batch" in capsys.readouterr().err


def test_the_estimate_is_a_bound_for_what_is_left(study):
    jobs = plan.jobs(read_matrix(study.matrix)[0])
    data, train = jobs[0], next(j for j in jobs if j.kind == "train")
    assert preflight.estimate(data) >= 10 * 64 * 64 * 4
    assert preflight.estimate(train) >= 4 * preflight.n_weights("vit_mini16", 64)
    study.run()
    state = plan.survey(study.runs, jobs)
    assert preflight.disk_needed(jobs, state) == 0
    assert sum(state.bytes.values()) > 0


def test_a_dry_run_changes_nothing(study, capsys):
    assert study.run("--dry-run") == (0, set())
    out = capsys.readouterr().out
    assert "8 jobs, 0 done, 8 to do" in out
    assert "new files: " in out
    assert not (study.folder / "runs").exists()


def test_a_second_batch_refuses_or_waits(study, capsys):
    with marker.lock(study.runs / "lock", str(study.runs)):
        assert study.run() == (3, set())
        said = capsys.readouterr().err
        assert "is in use by process" in said
        assert "--wait" in said
    holder = marker.lock(study.runs / "lock", str(study.runs))
    holder.__enter__()
    timer = threading.Timer(2, lambda: holder.__exit__(None, None, None))
    timer.start()
    assert study.run("--wait") == (0, NAMES)
    assert not timer.is_alive()
    assert "waiting: " in capsys.readouterr().out
    assert study.run() == (0, set()), "the lock is given back"


def test_what_killed_jobs_left_is_swept_but_not_what_is_at_work(tmp_path):
    (tmp_path / "attempts" / "dead").mkdir(parents=True)
    (tmp_path / "attempts" / "dead" / "lock").write_text("process 1")
    with marker.lock(tmp_path / "attempts" / "alive" / "lock", "alive"):
        command.sweep(tmp_path)
        assert [p.name for p in (tmp_path / "attempts").iterdir()] == ["alive"]


def test_gpus_are_given_one_to_a_process(monkeypatch, tmp_path):
    monkeypatch.setattr(job.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with job.gpus_taken(2, 1) as first, job.gpus_taken(2, 1) as second:
        assert {first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]} == {"0", "1"}
    with job.gpus_taken(2, 2) as both:
        assert both == {"CUDA_VISIBLE_DEVICES": "0,1"}
    with job.gpus_taken(2, 0) as none:
        assert none == {"CUDA_VISIBLE_DEVICES": "-1"}
    with job.gpus_taken(None, 1) as cluster:
        assert cluster == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with job.gpus_taken(1, 1) as given:
        assert given == {"CUDA_VISIBLE_DEVICES": "3"}


@pytest.mark.parametrize("given", [["--engine", "plain"], ["--engine=auto"]])
def test_an_option_that_is_gone_says_what_to_use(study, capsys, given):
    with pytest.raises(SystemExit) as stopped:
        study.run(*given)
    assert stopped.value.code == 2
    assert "--engine does not exist any more" in capsys.readouterr().err


def test_training_on_all_gpus_asks_for_all(tmp_path):
    path = write_study(tmp_path, common={"image_size": 64})
    (one, *_) = [j for j in plan.jobs(read_matrix(path)[0]) if j.kind == "train"]
    assert one.gpus(4) == 1
    assert plan.Job(**{**one.__dict__, "parameters": {"devices": "all"}}).gpus(4) == 4
    assert one.gpus(0) == 0


@pytest.mark.parametrize("name", ["smoke", "thesis"])
def test_shipped_matrices_are_right(name):
    matrix, problems = read_matrix(ROOT / "matrices" / f"{name}.yml")
    assert not problems
    jobs = plan.jobs(matrix)
    sizes = len(matrix.datasets), len(matrix.models), len(matrix.methods), len(matrix.common["transforms"])
    assert sizes == ((2, 2, 3, 3) if name == "smoke" else (4, 2, 8, 7))
    kinds = Counter(one.name.split("/")[0] for one in jobs)
    d, m, k, _ = sizes
    cells = {"smoke": (d * m - 2, d * m), "thesis": (d * m, d * m * k)}[name]
    assert list(kinds.values()) == [d, d * m, *cells]
    assert list(kinds)[-2:] == ["04_qualitative_comparison", "05_quantitative_comparison"]


def test_the_code_that_decides_each_kind_exists():
    for names in plan.CODE.values():
        for name in names:
            assert (plan.PACKAGE / name).exists(), name
    assert plan.code_version("data") != plan.code_version("cell")


# What words, writes, checks names and shows progress, and no result.
NO_RESULT = {"files", "progress", "registry", "templates", "text", "yaml_text", "xaiutils", "__version__"}


@pytest.mark.parametrize("kind", plan.CODE)
def test_what_the_code_of_a_kind_imports_decides_it_too(kind):
    """But for the folder of the notebooks' start, which knows all registries to check the names in parameters."""
    decides = {name.removesuffix(".py") for name in plan.CODE[kind]}
    imported = set()
    for name in set(plan.CODE[kind]) - {"workbook"}:
        path = plan.PACKAGE / name
        for source in path.rglob("*.py") if path.is_dir() else [path]:
            text = source.read_text(encoding="utf-8")
            imported |= set(re.findall(r"^ *from xaiutils\.(\w+)", text, re.MULTILINE))
            for names in re.findall(r"^ *from xaiutils import (.+)", text, re.MULTILINE):
                imported |= {part.split()[0] for part in names.split(",")}
    assert imported - decides <= NO_RESULT


TRAIN_TWICE = """
import sys, numpy as np, keras
from keras import layers
path, seed, shared = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "shared"
keras.utils.set_random_seed(seed)
junk = [object() for _ in range(int(sys.argv[4]))]  # other addresses
inputs = keras.Input((8, 8, 1))
one = keras.initializers.GlorotUniform(seed=1)
other = one if shared else keras.initializers.GlorotUniform(seed=1)
x = layers.Conv2D(2, 3, kernel_initializer=one)(inputs)
x = layers.Conv2D(2, 3, kernel_initializer=other)(x)
model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
model.compile("adam", "mse")
model.fit(np.ones((4, 8, 8, 1)), np.ones((4, 2)), verbose=0)
model.save(path)
"""


def test_a_model_trained_again_is_the_same_in_another_process(tmp_path):
    """Real files: their archives hold times, and memory addresses where an object is shared between layers."""
    made = {"first": (0, "shared", 10), "again": (0, "shared", 40_000), "other": (1, "shared", 10),
            "apart": (0, "not shared", 10)}  # fmt: skip
    running, files = [], {}
    for name, values in made.items():
        files[name] = tmp_path / name / "models" / "a" / "model.keras"
        files[name].parent.mkdir(parents=True)
        call = [sys.executable, "-c", TRAIN_TWICE, str(files[name]), *map(str, values)]
        running.append(subprocess.Popen(call, stderr=subprocess.DEVNULL))
        time.sleep(1.1)  # seconds are the finest time that the files note
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    configs = {name: zipfile.ZipFile(path).read("config.json") for name, path in files.items()}
    assert b"shared_object_id" in configs["first"]
    assert configs["first"] != configs["again"], "the addresses are the same by chance; the test shows nothing"
    products = {name: marker.product(tmp_path / name) for name in made}
    assert products["first"] == products["again"]
    assert len(set(products.values())) == 3, "other weights, or other objects that are shared, are another model"


def test_a_damaged_model_file_has_a_digest_of_its_bytes(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    for number, held in enumerate((whole[:500], b"no archive", b"")):
        path = tmp_path / f"{number}.keras"
        path.write_bytes(held)
        assert marker.model_digest(path) == marker.sha256(path)


def test_what_changes_no_result_computes_nothing(study):
    """Words, outputs and counts of notebooks; comments and the order of keys in the matrix."""
    study.run()
    for path in study.folder.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["author"] = "me"
        for number, cell in enumerate(notebook.cells):
            cell.metadata["collapsed"], cell.execution_count = True, number
            cell.outputs = [nbformat.v4.new_output("stream", text="an output")]
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell("words"))
        nbformat.write(notebook, path)
    content = yaml.safe_load(study.matrix.read_text())
    content["common"] = dict(reversed(content["common"].items()))
    study.matrix.write_text("# a comment\n" + yaml.safe_dump(dict(reversed(content.items())), sort_keys=False))
    assert study.run() == (0, set())


def test_the_profile_is_yaml_that_names_the_rules():
    profile = yaml.safe_load((ROOT / "matrices" / "profiles" / "slurm" / "config.yaml").read_text())
    assert profile["executor"] == "slurm"
    snakefile = Path(command.__file__).with_name("Snakefile").read_text()
    rules = set(re.findall(r"^(?:use rule \w+ as|rule) (\w+)", snakefile, re.MULTILINE))
    assert {"data", "train", "cell"} <= rules
    assert {entry.split(":")[0] for entry in profile["set-resources"]} <= rules


def test_a_notebook_of_a_batch_uses_the_data_and_models_of_the_stages(tmp_path, monkeypatch):
    from xaiutils import workbook

    monkeypatch.setenv("XAI_RUNS", str(tmp_path / "cells"))
    monkeypatch.setenv("XAI_BATCH_DATA", str(tmp_path / "prepared"))
    monkeypatch.setenv("XAI_BATCH_MODELS", str(tmp_path / "trained"))
    given = {"dataset": "phantom", "data_dir": "", "data_options": {}, "image_size": 32, "n_test": 4, "seed": 0}
    run = workbook.start("05_x", {**given, "run_name": "phantom.a.auto.s0.grad_cam"})
    assert run.folder == tmp_path / "cells" / "phantom.a.auto.s0.grad_cam"
    ds = run.dataset("test")
    assert list((tmp_path / "prepared").glob("test-*/pixels.npy"))
    assert run.model_folder("a") == tmp_path / "trained" / "a"
    maps = {"grad_cam": np.linspace(-1, 1, ds.images.size // 3, dtype=np.float32).reshape(ds.images.shape[:3])}
    run.save_maps("grid", maps, ds.ids, ds.images)
    kept = run.load_maps("grid")
    assert kept["images"].dtype == np.uint8
    np.testing.assert_array_equal(kept["images"], np.clip(ds.images, 0, 255).astype(np.uint8))
    np.testing.assert_allclose(kept["grad_cam"], maps["grad_cam"], atol=1e-3)
    assert sorted(p.name for p in run.folder.iterdir()) == ["maps", "record"]


def test_names_of_classes_in_a_matrix_are_texts(tmp_path):
    from xaiutils.batch.matrix import read_matrix

    (tmp_path / "m.yml").write_text(
        "name: m\ndatasets:\n- {name: d, dataset: folder, data_dir: ., data_options: {classes: [no, yes, 1.0, null]}}\n"
        "models: [efficientnet_lite0]\nrecipes: [modern]\nmethods: [grad_cam]\n"
    )
    matrix, _ = read_matrix(tmp_path / "m.yml")
    assert matrix.datasets[0].parameters["data_options"]["classes"] == ["no", "yes", "1.0", "null"]


@pytest.mark.parametrize(("left_out", "words"), [("data", "takes its data"), ("train", "explains the models")])
def test_a_stage_that_later_notebooks_need_cannot_be_left_out(left_out, words, tmp_path):
    matrix = {"datasets": ["phantom"], "models": ["vit_mini16"], "methods": ["grad_cam"]}
    (tmp_path / "m.yml").write_text(yaml.safe_dump(matrix | {"notebooks": {left_out: None}}))
    problems = read_matrix(tmp_path / "m.yml")[1]
    assert any(f"{left_out} is null, but 05_quantitative_comparison {words}" in line for line in problems)
