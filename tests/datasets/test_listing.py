"""What is below a data folder, and what becomes of it: every file counted, masks and patients known by their folders,
names of classes as they are written, paths of other machines."""

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import find_leaks, inventory
from xaiutils.datasets.prepared_splits import write_dataset


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(f"{path}{seed}".encode()))
    Image.fromarray(rng.integers(0, 255, (16, 20), np.uint8)).save(path)
    return path


def mask(path: Path, column: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((16, 20), np.uint8)
    pixels[4:8, column : column + 5] = 255
    Image.fromarray(pixels).save(path)
    return path


def load(root: Path, split: str = "all", **options):
    return xai.load_dataset("folder", split, image_size=16, data_dir=root, **options)


def counted(ds) -> dict[str, int]:
    return dict(zip(ds.files["kind"], ds.files["files"].tolist(), strict=True))


# The account --------------------------------------------------------------------------------------------------------


def test_half_of_the_set_is_dicom_without_a_suffix(tmp_path):
    for i in range(5):
        photo(tmp_path / "a" / f"{i}.png")
        write_dicom(tmp_path / "b" / f"IM{i:05d}", np.arange(64).reshape(8, 8) * 4 + i, bits=8)
        write_dicom(tmp_path / "b" / f"1.2.840.113619.{i}", np.arange(64).reshape(8, 8) * 3 + i, bits=8)
    ds = load(tmp_path)
    assert np.bincount(ds.labels).tolist() == [5, 10]
    assert counted(ds) == {"picture": 15}


def test_every_kind_of_file_is_counted(tmp_path):
    for i in range(4):
        photo(tmp_path / "a" / f"{i}.png")
        photo(tmp_path / "b" / f"{i}.PNG")
        photo(tmp_path / "c" / f"{i}.jpg")
    mask(tmp_path / "a" / "0_mask.png")
    (tmp_path / "b" / "twice.png").write_bytes((tmp_path / "b" / "0.PNG").read_bytes())
    (tmp_path / "b" / "damaged.png").write_bytes(b"no picture")
    for name in ("a/x.jp2", "a/x.tga", "b/volume.nii", "b/volume.nii.gz", "b/array.npy", "b/noname"):
        (tmp_path / name).write_bytes(b"something")
    for name in (".hidden/x.png", "__MACOSX/._x.png", "a/.DS_Store", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "README.md").write_text("read me")
    (tmp_path / "a" / "nothing.dat").touch()
    photo(tmp_path / "outside.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "round").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(
        UserWarning, match=r"not all files below the data folder are used: .*6 files not understood \(such as"
    ):
        ds = load(tmp_path, classes=["a", "b"])
    expected = {
        "picture": 8, "picture, twice": 1, "picture of a class not chosen": 4, "picture not used": 1, "mask": 1,
        "damaged": 1, "empty file": 1, "not understood": 6, "table or text not used": 1, "hidden": 4, "not a file": 2,
    }  # fmt: skip
    assert counted(ds) == expected
    assert any(note.startswith("Not all files below the data folder are used") for note in ds.notes)
    (tmp_path / "b" / "damaged.png").unlink()
    limited = counted(load(tmp_path, classes=["a", "b"], limit=6))
    assert limited["picture"] + limited.get("picture, twice", 0) == 6
    assert limited["picture beyond the limit"] == 3
    strange = ds.files.set_index("kind").loc["not understood", "examples"]
    assert all(suffix in strange for suffix in (".jp2", ".tga", ".nii"))
    kept = write_dataset(ds, tmp_path.parent / f"{tmp_path.name}-kept")
    pd.testing.assert_frame_equal(kept.files, ds.files)
    assert ds.take(2).files is ds.files


def test_the_splits_of_a_set_account_for_each_other(tmp_path):
    for label in "ab":
        for i in range(10):
            photo(tmp_path / label / f"{i}.png")
    assert counted(load(tmp_path, "train")) == {"picture": 14, "picture of another split": 6}
    assert sum(counted(load(tmp_path, s))["picture"] for s in ("train", "val", "test")) == 20


_NAMES = st.sampled_from(
    ["x.png", "y.JPG", "z.dcm", "IM001", "1.2.3", ".dot", "Thumbs.db", "t.csv", "n.nii", "v.npy", "w.tga", "noname"]
)
_FOLDERS = st.sampled_from(["a", "b", "masks", ".git", "__MACOSX", "a/p1", "b/p2/deep", "", "labels"])
_SORTS = st.sampled_from(["photo", "mask", "empty", "junk", "link", "lost link", "pipe", "dicom"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_FOLDERS, _NAMES, _SORTS), max_size=14))
def test_the_account_adds_up(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    for label in "ab":
        photo(root / label / "first.png")
        photo(root / label / "second.png")
    for folder, name, sort in tree:
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if sort in ("photo", "mask"):
            made = (photo if sort == "photo" else mask)(path.with_name("made.png"))
            made.rename(path)
        elif sort == "dicom":
            write_dicom(path, np.arange(64).reshape(8, 8), bits=8)
        elif sort == "link":
            path.symlink_to(root / "a" / "first.png")
        elif sort == "lost link":
            path.symlink_to(root / "nowhere")
        elif sort == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(b"" if sort == "empty" else b"junk")
    there = sum(len(files) for _, _, files in os.walk(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = load(root)
    assert ds.files["files"].sum() == there
    read = ds.files[ds.files["kind"].isin((inventory.PICTURE, inventory.TWICE))]["files"].sum()
    assert read == len(ds)
    assert set(ds.files["kind"]) <= set(inventory.MEANING)


def test_a_folder_that_may_not_be_read_is_counted_as_one(tmp_path, monkeypatch):
    photo(tmp_path / "open" / "a.png")
    photo(tmp_path / "closed" / "b.png")
    real = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    files = inventory.take_inventory(tmp_path, {})
    assert dict(zip(files["kind"], files["files"].tolist(), strict=True)) == {
        "picture not used": 1,
        "may not be read": 1,
    }


# Masks --------------------------------------------------------------------------------------------------------------


def classes_of_photos(root: Path, n: int = 4, place: str = "{label}") -> None:
    for label in ("benign", "malignant"):
        for i in range(n):
            photo(root / place.format(label=label) / f"{label[0]}{i}.png")


@pytest.mark.parametrize(
    ("images", "masks", "stem"),
    [
        ("{label}", "masks", "{stem}"),
        ("{label}", "Masken", "{stem}_mask"),
        ("{label}", "masks/{label}", "{stem}"),
        ("{label}", "annotations", "{stem}"),
        ("{label}", "segmentations/{label}", "{stem}-seg"),
        ("{label}", "Ground Truth", "{stem}"),
        ("{label}", "black and white", "{stem}"),  # by content alone
        ("images/{label}", "labels/{label}", "{stem}"),
        ("images/{label}", "masks", "mask_{stem}"),
        ("{label}/images", "{label}/masks", "{stem}"),
        ("{label}", "{label}/mask", "{stem}"),
        ("train/{label}", "train/masks", "{stem}"),
    ],
)
def test_folders_of_masks_are_no_class(tmp_path, images, masks, stem):
    classes_of_photos(tmp_path, place=images)
    for i in range(4):
        mask(tmp_path / masks.format(label="malignant") / f"{stem.format(stem=f'm{i}')}.png", i)
    ds = load(tmp_path)
    assert ds.class_names == ("benign", "malignant")
    assert np.bincount(ds.labels).tolist() == [4, 4]
    for i in range(4):
        where = next(n for n, name in enumerate(ds.ids) if name.endswith(f"/m{i}.png"))
        assert ds.evidence[where] == "known"
        columns = np.flatnonzero(ds.masks[where].any(axis=0)) * 20 / 16
        assert abs(columns[0] - i) < 1.5
    assert set(ds.evidence[ds.labels == 0]) == {"unknown"}
    assert counted(ds) == {"picture": 8, "mask": 4}
    assert not any("folder" in str(column) for column in ds.metadata)


@pytest.mark.parametrize("ending", ["-mask", "_Segmentation", " masks"])
def test_folders_of_masks_called_after_a_class_belong_to_it(tmp_path, ending):
    """Their pictures have the names of images of every class."""
    for label in ("benign", "malignant"):
        for i in range(4):
            photo(tmp_path / label / f"{i}.png", i)
            mask(tmp_path / f"{label}{ending}" / f"{i}.png", i if label == "benign" else 4 + i)
    ds = load(tmp_path)
    assert ds.class_names == ("benign", "malignant")
    assert counted(ds) == {"picture": 8, "mask": 8}
    starts = [np.flatnonzero(mask.any(axis=0))[0] * 20 / 16 for mask in ds.masks]
    np.testing.assert_allclose(starts, [*range(4), *range(4, 8)], atol=1.5)


def test_an_archive_is_named(tmp_path):
    classes_of_photos(tmp_path)
    for name in ("more.zip", "rest.tar.gz", "labels.csv.gz"):
        (tmp_path / name).write_bytes(b"packed")
    ds = load(tmp_path)
    assert counted(ds) == {"picture": 8, "archive, not unpacked": 2, "table or text not used": 1}
    assert any("2 archives not unpacked (such as more.zip, rest.tar.gz)" in note for note in ds.notes)


def test_masks_that_fit_no_image_or_several_are_named(tmp_path):
    for label in ("benign", "malignant"):
        for i in range(3):
            photo(tmp_path / label / f"{i}.png")
    for i in (1, 2, 7):
        mask(tmp_path / "masks" / f"{i}.png")
    with pytest.warns(
        UserWarning, match=r"3 of 3 masks, such as 'masks/1\.png', have the name of no image or of several"
    ):
        ds = load(tmp_path)
    assert ds.class_names == ("benign", "malignant")
    assert ds.masks is None
    assert counted(ds) == {"picture": 6, "mask without a picture": 3}


def test_photographs_in_a_folder_called_like_masks(tmp_path):
    """Of the images' names they are something else than a class; of names of their own they may be one."""
    classes_of_photos(tmp_path)
    for i in range(4):
        photo(tmp_path / "roi" / f"m{i}.png")
    with pytest.warns(UserWarning, match=r"'roi' is called like masks and holds 4 pictures of many grey values"):
        assert load(tmp_path).class_names == ("benign", "malignant")
    assert load(tmp_path, classes=["benign", "roi"]).class_names == ("benign", "roi")
    for i in range(4):
        (tmp_path / "roi" / f"m{i}.png").rename(tmp_path / "roi" / f"other{i}.png")
    with pytest.warns(
        UserWarning, match="'roi' is called like masks, but its pictures have many grey values and names"
    ):
        assert len(load(tmp_path).class_names) == 3


def test_drawings_and_people_with_masks_are_classes(tmp_path):
    for label in ("circle", "square"):
        for i in range(5):
            mask(tmp_path / "drawn" / label / f"{i}.png", i)
            photo(tmp_path / "faces" / ("with_mask" if label == "circle" else "without_mask") / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path / "drawn").class_names == ("circle", "square")
        assert load(tmp_path / "faces").class_names == ("with_mask", "without_mask")


def test_a_pattern_rules_over_folders_of_masks(tmp_path):
    classes_of_photos(tmp_path)
    for i in range(4):
        mask(tmp_path / "masks" / f"m{i}.png")
    assert (load(tmp_path, mask_pattern="..\\masks\\{stem}.png").evidence == "known").sum() == 4
    ds = load(tmp_path, mask_pattern="")
    assert ds.masks is None
    assert ds.class_names == ("benign", "malignant")


def test_healthy_images_beside_marked_ones_have_no_evidence(tmp_path):
    for label in ("normal", "benign", "malignant"):
        photo(tmp_path / label / f"{label}.png")
        photo(tmp_path / label / f"{label}2.png")
    mask(tmp_path / "malignant" / "malignant_mask.png")
    ds = load(tmp_path)
    state = dict(zip(ds.ids, ds.evidence, strict=True))
    assert [state[f"{c}/{c}.png"] for c in ("normal", "benign", "malignant")] == ["empty", "unknown", "known"]
    assert any("2 images of 'normal' without a mask are taken to have no evidence" in note for note in ds.notes)


# Patients -----------------------------------------------------------------------------------------------------------


def nested(root: Path, patients: int = 8, images: int = 4) -> None:
    for p in range(patients):
        for i in range(images):
            photo(root / ("benign" if p % 2 else "malignant") / f"P{p:03d}" / "left" / f"{i}.png")


def test_folders_below_a_class_are_offered_as_patients(tmp_path):
    nested(tmp_path)
    with pytest.warns(UserWarning, match=r"32 images lie in 8 folders below their classes, such as .*patient_from=1"):
        splits = {s: load(tmp_path, s) for s in ("train", "val", "test")}
    assert any("patient_from=1" in note for note in splits["train"].notes)
    straddling = [leak for leak in find_leaks(splits) if leak["kind"] == "folder"]
    assert len(straddling) > 2
    assert straddling[0]["what"].startswith(("benign/P", "malignant/P"))


@pytest.mark.parametrize(("patients", "suggested"), [(2, False), (3, True)])
def test_one_folder_in_each_of_two_classes_is_not_suggested_as_a_patient(tmp_path, patients, suggested):
    nested(tmp_path, patients)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load(tmp_path)
    assert any("patient_from=1" in str(warning.message) for warning in said) is suggested


@pytest.mark.parametrize("how", [1, "1", r"/(P\d+)/", r"(?P<patient>P\d+)", r"P\d+"])
def test_patients_from_folders_or_a_pattern(tmp_path, how):
    nested(tmp_path)
    splits = {s: load(tmp_path, s, patient_from=how) for s in ("train", "val", "test")}
    patients = [set(d.patients) for d in splits.values()]
    assert set().union(*patients) == {f"P{p:03d}" for p in range(8)}
    assert sum(map(len, patients)) == 8
    assert not [leak for leak in find_leaks(splits) if leak["kind"] != "same image"]


def test_patient_from_that_finds_nothing_is_refused(tmp_path):
    nested(tmp_path, 4)
    for wrong, words in (
        (0, "folder below the class is 1"), (5, "finds no such folder"), ("Q(\\d)", "fits no path"),
        ("(", "not a regular expression"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            load(tmp_path, patient_from=wrong)
    photo(tmp_path / "benign" / "alone.png")
    ds = load(tmp_path, patient_from=1)
    assert ds.patients[ds.ids.index("benign/alone.png")] == "unknown (benign/alone.png)"


def test_a_class_folder_as_data_dir_is_doubted(tmp_path):
    nested(tmp_path, 16, 3)
    with pytest.warns(UserWarning, match=r"'malignant' is read as 8 classes.*is it the folder of one class"):
        load(tmp_path / "malignant")
    photo(tmp_path / "two" / "benign" / "x" / "1.png")
    photo(tmp_path / "two" / "benign" / "y" / "2.png")
    photo(tmp_path / "two" / "malignant" / "z" / "3.png")
    with pytest.warns(UserWarning, match="'benign' is read as 2 classes"):
        load(tmp_path / "two" / "benign")
    with warnings.catch_warnings(record=True) as said:
        load(tmp_path / "two")
    assert not any("is read as" in str(w.message) for w in said)


def test_patients_above_the_classes_are_seen(tmp_path):
    """Read as classes they would be as many as there are patients."""
    for i in range(6):
        photo(tmp_path / f"patient {i}" / ("benign", "malignant")[i % 2] / "0.png", i)
    with pytest.warns(UserWarning, match="read as 6 classes") as said:
        load(tmp_path)
    texts = [str(w.message) for w in said]
    assert any("the folders below them are 'benign', 'malignant'" in t and "put the class first" in t for t in texts)
    assert not any("is it the folder of one class" in t or "If each is a patient" in t for t in texts)


# Tables and COCO files of other machines, labels ---------------------------------------------------------------------


def table_of(root: Path, rows: list[dict], name: str = "index.csv") -> Path:
    pd.DataFrame(rows).to_csv(root / name, index=False)
    return root


def load_table(root: Path, **options):
    return xai.load_dataset("table", "all", image_size=16, data_dir=root, **options)


def test_paths_of_another_machine_are_found(tmp_path):
    for i in range(12):
        photo(tmp_path / "Images" / "Böse" / f"{i}.png")
    written = [
        r"Images\Böse\0.png", r"images\böse\1.PNG", "D:\\study\\Images\\Böse\\2.png", "Images/Böse/3.png  ",
        "Images/Böse/4.png\n", '"Images/Böse/5.png"', r".\Images\Böse\6.png",
        r"\\server\share\study\images\Böse\7.png", "/home/x/Images/Böse/8.png",
        "Images/Bo\u0308se/9.png", "Images//Böse//10.png", r"Images\Böse/11.png",
    ]  # fmt: skip
    table_of(tmp_path, [{"image": w, "label": "ab"[i % 2]} for i, w in enumerate(written)])
    ds = load_table(tmp_path)
    assert len(ds) == 12
    assert ds.skipped == []
    assert counted(ds) == {"picture": 12, "table or annotation": 1}
    missing = table_of(
        tmp_path, [{"image": w, "label": "ab"[i % 2]} for i, w in enumerate([*written, "Images\\none.png"])]
    )
    with pytest.warns(UserWarning, match=r"1 of 13 files could not be read: none\.png"):
        load_table(missing)


def test_masks_and_patterns_with_backslashes(tmp_path):
    rows = []
    for i in range(10):
        photo(tmp_path / "img" / f"{i}.png")
        mask(tmp_path / "masks" / f"{i}.png")
        rows.append({"image": str(i), "label": "ab"[i % 2], "mask": f"masks\\{i}.png"})
    table_of(tmp_path, rows)
    assert (load_table(tmp_path, image_pattern="img\\{image}.png", mask_column="mask").evidence == "known").all()
    ds = load_table(tmp_path, image_pattern="img\\{image}.png", mask_pattern="masks\\{image}.png")
    assert (ds.evidence == "known").all()


def test_two_paths_that_end_in_one_file_are_refused(tmp_path):
    photo(tmp_path / "1.png")
    table_of(tmp_path, [{"image": "D:\\a\\1.png", "label": "a"}, {"image": "D:\\b\\1.png", "label": "a"}])
    with pytest.raises(ValueError, match="are one file"):
        load_table(tmp_path)


def test_labels_stay_as_they_are_written(tmp_path):
    labels = ["NA", "null", "None", "nan", "001", "1", "1.0", "yes", "no", "2020-01-01"]
    rows = [{"image": photo(tmp_path / f"{i}.png").name, "label": labels[i % 10]} for i in range(50)]
    table_of(tmp_path, rows)
    with pytest.warns(UserWarning, match="'1' and '1.0' differ only in case, blanks or the form of a number"):
        ds = load_table(tmp_path)
    assert set(ds.class_names) == set(labels)
    assert load_table(tmp_path, classes=["NA", "001"]).class_names == ("NA", "001")
    for wrong in ([True, False], [1.0, 2.0], [None, "a"]):
        with pytest.raises(TypeError, match="names are written in quotes"):
            load_table(tmp_path, classes=wrong)
    with pytest.raises(TypeError, match="expected a list of names"):
        load_table(tmp_path, classes="NA,001")


def write_xlsx(path: Path, rows: list[list]) -> None:
    """The smallest workbook of one sheet."""
    sheet = ""
    for row in rows:
        number = [isinstance(c, float) for c in row]
        text = [f'<c t="inlineStr"><is><t>{c}</t></is></c>' for c in row]
        cells = [f"<c><v>{c}</v></c>" if n else t for c, n, t in zip(row, number, text, strict=True)]
        sheet += f"<row>{''.join(cells)}</row>"
    main, kind = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "application/vnd.openxmlformats-"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="{kind}'
        f'package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{kind}officedocument.'
        f'spreadsheetml.sheet.main+xml"/><Override PartName="/xl/s.xml" ContentType="{kind}officedocument.'
        'spreadsheetml.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}/'
        'officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="s" sheetId="1" r:id="r1"'
        "/></sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/worksheet" Target="s.xml"/></Relationships>',
        "xl/s.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


def test_an_excel_table(tmp_path):
    rows = [["image", "label", "patient"]]
    rows += [[photo(tmp_path / f"{i}.png").name, 1.0 + i % 2, f"00{i // 2}"] for i in range(10)]
    write_xlsx(tmp_path / "list.xlsx", rows)
    ds = load_table(tmp_path, table="list.xlsx", patient_column="patient")
    assert ds.class_names == ("1", "2")
    assert set(ds.patients) == {"000", "001", "002", "003", "004"}


def chest(tmp_path: Path) -> Path:
    cells = ["Atelectasis", "Effusion", "Atelectasis|Effusion", "No Finding", "Effusion | Mass"]
    return table_of(tmp_path, [{"image": photo(tmp_path / f"{i}.png").name, "label": cells[i % 5]} for i in range(25)])


def test_labels_joined_by_separators_are_named_and_parted(tmp_path):
    chest(tmp_path)
    with pytest.warns(UserWarning, match=r"2 classes look like several labels in one, such as 'Atelectasis\|Effusion'"):
        load_table(tmp_path)
    with pytest.warns(UserWarning, match=r"5 of 25 images have several of the classes, such as 2\.png \(Atel"):
        ds = load_table(tmp_path, label_separator="|", classes=["Atelectasis", "Effusion", "No Finding"])
    assert dict(zip(ds.class_names, np.bincount(ds.labels).tolist(), strict=True)) == {
        "Atelectasis": 5, "Effusion": 10, "No Finding": 5,
    }  # fmt: skip
    assert counted(ds)["picture of a class not chosen"] == 5


def test_one_label_against_the_rest(tmp_path):
    chest(tmp_path)
    ds = load_table(tmp_path, label_separator="|", one_vs_rest="Effusion")
    assert ds.class_names == ("not Effusion", "Effusion")
    assert np.bincount(ds.labels).tolist() == [10, 15]
    with pytest.raises(ValueError, match="no class 'Efusion'; did you mean Effusion"):
        load_table(tmp_path, label_separator="|", one_vs_rest="Efusion")
    with pytest.raises(ValueError, match="leave classes out"):
        load_table(tmp_path, label_separator="|", one_vs_rest="Effusion", classes=["Effusion", "Mass"])


def test_rare_classes_are_named(tmp_path):
    for label, n in (("a", 8), ("b", 8), ("c", 2)):
        for i in range(n):
            photo(tmp_path / label / f"{i}.png")
    with pytest.warns(UserWarning, match=r"1 class has fewer than 5 images: 'c' \(2\)"):
        load(tmp_path)


def test_coco_files_written_on_windows(tmp_path):
    import json

    images, marks = [], []
    for i in range(10):
        photo(tmp_path / "images" / f"P{i // 2}" / f"{i}.png")
        images.append({"id": i, "file_name": f"P{i // 2}\\{i}.PNG", "height": 16, "width": 20})
        marks += [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 5, 5]}] if i % 2 else []
    content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "lesion"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    ds = xai.load_dataset(
        "coco", "all", image_size=16, data_dir=tmp_path, background="normal", patient_from=r"(P\d)\\"
    )  # fmt: skip
    assert len(ds) == 10
    assert set(ds.patients) == {f"P{i}" for i in range(5)}
    assert ds.evidence.tolist() == ["empty", "known"] * 5
    assert counted(ds) == {"picture": 10, "table or annotation": 1}
