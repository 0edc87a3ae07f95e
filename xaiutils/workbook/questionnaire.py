"""The questionnaire of a reader study: one HTML page that works offline, and a PDF on paper for each reader."""

import base64
import hashlib
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.readers.answers import CAUSABILITY
from xaiutils.evaluation.readers.design import ARMS, SHAMS
from xaiutils.files import csv_text, replace_file, write_text
from xaiutils.images import as_rgb
from xaiutils.plots.maps import display_range, overlay
from xaiutils.plots.style import MAP_COLOURS
from xaiutils.templates import render

CONSENT = (
    "You are asked to read images for a study of how maps of a computer's reasons change readers' answers. Taking part "
    "is voluntary, and you may stop at any time without giving reasons. Your answers are kept under the code of a "
    "reader, without your name, and leave this computer only as the file that you save and hand over. Nothing here is "
    "a diagnosis of a patient. Some maps may be wrong on purpose."
)
AGREEMENT = "The map marks what I would mark (1: not at all, 5: exactly)"
CONFIDENCE = "How sure are you? (0: a guess, 100: certain)"
_ON_A_PAGE = 2  # readings, on paper


def export_questionnaire(
    folder: str | Path,
    design: pd.DataFrame,
    ds: ImageDataset,
    predictions: Sequence[str],
    maps: Mapping[str, np.ndarray],
    signed: bool = False,
    findings: Sequence[str] = (),
    title: str = "Reading images",
    consent: str = CONSENT,
    washout_days: int = 14,
    papers: Sequence[str] = (),
) -> Path:
    """Write ``questionnaire.html`` and ``design.csv`` into a folder, and PDFs; returns the page's path.

    The page holds the readings of all readers, of whom each chooses their code, and no id, label or name of an arm,
    only codes and pictures made anew from pixels, without any file's header. It asks nothing of the network: its policy
    forbids that. The browser keeps what was answered and goes on from there; it saves JSON and CSV, which
    `xaiutils.evaluation.readers.answers.read_answers` reads. Regions are asked for where readers see the image alone,
    since a map would lead the hand. ``design.csv`` tells who sees what, is not for readers, and is read back by
    `xaiutils.evaluation.readers.design.read_design`.

    Args:
        folder: made if missing.
        design: of `xaiutils.evaluation.readers.design.reading_design`; its images are ids of ``ds``.
        ds: the images, of one class each.
        predictions: of each image, as readers see it, such as "malignant (83 %)".
        maps: float ``(n, height, width)`` of the images by kind, "model" and, with a sham arm, "random_weights".
        signed: whether 0 is the middle of the maps' colours.
        findings: which a reader may tick, such as those that the data set describes; empty: not asked.
        title: of the page.
        consent: without which nothing is asked.
        washout_days: between sessions, as readers are told.
        papers: readers for whom ``paper_<reader>.pdf`` is written too, with the same readings and codes.
    """
    folder = Path(folder)
    _check(design, ds, predictions, maps)
    if nobody := set(papers) - set(design["reader"]):
        raise ValueError(f"papers for {sorted(nobody)}, who read nothing; readers: {sorted(set(design['reader']))}.")
    place, pictures, trials = {one: k for k, one in enumerate(ds.ids)}, {}, []
    plain, drawn = as_rgb(ds.images), {}
    for row in design.itertuples(index=False):
        k = place[row.image]
        pictures[row.code] = plain[k]
        if row.map and (row.image, row.map) not in drawn:
            shown = maps["model" if row.map == SHAMS[0] else row.map][place[row.map_of]]
            limits = display_range(shown, signed)
            picture = overlay(ds.images[k], shown, signed, 0.8, limits, MAP_COLOURS[signed])
            name = hashlib.sha256(picture.tobytes() + row.code.encode()).hexdigest()[:12]
            drawn[row.image, row.map], pictures[name] = name, picture
        of_map, predicted = drawn.get((row.image, row.map), ""), predictions[k] if row.arm != ARMS[0] else ""
        trials.append((row.trial, row.reader, int(row.session), row.code, of_map, predicted, row.arm == ARMS[0]))
    names = ("trial", "reader", "session", "code", "map", "prediction", "region")
    study = {"study": design["study"].iloc[0], "classes": list(ds.class_names), "findings": list(findings)}
    study |= {"causability": CAUSABILITY, "washout": washout_days, "agreement": AGREEMENT, "confidence": CONFIDENCE}
    study["trials"] = [dict(zip(names, trial, strict=True)) for trial in trials]
    study["pictures"] = {name: _data_url(picture) for name, picture in pictures.items()}
    data = Markup(json.dumps(study).replace("<", "\\u003c"))  # no text can end the script
    write_text(folder / "questionnaire.html", render("questionnaire.html.j2", title=title, consent=consent, data=data))
    write_text(folder / "design.csv", csv_text(design))
    for reader in papers:
        own = [trial for trial in study["trials"] if trial["reader"] == reader]
        write = partial(_write_paper, trials=own, study=study, pictures=pictures, title=title, consent=consent)
        replace_file(folder / f"paper_{reader}.pdf", write)
    return folder / "questionnaire.html"


def _check(design: pd.DataFrame, ds: ImageDataset, predictions: Sequence[str], maps: Mapping[str, np.ndarray]) -> None:
    ds.check_single_label("a questionnaire")
    unknown = sorted(set(design["image"]) - set(ds.ids))
    needed = {"model" if kind == SHAMS[0] else kind for kind in design["map"] if kind}
    shapes = {kind: np.shape(values) for kind, values in maps.items()}
    if unknown or not needed <= set(maps) or {*shapes.values()} - {ds.pixels.shape[:3]} or len(predictions) != len(ds):
        raise ValueError(
            f"the questionnaire needs maps {sorted(needed)} of shape {ds.pixels.shape[:3]} and {len(ds)} predictions; "
            f"there are {shapes} and {len(predictions)}. Images of the design that the data set has not: {unknown[:5]}."
        )


def _data_url(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _write_paper(
    path: Path,
    trials: Sequence[Mapping[str, Any]],
    study: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    title: str,
    consent: str,
) -> None:
    """A PDF: consent, two readings a page, and the scale of causability; A4, to be filled in by hand."""
    box = "\u2610 "
    facts = {"Title": title, "Creator": None, "Producer": None, "CreationDate": None}
    with rc_context({"pdf.fonttype": 42}), PdfPages(path, metadata=facts) as pages:
        first = f"{title}\n\n" + textwrap.fill(consent, 85) + f"\n\n{box}I agree\n\nStudy {study['study']}"
        _text_page(pages, f"{first}, reader {trials[0]['reader'] if trials else ''}")
        for start in range(0, len(trials), _ON_A_PAGE):
            figure = Figure(figsize=(8.27, 11.69))
            rows: Any = figure.subfigures(_ON_A_PAGE, 1)  # an array, of more than one
            for part, trial in zip(rows, trials[start : start + _ON_A_PAGE], strict=False):
                images = [pictures[name] for name in (trial["code"], trial["map"]) if name]
                grid = part.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.94, "bottom": 0.42, "top": 0.93})
                for axes in grid:
                    axes.set_axis_off()
                for axes, image in zip(grid, images, strict=False):
                    axes.imshow(np.rint(image).astype(np.uint8))
                lines = [f"Reading {trial['trial']}, session {trial['session']}"]
                lines += [f"The computer says: {trial['prediction']}"] if trial["prediction"] else []
                lines += ["Your diagnosis:  " + "   ".join(box + name for name in study["classes"])]
                lines += [f"{CONFIDENCE}: ______"]
                lines += [f"{AGREEMENT}:  " + "   ".join(f"{box}{k}" for k in range(1, 6))] if trial["map"] else []
                lines += [f"Encircle on the image what speaks for your diagnosis, or {box}nothing"] * trial["region"]
                lines += ["You see:  " + "   ".join(box + name for name in study["findings"])] * bool(study["findings"])
                part.text(0.06, 0.38, "\n\n".join(lines), va="top", fontsize=10, family="DejaVu Sans")
            pages.savefig(figure)
        scale = [f"{textwrap.fill(item, 85)}\n" + "   ".join(f"{box}{k}" for k in range(1, 6)) for item in CAUSABILITY]
        _text_page(pages, "1: strongly disagree, 5: strongly agree\n\n" + "\n\n".join(scale))


def _text_page(pages: PdfPages, text: str) -> None:
    figure = Figure(figsize=(8.27, 11.69))
    figure.text(0.08, 0.93, text, va="top", fontsize=11, family="DejaVu Sans")
    pages.savefig(figure)
