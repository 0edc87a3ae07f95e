"""From a `Listing` to an `ImageDataset`, the same way for every data set.

Choose a split, take a limit, read in threads, name what cannot be read, stack the rest.
"""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.class_names import doubtful_names
from xaiutils.datasets.image_dataset import ImageDataset, stratified_indices
from xaiutils.datasets.inventory import (
    BEYOND,
    DAMAGED,
    MASK,
    OTHER_SPLIT,
    PICTURE,
    PROBABLY_MEANT,
    TABLE,
    TWICE,
    describe_unused,
    take_inventory,
)
from xaiutils.datasets.leaks import picture_hash
from xaiutils.datasets.listing import (
    UNKNOWN_PATIENT,
    Listing,
    Picture,
    Record,
    labels_of,
    strata_of,
    summarise_remarks,
    unknown_patient,
)
from xaiutils.datasets.reading.cache import cache_folder
from xaiutils.datasets.splits import choose_split
from xaiutils.file_limits import FileError
from xaiutils.files import reserve
from xaiutils.progress import progress

IN_MEMORY_BYTES = 2**28  # a larger array lives in a temporary file
_OWN = ("folder", "table", "coco")  # sets of the user's, of which nothing is known beforehand
_MOST = 0.75  # of a picture; evidence covers less
_READERS = 4  # threads: decoding and resizing release Python's lock


@dataclass
class _Read:
    """What came of reading some records: those that could be read, in order, with what was found in their pictures."""

    pixels: "_Stack"
    masks: "_Stack"
    label_masks: "_Stack"
    records: list[Record] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    remarks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    label_states: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def known(self) -> np.ndarray:
        return np.array(self.states) == "known"


def assemble(listing: Listing, name: str, split: str, image_size: int, limit: int | None, seed: int) -> ImageDataset:
    """Read one split (a stratified ``limit`` of it).

    Files that cannot be read are named in ``skipped`` and in one warning. Raises ValueError when the split is empty,
    an id is given twice, or nothing could be read.
    """
    _refuse_twins(listing)
    of_split = listing.records if listing.available else choose_split(listing.records, split, seed)
    if not of_split:
        raise ValueError(f"{listing.origin} has no images for split {split!r}.")
    records = of_split
    if limit is not None:
        chosen = stratified_indices(strata_of(records), limit, seed)
        records = [records[i] for i in chosen]
    own = name in _OWN
    doubts = _doubtful_classes(listing) if own else []
    for said in doubts:
        warnings.warn(f"{listing.origin}: {said}", stacklevel=3)
    found = _read_all(listing, records, image_size)
    if found.unread:
        first = "; ".join(f"{Path(path).name} ({reason})" for path, reason in found.unread[:3])
        warnings.warn(f"{len(found.unread)} of {len(records)} files could not be read: {first}", stacklevel=3)
    if not found.records:
        raise ValueError(f"none of {len(records)} images of {listing.origin} could be read; first: {found.unread[0]}")
    remarked = summarise_remarks(found.remarks)
    alarming = [
        remarked[remark]
        for remark, share in (("evidence", 0), ("even", 0.5))
        if sum(remark in said for said in found.remarks.values()) > share * len(found.records)
    ]
    inverted = _mostly_marked(found.masks.rows(), found.known) if own else []
    patients, without_patient = _patients(found.records, split)
    notes = [*listing.notes, *_unstated(listing), *map(_capitalised, doubts), *remarked.values(), *inverted]
    notes += [*_unmarked(found.states, split), *without_patient]
    files = None
    if listing.root is not None:
        became = _became(listing, of_split, records, {path for path, _ in found.unread})
        files = take_inventory(listing.root, became | _twins(found.records, found.pixels.rows()))
        unused, many = _unused(files, len(listing.records)) if own else ([], False)
        alarming += unused if many else []
        notes += map(_capitalised, unused)
    for said in [*alarming, *inverted]:
        warnings.warn(said, stacklevel=3)
    return replace(
        _dataset(listing, found),
        patients=patients,
        skipped=[*listing.skipped, *found.unread],
        name=name,
        split=split,
        available=listing.available or len(of_split),
        notes=notes,
        files=files,
    )


def _dataset(listing: Listing, found: _Read) -> ImageDataset:
    """What was read, as a data set that does not know yet what it is called."""
    records, with_masks = found.records, "known" in found.states or "empty" in found.states
    rows, given = found.pixels.rows(), records[0].inputs
    return ImageDataset(
        pixels=np.broadcast_to(rows, (*rows.shape[:3], 3)),
        labels=labels_of(records),
        class_names=listing.class_names,
        ids=[record.id for record in records],
        masks=found.masks.rows()[..., 0] if with_masks else None,
        evidence=np.array(found.states) if with_masks else None,
        mirrors=listing.mirrors,
        metadata=pd.DataFrame(found.metadata, index=range(len(records))),
        label_masks=found.label_masks.rows() if found.label_states else None,
        label_evidence=np.array(found.label_states) if found.label_states else None,
        values=None if records[0].value is None else np.array([r.value for r in records]),
        value_name=listing.value_name,
        inputs={k: np.array([r.inputs[k] for r in records], np.float32) for k in given} or None,
    )


def _doubtful_classes(listing: Listing) -> list[str]:
    if len(listing.class_names) == 1 or listing.records[0].labels is not None:
        return []
    counts = np.bincount([r.label for r in listing.records], minlength=len(listing.class_names))
    return doubtful_names(listing.class_names, counts.tolist())


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _patients(records: list[Record], split: str) -> tuple[list[str] | None, list[str]]:
    """The patient of each image, None where none is known, and a note on those who are not."""
    if not any(r.patient for r in records):
        return None, []
    patients = [r.patient or unknown_patient(r.id) for r in records]
    lost = sum(p.startswith(UNKNOWN_PATIENT) for p in patients)
    note = f"{lost} of {len(records)} images of {split} have no known patient: their leaks are not found."
    return patients, [note] if lost else []


def _unmarked(states: list[str], split: str) -> list[str]:
    """A note where some images have masks and others have not."""
    n = states.count("unknown")
    if n in (0, len(states)):
        return []
    return [f"{n} of {len(states)} images of {split} have no mask: where their evidence is, is not known."]


def _became(listing: Listing, of_split: list[Record], chosen: list[Record], damaged: set[str]) -> dict[Path, str]:
    """What became of each file that the listing names; of a file with several records, the best."""
    found: dict[Path, str] = {**listing.files}
    for evidence in (e for r in listing.records for e in getattr(r.source, "all_evidence", ())):
        found |= {p: TABLE if p.suffix.lower() in (".xml", ".json") else MASK for p in evidence.files}
    read = [r for r in chosen if str(getattr(r.source, "path", r.id)) not in damaged]
    for records, kind in ((listing.records, OTHER_SPLIT), (of_split, BEYOND), (chosen, DAMAGED), (read, PICTURE)):
        found |= {r.source.path: kind for r in records if hasattr(r.source, "path")}
    return found


def _twins(kept: list[Record], pixels: np.ndarray) -> dict[Path, str]:
    """The files of pictures whose pixels are those of an earlier file."""
    first: dict[str, Path] = {}
    found = {}
    for record, image in zip(kept, pixels, strict=True):
        path = getattr(record.source, "path", None)
        if path is not None and first.setdefault(picture_hash(image), path) != path:
            found[path] = TWICE
    return found


def _unused(files: pd.DataFrame, n_records: int) -> tuple[list[str], bool]:
    """A sentence on files of the user's that may have been meant, and whether they are many."""
    said = describe_unused(files)
    n = files["files"][files["kind"].isin(list(PROBABLY_MEANT))].sum()
    return [said] if said else [], bool(n >= 0.05 * n_records)


def _state(found: Picture) -> str:
    """Of `image_dataset.EVIDENCE`; evidence that was lost in resizing is known all the same."""
    if found.mask is None:
        return "unknown"
    return "known" if found.mask.any() or found.metadata.get("lesion_lost") else "empty"


def _mostly_marked(masks: np.ndarray, known: np.ndarray) -> list[str]:
    """A sentence where the evidence is most of most pictures."""
    fraction = float(np.median([mask.mean() for mask in masks[known]])) if known.any() else 0.0
    if fraction < _MOST:
        return []
    return [
        f"The evidence is {fraction:.0%} of an image (median): are the masks inverted, or is another grey value the "
        "evidence (mask_values=[...])?"
    ]


def _unstated(listing: Listing) -> list[str]:
    n = sum(r.split is None for r in listing.records)
    if n in (0, len(listing.records)):
        return []
    return [f"{n} of {len(listing.records)} images state no split, as the others do, and are in none."]


def _refuse_twins(listing: Listing) -> None:
    counts = Counter(record.id for record in listing.records)
    twin = next((name for name, n in counts.items() if n > 1), None)
    if twin is not None:
        raise ValueError(f"{listing.origin} names the image {twin!r} twice; every image needs an id of its own.")


def _read_all(listing: Listing, records: list[Record], image_size: int) -> _Read:
    found = _Read(_Stack(len(records), np.uint8), _Stack(len(records), bool), _Stack(len(records), bool))
    # Here and not in the readers, since Python's filters of warnings belong to all threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # of headers with values that the standard does not allow
        readers = _READERS if listing.available is None else 1  # to draw holds Python's lock
        for record, picture in _in_threads(listing.read, records, image_size, readers):
            if isinstance(picture, Exception):
                reason = picture.reason if isinstance(picture, FileError) else f"{type(picture).__name__}: {picture}"
                found.unread.append((str(getattr(record.source, "path", record.id)), reason))
                continue
            found.pixels.append(_as_grey(picture.pixels))
            empty = np.zeros((image_size, image_size), bool)
            found.masks.append((empty if picture.mask is None else picture.mask)[..., None])
            found.states.append(_state(picture))
            if picture.label_masks is not None and picture.label_states is not None:
                found.label_masks.append(picture.label_masks)
                found.label_states.append(picture.label_states)
            found.records.append(record)
            found.metadata.append({**record.metadata, **picture.metadata})
            if picture.remarks:
                found.remarks[record.id] = picture.remarks
    return found


def _in_threads(
    read: Callable[[Any, int], Picture], records: list[Record], image_size: int, readers: int
) -> Iterator[tuple[Record, Picture | Exception]]:
    """Records with their pictures, or with the error, in order; a few at a time, so that memory stays flat."""

    def attempt(record: Record) -> Picture | Exception:
        try:
            return read(record.source, image_size)
        except Exception as error:  # a broken file raises nearly anything: SyntaxError, OSError, struct.error, ...
            return error

    with ThreadPoolExecutor(readers) as pool:
        waiting = iter(records)
        running = [(r, pool.submit(attempt, r)) for r in islice(waiting, 4 * readers)]
        for _ in progress(range(len(records)), title="reading images"):
            record, future = running.pop(0)
            running += [(r, pool.submit(attempt, r)) for r in islice(waiting, 1)]
            yield record, future.result()


def _as_grey(pixels: np.ndarray) -> np.ndarray:
    """``(size, size, 1)`` where the channels are equal, else ``(size, size, 3)``."""
    if pixels.ndim == 2:
        return pixels[..., None]
    grey = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., :1] if grey else pixels


class _Stack:
    """Images ``(height, width, 1 or 3)`` one by one into an array of at most ``n``; in a file when it is large."""

    def __init__(self, n: int, dtype: type):
        self._n, self._dtype, self._count = n, dtype, 0
        self._array: np.ndarray | None = None

    def append(self, image: np.ndarray) -> None:
        if self._array is None:
            self._array = self._allocate(image.shape)
        elif image.shape[-1] > self._array.shape[-1]:  # the first coloured image after grey ones
            grey, self._array = self._array, self._allocate(image.shape)
            for i in range(self._count):
                self._array[i] = grey[i]
        self._array[self._count] = image
        self._count += 1

    def rows(self) -> np.ndarray:
        if self._array is None:
            raise ValueError("nothing was stacked")
        return self._array[: self._count]

    def _allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        shape = (self._n, *shape)
        if np.prod(shape) <= IN_MEMORY_BYTES:
            return np.empty(shape, self._dtype)
        # Beside the cache, since /tmp is often in memory; without a name, so that it goes with the process.
        file = tempfile.TemporaryFile(dir=cache_folder())  # noqa: SIM115 - lives as long as the map
        reserve(file.fileno(), int(np.prod(shape)))
        return np.memmap(file, self._dtype, "r+", shape=shape)
