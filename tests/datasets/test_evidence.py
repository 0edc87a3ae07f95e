"""Evidence of every format is held to one check: what cannot be right is unknown, and named."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from skimage.draw import polygon
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets.listing import summarise_remarks
from xaiutils.datasets.reading.evidence import Boxes, MaskFile, Polygons, RunLengths, fill_outline, unpack_run_lengths

SHAPE = (20, 30)  # height, width
WRONG = "not finite|outside|positive|enclose|three or more|do not fill|pixels"


@pytest.mark.parametrize(
    "evidence",
    [
        Boxes(((10, 10, -5, -5),)),
        Boxes(((10, 2, -5, 10),)),
        Boxes(((10, 2, 5, 0),)),
        Boxes(((np.nan, 2, 5, 5),)),
        Boxes(((1e300, 2, 5, 5),)),
        Boxes(((2, 2, np.inf, 5),)),
        Boxes(((2, 25, 5, 3),)),  # x and y swapped: below the picture
        Boxes(((31, 2, 2, 3),)),  # within the tolerance, and wholly outside
        Boxes(((2, 2, 5),)),
        Boxes(((2, 2, 5, 5), (2, 2, -1, 5))),  # one wrong box of two: a part would pass for the whole
        Boxes(((2, 2, 5, 5),), frame=(30, 20)),  # sides swapped
        Boxes(((2, 2, 5, 5),), frame=(0, 20)),
        Polygons(((1, 1, 5, 1, np.nan, 5),)),
        Polygons(((1, 1, 5, 1, 1e300, 5),)),
        Polygons(((1, 1, 5, 5),)),
        Polygons(((1, 1, 5, 5, 9, 9),)),
        Polygons(((3, 3, 3, 3, 3, 3),)),
        Polygons(((1, 1, 5, 1, 5, 5, 1),)),
        Polygons(((2, 25, 2, 28, 10, 28),)),
        Polygons(((2, 2, 2, 8, 9, 8),), frame=(20, 60)),
        Polygons(((2, 2, 2, 8, 9, 8),), frame=(40_000, 60_000)),
        RunLengths((5, 10, 5), SHAPE),
        RunLengths((-5, 605), SHAPE),
        RunLengths((600,), SHAPE),
        RunLengths((1, 3_599_999_999), (60_000, 60_000)),
        RunLengths((300, 300), (30, 20), frame=SHAPE),
    ],
)
def test_what_cannot_be_right_is_refused(evidence):
    with pytest.raises(ValueError, match=WRONG):
        evidence.draw(SHAPE)


def test_what_reaches_a_little_over_the_edge_is_cut_off_and_counted():
    drawn = Boxes(((-2, 15, 6, 7), (1, 1, 2, 2))).draw(SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[15:20, 0:4] = expected[1:3, 1:3] = True
    np.testing.assert_array_equal(drawn.mask, expected)
    assert drawn.clipped == 1
    outline = Polygons(((-1.0, 0, 3, 0, 3, 4, -1, 4),)).draw(SHAPE)
    assert outline.clipped == 1
    assert outline.mask[:5, :4].all()
    assert outline.mask.sum() == 20
    with pytest.raises(ValueError, match="outside"):
        Boxes(((-4, 15, 6, 5),)).draw(SHAPE)


def test_an_outline_smaller_than_a_pixel_marks_one():
    mask = Polygons(((5.2, 7.2, 5.4, 7.2, 5.3, 7.4),)).draw(SHAPE).mask
    assert np.argwhere(mask).tolist() == [[7, 5]]


@given(arrays.arrays(int, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(0, 15)), st.booleans())
def test_outlines_are_filled_as_scikit_image_fills_them(points, between):
    points = points + (0.37 if between else 0.0)
    mask, expected = np.zeros((17, 17), bool), np.zeros((17, 17), bool)
    try:
        fill_outline(mask, points)
    except ValueError:
        return
    expected[polygon(points[:, 1], points[:, 0], expected.shape)] = True
    if not expected.any():
        assert mask.sum() == 1
        return
    assert (mask >= expected).all()
    for row, column in np.argwhere(mask & ~expected):  # on an edge, where rounding decides
        ends = np.roll(points, -1, axis=0) - points
        gap = np.array([column, row]) - points
        along = np.clip((gap * ends).sum(1) / np.maximum((ends**2).sum(1), 1e-9), 0, 1)
        assert np.linalg.norm(gap - along[:, None] * ends, axis=1).min() < 1e-9


def test_a_large_outline_takes_no_minutes():
    turn = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    circle = np.stack([1500 + 1400 * np.cos(turn), 1500 + 1400 * np.sin(turn)], axis=1)
    mask = np.zeros((3000, 3000), bool)
    fill_outline(mask, circle)
    np.testing.assert_allclose(mask.sum(), np.pi * 1400**2, rtol=1e-3)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_compressed_run_lengths(mask):
    """As pycocotools packs them: packed here by the same rule; what it wrote itself is read below."""
    flat = np.r_[False, mask.T.ravel()]
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.r_[0, edges, mask.size]).tolist()
    text = ""
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr(48 + bits + 32 * more)
    assert unpack_run_lengths(text) == tuple(counts)
    if mask.any():
        np.testing.assert_array_equal(RunLengths(tuple(counts), mask.shape).draw(mask.shape).mask, mask)


def test_run_lengths_that_pycocotools_wrote():
    # pycocotools.mask.encode of 24 x 20 pixels, of which [3:9, 4:11] are set, and of a chequered 5 x 4.
    mask = np.zeros((24, 20), bool)
    mask[3:9, 4:11] = True
    np.testing.assert_array_equal(RunLengths(unpack_run_lengths(PACKED[0]), (24, 20)).draw((24, 20)).mask, mask)
    chequered = np.indices((5, 4)).sum(axis=0) % 2 == 1
    np.testing.assert_array_equal(RunLengths(unpack_run_lengths(PACKED[1]), (5, 4)).draw((5, 4)).mask, chequered)
    for broken in ("S3 6", "S36b", "é", "oooooooooooo0"):
        with pytest.raises(ValueError, match="damaged|too early|ascii"):
            unpack_run_lengths(broken)


PACKED = ("S36b000000000000e6", "11100000000000000000")


def _pictures(root, n=12):
    for i in range(n):
        Image.fromarray(np.full(SHAPE, 20 * i, np.uint8)).save(root / f"{i}.png")


def test_coco_evidence_that_cannot_be_right_is_unknown(tmp_path):
    _pictures(tmp_path)
    marks = [
        {"bbox": [2, 3, 4, 5]},
        {"bbox": [10, 10, -5, -5]},
        {"segmentation": [[1, 1, 5, 1, float("nan"), 5]], "bbox": [1, 1, 4, 4]},
        {"segmentation": {"size": [20, 30], "counts": [5, 10, 5]}, "bbox": [1, 1, 4, 4]},
        {"segmentation": {"size": [20, 30], "counts": "b"}, "bbox": [1, 1, 4, 4]},
        {"segmentation": {"size": [20, 30], "counts": [25, 2, 573]}, "iscrowd": 1},
        {},
        {"bbox": [2, 3, 4, 5]},  # of an image whose height is infinite
        {"segmentation": [[1, 1, 5, 1, "x", 5]]},
        {"segmentation": "polygon"},
        {"bbox": [0, 0, 30, 20], "segmentation": []},
        {"bbox": [[], 0, 3, 3]},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(12)],
        "categories": [{"id": 1, "name": "cyst"}, {"id": 2, "name": "mass"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2, **m} for i, m in enumerate(marks)],
    }
    content["images"][7]["height"] = float("inf")
    (tmp_path / "notes.json").write_text(json.dumps(content))
    with pytest.warns(
        UserWarning, match=r"9 images have evidence that cannot be .* 1\.png \(its box \(10, 10, -5, -5\)"
    ):
        ds = xai.load_dataset("coco", "all", image_size=32, data_dir=tmp_path)
    state = dict(zip(ds.ids, ds.evidence, strict=True))
    known = {"0.png", "5.png", "10.png"}
    assert {name for name, said in state.items() if said == "known"} == known
    assert {name for name, said in state.items() if said == "unknown"} == set(state) - known
    assert not ds.skipped
    assert any("9 images have evidence" in note for note in ds.notes)


def test_table_boxes_that_cannot_be_right_are_unknown(tmp_path):
    _pictures(tmp_path, 6)
    boxes = ["2,3,4,5", "nan,3,4,5", "2,3,-4,5", "2,25,4,3", "2,3,inf,5", "-1,-1,5,5"]
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(6)], "label": list("ababab"), "boxes": boxes})
    frame.to_csv(tmp_path / "index.csv", index=False)
    with pytest.warns(UserWarning, match="4 images have evidence"):
        ds = xai.load_dataset("table", "all", image_size=32, data_dir=tmp_path, boxes_column="boxes")
    assert ds.evidence.tolist() == ["known", *["unknown"] * 4, "known"]
    assert any(note.startswith("1 image has outlines that reach a little over the edge") for note in ds.notes)


def test_three_images_of_a_remark_are_named():
    remarks = {f"{i}.png": {"clipped": 5, "evidence": "torn"} for i in range(4)}
    assert summarise_remarks(remarks)["clipped"].endswith(": 0.png; 1.png; 2.png ...")
    del remarks["3.png"]
    notes = summarise_remarks(remarks)
    assert notes["clipped"].endswith(": 0.png; 1.png; 2.png.")
    assert notes["evidence"].endswith(": 0.png (torn); 1.png (torn); 2.png (torn).")


def test_masks_are_read_as_pictures_are(tmp_path):
    """DICOM, 16 bits and floats too."""
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 10:20] = True
    write_dicom(tmp_path / "a.dcm", mask.astype(np.uint16) * 3, 12, WindowCenter=1000, WindowWidth=10)
    Image.fromarray(mask.astype(np.uint16) * 700).save(tmp_path / "b.png")
    Image.fromarray(mask.astype(np.float32)).save(tmp_path / "c.tif")
    Image.fromarray(mask.astype(np.int32) * -1).save(tmp_path / "d.tif")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(MaskFile(path).draw(SHAPE).mask, mask, err_msg=path.name)
    assert not MaskFile(tmp_path / "a.dcm", (2,)).draw(SHAPE).mask.any()
    np.testing.assert_array_equal(MaskFile(tmp_path / "a.dcm", (3,)).draw(SHAPE).mask, mask)


def test_a_dicom_mask_beside_its_picture(tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:12] = 1
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.fromarray(np.full((16, 16), 50 + i, np.uint8)).save(tmp_path / label / f"{i}.png")
            write_dicom(tmp_path / label / f"{i}_mask.dcm", mask, 8)
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    assert len(ds) == 8
    np.testing.assert_array_equal(ds.masks, np.broadcast_to(mask > 0, ds.masks.shape))
