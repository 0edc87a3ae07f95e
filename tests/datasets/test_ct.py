"""CT: the phantom, whose classes differ in the blood alone, and one slice a patient of a DICOM tree."""

import numpy as np
import pytest
from PIL import Image
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import find_leaks, phantom


@pytest.mark.parametrize("size", [32, 96])
def test_twins_differ_in_every_pixel_of_the_blood_and_nowhere_else(size):
    for seed in range(8):
        found = phantom.generate_ct(seed, size)
        twin = phantom.generate_ct(seed, size, label=1 - found.label)
        assert (found.label, twin.label) == (seed % 2, 1 - seed % 2)
        shown = [np.rint(255 * p.image) for p in (found, twin)]
        np.testing.assert_array_equal(shown[0] != shown[1], found.blood)
        np.testing.assert_array_equal(found.evidence > 0, found.blood)
        added = (twin.hu - found.hu)[found.blood] * (1 if twin.label else -1)
        np.testing.assert_allclose(added, found.iodine[found.blood], atol=1e-3)
        assert 120 <= added.min() <= added.max() <= 250
        assert 0.02 < found.blood.mean() < 0.12
    with pytest.raises(ValueError, match="label=2; expected 0"):
        phantom.generate_ct(0, 32, label=2)


def test_noise_has_the_power_of_filtered_back_projection():
    """The twin without noise is not kept, so it is the air around the body that shows the noise alone."""
    air = np.stack([phantom.generate_ct(seed, 128).hu[:16, :16] for seed in range(40)])
    power = (np.abs(np.fft.fft2(air - air.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    low, peak, high = (power[(a < frequency) & (frequency < b)].mean() for a, b in ((0, 0.08), (0.15, 0.3), (0.6, 0.8)))
    assert peak > 1.5 * low
    assert peak > 5 * high


def test_the_phantom_as_a_data_set():
    ds = xai.load_dataset("ct_phantom", "train", image_size=32, limit=6)
    assert ds.labels.tolist() == [0, 1] * 3
    assert ds.class_names == ("without contrast", "with contrast")
    np.testing.assert_array_equal(ds.masks[2], phantom.generate_ct(2, 32).blood)
    assert find_leaks({"train": ds, "test": xai.load_dataset("ct_phantom", "test", image_size=32, limit=6)}) == []


# LIDC-IDRI --------------------------------------------------------------------------------------------------------


def write_patient(root, patient, agent="", n=5, series="1", **tags):
    """Slices of 32 pixels, HU 10 k at height k between a black and a white row, stored from the top downward."""
    for k in range(n):
        pixels = np.full((32, 32), 1024 + 10 * k)
        pixels[0], pixels[-1] = 0, 3000
        stated = {"PatientID": patient, "SeriesInstanceUID": f"1.2.{series}", "Modality": "CT", "RescaleSlope": 1}
        stated |= {"RescaleIntercept": -1024, "ImagePositionPatient": [0, 0, 2.5 * k], "WindowCenter": 0}
        stated |= {"WindowWidth": 10, **({"ContrastBolusAgent": agent} if agent is not None else {}), **tags}
        path = root / patient / series / f"{n - k:06d}.dcm"
        write_dicom(path, pixels, 12, **stated)


@pytest.fixture
def lidc(tmp_path):
    """Ten patients with two series each, odd ones with contrast; a radiograph and a broken file."""
    for i in range(10):
        write_patient(tmp_path, f"P{i}", "OMNIPAQUE" if i % 2 else ("", None)[i % 4 // 2])
        write_patient(tmp_path, f"P{i}", "", n=2, series="2")
    write_patient(tmp_path, "P0", n=9, series="3", Modality="DX")
    (tmp_path / "P1" / "broken.dcm").write_bytes(b"no")
    return tmp_path


def load(root, split="all", **options):
    return xai.load_dataset("lidc_ct", split, image_size=32, data_dir=root, **options)


def inner(ds):
    return ds.pixels[:, 1:-1]


def test_one_slice_a_patient_by_place_window_and_bolus(lidc):
    ds = load(lidc)
    assert ds.ids == [f"P{i}" for i in range(10)]
    assert ds.patients == ds.ids
    assert ds.labels.tolist() == [0, 1] * 5
    middle = np.rint(255 * (20 + 160) / 400)  # HU 20; not by the file's window
    assert (inner(ds) == middle).all()
    assert [len(load(lidc, s)) for s in ("train", "val", "test")] == [7, 1, 2]
    assert ds.metadata["slices"].tolist() == [5] * 10
    assert any("broken.dcm" in path for path, _ in ds.skipped)
    assert (inner(load(lidc, place=1.0)) == np.rint(255 * (40 + 160) / 400)).all()
    assert (inner(load(lidc, place=0, window=(0, 100))) == np.rint(255 * 0.5)).all()


def test_a_table_and_masks_say_what_headers_do_not(lidc):
    lines = [f"P{i};{('yes', '0')[i % 2]}" for i in range(9)]
    (lidc / "contrast.csv").write_text("\n".join(["PatientID;contrast", *lines]))
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 255
    (lidc / "blood").mkdir()
    Image.fromarray(mask).save(lidc / "blood" / "P3.png")
    ds = load(lidc, contrast_table="contrast.csv", masks="blood")
    assert ds.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert ("P9", "contrast.csv has no row of this patient") in ds.skipped
    np.testing.assert_array_equal(ds.masks[3], mask > 0)
    assert ds.evidence.tolist().count("known") == 1


@pytest.mark.parametrize(
    ("cells", "words"), [("P0,1\nP1,perhaps", "contrast of P1 is 'perhaps'"), ("P0,1\nP0,0", "both with and without")]
)
def test_a_wrong_table_is_refused(lidc, cells, words):
    (lidc / "contrast.csv").write_text(f"PatientID,contrast\n{cells}\n")
    with pytest.raises(ValueError, match=words):
        load(lidc, contrast_table="contrast.csv")


def test_what_is_wrong_is_named(lidc, tmp_path_factory):
    with pytest.raises(ValueError, match=r"place=1.5; expected a number from 0"):
        load(lidc, place=1.5)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="no CT slice"):
        load(empty)
    write_patient(empty, "A", "X")
    with pytest.raises(ValueError, match=r"one class alone \(without contrast: 0, with contrast: 1\)"):
        load(empty)
    write_patient(empty, "B", ImagePositionPatient=None)
    with pytest.raises(ValueError, match="B: 0000.*has no ImagePositionPatient"):
        load(empty)
    for patient, odd in (("B", "X"), ("C", "")):
        write_patient(empty, patient, odd)
    write_dicom(
        empty / "C" / "1" / "9.dcm", np.ones((32, 32)), 12, PatientID="C", SeriesInstanceUID="1.2.1", Modality="CT",
        ImagePositionPatient=[0, 0, 50], ContrastBolusAgent="X",
    )  # fmt: skip
    with pytest.raises(ValueError, match="C: some slices of a series name a ContrastBolusAgent"):
        load(empty)
