"""The page of a run: what strange data and hostile records make of it."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaiutils.workbook.html_report import write_report

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
