"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps as masks."""

from pathlib import Path

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.reading.download import Remote, fetch, unpack
from xaiutils.datasets.reading.evidence import MaskFile
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.registry import check_choice

_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_OTHER = "https://thor.robots.ox.ac.uk/datasets/pets/"
REMOTES = (
    Remote(
        "images.tar.gz", (_URL + "images.tar.gz", _OTHER + "images.tar.gz"), "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", 792
    ),
    Remote(
        "annotations.tar.gz",
        (_URL + "annotations.tar.gz", _OTHER + "annotations.tar.gz"),
        "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
        19,
    ),
)
_ANIMAL, _BORDER = 1, 3  # values of a trimap; 2 is background


def load(data_dir: Path, preparation: Preparation, *, task: str = "species", border: bool = True) -> Listing:
    """Pictures ``NAME.jpg`` with trimaps ``NAME.png`` in any folders; else both are downloaded to
    ``data_dir/oxford_pets``.

    ``task``: species (cat or dog: the names of cats' breeds begin with a capital) or breed. ``border``: whether the
    trimap's border counts as evidence. The official split is used where ``trainval.txt`` and ``test.txt`` are there,
    else one is drawn by seed.
    """
    check_choice("task", task, ("species", "breed"))
    root = data_dir
    files = list(walk_files(root)) if root.is_dir() else []
    if not _trimaps(files):
        for archive in fetch(REMOTES, root / "oxford_pets"):
            place = root / "oxford_pets" / archive.name.removesuffix(".tar.gz")
            if not place.is_dir():
                unpack(archive, place)
        root = root / "oxford_pets"
        files = list(walk_files(root))
    trimaps, stated = _trimaps(files), _stated_splits(files)
    pictures = [p for p in files if p.suffix.lower() == ".jpg" and p.stem in trimaps]
    breeds = sorted({_breed(p) for p in pictures}, key=str.lower)
    values = (_ANIMAL, _BORDER) if border else (_ANIMAL,)
    records = [
        Record(
            id=p.stem,
            label=int(p.stem[0].islower()) if task == "species" else breeds.index(_breed(p)),
            source=PictureFile(p, (MaskFile(trimaps[p.stem], values),), preparation),
            split=stated.get(p.stem),
            metadata={"breed": _breed(p)},
        )
        for p in pictures
    ]
    names = ("cat", "dog") if task == "species" else tuple(breeds)
    lists = {p: TABLE for p in files if stated and p.name in ("trainval.txt", "test.txt")}
    bare = [(p.name, "no trimap of it") for p in files if p.suffix.lower() == ".jpg" and p.stem not in trimaps]
    return Listing(records, names, read_picture_file, str(root), skipped=bare, root=root, files=lists)


OXFORD_PETS = DatasetEntry(
    "oxford_pets",
    "Oxford-IIIT Pets",
    load,
    licence="CC BY-SA 4.0",
    citation="Parkhi, Vedaldi, Zisserman & Jawahar 2012, CVPR",
    access="downloaded into data_dir/oxford_pets (811 MB), or your images and trimaps below data_dir",
    evidence="the animal, from trimaps",
    caution="The animal fills two fifths of a picture: chance levels of localisation are high.",
    preparation_options=("keep_aspect",),
)


def _breed(path: Path) -> str:
    return path.stem.rsplit("_", 1)[0]


def _trimaps(files: list[Path]) -> dict[str, Path]:
    return {p.stem: p for p in files if p.suffix == ".png" and p.parent.name == "trimaps" and p.name[0] != "."}


def _stated_splits(files: list[Path]) -> dict[str, str]:
    """Split by picture name from the official lists, both or none."""
    named = {p.name: p for p in files}
    if not {"trainval.txt", "test.txt"} <= named.keys():
        return {}
    lists = (("train", named["trainval.txt"]), ("test", named["test.txt"]))
    return {line.split()[0]: split for split, path in lists for line in path.read_text().splitlines() if line.strip()}
