"""A run, or a whole batch, in one archive for a colleague: ``python -m xaiutils.batch.pack runs/smoke``.

Of data sets that may hold patients only what can show none goes along: parameters, tables without a column of names,
and figures that were noted to show no image. Nothing is made anonymous; all else is left out and
listed with the reason. Of data sets without patients (`WITHOUT_PATIENTS`) everything goes along except prepared data
and models, which are large. ``--include`` adds what is asked for.
"""

import argparse
import hashlib
import re
import sys
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.batch.marker import DONE, read_facts, read_marker
from xaiutils.files import inside, replace_file

WITHOUT_PATIENTS = ("phantom", "ct_phantom", "digits", "mnist", "cats_vs_dogs", "oxford_pets")
INCLUDE = ("pictures", "names", "maps", "models", "data")
_NOT_RESULTS = {"plan", "attempts", "failed", "features", "lock"}
_NAMES = re.compile(r"(^|[_ ])(ids?|image|patient|case|file|path|where)$", re.IGNORECASE)  # columns of tables
_REASONS = {
    "pictures": "it may show images of patients",
    "names": "it may name images, patients or files",
    "maps": "attribution maps show outlines of the images",
    "models": "a model may remember its training images",
    "data": "a copy of the data",
}


class Packer:
    """What of a folder goes into an archive. ``left_out``: the other files, and why."""

    def __init__(self, folder: Path, include: Collection[str] = ()):
        self.folder, self.include = folder, set(include)
        self.left_out: dict[str, str] = {}
        markers = [p for p in folder.rglob(DONE) if not _NOT_RESULTS & set(p.relative_to(folder).parts)]
        self.runs = {path.parent for path in markers} or {p.parent.parent for p in folder.rglob("record/*.json")}
        if not self.runs:
            raise ValueError(f"{folder} holds no run: no record/*.json and no done.json below it.")
        self.plain: set[Path] = set()  # figures that show no image
        self.free = {run: self._without_patients(run) for run in self.runs}

    def _without_patients(self, run: Path) -> bool:
        """Whether all of a run's data sets are without patients; notes its plain figures."""
        marker = read_marker(run)
        parameters = [marker["key"]["parameters"]] if marker else []
        for record in [read_facts(path) for path in run.glob("record/*.json")]:
            items = record["items"] if isinstance(record.get("items"), list) else []
            plain = [item for item in items if isinstance(item, dict) and item.get("pictures") is False]
            files = {run / str(item.get("file")) for item in plain}
            self.plain |= files | {path.with_suffix(".pdf") for path in files}
            parameters.append(record["parameters"] if isinstance(record.get("parameters"), dict) else {})
        datasets = [given["dataset"] for given in parameters if "dataset" in given]
        return bool(datasets) and all(name in WITHOUT_PATIENTS for name in datasets)

    def files(self) -> Iterator[Path]:
        """Every file that goes along; the others are noted as left out."""
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder)
            run = next((parent for parent in path.parents if parent in self.runs), None)
            if _NOT_RESULTS & set(name.parts) or any(part.startswith(".") for part in name.parts):
                continue
            if run is None and len(name.parts) > 2 and name.parts[0] != "report":
                self.left_out[name.as_posix()] = "of a job that is not done"
            elif inside(self.folder, name) is None:
                self.left_out[name.as_posix()] = "a link out of the folder"
            elif missing := self._asks_for(path, run) - self.include:
                self.left_out[name.as_posix()] = "; ".join(_REASONS[what] for what in sorted(missing))
            else:
                yield path

    def _asks_for(self, path: Path, run: Path | None) -> set[str]:
        """What of `INCLUDE` a file may show and must be asked for."""
        free = self.free[run] if run else all(self.free.values())
        kind = path.relative_to(run or self.folder).parts[0]
        if kind in ("data", "models") or (kind == "maps" and not free):
            return {kind}
        if free or path in self.plain or path.name in ("parameters.json", "matrix.yml", DONE):
            return set()
        if path.suffix in (".png", ".jpg", ".jpeg", ".pdf"):
            return set() if run is None and path.name.startswith("ranks_") else {"pictures"}
        if path.suffix in (".dcm", ".tiff", ".npy", ".gz"):  # exported maps
            return {"maps", "names", "pictures"}
        if path.suffix == ".csv":
            columns = pd.read_csv(path, nrows=0, encoding_errors="replace").columns if path.stat().st_size > 1 else []
            return {"names"} if any(_NAMES.search(str(column)) for column in columns) else set()
        return {"names", "pictures"} if path.suffix in (".ipynb", ".html") else {"names"}


def pack(folder: str | Path, to: str | Path | None = None, include: Collection[str] = ()) -> Path:
    """Write the archive of a run folder or of a batch's folder; returns its path, by default ``FOLDER.zip`` beside it.

    ``include``: of `INCLUDE`, what goes along although it may be of patients: "pictures" (figures that show images),
    "names" (tables and texts that may name images, patients and files; with "pictures" also notebooks and pages),
    "maps", "models", "data". The archive holds ``CONTENTS.md``, which lists what was left out and why, and
    ``SHA256SUMS``. Raises ValueError where the folder holds no run.
    """
    folder = Path(folder).resolve()
    if unknown := [name for name in include if name not in INCLUDE]:
        raise ValueError(f"include: {unknown[0]!r} is unknown; known: {', '.join(INCLUDE)}.")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}.")
    packer = Packer(folder, include)

    def write(path: Path) -> None:
        sums = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in packer.files():
                name, content = file.relative_to(folder).as_posix(), file.read_bytes()
                archive.writestr(f"{folder.name}/{name}", content)
                sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            archive.writestr(f"{folder.name}/CONTENTS.md", _contents(packer, len(sums)))
            archive.writestr(f"{folder.name}/SHA256SUMS", "".join(sums))

    return replace_file(Path(to) if to else folder.with_name(f"{folder.name}.zip"), write)


def _contents(packer: Packer, n_files: int) -> str:
    asked = f" Asked for: {', '.join(sorted(packer.include))}." if packer.include else ""
    kind = "data sets without patients" if all(packer.free.values()) else "data that may be of patients"
    left = [f"- `{name}`: {why}" for name, why in packer.left_out.items()] or ["- nothing"]
    words = (
        "Nothing was made anonymous. Look at what you send: parameters hold paths of the machine, and a figure that "
        "shows no image may still name one."
    )
    return "\n".join([f"# {packer.folder.name}", "", f"{n_files} files of XAI Workbook; {kind}.{asked}", "", words, "",
                      "Left out:", "", *left, ""])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m xaiutils.batch.pack", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a run's folder, or a batch's")
    parser.add_argument("--to", type=Path, metavar="FILE.zip", help="default: beside the folder")
    parser.add_argument("--include", nargs="*", default=[], metavar="WHAT", help=f"of {', '.join(INCLUDE)}")
    options = parser.parse_args(arguments)
    try:
        path = pack(options.folder, options.to, options.include)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with zipfile.ZipFile(path) as archive:
        left = archive.read(f"{options.folder.resolve().name}/CONTENTS.md").decode().count("\n- `")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; {left} files left out, listed in its CONTENTS.md with reasons")
    return 0


if __name__ == "__main__":
    sys.exit(main())
