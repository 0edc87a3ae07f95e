"""Opening files that somebody else made: one error that names the file, regular files only, sizes checked first.

A header is believed only after its numbers were compared with these limits; assign to them to read larger files, e.g.
``xaiutils.file_limits.MAX_PIXELS = 200_000_000``.
"""

import gzip
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_PIXELS = 89_478_485  # of a picture, a mask, a frame of annotations: where Pillow begins to warn (0.36 GB as RGBA)
MAX_TEXT_BYTES = 2**29  # a table or an annotation file; COCO 2017 has 0.45 GB
MAX_FILE_BYTES = 2**32  # anything else, packed or unpacked: weights, DICOM

_KINDS = {
    stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
}  # fmt: skip


class FileError(ValueError):
    """A file that cannot be used. ``path`` names it, ``reason`` says why."""

    def __init__(self, path: str | Path, reason: str):
        self.path, self.reason = Path(str(path)), reason
        super().__init__(f"{str(path)!r}: {reason}" if "\0" in str(path) else f"{path}: {reason}")

    def __reduce__(self):
        return FileError, (self.path, self.reason)


@contextmanager
def naming(path: str | Path, what: str = "") -> Iterator[None]:
    """Turn whatever a file causes into a FileError that names it; ``what`` says first what it is not.

    A file that is missing or may not be read keeps its own error, which names it too.
    """
    try:
        yield
    except (FileError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        reason = explain(error)
        raise FileError(path, f"{what} ({reason})" if what else reason) from error


def explain(error: BaseException) -> str:
    """An exception in one line of words."""
    if isinstance(error, FileError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    lines = str(error).strip().splitlines()
    text = lines[0][:300] if lines else ""
    if isinstance(error, KeyError):
        return f"it lacks {text}"
    return text if text and type(error) in (ValueError, OSError) else f"{type(error).__name__}: {text}".rstrip(": ")


def check_regular(path: str | Path, limit: int | None = None) -> int:
    """The size of a regular file in bytes. Raises FileError for a pipe, a device, a folder, ... (opening one may never
    return), and for more than ``limit`` bytes (None: `MAX_FILE_BYTES`)."""
    with naming(path):
        facts = Path(path).stat()
    limit = MAX_FILE_BYTES if limit is None else limit
    if not stat.S_ISREG(facts.st_mode):
        kind = next((words for test, words in _KINDS.items() if test(facts.st_mode)), "no regular file")
        raise FileError(path, f"it is {kind}, not a file")
    if facts.st_size > limit:
        name = "MAX_TEXT_BYTES" if limit == MAX_TEXT_BYTES else "MAX_FILE_BYTES"
        raise FileError(path, f"it has {facts.st_size:,} bytes, more than xaiutils.file_limits.{name} ({limit:,})")
    return facts.st_size


def check_pixels(height: int, width: int, frames: int = 1) -> None:
    """Raise ValueError unless a picture of this size is to be read; a large one waits for its turn."""
    if min(height, width, frames) < 1:
        raise ValueError(f"its header says {height} x {width} pixels")
    if height * width * frames > MAX_PIXELS:
        several = f" in {frames} frames" if frames > 1 else ""
        raise ValueError(
            f"it has {height:,} x {width:,} pixels{several}, more than xaiutils.file_limits.MAX_PIXELS "
            f"({MAX_PIXELS:,}); make it smaller, or raise that number"
        )
    _turn.claim(height * width * frames)


class _Turn(threading.local):
    """Of several reading threads one at a time holds a picture of more than a third of `MAX_PIXELS`."""

    lock = threading.Lock()

    def __init__(self):
        self.open, self.held = False, False

    def claim(self, pixels: int) -> None:
        if self.open and not self.held and pixels > MAX_PIXELS // 3:
            self.lock.acquire()
            self.held = True


_turn = _Turn()


@contextmanager
def large_pictures() -> Iterator[None]:
    """Within it a thread that meets a large picture waits until no other holds one, so that memory stays bounded."""
    _turn.open = True
    try:
        yield
    finally:
        _turn.open = False
        if _turn.held:
            _turn.held = False
            _Turn.lock.release()


def read_bytes(path: str | Path, limit: int) -> bytes:
    """A file's bytes, unpacked where it is gzipped. Raises FileError where it is damaged or has more than ``limit``."""
    check_regular(path, limit)
    with naming(path, "it is damaged"), Path(path).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        data = gzip.GzipFile(fileobj=file).read(limit + 1) if packed else file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"unpacked it has more than {limit:,} bytes")
        return data


def check_zip(path: str | Path, limit: int | None = None) -> None:
    """Raise FileError where a zip file is damaged, or would take more than ``limit`` bytes (None: `MAX_FILE_BYTES`)."""
    check_regular(path)
    limit = MAX_FILE_BYTES if limit is None else limit
    with naming(path, "it is not a readable zip file"), zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
        if size > limit:
            raise ValueError(f"unpacked it has {size:,} bytes, more than {limit:,}")
