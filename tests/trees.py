"""Small data sets in the true layouts of CBIS-DDSM and INbreast, drawn by the phantom, written with pydicom."""

import csv
import hashlib
import plistlib
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from xaiutils.datasets import phantom
from xaiutils.datasets.reading.image_files import load_mask, read_picture
from xaiutils.images import fit_image, fit_mask

SIZE = 160
_ROOT = "1.3.6.1.4.1.9590.100.1.2"


def write_dicom(path: Path, pixels: np.ndarray, bits: int = 16, syntax=ExplicitVRLittleEndian, **tags) -> Path:
    """One grey DICOM file of unsigned pixels ``(height, width)``; ``tags`` by pydicom's keywords."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.Modality = bits, bits - 1, "MG"
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.astype(np.uint8 if bits <= 8 else "<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def mammogram(seed: int, right: bool = False):
    """A phantom's image in [0, 1] and its lesion, twice as high as wide, the chest wall on the given side."""
    found = phantom.generate(seed, SIZE, difficulty="easy")
    image, lesion = found.image, found.lesion
    if (image[:, : SIZE // 2].sum() < image[:, SIZE // 2 :].sum()) != right:
        image, lesion = image[:, ::-1], lesion[:, ::-1]
    return np.repeat(image, 2, axis=0), np.repeat(lesion, 2, axis=0)


def _uid(*parts) -> str:
    return f"{_ROOT}.{_number(*parts)}"


def _number(*parts) -> int:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:24], 16)


def make_cbis(root: Path, patients: int = 16, layout: str = "tcia") -> dict:
    """Official tables and pictures; returns what is in it.

    Patients 1 to ``patients`` have masses, half of them calcifications too; every fourth is in test. Patient 3 has a
    second, malignant finding on one of its benign images. Patient 4, in test with masses, is in train with
    calcifications. In every third series mask and crop are named the wrong way round.
    ``layout``: tcia (UID folders), nbia (descriptions as folders), flat (headers alone tell), jpeg (Kaggle).
    """
    rows = {(kind, split): [] for kind in ("mass", "calc") for split in ("train", "test")}
    facts = {"images": 0, "findings": 0}
    for patient in range(1, patients + 1):
        for kind in ("mass", "calc") if patient % 2 == 0 else ("mass",):
            split = "test" if patient % 4 == 0 and kind == "mass" else "train"
            side = "LEFT" if patient % 3 else "RIGHT"
            for view in ("CC", "MLO"):
                _add_image(root, layout, rows[kind, split], kind, split, patient, side, view, facts)
    for (kind, split), found in rows.items():
        path = root / "csv" / f"{kind}_case_description_{split}_set.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0] if found else _row(kind, split, 0, "LEFT", "CC", 1, "BENIGN")))
            writer.writeheader()
            writer.writerows(found)
    return facts


def _row(kind, split, patient, side, view, number, pathology):
    name = f"{kind.capitalize()}-{'Training' if split == 'train' else 'Test'}_P_{patient:05d}_{side}_{view}"
    full = f"{name}/{_uid(name, 'study')}/{_uid(name, 'series')}/000000.dcm"
    region = f"{name}_{number}/{_uid(name, number, 'study')}/{_uid(name, number, 'series')}"
    swapped = patient % 3 == 0
    mass = {"mass shape": "IRREGULAR", "mass margins": "SPICULATED"}
    calc = {"calc type": "PLEOMORPHIC", "calc distribution": "CLUSTERED"}
    return {
        "patient_id": f"P_{patient:05d}",
        "breast_density" if kind == "mass" else "breast density": 1 + patient % 4,
        "left or right breast": side,
        "image view": view,
        "abnormality id": number,
        "abnormality type": "mass" if kind == "mass" else "calcification",
        **(mass if kind == "mass" else calc),
        "assessment": 4,
        "pathology": pathology,
        "subtlety": 3,
        "image file path": full,
        "cropped image file path": f"{region}/00000{1 - swapped}.dcm",
        "ROI mask file path": f"{region}/00000{int(swapped)}.dcm\n",
    }


def _add_image(root, layout, rows, kind, split, patient, side, view, facts):
    seed = 100 * patient + 10 * (view == "MLO") + (kind == "calc")
    image, lesion = mammogram(seed, right=side == "RIGHT")
    pixels = np.rint(65535 * image)
    worst = (
        "MALIGNANT"
        if patient % 5 in (1, 3) and patient != 3
        else "BENIGN"
        if patient % 2
        else "BENIGN_WITHOUT_CALLBACK"
    )
    findings = [worst] + (["MALIGNANT"] if patient == 3 and view == "CC" else [])
    facts["images"] += 1
    for number, pathology in enumerate(findings, start=1):
        facts["findings"] += 1
        row = _row(kind, split, patient, side, view, number, pathology)
        rows.append(row)
        if number == 1:
            _write(root, layout, row["image file path"], pixels, "full mammogram images", 16)
        mask = lesion if number == 1 else np.roll(lesion, 20, axis=0)
        top, bottom, left, right = _box(lesion)
        crop = pixels[top:bottom, left:right]
        swapped = patient % 3 == 0
        _write(
            root, layout, row["cropped image file path"], (255 * mask if swapped else crop), "ROI", 8 if swapped else 16
        )
        _write(
            root,
            layout,
            row["ROI mask file path"].strip(),
            (crop if swapped else 255 * mask),
            "ROI",
            16 if swapped else 8,
        )


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _write(root, layout, stated, pixels, description, bits):
    subject, study, series, file = stated.split("/")
    tags = {
        "PatientID": subject,
        "SeriesDescription": description,
        "SeriesInstanceUID": series,
        "StudyInstanceUID": study,
    }
    number = int(file[5]) + 1
    if layout == "jpeg":
        path = root / "jpeg" / series / f"1-{100 * number + 7}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels / (1 if bits == 8 else 257)).astype(np.uint8)).save(path, quality=92)
        return
    place = {
        "tcia": root / "CBIS-DDSM" / stated,
        "nbia": root
        / "CBIS-DDSM"
        / subject
        / "07-20-2016-DDSM-30104"
        / f"1.000000-{description}-24515"
        / f"1-{number}.dcm",
        "flat": root / "dicom" / f"{_number(stated)}.dcm",
    }[layout]
    write_dicom(place, pixels, bits, **tags)


def make_inbreast(root: Path, patients: int = 24, numbers: list[str] | None = None) -> None:
    """AllDICOMs (12 to 14 bits, MONOCHROME1 and 2), AllXML and INbreast.csv; two views a patient.

    ``numbers`` are file numbers to use, for a table that is there already; then none is written.
    """
    lines = ["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"]
    grades = ["1", "2", "2", "3", "4a", "4c", "5", "6"]
    count = 0
    for patient in range(patients):
        for view in ("CC", "ML"):
            number = numbers[count] if numbers else f"{20586900 + count}"
            count += 1
            side = "L" if patient % 2 else "R"
            grade = grades[patient % len(grades)]
            image, lesion = mammogram(7000 + count, right=side == "R")
            bits, inverted = (14, True) if patient % 3 == 0 else (12, False)
            pixels = np.rint((2**bits - 1) * (1 - image if inverted else image))
            name = f"{number}_{patient + 10**15:016x}_MG_{side}_{view}_ANON.dcm"
            tags = {"PatientID": "removed", "ImagerPixelSpacing": [0.07, 0.07]}
            tags["PhotometricInterpretation"] = "MONOCHROME1" if inverted else "MONOCHROME2"
            write_dicom(root / "AllDICOMs" / name, pixels, bits, **tags)
            if grade not in "12":
                write_contours(root / "AllXML" / f"{number}.xml", lesion)
            lines.append(f"removed;removed;{side};{view};200802;{number};{1 + patient % 4};{grade}")
    if not numbers:
        (root / "INbreast.csv").write_text("\n".join(lines) + "\n")


def write_contours(path: Path, mask: np.ndarray, layout: str = "rois") -> Path:
    """The box of ``mask`` as a contour in one of the two layouts, and a single calcification beside it."""
    top, bottom, left, right = map(float, _box(mask))
    corners = [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]
    if layout == "points":
        content = {"ROIPoints": [f"{{{x}, {y}}}" for x, y in corners], "Name": "Pectoral"}
    else:
        rois = [
            {"Name": "Mass", "NumberOfPoints": 4, "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in corners]},
            {"Name": "Calcification", "NumberOfPoints": 1, "Point_px": [f"({left:.6f}, {top - 12:.6f})"]},
        ]
        content = {"Images": [{"ImageIndex": 0, "NumberOfROIs": 2, "ROIs": rois}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plistlib.dumps(content))
    return path


def load_picture(path: Path, bit_depth: int = 16) -> np.ndarray:
    """A picture file at its own size, uint8 ``(height, width, 3)``."""
    frame = read_picture(path, bit_depth)
    if frame.pixels.ndim == 3:
        return frame.pixels
    return np.repeat(np.rint(frame.pixels * (255 / frame.top)).astype(np.uint8)[..., None], 3, axis=-1)


def read_image(path: Path, image_size: int, keep_aspect: bool = False, bit_depth: int = 16) -> np.ndarray:
    """A picture file as uint8 ``(image_size, image_size, 3)``."""
    return fit_image(load_picture(path, bit_depth), image_size, keep_aspect)


def read_mask(path: Path, image_size: int, values=(), keep_aspect: bool = False) -> np.ndarray:
    """A mask file as bool ``(image_size, image_size)``."""
    return fit_mask(load_mask(path, values), image_size, keep_aspect)
