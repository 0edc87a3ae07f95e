"""Readers against damaged files: ``python tests/fuzz.py --n 10000``.

Valid files (`fuzz_samples`) are changed at random: bits, lengths, pieces, numbers; zip and gzip files also inside of
their packing. Each is read in a worker process with limits of time and memory. It must be read, or be refused by an
error that names it; anything else is counted, printed with its seed, and kept.
"""

import argparse
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
OUTCOMES = ("read", "refused", "unhandled", "killed", "hung")
SECONDS, MEMORY = 20.0, 8 * 2**30  # of one file, which takes milliseconds; of address space
_HUGE = (
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\0\0\xff\xff",
)
_WORDS = (b"1e308", b"-1", b"nan", b"inf", b"NaN", b"Infinity", b"0", b"99999999999999999999", b"null", b"[]", b"{}",
          b'"\\u0000"', b"-0.0", b"[[[[[[[[[[[[", b"&a [*a]", b"true", b"\0", b"1e-320", b"2147483648")  # fmt: skip


# Changes ------------------------------------------------------------------------------------------------------------


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """One change of a file, or some; of a packed one, half of the time of what is packed."""
    if rng.random() < 0.5:
        if raw[:2] == b"PK":
            return _inside_zip(raw, rng)
        if raw[:2] == b"\x1f\x8b":
            return gzip.compress(mutate(gzip.decompress(raw), rng))
        if raw[:8] == b"\x89PNG\r\n\x1a\n":
            return _checked_png(_changed(raw, rng))
    return _changed(raw, rng)


def _changed(raw: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(raw)
    for _ in range(int(rng.geometric(0.6))):
        if not data:
            break
        at, kind = int(rng.integers(len(data))), int(rng.integers(8))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 5)))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 30))]
        elif kind == 4:
            other, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
        elif kind == 5:
            huge = _HUGE[int(rng.integers(len(_HUGE)))]
            at = min(at, 200) if rng.random() < 0.5 else at  # headers lie at the beginning
            data[at : at + len(huge)] = huge
        elif kind == 6 and (numbers := list(re.finditer(rb"-?\d+\.?\d*", bytes(data[:200_000])))):
            found = numbers[int(rng.integers(len(numbers)))]
            data[found.start() : found.end()] = _WORDS[int(rng.integers(len(_WORDS)))]
        elif kind == 7 and rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _inside_zip(raw: bytes, rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        hit = names[int(rng.integers(len(names)))]
        for name in names:
            new.writestr(name, _changed(old.read(name), rng) if name == hit else old.read(name))
    return out.getvalue()


def _checked_png(raw: bytes) -> bytes:
    """Checksums made right again, so that what was changed is believed."""
    out, at = [raw[:8]], 8
    while at + 12 <= len(raw):
        length = int.from_bytes(raw[at : at + 4], "big")
        body = raw[at + 4 : at + 8 + length]
        out.append(raw[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + length
    return b"".join(out) + raw[at:]


# Readers ------------------------------------------------------------------------------------------------------------


def samples(reader: str) -> list[tuple[str, bytes]]:
    """Name and content of the valid files of a reader."""
    import fuzz_samples as make

    return list(
        {
            "picture": make.pictures, "mask": make.masks, "dicom": make.dicoms, "coco": make.coco, "table": make.tables,
            "excel": make.sheets, "inbreast": make.contours, "mnist": make.idx, "npz": make.npz,
            "torch": make.checkpoints, "safetensors": make.safetensors, "matrix": make.matrices, "marker": make.markers,
        }[reader]()
    )  # fmt: skip


READERS = (
    "picture",
    "mask",
    "dicom",
    "coco",
    "table",
    "excel",
    "inbreast",
    "mnist",
    "npz",
    "torch",
    "matrix",
    "marker",
    "safetensors",
)


def _picture(path: Path) -> None:
    from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file

    window = (0, 200) if path.name in ("float.tif", "signed.tif") else ()
    found = read_picture_file(PictureFile(path, (), Preparation(window=window)), 16)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape[:2] == (16, 16)


def _mask(path: Path) -> None:
    from xaiutils.datasets.reading.frames import read_mask_file

    found = read_mask_file(path)
    assert found.dtype == bool
    assert found.ndim == 2


def _listed(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from xaiutils.datasets import DATASETS

        options = {"background": "none"} if name == "coco" else {"boxes_column": "boxes", "patient_column": "patient"}
        listing = DATASETS[name].list_images(path.parent, **options)
        for record in listing.records:
            try:
                found = listing.read(record.source, 16)
            except (FileNotFoundError, PermissionError):
                continue
            assert found.mask is None or found.mask.any() or not record.source.evidence or found.mask.dtype == bool

    return read


def _excel(path: Path) -> None:
    from xaiutils.datasets.reading.tables import read_excel

    assert all(isinstance(name, str) for name in read_excel(path).columns)


def _inbreast(path: Path) -> None:
    from xaiutils.datasets.loaders.inbreast import ContourFile, read_contours

    read_contours(path)
    assert ContourFile(path).draw((24, 20)).mask.shape == (24, 20)


def _mnist(path: Path) -> None:
    from xaiutils.datasets.loaders.mnist import read_idx

    assert read_idx(path).dtype == np.uint8


def _npz(path: Path) -> None:
    from xaiutils.models.npz_checkpoint import read_npz

    read_npz(path)


def _torch(path: Path) -> None:
    from xaiutils.models.torch_checkpoint import read_torch_checkpoint

    assert all(np.asarray(a).nbytes < 2**30 for a in read_torch_checkpoint(path).values())


def _safetensors(path: Path) -> None:
    from xaiutils.models.torch_checkpoint import read_safetensors

    assert all(a.dtype.kind in "fiub" and a.nbytes < 2**30 for a in read_safetensors(path).values())


def _matrix(path: Path) -> None:
    from xaiutils.batch.matrix import read_matrix

    read_matrix(path)


def _marker(path: Path) -> None:
    from xaiutils.batch.marker import KEY, damage, read_marker

    marker = read_marker(path.parent)
    if marker is None:
        raise ValueError(f"{path.name} is no marker")  # the job is done again
    assert set(KEY) <= set(marker["key"])
    assert isinstance(damage(path.parent, marker), str)


_READ = {
    "picture": _picture, "mask": _mask, "dicom": _picture, "coco": _listed("coco"), "table": _listed("table"),
    "excel": _excel, "inbreast": _inbreast, "mnist": _mnist, "npz": _npz, "torch": _torch, "matrix": _matrix,
    "marker": _marker, "safetensors": _safetensors,
}  # fmt: skip


def attempt(reader: str, path: Path) -> tuple[str, str]:
    """Outcome and, where there is one, the error in words."""
    from xaiutils.file_limits import FileError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _READ[reader](path)
    except (FileError, FileNotFoundError, PermissionError) as error:
        return "refused", str(error)
    except Exception as error:
        named = isinstance(error, ValueError) and path.name in str(error)
        return "refused" if named else "unhandled", f"{type(error).__name__}: {error}"[:300]
    return "read", ""


def make_input(reader: str, seed: int, number: int, folder: Path) -> Path:
    """The file of this number, in a folder of its own for readers of folders."""
    rng = np.random.default_rng([seed, READERS.index(reader), number])
    files = samples_of(reader)
    name, raw = files[number % len(files)]
    path = folder / name
    path.write_bytes(mutate(raw, rng) if number >= len(files) else raw)  # the first ones whole
    return path


_SAMPLES: dict[str, list[tuple[str, bytes]]] = {}


def samples_of(reader: str) -> list[tuple[str, bytes]]:
    if reader not in _SAMPLES:
        _SAMPLES[reader] = samples(reader)
    return _SAMPLES[reader]


def prepare_folder(reader: str, folder: Path) -> None:
    """What the mutated file of a folder's reader refers to."""
    if reader in ("coco", "table"):
        for i in range(6):
            (folder / f"{i}.png").write_bytes(dict(samples_of("picture"))["grey.png"])


# The command --------------------------------------------------------------------------------------------------------


class Worker:
    """A process that reads files; ended and started anew where it does not answer."""

    def __init__(self, reader: str):
        self.reader, self.process, self.peak = reader, None, 0

    def ask(self, path: Path) -> tuple[str, str]:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, __file__, "--work", self.reader]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.process.stdout.readline()  # it has imported what it needs
        late = threading.Event()
        timer = threading.Timer(SECONDS, lambda: (late.set(), self.process.kill()))
        timer.start()
        try:
            self.process.stdin.write(f"{path}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        timer.cancel()
        if not answer:
            code = self.process.wait()
            return ("hung", f"over {SECONDS:g} s") if late.is_set() else ("killed", f"exit code {code}")
        outcome, words, peak = json.loads(answer)
        self.peak = max(self.peak, peak)
        return outcome, words

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def work(reader: str) -> None:
    """Answer paths on standard input until it ends."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        prepare_folder(reader, Path(folder))
        attempt(reader, make_input(reader, 0, 0, Path(folder)))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        outcome = attempt(reader, Path(line.rstrip("\n")))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([*outcome, peak]), file=answers, flush=True)


def main() -> int:
    """Print counts by reader, and every failure; the number of failures is the exit code's truth."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--n", type=int, default=10_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, action="append", help="only this one; may be given again")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for what was not refused")
    parser.add_argument("--work", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return 0
    readers = options.reader or list(READERS)
    failures = 0
    print(f"{'reader':10}" + "".join(f"{name:>10}" for name in OUTCOMES) + f"{'peak MB':>10}{'s':>8}")
    for i, reader in enumerate(readers):
        n = options.n // len(readers) + (i < options.n % len(readers))
        counts, worker, started = Counter(), Worker(reader), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            os.environ["XAI_CACHE"] = str(Path(folder) / "cache")
            prepare_folder(reader, Path(folder))
            for number in range(n):
                path = make_input(reader, options.seed, number, Path(folder))
                outcome, words = worker.ask(path)
                counts[outcome] += 1
                if outcome not in ("read", "refused"):
                    failures += 1
                    options.keep.mkdir(parents=True, exist_ok=True)
                    kept = options.keep / f"{reader}-{options.seed}-{number}-{path.name}"
                    shutil.copy(path, kept)
                    print(f"  {outcome}: seed {options.seed}, number {number}, {kept}: {words}")
                path.unlink()
            worker.close()
        cells = "".join(f"{counts[name]:>10}" for name in OUTCOMES)
        print(f"{reader:10}{cells}{worker.peak / 2**20:>10.0f}{time.monotonic() - started:>8.0f}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
