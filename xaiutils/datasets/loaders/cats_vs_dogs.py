"""Cats & Dogs (Elson et al. 2007; Kaggle): 25,000 photographs, two of which are corrupt."""

import re
import zipfile
from pathlib import Path

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.reading import tree
from xaiutils.datasets.reading.cache import cache_folder, file_key
from xaiutils.datasets.reading.download import Remote, fetch, unpack
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.splits import SPLITS

REMOTES = (
    Remote(
        "kagglecatsanddogs_5340.zip",
        (
            "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
            "kagglecatsanddogs_5340.zip",
        ),
        "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
        825,
    ),
)
_NAMED = re.compile(r"^(cat|dog)\.\d+\.jpe?g$", re.IGNORECASE)
_LABELS = {"cat": 0, "cats": 0, "dog": 1, "dogs": 1}
_PLACE = "cats_vs_dogs"


def load(data_dir: Path, preparation: Preparation) -> Listing:
    """Microsoft's or Kaggle's archive, packed or unpacked, or class folders; else it is downloaded to
    ``data_dir/cats_vs_dogs``.

    Found are ``PetImages/Cat/0.jpg``, ``train/cat.0.jpg``, and ``cat`` and ``dog`` folders, below train, val and test
    or not. Without stated splits they are drawn by seed. Files that cannot be read (two of the 25,000) are named and
    skipped.
    """
    root = data_dir
    for place in (root, root / _PLACE, root / _PLACE / "files"):
        if place.is_dir() and (found := _list(place, preparation)):
            return found
    archive = next((p for p in tree.walk_files(root) if _holds_pets(p)), None) if root.is_dir() else None
    archive = archive or fetch(REMOTES, root / _PLACE)[0]
    found = _list(_unpacked(archive), preparation)
    if found is None:
        raise ValueError(f"{archive} holds neither PetImages/Cat and Dog nor files such as cat.0.jpg.")
    return found


CATS_VS_DOGS = DatasetEntry(
    "cats_vs_dogs",
    "Cats & Dogs (Asirra)",
    load,
    licence="research use, Microsoft's terms of Asirra",
    citation="Elson, Douceur, Howell & Saul 2007, ACM CCS",
    access="downloaded into data_dir/cats_vs_dogs (825 MB), or your Kaggle zip or folder below data_dir",
    evidence="none",
    caution="Two of 25,000 files are corrupt; they are named and skipped.",
    preparation_options=("keep_aspect",),
)


def _list(place: Path, preparation: Preparation) -> Listing | None:
    """Pictures by class folder or by name, None where there are none."""
    paths = [p for p in tree.walk_files(place) if p.suffix.lower() in (".jpg", ".jpeg", ".png") and p.is_file()]
    records = []
    for path in paths:
        label = _label(path)
        if label is None:
            continue
        # Kaggle's own folder "train" holds all images that have a label: it states no split.
        above = path.relative_to(place).parts[:-2] if path.parent.name.lower() in _LABELS else ()
        split = next((p.lower() for p in above if p.lower() in SPLITS), None)
        records.append(Record(path.relative_to(place).as_posix(), label, PictureFile(path, (), preparation), split))
    if len({r.label for r in records}) < 2:
        return None
    return Listing(records, ("cat", "dog"), read_picture_file, str(place), root=place)


def _label(path: Path) -> int | None:
    match = _NAMED.match(path.name)
    return _LABELS.get((match[1] if match else path.parent.name).lower())


def _holds_pets(path: Path) -> bool:
    if path.suffix.lower() != ".zip" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(_label(Path(n)) is not None for n in names) or "train.zip" in names


def _unpacked(archive: Path) -> Path:
    """The archive's files, unpacked once into the cache; Kaggle packs ``train.zip`` into its archive."""
    place = cache_folder() / _PLACE / "-".join(map(str, file_key(archive)[1:]))
    if not place.is_dir():
        unpack(archive, place)
    inner = place / "train.zip"
    if inner.exists() and not (place / "train-files").is_dir():
        unpack(inner, place / "train-files")
    return place
