"""One HTML page that shows a run: figures, tables, parameters and versions. It opens offline, from any place."""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mistune
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from xaiutils.files import inside, write_text
from xaiutils.templates import render
from xaiutils.text import one_line
from xaiutils.workbook.first_screen import first_screen, sources
from xaiutils.workbook.page_pictures import PagePicture, as_url, for_screen, read_pictures, within_budget
from xaiutils.workbook.saved_tables import read_saved_table

_ROWS_SHOWN = 60
_THUMBNAIL = 720
_COLUMNS_PRINTED, _ROWS_PRINTED = 20, 16  # a wider table is not legible on A4
_Pictures = Mapping[str, Future[PagePicture]]  # by file


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder from the records of its notebooks; returns its path.

    Raises FileNotFoundError when the folder holds no record.
    """
    folder = Path(folder)
    files = sorted((folder / "record").glob("*.json"))
    found = {path.name: _read_record(path) for path in files if inside(folder, path.relative_to(folder))}
    records = [record for record in found.values() if record is not None]
    if not records:
        raise FileNotFoundError(f"{folder} holds no record of a notebook that can be read; there is nothing to report.")
    figures = {item["file"] for record in records for item in record["items"] if item["kind"] == "figure"}
    paths = {file: inside(folder, file) for file in sorted(figures)}
    pictures = read_pictures({file: path for file, path in paths.items() if path is not None and path.is_file()})
    first = first_screen(folder, records)  # while threads read the pictures
    sections = [_section(record, folder, number, pictures) for number, record in enumerate(records, start=1)]
    items = [item for section in sections for item in section["items"]]
    _put_pictures(items, pictures)
    shown = {item["file"]: item for item in reversed(items) if "label" in item}  # where it is shown first
    cited = sources(shown)
    thumbnail = _thumbnail(items, folder)
    printed = {file for files in cited.values() for file in files}
    _choose_for_paper(sections, printed | ({thumbnail["file"]} if thumbnail else set()))
    html = render(
        "report.html.j2",
        name=folder.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        parameters=_parameters(records),
        environment=records[-1]["environment"],
        sections=sections,
        damaged=[path.name for path in files if found.get(path.name) is None],
        first=first,
        cited={claim: [shown[file] for file in files] for claim, files in cited.items()},
        thumbnail=thumbnail,
    )
    return write_text(folder / "report.html", html)


_RECORD = {"notebook": str, "parameters": dict, "seconds": int | float, "items": list, "environment": dict}


def _read_record(path: Path) -> dict[str, Any] | None:
    """A notebook's record; None where it cannot be read, or is not as `xaiutils.workbook` writes it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or any(not isinstance(record.get(k), kind) for k, kind in _RECORD.items()):
        return None
    items = record["items"]
    texts = all(
        isinstance(i, dict) and all(isinstance(i.get(k), str) for k in ("kind", "file", "caption")) for i in items
    )
    return record if texts and isinstance(record["environment"].get("versions", {}), dict) else None


def _parameters(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Each parameter's value; where notebooks differ, their values with the notebooks' numbers."""
    shown: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for record in records for name in record["parameters"]):
        values: dict[str, list[str]] = {}
        for record in records:
            if name in record["parameters"] and name != "runs_dir":
                value = record["parameters"][name]
                text = value if isinstance(value, str) else json.dumps(value)
                values.setdefault(text, []).append(record["notebook"][:2])
        shown[name] = [f"{', '.join(who)}: {v}" for v, who in values.items()] if len(values) > 1 else list(values)
    return {name: values for name, values in shown.items() if values}


def _section(record: dict[str, Any], folder: Path, number: int, pictures: _Pictures) -> dict[str, Any]:
    """A chapter: what a notebook saved; its figures and tables bear the notebook's number."""
    name = record["notebook"]
    digits, title = (name[:2], name[3:]) if name[:2].isdecimal() else ("", name)  # of a study: none
    chapter = int(digits) if digits else number
    notebook = f"notebooks/{name}.ipynb"
    items = [shown for item in record["items"] if (shown := _item(item, folder, pictures)) is not None]
    counts = {"figure": 0, "table": 0}
    for place, item in enumerate(items):
        item["id"] = f"c{number}-{place}"
        if item["kind"] in counts:
            counts[item["kind"]] += 1
            item["label"] = f"{item['kind'].capitalize()} {chapter}.{counts[item['kind']]}"
    return {
        "id": f"c{number}",
        "title": f"{digits} {title.replace('_', ' ').capitalize()}".strip(),
        "link": quote(notebook) if (folder / notebook).exists() else "",
        "seconds": record["seconds"],
        "finished": record.get("finished") is True,
        "items": items,
    }


def _choose_for_paper(sections: list[dict[str, Any]], cited: set[str]) -> None:
    """Mark as ``key`` what is printed of a folded chapter: what the first screen cites and is small enough, else the
    chapter's first figure."""
    for section in sections:
        items = [item for item in section["items"] if "label" in item]
        keys = {
            item["id"]
            for item in items
            if item["file"] in cited
            and len(item.get("columns", ())) <= _COLUMNS_PRINTED
            and item.get("rows", 0) <= _ROWS_PRINTED
        }
        keys = keys or {item["id"] for item in [i for i in items if i["kind"] == "figure"][:1]}
        for item in items:
            item["key"] = item["id"] in keys


def _item(item: dict[str, str], folder: Path, pictures: _Pictures) -> dict[str, Any] | None:
    path = inside(folder, item["file"])
    if path is not None and not path.is_file():
        return None
    shown: dict[str, Any] = {**item, "link": quote(item["file"])}
    if path is None:  # a record may be anybody's, and the page is sent to others
        return shown | {"kind": "error", "error": f"{item['file']} is not in the run's folder"}
    try:
        if item["kind"] == "figure":
            picture = pictures[item["file"]].result()
            shown |= {"width": picture.width, "height": picture.height}
            pdf = Path(item["file"]).with_suffix(".pdf")
            shown["pdf"] = quote(pdf.as_posix()) if path.with_suffix(".pdf").is_file() else ""
        elif item["kind"] == "table":
            shown |= _cells(read_saved_table(path))
        elif item["kind"] == "text":
            shown["html"] = Markup(_rendered(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return shown | {"kind": "error", "error": f"{item['file']} cannot be shown: {error}"}
    return shown


class _Safe(mistune.HTMLRenderer):
    """Markdown without HTML of its own and without pictures, which would be fetched; headings begin at the third."""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return super().heading(text, min(level + 2, 6))

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text

    def table(self, text: str) -> str:
        return f'<div class="scroll" tabindex="0"><table>{text}</table></div>'


_rendered: Any = mistune.create_markdown(renderer=_Safe(), plugins=["table"])


def _put_pictures(items: list[dict[str, Any]], pictures: _Pictures) -> None:
    """Put into each figure its picture, each picture once."""
    first: dict[bytes, dict[str, Any]] = {}
    for item in items:
        if item["kind"] == "figure":
            digest = pictures[item["file"]].result().digest
            item["same"], item["data"] = first.get(digest), ""
            first.setdefault(digest, item)
    data = within_budget({item["file"]: pictures[item["file"]].result() for item in first.values()})
    for item in first.values():
        item["data"] = as_url(data[item["file"]])


def _thumbnail(items: list[dict[str, Any]], folder: Path) -> dict[str, Any] | None:
    """The first grid of maps, small."""
    figures = [item for item in items if item["kind"] == "figure"]
    chosen = next((item for item in figures if Path(item["file"]).name.startswith("grid_")), None)
    if chosen is None:
        return None
    return chosen | {"data": as_url(for_screen(folder / chosen["file"], _THUMBNAIL))}


def _cells(table: pd.DataFrame) -> dict[str, Any]:
    """A table for the page: ``columns``, (name, whether of numbers); ``values`` of the first rows; ``rows``, their
    number. A value and the ends of its interval are one column."""
    columns, texts, place = [], [], 0
    while place < table.shape[1]:
        name, shown = str(table.columns[place]), table.iloc[:_ROWS_SHOWN, place : place + 3]
        number = [pd.api.types.is_numeric_dtype(kind) for kind in shown.dtypes]
        low, high = [str(end).removeprefix(name).lstrip(" _") for end in shown.columns[1:]] + [""] * (3 - len(number))
        joined = all(number) and (low, high) == ("low", "high")
        columns.append((one_line(name) + " [low, high]" * joined, number[0]))
        rows = shown.itertuples(index=False, name=None)
        texts.append([_with_ends(*row) if joined else in_words(row[0]) for row in rows])
        place += 3 if joined else 1
    return {"columns": columns, "values": list(zip(*texts, strict=True)), "rows": len(table)}


def _with_ends(value: float, low: float, high: float) -> str:
    known = np.isfinite(low) and np.isfinite(high)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]" if known else in_words(float(value))


def in_words(value: Any) -> str:
    """A cell as it is shown: numbers short, what is missing blank, text as it is on one line."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else one_line(value)
