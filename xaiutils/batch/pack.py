"""A run, or a whole batch, in one archive for a colleague: ``python -m xaiutils.batch.pack runs/smoke``.

By default no patient's data go along: no picture of an image or of a map over one, neither as a figure nor in a
notebook; no maps, copies of data or models; and names of images and patients are replaced by numbers, the same in all
files. Data sets without patients (`WITHOUT_PATIENTS`) keep pictures and names. ``--include`` adds what is asked for.
"""

import argparse
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from xaiutils.files import inside, replace_file

WITHOUT_PATIENTS = ("phantom", "digits", "mnist", "cats_vs_dogs", "oxford_pets")
INCLUDE = ("pictures", "names", "maps", "models", "data")
_TEXTS = (".md", ".json", ".yml", ".log", ".txt")
_NOT_RESULTS = {"plan", "attempts", "failed", "features"}
_FILE_COLUMNS = {"file", "path", "where"}  # a table with one of these lists files, whose names may be anything
_GONE = "[a picture was left out: it may show a patient]"
_ID_COLUMN = re.compile(r"(^|_)(id|ids|image|patient|case)$", re.IGNORECASE)
_WORD = re.compile(r"[\w./-]+")


@dataclass(frozen=True)
class _RunFolder:
    """``free``: of a data set without patients; ``plain``: its figures that show no image, as was noted when they were
    saved."""

    folder: Path
    free: bool
    plain: frozenset[str]


class Names:
    """Replaces names of images, patients and files by numbers, the same everywhere.

    In running text those under four characters, and numbers under six digits, stay: they cannot be told from other
    words and numbers. In the columns of a table that hold names, all are replaced.
    """

    def __init__(self, names: Collection[str]):
        width = len(str(len(names)))
        self._numbers = {name: f"name-{i:0{width}}" for i, name in enumerate(sorted(names), start=1)}
        self._telling = {n for n in names if len(n) > 3 and not (n.isdigit() and len(n) < 6)}
        self._odd = sorted((n for n in self._telling if not _WORD.fullmatch(n)), key=len, reverse=True)

    def in_text(self, text: str) -> str:
        for name in self._odd:
            text = text.replace(name, self._numbers[name])
        return _WORD.sub(lambda found: self._word(found.group()), text)

    def _word(self, word: str) -> str:
        """The number of a word that is a name, or a path that ends in one, with a suffix or without."""
        bare = word.rstrip(".")
        parts = bare.split("/")
        for i in range(len(parts)):
            tail = "/".join(parts[i:])
            for name in (tail, tail.rpartition(".")[0]):
                if name in self._telling:
                    return self._numbers[name] + word[len(bare) :]
        return word

    def in_table(self, text: str) -> str | None:
        """The same of a CSV, cell by cell; None where the table lists files."""
        if not text.strip():
            return text
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        if _FILE_COLUMNS & set(table):
            return None
        for column in table:
            exact = self._numbers if _ID_COLUMN.search(column) else {}
            table[column] = [exact.get(cell) or self.in_text(cell) for cell in table[column]]
        return table.to_csv(index=False)


class Packer:
    """What of a folder goes into an archive; ``left_out`` counts the rest by what it is."""

    def __init__(self, folder: Path, include: Collection[str] = ()):
        self.folder, self.include = folder, set(include)
        self.left_out: Counter[str] = Counter()
        self.runs = {run.folder: run for run in _runs(folder)}
        if not self.runs:
            raise ValueError(f"{folder} holds no run: no record/*.json and no done.json below it.")
        self.all_free = all(run.free for run in self.runs.values())
        self.names = Names([])
        if not self.all_free and "names" not in self.include:
            self.names = Names(_names(folder))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name in the archive, and content, of every file that goes along."""
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            parts = path.relative_to(self.folder).parts
            if _NOT_RESULTS & set(parts) or any(p.startswith(".") for p in parts) or path.name == "lock":
                continue
            if len(parts) > 2 and not any(parent in self.runs for parent in path.parents):
                continue  # of a job of a batch that is to be done anew
            if inside(self.folder, path.relative_to(self.folder)) is None:
                self._leave("links out of the folder")
                continue
            content = self._content(path)
            if content is not None:
                yield "/".join(parts), content

    def _content(self, path: Path) -> bytes | None:
        run = next((self.runs[parent] for parent in path.parents if parent in self.runs), None)
        free = run.free if run else self.all_free
        pictures = free or "pictures" in self.include
        names = Names([]) if free else self.names
        inner = path.relative_to(run.folder if run else self.folder)
        if run and inner.parts[0] in ("data", "models", "maps"):
            kept = inner.parts[0] in self.include or (free and inner.parts[0] == "maps")
            return path.read_bytes() if kept else self._leave(inner.parts[0])
        if path.suffix in (".png", ".jpg", ".jpeg"):
            plain = inner.as_posix() in run.plain if run else path.name.startswith("ranks_")
            return path.read_bytes() if pictures or plain else self._leave("figures with pictures")
        if path.suffix == ".ipynb":
            return self._notebook(path, pictures, names)
        if path.suffix == ".parquet" and (free or not path.with_suffix(".csv").exists()):
            return path.read_bytes() if free else self._leave("tables in Parquet")
        if path.suffix == ".parquet":
            return None  # the CSV beside it holds the same
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".csv":
            found = text if free else names.in_table(text)
            return found.encode() if found is not None else self._leave("tables of files")
        if path.suffix == ".html":
            return names.in_text(text if pictures else re.sub(r"<img [^>]*>", _GONE, text)).encode()
        return names.in_text(text).encode() if path.suffix in _TEXTS else self._leave("other files")

    def _notebook(self, path: Path, pictures: bool, names: Names) -> bytes:
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell["outputs"] = [self._output(output, pictures, names) for output in cell["outputs"]]
        return nbformat.writes(notebook).encode()

    def _output(self, output: Any, pictures: bool, names: Names) -> Any:
        kinds = output.get("data", {})
        shows = any(kind.startswith(("image/", "video/", "application/vnd.jupyter.widget")) for kind in kinds)
        if (shows or "<img" in str(kinds.get("text/html", ""))) and not pictures:
            self._leave("pictures in notebooks")
            return nbformat.v4.new_output("display_data", {"text/plain": _GONE})
        return nbformat.from_dict(_deeply(output, names))

    def _leave(self, what: str) -> None:
        self.left_out[what] += 1


def _deeply(value: Any, names: Names) -> Any:
    """Every text in a nested structure with names replaced; its keys stay."""
    if isinstance(value, str):
        return names.in_text(value)
    if isinstance(value, Mapping):
        return {k: v if k.startswith("image/") else _deeply(v, names) for k, v in value.items()}
    return [_deeply(v, names) for v in value] if isinstance(value, list) else value


def _runs(folder: Path) -> Iterator[_RunFolder]:
    places = {p.parent for p in folder.rglob("done.json")}
    if not places:  # no batch
        places = {p.parent.parent for p in folder.rglob("record/*.json")}
    for place in sorted(places):
        if _NOT_RESULTS & set(place.relative_to(folder).parts):
            continue
        datasets, plain = set(), set()
        for path in [*place.glob("record/*.json"), *place.glob("done.json")]:
            facts = json.loads(path.read_text(encoding="utf-8"))
            datasets.add(facts["parameters"].get("dataset"))
            plain |= {item["file"] for item in facts.get("items", []) if item.get("pictures") is False}
        yield _RunFolder(place, datasets <= set(WITHOUT_PATIENTS), frozenset(plain))


def _names(folder: Path) -> set[str]:
    """Names of images, patients and unread files, from the copies of data in the folder. ValueError without any."""
    found: set[str] = set()
    for path in folder.rglob("data/*/facts.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        found |= {str(name) for name in [*facts["ids"], *(facts["patients"] or [])]}
        found |= {Path(str(name)).name for name in facts["ids"]}
        found |= {str(name) for file, _ in facts["skipped"] for name in (file, Path(file).name, Path(file).stem)}
    if not found:
        raise ValueError(
            f"{folder} has no prepared data (data/*/facts.json), which tell the names of patients: they cannot be "
            "removed. Prepare them anew, or ask for them with --include names."
        )
    return found - {""}


def pack(folder: str | Path, to: str | Path | None = None, include: Collection[str] = ()) -> Path:
    """Write the archive of a run folder or of a batch's folder; returns its path, by default ``FOLDER.zip`` beside it.

    ``include``: of `INCLUDE`, what goes along although it may be of patients: "pictures" (figures and outputs that show
    images), "names" (of images, patients and files), "maps", "models", "data". The archive holds ``CONTENTS.md``, which
    says what was left out, and ``SHA256SUMS``. Raises ValueError where the folder holds no run.
    """
    folder = Path(folder).resolve()
    if unknown := [name for name in include if name not in INCLUDE]:
        raise ValueError(f"include: {unknown[0]!r} is unknown; known: {', '.join(INCLUDE)}.")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}.")
    packer = Packer(folder, include)
    to = Path(to) if to else folder.with_name(f"{folder.name}.zip")

    def write(path: Path) -> None:
        sums = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in packer.files():
                archive.writestr(f"{folder.name}/{name}", content)
                sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            archive.writestr(f"{folder.name}/CONTENTS.md", _contents(packer, len(sums)))
            archive.writestr(f"{folder.name}/SHA256SUMS", "".join(sums))

    return replace_file(to, write)


def _contents(packer: Packer, n_files: int) -> str:
    left = [f"- {what}: {count}" for what, count in sorted(packer.left_out.items())] or ["- nothing"]
    asked = f"Asked for: {', '.join(sorted(packer.include))}." if packer.include else "Nothing more was asked for."
    names = "names of images and patients are numbers" if not packer.all_free and "names" not in packer.include else ""
    kind = "data sets without patients" if packer.all_free else "data of patients, or of which that is not known"
    return "\n".join(
        [
            f"# {packer.folder.name}",
            "",
            f"{n_files} files of XAI Workbook; {kind}{f'; {names}' if names else ''}. {asked}",
            "",
            "Left out:",
            "",
            *left,
            "",
            "Read free text (datasheets, logs, your own captions) before you send this on: a name that the data do not "
            "list as one is not known to be one.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m xaiutils.batch.pack", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a run's folder, or a batch's")
    parser.add_argument("--to", type=Path, metavar="FILE.zip", help="default: beside the folder")
    parser.add_argument("--include", nargs="*", default=[], metavar="WHAT", help=f"of {', '.join(INCLUDE)}")
    options = parser.parse_args(arguments)
    try:
        path = pack(options.folder, options.to, options.include)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
