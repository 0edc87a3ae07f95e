"""Videos of endoscopes, in folders by class and patient, as single frames (You 2022 had 34 patients, 12,392 frames)."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xaiutils.datasets import inventory
from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.coco import annotation_file, evidence_of, read_annotations
from xaiutils.datasets.reading.evidence import CutOut, Evidence, Unreadable, check_frame
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.datasets.reading.video import VIDEO_SUFFIXES, Sampling, VideoFrames, frames_of_video
from xaiutils.file_limits import explain
from xaiutils.progress import progress
from xaiutils.text import counted

_FRAME_NAME = re.compile(r"(?P<video>.+?)[_-](?:frame[_-]?)?(?P<frame>\d+)")
_Place = tuple[str, int]  # of a frame: its video, without suffix, and its number


def load(
    data_dir: Path,
    preparation: Preparation,
    seed: int,
    *,
    every: int = 2,
    crop: int = 0,
    duplicate_bits: int = 2,
    annotations: str = "",
) -> Listing:
    """``data_dir/CLASS/PATIENT/*.avi`` or ``.mp4``; the folder of a patient may hold others.

    Each ``every``-th frame is taken, as the square of ``crop`` pixels at its middle (0: the largest one in the round
    field, which is looked for); of frames whose difference hashes differ in ``duplicate_bits`` of 64 bits or fewer, the
    first (-1: all). Frames are kept in the cache folder. Evidence is that of the COCO file ``annotations`` (default:
    the only .json there, if any), whatever its categories, of images called ``VIDEO_NUMBER.png``, numbered from 0, in
    pixels of the whole frame or of the crop, by the height and width that it states; of other frames it is not known.

    Patients are parted by ``seed`` into about 80, 10 and 10 %, each part with patients of every class. A name that
    occurs in two classes is one patient. Videos that cannot be read are named and left out.
    """
    sampling = Sampling(every, crop, duplicate_bits)
    places = _videos(data_dir)
    read, skipped = _read(places, sampling)
    names = sorted({place[0] for place in places.values()})
    if lost := [name for name in names if name not in {places[path][0] for path in read}]:
        raise ValueError(f"{data_dir}: no video of class {lost[0]!r} can be read; first: {skipped[0]}.")
    files = dict.fromkeys(read, inventory.PICTURE) | {Path(path): inventory.DAMAGED for path, _ in skipped}
    marked: dict[_Place, tuple[Evidence, ...]] = {}
    notes = [_count(read)]
    if annotations or any(p.suffix.lower() == ".json" for p in walk_files(data_dir)):
        path = annotation_file(data_dir, annotations)
        files[path] = inventory.TABLE
        marked, lost_marks = _marks(path, {_name(places[video], video): found for video, found in read.items()})
        if lost_marks:
            notes.append(f"{lost_marks} of {lost_marks + len(marked)} annotated images are no frame that was taken.")
    parts = split_patients([(place[0], place[1]) for path, place in places.items() if path in read], seed)
    records = [
        Record(
            f"{_name(place, path)}_{row['frame']:06d}",
            names.index(place[0]),
            PictureFile(
                found.folder / row["file"], tuple(marked.get((_name(place, path), row["frame"]), ())), preparation
            ),
            parts[place[1]],
            place[1],
            {"video": path.name, "frame": row["frame"], "time_s": row["time_s"]},
        )
        for path, found in read.items()
        for place in [places[path]]
        for row in found.index[found.index["file"] != ""].to_dict("records")
    ]
    notes += [
        f"{path.name}: {found.n_read} frames could be read of {found.n_stated} that its header states."
        for path, found in read.items()
        if found.n_read < found.n_stated
    ]
    return Listing(
        records,
        tuple(names),
        read_picture_file,
        str(data_dir),
        skipped=skipped,
        notes=notes,
        root=data_dir,
        files=files,
    )


VIDEO = DatasetEntry(
    "video",
    "Your videos, by class and patient",
    load,
    licence="yours",
    citation="yours",
    access="give the folder of the classes as data_dir: CLASS/PATIENT/*.avi or *.mp4",
    evidence="your COCO outlines of frames, where there are any",
    caution="Frames of one video are alike: count patients, not frames.",
)


def split_patients(patients: Sequence[tuple[str, str]], seed: int) -> dict[str, str]:
    """The split of each patient of (class, patient) pairs: a tenth (rounded up) test, a tenth val, the others train,
    classes in proportion and each in every split. Raises ValueError for a class of fewer than three patients."""
    members = {kind: sorted({who for what, who in patients if what == kind}) for kind, _ in patients}
    n = len({who for _, who in patients})
    rng = np.random.default_rng(seed)
    parts: dict[str, str] = {}
    for kind in sorted(members, key=lambda k: (len(members[k]), k)):
        known = members[kind]
        if len(known) < 3:
            raise ValueError(
                f"class {kind!r} has {counted(len(known), 'patient', 'patients')} ({', '.join(known)}); train, val and "
                "test each need one."
            )
        order = [known[i] for i in rng.permutation(len(known)) if known[i] not in parts]
        for split, total in (("test", int(np.ceil(n / 10))), ("val", round(n / 10))):
            wanted = max(1, round(total * len(known) / n)) - sum(parts.get(who) == split for who in known)
            parts |= dict.fromkeys(order[: max(0, wanted)], split)
            order = order[max(0, wanted) :]
        parts |= dict.fromkeys(order, "train")
        if missing := {"train", "val", "test"} - {parts[who] for who in known}:
            raise ValueError(f"class {kind!r} has no patient for {missing.pop()}: too many are in other classes too.")
    return parts


def _videos(root: Path) -> dict[Path, tuple[str, ...]]:
    """The folders below ``root`` of each video: class, patient, and others. Raises ValueError."""
    found = {p: p.relative_to(root).parts[:-1] for p in walk_files(root) if p.suffix.lower() in VIDEO_SUFFIXES}
    bare = next((p for p, parts in found.items() if len(parts) < 2), None)
    if bare is not None:
        raise ValueError(f"{bare}: a video lies in the folder of its patient, in that of its class: CLASS/PATIENT/.")
    if len({parts[0] for parts in found.values()}) < 2:
        raise ValueError(f"{root} has {len(found)} videos (.avi, .mp4), in folders of fewer than two classes.")
    return found


def _read(
    places: Mapping[Path, tuple[str, ...]], sampling: Sampling
) -> tuple[dict[Path, VideoFrames], list[tuple[str, str]]]:
    """Frames by video, and the videos that cannot be read, with the reason; these are warned of."""
    read, skipped = {}, []
    for path in progress(places, title="reading videos"):
        try:
            read[path] = frames_of_video(path, sampling)
        except (ValueError, PermissionError, FileNotFoundError) as error:
            skipped.append((str(path), getattr(error, "reason", "") or explain(error)))
    if skipped:
        first = "; ".join(f"{Path(path).name} ({reason})" for path, reason in skipped[:3])
        warnings.warn(f"{len(skipped)} of {len(places)} videos could not be read: {first}", stacklevel=4)
    return read, skipped


def _count(read: Mapping[Path, VideoFrames]) -> str:
    taken = sum(len(found.index) for found in read.values())
    doubles = sum(int((found.index["file"] == "").sum()) for found in read.values())
    n = sum(found.n_read for found in read.values())
    which = f"{counted(len(read), 'video has', 'videos have')} {n} frames"
    return f"{which}; {taken} were taken, and {doubles} of these left out as near-duplicates."


def _name(place: tuple[str, ...], video: Path) -> str:
    return "/".join((*place, video.stem))


def _marks(path: Path, videos: Mapping[str, VideoFrames]) -> tuple[dict[_Place, tuple[Evidence, ...]], int]:
    """Evidence by frame, and the number of annotated images that are no frame in ``videos``."""
    images, found, _ = read_annotations(path)
    marked: dict[_Place, tuple[Evidence, ...]] = {}
    lost = 0
    for image in images:
        if not (marks := found.get(image["id"])):
            continue
        name = str(image["file_name"]).replace("\\", "/").removeprefix("./").rsplit(".", 1)[0]
        named = _FRAME_NAME.fullmatch(name)
        fits = [v for v in videos if named and f"/{v}".endswith(f"/{named['video']}")]
        if len(fits) > 1:
            raise ValueError(f"{path}: {image['file_name']} may be of {fits[0]} or {fits[1]}; name the folders too.")
        number = int(named["frame"]) if named else -1
        taken = videos[fits[0]].index if fits else None
        if taken is None or not ((taken["frame"] == number) & (taken["file"] != "")).any():
            lost += 1
        else:
            evidence = tuple(evidence_of(mark, image) for mark in marks)
            marked[fits[0], number] = _placed(evidence, image, videos[fits[0]])
    if lost and not marked:
        raise ValueError(
            f"{path}: none of its {lost} annotated images is a frame that was taken; call them VIDEO_NUMBER.png"
        )
    return marked, lost


def _placed(evidence: tuple[Evidence, ...], image: Mapping, video: VideoFrames) -> tuple[Evidence, ...]:
    """Evidence in pixels of the crop, whichever of the two it was drawn in."""
    top, bottom, left, right = video.box
    try:
        stated = check_frame(image.get("height", video.size[0]), image.get("width", video.size[1]))
    except ValueError as error:
        return (Unreadable(str(error)),)
    if stated == video.size:
        return (CutOut(evidence, video.size, video.box),)
    if stated == (bottom - top, right - left):
        return evidence
    sizes = f"{video.size[0]} x {video.size[1]} pixels and is cut to {bottom - top} x {right - left}"
    return (Unreadable(f"its outlines are for {stated[0]} x {stated[1]} pixels; the frame has {sizes}"),)
