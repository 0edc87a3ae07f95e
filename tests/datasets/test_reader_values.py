"""What readers make of a file, to the pixel: sizes, orders and depths that follow by hand."""

import numpy as np
import pytest
from PIL import Image
from trees import load_picture, write_dicom

import xaiutils as xai
from xaiutils.datasets.image_dataset import largest_extent
from xaiutils.datasets.reading import breast_region
from xaiutils.datasets.reading.cache import cached_picture
from xaiutils.datasets.reading.dicom import read_dicom
from xaiutils.datasets.reading.evidence import Boxes, MaskFile, Polygons, RunLengths
from xaiutils.datasets.reading.frames import read_frame
from xaiutils.datasets.reading.image_files import load_mask, to_rgb
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.splits import split_indices
from xaiutils.images import boxes_to_mask, fit_image, fit_mask

FLAT = np.full((20, 40), 1000, np.uint16)


def places(mask) -> list[tuple[int, int]]:
    return [tuple(map(int, p)) for p in np.argwhere(mask)]


# Boxes, outlines and masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((2, 3, 4, 5), (3, 8), (2, 6)),  # whole numbers
        ((1.5, 2.5, 2, 1), (2, 4), (1, 4)),  # every pixel that the box touches
        ((1.9, 2.9, 0.05, 0.05), (2, 3), (1, 2)),
        ((-2.5, -1.5, 4, 3), (0, 2), (0, 2)),  # cut at the edges
        ((7.5, 8.5, 9, 9), (8, 10), (7, 10)),
    ],
)
def test_a_box_covers_the_pixels_that_it_touches(box, rows, columns):
    expected = np.zeros((10, 10), bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(boxes_to_mask([box], 10, 10), expected)


def test_boxes_are_united():
    """And a box that only meets the edge is outside."""
    found = boxes_to_mask([(0, 0, 2, 1), (1, 0, 2, 1), (3, 3, 1, 1), (-2, 0, 2, 2), (4, 0, 1, 1)], 4, 4)
    assert places(found) == [(0, 0), (0, 1), (0, 2), (3, 3)]


def test_evidence_of_a_larger_frame_is_sampled_at_the_pixels_centres():
    """6 x 6 on 3 x 3: the centres of the small pixels are the odd rows and columns of the large ones."""
    assert places(Boxes(((1, 3, 1, 1),), frame=(6, 6)).draw((3, 3)).mask) == [(1, 0)]
    assert places(Boxes(((0, 0, 1, 1), (2, 2, 1, 1), (4, 4, 1, 1)), frame=(6, 6)).draw((3, 3)).mask) == []
    assert places(Boxes(((1, 0, 1, 2),), frame=(2, 2)).draw((4, 4)).mask) == [(r, c) for r in range(4) for c in (2, 3)]
    fine = np.random.default_rng(0).random((15, 25)) > 0.5
    runs = np.flatnonzero(np.diff(np.concatenate([[0], fine.T.ravel(), [0]]).astype(int)))
    counts = np.diff(np.concatenate([[0], runs, [fine.size]]))
    found = RunLengths(tuple(int(c) for c in counts), (15, 25)).draw((6, 10)).mask
    nearest = Image.fromarray(fine.astype(np.uint8) * 255).resize((10, 6), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found, np.asarray(nearest) > 0)


def test_outlines_and_run_lengths_by_hand():
    """Run lengths go down the columns and begin with what is not evidence."""
    assert places(RunLengths((1, 2, 3), (3, 2)).draw((3, 2)).mask) == [(1, 0), (2, 0)]
    assert places(RunLengths((0, 1, 4, 1), (3, 2)).draw((3, 2)).mask) == [(0, 0), (2, 1)]
    triangle = Polygons(((1, 1, 4, 1, 1, 4),)).draw((6, 6)).mask  # x before y
    assert places(triangle) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)]
    wide = Polygons(((1, 1, 4, 1, 4, 2, 1, 2),)).draw((6, 6)).mask
    assert places(wide) == [(r, c) for r in (1, 2) for c in (1, 2, 3, 4)]


def test_proportions_may_differ_by_a_twentieth():
    assert Boxes(((0, 0, 100, 96),), frame=(96, 100)).draw((50, 50)).mask.all()
    for frame in ((94, 100), (100, 94)):
        with pytest.raises(ValueError, match="pixels"):
            Boxes(((0, 0, 5, 5),), frame=frame).draw((50, 50))


def test_the_extent_is_that_of_the_largest_part():
    mask = np.zeros((10, 12), bool)
    mask[1:3, 1:9] = True  # 16 pixels
    mask[5:10, 10] = True  # 5
    assert largest_extent(mask).tolist() == [2, 8]
    mask[3, 9] = True  # touches by a corner only
    assert largest_extent(mask).tolist() == [2, 8]


# Sizes in millimetres ---------------------------------------------------------------------------------------------


def test_the_calibrated_spacing_comes_before_that_of_the_detector(tmp_path):
    both = {"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.3, 0.4]}
    assert read_dicom(write_dicom(tmp_path / "a.dcm", FLAT, 12, **both)).spacing_mm == (0.1, 0.2)
    assert read_dicom(write_dicom(tmp_path / "b.dcm", FLAT, 12, ImagerPixelSpacing=[0.3, 0.4])).spacing_mm == (0.3, 0.4)
    assert read_dicom(write_dicom(tmp_path / "d.dcm", FLAT, 12)).spacing_mm is None


@pytest.mark.parametrize(
    ("keep_aspect", "box", "pixels", "mm", "scale"),
    [
        # 20 x 40 pixels of 0.1 mm down and 0.3 along become 10 x 10: a new pixel is 0.2 mm by 1.2 mm.
        (False, (4, 2, 6, 10), 5.0, 1.8, 0.7),  # 10 rows, 1 mm; 6 columns, 1.8 mm
        (False, (6, 2, 2, 10), 5.0, 1.0, 0.7),  # 2 columns, 0.6 mm
        # Padded to 40 x 40: 0.4 mm by 1.2 mm.
        (True, (4, 2, 6, 10), 2.5, 1.8, 0.8),
        (True, (4, 2, 12, 10), 3.0, 3.6, 0.8),
    ],
)
def test_lesions_are_measured_along_both_axes(tmp_path, keep_aspect, box, pixels, mm, scale):
    path = write_dicom(tmp_path / "a.dcm", FLAT, 12, PixelSpacing=[0.1, 0.3])
    source = PictureFile(path, (Boxes((box,)),), Preparation(keep_aspect=keep_aspect))
    facts = read_picture_file(source, 10).metadata
    assert (facts["height"], facts["width"]) == (20, 40)
    assert facts["lesion_pixels"] == pytest.approx(pixels)
    assert facts["lesion_mm"] == pytest.approx(mm)
    assert facts["mm_per_pixel"] == pytest.approx(scale)
    assert (facts["mm_down"], facts["mm_along"]) == pytest.approx((0.4, 1.2) if keep_aspect else (0.2, 1.2))
    assert facts["lesion_lost"] is False


# Grey values, colours, turns --------------------------------------------------------------------------------------


def test_sixteen_bits_become_eight_by_rounding(tmp_path):
    grey = np.array([[0, 128, 129, 385, 386, 65535]], np.uint16)  # 257 to a grey level
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255]
    twelve = np.array([[0, 8, 9, 2048, 4095, 60000]], np.uint16)
    Image.fromarray(twelve).save(tmp_path / "b.png")
    assert load_picture(tmp_path / "b.png", 12)[0, :, 1].tolist() == [0, 0, 1, 128, 255, 255]


def test_grey_of_sixteen_bits_is_white_at_65535_unless_told_otherwise(tmp_path):
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "a.png")
    frame = read_frame(tmp_path / "a.png")
    assert (frame.top, frame.pixels.max(), frame.clipped) == (65535.0, 65535.0, 0)
    assert read_frame(tmp_path / "a.png", 12).clipped == 64


def test_twelve_bits_of_dicom_become_eight_by_rounding(tmp_path):
    grey = np.array([[0, 8, 9, 2048, 4094, 4095]] * 6, np.uint16)
    found = read_picture_file(PictureFile(write_dicom(tmp_path / "a.dcm", grey, 12)), 6).pixels
    assert np.reshape(found, (6, 6, -1))[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


def test_colours_stay_in_their_order(tmp_path):
    orange = Image.new("RGB", (3, 2), (250, 120, 10))
    few = orange.convert("P", palette=Image.Palette.ADAPTIVE)
    for name, image in (("a.png", orange), ("b.bmp", orange), ("c.png", orange.convert("RGBA")), ("d.png", few)):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(load_picture(tmp_path / name), np.tile([250, 120, 10], (2, 3, 1)), name)


def test_half_transparent_is_half_over_black():
    found = np.asarray(to_rgb(Image.new("RGBA", (1, 1), (200, 100, 0, 128))))
    assert found.tolist() == [[[100, 50, 0]]]


@pytest.mark.parametrize(("orientation", "turn"), [(3, (2, False)), (6, (-1, False)), (8, (1, False)), (2, (0, True))])
def test_every_turn_of_exif(tmp_path, orientation, turn):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    quarter, mirrored = turn
    expected = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarter)
    np.testing.assert_array_equal(load_picture(tmp_path / "a.png"), expected)
    Image.fromarray(np.where(pixels[..., 0] > 100, 255, 0).astype(np.uint8)).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), expected[..., 0] > 100)


def test_images_are_averaged_and_masks_take_the_nearest():
    stripes = np.tile(np.array([[0, 200]], np.uint8), (8, 4))
    assert (np.abs(fit_image(stripes, 2).astype(int) - 100) <= 15).all()  # nearest would be 0 or 200
    mask = np.zeros((4, 4), bool)
    mask[1, 3] = True
    assert places(fit_mask(mask, 2)) == [(0, 1)]
    mask[1, 3], mask[0, 2] = False, True
    assert places(fit_mask(mask, 2)) == []


@pytest.mark.parametrize(("centre", "left"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_a_narrow_image_lies_where_it_is_put(centre, left):
    pixels = np.full((16, 8, 3), 200, np.uint8)
    found = fit_image(pixels, 16, keep_aspect=True, centre=centre)
    assert (found[:, left : left + 8] == 200).all()
    assert (found.sum(axis=(0, 2)) > 0).sum() == 8
    mask = fit_mask(np.ones((16, 8), bool), 16, keep_aspect=True, centre=centre)
    np.testing.assert_array_equal(mask, found[..., 0] > 0)


def test_mask_values_by_hand(tmp_path):
    grey = np.array([[0, 1, 2, 127, 128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert load_mask(tmp_path / "a.png").tolist() == [[False, True, True, True, True, True]]
    assert load_mask(tmp_path / "a.png", (1, 128)).tolist() == [[False, True, False, False, True, False]]
    Image.fromarray(np.repeat(np.repeat(np.array([[126, 130]], np.uint8), 8, 0), 8, 1)).save(
        tmp_path / "a.jpg", quality=100
    )
    assert load_mask(tmp_path / "a.jpg")[:, [0, -1]].all(axis=0).tolist() == [False, True]
    assert MaskFile(tmp_path / "a.png", (2,)).draw((1, 6)).mask.tolist() == [[False, False, True, False, False, False]]


# Splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "val", "test"), [(10, 1, 2), (24, 2, 5), (25, 2, 5), (40, 4, 8), (3, 1, 1)])
def test_splits_are_a_tenth_and_a_fifth(n, val, test):
    labels, names = np.arange(n) % 2, [str(i) for i in range(n)]
    found = {s: split_indices(labels, names, s) for s in ("train", "val", "test")}
    assert {s: len(i) for s, i in found.items()} == {"train": n - val - test, "val": val, "test": test}
    assert sorted(np.concatenate(list(found.values()))) == list(range(n))


@pytest.mark.parametrize(("patients", "val", "test"), [(10, 1, 2), (20, 2, 4), (4, 1, 1), (3, 1, 1)])
def test_splits_of_patients_are_a_tenth_and_a_fifth(patients, val, test):
    groups = [f"p{i // 2}" for i in range(2 * patients)]
    labels = np.repeat(np.arange(patients) % 2, 2)
    parts = {s: {groups[i] for i in split_indices(labels, groups, s)} for s in ("train", "val", "test")}
    assert (len(parts["val"]), len(parts["test"])) == (val, test)
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == patients


# Mammograms -------------------------------------------------------------------------------------------------------


def test_boxes_of_a_breast_by_hand():
    mask = np.zeros((20, 30), bool)
    mask[4:10, 12:22] = True
    assert breast_region.box_of(mask) == (4, 10, 12, 22)
    assert breast_region.square_around(mask, 0) == (2, 12, 12, 22)  # 10 x 10 about (7, 17)
    assert breast_region.square_around(mask, 0.25) == (-1, 14, 9, 24)  # 15: 7 and a half to each side
    assert breast_region.lies_right(mask)
    assert not breast_region.lies_right(mask[:, ::-1])
    assert not breast_region.lies_right(np.ones((4, 5), bool))


def test_thin_marks_are_no_breast():
    """A label's lines and specks are opened away, holes are filled, and the largest region is kept."""
    pixels = np.zeros((200, 160), np.uint8)
    pixels[40:160, 2:90] = 200
    pixels[80:90, 40:50] = 0  # a hole
    pixels[100:102, 90:108] = 200  # a line that sticks out
    pixels[50:80, 110:140] = 255  # a label
    found = breast_region.segment_breast(pixels)
    assert found[80:90, 40:50].all()
    assert not found[:, 98:].any()
    assert found[44:156, 6:86].all()
    assert found.sum() < 1.1 * 120 * 88


# Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("busi", "task"), ("cbis_ddsm", "abnormality"), ("cbis_ddsm", "task"), ("cbis_ddsm", "overlapping_patients"),
        ("cbis_ddsm", "mixed_images"), ("inbreast", "task"), ("phantom", "task"), ("phantom", "difficulty"),
        ("phantom", "tags"),
    ],
)  # fmt: skip
def test_a_mistyped_option_is_named_before_anything_is_read(name, option, tmp_path):
    with pytest.raises(ValueError, match=f"{option}='nonsens' is unknown"):
        xai.load_dataset(name, data_dir=tmp_path, **{option: "nonsens"})


def test_images_have_eight_pixels_a_side_at_least():
    assert xai.load_dataset("phantom", image_size=8, limit=2).pixels.shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="image_size=7"):
        xai.load_dataset("phantom", image_size=7, limit=2)


# Kept pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 3)])
@pytest.mark.parametrize("has_mask", [False, True])
def test_a_kept_picture_is_the_one_that_was_made(tmp_path, monkeypatch, shape, has_mask):
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    rng, made = np.random.default_rng(0), []
    mask = rng.random(shape[:2]) < 0.5 if has_mask else None

    def make():
        made.append((rng.integers(0, 256, shape, np.uint8), mask, {"spacing": [0.1, 0.2]}))
        return made[-1]

    cached_picture("a key", make)
    found = cached_picture("a key", make)
    assert len(made) == 1
    for mine, expected in zip(found, made[0], strict=True):
        np.testing.assert_array_equal(mine, expected)
