"""The questionnaire's files: what they hold, what they must not, and what is refused."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.evaluation.readers.design import read_design, reading_design
from xaiutils.workbook.questionnaire import export_questionnaire


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 24, 32, 3)).astype(np.uint8)
    ids = [f"Doe_Jane_{k}" for k in range(3)]
    ds = xai.ImageDataset(pixels, np.array([0, 1, 1]), ("benign", "malignant"), ids, name="own")
    maps = {kind: rng.random((3, 24, 32)).astype(np.float32) for kind in ("model", "random_weights")}
    return reading_design(ids, 2, repeats=0.4), ds, ["benign (60 %)"] * 3, maps


def test_the_page_is_whole_offline_and_gives_nobody_away(study, tmp_path):
    design, ds, predictions, maps = study
    page = export_questionnaire(
        tmp_path, design, ds, predictions, maps, findings=["</script><b>"], title="A & <B>", papers=["R1"]
    )
    text = page.read_text(encoding="utf-8")
    assert "Doe" not in text
    for secret in ("sham", "other_image", "random_weights", 'http-equiv="refresh'):
        assert secret not in text
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}  # a name, never asked
    assert "<title>A &amp; &lt;B&gt;</title>" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    trials = pd.DataFrame(data["trials"])
    assert trials["trial"].tolist() == design["trial"].tolist()
    assert ((trials["map"] != "") == (design["map"] != "")).all()
    assert ((trials["prediction"] != "") == (design["arm"] != "image")).all()
    # One picture for each image and kind of map: a sham is another picture than the model's map.
    assert trials["map"][design["map"] != ""].nunique() == design[design["map"] != ""].groupby(["image", "map"]).ngroups
    assert set(trials["code"]) | set(trials["map"]) - {""} == set(data["pictures"])
    pd.testing.assert_frame_equal(read_design(tmp_path / "design.csv"), design)
    paper = (tmp_path / "paper_R1.pdf").read_bytes()
    assert paper.startswith(b"%PDF")
    readings = int((design["reader"] == "R1").sum())
    assert len(re.findall(rb"/Type /Page\b", paper)) == 2 + -(-readings // 2)
    assert not (tmp_path / "paper_R2.pdf").exists()


def test_what_does_not_fit_is_refused_by_name(study, tmp_path):
    design, ds, predictions, maps = study
    with pytest.raises(ValueError, match=r"maps \['model', 'random_weights'\].*there are {'model': \(3, 24, 32\)}"):
        export_questionnaire(tmp_path, design, ds, predictions, {"model": maps["model"]})
    with pytest.raises(ValueError, match="that the data set has not: .*Doe_Jane_2"):
        export_questionnaire(tmp_path, design, ds.select([0, 1]), predictions[:2], {k: m[:2] for k, m in maps.items()})
    assert not list(tmp_path.iterdir())
