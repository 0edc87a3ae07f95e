"""CBIS-DDSM and INbreast in their true layouts, and the preparation of mammograms."""

import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trees import make_cbis, make_inbreast, mammogram, write_contours, write_dicom

import xaiutils as xai
from xaiutils.datasets import find_leaks
from xaiutils.datasets.loaders import cbis_ddsm, cbis_ddsm_tables, inbreast
from xaiutils.datasets.reading import breast_region as preparing
from xaiutils.datasets.reading import picture_file
from xaiutils.datasets.reading.cache import cache_folder
from xaiutils.datasets.reading.dicom import read_dicom
from xaiutils.datasets.reading.tables import read_csv


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("cbis")
    return root, make_cbis(root)


@pytest.fixture(scope="module")
def portuguese(tmp_path_factory):
    root = tmp_path_factory.mktemp("inbreast")
    make_inbreast(root)
    return root


def load(root, split="all", name="cbis_ddsm", **options):
    return xai.load_dataset(name, split, image_size=64, data_dir=root, **options)


# CBIS-DDSM ----------------------------------------------------------------------------------------------------------


def test_cbis_images_labels_and_masks(tree):
    root, facts = tree
    both = load(root, abnormality="both", overlapping_patients="keep")
    assert len(both) == facts["images"]
    mass = load(root)
    assert len(mass) == 32
    assert set(mass.metadata["abnormality"]) == {"mass"}
    assert mass.class_names == ("benign", "malignant")
    assert mass.masks.any(axis=(1, 2)).all()
    assert mass.metadata["density"].isin(list("1234")).all()
    assert mass.patients[0] == "P_00001"
    by_id = dict(zip(mass.ids, mass.labels, strict=True))
    assert (
        by_id["mass_train/P_00003_LEFT_CC" if "mass_train/P_00003_LEFT_CC" in by_id else "mass_train/P_00003_RIGHT_CC"]
        == 1
    )
    assert by_id["mass_train/P_00003_RIGHT_MLO"] == 0


def test_cbis_masks_lie_on_the_lesions(tree):
    """Mask and crop are swapped in every third series, and pictures are turned and cropped: masks must follow."""
    ds = load(tree[0], region="whole", keep_aspect=False, align=False)
    for i in range(len(ds)):
        patient = int(ds.patients[i][2:])
        _, lesion = mammogram(100 * patient + 10 * ("MLO" in ds.ids[i]), right="RIGHT" in ds.ids[i])
        if patient == 3 and "CC" in ds.ids[i]:
            lesion = lesion | np.roll(lesion, 20, axis=0)
        expected = np.asarray(Image.fromarray(lesion).resize((64, 64), Image.Resampling.NEAREST))
        overlap = (ds.masks[i] & expected).sum() / (ds.masks[i] | expected).sum()
        assert overlap > 0.85, ds.ids[i]
    turned = load(tree[0], region="whole", keep_aspect=False)
    right = np.array(["RIGHT" in i for i in ds.ids])
    assert turned.metadata["turned"].to_numpy()[right].mean() > 0.9
    flips = turned.metadata["turned"].to_numpy(bool)
    np.testing.assert_array_equal(turned.masks[flips], ds.masks[flips][:, :, ::-1])


@pytest.mark.parametrize("layout", ["nbia", "flat", "jpeg"])
def test_cbis_layouts_agree(tree, tmp_path, layout):
    make_cbis(tmp_path, layout=layout)
    one, other = load(tree[0], abnormality="both"), load(tmp_path, abnormality="both")
    assert one.ids == other.ids
    np.testing.assert_array_equal(one.labels, other.labels)
    if layout == "jpeg":
        difference = np.abs(one.pixels.astype(int) - other.pixels).mean()
        assert difference < 25  # 8-bit JPEGs are not stretched to the breast's percentiles
        assert (one.masks != other.masks).mean() < 0.01
    else:
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.masks, other.masks)


def test_patients_in_both_splits(tree):
    """Patients with masses in test and calcifications in train are left out of train by default, and that is said."""
    options = {"abnormality": "both"}
    parts = {s: load(tree[0], s, **options) for s in ("train", "val", "test")}
    assert not [leak for leak in find_leaks(parts) if leak["kind"] == "patient"]
    assert any(
        "4 patients are in both official splits; 8 images are left out (drop_train)" in n for n in parts["train"].notes
    )
    kept = {s: load(tree[0], s, **options, overlapping_patients="keep") for s in ("train", "val", "test")}
    assert len([leak for leak in find_leaks(kept) if leak["kind"] == "patient"]) == 4
    assert "LEAK" in " ".join(kept["test"].notes)
    for rule, test_images, train_images in (("drop", 0, 32), ("drop_test", 0, 40)):
        found = xai.DATASETS["cbis_ddsm"].list_images(tree[0], **options, overlapping_patients=rule).records
        assert [sum(r.split == s for r in found) for s in ("test", "train")] == [test_images, train_images], rule


def test_images_with_findings_of_several_classes(tree):
    worst = load(tree[0])
    assert any("1 images have findings of several classes" in n for n in worst.notes)
    dropped = load(tree[0], mixed_images="drop")
    assert set(worst.ids) - set(dropped.ids) == {"mass_train/P_00003_RIGHT_CC"}
    three = load(tree[0], abnormality="both", task="pathology")
    assert three.class_names == ("benign without callback", "benign", "malignant")
    assert (np.bincount(three.labels) > 0).all()


def test_one_crop_for_each_finding(tree):
    ds = load(tree[0], region="roi", margin=0.5)
    assert len(ds) == 33
    assert [i for i in ds.ids if "P_00003_RIGHT_CC" in i] == [f"mass_train/P_00003_RIGHT_CC_{n}" for n in (1, 2)]
    share = ds.masks.mean(axis=(1, 2))
    assert (share > 0.03).all()
    rows = [np.flatnonzero(m.any(axis=1)) for m in ds.masks]
    middles = np.array([(r[0] + r[-1]) / 2 for r in rows])
    assert np.abs(middles - 31.5).max() < 4  # the finding is in the middle


def test_the_aspect_is_kept_or_squeezed(tree):
    kept, squeezed = (load(tree[0], region="whole", keep_aspect=k) for k in (True, False))
    columns = (kept.pixels.max(axis=(0, 1, 3)) > 0).nonzero()[0]
    assert columns[-1] - columns[0] + 1 == 32  # pictures are twice as high as wide
    assert columns[0] == 0  # the chest wall at the edge
    assert squeezed.pixels.max(axis=(0, 1, 3))[40:].max() > 0


@pytest.mark.parametrize("name", ["cbis_ddsm", "inbreast"])
def test_the_aspect_is_kept_unless_told_otherwise(tree, portuguese, name):
    root = tree[0] if name == "cbis_ddsm" else portuguese
    default, kept, squeezed = (
        load(root, name=name, region="whole", limit=2, **options)
        for options in ({}, {"keep_aspect": True}, {"keep_aspect": False})
    )
    np.testing.assert_array_equal(default.pixels, kept.pixels)
    assert (default.pixels != squeezed.pixels).any()


def test_missing_pictures_are_named(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "part")
    for folder in (tmp_path / "part" / "CBIS-DDSM").glob("Mass-Training_P_00001_*_CC"):
        shutil.rmtree(folder)
    ds = load(tmp_path / "part")
    assert len(ds) == 31
    assert ds.skipped == [("mass_train/P_00001_LEFT_CC", "no picture of it")]
    assert any(n.startswith("1 of 32 images in the tables have no picture") for n in ds.notes)


def test_a_broken_picture_and_a_missing_mask_are_named(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "part")
    full = next((tmp_path / "part").rglob("Mass-Training_P_00001_*_CC/**/*.dcm"))
    full.write_bytes(full.read_bytes()[:-1000])
    crops = sorted((tmp_path / "part").rglob("Mass-Training_P_00002_*_CC_1/**/*.dcm"))
    crops[1].unlink() if crops[0].stat().st_size < crops[1].stat().st_size else crops[0].unlink()
    with pytest.warns(UserWarning, match="1 of 32 files could not be read"):
        ds = load(tmp_path / "part")
    assert "cannot be decoded" in ds.skipped[0][1]
    assert any("P_00002_" in note and "is a mask of its finding" in note for note in ds.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"abnormality": "masses"}, "abnormality='masses' is unknown; did you mean mass"),
        ({"task": "birads"}, "task='birads' is unknown"),
        ({"region": "lesion"}, "region='lesion' is unknown; .*whole, breast, roi"),
        ({"percentiles": [99, 1]}, "two rising numbers"),
        ({"percentiles": "all"}, "two rising numbers"),
        ({"margin": -1}, "margin=-1; expected a number from 0"),
        ({"overlapping_patients": "ignore"}, "drop_train, drop_test, drop, keep"),
    ],
)
def test_cbis_options_are_checked(tree, options, words):
    with pytest.raises(ValueError, match=words):
        load(tree[0], **options)


def test_cbis_says_where_to_get_it(tmp_path, tree):
    with pytest.raises(FileNotFoundError, match=r"lacks mass_case_description_train_set\.csv.*cancerimagingarchive"):
        load(tmp_path)
    shutil.copytree(tree[0] / "csv", tmp_path / "csv")
    with pytest.raises(FileNotFoundError, match="none of the 32 images in the tables .* has a picture"):
        load(tmp_path)
    table = tmp_path / "csv" / "mass_case_description_test_set.csv"
    table.write_text(table.read_text().replace("pathology", "outcome"))
    with pytest.raises(ValueError, match=r"test_set\.csv has no column 'pathology'; it has .*outcome"):
        load(tmp_path)


def test_the_official_tables_give_the_official_counts(kit):
    files = list((kit / "cbis_ddsm" / "metadata").glob("*.csv"))
    found = cbis_ddsm_tables.read_tables(files, ("mass", "calc"), kit)
    images = found.groupby(["kind", "split", "patient", "side", "view"])
    assert found.groupby(["kind", "split"]).size().to_dict() == {
        ("calc", "test"): 326, ("calc", "train"): 1546, ("mass", "test"): 378, ("mass", "train"): 1318
    }  # fmt: skip
    per_split = images.ngroup().groupby(found["split"]).nunique()
    assert per_split.to_dict() == {"train": 2458, "test": 645}
    kinds = found.assign(m=found["pathology"] == "MALIGNANT").groupby(["kind", "split", "patient", "side", "view"])["m"]
    mixed = (kinds.nunique() > 1).groupby("split").sum()
    assert mixed.to_dict() == {"train": 13, "test": 4}
    kept, notes = cbis_ddsm_tables.separate_patients(found, "drop_train")
    assert notes[0].startswith("31 patients are in both official splits")
    assert not set(kept[kept["split"] == "train"]["patient"]) & set(kept[kept["split"] == "test"]["patient"])
    assert found["image uids"].ne("").all()
    assert found["roi uids"].map(len).gt(0).all()


def test_a_short_name_counts_in_the_folder_of_its_kind_and_its_split(tmp_path):
    """The same breast is in several folders, as another image."""
    files = []
    for folder in ("mass_train", "calc_test", "mass_test"):
        files.append(tmp_path / folder / "00001_LEFT_CC.jpg")
        files[-1].parent.mkdir()
        files[-1].write_bytes(b"")
    finding = {"kind": "mass", "split": "test", "patient": "P_00001", "side": "LEFT", "view": "CC", "image uids": ""}
    rows = pd.DataFrame([finding])
    assert cbis_ddsm.PictureFinder(files, tmp_path).full(rows) == files[2]
    assert cbis_ddsm.PictureFinder(files[:2], tmp_path).full(rows) is None


def test_the_kits_mammograms(kit):
    ds = xai.load_dataset("cbis_ddsm", "test", image_size=64, data_dir=kit / "cbis_ddsm")
    assert len(ds) == 361
    assert np.bincount(ds.labels).tolist() == [216, 145]
    assert ds.masks.any(axis=(1, 2)).mean() > 0.98
    assert len(set(ds.patients)) == 201
    found = xai.DATASETS["cbis_ddsm"].list_images(kit / "cbis_ddsm")
    assert [sum(r.split == s for r in found.records) for s in ("train", "test")] == [1231, 361]
    assert sum(r.metadata["findings"] for r in found.records) == 1318 + 378
    crops = xai.DATASETS["cbis_ddsm"].list_images(kit / "cbis_ddsm", region="roi")
    assert len(crops.records) + len(crops.skipped) == 1318 + 378
    assert len(crops.skipped) < 40


def test_findings_without_a_mask_are_counted(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "part")
    for folder in (tmp_path / "part" / "CBIS-DDSM").glob("Mass-Training_P_0000[13]_*_1"):
        shutil.rmtree(folder)
    ds = load(tmp_path / "part")
    assert len(ds) == 32
    assert any(n.startswith("4 findings have no mask or box") for n in ds.notes)
    assert any(n.startswith("3 of 32 images of all have no mask") for n in ds.notes)
    assert (ds.metadata["findings_drawn"] < ds.metadata["findings"]).sum() == 4


def test_a_film_that_is_in_the_set_twice_gets_one_label(tree):
    """Patient 10's masses are benign; make its calcifications malignant."""
    table = tree[0] / "csv" / "calc_case_description_train_set.csv"
    before = table.read_text()
    rows = before.splitlines()
    table.write_text(
        "\n".join(r.replace("BENIGN_WITHOUT_CALLBACK", "MALIGNANT") if "P_00010" in r else r for r in rows)
    )
    try:
        both = load(tree[0], abnormality="both")
        labels = {i.split("/")[1]: set() for i in both.ids}
        for i, y in zip(both.ids, both.labels, strict=True):
            labels[i.split("/")[1]].add(int(y))
        assert all(len(found) == 1 for found in labels.values())
        assert any(
            "2 views have other labels as masses than as calcifications; both get the worst" in n for n in both.notes
        )
        dropped = load(tree[0], abnormality="both", mixed_images="drop")
        assert not any("P_00010" in i for i in dropped.ids)
    finally:
        table.write_text(before)


# Preparation --------------------------------------------------------------------------------------------------------


def test_the_breast_is_found():
    """Against the phantom's known outline, also beside a bright label and in a film's white frame."""
    from xaiutils.datasets import phantom

    scores = []
    for seed in range(12):
        found = phantom.generate(seed, 256)
        image = np.rint(60000 * found.image).astype(np.float32)
        image[:3], image[-3:] = 60000, 60000
        breast = preparing.segment_breast(image)
        truth = found.breast | found.pectoral
        scores.append((breast & truth).sum() / (breast | truth).sum())
    assert min(scores) > 0.8
    assert not preparing.segment_breast(np.zeros((50, 40), np.float32)).any()


@given(st.integers(-30, 30), st.integers(1, 60), st.integers(-30, 30), st.integers(1, 60))
def test_cutting_equals_padding_and_slicing(top, height, left, width):
    picture = np.arange(1, 20 * 30 + 1).reshape(20, 30)
    padded = np.zeros((140, 150), int)
    padded[60:80, 60:90] = picture
    found = preparing.cut(picture, (top, top + height, left, left + width))
    if max(top, 0) < min(top + height, 20) and max(left, 0) < min(left + width, 30):
        np.testing.assert_array_equal(found, padded[60 + top : 60 + top + height, 60 + left : 60 + left + width])


def test_percentiles_of_the_breast_become_black_and_white(tree):
    wide = load(tree[0], region="whole", percentiles=[])
    stretched = load(tree[0], region="whole", percentiles=[1, 99])
    assert np.median(stretched.pixels.max(axis=(1, 2, 3))) > 250
    assert np.median(wide.pixels.max(axis=(1, 2, 3))) < 240
    breast = wide.pixels > 40  # the part of the picture that the percentiles are of
    spread = [np.array([p[b].std() for p, b in zip(d.pixels, breast, strict=True)]) for d in (stretched, wide)]
    assert np.median(spread[0] / spread[1]) > 1.2


def test_black_background_removes_what_is_not_breast(tree):
    plain, clean = (load(tree[0], region="whole", black_background=b, percentiles=[]) for b in (False, True))
    assert ((clean.pixels == 0).sum(axis=(1, 2, 3)) >= (plain.pixels == 0).sum(axis=(1, 2, 3))).all()
    same = clean.pixels == plain.pixels
    assert 0.5 < same.mean() < 1


# The cache ----------------------------------------------------------------------------------------------------------


def test_converted_pictures_are_kept_and_damage_is_found(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    first = load(tree[0])
    reads = []
    real = picture_file.read_frame
    monkeypatch.setattr(picture_file, "read_frame", lambda *a: reads.append(a) or real(*a))
    again = load(tree[0])
    assert not reads
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.masks, again.masks)
    pd.testing.assert_frame_equal(first.metadata, again.metadata)
    kept = sorted((cache_folder() / "pictures").rglob("*.png"))
    assert len(kept) == 32
    raw = kept[0].read_bytes()
    kept[0].write_bytes(raw[: len(raw) // 2])
    kept[1].write_bytes(b"")
    Image.open(kept[2]).convert("LA").save(kept[2])  # a whole picture, but not ours
    text = kept[3].read_bytes()
    kept[3].write_bytes(text.replace(b'"height": 320', b'"height": 321'))
    mended = load(tree[0])
    assert len(reads) == 4
    np.testing.assert_array_equal(first.pixels, mended.pixels)
    pd.testing.assert_frame_equal(first.metadata, mended.metadata)
    load(tree[0], region="whole")
    assert len(reads) == 36


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tree, monkeypatch, tmp_path):
    (tmp_path / "pictures").write_text("a file in the way")
    monkeypatch.setenv("XAI_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="converted pictures cannot be kept"):
        assert len(load(tree[0])) == 32


def test_a_rewritten_file_is_converted_again(tmp_path):
    for label in "ab":
        for i in range(3):
            write_dicom(tmp_path / label / f"{i}.dcm", np.full((16, 16), 1000 + 100 * i), 12)
    first = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    write_dicom(tmp_path / "a" / "0.dcm", np.full((16, 16), 4000), 12)
    second = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    assert first.pixels[0].max() < 100 < second.pixels[0].min()


# INbreast -----------------------------------------------------------------------------------------------------------


def test_inbreast_images_labels_and_masks(portuguese):
    ds = load(portuguese, name="inbreast", keep_aspect=False, region="whole", align=False)
    assert len(ds) == 48
    grades = ds.metadata["bi-rads"].str[0].astype(int).to_numpy()
    np.testing.assert_array_equal(ds.labels, grades >= 4)
    marked = ds.masks.any(axis=(1, 2))
    np.testing.assert_array_equal(marked, grades >= 3)
    assert ds.metadata["mm_per_pixel"].between(0.1, 0.4).all()
    assert ds.metadata["lesion_mm"].dropna().between(0.5, 20).all()
    for i in np.flatnonzero(marked):
        image, lesion = mammogram(7001 + i, right=ds.metadata["side"][i] == "R")
        expected = np.asarray(Image.fromarray(lesion).resize((64, 64), Image.Resampling.NEAREST))
        assert (ds.masks[i] & expected).sum() > 0.95 * expected.sum()
        shown = np.asarray(Image.fromarray((255 * image).astype(np.uint8)).resize((64, 64), Image.Resampling.BILINEAR))
        assert np.corrcoef(shown.ravel(), ds.pixels[i, ..., 0].ravel())[0, 1] > 0.95, "MONOCHROME1 must be inverted"


def test_inbreast_splits_by_patient(portuguese):
    parts = {s: load(portuguese, s, name="inbreast") for s in ("train", "val", "test")}
    assert not [leak for leak in find_leaks(parts) if leak["kind"] == "patient"]
    assert len(set(parts["test"].patients)) == round(24 * 25 / 115)
    assert sum(map(len, parts.values())) == 48
    other = load(portuguese, "test", name="inbreast", seed=1)
    assert set(other.patients) != set(parts["test"].patients)


def test_inbreast_tasks(portuguese):
    six = load(portuguese, name="inbreast", task="birads")
    assert six.class_names == tuple(f"BI-RADS {i}" for i in range(1, 7))
    assert set(six.labels) == set(range(6))
    three = load(portuguese, name="inbreast", malignant_from=3)
    assert three.labels.sum() > load(portuguese, name="inbreast").labels.sum()
    crops = load(portuguese, name="inbreast", region="roi")
    assert len(crops) == int((six.labels >= 2).sum())
    only = load(portuguese, name="inbreast", findings=["Calcification"], region="whole")
    assert 0 < only.masks.sum() < load(portuguese, name="inbreast", region="whole").masks.sum()


def test_missing_contours_are_not_taken_for_no_finding(portuguese, tmp_path):
    shutil.copytree(portuguese, tmp_path / "pectoral_study")
    root = tmp_path / "pectoral_study"
    whole = load(root, name="inbreast")  # the folder's name does not hide its contours
    assert whole.masks.any(axis=(1, 2)).sum() == 30
    for path in sorted((root / "AllXML").iterdir())[:10]:
        path.unlink()
    part = load(root, name="inbreast")
    known = part.metadata["bi-rads"].isin(["1"]).sum()
    assert any(f"{48 - 20 - known} of 48 images of all have no mask" in n for n in part.notes)
    shutil.rmtree(root / "AllXML")
    assert load(root, name="inbreast").masks is None


def test_crops_need_a_finding_of_the_chosen_kind(portuguese):
    ds = load(portuguese, name="inbreast", region="roi", findings=["Cluster", "Mass"])
    assert any("18 images have no contour to crop to" in n for n in ds.notes)
    with pytest.raises(ValueError, match="none has the contours that region='roi' needs"):
        load(portuguese, name="inbreast", region="roi", findings=["Cluster"])


def test_exports_of_inbreast(portuguese, tmp_path):
    """16-bit PNGs keep their bits until the breast is known; a smaller export does not fit the contours."""
    shutil.copytree(portuguese / "AllXML", tmp_path / "AllXML")
    shutil.copy(portuguese / "INbreast.csv", tmp_path)
    for path in sorted((portuguese / "AllDICOMs").iterdir()):
        frame = read_dicom(path)
        Image.fromarray(frame.pixels.astype(np.uint16)).save(tmp_path / f"{path.name[:8]}.png")
    exported, original = load(tmp_path, name="inbreast"), load(portuguese, name="inbreast")
    assert np.abs(exported.pixels.astype(int) - original.pixels[np.argsort(original.ids)]).max() <= 1
    assert exported.patients is None  # their names do not tell
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            image.resize((image.width // 4, image.height // 4)).save(path)
    with pytest.warns(UserWarning, match=r"has the point .* outside its picture .* pixels of the DICOM file"):
        small = load(tmp_path, name="inbreast")
    assert len(small) == len(exported)
    assert small.masks is None or small.masks.sum() < exported.masks.sum()


def test_inbreast_splits_do_not_depend_on_the_folders(portuguese, tmp_path):
    shutil.copytree(portuguese, tmp_path / "other")
    for i, path in enumerate(sorted((tmp_path / "other" / "AllDICOMs").iterdir())):
        target = tmp_path / "other" / f"z{i % 3}"
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    one, two = load(portuguese, "test", name="inbreast"), load(tmp_path / "other", "test", name="inbreast")
    assert set(one.patients) == set(two.patients)


def test_an_image_number_given_twice_is_refused(portuguese, tmp_path):
    shutil.copytree(portuguese / "AllDICOMs", tmp_path / "AllDICOMs")
    table = (portuguese / "INbreast.csv").read_text()
    (tmp_path / "INbreast.csv").write_text(table + table.splitlines()[3] + "\n")
    with pytest.raises(ValueError, match=r"has the image 20586902 in more than one row"):
        load(tmp_path, name="inbreast")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"malignant_from": 7}, "expected an integer from 2 to 6, a BI-RADS"),
        ({"findings": ["Masses"]}, "did you mean Mass"),
        ({"task": "six"}, "binary, birads"),
    ],
)
def test_inbreast_options_are_checked(portuguese, options, words):
    with pytest.raises(ValueError, match=words):
        load(portuguese, name="inbreast", **options)


def test_inbreast_says_where_to_get_it(tmp_path, portuguese):
    with pytest.raises(FileNotFoundError, match="holds no INbreast pictures .* on request"):
        load(tmp_path, name="inbreast")
    shutil.copytree(portuguese / "AllDICOMs", tmp_path / "AllDICOMs")
    with pytest.raises(FileNotFoundError, match=r"lacks INbreast\.xls or INbreast\.csv"):
        load(tmp_path, name="inbreast")
    table = (portuguese / "INbreast.csv").read_text()
    (tmp_path / "INbreast.csv").write_text(table.replace("Bi-Rads", "Grade"))
    with pytest.raises(ValueError, match=r"INbreast\.csv has no column 'bi-rads'; it has .*grade"):
        load(tmp_path, name="inbreast")
    (tmp_path / "INbreast.csv").write_text(table.replace(";4a", ";?"))
    with pytest.raises(ValueError, match="has no BI-RADS from 1 to 6"):
        load(tmp_path, name="inbreast")
    (tmp_path / "INbreast.xls").write_bytes(b"no Excel")
    with pytest.raises(ValueError, match=r"INbreast\.xls: it cannot be read as an Excel table"):
        load(tmp_path, name="inbreast")


def test_the_real_tables(kit, tmp_path):
    """BI-RADS counts of the publication; 100 of 410 images are over 3. Excel and CSV agree."""
    tables = {p.suffix: inbreast.read_table([p], kit) for p in (kit / "inbreast").glob("INbreast.*")}
    for table in tables.values():
        assert table["birads"].value_counts().to_dict() == {1: 67, 2: 220, 3: 23, 4: 43, 5: 49, 6: 8}
        assert table["bi-rads"].str.startswith("4c").sum() == 22
    columns = ["birads", "side", "view", "density"]
    pd.testing.assert_frame_equal(tables[".xls"][columns].sort_index(), tables[".csv"][columns].sort_index())
    shutil.copy(kit / "inbreast" / "INbreast.xls", tmp_path)
    make_inbreast(tmp_path, 12, numbers=list(tables[".xls"].index[:24]))
    ds = load(tmp_path, name="inbreast")
    assert len(ds) == 24
    assert any("386 of 410 images in the table have no picture" in n for n in ds.notes)


def test_the_kits_contours(kit):
    found = inbreast.read_contours(next((kit / "inbreast").glob("*.xml")))
    assert [c.name for c in found] == ["Mass", "Calcification"]
    assert len(found[0].points) == 37
    mask = inbreast.draw_contours(found[:1], (4084, 3328)).mask
    centre = np.argwhere(mask).mean(axis=0)
    np.testing.assert_allclose(centre[::-1], (1850.6, 1437.4), atol=40)  # the centre that the file states


def test_both_layouts_of_contours_agree(tmp_path):
    mask = np.zeros((100, 80), bool)
    mask[20:60, 10:50] = True
    rois = inbreast.read_contours(write_contours(tmp_path / "a.xml", mask))
    points = inbreast.read_contours(write_contours(tmp_path / "b.xml", mask, "points"))
    assert rois[0].points == points[0].points
    np.testing.assert_array_equal(inbreast.draw_contours(points, mask.shape).mask, mask)
    dot = inbreast.draw_contours(rois[1:], mask.shape).mask
    assert 20 < dot.sum() < 40
    assert dot[8, 10]


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda t: f"<plist><dict>{t}</dict></plist>".encode()))
def test_any_bytes_as_contours_give_contours_or_a_clear_error(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    path.write_bytes(raw)
    try:
        inbreast.read_contours(path)
    except ValueError as error:
        assert "a.xml" in str(error)


def test_hostile_xml_is_refused(tmp_path):
    dictionary = "<dict><key>Images</key><string>&x;</string></dict>"
    bomb = f'<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">]><plist version="1.0">{dictionary}</plist>'
    (tmp_path / "a.xml").write_text(bomb)
    with pytest.raises(ValueError, match=r"a\.xml: it is not a plist"):
        inbreast.read_contours(tmp_path / "a.xml")


@given(st.binary(max_size=300))
def test_any_bytes_as_a_table_give_a_table_or_a_clear_error(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(raw)
    try:
        table = read_csv(path)
        assert all(isinstance(c, str) for c in table.columns)
    except ValueError as error:
        assert "a.csv" in str(error)
