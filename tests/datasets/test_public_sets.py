"""MNIST, Cats & Dogs, Oxford Pets, BUSI, MIMIC-CXR and COCO in the layouts they are published in, and downloads."""

import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import xaiutils as xai
from xaiutils.datasets.loaders import cats_vs_dogs, mnist, oxford_pets
from xaiutils.datasets.reading.cache import cache_folder
from xaiutils.datasets.reading.download import Remote, fetch, unpack
from xaiutils.datasets.reading.picture_file import Preparation


def photo(seed=0, size=(24, 20), suffix="JPEG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def load(name, root, split="all", **options):
    return xai.load_dataset(name, split, image_size=16, data_dir=root, **options)


@pytest.fixture
def server(tmp_path):
    """A folder that is served on localhost: (folder, address, requests)."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    running = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{running.server_port}/", asked
    running.shutdown()


def remote(folder, address, name, content) -> Remote:
    put(folder / name, content)
    return Remote(name, (address + "gone/" + name, address + name), f"md5:{hashlib.md5(content).hexdigest()}", 1)


# MNIST --------------------------------------------------------------------------------------------------------------


def idx(array) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder, n=120):
    rng = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", n), ("t10k", n // 2)):
        images = rng.integers(0, 255, (count, 28, 28))
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(count) % 10))
    for name, content in files.items():
        put(folder / name, content)
    return files


def test_mnist_from_packed_and_unpacked_files(tmp_path):
    files = write_mnist(tmp_path / "raw")
    parts = {s: load("mnist", tmp_path, s) for s in ("train", "val", "test")}
    assert [len(d) for d in parts.values()] == [108, 12, 60]
    assert parts["test"].labels.tolist() == [i % 10 for i in range(60)]
    assert not parts["test"].mirrors
    for name, content in files.items():  # as Keras and some mirrors name them
        put(tmp_path / "other" / name.removesuffix(".gz").replace("-idx", ".idx"), gzip.decompress(content))
    np.testing.assert_array_equal(load("mnist", tmp_path / "other", "test").pixels, parts["test"].pixels)


def test_mnist_damaged(tmp_path):
    files = write_mnist(tmp_path)
    name = "t10k-images-idx3-ubyte.gz"
    for broken, words in (
        (files[name][:200], "is damaged"),
        (gzip.compress(b"no"), "not an IDX file"),
        (gzip.compress(gzip.decompress(files[name])[:-5]), "is damaged"),
        (files["train-images-idx3-ubyte.gz"], "no pair"),
    ):
        put(tmp_path / name, broken)
        with pytest.raises(ValueError, match=words):
            load("mnist", tmp_path)


@given(st.binary(max_size=60))
def test_any_bytes_as_idx_give_an_array_or_a_clear_error(tmp_path_factory, raw):
    path = put(tmp_path_factory.mktemp("idx") / "a", raw)
    try:
        assert mnist.read_idx(path).dtype == np.uint8
    except ValueError as error:
        assert str(path) in str(error)


def test_two_sets_of_idx_files_are_refused(tmp_path):
    write_mnist(tmp_path / "fashion")
    write_mnist(tmp_path / "mnist")
    with pytest.raises(ValueError, match="several sets of IDX files .*fashion.*mnist.*; give the folder of one"):
        load("mnist", tmp_path)


def test_mnist_is_downloaded_and_checked(tmp_path, server, monkeypatch):
    folder, address, asked = server
    files = write_mnist(tmp_path / "source")
    monkeypatch.setattr(mnist, "REMOTES", [remote(folder, address, n, c) for n, c in files.items()])
    data = tmp_path / "data"
    assert len(load("mnist", data, "test")) == 60
    assert sorted(p.name for p in (data / "mnist").iterdir()) == sorted(files)
    before = len(asked)
    load("mnist", data, "test")
    assert len(asked) == before  # nothing is fetched twice


def test_the_kits_mnist(kit):
    test = xai.load_dataset("mnist", "test", image_size=28, data_dir=kit / "mnist")
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    train = [xai.load_dataset("mnist", s, image_size=8, limit=10, data_dir=kit / "mnist") for s in ("train", "val")]
    assert [d.available for d in train] == [54000, 6000]
    files = {p.name: gzip.decompress(p.read_bytes()) for p in (kit / "mnist").glob("*.gz")}
    # Published checksums of the unpacked files; those of the packed ones are of the mirrors' packing.
    published = {
        "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
        "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, md5 in published.items():
        assert hashlib.md5(files[name]).hexdigest() == md5


# Downloads ----------------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path, server):
    folder, address, _ = server
    good = remote(folder, address, "a.bin", b"content")
    put(folder / "a.bin", b"something else")
    with pytest.raises(OSError, match=r"a\.bin \(1 MB\) could not be downloaded. Get it by hand .* hash"):
        fetch([good], tmp_path / "data")
    assert not list((tmp_path / "data").glob("a*"))
    put(folder / "a.bin", b"content")
    assert fetch([good], tmp_path / "data")[0].read_bytes() == b"content"


def test_no_connection_says_what_to_do(tmp_path):
    lost = Remote("a.bin", ("http://127.0.0.1:9/a.bin",), "md5:0", 5)
    with pytest.raises(OSError, match=r"5 MB\) could not be downloaded. Get it by hand and put it into"):
        fetch([lost], tmp_path)


def test_archives_that_write_elsewhere_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("a.txt", "fine")
        archive.writestr("../evil.txt", "no")
    with tarfile.open(tmp_path / "slip.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("../evil.txt")
        archive.addfile(entry, io.BytesIO())
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(entry)
    for name in ("slip.zip", "slip.tar.gz", "link.tar.gz"):
        with pytest.raises(ValueError, match="not safe"):
            unpack(tmp_path / name, tmp_path / "out" / "files")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x1f\x8b\x08 broken"])
def test_damaged_archives_are_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.zip is damaged"):
        unpack(put(tmp_path / "a.zip", content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Cats & Dogs --------------------------------------------------------------------------------------------------------


def pet_images(n=12) -> dict[str, bytes]:
    files = {f"PetImages/{k}/{i}.jpg": photo(i) for k in ("Cat", "Dog") for i in range(n)}
    return {**files, "PetImages/Cat/666.jpg": b"", "PetImages/Dog/11702.jpg": b"\xff\xd8broken", "readme.txt": b"x"}


def packed(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_cats_and_dogs_from_folders_and_archives(tmp_path):
    for name, content in pet_images().items():
        put(tmp_path / "folder" / name, content)
    put(tmp_path / "zip" / "kagglecatsanddogs_5340.zip", packed(pet_images()))
    flat = {f"train/{k}.{i}.jpg": photo(i) for k in ("cat", "dog") for i in range(12)}
    put(
        tmp_path / "kaggle" / "dogs-vs-cats.zip",
        packed({"train.zip": packed(flat), "test1.zip": packed({"1.jpg": b""})}),
    )
    for name in ("folder", "zip"):
        with pytest.warns(UserWarning, match=r"2 of 26 files could not be read: 666\.jpg .* 11702\.jpg"):
            ds = load("cats_vs_dogs", tmp_path / name)
        assert np.bincount(ds.labels).tolist() == [12, 12]
        assert ds.class_names == ("cat", "dog")
        assert [p.rsplit("/", 1)[-1] for p, _ in ds.skipped] == ["666.jpg", "11702.jpg"]
    kaggle = load("cats_vs_dogs", tmp_path / "kaggle")
    assert np.bincount(kaggle.labels).tolist() == [12, 12]
    assert len(load("cats_vs_dogs", tmp_path / "kaggle", "test")) == 5  # drawn, not stated


def test_cats_and_dogs_are_downloaded(tmp_path, server, monkeypatch):
    folder, address, _ = server
    pets = {n: c for n, c in pet_images().items() if len(c) > 20}
    monkeypatch.setattr(cats_vs_dogs, "REMOTES", [remote(folder, address, "kagglecatsanddogs_5340.zip", packed(pets))])
    assert len(load("cats_vs_dogs", tmp_path / "data")) == 24
    put(folder / "kagglecatsanddogs_5340.zip", b"")
    assert len(load("cats_vs_dogs", tmp_path / "data")) == 24


def test_the_kits_cats_and_dogs(kit):
    parts = {s: load("cats_vs_dogs", kit / "cats_dogs", s, limit=10) for s in ("train", "val", "test")}
    assert [d.available for d in parts.values()] == [500, 100, 200]


# Oxford Pets --------------------------------------------------------------------------------------------------------

BREEDS = ("Abyssinian", "Bengal", "basset_hound", "pug")


def pets_files(n=4) -> tuple[dict[str, bytes], dict[str, bytes]]:
    trimap = np.full((20, 24), 2, np.uint8)
    trimap[4:16, 6:18], trimap[6:14, 8:16] = 3, 1
    file = io.BytesIO()
    Image.fromarray(trimap).save(file, "PNG")
    names = [f"{b}_{i}" for b in BREEDS for i in range(n)]
    lists = {
        split: "".join(f"{name} 1 1 1\n" for name in names if (name[-1] == "0") == (split == "test")).encode()
        for split in ("trainval", "test")
    }
    notes = {f"annotations/trimaps/{name}.png": file.getvalue() for name in names}
    notes |= {f"annotations/{split}.txt": text for split, text in lists.items()}
    notes["annotations/trimaps/._Bengal_0.png"] = b"of a Mac"
    return {f"images/{name}.jpg": photo(i) for i, name in enumerate(names)}, notes


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def test_oxford_pets(tmp_path, server, monkeypatch):
    folder, address, _ = server
    images, notes = pets_files()
    remotes = [
        remote(folder, address, n, tarred(f)) for n, f in (("images.tar.gz", images), ("annotations.tar.gz", notes))
    ]
    monkeypatch.setattr(oxford_pets, "REMOTES", remotes)
    ds = load("oxford_pets", tmp_path / "data")
    assert ds.class_names == ("cat", "dog")
    assert ds.mirrors  # a mirrored pet is a pet; digits are not
    assert np.bincount(ds.labels).tolist() == [8, 8]
    assert ds.masks.mean() == pytest.approx(144 / 480, abs=0.03)
    inner = load("oxford_pets", tmp_path / "data", border=False)
    assert inner.masks.mean() == pytest.approx(64 / 480, abs=0.03)
    breeds = load("oxford_pets", tmp_path / "data", "test", task="breed")
    assert breeds.class_names == ("Abyssinian", "basset_hound", "Bengal", "pug")
    assert sorted(breeds.ids) == sorted(f"{b}_0" for b in BREEDS)


def test_images_that_state_no_split_are_counted(tmp_path):
    images, notes = pets_files()
    extra = {"images/pug_9.jpg": photo(9), "images/pug_8.jpg": photo(8)}
    notes["annotations/trimaps/pug_9.png"] = notes["annotations/trimaps/pug_0.png"]
    for name, content in {**images, **extra, **notes}.items():
        put(tmp_path / name, content)
    ds = load("oxford_pets", tmp_path, "test")
    assert "1 of 17 images state no split, as the others do, and are in none." in ds.notes
    assert ds.skipped == [("pug_8.jpg", "no trimap of it")]


def test_the_kits_pets(kit):
    ds = load("oxford_pets", kit / "oxford_pets")
    assert len(ds) == 340
    index = pd.read_csv(kit / "oxford_pets" / "index.csv").set_index("image")
    assert [ds.class_names[y] for y in ds.labels] == list(index.loc[ds.ids, "species"])
    with_border = index.loc[ds.ids, "foreground_fraction"].to_numpy()
    assert (ds.masks.mean(axis=(1, 2)) > with_border - 0.03).all()


# BUSI ---------------------------------------------------------------------------------------------------------------


def test_busi_in_its_public_layout(tmp_path):
    def mask(top):
        pixels = np.zeros((20, 24), np.uint8)
        pixels[top : top + 5, 3:9] = 255
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    root = tmp_path / "Dataset_BUSI_with_GT"
    for label in ("benign", "malignant", "normal"):
        for i in range(1, 9):
            put(root / label / f"{label} ({i}).png", photo(i, suffix="PNG"))
            put(root / label / f"{label} ({i})_mask.png", mask(2) if label != "normal" else mask(50))
    put(root / "benign" / "benign (4)_mask_1.png", mask(12))
    ds = load("busi", tmp_path, keep_aspect=False)
    assert np.bincount(ds.labels).tolist() == [8, 8]
    areas = dict(zip(ds.ids, ds.masks.sum(axis=(1, 2)), strict=True))
    assert areas["benign/benign (4).png"] > 1.7 * areas["benign/benign (5).png"] > 0
    three = load("busi", tmp_path, task="three")
    assert three.class_names == ("normal", "benign", "malignant")
    assert not three.masks[three.labels == 0].any()  # an empty mask is no evidence, and no error
    with pytest.raises(FileNotFoundError, match="no folder 'benign'. BUSI is free"):
        load("busi", root / "benign")


def test_the_kits_busi(kit):
    ds = load("busi", kit / "busi")
    assert len(ds) == 582
    # At 16 pixels some lesions are smaller than a pixel, and that is said.
    np.testing.assert_array_equal(ds.masks.any(axis=(1, 2)), ~ds.metadata["lesion_lost"].to_numpy(bool))
    assert "Patients are not recorded" in ds.notes[0]


# MIMIC-CXR ----------------------------------------------------------------------------------------------------------


def test_mimic_cxr(tmp_path):
    rows = []
    for i in range(40):
        row = {
            "dicom_id": f"d{i:03d}",
            "study_id": f"s{i}",
            "subject_id": f"p{i // 2}",
            "ViewPosition": "LATERAL" if i % 5 == 0 else "AP" if i % 7 == 3 else "PA",
            "split": ("train", "train", "validate", "test")[i // 2 % 4],
        }
        rows.append(
            {
                **row,
                "No Finding": "1.0" if i % 3 == 0 else "",
                "Edema": ("", "1.0", "-1.0")[i % 3],
                "Support Devices": "1.0",
            }
        )
        put(tmp_path / "files" / "p10" / row["subject_id"] / row["study_id"] / f"{row['dicom_id']}.jpg", photo(i))
    (tmp_path / "files" / "p10" / "p0" / "s1" / "d001.jpg").unlink()
    table = pd.DataFrame(rows)
    keys = ["study_id", "subject_id"]
    for kind, columns in (
        ("metadata", ["dicom_id", *keys, "ViewPosition"]),
        ("split", ["dicom_id", *keys, "split"]),
        ("chexpert", [*keys, "No Finding", "Edema", "Support Devices"]),
    ):
        table[columns].to_csv(tmp_path / f"mimic-cxr-2.0.0-{kind}.csv.gz", index=False)
    ds = load("mimic_cxr", tmp_path)
    frontal = [r for r in rows if r["ViewPosition"] != "LATERAL" and (r["No Finding"] or r["Edema"] == "1.0")]
    assert len(ds) == len(frontal) - 1
    assert ds.skipped == [("d001", "no picture of it")]
    assert ds.class_names == ("normal", "abnormal")
    expected = {r["dicom_id"]: int(r["Edema"] == "1.0") for r in frontal}
    assert all(expected[i] == y for i, y in zip(ds.ids, ds.labels, strict=True))
    lying = load("mimic_cxr", tmp_path, views=("AP",))  # those of the attention study
    assert lying.ids == [r["dicom_id"] for r in frontal if r["ViewPosition"] == "AP"]
    assert set(load("mimic_cxr", tmp_path, "val").patients) == {
        r["subject_id"] for r in frontal if r["split"] == "validate"
    }
    broken = tmp_path / "mimic-cxr-2.0.0-split.csv.gz"
    table.rename(columns={"subject_id": "subject"})[["dicom_id", "study_id", "subject", "split"]].to_csv(broken)
    with pytest.raises(ValueError, match=r"split\.csv\.gz has no column 'subject_id'; did you mean subject"):
        load("mimic_cxr", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks mimic-cxr-2\.0\.0-chexpert.*credentialed"):
        load("mimic_cxr", tmp_path / "files")


# COCO ---------------------------------------------------------------------------------------------------------------


def coco(root, **changes):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 24, "patient": f"p{i // 2}"} for i in range(16)]
    annotations = []
    for i in range(14):
        mark = {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 5, 8, 6]}
        if i % 3 == 1:
            mark["segmentation"] = [[4, 5, 11, 5, 11, 10, 4, 10]]
        elif i % 3 == 2:
            before, column = 4 * 20 + 5, [6, 14]
            mark["segmentation"] = {
                "size": [20, 24],
                "counts": [before, *(column * 8)[:-1], 480 - before - 8 * 20 + 14],
            }
        annotations.append(mark)
    annotations.append({"id": 99, "image_id": 0, "category_id": 2, "bbox": [1, 1, 2, 2]})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cyst"}, {"id": 2, "name": "mass"}],
    }
    (root / "notes.json").write_text(json.dumps({**content, **changes}))
    for i in range(16):
        put(root / "images" / f"{i}.jpg", photo(i))


def test_coco(tmp_path):
    coco(tmp_path)
    ds = xai.load_dataset("coco", "all", image_size=24, data_dir=tmp_path, keep_aspect=True, patient_key="patient")
    assert ds.class_names == ("cyst", "mass")
    assert len(ds) == 13
    assert ds.notes == [
        "1 images have annotations of several classes and are left out.",
        "2 images have no annotations and are left out; background=NAME makes a class of them.",
    ]
    expected = np.zeros((24, 24), bool)
    expected[2 + 5 : 2 + 11, 4:12] = True
    for mask, name in zip(ds.masks, ds.ids, strict=True):  # box, polygon and run lengths of one rectangle
        np.testing.assert_array_equal(mask, expected, err_msg=name)
    assert ds.patients[0] == "p0"
    with_normal = load("coco", tmp_path, background="normal", classes=["mass"])
    assert with_normal.class_names == ("normal", "mass")
    assert np.bincount(with_normal.labels).tolist() == [2, 8]
    with pytest.raises(ValueError, match="no category 'massa'; did you mean mass"):
        load("coco", tmp_path, classes=["massa"])
    with pytest.raises(ValueError, match="one category"):
        load("coco", tmp_path, classes=["mass"])
    with pytest.raises(FileNotFoundError, match="give the COCO file by annotations"):
        load("coco", tmp_path, annotations="nothing.json")
    (tmp_path / "images" / "3.jpg").unlink()
    assert load("coco", tmp_path).skipped == [("3.jpg", "no picture of it")]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 1}]},
        {"annotations": [{"image_id": 1, "category_id": 7}]},
        {"categories": 3},
    ],
)
def test_a_broken_coco_file_is_named(tmp_path, changes):
    coco(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"notes\.json: it is not a COCO file"):
        load("coco", tmp_path)


# All of them --------------------------------------------------------------------------------------------------------


def test_every_entry_says_what_a_user_must_know():
    for entry in xai.DATASETS.values():
        for field in ("title", "licence", "citation", "access", "evidence", "caution"):
            assert getattr(entry, field).strip(), (entry.name, field)
        text = f"{entry.load.__doc__} {Preparation.__doc__}"
        for option in entry.options:
            assert re.search(rf"\b{option}\b", text), f"{entry.name}: {option} is not explained"


def test_unpacked_archives_are_kept_in_the_cache(tmp_path):
    put(tmp_path / "a.zip", packed({k: v for k, v in pet_images().items() if len(v) > 20}))
    load("cats_vs_dogs", tmp_path)
    assert list((cache_folder() / "cats_vs_dogs").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]  # the user's folder stays as it was
