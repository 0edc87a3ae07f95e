"""What readers answered: the files that the questionnaire saves, checked, as one table."""

import csv
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# The System Causability Scale (Holzinger, Carrington & Müller 2020, KI 34), 1: strongly disagree, 5: strongly agree.
CAUSABILITY = (
    "I found that the data included all relevant known causal factors with sufficient precision and granularity.",
    "I understood the explanations within the context of my work.",
    "I could change the level of detail on demand.",
    "I did not need support to understand the explanations.",
    "I found the explanations helped me to understand causality.",
    "I was able to use the explanations with my knowledge base.",
    "I did not find inconsistencies between explanations.",
    "I think that most people would learn to understand the explanations very quickly.",
    "I did not need more references in the explanations: e.g., medical guidelines, regulations.",
    "I received the explanations in a timely and efficient manner.",
)
_COLUMNS = ("trial", "diagnosis", "confidence", "agreement", "findings", "region", "seconds")


@dataclass(frozen=True)
class Answers:
    """``table``: the design's columns and, for each reading, diagnosis (a class), confidence (0 to 100), agreement (1
    to 5, NaN without a map), findings (tuple), region (polygons of (x, y) in [0, 1] from the upper left corner; None:
    not asked) and seconds. ``causability``: a row for each reader who filled it in, reader and score, the sum of the
    ten answers / 50."""

    table: pd.DataFrame
    causability: pd.DataFrame


def read_answers(
    files: Iterable[str | Path], design: pd.DataFrame, class_names: Sequence[str], complete: bool = True
) -> Answers:
    """The answers in files that the questionnaire saved, JSON or CSV, joined to their readings.

    Raises ValueError that names file and reading for an answer that is none of this study's, lacks consent, is given
    twice in different ways, or is not of the values that the questionnaire offers; and, if ``complete``, for readings
    of the design without an answer, of which else a warning says how many there are.
    """
    trials = design.set_index("trial")
    found: dict[str, dict[str, Any]] = {}
    scale: dict[str, list[int]] = {}
    for path in map(Path, files):
        content = _content(path)
        _check_file(path.name, content, trials)
        for answer in content["answers"]:
            checked = _checked(path.name, answer, content["reader"], trials, class_names)
            if found.setdefault(checked["trial"], checked) != checked:
                raise ValueError(f"{path.name}: reading {checked['trial']} has another answer in another file or row.")
        if content.get("causability"):
            given = _scale(path.name, content["causability"])
            if scale.setdefault(content["reader"], given) != given:
                raise ValueError(f"{path.name}: {content['reader']} has another causability scale in another file.")
    missing = [trial for trial in design["trial"] if trial not in found]
    if missing:
        by = design[design["trial"].isin(missing)].groupby("reader").size().to_dict()
        said = f"{len(missing)} readings have no answer, by reader: {by}"
        if complete:
            raise ValueError(f"{said}; complete=False takes what there is.")
        warnings.warn(said, stacklevel=2)
    table = design.merge(pd.DataFrame(list(found.values()), columns=list(_COLUMNS)), on="trial")
    table["agreement"] = table["agreement"].astype(float)
    scores = [(reader, sum(values) / (5 * len(CAUSABILITY))) for reader, values in sorted(scale.items())]
    return Answers(table, pd.DataFrame(scores, columns=["reader", "score"]))


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _of_rows(list(csv.DictReader(text.splitlines()))) if path.suffix == ".csv" else json.loads(text)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path.name} is not a file of answers: {error!r}.") from error


def _of_rows(rows: list[dict[str, str]]) -> dict[str, Any]:
    """A file's JSON from its rows of CSV."""
    heads = {(row["study"], row["reader"], row["consent"]) for row in rows}
    if len(heads) != 1:
        raise ValueError(f"its rows have {len(heads)} studies, readers or consents; expected one")
    (head,) = heads
    answers, scale = [], []
    for row in rows:
        rating = int(row["agreement"]) if row["agreement"] else None
        if row["trial"].startswith("causability"):
            scale.append(rating)
            continue
        confidence, seconds = int(row["confidence"]), float(row["seconds"])
        findings, region = (json.loads(row[name]) for name in ("findings", "region"))
        values = (row["trial"], row["diagnosis"], confidence, rating, findings, region, seconds)
        answers.append(dict(zip(_COLUMNS, values, strict=True)))
    return {"study": head[0], "reader": head[1], "consent": head[2] == "true", "answers": answers, "causability": scale}


def _check_file(name: str, content: Any, trials: pd.DataFrame) -> None:
    if not isinstance(content, dict) or not isinstance(content.get("answers"), list):
        raise ValueError(f"{name} is not a file of answers: it has no list 'answers'.")
    study = trials["study"].iloc[0]
    if content.get("study") != study:
        raise ValueError(f"{name} answers the study {content.get('study')!r}; this design is {study!r}.")
    if content.get("reader") not in list(trials["reader"]):
        raise ValueError(f"{name} is by {content.get('reader')!r}, who is no reader of the design.")
    if content.get("consent") is not True:
        raise ValueError(f"{name}: {content['reader']} did not consent; leave the file out.")


def _checked(name: str, answer: Any, reader: str, trials: pd.DataFrame, class_names: Sequence[str]) -> dict[str, Any]:
    """One answer with its values checked, and nothing else."""
    trial = answer.get("trial") if isinstance(answer, dict) else None
    if trial not in list(trials.index) or trials.at[trial, "reader"] != reader:
        raise ValueError(f"{name}: {trial!r} is no reading of {reader}.")
    value = {key: answer.get(key) for key in _COLUMNS}
    ticked = value["findings"] or []
    value["findings"] = tuple(ticked) if isinstance(ticked, list) else ticked
    confidence, rating, seconds = value["confidence"], value["agreement"], value["seconds"]
    right = {
        "diagnosis": value["diagnosis"] in class_names,
        "confidence": _is_number(confidence) and 0 <= confidence <= 100,
        "agreement": rating in (1, 2, 3, 4, 5) if trials.at[trial, "map"] else rating is None,
        "findings": isinstance(ticked, list) and all(isinstance(one, str) for one in ticked),
        "region": value["region"] is None or _is_region(value["region"]),
        "seconds": _is_number(seconds) and seconds >= 0,
    }
    wrong = {key: value[key] for key, fine in right.items() if not fine}
    if wrong:
        raise ValueError(
            f"{name}: reading {trial} of {reader} has answers that the questionnaire does not offer: {wrong}."
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_region(value: Any) -> bool:
    """Polygons of three or more points, each in the image."""
    return isinstance(value, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 3
        and all(isinstance(p, list) and len(p) == 2 and all(_is_number(v) and 0 <= v <= 1 for v in p) for p in polygon)
        for polygon in value
    )


def _scale(name: str, values: Any) -> list[int]:
    if not isinstance(values, list) or len(values) != len(CAUSABILITY) or any(v not in (1, 2, 3, 4, 5) for v in values):
        raise ValueError(f"{name}: the causability scale has {values}; expected ten answers from 1 to 5, or none.")
    return values
