"""The page of a run: what strange data and hostile records make of it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaiutils.workbook.html_report import write_report
from xaiutils.workbook.page_pictures import for_screen, read_pictures, within_budget

HOSTILE = "<script>alert(1)</script>\"'&$x_{$|`"


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a table, a figure, a text and a record; ``secret`` lies beside it."""
    (tmp_path / "secret").write_text("a secret")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "secret.png")
    run = tmp_path / "run"
    for name in ("record", "tables", "figures"):
        (run / name).mkdir(parents=True)
    return run


def record(folder, *items, name="01", **changes):
    facts = {"notebook": name, "parameters": {"dataset": HOSTILE}, "seconds": 3.0, "finished": True}
    shown = [{"kind": kind, "file": str(file), "caption": HOSTILE} for kind, file in items]
    facts |= {"items": shown, "environment": {"python": "3", "versions": {HOSTILE: HOSTILE}, "gpus": []}, **changes}
    (folder / "record" / f"{name}.json").write_text(json.dumps(facts))
    return write_report(folder).read_text()


def test_strange_names_are_text_and_numbers_are_aligned(folder):
    table = pd.DataFrame(
        {"class": ["NA", "null", "None", HOSTILE], "id": ["001", "0007", "1", "2"], "n": [1, 2, 3, 45]}
    )
    table.assign(score=[0.123456789, np.nan, 1, 2]).to_csv(folder / "tables" / "t.csv", index=False)
    (folder / "note.md").write_text(HOSTILE)
    page = record(folder, ("table", "tables/t.csv"), ("text", "note.md"))
    assert "<script>" not in page
    for cell in ("NA", "null", "None", "001", "0007"):
        assert f"<td>{cell}</td>" in page
    for cell in ("45", "0.1235", ""):
        assert f'<td class="number">{cell}</td>' in page
    assert '<th class="number">n</th>' in page
    assert "<th>id</th>" in page


@pytest.mark.parametrize("kind", ["figure", "table", "text", "maps"])
def test_a_record_shows_no_file_outside_the_run(folder, kind):
    (folder / "figures" / "link").symlink_to(folder.parent)
    (folder / "figures" / "loop").symlink_to(folder / "figures" / "loop")
    (folder / "direct").symlink_to(folder.parent / "secret")
    outside = ("../secret", "../secret.png", folder.parent / "secret", "figures/link/secret", "figures/../../secret",
               "direct", "/etc/passwd", "figures/loop", "a\0b")  # fmt: skip
    page = record(folder, *((kind, file) for file in outside))
    assert "a secret" not in page
    assert "root:" not in page
    assert "base64" not in page
    assert page.count("is not in the run&#39;s folder") + page.count("is not in the run's folder") == len(outside)


def test_links_are_addresses_of_files(folder):
    (folder / "javascript:alert(1)").write_text("")
    (folder / "figures" / "a b#c?.png").write_bytes((folder.parent / "secret.png").read_bytes())
    page = record(folder, ("maps", "javascript:alert(1)"), ("figure", "figures/a b#c?.png"))
    assert 'href="javascript%3Aalert%281%29"' in page
    assert 'href="figures/a%20b%23c%3F.png"' in page


@pytest.mark.parametrize(
    "held", [b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"notebook": 3}', b'{"notebook": "02", "parameters": {}}']
)
def test_a_record_that_cannot_be_read_is_named_beside_the_others(folder, held):
    (folder / "record" / "02.json").write_bytes(held)
    assert "results are not shown: 02.json" in record(folder)


@pytest.mark.parametrize(
    "wrong",
    [{"items": [3]}, {"items": [{"kind": "table"}]}, {"seconds": "3"}, {"parameters": []}, {"environment": 3},
     {"items": [{"kind": [], "file": 1, "caption": None}]}, {"environment": {"versions": []}}],
)  # fmt: skip
def test_a_record_of_wrong_types_is_named(folder, wrong):
    record(folder)
    assert "results are not shown: 02.json" in record(folder, name="02", **wrong)


def test_files_that_cannot_be_shown_are_named(folder):
    (folder / "figures" / "f.png").write_bytes(b"no picture")
    (folder / "tables" / "t.csv").write_bytes(b"")
    (folder / "note.md").write_bytes(b"\xff\xfe")
    page = record(folder, ("figure", "figures/f.png"), ("table", "tables/t.csv"), ("text", "note.md"))
    assert page.count("cannot be shown") == 3


def test_the_first_screen_says_which_method_finds_the_evidence(folder):
    values = {
        ("grad_cam", "trained"): 0.7,
        ("vanilla_gradients", "trained"): 0.2,
        ("intensity", "none"): 0.4,
        ("random", "none"): 0.1,
    }
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, (len(values), 30))
    rows = [
        {"method": method, "weights": weights, "image_id": f"i{i}", "metric": "iou", "reading": "magnitude",
         "value": value + noise[k, i], "model": "net"}
        for k, ((method, weights), value) in enumerate(values.items()) for i in range(30)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "tables" / "metrics.csv", index=False)
    ends = pd.DataFrame({"method": ["a", "b"], "mean": [0.25, 0.5], "low": [0.125, np.nan], "high": [1.0, np.nan]})
    ends.to_csv(folder / "tables" / "metrics_by_method.csv", index=False)
    items = [("table", f"tables/{name}.csv") for name in ("metrics_by_method", "metrics")]
    assert "IoU" not in record(folder, items[0])  # a table of another execution
    alone = [row for row in rows if row["method"] == "grad_cam"]
    pd.DataFrame(alone).to_csv(folder / "tables" / "metrics.csv", index=False)
    found = dict.fromkeys(("balanced accuracy", "balanced accuracy low", "balanced accuracy high"), 0.5)
    row = pd.DataFrame([{"level": "image", "model": "net", "n": np.nan, **found}])
    row.to_csv(folder / "tables" / "classification.csv", index=False)
    damaged = record(folder, ("table", "tables/classification.csv"))
    assert "This run has not measured how well a model does." in damaged, "not as the workbook writes it"
    given = {"dataset": "phantom", "image_size": 224}
    assert "Measured, without chance or a random map" in record(folder, *items, parameters=given)
    pd.DataFrame(rows).to_csv(folder / "tables" / "metrics.csv", index=False)
    page = record(folder, *items, name="05_maps", notebook="05_maps", parameters=given | {"image_size": 96})
    assert "224 x 224 pixels" in page, "as the first notebook settled it"
    for cell in ("mean [low, high]", "0.25 [0.125, 1]", "0.5"):
        assert f'<t{"h" if "mean" in cell else "d"} class="number">{cell}<' in page
    first = " ".join(re.sub("<[^>]+>", "", page[page.index('id="summary"') : page.index('class="chapter"')]).split())
    assert "Which method finds the evidence? Table 1.1" in first
    assert "net (30 images, maps read by their magnitude): Grad-CAM has the best IoU, 0.7" in first
    assert "the best control, brightness, has 0.4" in first
    assert "2 of 2 methods beat a random map by some metric; every control is beaten by Grad-CAM (IoU)." in first


def test_large_pictures_are_made_narrower_until_all_fit(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (1000, 1600, 3), np.uint8)).save(tmp_path / f"{name}.png", dpi=(300, 300))
    Image.new("RGB", (1600, 300), "white").save(tmp_path / "plain.png")
    read = {name: found.result() for name, found in read_pictures({p.stem: p for p in tmp_path.iterdir()}).items()}
    assert (read["a"].width, read["a"].height) == (512, 320)  # 1600 x 1000 pixels of 1/300 inch, in those of 1/96
    assert sum(len(one.data) for one in read.values()) > 3_000_000
    data = within_budget(read)
    assert sum(map(len, data.values())) <= 3_000_000
    assert data["plain"] == read["plain"].data, "it took no more than its share"
    assert data["a"] in [for_screen(tmp_path / "a.png", width) for width in (1200, 900, 640, 400)]
