"""Files that may be downloaded directly: fetched with a checksum, unpacked safely, kept in the data folder."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from xaiutils.progress import meter


@dataclass(frozen=True)
class Remote:
    """A file on the net; ``checksum`` is "md5:..." or "sha256:..."; ``urls`` are tried in order."""

    name: str
    urls: tuple[str, ...]
    checksum: str
    megabytes: float


def fetch(remotes: Sequence[Remote], folder: Path) -> list[Path]:
    """Download what is not there yet, and check it. Raises OSError that says how to get it by hand."""
    paths = []
    for remote in remotes:
        problems = []
        for url in remote.urls:
            try:
                downloader = pooch.HTTPDownloader(progressbar=meter(f"downloading {remote.name}"), timeout=30)
                paths.append(Path(pooch.retrieve(url, remote.checksum, remote.name, folder, downloader=downloader)))
                break
            except Exception as error:  # refused, timed out, a wrong checksum, no permission to write, ...
                problems.append(f"{url}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        else:
            raise OSError(
                f"{remote.name} ({remote.megabytes:g} MB) could not be downloaded. Get it by hand and put it into "
                f"{folder}. Tried {'; '.join(problems)}"
            )
    return paths


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar file into the new ``folder``, whole or not at all.

    Raises ValueError for an archive that is damaged or would write outside ``folder``; OSError when the disk is too
    small.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, part)
        else:
            _untar(archive, part)
        try:
            part.replace(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _unzip(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                target = (folder / entry.filename).resolve()
                if not target.is_relative_to(folder.resolve()):
                    raise ValueError(
                        f"{archive} wants to write outside its folder ({entry.filename!r}); it is not safe."
                    )
            _check_space(sum(e.file_size for e in content.infolist()), folder)
            content.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is damaged ({error}); download it again.") from error


def _untar(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as content:
            _check_space(sum(e.size for e in content.getmembers()), folder)
            content.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{archive} would write outside its folder ({error}): not safe.") from error
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}); download it again.") from error


def _check_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"unpacking needs {needed / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB free.")
