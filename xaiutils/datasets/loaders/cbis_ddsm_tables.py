"""The four description tables of CBIS-DDSM: one row for each finding, and the rules for images and patients that would
be in the set twice."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xaiutils.datasets.reading.tables import read_csv

TABLE_NAME = re.compile(r"(mass|calc)_case_description_(train|test)(?:_set)?\.csv", re.IGNORECASE)
SERIES_UID = re.compile(r"\d+(?:\.\d+){6,}")
IMAGE_KEY = ["kind", "split", "patient", "side", "view"]  # what one picture is known by
DETAILS = ("mass shape", "mass margins", "calc type", "calc distribution")
_COLUMNS = (
    "patient id", "breast density", "left or right breast", "image view", "abnormality id", "assessment", "pathology",
    "subtlety", "image file path", "cropped image file path", "roi mask file path",
)  # fmt: skip


def read_tables(files: list[Path], kinds: Sequence[str], root: Path) -> pd.DataFrame:
    """One row for each finding."""
    tables = {(m[1].lower(), m[2].lower()): p for p in files if (m := TABLE_NAME.fullmatch(p.name))}
    wanted = [(kind, split) for kind in kinds for split in ("train", "test")]
    missing = [f"{kind}_case_description_{split}_set.csv" for kind, split in wanted if (kind, split) not in tables]
    if missing:
        raise FileNotFoundError(
            f"{root} lacks {', '.join(missing)}. CBIS-DDSM is downloaded from The Cancer Imaging Archive "
            "(https://www.cancerimagingarchive.net/collection/cbis-ddsm/, free, CC BY 3.0): the four description "
            f"tables and the images (NBIA Data Retriever, 163 GB), both into {root}, in any folders."
        )
    return pd.concat([_read_table(tables[kind, split], kind, split) for kind, split in wanted], ignore_index=True)


def _read_table(path: Path, kind: str, split: str) -> pd.DataFrame:
    rows = read_csv(path, ",")
    rows.columns = [" ".join(c.lower().replace("_", " ").split()) for c in rows.columns]
    lacking = [c for c in _COLUMNS if c not in rows.columns]
    if lacking:
        raise ValueError(
            f"{path} has no column {', '.join(map(repr, lacking))}; it has {', '.join(rows.columns)}. Take the file as "
            "TCIA gives it."
        )
    rows = rows.apply(lambda column: column.str.strip())  # two of the paths end with a line feed
    table = pd.DataFrame(
        {
            "kind": kind,
            "split": split,
            "patient": rows["patient id"],
            "side": rows["left or right breast"].str.upper(),
            "view": rows["image view"].str.upper(),
            "number": rows["abnormality id"],
            "pathology": rows["pathology"].str.upper(),
            "density": rows["breast density"],
            "assessment": rows["assessment"],
            "subtlety": rows["subtlety"],
            "image uids": rows["image file path"].map(_last_uid),
            "roi uids": [
                {_last_uid(a), _last_uid(b)} - {""}
                for a, b in zip(rows["cropped image file path"], rows["roi mask file path"], strict=True)
            ],
        }
    )
    for name in DETAILS:
        table[name] = rows.get(name, "")
    blank = table[(table[["patient", "side", "view", "pathology"]] == "").any(axis=1)]
    if len(blank):
        raise ValueError(f"{path}: row {blank.index[0] + 2} lacks its patient, side, view or pathology.")
    return table


def _last_uid(path: str) -> str:
    """The series UID: the last of the UIDs in a path of the tables."""
    found = [part for part in re.split(r"[\\/]", path) if SERIES_UID.fullmatch(part)]
    return found[-1] if found else ""


def separate_patients(findings: pd.DataFrame, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """Leave out images of patients that occur in both splits, by ``rule``."""
    patients = {split: set(rows["patient"]) for split, rows in findings.groupby("split")}
    both = patients.get("train", set()) & patients.get("test", set())
    if not both:
        return findings, []
    overlap = findings["patient"].isin(both)
    gone = {
        "keep": overlap & False,
        "drop": overlap,
        "drop_train": overlap & (findings["split"] == "train"),
        "drop_test": overlap & (findings["split"] == "test"),
    }[rule]
    images = findings[gone].groupby(IMAGE_KEY).ngroups
    what = f"their images stay: a LEAK ({rule})" if rule == "keep" else f"{images} images are left out ({rule})"
    return findings[~gone], [f"{len(both)} patients are in both official splits; {what}."]


def agree_on_classes(findings: pd.DataFrame, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """One label for a view that is in the set as an image of masses and as one of calcifications."""
    views = findings.groupby(["patient", "side", "view"])
    worst = findings.groupby(["kind", "patient", "side", "view"])["class"].transform("max")
    contrary = (views["kind"].transform("nunique") > 1) & (
        findings.assign(worst=worst).groupby(["patient", "side", "view"])["worst"].transform("nunique") > 1
    )
    if not contrary.any():
        return findings, []
    n = findings[contrary].groupby(["patient", "side", "view"]).ngroups
    if rule == "drop":
        return findings[~contrary], [f"{n} views with other labels as masses than as calcifications are left out."]
    raised = findings.assign(**{"class": findings["class"].where(~contrary, views["class"].transform("max"))})
    return raised, [f"{n} views have other labels as masses than as calcifications; both get the worst one."]
