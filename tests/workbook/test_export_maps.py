"""Maps as files for other programs: their numbers, names and list, and what is refused before anything is written."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import ImageDataset
from xaiutils.file_limits import FileError
from xaiutils.workbook.map_files import write_maps

IDS = ["benign/a 1.dcm", "malignant/b.dcm"]
MAPS = {
    "grad_cam": np.linspace(0, 1, 2 * 48 * 48).reshape(2, 48, 48).astype(np.float32),
    "lrp": np.stack([np.full((48, 48), 0.5), np.linspace(-2, 1, 48 * 48).reshape(48, 48)]).astype(np.float32),
}


@pytest.fixture
def ds(images):
    pixels = np.pad(images[:2].astype(np.uint8), ((0, 0), (0, 48), (0, 48), (0, 0)))[:, :48, :48]
    facts = pd.DataFrame({"mm_per_pixel": [0.5, np.nan], "mm_down": [0.4, np.nan], "mm_along": [0.6, np.nan]})
    return ImageDataset(pixels, [0, 1], ("benign", "malignant"), IDS, metadata=facts)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_maps_of_a_run(tmp_path, ds):
    run, to = tmp_path / "run", tmp_path / "out"
    write_maps(run / "maps" / "test_vit.npz", MAPS, IDS)
    table = xai.export_maps(run, to, ("png", "tiff", "npy"), ds=ds)
    assert files(to) == sorted([*table["file"], "manifest.csv"])
    pd.testing.assert_frame_equal(pd.read_csv(to / "manifest.csv"), table)
    rows = table.set_index(["image_id", "method", "format"])
    second = rows.loc[(IDS[1], "lrp", "tiff")]
    assert second["file"] == "test_vit/malignant_b_dcm_" + second["file"].rsplit("_dcm_")[-1]
    assert (second["signed"], second["minimum"], second["maximum"]) == (True, -2, 1)
    with Image.open(to / second["file"]) as tiff:
        assert tiff.mode == "F"
        np.testing.assert_allclose(np.asarray(tiff), MAPS["lrp"][1], atol=2e-3)  # as a run keeps maps
    np.testing.assert_array_equal(np.load(to / rows.loc[(IDS[1], "lrp", "npy"), "file"]), np.asarray(tiff))
    sizes = rows.xs(("lrp", "npy"), level=("method", "format"))[["mm_down", "mm_along"]]
    assert sizes.loc[IDS[0]].tolist() == [0.4, 0.6], "made square: a pixel has two sizes"
    assert sizes.loc[IDS[1]].isna().all()
    shown = [
        np.asarray(Image.open(to / rows.loc[(i, m, "png"), "file"])) for i, m in ((IDS[0], "lrp"), (IDS[1], "lrp"))
    ]
    assert all(picture.shape == (48, 48, 3) for picture in shown)
    assert (shown[0].min(axis=-1) == shown[0].max(axis=-1)).all(), "an even map has no colours"
    assert shown[1][0, 0, 2] > shown[1][0, 0, 0], "blue below 0"
    assert shown[1][-1, -1, 0] > shown[1][-1, -1, 2], "red above"
    with pytest.raises(FileExistsError, match="manifest.csv is there, with 8 more"):
        xai.export_maps(run, to, ("png", "npy"), ds=ds)
    xai.export_maps(MAPS, to, ("npy",), ds=ds, overwrite=True)
    assert len(pd.read_csv(to / "manifest.csv")) == 4


def test_what_is_refused_leaves_nothing(tmp_path, ds):
    file, to = tmp_path / "maps" / "m.npz", tmp_path / "out"
    write_maps(file, MAPS, IDS)
    for error, words, source, given in (
        (ValueError, "ds=run.dataset", file, {}),
        (ValueError, "formats='tif' is unknown; did you mean tiff", file, {"formats": ("tif",)}),
        (ValueError, "there are no maps", tmp_path / "maps", {}),
        (FileNotFoundError, "there is no", tmp_path / "nowhere", {}),
        (ValueError, "need ds=", MAPS, {"formats": ("npy",)}),
        (ValueError, "needs dicom=", file, {"formats": ("dicom",), "ds": ds}),
        (FileNotFoundError, "no DICOM file of the image", file, {"formats": ("dicom",), "ds": ds, "dicom": tmp_path}),
        (ValueError, "the map is", {"m": MAPS["lrp"][:, :9]}, {"ds": ds}),
        (ValueError, "spacing=0.2; expected two sizes", MAPS, {"ds": ds, "spacing": 0.2}),
        (ValueError, "two sizes above 0", MAPS, {"ds": ds, "spacing": (0, 1)}),
        (ValueError, "finite", {"m": MAPS["lrp"] * np.nan}, {"ds": ds}),
    ):
        with pytest.raises(error, match=words):
            xai.export_maps(source, to, **given)
    (tmp_path / "maps" / "broken.npz").write_bytes(b"PK")
    with pytest.raises(FileError, match="broken.npz"):
        xai.export_maps(tmp_path, to, ("npy",))
    assert not to.exists()
    (tmp_path / "maps" / "broken.npz").rename(tmp_path / "broken")
    write_maps(tmp_path / "heatmaps" / "maps" / "m.npz", {"a": MAPS["lrp"]}, IDS)
    table = xai.export_maps(tmp_path, to, "npy")
    assert list(table["maps"].unique()) == ["heatmaps/m", "m"], "folders as they are called"


def test_secondary_captures(tmp_path, ds):
    tags = {"PatientName": "Muster^Anna", "PatientID": "7", "StudyInstanceUID": "1.2.3", "BurnedInAnnotation": "NO"}
    for name in IDS:
        write_dicom(tmp_path / "in" / name, np.zeros((96, 60)), **tags, PixelSpacing=[0.1, 0.1])
    table = xai.export_maps({"lrp": MAPS["lrp"]}, tmp_path / "out", ("dicom",), ds=ds, dicom=tmp_path / "in")
    found = [pydicom.dcmread(tmp_path / "out" / name) for name in table["file"]]
    sources = [pydicom.dcmread(tmp_path / "in" / name) for name in IDS]
    for one, source in zip(found, sources, strict=True):
        assert one.SOPClassUID == one.file_meta.MediaStorageSOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert all(one[name].value == source[name].value for name in tags)
        assert [one[name].value or "" for name in ("PatientBirthDate", "AccessionNumber")] == ["", ""], "not guessed"
        assert one.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert "PixelSpacing" not in one
        assert all("NOT FOR DIAGNOSIS" in text for text in (one.SeriesDescription, one.ImageComments))
        assert one.pixel_array.shape[1:] == (64, 3)
        assert not one.pixel_array[48:, [0, -1]].any(), "nothing of the warning is cut"
        assert one.pixel_array[48:].max() > 150, "the warning below the picture"
    assert len({one.SOPInstanceUID for one in (*found, *sources)}) == 4
    assert found[0].SeriesInstanceUID == found[1].SeriesInstanceUID, "of one study and method"
    with Image.fromarray(found[1].pixel_array[:48]) as shown:
        assert shown.getpixel((0, 0))[2] > shown.getpixel((0, 0))[0]
    write_dicom(tmp_path / "in" / IDS[1], np.zeros((96, 60)))
    with pytest.raises(FileError, match="b.dcm: no secondary capture .* no StudyInstanceUID"):
        xai.export_maps(MAPS, tmp_path / "other", ("dicom",), ds=ds, dicom=tmp_path / "in")


def test_nifti(tmp_path, ds):
    if find_spec("nibabel") is None:
        with pytest.raises(ImportError, match="pip install nibabel"):
            xai.export_maps(MAPS, tmp_path, ("nifti",), ds=ds)
        return
    table = xai.export_maps(MAPS, tmp_path, ("nifti",), ds=ds, spacing=(0.2, 0.3))
    image = import_module("nibabel").load(tmp_path / table["file"].iloc[-1])
    np.testing.assert_array_equal(np.asarray(image.dataobj)[..., 0].T, MAPS["lrp"][1])
    assert image.header.get_zooms() == pytest.approx((0.3, 0.2, 1))
    assert image.get_data_dtype() == np.float32
