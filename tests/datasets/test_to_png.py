"""DICOM trees written as PNG trees, and the facts of public mammograms."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trees import write_dicom

from xaiutils.datasets import mammography_sets, to_png

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def test_a_tree_becomes_a_tree(tmp_path, capsys):
    source = tmp_path / "dicom"
    write_dicom(source / "p1" / "a.dcm", RAMP, bits=12, PixelSpacing=[0.1, 0.2], PatientID="secret")
    write_dicom(source / "p2" / "IM0001", RAMP, bits=12, PhotometricInterpretation="MONOCHROME1")
    (source / "p2" / "torn.dcm").write_bytes((source / "p1" / "a.dcm").read_bytes()[:-40])
    write_dicom(source / "p1" / "a.dic", RAMP, bits=12)
    (source / "notes.txt").write_text("no picture")
    assert to_png.main([str(source), str(tmp_path / "png")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 of 4 files written to ")
    assert "p2/torn.dcm: its pixels" in err
    found = sorted(p.relative_to(tmp_path / "png").as_posix() for p in (tmp_path / "png").rglob("*.png"))
    assert found == ["p1/a.png", "p2/IM0001.png"]
    index = pd.read_csv(tmp_path / "png" / "index.csv", keep_default_na=False, dtype=str).set_index("source")
    assert index.loc["p1/a.dcm", "problem"] == ""
    assert index.loc["p1/a.dic", "problem"] == "another file is called a.png already"
    assert "secret" not in (tmp_path / "png" / "index.csv").read_text()
    turned = np.asarray(Image.open(tmp_path / "png" / "p2" / "IM0001.png"))
    assert np.array_equal(turned, np.rint((4095 - RAMP.astype(float)) / 4095 * 255))


def test_bits_and_window(tmp_path):
    write_dicom(tmp_path / "in" / "a.dcm", RAMP, bits=12, PixelSpacing=[0.1, 0.2])
    table = to_png.to_png(tmp_path / "in", tmp_path / "deep", bits=16)
    deep = np.asarray(Image.open(tmp_path / "deep" / "a.png"))
    assert deep.dtype == np.uint16
    assert np.array_equal(deep, np.rint(RAMP / 4095 * 65535))
    assert table.loc[0, ["height", "width", "mm_down", "mm_along"]].tolist() == [8, 8, 0.1, 0.2]
    to_png.to_png(tmp_path / "in", tmp_path / "narrow", window=(1024, 512))
    narrow = np.asarray(Image.open(tmp_path / "narrow" / "a.png"))
    assert narrow.dtype == np.uint8
    assert (narrow[RAMP <= 768] == 0).all()
    assert (narrow[RAMP >= 1280] == 255).all()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no DICOM file"):
        to_png.to_png(tmp_path, tmp_path.parent / "png")
    with pytest.raises(ValueError, match="lies in"):
        to_png.to_png(tmp_path, tmp_path / "png")
    with pytest.raises(SystemExit):
        to_png.main([str(tmp_path / "absent"), str(tmp_path / "png")])


def test_the_page_of_documents_has_the_facts():
    page = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")
    table = mammography_sets()
    assert len(table) == 4
    for row in table.itertuples(index=False):
        assert f"| {' | '.join(row)} |" in page
