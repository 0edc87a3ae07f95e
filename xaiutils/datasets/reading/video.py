"""Videos to single frames: the round field of an endoscope is found and a square cut from it, and frames that hardly
differ are left out. Frames are kept as PNG files in the cache folder, with ``index.csv`` beside them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from xaiutils.datasets.reading.cache import cache_folder, code_of_reading, file_key
from xaiutils.datasets.reading.tables import read_csv
from xaiutils.file_limits import check_pixels, check_regular, naming
from xaiutils.files import csv_text
from xaiutils.registry import check_integer

VIDEO_SUFFIXES = frozenset({".avi", ".mp4"})
_LOOKED_AT = 200  # frames in which the field is looked for
_FILLED = 0.8  # of its enclosing circle; a field with dark tissue at its edge fills less, and is not found
_EDGE = 1.0  # pixels of the field's edge that no crop reaches


@dataclass(frozen=True)
class Sampling:
    """Which frames are taken: each ``every``-th from the first, cut to a square of ``crop`` pixels at the middle of the
    frame (0: the largest square within the round field, which is looked for), but none whose difference hash differs
    from that of an earlier one in ``duplicate_bits`` of 64 bits or fewer (-1: all are kept)."""

    every: int = 2
    crop: int = 0
    duplicate_bits: int = 2

    def __post_init__(self):
        check_integer("every", self.every, 1)
        check_integer("crop", self.crop, 0)
        check_integer("duplicate_bits", self.duplicate_bits, -1, 63)


@dataclass(frozen=True)
class VideoFrames:
    """Frames of one video. ``index`` has a row for each that was taken: video, frame (its number, from 0), time_s, file
    (a PNG in ``folder``; empty where the frame is left out), duplicate_of (the earlier frame's number, or empty).

    ``size`` (height, width) of the video, ``box`` (top, bottom, left, right) of the crop, ``field`` (x, y, radius) in
    pixels, empty where it was not looked for; ``n_read`` of the ``n_stated`` frames that the file's header promises.
    """

    folder: Path
    index: pd.DataFrame
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    field: tuple[float, ...]
    n_read: int
    n_stated: int


def frames_of_video(path: Path, sampling: Sampling) -> VideoFrames:
    """Take the frames of a video, or find them in the cache. Raises FileError that names a video that cannot be read,
    FileNotFoundError or PermissionError."""
    check_regular(path)
    key = json.dumps([code_of_reading(), cv2.__version__, file_key(path), astuple(sampling)])
    folder = cache_folder() / "videos" / hashlib.sha256(key.encode()).hexdigest()[:30]
    if folder.exists() and (kept := _kept(folder)) is not None:
        return kept
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with naming(path, "its frames cannot be read"):
            _take(path, making, sampling)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    done = _kept(folder)
    if done is None:
        raise OSError(f"the frames of {path} cannot be kept in {folder}.")
    return done


def find_field(frame: np.ndarray) -> tuple[float, float, float]:
    """Centre (x, y) and radius in pixels of the round field in ``frame`` uint8 ``(height, width)``: the smallest circle
    around the largest connected part above Otsu's threshold.

    Raises ValueError where there is none: that part fills less than 0.8 of its circle, or the circle is not within the
    longer side of the frame.
    """
    _, bright = cv2.threshold(frame, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, facts, _ = cv2.connectedComponentsWithStats(bright)
    areas = facts[1:, cv2.CC_STAT_AREA]
    if len(areas):
        part = labels == 1 + np.argmax(areas)
        (x, y), radius = cv2.minEnclosingCircle(np.argwhere(part)[:, ::-1].astype(np.float32))
        down, across = np.indices(frame.shape)
        circle = (down - y) ** 2 + (across - x) ** 2 <= radius**2
        if part.sum() >= _FILLED * circle.sum() and radius <= max(frame.shape) / 2 + 1:
            return x, y, radius
    raise ValueError("no round field is found; give crop=N, the side in pixels of a square at the middle of the frame")


def difference_hash(picture: np.ndarray) -> np.ndarray:
    """64 bools of a grey picture ``(height, width)``: of its 8 x 9 means, which are brighter than their left neighbour
    (Krawetz 2013's dHash)."""
    means = cv2.resize(picture, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return (np.diff(means, axis=1) > 0).ravel()


def _take(path: Path, folder: Path, sampling: Sampling) -> None:
    """Write frames, ``index.csv`` and ``video.json`` into an empty folder."""
    with _opened(path) as video:
        size = int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH))
        check_pixels(*size)
        rate, stated = video.get(cv2.CAP_PROP_FPS), max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
        box, field = _box(video, size, sampling)
    kept = np.zeros((0, 64), bool)
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    n_read = 0
    with _opened(path) as video:
        for number, frame in enumerate(_frames(video, sampling.every)):
            n_read += 1
            if frame is None:
                continue
            cut = frame[box[0] : box[1], box[2] : box[3]]
            bits = difference_hash(cv2.cvtColor(cut, cv2.COLOR_BGR2GRAY))
            distance = (kept != bits).sum(axis=1)
            double = len(kept) > 0 and distance.min() <= sampling.duplicate_bits
            row = {"video": path.name, "frame": number, "time_s": round(number / rate, 4) if rate > 0 else ""}
            row |= {"file": "", "duplicate_of": numbers[distance.argmin()] if double else ""}
            if not double:
                kept, name = np.vstack([kept, bits]), f"{number:06d}.png"
                numbers.append(number)
                Image.fromarray(np.ascontiguousarray(cut[..., ::-1])).save(folder / name, compress_level=3)
                row["file"] = name
            rows.append(row)
    facts = {"size": size, "box": box, "field": field, "n_read": n_read, "n_stated": stated}
    (folder / "index.csv").write_text(csv_text(pd.DataFrame(rows)), encoding="utf-8")
    (folder / "video.json").write_text(json.dumps(facts), encoding="utf-8")


def _box(
    video: cv2.VideoCapture, size: tuple[int, int], sampling: Sampling
) -> tuple[tuple[int, int, int, int], tuple[float, ...]]:
    """The crop (top, bottom, left, right), and the field. Raises ValueError."""
    total, n = np.zeros(size, np.float64), 0
    # Over many frames tissue, which moves, is evenly bright, and Otsu's threshold parts the field from what is black.
    taken = (frame for frame in _frames(video, sampling.every) if frame is not None)
    for frame in islice(taken, 1 if sampling.crop else _LOOKED_AT):
        n += 1
        total += cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    if n == 0:
        raise ValueError("no frame of it can be decoded")
    if sampling.crop > min(size):
        raise ValueError(f"its frames of {size[0]} x {size[1]} pixels are smaller than crop={sampling.crop}")
    field = () if sampling.crop else find_field(np.rint(total / n).astype(np.uint8))
    x, y, radius = field or ((size[1] - 1) / 2, (size[0] - 1) / 2, 0.0)
    side = sampling.crop or min(int(np.sqrt(2) * (radius - _EDGE)), *size)
    top, left = (int(np.clip(round(at - (side - 1) / 2), 0, most - side)) for at, most in ((y, size[0]), (x, size[1])))
    return (top, top + side, left, left + side), tuple(round(float(v), 2) for v in field)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """Through FFmpeg and by an absolute path: other readers take a name for a pattern, or an address."""
    video = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            raise ValueError("it is damaged, or not a video")
        yield video
    finally:
        video.release()


def _frames(video: cv2.VideoCapture, every: int) -> Iterator[np.ndarray | None]:
    """uint8 BGR of each ``every``-th frame, None of the others, which are not decoded, up to the first that fails."""
    number = 0
    while video.grab():
        good, frame = (True, None) if number % every else video.retrieve()
        if not good:
            return
        yield frame
        number += 1


def _kept(folder: Path) -> VideoFrames | None:
    """What a folder of the cache holds; None where it is not whole."""
    try:
        index = read_csv(folder / "index.csv", ",")
        facts = json.loads((folder / "video.json").read_text(encoding="utf-8"))
        if not all((folder / name).is_file() for name in index["file"] if name):
            return None
        index["frame"] = index["frame"].astype(int)
        size, box, field = (tuple(facts[name]) for name in ("size", "box", "field"))
        return VideoFrames(folder, index, size, box, field, facts["n_read"], facts["n_stated"])
    except (OSError, ValueError, KeyError):
        return None
