"""The report of a matrix: its tables, ranks and grids from the cells' files, and its filters in a browser."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study

from xaiutils.batch import marker, plan, report
from xaiutils.batch.matrix import read_matrix
from xaiutils.evaluation import summarise
from xaiutils.files import write_text

QUALITY = {"grad_cam": 0.6, "occlusion": 0.3, "smooth": 0.1, "random": 0.05}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A batch of two data sets, two models and three methods, of which one cell failed and one has not run; its folder
    and jobs."""
    folder = tmp_path_factory.mktemp("study")
    methods = ["grad_cam", "occlusion", {"name": "smooth", "method": "smoothgrad", "n_samples": 2}]
    path = write_study(folder, models=["vit_mini16", "efficientnet_lite0"], methods=methods)
    jobs = plan.jobs(read_matrix(path)[0])
    batch = folder / "runs" / "m"
    for one in jobs[:-2]:
        place = batch / one.name
        write_text(place / "notebooks" / f"{one.name.split('/')[0]}.ipynb", "{}")
        {"train": leave_model, "cell": leave_scores}.get(one.kind, lambda *_: None)(place, one)
        key = {"parameters": {}, "notebook": "", "code": "", "inputs": {}}
        facts = {"key": key, "product": "", "files": marker.checksums(place), "seconds": 3.0, "peak_mb": 900}
        write_text(place / marker.DONE, json.dumps(facts))
    failure = '{"error": "ValueError: <no> luck", "log": "/logs/x.log", "message": "", "at": ""}'
    write_text(batch / "failed" / jobs[-2].name / "failed.json", failure)
    report.write_report(batch, ended(batch, jobs))
    return batch, jobs


def ended(batch, jobs):
    """The outcomes, where all jobs are done except the last two."""
    return plan.outcomes(batch, jobs, plan.State(dict.fromkeys((jobs[-2].name, jobs[-1].name), "new"), frozenset()))


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
    batch, jobs = finished
    page = (batch / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//|url\(["']?https?:|import\s+["']https?:""", page)
    assert "0.950 [0.800, 1.000]" in page
    assert f"{len(jobs) - 2} of {len(jobs)} jobs done" in page
    assert "ValueError: &lt;no&gt; luck" in page
    assert "/logs/x.log" in page
    links = re.findall(r'<a href="([^"#]+)"', page)
    assert len(links) == 8 + len(jobs) - 2, "figures and executed notebooks"
    for link in links:
        assert (batch / link).exists(), link
    assert page.count("<option>") == 2 + 2 + 3
    assert "show_summary" not in page, "the cells' code is hidden"
    assert len(re.findall('<img [^>]*src="data:image/', page)) == 8, "ranks and a grid of each data set and model"


def test_tables_hold_every_cell_once(finished):
    batch, jobs = finished
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
    batch, _ = finished
    best = pd.read_csv(batch / "report" / "best.csv")
    whole = best[(best["dataset"] == "phantom")]
    assert len(whole) == 4
    assert set(whole.loc[whole["metric"] == "iou", "best"]) == {"grad_cam"}
    assert set(whole.loc[whole["metric"] == "deletion_auc", "best"]) == {"smooth"}, (
        "lower is better; random is no method"
    )
    assert whole["not distinguished from the first"].isna().all(), "they differ on every image"


def test_grids_hold_the_methods_of_all_cells(finished):
    batch, _ = finished
    page = (batch / "report.html").read_text()
    figures = [dict(re.findall(r'data-(\w+)="([^"]*)"', tag)) for tag in re.findall("<figure [^>]*>", page)]
    methods = "grad_cam occlusion smooth"
    assert {"dataset": "phantom", "model": "vit_mini16", "method": methods} in figures
    figures = re.findall('href="report/grid_', page)
    assert len(figures) == 4


def test_rows_of_a_grid_say_the_probability(finished):
    batch, jobs = finished
    cell = next(one for one in jobs if one.kind == "cell")
    titles = report.row_titles(report.Batch(batch), cell, np.array(["original", "rotate_180", "other"]))
    assert titles == ["Original\np = 0.47", "Rotation by 180°\np = 0.90", "other"]


def test_the_markdown_file_shows_the_same(finished):
    batch, _ = finished
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
    """A log's words; a job's table that is a link to another file."""
    batch, jobs = finished
    copy = tmp_path / "m"
    shutil.copytree(batch, copy)
    place = copy / next(one.name for one in jobs if one.kind == "train")
    secret = tmp_path / "secret.csv"
    secret.write_text("model,level,n,accuracy\nvit_mini16,image,1,0.123\n")
    (place / "tables" / "classification.csv").unlink()
    (place / "tables" / "classification.csv").symlink_to(secret)
    error = "<b>|`$x_{$`\n# no [link](javascript:alert(1))"
    (copy / "failed" / jobs[-2].name / "failed.json").write_text(json.dumps({"error": error, "log": "<i>"}))
    report.write_report(copy, ended(copy, jobs))
    page, text = (copy / "report.html").read_text(), (copy / "report.md").read_text()
    assert "0.123" not in page
    assert "<b>" not in page
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
def test_a_damaged_file_is_named_and_costs_nothing_else(finished, tmp_path, kind, file, content):
    batch, jobs = finished
    copy = tmp_path / "m"
    shutil.copytree(batch, copy)
    one = next(job for job in jobs if job.kind == kind and (copy / job.name / file).exists())
    (copy / one.name / file).write_bytes(content)
    found = report.Batch(copy)
    tables = [report.models_table(found), *(report.collect(found, f"metrics{end}.csv") for end in ("", "_summary"))]
    grids = report.grid_figures(found)
    hurt = report.not_done(found).query("status == 'damaged'")
    assert hurt["job"].tolist() == [one.name]
    assert f"{file} is damaged" in hurt["error"].item()
    whole = [4, 10 * 24 + 4 * 24, 10 * 2 + 4 * 2]
    lost = [len(table) < n for table, n in zip(tables, whole, strict=True)]
    assert sum(lost) == (not file.startswith("maps"))
    assert len(grids) == 4


def test_a_batch_of_which_nothing_is_done(finished, tmp_path):
    _, jobs = finished
    state = plan.State(dict.fromkeys([one.name for one in jobs], "new"), frozenset())
    page = report.write_report(tmp_path, plan.outcomes(tmp_path, jobs, state)).read_text()
    assert "No model has been trained yet" in page
    assert f"0 of {len(jobs)} jobs done" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_filters_in_a_browser(finished):
    sync_api = pytest.importorskip("playwright.sync_api")
    batch, _ = finished
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(offline=True)
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((batch / "report.html").as_uri())
        rows, grids = (
            page.locator("table.filtered tbody tr:visible"),
            page.locator('figure:has([href*="/grid"]):visible'),
        )
        everything = rows.count()
        assert grids.count() == 4
        page.select_option("select[data-axis=dataset]", "digits")
        assert 0 < rows.count() < everything
        assert "phantom" not in "".join(page.locator("table.filtered:has-text('seconds') tr:visible").all_inner_texts())
        page.select_option("select[data-axis=model]", "vit_mini16")
        assert grids.count() == 1
        page.select_option("select[data-axis=method]", "occlusion")
        shown = page.locator("table.filtered:has-text('seconds') tbody tr:visible").all_inner_texts()
        assert ["occlusion" in text for text in shown if "05_cell" in text] == [True]
        for axis in ("dataset", "model", "method"):
            page.select_option(f"select[data-axis={axis}]", "")
        assert rows.count() == everything
        assert not errors
        browser.close()
