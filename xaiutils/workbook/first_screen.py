"""What a reader of a run's report sees first: the facts, from the tables that its notebooks saved.

The sentences are in ``templates/first_screen.html.j2``. A table that is not there, or not as the workbook writes it,
answers no question.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from xaiutils.attribution import METHODS
from xaiutils.datasets import DATASETS
from xaiutils.evaluation.findings import headline
from xaiutils.evaluation.metrics import METRICS
from xaiutils.files import inside
from xaiutils.workbook.saved_tables import read_saved_table

Facts = dict[str, Any]

# What shows each claim: of each group the first file that the run has.
_SOURCES = {
    "what": (("tables/splits.csv",), ("figures/examples.png",)),
    "models": (("tables/classification.csv",), ("figures/roc.png",)),
    "use": (("tables/evidence_use.csv",),),
    "masks": (("tables/metrics_by_method.csv",), ("figures/finds_the_evidence.png", "figures/metrics_magnitude.png")),
    "model": (("tables/metrics_by_method.csv",), ("figures/names_what_is_used.png", "figures/metrics_magnitude.png")),
    "forget": (("tables/randomisation_summary.csv",), ("figures/randomisation_ssim.png",)),
    "leaks": (("tables/leaks.csv",),),
}


def sources(files: Collection[str]) -> dict[str, list[str]]:
    """The files that show each claim of `first_screen`, of those that a report shows."""
    found = {
        claim: [known[0] for group in groups if (known := [file for file in group if file in files])]
        for claim, groups in _SOURCES.items()
    }
    return found | {"values": [file for file in files if file.startswith("tables/report_")][:1]}


def first_screen(folder: Path, records: list[Facts]) -> Facts:
    """What was run, whether the models are worth explaining, what their maps find, and what fails.

    ``folder`` is the run's; ``records`` are its notebooks' as `xaiutils.workbook` writes them. Tables that no record
    names are left over from another execution and answer nothing.
    """
    files = [item["file"] for record in records for item in record["items"] if item["kind"] == "table"]
    known = {Path(file).stem: path for file in files if (path := inside(folder, file)) is not None}
    models = _models(known)
    return {
        "what": _what(records),
        "models": models,
        "values": _values(known),
        "use": _use(known),
        "maps": _maps(known),
        "fails": _fails(known, records, models),
    }


def _table(known: Mapping[str, Path], name: str, texts: str, numbers: str = "") -> pd.DataFrame | None:
    """A table of the run with these columns (bars part them), or None."""
    try:
        table = read_saved_table(known[name]) if name in known else None
    except (OSError, ValueError):
        return None
    if table is None or not len(table) or not {*texts.split("|"), *filter(None, numbers.split("|"))} <= set(table):
        return None
    if not all(is_numeric_dtype(table[n]) for n in numbers.split("|") if n):
        return None
    table = table[np.isfinite(table["n"])] if "n" in numbers.split("|") else table
    return table if len(table) else None


def _what(records: list[Facts]) -> Facts:
    parameters: Facts = {}
    for record in records:  # what the first settles: another may train small models of its own
        parameters = record["parameters"] | parameters
    name = str(parameters.get("dataset", ""))
    return {
        "dataset": DATASETS[name].title if name in DATASETS else name,
        "size": parameters.get("image_size"),
        "seed": parameters.get("seed"),
        "minutes": sum(record["seconds"] for record in records) / 60,
        "notebooks": len(records),
        "finished": sum(record.get("finished") is True for record in records),
    }


def _models(known: Mapping[str, Path]) -> list[Facts]:
    """Of each classifier how it does on the test split, by balanced accuracy: class imbalance fools accuracy."""
    what = "balanced accuracy"
    table = _table(known, "classification", "level|model", f"n|{what}|{what} low|{what} high")
    if table is None:
        return []
    table = table[table["level"] == table["level"].iloc[0]]
    of_nobody = table[f"{what} low"].isna() & table["model"].astype(str).str.startswith(("always ", "random, "))
    guess = table.loc[of_nobody, what].max()
    rows = table[~of_nobody].to_dict("records") if np.isfinite(guess) else []
    return [
        {
            "name": row["model"],
            "n": int(row["n"]),
            "level": row["level"],
            "value": f"{row[what]:.2f}" + " [{:.2f}, {:.2f}]".format(*ends) * bool(np.isfinite(ends).all()),
            "guess": f"{guess:.2f}",
            "worth": bool(row[f"{what} low"] > guess),
            "weak": bool(row[what] < (1 + guess) / 2),  # nearer to guessing than to no error
        }
        for row in rows
        for ends in [(row[f"{what} low"], row[f"{what} high"])]
    ]


def _values(known: Mapping[str, Path]) -> list[Facts]:
    """Of each model of a quantity its mean error beside that of a constant answer."""
    found = []
    for file in [file for file in known if file.startswith("report_")]:
        table = _table(known, file, "what|always the mean")
        name = file.removeprefix("report_")
        if table is not None and name in table and "MAE" in set(table["what"]):
            row = table[table["what"] == "MAE"].iloc[0]
            found.append({"name": name, "value": row[name], "constant": row["always the mean"]})
    return found


def _use(known: Mapping[str, Path]) -> dict[str, Facts]:
    """Whether each model, or of each label, loses its answer with the evidence."""
    table = _table(known, "evidence_use", "verdict|by|group", "n|AUC|AUC_evidence_gone")
    if table is None:
        return {}
    return {
        str(row[table.columns[0]]): {
            "verdict": row["verdict"],
            "n": int(row["n"]),
            "AUC": [f"{row[n]:.2f}" for n in ("AUC", "AUC_evidence_gone") if np.isfinite(row[n])],
        }
        for row in table.drop_duplicates(table.columns[0]).to_dict("records")
    }


def _maps(known: Mapping[str, Path]) -> dict[str, Facts]:
    """`headline` of each model."""
    table = _table(known, "metrics", "model|method|metric|image_id|reading|weights", "value")
    if table is None:
        return {}
    table = table[table["metric"].isin(list(METRICS))]
    if "correct" in table:
        table = table.assign(correct=table["correct"].astype(str).eq("True"))
    found = {}
    for model, rows in table.groupby("model", sort=False):
        try:
            found[str(model)] = headline(rows)
        except (ValueError, KeyError):  # nothing that can be compared
            continue
    return found


def _fails(known: Mapping[str, Path], records: list[Facts], models: list[Facts]) -> Facts:
    verdicts = _table(known, "randomisation_summary", "method|ssim")
    forget = [] if verdicts is None else list(verdicts.loc[verdicts["ssim"] == "fails", "method"])
    leaks = _table(known, "leaks", "what")
    return {
        "unfinished": [record["notebook"] for record in records if record.get("finished") is not True],
        "unskilled": [model["name"] for model in models if not model["worth"]],
        "forget": [METHODS[m].title if m in METHODS else m for m in forget],
        "of": 0 if verdicts is None else len(verdicts),
        "leaks": 0 if leaks is None else len(leaks),
    }
