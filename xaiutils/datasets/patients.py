"""Whose images they are, where folders or names tell it; and folders that look like patients while nobody says so."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from xaiutils.class_names import says_disease
from xaiutils.datasets.listing import Record, unknown_patient
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.mask_folders import IMAGE_FOLDER
from xaiutils.datasets.splits import split_called

FOLDER = "subfolder"  # of the metadata: the folders between a class and an image
_FEW_A_CLASS, _MANY_CLASSES = 30, 6


def folder_metadata(parts: Sequence[str], label: str = "") -> dict[str, str]:
    """Metadata of the folders that an image lies in, but those that say nothing of whose it is: its class, a split, or
    "images"."""
    own = [p for p in parts if p != label and not split_called(p) and not IMAGE_FOLDER.fullmatch(p)]
    return {FOLDER: "/".join(own)} if own else {}


def name_patients(records: Sequence[Record], patient_from: int | str) -> list[Record]:
    """Records with the patient that ``patient_from`` finds, None where it finds none; unchanged where it is empty.

    A number is the level of a folder below the class (1: the first); any other text a regular expression on the
    image's id, a path, whose group ``patient``, else its first group, else all that matches is the patient. Raises
    ValueError where it is neither, or fits no image.
    """
    if patient_from == "":
        return list(records)
    level = _level(patient_from)
    if level is None:
        try:
            pattern = re.compile(str(patient_from))
        except re.error as error:
            raise ValueError(f"patient_from={patient_from!r} is not a regular expression: {error}.") from error
        named = [_matched(pattern, r.id) for r in records]
        what = "fits no path of an image"
    else:
        folders = [r.metadata.get(FOLDER, "").split("/") if r.metadata.get(FOLDER) else [] for r in records]
        named = [parts[level - 1] if len(parts) >= level else None for parts in folders]
        what = "finds no such folder below the classes"
    if records and not any(named):
        raise ValueError(
            f"patient_from={patient_from!r} {what}; the first image is {records[0].id!r}. Give the level of a folder "
            "below the class (1: the first), or a regular expression with a group."
        )
    return [replace(r, patient=name or r.patient) for r, name in zip(records, named, strict=True)]


def fill_unknown(records: Sequence[Record]) -> list[Record]:
    """Where some patients are known, the others are each of their own."""
    if not any(r.patient for r in records):
        return list(records)
    return [r if r.patient else replace(r, patient=unknown_patient(r.id)) for r in records]


def with_headers(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Records with the patient, view and side that DICOM headers state, where nothing else does; and what was done.

    Where all files have one PatientID it is a placeholder, and nothing is known.
    """
    headers = {r.id: _header(r.source.path) for r in records if dicom.is_dicom(r.source.path)}
    patients = {h.patient for h in headers.values()} - {""}
    known = len(patients) > 1
    done = []
    for r in records:
        header = headers.get(r.id, dicom.Header())
        patient = r.patient or (header.patient if known else None)
        if (known and patient is None) or patient == "":
            patient = unknown_patient(r.id)
        facts = {"view": header.view, "side": header.side}
        done.append(replace(r, patient=patient, metadata={**{k: v for k, v in facts.items() if v}, **r.metadata}))
    notes = [f"{len(patients)} patients are distinguished by the PatientID of DICOM headers."] if known else []
    if headers and not known:
        notes.append("The DICOM headers do not tell patients apart: images of one may be in several splits.")
    return done, notes


def _header(path: Path) -> dicom.Header:
    try:
        return dicom.read_header(path)
    except (ValueError, OSError):
        return dicom.Header()  # the file is named when its pixels are read


def suggest_patient_folders(records: Sequence[Record], given: bool) -> list[str]:
    """A sentence on folders between the classes and the images, which may be patients; none where patients are known or
    ``given``."""
    nested = [r for r in records if r.metadata.get(FOLDER)]
    places = {(r.label, r.metadata[FOLDER]) for r in nested}
    single = len({place for _, place in places}) == 1  # one folder of all images
    known = given or any(r.patient for r in records)
    if known or single or len(nested) < len(records) / 2 or len(places) <= 2 or _class_below(records):
        return []
    return [
        f"{len(nested)} images lie in {len(places)} folders below their classes, such as "
        f"{nested[0].metadata[FOLDER]!r}. If each is a patient, give patient_from=1 "
        "(make run SET='data_options.patient_from=1'), or a regular expression: then a patient's images stay in one "
        "split. As it is, images of one folder may be in several."
    ]


def doubt_class_folders(records: Sequence[Record], class_names: Sequence[str], root: Path) -> list[str]:
    """A sentence where the folders of ``root`` are more like the patients of one class than like classes."""
    if kinds := _class_below(records):
        return [
            f"{root.name!r} is read as {len(class_names)} classes, {', '.join(map(repr, class_names[:3]))}, ..., and "
            f"the folders below them are {', '.join(map(repr, kinds[:3]))}: are those the patients, and these the "
            f"classes? Then put the class first ({kinds[0]}/{class_names[0]}/...) and give patient_from=1, or list the "
            "images in a table with columns of labels and patients."
        ]
    by_class: dict[int, set[str | None]] = {}
    for r in records:
        by_class.setdefault(r.label, set()).add(r.patient)
    numbered = [re.sub(r"\d+", "0", name) for name in class_names]
    alike = len(class_names) >= _MANY_CLASSES and max(map(numbered.count, numbered)) > 0.8 * len(class_names)
    alike = alike and any("0" in name for name in numbered)
    few = len(records) < _FEW_A_CLASS * len(class_names)
    single = len(class_names) > 2 and all(len(p) == 1 and None not in p for p in by_class.values())
    if not (single or (few and alike) or _one_of_several(root, class_names)):
        return []
    why = "each class has one patient" if single else f"they are {', '.join(map(repr, class_names[:3]))}, ..."
    return [
        f"{root.name!r} is read as {len(class_names)} classes, and {why}: is it the folder of one class, and are these "
        "its patients? Then give the folder above it as data_dir."
    ]


def _class_below(records: Sequence[Record]) -> list[str]:
    """The names of the folders right below the folders that are read as classes, where they are more like classes: few
    names for many folders, some of which speak of disease or health."""
    inner = sorted({r.metadata[FOLDER].split("/")[0] for r in records if r.metadata.get(FOLDER)})
    nested = all(r.metadata.get(FOLDER) for r in records)
    few = 2 <= len(inner) < len({r.label for r in records})
    return inner if nested and few and any(says_disease(name) is not None for name in inner) else []


def _one_of_several(root: Path, class_names: Sequence[str]) -> bool:
    """Whether the folder is called like a class, beside one that is called like the other class."""
    said = says_disease(root.resolve().name)
    if said is None or any(says_disease(name) is not None for name in class_names):
        return False
    return any(p.is_dir() and says_disease(p.name) == (not said) for p in root.resolve().parent.iterdir())


def _level(value: int | str) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(
            f"patient_from={value!r}; expected the level of a folder below the class, or a regular expression."
        )
    if isinstance(value, str) and not value.isdecimal():
        return None
    if int(value) < 1:
        raise ValueError(f"patient_from={value!r}; the first folder below the class is 1.")
    return int(value)


def _matched(pattern: re.Pattern, path: str) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    if pattern.groups == 0:
        return match[0] or None
    return match["patient" if "patient" in pattern.groupindex else 1] or None
