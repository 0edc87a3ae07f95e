"""Attribution maps as files for other programs: pictures, raw numbers, NIfTI, and DICOM secondary captures."""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom import Dataset
from pydicom.uid import generate_uid

from xaiutils.datasets import ImageDataset
from xaiutils.file_limits import naming
from xaiutils.files import csv_text, inside, replace_file, write_text
from xaiutils.plots.maps import display_range, is_even, overlay
from xaiutils.plots.style import MAP_COLOURS
from xaiutils.registry import check_choice
from xaiutils.text import file_name
from xaiutils.workbook.map_files import read_maps
from xaiutils.workbook.secondary_capture import capturable, secondary_capture

Dicom = str | Path | Mapping[str, str | Path]


@dataclass(frozen=True)
class _Map:
    """A map ``(height, width)``, the image under it, ``(height, width, C)`` in [0, 255], what both are, and for DICOM
    the header of the image's file and the UID of the new series."""

    maps: str
    image_id: str
    method: str
    values: np.ndarray
    image: np.ndarray | None
    signed: bool
    spacing: tuple[float, float] | None
    header: Dataset | None = None
    series: str = ""

    def path(self, suffix: str) -> Path:
        return Path(self.maps) / f"{file_name(self.image_id)}_{file_name(self.method)}{suffix}"


def _picture(found: _Map) -> np.ndarray:
    if found.image is None:
        raise ValueError(
            f"{found.maps or 'maps'}: the image {found.image_id!r} is not kept with its maps, and a picture shows "
            "both; give the data set that was explained, such as ds=run.dataset('test'), or leave out png and dicom."
        )
    even, limits = is_even(found.values), display_range(found.values, found.signed)
    opacity = 0.0 if even else 0.8  # a map that is the same everywhere has no colours
    return overlay(found.image, found.values, found.signed, opacity, limits, MAP_COLOURS[found.signed])


def _write_tiff(found: _Map, path: Path) -> None:
    per_cm = {}
    if found.spacing:
        per_cm = {"resolution_unit": 3, "y_resolution": 10 / found.spacing[0], "x_resolution": 10 / found.spacing[1]}
    Image.fromarray(found.values).save(path, "TIFF", **per_cm)


def _write_nifti(found: _Map, path: Path) -> None:
    from nibabel import Nifti1Image

    down, along = found.spacing or (1.0, 1.0)
    image = Nifti1Image(found.values.T[..., None], np.diag([along, down, 1.0, 1.0]))
    image.set_sform(None, 0)  # sizes of pixels are known, where the picture lies in a patient is not
    image.set_qform(None, 0)
    image.header.set_xyzt_units("mm" if found.spacing else "unknown")
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def _write_dicom(found: _Map, path: Path) -> None:
    assert found.header is not None
    made = secondary_capture(found.header, _picture(found), found.method, found.series)
    made.save_as(path, enforce_file_format=True)


FORMATS: dict[str, tuple[str, Callable[[_Map, Path], Any]]] = {
    "png": (".png", lambda found, path: Image.fromarray(_picture(found)).save(path)),
    "tiff": (".tiff", _write_tiff),
    "npy": (".npy", lambda found, path: np.save(path, found.values)),
    "nifti": (".nii.gz", _write_nifti),
    "dicom": (".dcm", _write_dicom),
}


def export_maps(
    source: str | Path | Mapping[str, np.ndarray],
    to: str | Path,
    formats: Sequence[str] = ("png", "tiff"),
    *,
    ds: ImageDataset | None = None,
    dicom: Dicom | None = None,
    spacing: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Write each map as files of its own, ``<id>_<method>``, and a list of them, ``manifest.csv``, which is returned.

    Maps in files are at the precision of their file (`xaiutils.workbook.Run.save_maps`). A picture has the colours of
    `xaiutils.plots.draw_map`, its limits in the list; blue to red where a method's maps have negative values.

    A DICOM file is a secondary capture, derived from the file of the image and in its study, in a new series for each
    patient's study and method, with patient's and study's fields as they are there. Picture and header say that it is
    not for diagnosis: it is in the pixels of the prepared image, and nothing can be measured on it.

    Args:
        source: a run's folder, a batch's, or any other in which there are ``maps/*.npz``; one such file; or float maps
            ``(n, height, width)`` by method, of the images of ``ds``. Maps of a file lie in a folder named as it.
        to: the folder that is written to, made where it is missing.
        formats: "png" and "dicom" (maps over images), "tiff", "npy" (NumPy) and "nifti" (``.nii.gz``; needs nibabel) of
            raw float32.
        ds: the images that were explained, where the file of maps does not keep them: pictures need them.
        dicom: for the format "dicom": the folder in which images' ids are paths, or each image's file by its id.
        spacing: size of a prepared pixel in mm, (down, along); None: as ``ds`` says it (`ImageDataset.pixel_size`),
            else not known. TIFF and NIfTI, whose axes are along and down, state it.
        overwrite: whether files that are there are replaced.

    Raises ValueError, FileExistsError, FileNotFoundError or ImportError, before anything is written, for what cannot
    be: no maps, an unknown format, an image that is not known, a file that is not DICOM or does not say whose study it
    is, files that are there.
    """
    to, formats = Path(to), [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for name in formats:
        check_choice("formats", name, FORMATS)
    if spacing is not None and not (np.shape(spacing) == (2,) and np.isfinite(spacing).all() and min(spacing) > 0):
        raise ValueError(f"spacing={spacing!r}; expected two sizes above 0 in mm, (down, along).")
    if "nifti" in formats and find_spec("nibabel") is None:
        raise ImportError("format 'nifti' needs nibabel: pip install nibabel.")
    if "dicom" in formats and dicom is None:
        raise ValueError("format 'dicom' needs dicom=, the folder of the DICOM files or each file by its image's id.")
    planned: dict[Path, tuple[str, str]] = {to / "manifest.csv": ("", "")}
    headers: dict[str, Dataset] = {}
    for found in _maps(source, ds, spacing):
        if {"png", "dicom"} & set(formats):
            _picture(found)
        if "dicom" in formats and dicom is not None and found.image_id not in headers:
            headers[found.image_id] = capturable(_file_of(found.image_id, dicom))
        for name in formats:
            path = to / found.path(FORMATS[name][0])
            if path in planned:
                raise ValueError(f"{planned[path]} and {(found.image_id, found.method)} would both be {path.name}.")
            planned[path] = (found.image_id, found.method)
    if len(planned) == 1:
        raise ValueError(f"{source if isinstance(source, str | Path) else 'source'}: there are no maps.")
    if not overwrite and (there := [path for path in planned if path.exists()]):
        raise FileExistsError(
            f"{there[0]} is there, with {len(there) - 1} more; give another folder, or overwrite=True."
        )
    rows: list[dict[str, Any]] = []
    series: dict[tuple[str, str, str], str] = {}
    for found in _maps(source, ds, spacing):
        if header := headers.get(found.image_id):
            uid = series.setdefault((found.maps, found.method, header.StudyInstanceUID), generate_uid())
            found = replace(found, header=header, series=uid)
        for name in formats:
            suffix, write = FORMATS[name]
            replace_file(to / found.path(suffix), partial(write, found))
            rows.append(_row(found, name, found.path(suffix)))
    table = pd.DataFrame(rows)
    write_text(to / "manifest.csv", csv_text(table))
    return table


def _row(found: _Map, name: str, path: Path) -> dict[str, Any]:
    limits = display_range(found.values, found.signed) if name in ("png", "dicom") else None
    down, along = found.spacing or (np.nan, np.nan)
    return {
        "file": path.as_posix(),
        "format": name,
        "maps": found.maps,
        "image_id": found.image_id,
        "method": found.method,
        "height": found.values.shape[0],
        "width": found.values.shape[1],
        "signed": found.signed,
        "minimum": float(found.values.min()),
        "maximum": float(found.values.max()),
        "colours_from": limits.vmin if limits else np.nan,
        "colours_to": limits.vmax if limits else np.nan,
        "mm_down": down,
        "mm_along": along,
    }


def _stored(source: str | Path | Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Files of maps by what they are called, as `read_maps` reads them."""
    if isinstance(source, Mapping):
        yield "", {name: np.asarray(values, np.float32) for name, values in source.items()}
        return
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}.")
    for path in [source] if source.is_file() else sorted(source.rglob("maps/*.npz")):
        name = path.stem if path == source else (path.relative_to(source).parent.parent / path.stem).as_posix()
        with naming(path, "it holds no maps"):
            stored = read_maps(path)
            if "ids" not in stored:
                raise ValueError("it has no ids")
        yield name, stored


def _maps(
    source: str | Path | Mapping[str, np.ndarray],
    ds: ImageDataset | None,
    spacing: tuple[float, float] | None,
) -> Iterator[_Map]:
    known = {} if ds is None else {i: (ds.pixels[k], ds.pixel_size(k)) for k, i in enumerate(ds.ids)}
    for name, stored in _stored(source):
        if "ids" not in stored and ds is None:
            raise ValueError("maps by method need ds=, the images that they are of.")
        ids = [str(i) for i in stored.pop("ids", [] if ds is None else ds.ids)]
        images = stored.pop("images", None)
        for method, maps in stored.items():
            if maps.ndim != 3 or len(maps) != len(ids) or not np.isfinite(maps).all():
                raise ValueError(
                    f"{method}: maps must be finite numbers ({len(ids)}, height, width), got {maps.shape}."
                )
            signed = bool((maps < 0).any())
            for i, image_id in enumerate(ids):
                of_data, own_size = known.get(image_id, (None, None))
                image = of_data if images is None else images[i]
                if image is not None and image.shape[:2] != maps.shape[1:]:
                    raise ValueError(f"{image_id}: the map is {maps.shape[1:]}, the image {image.shape[:2]}.")
                yield _Map(name, image_id, method, maps[i], image, signed, spacing or own_size)


def _file_of(image_id: str, dicom: Dicom) -> Path:
    if isinstance(dicom, Mapping):
        path = Path(dicom[image_id]) if image_id in dicom else None
    else:
        path = inside(Path(dicom), image_id)
    if path is None or not path.is_file():
        where = "the files that were given" if isinstance(dicom, Mapping) else dicom
        raise FileNotFoundError(
            f"no DICOM file of the image {image_id!r} in {where}: give each by its id, dicom={{id: path}}."
        )
    return path
