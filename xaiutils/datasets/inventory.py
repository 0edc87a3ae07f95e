"""Inventory: an account of every file below a data folder: what became of it, so that nothing is left out silently."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from xaiutils.datasets.reading.tree import is_hidden, is_picture
from xaiutils.text import counted

PICTURE, TWICE, OTHER_SPLIT, BEYOND = (
    "picture",
    "picture, twice",
    "picture of another split",
    "picture beyond the limit",
)
NOT_CHOSEN, LEFT_OUT, UNUSED = "picture of a class not chosen", "picture left out", "picture not used"
MASK, LONE_MASK, TABLE = "mask", "mask without a picture", "table or annotation"
DAMAGED, EMPTY, STRANGE = "damaged", "empty file", "not understood"
UNUSED_TEXT, HIDDEN, SPECIAL, LOCKED = "table or text not used", "hidden", "not a file", "may not be read"
ARCHIVE = "archive, not unpacked"

MEANING: Mapping[str, str] = {
    PICTURE: "read, as an image of this split",
    TWICE: "read, but its pixels are those of another one: it counts double",
    OTHER_SPLIT: "an image of another split",
    BEYOND: "left out by n_train, n_val or n_test (0: all)",
    NOT_CHOSEN: "its class is not among the classes that were given",
    LEFT_OUT: "an option or a rule of the data set leaves it out: see the notes",
    UNUSED: "in no class folder, or in no row of the table: is it meant to be?",
    MASK: "marks the evidence of an image, of this split or another",
    LONE_MASK: "looks like a mask, and no image or several have its name: rename it, or give mask_pattern",
    TABLE: "read: says which images there are, or where their evidence is",
    DAMAGED: "could not be read: the list of skipped files says why",
    EMPTY: "has no content: copy it again",
    STRANGE: "not a kind of file that is read here: convert images to PNG, TIFF or DICOM",
    ARCHIVE: "packed files are not read: unpack it there, if it holds images of the set",
    UNUSED_TEXT: "not read: only what the data set's options name is",
    HIDDEN: "dotfiles and files of the operating system: never read",
    SPECIAL: "a pipe, a device, a link that leads nowhere or back: never opened",
    LOCKED: "ask its owner for permission",
}
_TEXTS = frozenset(
    {".csv", ".tsv", ".json", ".xml", ".xls", ".xlsx", ".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".doc", ".docx",
     ".yml", ".yaml", ".py", ".ipynb", ".log", ".parquet", ".sha256", ".md5"}
)  # fmt: skip
_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
_EXAMPLES = 3


def take_inventory(root: Path, known: Mapping[Path, str]) -> pd.DataFrame:
    """Count all that lies below ``root`` by what became of it.

    ``known`` says it of the files that a loader has dealt with, as a key of `MEANING`; the others are told by name,
    size and content (pipes and devices are not opened).

    Returns:
        A row for each kind that occurs: kind, files (their sum is the number of all entries that are not folders, and
        of links to folders that were seen before), examples, meaning.
    """
    place = {_key(path): kind for path, kind in known.items()}
    found: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for path, sort in entries(root):
        kind = place.get(_key(path)) or sort or _kind(path)
        counts[kind] = counts.get(kind, 0) + 1
        shown = found.setdefault(kind, [])
        new_suffix = path.suffix.lower() not in {Path(name).suffix.lower() for name in shown}
        if len(shown) < _EXAMPLES or (kind == STRANGE and new_suffix and len(shown) < 2 * _EXAMPLES):
            shown.append(path.relative_to(root).as_posix())
    rows = [(kind, counts[kind], ", ".join(found[kind]), MEANING[kind]) for kind in MEANING if kind in counts]
    return pd.DataFrame(rows, columns=["kind", "files", "examples", "meaning"])


# Of the user's own sets: said of one and of several.
PROBABLY_MEANT = {
    UNUSED: ("picture not used", "pictures not used"),
    STRANGE: ("file not understood", "files not understood"),
    LONE_MASK: ("mask without a picture", "masks without a picture"),
    ARCHIVE: ("archive not unpacked", "archives not unpacked"),
    EMPTY: ("empty file", "empty files"),
    LOCKED: ("file that may not be read", "files that may not be read"),
}


def describe_unused(files: pd.DataFrame) -> str:
    """A sentence on files that were probably meant to be images and are not used; empty where there are none."""
    unused = files[files["kind"].isin(list(PROBABLY_MEANT))]
    said = [
        f"{counted(count, *PROBABLY_MEANT[kind])} (such as {examples})"
        for kind, count, examples in zip(unused["kind"], unused["files"], unused["examples"], strict=True)
    ]
    return f"not all files below the data folder are used: {'; '.join(said)}." if said else ""


def entries(root: Path) -> Iterator[tuple[Path, str]]:
    """Everything below ``root`` but folders, sorted, with its kind where the directory alone tells it, else ""."""
    visited: set[tuple[int, int]] = set()

    def below(folder: str, hidden: bool) -> Iterator[tuple[Path, str]]:
        try:
            here = os.stat(folder)  # noqa: PTH116
            if (here.st_dev, here.st_ino) in visited:
                yield Path(folder), SPECIAL
                return
            visited.add((here.st_dev, here.st_ino))
            with os.scandir(folder) as listed:
                found = sorted(listed, key=lambda e: e.name)
        except OSError:
            yield Path(folder), LOCKED
            return
        for entry in found:
            unseen = hidden or is_hidden(entry.name)
            try:
                kind = entry.stat().st_mode
            except OSError:  # a link that leads nowhere, or round in a circle
                yield Path(entry.path), SPECIAL
                continue
            if stat.S_ISDIR(kind):
                yield from below(entry.path, unseen)
            elif not stat.S_ISREG(kind):
                yield Path(entry.path), SPECIAL
            else:
                yield Path(entry.path), HIDDEN if unseen else ""

    if root.is_dir():
        yield from below(str(root), hidden=False)


def _kind(path: Path) -> str:
    """Of a regular file that no loader has dealt with."""
    try:
        if not path.stat().st_size:
            return EMPTY
    except OSError:
        return SPECIAL
    if not os.access(path, os.R_OK):
        return LOCKED
    if is_picture(path):
        return UNUSED
    name = path.name.lower()
    if name.endswith(".nii.gz"):  # a volume
        return STRANGE
    if Path(name.removesuffix(".gz")).suffix in _TEXTS:
        return UNUSED_TEXT
    return ARCHIVE if path.suffix.lower() in _ARCHIVES else STRANGE


def _key(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - without following links
