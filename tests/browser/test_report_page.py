"""The report of a run in a real browser: its first screen, its width, what it fetches, and on paper."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaiutils.workbook.html_report import write_report

pytestmark = pytest.mark.timeout(120)
TEXT = "# A head\n\n**Bold** ![x](https://example.org/x.png) <img src=https://example.org/y.png>\n\n"
TEXT += f"|{'a wide column |' * 40}\n|{'- |' * 40}\n|{'1 |' * 40}\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run of four notebooks, with pictures that compress badly and a table of many columns."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium (Debian: apt install chromium)")
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    for name in ("record", "tables", "figures"):
        (folder / name).mkdir()
    score = {"value": 0.9, "low": 0.8, "high": 0.95}
    rows = [{"level": "image", "model": "net", "n": 50, **_ends(score)}]
    rows += [{"level": "image", "model": "always 'a'", "n": 50, **_ends({"value": 0.5, "low": np.nan, "high": np.nan})}]
    pd.DataFrame(rows).to_csv(folder / "tables" / "classification.csv", index=False)
    pd.DataFrame(rng.random((200, 40))).to_csv(folder / "tables" / "wide.csv", index=False)
    (folder / "in_words.md").write_text(TEXT)
    for k in range(4):
        noise = rng.integers(0, 256, (900, 1000, 3)).astype(np.uint8)
        file = f"figures/{'grid_' * (k == 2)}{k}.png"
        Image.fromarray(noise).save(folder / file, compress_level=1)
        files = [file, "figures/again.png"] if k == 3 else [file]
        items = [("figure", file) for file in files]
        items += [("table", "tables/classification.csv"), ("table", "tables/wide.csv"), ("text", "in_words.md")]
        facts = {"notebook": f"0{k + 1}_part", "parameters": {"dataset": "phantom"}, "seconds": 3.0, "finished": True}
        facts |= {"items": [{"kind": kind, "file": file, "caption": file} for kind, file in items]}
        facts |= {"environment": {"versions": {}}}
        (folder / "record" / f"0{k + 1}.json").write_text(json.dumps(facts))
    shutil.copy(folder / "figures" / "0.png", folder / "figures" / "again.png")
    report = write_report(folder)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        made = browser.new_page(viewport={"width": 1280, "height": 900})
        made.asked = []
        made.on("request", lambda request: made.asked.append(request.url))
        made.goto(report.as_uri())
        made.report = report
        yield made
        browser.close()


def _ends(score):
    return {f"balanced accuracy {name}".removesuffix(" value"): value for name, value in score.items()}


def test_the_first_screen_answers_and_leads_to_what_shows_it(page):
    summary = page.locator("#summary")
    box = summary.bounding_box()
    assert box["y"] + box["height"] <= 900
    assert "net: yes. Balanced accuracy 0.90 [0.80, 0.95], where guessing has 0.50." in summary.inner_text()
    link = summary.locator("a.to").first
    shown = page.locator(link.get_attribute("href"))
    assert not shown.is_visible()
    link.click()
    assert shown.is_visible()  # the chapter opens
    page.locator("nav a", has_text="02 Part").click()
    assert page.locator("#c2").is_visible()


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")


def test_it_is_small_rendered_and_fetches_nothing(page):
    assert page.report.stat().st_size < 5_000_000
    assert page.content().count("data:image/webp") == 5  # four pictures, of which one stands twice, and the thumbnail
    assert [url for url in page.asked if not url.startswith("data:")] == [page.report.as_uri()]
    text = page.locator(".text").first.text_content()
    assert "A head" in text
    assert not re.search(r"\*\*|^#|\| -|!\[", text, re.MULTILINE)


def test_it_prints_to_ten_pages(page):
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) <= 10
