"""Tables as people write them: separators, encodings, columns of one name, folders that are no patients."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_listing import photo
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import find_leaks
from xaiutils.file_limits import FileError


def table(root: Path, head: str, row, n: int = 12, encoding: str = "utf-8", **options):
    """A table with a row for each of ``n`` pictures ``images/0.png``, ...; ``row`` makes it of the number."""
    for i in range(n):
        photo(root / "images" / f"{i}.png")
    text = "\n".join([head, *(row(i) for i in range(n))])
    (root / "index.csv").write_bytes(text.encode(encoding))
    return xai.load_dataset("table", "all", image_size=16, data_dir=root, **options)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    ds = table(
        tmp_path,
        separator.join(("image", "label", "kind of finding: grade")),
        lambda i: separator.join((f"images/{i}.png", ("Gut", "Böse")[i % 2], "x y")),
        encoding=encoding,
    )
    assert ds.class_names == ("Böse", "Gut")
    assert set(ds.metadata["kind of finding: grade"]) == {"x y"}


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(FileError, match="two of its columns are called 'label'"):
        table(tmp_path, "image,label,label", lambda i: f"images/{i}.png,{i % 2},{i % 3}")


def test_rows_longer_than_the_header_do_not_shift(tmp_path):
    with pytest.raises(FileError, match="Expected 2 fields in line 2, saw 3"):
        table(tmp_path, "image,label", lambda i: f"images/{i}.png,{'ab'[i % 2]},")


def test_a_row_without_an_image_is_named(tmp_path):
    ds = table(tmp_path, "image,label", lambda i: f"images/{i}.png,{'ab'[i % 2]}" if i else " ,a")
    assert len(ds) == 11
    assert [why for _, why in ds.skipped] == ["no 'image' in index.csv"]


def test_words_in_a_cell_of_boxes_are_refused(tmp_path):
    with pytest.raises(FileError, match="its boxes 'left 3 cm 2 3 4'"):
        table(tmp_path, "image,label,boxes", lambda i: f"images/{i}.png,{i % 2},left 3 cm 2 3 4", boxes_column="boxes")


def test_columns_of_splits_and_patients_that_no_option_names_are_told(tmp_path):
    def row(i):
        return f"images/{i}.png,{'ab'[i % 2]},{('train', 'test')[i % 2]},P{i // 2}"

    with pytest.warns(UserWarning, match="column 'split' is not used .*split_column='split'"):
        ds = table(tmp_path, "image,label,split,Patient_ID", row)
    assert any("patient_column='Patient_ID'" in note for note in ds.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(tmp_path, "image,label,split,Patient_ID", row, split_column="split", patient_column="Patient_ID")


@pytest.mark.parametrize("folder", ["images", "photos/{label}", "{split}/{label}", "all of them"])
def test_folders_of_all_images_classes_or_splits_are_no_patients(tmp_path, folder):
    rows = ["image,label"]
    for i in range(60):
        label, split = "abc"[i % 3], ("train", "valid", "test")[i % 5 % 3]
        name = f"{folder.format(label=label, split=split)}/{i}.png"
        photo(tmp_path / name)
        rows.append(f"{name},{label}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = {s: xai.load_dataset("table", s, 16, None, 0, tmp_path) for s in ("train", "val", "test")}
    assert find_leaks(splits) == []


def test_split_folders_below_the_classes(tmp_path):
    for label in "ab":
        for i in range(20):
            photo(tmp_path / label / ("Training", "test")[i % 2] / f"{i}.png")
    train, test = (xai.load_dataset("folder", s, 16, None, 0, tmp_path) for s in ("train", "test"))
    assert all("/Training/" in i for i in train.ids)
    assert len(test) == 20
    assert all("/test/" in i for i in test.ids)


def test_masks_named_at_the_beginning_are_told(tmp_path):
    for label in "ab":
        for i in range(6):
            photo(tmp_path / label / f"{i}.png")
            photo(tmp_path / label / f"mask_{i}.png")
    with pytest.warns(UserWarning, match="12 files of .* look like masks but are read as images, such as mask_0.png"):
        xai.load_dataset("folder", "all", 16, None, 0, tmp_path)


def test_inverted_masks_are_told(tmp_path):
    for label in "ab":
        for i in range(6):
            photo(tmp_path / label / f"{i}.png")
            inverted = np.full((16, 20), 255, np.uint8)
            inverted[4:8, 4:8] = 0
            Image.fromarray(inverted).save(tmp_path / label / f"{i}_mask.png")
    with pytest.warns(UserWarning, match="evidence is 9[0-9]% of an image .*inverted"):
        xai.load_dataset("folder", "all", 16, None, 0, tmp_path)


def test_pictures_of_little_contrast_are_told(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        for i in range(5):
            hounsfield = rng.integers(-1000, 1000, (16, 16), np.int16).view(np.uint16)
            write_dicom(tmp_path / label / f"{i}.dcm", hounsfield, PixelRepresentation=1, RescaleIntercept=0)
    with pytest.warns(UserWarning, match=r"10 images .* less than an eighth .* window=\[centre, width\]"):
        xai.load_dataset("folder", "all", 16, None, 0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xai.load_dataset("folder", "all", 16, None, 0, tmp_path, window=[0, 2000])
