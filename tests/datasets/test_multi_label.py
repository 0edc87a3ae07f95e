"""Several labels in one image, values and further inputs: from files to the data set, and what carries them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import write_dicom

import xaiutils as xai
from xaiutils.datasets import ImageDataset, Listing, Record, balanced_indices, find_leaks
from xaiutils.datasets.assemble import assemble
from xaiutils.datasets.listing import strata_of
from xaiutils.datasets.prepared_splits import read_dataset, write_dataset
from xaiutils.datasets.reading.evidence import Boxes, NoFinding, Unreadable
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file

NAMES = ("mass", "marker", "nodule")
LABELS = [[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [-1, 0, 1], [0, 1, 1]]


def some(channels=3, dtype=np.uint8, **more):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels)).astype(dtype)
    masks = np.zeros((6, 3, 8, 8), bool)
    masks[0, 0, 1, 1] = masks[2, 1, 3, 3] = True
    given = {"label_masks": masks, "values": np.arange(6) / 2, "value_name": "age", "inputs": {"ward": np.eye(6)}}
    return ImageDataset(pixels, LABELS, NAMES, list("uvwxyz"), **given | more)


def test_a_label_matrix_says_what_its_masks_are_worth():
    ds = some()
    assert ds.multi_label
    assert ds.labels.dtype == np.int8
    assert ds.class_counts.tolist() == [2, 3, 2]
    assert ds.label_texts() == ["mass", "marker", "mass + marker", "none", "nodule", "marker + nodule"]
    # absent: nothing to mark; present without a mask, or unknown: not known where
    assert ds.label_evidence[0].tolist() == ["known", "empty", "unknown"]
    assert ds.label_evidence[2].tolist() == ["unknown", "known", "empty"]
    assert ds.evidence.tolist() == ["known", "unknown", "known", "empty", "unknown", "unknown"]
    np.testing.assert_array_equal(ds.masks, ds.label_masks.any(axis=1))
    assert "labels: mass 2 (1 unknown), marker 3, nodule 2 (1 unknown)" in repr(ds)
    assert "values: age 0 to 2.5, median 1.25; inputs: ward" in repr(ds)


def test_the_view_of_a_label_leaves_out_and_counts_the_unknown():
    ds = some()
    mass = ds.of_label("mass")
    assert mass.class_names == ("no mass", "mass")
    assert mass.ids == list("uvwxz")
    assert mass.labels.tolist() == [1, 0, 1, 0, 0]
    assert mass.evidence.tolist() == ["known", "empty", "unknown", "empty", "empty"]
    assert mass.masks.sum() == 1
    assert mass.label_masks is None
    assert mass.values.tolist() == [0, 0.5, 1, 1.5, 2.5]
    assert mass.inputs["ward"].argmax(axis=1).tolist() == [0, 1, 2, 3, 5]
    assert "1 of 6 images are left out: whether they show 'mass' is unknown." in mass.notes
    with pytest.raises(ValueError, match="did you mean nodule"):
        ds.of_label("nodul")
    with pytest.raises(ValueError, match="one class each"):
        mass.of_label("mass")


def test_every_way_to_a_part_carries_labels_values_and_inputs():
    ds = some()
    for part in (ds.select([4, 0]), ds.take(2), ds.sample(4)):
        rows = [ds.ids.index(name) for name in part.ids]
        np.testing.assert_array_equal(part.labels, ds.labels[rows])
        np.testing.assert_array_equal(part.label_masks, ds.label_masks[rows])
        np.testing.assert_array_equal(part.label_evidence, ds.label_evidence[rows])
        np.testing.assert_array_equal(part.values, ds.values[rows])
        np.testing.assert_array_equal(part.inputs["ward"], ds.inputs["ward"][rows])
    assert [y.shape for _, y in ds.batches(4)] == [(4, 3), (2, 3)]


def test_a_balanced_sample_takes_turns_among_the_rarest_labels():
    labels = np.zeros((40, 3), int)
    labels[:30, 0] = labels[:4, 1] = labels[36:38, 2] = 1
    chosen = labels[balanced_indices(labels, 8)]
    assert chosen.sum(axis=0).tolist() == [4, 2, 2]  # two of each, and two of the plain first; two have none
    assert (chosen.sum(axis=1) == 0).sum() == 2


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"labels": [[1, 0]] * 6}, r"must be \(n, 3\) of 1 \(present\), 0 \(absent\) or -1"),
        ({"labels": [[2, 0, 0]] * 6}, r"must be \(n, 3\)"),
        ({"labels": [0] * 6}, "label_masks and label_evidence are for labels"),
        ({"label_masks": np.zeros((6, 2, 8, 8), bool)}, r"label_masks must be bool \(6, 3, 8, 8\)"),
        ({"label_masks": np.zeros((6, 3, 8, 8), np.uint8)}, "label_masks must be bool"),
        ({"label_evidence": [["known"] * 2] * 6}, "label_evidence has shape"),
        ({"label_evidence": [["maybe"] * 3] * 6}, "evidence must be of"),
        ({"values": [1, 2, 3, 4, 5, np.nan]}, "values must be finite"),
        ({"values": [1, 2]}, "values has 2 entries for 6 images"),
        ({"inputs": {"ward": np.zeros(5)}}, "inputs.*ward.* has 5 entries for 6 images"),
        ({"pixels": np.zeros((6, 8, 8, 3), np.float64)}, "uint8 or float32"),
        ({"pixels": np.full((6, 8, 8, 3), 256, np.float32)}, r"must lie in \[0, 255\], got 256 to 256"),
        ({"pixels": np.full((6, 8, 8, 3), np.nan, np.float32)}, r"must lie in \[0, 255\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(what, said):
    with pytest.raises(ValueError, match=said):
        ImageDataset(**{"pixels": some().pixels, "labels": LABELS, "class_names": NAMES, "ids": list("uvwxyz"),
                        "label_masks": some().label_masks} | what)  # fmt: skip


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (5, np.float32)])
def test_a_prepared_split_is_read_as_it_was_written(tmp_path, channels, dtype):
    ds = some(channels, dtype)
    kept = write_dataset(ds, tmp_path / "kept")
    assert isinstance(kept.pixels, np.memmap)
    for name in ("pixels", "labels", "masks", "label_masks", "label_evidence", "evidence", "values"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(ds, name))
        assert getattr(kept, name).dtype == getattr(ds, name).dtype
    np.testing.assert_array_equal(kept.inputs["ward"], ds.inputs["ward"])
    assert repr(kept) == repr(ds)
    for name in ("label_masks.npy", "values.npy", "input_0.npy"):
        path = tmp_path / "kept" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match="damaged"):
            read_dataset(tmp_path / "kept")
        path.write_bytes(whole)
    (tmp_path / "kept" / "values.npy").unlink()
    with pytest.raises(OSError, match="values"):
        read_dataset(tmp_path / "kept")


def test_leaks_are_found_whatever_the_channels():
    ds = some(channels=2)
    found = find_leaks({"train": ds, "test": ds.take(1)})
    assert [leak["what"] for leak in found] == ["u = u"]


@pytest.mark.parametrize("dicom", [False, True])
def test_each_label_has_its_own_evidence_laid_out_as_the_picture_is(tmp_path, monkeypatch, dicom):
    monkeypatch.setenv("XAI_CACHE", str(tmp_path / "cache"))
    pixels = np.zeros((40, 80), np.uint8)
    pixels[10:20, 20:40] = 200
    if dicom:
        path = write_dicom(tmp_path / "a.dcm", pixels.astype(np.uint16) * 16, bits=12)
    else:
        path = tmp_path / "a.png"
        Image.fromarray(pixels).save(path)
    evidence = ((Boxes(((20, 10, 20, 10),)),), (NoFinding(),), (), (Unreadable("its box is gone"),))
    for _ in range(2):  # the second time a DICOM file comes from the cache
        found = read_picture_file(PictureFile(path, (), Preparation(keep_aspect=True), evidence), 40)
        assert found.label_states == ("known", "empty", "unknown", "unknown")
        assert found.label_masks.shape == (4, 40, 40)
        rows, columns = np.nonzero(found.label_masks[0])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 19, 10, 19)
        np.testing.assert_array_equal(found.mask, found.label_masks[0])
        assert found.remarks["evidence"] == "its box is gone"
        assert "label_masks" not in found.metadata


def listing(root: Path, n: int = 60) -> Listing:
    """Images of two labels, one of which is rare, each patient with two of them."""
    records = []
    for i in range(n):
        path = root / f"{i}.png"
        Image.fromarray(np.full((16, 16), 4 * i, np.uint8)).save(path)
        labels = (int(i % 2), int(i % 5 == 0))
        evidence = tuple((Boxes(((2, 2, 4, 4),)),) if y else (NoFinding(),) for y in labels)
        source = PictureFile(path, (), label_evidence=evidence)
        more = {"labels": labels, "value": float(i), "inputs": {"age": 40.0 + i}}
        records.append(Record(f"i{i}", 0, source, patient=f"p{i // 2}", **more))
    return Listing(records, ("common", "rare"), read_picture_file, "made", root=root, value_name="weight")


def test_a_listing_of_several_labels_becomes_splits_that_have_the_rare_one(tmp_path):
    made = listing(tmp_path)
    splits = {split: assemble(made, "made", split, 16, None, 0) for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 60
    assert splits["train"].class_counts[1] >= 2
    assert splits["test"].class_counts[1] >= 1
    assert find_leaks(splits) == []
    for ds in splits.values():
        rows = [int(name[1:]) for name in ds.ids]
        np.testing.assert_array_equal(ds.labels, [[i % 2, i % 5 == 0] for i in rows])
        np.testing.assert_array_equal(ds.label_masks[:, :, 3, 3], ds.labels == 1)
        assert ds.values.tolist() == rows
        assert ds.inputs["age"].tolist() == [40 + i for i in rows]
        assert ds.value_name == "weight"


def test_values_without_classes_are_split_by_fifths():
    records = [Record(str(i), 0, None, value=float(i**3)) for i in range(50)]
    assert np.bincount(strata_of(records)).tolist() == [10] * 5


def test_facts_are_json(tmp_path):
    write_dataset(some(), tmp_path / "kept")
    assert json.loads((tmp_path / "kept" / "facts.json").read_text())["labels"] == LABELS


def test_xai_names_the_data_set():
    assert xai.ImageDataset is ImageDataset
