"""The report of a matrix: its tables, ranks and grids from the cells' files, and its filters in a browser."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from PIL import Image

from xaiutils.batch import plan, store
from xaiutils.batch.matrix import read_matrix
from xaiutils.batch.outcome import outcomes
from xaiutils.batch.report import _row_titles, write_report
from xaiutils.evaluation import summarise
from xaiutils.files import write_text

QUALITY = {"grad_cam": 0.6, "occlusion": 0.3, "smooth": 0.1, "random": 0.05}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A batch of two data sets, two models and three methods, of which one cell failed and one has not run; its folder,
    jobs and outcomes."""
    folder = tmp_path_factory.mktemp("study")
    methods = ["grad_cam", "occlusion", {"name": "smooth", "method": "smoothgrad", "n_samples": 2}]
    path = write_study(folder, models=["vit_mini16", "efficientnet_lite0"], methods=methods)
    jobs = plan.jobs(read_matrix(path)[0])
    batch = folder / "runs" / "m"
    for one in jobs[:-2]:
        place = batch / one.name
        write_text(place / "notebooks" / f"{one.name.split('/')[0]}.ipynb", "{}")
        {"train": leave_model, "cell": leave_scores}.get(one.kind, lambda *_: None)(place, one)
        marker = dict.fromkeys(("notebook_digest", "code", "product", "data_files"), "")
        marker |= {"parameters": {}, "inputs": {}, "files": store.checksums(place), "seconds": 3.0, "peak_mb": 900}
        write_text(place / store.DONE, json.dumps(marker))
    failure = '{"error": "ValueError: <no> luck", "log": "/logs/x.log", "message": "", "at": ""}'
    write_text(batch / "failed" / jobs[-2].name / "failed.json", failure)
    results = outcomes(batch, jobs)
    write_report(batch, jobs, results)
    return batch, jobs, results


def leave_model(place, job):
    row = {"level": "image", "model": job.parameters["models"][0], "n": 20, "accuracy": 0.9, "accuracy low": 0.7}
    row |= {"accuracy high": 0.97, "AUC": 0.95, "AUC low": 0.8, "AUC high": 1.0}
    always = {"level": "image", "model": "always 'benign'", "n": 20, "accuracy": 0.55}
    (place / "tables").mkdir(parents=True)
    pd.DataFrame([row, always]).to_csv(place / "tables" / "classification.csv", index=False)


def leave_scores(place, job):
    (method,), (model,) = job.parameters["methods"], job.parameters["models"]
    rng = np.random.default_rng(3)
    rows = [
        (model, name, f"image{i}", metric, QUALITY[name] + 0.02 * rng.normal())
        for name in (method, "random")
        for metric in ("iou", "deletion_auc")
        for i in range(12)
    ]
    scores = pd.DataFrame(rows, columns=["model", "method", "image_id", "metric", "value"])
    (place / "tables").mkdir(parents=True)
    scores.to_csv(place / "tables" / "metrics.csv", index=False)
    summarise(scores, ["model", "method", "metric"]).to_csv(place / "tables" / "metrics_summary.csv", index=False)
    answers = {"transform": ["original", "rotate_180"], "p of the original's class": [0.46622145, 0.9]}
    pd.DataFrame(answers).to_csv(place / "tables" / "grid_predictions.csv", index=False)
    (place / "maps").mkdir()
    maps = {method: np.full((2, 64, 64), 0.5, np.float16), f"{method}_scale": np.ones(2, np.float32)}
    images = np.full((2, 64, 64, 3), 99, np.uint8)
    np.savez(place / "maps" / f"grid_{model}.npz", ids=["original", "rotate_180"], images=images, **maps)


def test_the_page_opens_offline_and_says_everything(finished):
    batch, jobs, _ = finished
    page = (batch / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", ""), "the report must open offline"
    assert "0.950 [0.800, 1.000]" in page
    assert f"{len(jobs) - 2} of {len(jobs)} jobs done" in page
    assert "ValueError: &lt;no&gt; luck" in page
    assert "/logs/x.log" in page
    for link in re.findall(r'<a href="([^"#]+)"', page):
        assert (batch / link).exists(), link
    assert page.count("<option>") == 2 + 2 + 3
    assert page.count("data:image/") == 8, "ranks and a grid of each data set and model"


def test_tables_hold_every_cell_once(finished):
    batch, jobs, _ = finished
    models = pd.read_csv(batch / "report" / "models.csv")
    assert len(models) == 4
    assert (models["accuracy of one class"] == 0.55).all()
    assert (models["AUC low"] == 0.8).all()
    scores = pd.read_csv(batch / "report" / "scores.csv")
    keys = ["dataset", "model", "method", "metric"]
    assert not scores.duplicated(keys).any(), "controls of every cell are the same"
    assert len(scores) == (10 + 4) * 2, "ten cells and the control of four models, two metrics"
    assert len(pd.read_csv(batch / "report" / "cells.csv")) == len(jobs)


def test_the_best_method_is_the_better_one_in_its_direction(finished):
    batch, _, _ = finished
    best = pd.read_csv(batch / "report" / "best.csv")
    whole = best[(best["dataset"] == "phantom")]
    assert len(whole) == 4
    assert set(whole.loc[whole["metric"] == "iou", "best"]) == {"grad_cam"}
    assert set(whole.loc[whole["metric"] == "deletion_auc", "best"]) == {"smooth"}, (
        "lower is better; random is no method"
    )
    assert whole["not told apart from the first"].isna().all(), "they differ on every image"


def test_grids_hold_the_methods_of_all_cells(finished):
    batch, _, _ = finished
    page = (batch / "report.html").read_text()
    figures = re.findall(
        r'<figure data-dataset="(\w+)" data-model="(\w+)" data-method="([\w ]*)"><a href="report/grid', page
    )
    assert ("phantom", "vit_mini16", "grad_cam occlusion smooth") in figures
    assert len(figures) == 4


def test_rows_of_a_grid_say_the_probability(finished):
    batch, jobs, _ = finished
    place = batch / next(one.name for one in jobs if one.kind == "cell")
    titles = _row_titles(place, np.array(["original", "rotate_180", "other"]))
    assert titles == ["Original\np = 0.47", "Rotation by 180°\np = 0.90", "other"]


def test_the_markdown_file_shows_the_same(finished):
    batch, _, _ = finished
    text = (batch / "report.md").read_text()
    for part in (
        "## Models",
        "## Best methods by metric",
        "## Scores",
        "## Not done",
        "ValueError: &lt;no> luck",
        "0.55",
    ):
        assert part in text, part
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (batch / target).exists(), target
    widths = {
        line.count(" | ") for line in text.split("## Scores")[1].split("##")[0].splitlines() if line.startswith("|")
    }
    assert len(widths) <= 2, "rows of different lengths"


def test_strange_text_and_files_of_others_in_the_report(finished, tmp_path):
    """Ids of digits and names that look like nothing; a log's words; a job's files that are links to somebody's."""
    batch, jobs, _ = finished
    copy = tmp_path / "m"
    shutil.copytree(batch, copy)
    place = copy / next(one.name for one in jobs if one.kind == "train")
    secret = tmp_path / "secret.csv"
    secret.write_text("model,level,n,accuracy\nvit_mini16,image,1,0.123\n")
    (place / "tables" / "classification.csv").unlink()
    (place / "tables" / "classification.csv").symlink_to(secret)
    cell = copy / next(one.name for one in jobs if one.kind == "cell")
    shutil.rmtree(cell / "maps")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "grid_secret.png")
    marker = json.loads((cell / store.DONE).read_text())
    (cell / "figures").mkdir()
    (cell / "figures" / "grid_x.png").symlink_to(tmp_path / "grid_secret.png")
    marker["files"] |= {"figures/grid_x.png": [1, "a"]}
    (cell / store.DONE).write_text(json.dumps(marker))
    error = "<b>|`$x_{$`\n# no [link](javascript:alert(1))"
    (copy / "failed" / jobs[-2].name / "failed.json").write_text(json.dumps({"error": error, "log": "<i>"}))
    write_report(copy, jobs, outcomes(copy, jobs))
    page, text = (copy / "report.html").read_text(), (copy / "report.md").read_text()
    assert "0.123" not in page
    assert "grid_x" not in page
    assert "<b>" not in page.replace("<body>", "")
    assert "<b>" not in text
    assert "<i>" not in text
    (row,) = [line for line in text.splitlines() if "no [link\\](" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "\\$x" in row
    assert "\\`" in row


@pytest.mark.parametrize(
    ("kind", "file", "content"),
    [
        ("cell", "tables/metrics.csv", b"\xff\x00\x9f"),
        ("cell", "tables/metrics.csv", b""),
        ("cell", "tables/metrics.csv", b"model,method,metric,image_id,value\nm,grad_cam,iou,a,many\n"),
        ("cell", "tables/metrics_summary.csv", b"model,method,metric\nm,grad_cam,iou\n"),
        ("train", "tables/classification.csv", b"model,n,accuracy\nvit_mini16,20,good\n"),
        ("cell", "maps/grid_vit_mini16.npz", b"PK\x03\x04"),
    ],
)
def test_a_damaged_file_costs_the_report_that_job_alone(finished, tmp_path, kind, file, content):
    batch, jobs, _ = finished
    copy = tmp_path / "m"
    shutil.copytree(batch, copy)
    one = next(job for job in jobs if job.kind == kind and (copy / job.name / file).exists())
    (copy / one.name / file).write_bytes(content)
    results = outcomes(copy, jobs)
    write_report(copy, jobs, results)
    (hurt,) = [r for r in results if r.status == "damaged"]
    assert hurt.job is one
    assert file in hurt.error
    page, text = (copy / "report.html").read_text(), (copy / "report.md").read_text()
    assert f"{len(jobs) - 3} of {len(jobs)} jobs done" in page
    assert f"{file} is damaged" in page
    assert "is damaged" in text


def test_without_pictures_no_image_is_shown(finished, tmp_path):
    batch, jobs, results = finished
    shutil.copytree(batch, tmp_path / "m")
    write_report(tmp_path / "m", jobs, results, pictures=False)
    assert (tmp_path / "m" / "report.html").read_text().count("data:image/") == 4


def test_a_batch_of_which_nothing_is_done(finished, tmp_path):
    _, jobs, _ = finished
    write_report(tmp_path, jobs, outcomes(tmp_path, jobs))
    page = (tmp_path / "report.html").read_text()
    assert "No model has been trained yet" in page
    assert f"0 of {len(jobs)} jobs done" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_filters_in_a_browser(finished):
    sync_api = pytest.importorskip("playwright.sync_api")
    batch, _, _ = finished
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(offline=True)
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((batch / "report.html").as_uri())
        rows, grids = page.locator("tbody tr[data-dataset]:visible"), page.locator(".grids figure:visible")
        everything = rows.count()
        assert grids.count() == 4
        page.select_option("select[data-axis=dataset]", "digits")
        assert 0 < rows.count() < everything
        assert set(rows.evaluate_all("found => found.map(r => r.dataset.dataset)")) == {"digits"}
        page.select_option("select[data-axis=model]", "vit_mini16")
        assert grids.count() == 1
        page.select_option("select[data-axis=method]", "occlusion")
        assert set(rows.evaluate_all("found => found.map(r => r.dataset.method)")) == {"occlusion", ""}
        for axis in ("dataset", "model", "method"):
            page.select_option(f"select[data-axis={axis}]", "")
        assert rows.count() == everything
        assert not errors
        browser.close()
