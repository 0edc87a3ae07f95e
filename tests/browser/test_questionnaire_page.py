"""The questionnaire of a reader study, opened and answered in a real browser, and read back."""

import shutil

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.evaluation.readers.answers import read_answers
from xaiutils.evaluation.readers.design import reading_design
from xaiutils.workbook.questionnaire import export_questionnaire

pytestmark = pytest.mark.timeout(120)
CLASSES = ("benign", "malignant")


def test_a_reader_answers_and_both_files_are_read_back(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium (Debian: apt install chromium)")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    ds = xai.ImageDataset(pixels, np.array([0, 1]), CLASSES, ["a", "b"])
    maps = {kind: pixels.mean(axis=-1).astype(np.float32) for kind in ("model", "random_weights")}
    design = reading_design(ds.ids, 2, repeats=0.5)
    made = export_questionnaire(tmp_path, design, ds, ["benign", "malignant"], maps, findings=["mass", 'a "rim"'])
    own = design[design["reader"] == "R2"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page, asked, errors = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(made.as_uri())
        page.click("#begin")
        assert page.is_visible("#start")  # not without consent
        page.check("#consent")
        page.select_option("#reader", "R2")
        page.click("#begin")
        for k, row in enumerate(own.itertuples()):
            if page.is_visible("#pause"):
                assert "Save your answers now. Continue after 14 days" in page.inner_text("#said")
                page.click("#go")
            _answer(page, row, k)
            if k == 2:  # the browser goes on where it was left
                page.reload()
                page.check("#consent")
                page.select_option("#reader", "R2")
                page.click("#begin")
        assert page.is_visible("#scale")
        page.click("#scale button")
        assert page.inner_text("#lacking") == "Question 1 has no answer."
        for k in range(10):
            page.check(f"#scale input[name=q{k}][value='4']")
        page.click("#scale button")
        files = []
        for kind in ("json", "csv"):
            with page.expect_download() as download:
                page.click(f"#{kind}")
            files.append(tmp_path / f"R2.{kind}")
            download.value.save_as(files[-1])
        browser.close()
    assert not errors
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    found = [read_answers([file], design, CLASSES, complete=False) for file in files]
    pd.testing.assert_frame_equal(found[0].table, found[1].table)
    table = found[0].table
    assert table["trial"].tolist() == own["trial"].tolist()
    assert table["diagnosis"].tolist() == [CLASSES[k % 2] for k in range(len(own))]
    assert table["confidence"].tolist() == [51 + k for k in range(len(own))]
    assert table["agreement"].dropna().tolist() == [2.0] * int((own["map"] != "").sum())
    assert set(table["findings"]) == {('a "rim"',)}
    assert found[1].causability.to_numpy().tolist() == [["R2", 0.8]]
    for region in table[table["arm"] == "image"]["region"]:
        ((first, *_, last),) = region
        np.testing.assert_allclose([first, last], [[0.25, 0.25], [0.25, 0.75]], atol=0.02)
    assert table[table["arm"] != "image"]["region"].isna().all()


def _answer(page, row, k):
    """Answer one reading: of the ``k``-th, the confidence is 51 + k; a square is drawn where a region is asked for."""
    assert page.is_visible("#reading")
    assert page.locator("#pictures img").count() == 1 + (row.map != "")
    assert ("The computer says" in page.inner_text("#items")) == (row.arm != "image")
    page.click("#next")
    assert page.inner_text("#missing").startswith("Missing: your diagnosis, how sure you are")
    page.check(f"input[name=diagnosis][value={CLASSES[k % 2]}]")
    page.focus("input[name=confidence]")
    for _ in range(1 + k):
        page.keyboard.press("ArrowRight")
    page.check("input[name=findings] >> nth=1")
    if row.map:
        page.check("input[name=agreement][value='2']")
    if row.arm == "image":
        box = page.locator(".frame svg").bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in _SQUARE]
        page.mouse.move(*at[0])
        page.mouse.down()
        for place in at[1:]:
            page.mouse.move(*place)
        page.mouse.up()
    page.click("#next")


_SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
