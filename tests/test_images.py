"""Reading what people have on disk, and refusing what is not an image batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xaiutils.file_limits import FileError
from xaiutils.image_files import load_mask, read_image, read_mask
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
        (np.zeros((1, 4, 4)), "Repeat a grey image"),
        (np.full((1, 4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((1, 4, 4, 3), 300.0), "raw pixels"),
        (np.full((1, 4, 4, 3), 0.5), "Multiply by 255"),
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
