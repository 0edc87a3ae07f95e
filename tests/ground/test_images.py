"""Reading what people have on disk, and refusing what is not an image batch."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from trees import read_image, read_mask

import xaiutils as xai
from xaiutils.datasets.reading.image_files import load_mask, read_picture
from xaiutils.file_limits import FileError
from xaiutils.images import boxes_to_mask, check_images, check_maps, fit_mask

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


def test_grey_is_repeated(tmp_path):
    found = read_image(save(tmp_path / "a.png", RAMP), 16)
    assert found.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], RAMP)


def test_formats(tmp_path):
    rgb = Image.fromarray(np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=-1))
    plain = read_image(save(tmp_path / "a.png", rgb), 16)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.bmp", rgb), 16), plain)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tif", rgb), 16), plain)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.webp", rgb, lossless=True), 16), plain)
    grey16 = RAMP.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(save(tmp_path / "16.png", grey16), 16)[..., 0], RAMP)
    twelve = RAMP.astype(np.uint16) * 16
    np.testing.assert_allclose(read_image(save(tmp_path / "12.png", twelve), 16, bit_depth=12)[..., 0], RAMP, atol=1)
    palette = Image.fromarray(RAMP).quantize(256)
    np.testing.assert_allclose(read_image(save(tmp_path / "p.png", palette), 16)[..., 0], RAMP, atol=1)
    cmyk = read_image(save(tmp_path / "c.jpg", rgb.convert("CMYK"), quality=100), 16)
    assert np.abs(cmyk.astype(int) - plain).mean() < 25
    assert read_image(save(tmp_path / "b.png", Image.fromarray(RAMP > 100)), 16).max() == 255


def test_transparency_lies_over_black(tmp_path):
    rgba = np.full((8, 8, 4), 200, np.uint8)
    rgba[:, :4, 3], rgba[:, 4:, 3] = 0, 255
    found = read_image(save(tmp_path / "t.png", rgba), 8)
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] == 200).all()


def test_exif_orientation_turns_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.fromarray(np.stack([RAMP] * 3, axis=-1))
    found = read_image(save(tmp_path / "e.png", image, exif=exif), 16)
    np.testing.assert_array_equal(found[..., 0], RAMP[::-1, ::-1])


def test_keeping_the_aspect_pads_image_and_mask_alike(tmp_path):
    wide = np.full((10, 40), 255, np.uint8)
    image = read_image(save(tmp_path / "w.png", wide), 40, keep_aspect=True)
    mask = read_mask(tmp_path / "w.png", 40, keep_aspect=True)
    np.testing.assert_array_equal(image[..., 0] > 127, mask)
    assert mask.sum() == 40 * 10
    assert read_mask(tmp_path / "w.png", 40).all()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_broken_files_raise(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"x\.jpg: "):  # Pillow words it in many ways
        read_image(path, 16)


def test_a_truncated_jpeg_raises(tmp_path):
    path = save(tmp_path / "t.jpg", np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(FileError, match="t.jpg: .*truncated"):
        read_image(path, 16)


def test_mask_values(tmp_path):
    trimap = np.repeat(np.array([1, 2, 3], np.uint8), 12).reshape(6, 6)
    path = save(tmp_path / "m.png", trimap)
    np.testing.assert_array_equal(read_mask(path, 6, [1]), trimap == 1)
    np.testing.assert_array_equal(read_mask(path, 6, [1, 3]), trimap != 2)
    assert read_mask(path, 6).all()
    palette = Image.fromarray(trimap, mode="L").convert("P")
    palette.putdata(trimap.ravel().tolist())
    np.testing.assert_array_equal(read_mask(save(tmp_path / "p.png", palette), 6, [1]), trimap == 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64))
def test_resizing_keeps_full_and_empty_masks(height, width, size):
    assert fit_mask(np.ones((height, width), bool), size).all()
    assert not fit_mask(np.zeros((height, width), bool), size).any()


def test_boxes():
    mask = boxes_to_mask([(2, 3, 4, 5), (-5, -5, 7, 6)], 20, 10)
    assert mask[3:8, 2:6].all()
    assert mask[0, :2].all()
    assert mask.sum() == 20 + 2
    assert boxes_to_mask([(3.2, 4.9, 0.1, 0.1)], 10, 10).sum() == 1  # never vanishes


def test_check_images_accepts_and_converts():
    assert check_images(np.zeros((2, 4, 4, 3), np.uint8)).dtype == np.float32
    assert check_images([[[[0, 1, 255]]]]).shape == (1, 1, 1, 3)
    check_images(np.full((1, 4, 4, 3), 1.0))  # a nearly black image is not one in [0, 1]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((4, 4, 3)), r"pass images\[None\]"),
        (np.zeros((1, 4, 4)), "Grey images have one channel"),
        (np.full((1, 4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((1, 4, 4, 3), 300.0), "raw pixels"),
        (np.full((1, 4, 4, 3), 0.5), r'xai\.wrap.*"0-1"'),
        (np.array([["a"]]), "numeric"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], None),
    ],
)
def test_check_images_refuses(bad, words):
    with pytest.raises(ValueError, match=words):
        check_images(bad)


def test_check_maps():
    with pytest.raises(ValueError, match="one map for each image"):
        check_maps(np.zeros((2, 4, 4)), (3, 4, 4))
    with pytest.raises(ValueError, match=r"maps \[1\] hold NaN"):
        check_maps(np.where(np.arange(2)[:, None, None] == 1, np.nan, np.zeros((2, 4, 4))), (2, 4, 4))


def test_masks_of_every_kind_say_the_same(tmp_path):
    rows, columns = np.mgrid[:60, :60]
    disc = (rows - 30) ** 2 + (columns - 28) ** 2 < 300
    grey = Image.fromarray(disc.astype(np.uint8) * 255)
    clear = np.zeros((60, 60, 4), np.uint8)
    clear[..., :3], clear[..., 3] = 255, disc * 255  # white on transparent white
    turned = Image.fromarray((~disc).astype(np.uint8), "P")
    turned.putpalette([255, 255, 255, 0, 0, 0])
    kinds = {
        "a.png": grey, "b.jpg": grey, "c.png": Image.fromarray(clear), "d.png": turned, "e.png": grey.convert("1"),
        "f.tif": Image.fromarray(disc.astype(np.float32) * 0.9), "g.png": grey.convert("RGB"),
    }  # fmt: skip
    for name, image in kinds.items():
        image.save(tmp_path / name)
        np.testing.assert_array_equal(load_mask(tmp_path / name), disc, err_msg=name)


# Several pictures, and values without a range of their own ------------------------------------------------------------


def test_several_pictures_in_a_file_are_refused_with_their_number(tmp_path):
    one = Image.fromarray(np.stack([RAMP] * 3, axis=-1))
    others = [Image.fromarray(np.stack([RAMP + i] * 3, axis=-1)) for i in (1, 2)]
    for name, kind in (("a.tif", "TIFF"), ("b.gif", "GIF"), ("c.webp", "WEBP"), ("d.png", "PNG"), ("e.jpg", "MPO")):
        one.save(tmp_path / name, kind, save_all=True, append_images=others)
        for read in (read_picture, load_mask):
            with pytest.raises(FileError, match=rf"{name}: it holds 3 pictures .* frames='first'"):
                read(tmp_path / name)
        found = read_picture(tmp_path / name, frames="first").pixels
        assert np.abs(found[..., 0].astype(int) - RAMP).mean() < 4


def test_smaller_copies_in_a_tiff_file_are_no_pictures_of_their_own(tmp_path):
    small = Image.fromarray(RAMP[::2, ::2])
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1  # a reduced copy
    small.encoderinfo = {"tiffinfo": tags}
    Image.fromarray(RAMP).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        assert image.tag_v2[254] == 1
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP * np.float32(15) - 1000, "float32, here from -1000 to 2825"),
        (RAMP / np.float32(255), "float32, here from 0 to 1"),
        (RAMP.astype(np.float32) * 16, "float32, here from 0 to 4080"),
        (RAMP.astype(np.int32) * 1000, "int32, here from 0 to 255000"),
        (RAMP.astype(np.int16) - 100, "int16, here from -100 to 155"),
        (RAMP.astype(np.int8), "int8, here from -128 to 127"),
        (RAMP.astype(np.uint32) * 16_000_000, "uint32, here from 0 to 4.08e\\+09"),
    ],
)
def test_values_without_a_range_need_a_window(tmp_path, values, kind):
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(FileError, match=rf"a\.tif: its values are {kind}, .*window=\[centre, width\]"):
        read_picture(tmp_path / "a.tif")
    low, high = float(values.min()), float(values.max())
    frame = read_picture(tmp_path / "a.tif", window=((low + high) / 2, high - low))
    np.testing.assert_allclose(frame.pixels / frame.top, (values - low) / (high - low), atol=1e-4)


def test_values_that_are_not_finite(tmp_path):
    values = RAMP.astype(np.float32)
    values[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)
    for read in (lambda p: read_picture(p, window=(100, 100)), load_mask):
        with pytest.raises(FileError, match="not finite"):
            read(tmp_path / "a.tif")


def test_white_may_be_zero(tmp_path):
    deep = RAMP.astype(np.uint16) * 257
    for name, values in (("8.tif", RAMP), ("16.tif", deep)):
        tifffile.imwrite(tmp_path / name, values, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / name, 16)[..., 0], 255 - RAMP)


def test_values_over_the_bits_are_counted(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            values = np.full((16, 16), 3000, np.uint16)
            values[:2, :3] = 5000 if (label, i) == ("b", 1) else 3000
            save(tmp_path / label / f"{i}.png", values)
    assert read_picture(tmp_path / "b" / "1.png", bit_depth=12).clipped == 6
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path, bit_depth=12)
    assert any("1 image has values over the range of their bits" in n and "b/1.png" in n for n in ds.notes)


def test_a_window_is_for_grey_values(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            tifffile.imwrite(tmp_path / label / f"{i}.tif", RAMP * np.float32(15) - 1000)
    save(tmp_path / "a" / "c.png", np.stack([RAMP, RAMP.T, RAMP], axis=-1))
    with pytest.warns(UserWarning, match=r"c\.png \(it is in colour, and a window is for grey values\)"):
        ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path, window=[0, 2000])
    expected = np.rint(255 * np.clip((RAMP * 15.0 - 1000) / 2000 + 0.5, 0, 1))
    assert len(ds) == 6
    np.testing.assert_allclose(ds.pixels[0, ..., 0], expected, atol=1)


def test_a_file_that_would_run_a_program_is_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(FileError, match=r"a\.png: .*cannot identify"):
        read_picture(tmp_path / "a.png")
