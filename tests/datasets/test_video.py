"""Videos by class and patient: frames, the round field, near-duplicates, outlines, patients' splits, damaged files."""

import json

import cv2
import numpy as np
import pytest

import xaiutils as xai
from xaiutils.datasets import find_leaks
from xaiutils.datasets.loaders.video import split_patients
from xaiutils.datasets.reading.video import Sampling, difference_hash, find_field, frames_of_video

SIZE, CENTRE, RADIUS = (96, 128), (60, 50), 40  # (height, width), (x, y)
NEST = (52, 44, 20, 12)  # x, y, width, height of the dark nest in the first frame; it drifts by a pixel a frame


def endomicroscopy(path, n_frames=12, seed=0, still=(), nest=True):
    """A round field of moving bright tissue, with a dark nest that drifts to the right, and a white logo beside it."""
    rng = np.random.default_rng(seed)
    tissue = cv2.GaussianBlur(rng.uniform(90, 230, (SIZE[0], SIZE[1] + 200)).astype(np.float32), (0, 0), 2)
    down, across = np.indices(SIZE)
    field = (across - CENTRE[0]) ** 2 + (down - CENTRE[1]) ** 2 <= RADIUS**2
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, SIZE[::-1])
    shift = 0
    for number in range(n_frames):
        shift += number not in still and number > 0
        frame = tissue[:, 8 * shift : 8 * shift + SIZE[1]].copy()
        x, y, w, h = NEST
        if nest:
            frame[y : y + h, x + number : x + number + w] = 20
        frame[~field] = 0
        frame[4:14, 104:124] = 255
        video.write(np.repeat(np.rint(frame).astype(np.uint8)[..., None], 3, axis=2))
    video.release()
    return path


def outline(x, y, w, h):
    return [x, y, x + w - 1, y, x + w - 1, y + h - 1, x, y + h - 1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three patients of each class, a damaged video, and outlines of one class: of whole frames, and of crops."""
    root = tmp_path_factory.mktemp("videos")
    for k in range(3):
        endomicroscopy(root / "glioma" / f"g{k}" / "clip.avi", seed=k, nest=False)
        endomicroscopy(root / "meningioma" / f"m{k}" / f"clip{k}.mp4", seed=10 + k)
    (root / "glioma" / "g0" / "torn.mp4").write_bytes((root / "meningioma/m0/clip0.mp4").read_bytes()[:3000])
    x, y, w, h = NEST
    crop = frames_of_video(root / "meningioma/m1/clip1.mp4", Sampling()).box
    images = [
        {"id": 1, "file_name": "clip0_000000.png", "height": SIZE[0], "width": SIZE[1]},
        {"id": 2, "file_name": "meningioma/m0/clip0_frame4.png"},
        {"id": 3, "file_name": "clip1_0.png", "height": crop[1] - crop[0], "width": crop[3] - crop[2]},
        {"id": 4, "file_name": "clip0_000003.png"},
        {"id": 5, "file_name": "clip1_6.png", "height": 33, "width": 44},
    ]
    places = {1: (x, y), 2: (x + 4, y), 3: (x - crop[2], y - crop[0]), 4: (x + 3, y), 5: (x, y)}
    marks = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": [outline(*at, w, h)]} for i, at in places.items()
    ]
    content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "nest"}]}
    (root / "outlines.json").write_text(json.dumps(content))
    return root


def load(root, split="all", **options):
    return xai.load_dataset("video", split, image_size=48, data_dir=root, **options)


def test_frames_are_taken_and_cut_to_the_field(videos):
    found = frames_of_video(videos / "glioma" / "g1" / "clip.avi", Sampling(every=3))
    assert (found.n_read, found.n_stated, found.size) == (12, 12, SIZE)
    assert found.index["frame"].tolist() == [0, 3, 6, 9]
    assert found.index["time_s"].astype(float).tolist() == pytest.approx([0, 0.3, 0.6, 0.9])
    assert np.abs(np.subtract(found.field, (*CENTRE, RADIUS))).max() <= 2
    top, bottom, left, right = found.box
    assert bottom - top == right - left >= np.sqrt(2) * (RADIUS - 3)
    corners = np.array([(x, y) for x in (left, right - 1) for y in (top, bottom - 1)])
    assert np.hypot(*(corners - CENTRE).T).max() <= RADIUS
    again = frames_of_video(videos / "glioma" / "g1" / "clip.avi", Sampling(every=3))
    assert again.folder == found.folder
    assert again.index.equals(found.index)
    assert frames_of_video(videos / "glioma" / "g1" / "clip.avi", Sampling(crop=30)).box == (33, 63, 49, 79)


def test_a_frame_that_went_missing_is_taken_again(videos):
    found = frames_of_video(videos / "glioma" / "g1" / "clip.avi", Sampling(every=4))
    first = found.folder / found.index["file"][0]
    first.unlink()
    frames_of_video(videos / "glioma" / "g1" / "clip.avi", Sampling(every=4))
    assert first.is_file()


def test_near_duplicates_are_left_out(tmp_path):
    path = endomicroscopy(tmp_path / "clip.avi", 8, still=(3, 4, 5), nest=False)
    index = frames_of_video(path, Sampling(every=1)).index
    assert index["duplicate_of"].tolist() == ["", "", "", "2", "2", "2", "", ""]
    assert (index["file"] == "").tolist() == (index["duplicate_of"] != "").tolist()
    assert (frames_of_video(path, Sampling(every=1, duplicate_bits=-1)).index["file"] != "").all()
    assert difference_hash(np.tile(np.arange(9, dtype=np.uint8), (8, 1))).all()
    assert not difference_hash(np.full((8, 9), 7, np.uint8)).any()


def test_a_torn_video_gives_the_frames_that_are_there(tmp_path):
    path = endomicroscopy(tmp_path / "clip.avi", nest=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = frames_of_video(path, Sampling(every=1))
    assert 3 < found.n_read == len(found.index) < found.n_stated == 12


def test_what_has_no_round_field_is_refused():
    with pytest.raises(ValueError, match="crop=N"):
        find_field(np.random.default_rng(0).integers(100, 200, SIZE).astype(np.uint8))
    with pytest.raises(ValueError, match="crop=N"):
        find_field(np.pad(np.full((20, 90), 200, np.uint8), 19))


def test_data_set(videos):
    with pytest.warns(UserWarning, match=r"1 of 7 videos could not be read: torn\.mp4 "):
        ds = load(videos)
    assert ds.class_names == ("glioma", "meningioma")
    assert len(ds) == 36
    assert ds.labels.tolist() == [0] * 18 + [1] * 18
    assert sorted(set(ds.patients)) == ["g0", "g1", "g2", "m0", "m1", "m2"]
    assert [path.rsplit("/", 1)[1] for path, _ in ds.skipped] == ["torn.mp4"]
    assert ds.images.max() < 250  # no logo
    assert ds.images.min() >= 0
    assert "6 videos have 72 frames; 36 were taken, and 0 of these left out as near-duplicates." in ds.notes
    assert "1 of 5 annotated images are no frame that was taken." in ds.notes
    kinds = dict(zip(ds.files["kind"], ds.files["files"], strict=True))
    assert kinds == {"picture": 6, "table or annotation": 1, "damaged": 1}


def test_masks_move_with_the_crop(videos):
    with pytest.warns(UserWarning, match="could not be read|evidence"):
        ds = load(videos)
    known = {ds.ids[i] for i in np.flatnonzero(ds.evidence == "known")}
    assert known == {"meningioma/m0/clip0_000000", "meningioma/m0/clip0_000004", "meningioma/m1/clip1_000000"}
    assert (ds.evidence[[i not in known for i in ds.ids]] == "unknown").all()
    for name in known:
        i = ds.ids.index(name)
        dark = ds.images[i, ..., 0] < 60
        assert (dark & ds.masks[i]).sum() / (dark | ds.masks[i]).sum() > 0.8
    assert any("33 x 44" in note for note in ds.notes)


def test_patients_are_parted_with_both_classes_in_each_split(videos):
    parts = {}
    for split in ("train", "val", "test"):
        with pytest.warns(UserWarning, match="could not be read"):
            parts[split] = load(videos, split)
        assert set(parts[split].labels) == {0, 1}
    assert not find_leaks(parts)
    study = [("meningioma", f"m{i}") for i in range(18)] + [("glioma", f"g{i}") for i in range(16)]
    for seed in range(5):
        split = split_patients(study, seed)
        assert sorted(map(list(split.values()).count, ("train", "val", "test"))) == [3, 4, 27]
        for name in ("train", "val", "test"):
            assert {who[0] for who, part in split.items() if part == name} == {"m", "g"}
    assert split_patients(study, 0) != split_patients(study, 1)
    shared = split_patients([("a", f"p{i}") for i in range(9)] + [("b", f"p{i}") for i in range(5)], 0)
    assert len(shared) == 9
    with pytest.raises(ValueError, match="'b' has 2 patients"):
        split_patients([("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"), ("b", "5")], 0)


def test_what_is_not_laid_out_so_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 0 videos"):
        load(tmp_path)
    endomicroscopy(tmp_path / "a" / "clip.avi", 2)
    with pytest.raises(ValueError, match=r"clip\.avi: a video lies in the folder of its patient"):
        load(tmp_path)
    with pytest.raises(ValueError, match="every"):
        load(tmp_path, every=0)
