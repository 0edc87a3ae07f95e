"""From a `Listing` to an `ImageDataset`, the same way for every data set.

Choose a split, take a limit, read in threads, name what cannot be read, stack the rest.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
    DOUBTFUL,
    MASK,
    OTHER_SPLIT,
    PICTURE,
    TABLE,
    TWICE,
    account,
    doubtful,
)
from xaiutils.datasets.leaks import picture_hash
from xaiutils.datasets.listing import UNKNOWN_PATIENT, Listing, Picture, Record, remark_notes, unknown_patient
from xaiutils.datasets.reading.cache import cache_folder
from xaiutils.datasets.splits import choose_split
from xaiutils.file_limits import FileError
from xaiutils.files import reserve
from xaiutils.progress import progress

IN_MEMORY_BYTES = 2**28  # a larger array lives in a temporary file
_OWN = ("folder", "table", "coco")  # sets of the user's, of which nothing is known beforehand
_MOST = 0.75  # of a picture; evidence is a part of it
_READERS = 4  # threads: decoding and resizing release Python's lock


def assemble(listing: Listing, name: str, split: str, image_size: int, limit: int | None, seed: int) -> ImageDataset:
    """Read one split (a stratified ``limit`` of it).

    Files that cannot be read are named in ``skipped`` and in one warning. Raises ValueError when the split is empty,
    an id is given twice, or nothing could be read.
    """
    _refuse_twins(listing)
    records = of_split = listing.records if listing.available else choose_split(listing.records, split, seed)
    if not records:
        raise ValueError(f"{listing.origin} has no images for split {split!r}.")
    notes = [*listing.notes, *_unstated(listing)]
    if name in _OWN:
        counts = np.bincount([r.label for r in listing.records], minlength=len(listing.class_names))
        for said in doubtful_names(listing.class_names, counts.tolist()):
            warnings.warn(f"{listing.origin}: {said}", stacklevel=3)
            notes.append(said[:1].upper() + said[1:])
    available = listing.available or len(records)
    if limit is not None:
        chosen = stratified_indices(np.array([r.label for r in records]), limit, seed)
        records = [records[i] for i in chosen]
    pixels, masks = _Stack(len(records), np.uint8), _Stack(len(records), bool)
    kept, seen, unread, states = [], [], [], []
    remarks: dict[str, Mapping[str, Any]] = {}
    # Here and not in the readers, since Python's filters of warnings belong to all threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # of headers with values that the standard does not allow
        for record, found in _read_all(listing.read, records, image_size):
            if isinstance(found, Exception):
                reason = found.reason if isinstance(found, FileError) else f"{type(found).__name__}: {found}"
                unread.append((str(getattr(record.source, "path", record.id)), reason))
                continue
            pixels.append(_as_grey(found.pixels))
            masks.append(np.zeros((image_size, image_size, 1), bool) if found.mask is None else found.mask[..., None])
            states.append(_state(found))
            kept.append(record)
            if found.remarks:
                remarks[record.id] = found.remarks
            seen.append({**record.metadata, **found.metadata})
    if unread:
        first = "; ".join(f"{Path(path).name} ({reason})" for path, reason in unread[:3])
        warnings.warn(f"{len(unread)} of {len(records)} files could not be read: {first}", stacklevel=3)
    if not kept:
        raise ValueError(f"none of {len(records)} images of {listing.origin} could be read; first: {unread[0]}")
    remarked = remark_notes(remarks)
    notes += remarked.values()
    for remark, share in (("evidence", 0), ("even", 0.5)):
        if sum(remark in said for said in remarks.values()) > share * len(kept):
            warnings.warn(remarked[remark], stacklevel=3)
    unmarked = states.count("unknown")
    with_masks = unmarked < len(kept)
    if name in _OWN and (said := _mostly_marked(masks.rows(), np.array(states) == "known")):
        warnings.warn(said, stacklevel=3)
        notes.append(said)
    if with_masks and unmarked:
        notes.append(
            f"{unmarked} of {len(kept)} images of {split} have no mask: where their evidence is, is not known."
        )
    patients = None
    if any(r.patient for r in kept):
        patients = [r.patient or unknown_patient(r.id) for r in kept]
        if lost := sum(p.startswith(UNKNOWN_PATIENT) for p in patients):
            notes.append(f"{lost} of {len(kept)} images of {split} have no known patient: their leaks are not found.")
    files = None
    if listing.root is not None:
        damaged = {path for path, _ in unread}
        files = account(listing.root, _became(listing, of_split, records, damaged) | _twins(kept, pixels.rows()))
        notes += _unused(files, name, len(listing.records))
    return ImageDataset(
        pixels=np.broadcast_to(rows := pixels.rows(), (*rows.shape[:3], 3)),
        labels=np.array([record.label for record in kept]),
        class_names=listing.class_names,
        ids=[record.id for record in kept],
        masks=masks.rows()[..., 0] if with_masks else None,
        evidence=np.array(states) if with_masks else None,
        patients=patients,
        skipped=[*listing.skipped, *unread],
        name=name,
        split=split,
        available=available,
        mirrors=listing.mirrors,
        metadata=pd.DataFrame(seen, index=range(len(kept))),
        notes=notes,
        files=files,
    )


def _became(listing: Listing, of_split: list[Record], chosen: list[Record], damaged: set[str]) -> dict[Path, str]:
    """What became of each file that the listing names; of a file with several records, the best of it."""
    found: dict[Path, str] = {**listing.files}
    for evidence in (e for r in listing.records for e in getattr(r.source, "evidence", ())):
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


def _unused(files: pd.DataFrame, name: str, n_records: int) -> list[str]:
    """A note, and where they are many a warning too, of files that may have been meant. A public set has its own."""
    said = doubtful(files) if name in _OWN else ""
    if said and files["files"][files["kind"].isin(DOUBTFUL)].sum() >= 0.05 * n_records:
        warnings.warn(said, stacklevel=4)
    return [said[:1].upper() + said[1:]] if said else []


def _state(found: Picture) -> str:
    """Of `image_dataset.EVIDENCE`; evidence that was lost in resizing is known all the same."""
    if found.mask is None:
        return "unknown"
    return "known" if found.mask.any() or found.metadata.get("lesion_lost") else "empty"


def _mostly_marked(masks: np.ndarray, known: np.ndarray) -> str:
    """A sentence where the evidence is most of most pictures; empty elsewhere."""
    share = float(np.median([mask.mean() for mask in masks[known]])) if known.any() else 0.0
    if share < _MOST:
        return ""
    return (
        f"The evidence is {share:.0%} of an image (median): are the masks inverted, or is another grey value the "
        "evidence (mask_values=[...])?"
    )


def _unstated(listing: Listing) -> list[str]:
    n = sum(r.split is None for r in listing.records)
    if n in (0, len(listing.records)):
        return []
    return [f"{n} of {len(listing.records)} images state no split, as the others do, and are in none."]


def _refuse_twins(listing: Listing) -> None:
    ids = [record.id for record in listing.records]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twin = next(i for i in ids if i in seen or seen.add(i))
        raise ValueError(f"{listing.origin} names the image {twin!r} twice; every image needs an id of its own.")


def _read_all(read, records: list[Record], image_size: int) -> Iterator[tuple[Record, Picture | Exception]]:
    """Records with their pictures, or with the error, in order; a few at a time, so that memory stays flat."""

    def attempt(record: Record) -> Picture | Exception:
        try:
            return read(record.source, image_size)
        except Exception as error:  # a broken file raises nearly anything: SyntaxError, OSError, struct.error, ...
            return error

    with ThreadPoolExecutor(_READERS) as pool:
        waiting = iter(records)
        running = [(r, pool.submit(attempt, r)) for r in islice(waiting, 4 * _READERS)]
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
        return self._array[: self._count]

    def _allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        shape = (self._n, *shape)
        if np.prod(shape) <= IN_MEMORY_BYTES:
            return np.empty(shape, self._dtype)
        # Beside the cache, since /tmp is often in memory; without a name, so that it goes with the process.
        file = tempfile.TemporaryFile(dir=cache_folder())  # noqa: SIM115 - lives as long as the map
        reserve(file.fileno(), int(np.prod(shape)))
        return np.memmap(file, self._dtype, "r+", shape=shape)
