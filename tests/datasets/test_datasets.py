"""Data sets: the generated ones, folders and tables as they are found in the wild, splits, leaks, and errors."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import xaiutils as xai
from xaiutils.datasets import ImageDataset, datasheet, find_leaks, split_counts
from xaiutils.datasets.image_dataset import balanced_indices, stratified_indices
from xaiutils.datasets.prepared_splits import write_dataset
from xaiutils.datasets.splits import split_indices


def picture(path, value, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    Image.fromarray(rng.integers(max(0, value - 20), value + 20, (size[1], size[0], 3)).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 15 images with masks for the second."""
    for i in range(15):
        picture(tmp_path / "benign" / f"b {i} (1).png", 60)
        picture(tmp_path / "malignant" / f"m{i}.jpg", 180)
        mask = np.zeros((16, 20), np.uint8)
        mask[4:8, 5:10] = 255
        Image.fromarray(mask).save(tmp_path / "malignant" / f"m{i}_mask.png")
    return tmp_path


# Generated --------------------------------------------------------------------------------------------------------


def test_digits():
    splits = {s: xai.load_dataset("digits", split=s, image_size=32) for s in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 1797
    assert len(splits["test"]) == pytest.approx(360, abs=5)
    assert {i for s in splits.values() for i in s.ids} == {f"digit_{i:04d}" for i in range(1797)}
    test = splits["test"]
    assert (np.bincount(test.labels) > 30).all()
    assert test.images[test.masks].mean() > 127 > test.images[~test.masks].mean()


# Folders ----------------------------------------------------------------------------------------------------------


def test_folder(folder):
    ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=32)
    assert len(ds) == 30
    assert ds.class_names == ("benign", "malignant")
    assert not any("_mask" in i for i in ds.ids)
    assert ds.ids[0] == "benign/b 0 (1).png"
    assert ds.masks[ds.labels == 1].any(axis=(1, 2)).all()
    assert not ds.masks[ds.labels == 0].any()
    bright = ds.pixels.mean(axis=(1, 2, 3))
    assert ((bright > 120) == (ds.labels == 1)).all()


def test_folder_splits_do_not_overlap_and_keep_proportions(folder):
    parts = [xai.load_dataset("folder", split=s, data_dir=folder, image_size=16) for s in ("train", "val", "test")]
    ids = [i for p in parts for i in p.ids]
    assert len(ids) == len(set(ids)) == 30
    assert all(abs((p.labels == 0).sum() - (p.labels == 1).sum()) <= 2 for p in parts)
    again = xai.load_dataset("folder", split="test", data_dir=folder, image_size=16)
    assert again.ids == parts[2].ids
    other = xai.load_dataset("folder", split="test", data_dir=folder, image_size=16, seed=3)
    assert other.ids != parts[2].ids


def test_stated_splits_are_respected_and_val_is_carved_from_train(tmp_path):
    for split, n in (("Train", 24), ("test", 4)):
        for label in ("cat", "dog"):
            for i in range(n):
                picture(tmp_path / split / label / f"{i}.jpg", 100)
    parts = {s: xai.load_dataset("folder", split=s, data_dir=tmp_path, image_size=16) for s in ("train", "val", "test")}
    assert all(i.startswith("test/") for i in parts["test"].ids)
    assert len(parts["test"]) == 8
    assert len(parts["train"]) + len(parts["val"]) == 48
    assert 4 <= len(parts["val"]) <= 6  # a tenth
    assert not set(parts["train"].ids) & set(parts["val"].ids)


def test_unreadable_files_are_named_and_the_rest_goes_on(folder):
    (folder / "benign" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    (folder / "malignant" / "empty.png").touch()
    with pytest.warns(UserWarning, match=r"2 of 32 files could not be read: broken\.jpg"):
        ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=16)
    assert len(ds) == 30
    assert [p.rsplit("/", 1)[-1] for p, _ in ds.skipped] == ["broken.jpg", "empty.png"]
    assert all(reason for _, reason in ds.skipped)


def test_several_masks_are_merged(folder):
    Image.fromarray(np.full((16, 20), 255, np.uint8)).save(folder / "malignant" / "m0_mask_1.png")
    ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=32)
    assert ds.masks[ds.ids.index("malignant/m0.jpg")].all()
    assert not ds.masks[ds.ids.index("malignant/m1.jpg")].all()


def test_masks_that_are_taken_for_images_are_noticed(folder):
    for i in range(3):
        (folder / "malignant" / f"m{i}_mask.png").rename(folder / "malignant" / f"m{i}_seg.png")
    with pytest.warns(UserWarning, match=r"3 files of .* look like masks .* m0_seg\.png; name them by mask_pattern"):
        xai.load_dataset("folder", split="all", data_dir=folder, image_size=16)
    with pytest.warns(UserWarning, match="look like masks"):
        xai.load_dataset("folder", split="all", data_dir=folder, image_size=16, mask_pattern="../segm/{stem}.png")
    for path in folder.rglob("*_*.png"):
        path.unlink()
    with pytest.warns(UserWarning, match="finds no mask of any image"):
        xai.load_dataset("folder", split="all", data_dir=folder, image_size=16, mask_pattern="../segm/{stem}.png")


def test_a_broken_mask_is_named(folder):
    (folder / "malignant" / "m3_mask.png").write_bytes(b"no")
    with pytest.warns(
        UserWarning, match=r"1 image has evidence .* not known: malignant/m3\.jpg \(its mask m3_mask\.png"
    ):
        ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=16)
    assert len(ds) == ds.available == 30
    assert any("malignant/m3.jpg" in note for note in ds.notes)


def test_limit_keeps_count_of_what_there_is(folder):
    ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=16, limit=8)
    assert (len(ds), ds.available) == (8, 30)
    assert np.bincount(ds.labels).tolist() == [4, 4]


def test_twelve_bit_images_need_the_option(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            ramp = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
            Image.fromarray(ramp).save(tmp_path / label / f"{i}.png")
    load = lambda **k: xai.load_dataset("folder", split="all", data_dir=tmp_path, image_size=16, **k)  # noqa: E731
    with pytest.warns(UserWarning, match="bit_depth"):
        assert load().pixels.max() == 16
    assert load(bit_depth=12).pixels.max() == 255


def test_classes_are_chosen_and_ordered(folder):
    shutil.copytree(folder / "benign", folder / "normal")
    ds = xai.load_dataset("folder", split="all", data_dir=folder, image_size=16, classes=["malignant", "benign"])
    assert ds.class_names == ("malignant", "benign")
    assert (ds.labels == 0).sum() == 15


def test_folder_errors(folder, tmp_path_factory):
    load = lambda **k: xai.load_dataset("folder", **{"data_dir": folder, "image_size": 16, **k})  # noqa: E731
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder"):
        load(data_dir=folder / "nowhere")
    with pytest.raises(ValueError, match="0 folders with images"):
        load(data_dir=tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match=r"no images of class \['cyst'\]"):
        load(classes=["benign", "cyst"])
    with pytest.raises(ValueError, match="mask_pattern"):
        load(mask_pattern="{stm}_mask.png")
    with pytest.raises(TypeError, match="did you mean mask_pattern"):
        load(mask_patern="x")
    with pytest.raises(ValueError, match="limit=0"):
        load(limit=0)
    with pytest.raises(ValueError, match="image_size"):
        load(image_size=4)
    with pytest.raises(KeyError, match="did you mean folder"):
        xai.load_dataset("folders")
    with pytest.raises(ValueError, match="choose one of train, val, test"):
        load(split="valid")


# Tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    rows = []
    for i in range(20):
        picture(tmp_path / "img" / f"{i}.png", 60 + 100 * (i % 2), (40, 20))
        rows.append({"image": str(i), "label": "ab"[i % 2], "patient": f"p{i // 4}", "box": f'"{i},5,10,5"'})
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return tmp_path


def test_table_with_patients_and_boxes(table):
    options = {
        "data_dir": table,
        "image_size": 40,
        "image_pattern": "img/{image}.png",
        "patient_column": "patient",
        "boxes_column": "box",
    }
    ds = xai.load_dataset("table", split="all", **options)
    assert len(ds) == 20
    assert ds.masks[3, 10:20, 3:13].all()
    assert ds.masks[3].sum() == 10 * 10  # the box is 10 x 5 in a picture of 40 x 20 that is squeezed to 40 x 40
    parts = {s: xai.load_dataset("table", split=s, **options) for s in ("train", "test")}
    assert not set(parts["train"].patients) & set(parts["test"].patients)


def test_table_splits_masks_and_separators(table):
    frame = pd.read_csv(table / "index.csv", dtype=str)
    frame["split"] = ["Training"] * 12 + ["test"] * 8
    frame["mask"] = [f"img/{i}.png" if i % 2 else "" for i in range(20)]
    frame.to_csv(table / "semi.csv", index=False, sep=";", encoding="utf-8-sig")
    ds = xai.load_dataset(
        "table", split="test", data_dir=table, table="semi.csv", image_size=16, image_pattern="img/{image}.png",
        split_column="split", mask_column="mask",
    )  # fmt: skip
    assert ds.ids == [str(i) for i in range(12, 20)]
    assert ds.masks[1].all()
    assert not ds.masks[0].any()


def test_table_tells_files_of_one_name_apart_and_skips_unlabelled_rows(table):
    frame = pd.read_csv(table / "index.csv", dtype=str)
    for i in range(20):
        shutil.copytree(table / "img", table / f"p{i}", dirs_exist_ok=True)
    frame = frame.assign(image="0", folder=[f"p{i}" for i in range(20)])
    frame.loc[3, "label"], frame.loc[4, "patient"] = "", ""
    frame.to_csv(table / "same.csv", index=False)
    ds = xai.load_dataset(
        "table", split="all", data_dir=table, table="same.csv", image_size=16, image_pattern="{folder}/{image}.png",
        patient_column="patient",
    )  # fmt: skip
    assert len(ds) == len(set(ds.ids)) == 19
    assert ds.class_names == ("a", "b")
    assert ds.skipped == [("0", "no 'label' in same.csv")]
    assert sum(p.startswith("unknown") for p in ds.patients) == 1


def test_unreadable_tables_are_named(table):
    for content in (b"", b"image,label\n\xe9\xff,a\n"):
        (table / "bad.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.csv: it cannot be read as a CSV table"):
            xai.load_dataset("table", split="all", data_dir=table, table="bad.csv")


def test_table_errors(table):
    load = lambda **k: xai.load_dataset("table", split="all", data_dir=table, image_size=16, **k)  # noqa: E731
    with pytest.raises(ValueError, match=r"no column 'labels' .*did you mean label"):
        load(label_column="labels")
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        load(table="nothing.csv")
    with pytest.raises(ValueError, match="image_pattern"):
        load(image_pattern="{img}.png")
    with pytest.warns(UserWarning, match="could not be read"), pytest.raises(ValueError, match="none of 20"):
        load()
    frame = pd.read_csv(table / "index.csv", dtype=str)
    pd.concat([frame, frame.iloc[:1].assign(label="b")]).to_csv(table / "twice.csv", index=False)
    with pytest.raises(ValueError, match=r"img/0\.png' has several 'label': \['a', 'b'\]"):
        load(table="twice.csv", image_pattern="img/{image}.png")
    frame.assign(box="1,2,3").to_csv(table / "boxes.csv", index=False)
    with pytest.raises(ValueError, match="not groups of x, y, width, height"):
        load(table="boxes.csv", image_pattern="img/{image}.png", boxes_column="box")


# Leaks and selections ---------------------------------------------------------------------------------------------


def test_leaks_are_found():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    make = lambda rows, ids, patients: ImageDataset(pixels[rows], [0] * len(rows), ("a", "b"), ids, patients=patients)  # noqa: E731
    splits = {"train": make([0, 1, 1], ["x", "y", "y2"], ["p", "q", "q"]), "test": make([2, 0], ["z", "w"], ["q", "r"])}
    found = find_leaks(splits)
    assert {"kind": "patient", "what": "q", "where": "train, train, test"} in found
    assert {"kind": "same image", "what": "x = w", "where": "train, test"} in found
    assert {"kind": "same image", "what": "y = y2", "where": "train, train"} in found
    assert len(found) == 3


def test_selections_keep_balance():
    labels = np.array([0] * 90 + [1] * 10)
    assert np.bincount(labels[balanced_indices(labels, 10)]).tolist() == [5, 5]
    assert np.bincount(labels[stratified_indices(labels, 20)]).tolist() == [18, 2]
    assert len(stratified_indices(labels, 1000)) == 100
    np.testing.assert_array_equal(balanced_indices(labels, 10, 4), balanced_indices(labels, 10, 4))


def test_dataset_checks_itself():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="labels must lie in 0..1"):
        ImageDataset(pixels, [0, 2], ("a", "b"), ["x", "y"])
    with pytest.raises(ValueError, match="ids has 1 entries"):
        ImageDataset(pixels, [0, 1], ("a", "b"), ["x"])
    with pytest.raises(ValueError, match="uint8"):
        ImageDataset(pixels.astype(float), [0, 1], ("a", "b"), ["x", "y"])
    ds = ImageDataset(pixels, [0, 1], ("a", "b"), ["x", "y"])
    assert [len(b) for _, b in ds.batches(1)] == [1, 1]
    assert len(ds.take(1)) == 1
    assert ds.select([True, False]).ids == ["x"]


# The kit ----------------------------------------------------------------------------------------------------------


def test_busi(kit):
    ds = xai.load_dataset("folder", split="all", data_dir=kit / "busi", image_size=64, classes=["benign", "malignant"])
    assert np.bincount(ds.labels).tolist() == [397, 185]
    assert ds.masks.any(axis=(1, 2)).all()
    index = pd.read_csv(kit / "busi" / "index.csv").set_index("image")
    fractions = index.loc[ds.ids, "lesion_fraction"].to_numpy()
    np.testing.assert_allclose(ds.masks.mean(axis=(1, 2)), fractions, atol=0.01)


def test_pets(kit):
    ds = xai.load_dataset(
        "table", split="all", data_dir=kit / "oxford_pets", image_size=64, label_column="species",
        image_pattern="images/{image}.jpg", mask_pattern="trimaps/{image}.png", mask_values=[1, 3],
    )  # fmt: skip
    index = pd.read_csv(kit / "oxford_pets" / "index.csv").set_index("image")
    assert len(ds) == len(index) == 340
    np.testing.assert_allclose(ds.masks.mean(axis=(1, 2)), index.loc[ds.ids, "foreground_fraction"], atol=0.02)


def test_cats_and_dogs(kit):
    sizes = {
        s: len(xai.load_dataset("folder", split=s, data_dir=kit / "cats_dogs", image_size=16))
        for s in ("train", "val", "test")
    }
    assert sizes == {"train": 500, "val": 100, "test": 200}


def test_cbis_boxes_as_a_table(kit):
    options = {"label_column": "any_malignant", "patient_column": "patient_id", "boxes_column": "boxes_xywh_800"}
    ds = xai.load_dataset(
        "table", split="test", data_dir=kit / "cbis_ddsm", image_size=64, limit=20, split_column="split",
        image_pattern="mass_{split}/{image}", **options,
    )  # fmt: skip
    assert len(ds) == 20
    assert 0 < ds.masks.mean() < 0.1


# Bad input --------------------------------------------------------------------------------------------------------


def test_a_loop_of_links_ends(folder):
    (folder / "benign" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "malignant" / "self").symlink_to(folder / "malignant", target_is_directory=True)
    (folder / "malignant" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.warns(UserWarning, match=r"gone\.png \(FileNotFoundError"):
        ds = xai.load_dataset("folder", "all", image_size=16, data_dir=folder, classes=["malignant", "benign"])
    assert len([i for i in ds.ids if i.startswith("malignant/m")]) == 15


def test_what_may_not_be_read_is_said(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match="may not be read; ask its owner for permission"):
        xai.load_dataset("folder", data_dir=folder)
    with pytest.raises(PermissionError, match="may not be read"):
        xai.load_dataset("cbis_ddsm", data_dir=folder)


def test_a_file_in_place_of_a_folder_is_said(folder):
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        xai.load_dataset("folder", data_dir=folder / "benign" / "b 0 (1).png")


def test_a_file_that_may_not_be_read_is_skipped(folder, monkeypatch):
    real = Image.open

    def guarded(path, **options):
        if str(path).endswith("m3.jpg"):
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(Image, "open", guarded)
    with pytest.warns(UserWarning, match=r"m3\.jpg \(PermissionError"):
        assert len(xai.load_dataset("folder", "all", image_size=16, data_dir=folder)) == 29


def test_a_mask_of_another_size(folder):
    """The same picture at another scale is fitted; other proportions are another picture, or a turned one."""
    Image.fromarray(np.full((32, 40), 255, np.uint8)).save(folder / "malignant" / "m1_mask.png")
    Image.fromarray(np.full((20, 16), 255, np.uint8)).save(folder / "malignant" / "m2_mask.png")
    words = r"m2\.jpg \(its mask m2_mask\.png: it has 20 x 16 pixels, its picture 16 x 20"
    with pytest.warns(UserWarning, match=words):
        ds = xai.load_dataset("folder", "all", image_size=16, data_dir=folder)
    assert ds.masks[ds.ids.index("malignant/m1.jpg")].all()
    assert not ds.masks[ds.ids.index("malignant/m2.jpg")].any()


def test_empty_masks_are_no_evidence(folder):
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(folder / "malignant" / "m1_mask.png")
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=folder)
    assert not ds.masks[ds.ids.index("malignant/m1.jpg")].any()
    assert np.isnan(ds.lesion_lengths()[ds.ids.index("malignant/m1.jpg")])


def test_images_of_every_mode(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    modes = {
        "1": ".png", "L": ".png", "LA": ".png", "P": ".png", "RGB": ".bmp", "RGBA": ".png", "CMYK": ".jpg",
        "YCbCr": ".jpg", "I;16": ".png",
    }  # fmt: skip
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for mode, suffix in modes.items():
            image = (
                Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
            )
            image.save(tmp_path / label / f"{mode.replace(';', '')}{suffix}")
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=tmp_path)
    assert len(ds) == 18
    assert ds.skipped == []
    expected = grey.astype(int)
    for name, pixels in zip(ds.ids, ds.pixels, strict=True):
        tolerance = 128 if name.startswith(("a/1", "b/1")) else 40  # one bit; a lossy JPEG
        assert np.abs(pixels[..., 0].astype(int) - expected).mean() < tolerance, name


def test_an_id_given_twice_is_refused():
    from xaiutils.datasets import Listing, Record
    from xaiutils.datasets.assemble import assemble

    twice = Listing([Record("a", 0, None), Record("b", 1, None), Record("a", 1, None)], ("x", "y"), None, "there")
    with pytest.raises(ValueError, match="there names the image 'a' twice"):
        assemble(twice, "n", "all", 16, None, 0)


def test_options_of_a_wrong_kind(folder):
    for options, words in (
        ({"keep_aspect": "yes"}, "keep_aspect='yes'; expected true or false"),
        ({"bit_depth": 4}, "bit_depth=4; expected an integer from 8 to 32"),
        ({"mask_values": ["white"]}, "expected grey values"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            xai.load_dataset("folder", data_dir=folder, **options)


def test_a_folder_below_that_may_not_be_read_is_said(folder, monkeypatch):
    real = os.scandir

    def guarded(path):
        if str(path).endswith("benign"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match=r"benign' may not be read; ask its owner"):
        xai.load_dataset("folder", "all", image_size=16, data_dir=folder)


def test_rows_that_contradict_each_other_are_refused(table):
    rows = pd.read_csv(table / "index.csv").assign(split="train")
    pd.concat([rows, rows[:1].assign(split="test")]).to_csv(table / "two.csv", index=False)
    options = {"data_dir": table, "image_pattern": "img/{image}.png", "table": "two.csv", "split_column": "split"}
    with pytest.raises(ValueError, match=r"has several 'split': \['test', 'train'\]"):
        xai.load_dataset("table", "train", image_size=16, **options)
    options = {"data_dir": table, "image_pattern": "img/{image}.png", "image_size": 16}
    with pytest.raises(ValueError, match="has no class 'c'; Known: a, b"):
        xai.load_dataset("table", "all", classes=["a", "c"], **options)
    with pytest.warns(UserWarning, match="mask_pattern='m/{image}.png' finds no mask"):
        xai.load_dataset("table", "all", mask_pattern="m/{image}.png", **options)


def test_a_leak_is_found_beside_coloured_images():
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), np.uint8), 3, axis=-1)
    one = ImageDataset(np.broadcast_to(grey[..., :1], grey.shape), [0, 1, 0], ("a", "b"), list("abc"))
    colour = np.concatenate([grey[:1], np.random.default_rng(1).integers(0, 255, (1, 8, 8, 3), np.uint8)])
    other = ImageDataset(colour, [0, 1], ("a", "b"), list("de"))
    assert [leak["what"] for leak in find_leaks({"train": one, "test": other})] == ["a = d"]


def test_small_classes_reach_every_split_that_they_can():
    labels = np.array([0] * 30 + [1] * 10)
    parts = {s: split_indices(labels, list(map(str, range(40))), s) for s in ("train", "val", "test")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(40))
    assert {s: labels[i].sum() for s, i in parts.items()} == {"train": 7, "val": 1, "test": 2}


# Large sets -------------------------------------------------------------------------------------------------------


def test_a_large_set_lives_on_disk_and_is_the_same(folder, monkeypatch):
    small = xai.load_dataset("folder", "all", image_size=16, data_dir=folder)
    monkeypatch.setattr(sys.modules["xaiutils.datasets.assemble"], "IN_MEMORY_BYTES", 1000)
    large = xai.load_dataset("folder", "all", image_size=16, data_dir=folder)
    base = large.pixels
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(large.pixels, small.pixels)
    np.testing.assert_array_equal(large.masks, small.masks)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in large.batches(7)]), small.images)


def test_grey_images_take_one_channel_until_a_coloured_one_comes(tmp_path):
    for label in ("a", "b"):
        for i in range(4):
            path = tmp_path / label / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = np.full((8, 8, 3), 20 * i, np.uint8)
            pixels[..., 2] += 9 if (label, i) == ("b", 2) else 0
            Image.fromarray(pixels).save(path)
    mixed = xai.load_dataset("folder", "all", image_size=8, data_dir=tmp_path)
    assert mixed.pixels.strides[-1] == 1
    assert mixed.pixels[:, 0, 0].tolist() == [
        [20 * i, 20 * i, 20 * i + (9 if n == 6 else 0)] for n, i in enumerate([0, 1, 2, 3] * 2)
    ]
    (tmp_path / "b" / "2.png").unlink()
    assert xai.load_dataset("folder", "all", image_size=8, data_dir=tmp_path).pixels.strides[-1] == 0


# Datasheets -------------------------------------------------------------------------------------------------------


def test_a_datasheet_says_what_was_found(folder):
    splits = {s: xai.load_dataset("folder", s, image_size=16, data_dir=folder) for s in ("train", "val", "test")}
    sheet = datasheet(splits, {"bit_depth": 12})
    assert "| train | 21 | 21 |" in sheet
    assert split_counts(splits)["images"].tolist() == [len(d) for d in splits.values()]
    assert "bit_depth=12" in sheet
    assert "patients are not known, so not checked" in sheet
    assert "Patients or writers: images of one may be in several splits." in sheet
    leaking = {"train": splits["train"], "test": splits["train"].take(3)}
    assert "3 pictures more than once" in datasheet(leaking)
    for entry in xai.DATASETS.values():
        own = {"test": dataclasses.replace(splits["test"], name=entry.name)}
        assert entry.licence in datasheet(own)
        assert entry.caution in datasheet(own)


# The state of the evidence ------------------------------------------------------------------------------------------


def test_evidence_is_known_empty_or_unknown(folder, tmp_path_factory):
    """An image without a mask beside others that have one is not an image without a lesion."""
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(folder / "malignant" / "m1_mask.png")
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=folder)
    state = dict(zip(ds.ids, ds.evidence, strict=True))
    assert state["malignant/m0.jpg"] == "known"
    assert state["malignant/m1.jpg"] == "empty"
    assert set(ds.evidence[ds.labels == 0]) == {"unknown"}
    assert ds.select([29, 0]).evidence.tolist() == [ds.evidence[29], ds.evidence[0]]
    kept = write_dataset(ds, tmp_path_factory.mktemp("kept") / "set")
    assert kept.evidence.tolist() == ds.evidence.tolist()
    for path in folder.rglob("*_mask.png"):
        path.unlink()
    assert xai.load_dataset("folder", "all", image_size=16, data_dir=folder).evidence is None


def test_evidence_of_a_set_made_by_hand():
    pixels, masks = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), bool)
    masks[0, 1, 1] = True
    ds = ImageDataset(pixels, [0, 1], ("a", "b"), ["x", "y"], masks=masks)
    assert ds.evidence.tolist() == ["known", "empty"]
    with pytest.raises(ValueError, match=r"evidence must be of known, empty, unknown, got \['perhaps'\]"):
        ImageDataset(pixels, [0, 1], ("a", "b"), ["x", "y"], masks=masks, evidence=["known", "perhaps"])
    with pytest.raises(ValueError, match="evidence has 1 entries"):
        ImageDataset(pixels, [0, 1], ("a", "b"), ["x", "y"], masks=masks, evidence=["known"])
    assert set(xai.load_dataset("phantom", limit=4, image_size=32, task="presence").evidence) == {"known", "empty"}


def test_a_set_says_what_it_is_and_not_its_pixels(folder):
    ds = xai.load_dataset("folder", "all", image_size=16, data_dir=folder, limit=20)
    assert repr(ds) == (
        "ImageDataset(data set: folder; split: all; images: 20 of 30; size: 16 x 16 pixels; classes: benign 10, "
        "malignant 10; patients: not known; evidence: known 10, empty 0, unknown 10; skipped: 0)"
    )
    named = dataclasses.replace(ds, class_names=("<img src=x onerror=1>", "b"))
    assert "&lt;img src=x onerror=1&gt; 10" in named._repr_html_()
    assert "<img src=x" not in named._repr_html_()
    assert ds._repr_html_().count("<img ") == 6
    assert len(ds._repr_html_()) < 15_000
    assert "classes: a b 10, c 10;" in repr(dataclasses.replace(ds, class_names=("a\rb", "\u202ec")))
    many = ImageDataset(ds.pixels, range(20), [f"c{i}" for i in range(20)], ds.ids)
    assert "c11 1, and 8 more" in repr(many)


def test_batches_are_shuffled_by_seed_0_unless_another_is_given():
    pixels = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    ds = ImageDataset(pixels, np.arange(12) % 2, ("a", "b"), [str(i) for i in range(12)])
    order = [int(x) for images, _ in ds.batches(5, shuffle=True) for x in images[:, 0, 0, 0]]
    assert order == np.random.default_rng(0).permutation(12).tolist()
    assert order != [int(x) for images, _ in ds.batches(5, shuffle=True, seed=1) for x in images[:, 0, 0, 0]]


def test_patients_are_split_in_tenths_however_rare_a_class_is():
    """Ten folds of whole patients; a rare class makes them no fewer."""
    patients = np.repeat([f"p{i}" for i in range(50)], 2)
    labels = (np.arange(100) < 4).astype(int)
    sizes = {split: len(split_indices(labels, patients, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 70, "val": 10, "test": 20}
