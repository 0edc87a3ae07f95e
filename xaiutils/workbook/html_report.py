"""One HTML page that shows a run: figures, tables, parameters and versions. It opens offline, from any place."""

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from xaiutils.files import inside, write_text
from xaiutils.templates import render
from xaiutils.text import one_line
from xaiutils.workbook.saved_tables import read_saved_table

_ROWS_SHOWN = 60
_WIDTH_SHOWN, _BYTES_SHOWN = 1600, 300_000


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
    html = render(
        "report.html.j2",
        name=folder.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        parameters=_parameters(records),
        environment=records[-1]["environment"],
        sections=[_section(record, folder) for record in records],
        damaged=[path.name for path in files if found.get(path.name) is None],
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


def _section(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    notebook = f"notebooks/{record['notebook']}.ipynb"
    return {
        "title": record["notebook"],
        "link": quote(notebook) if (folder / notebook).exists() else "",
        "seconds": record["seconds"],
        "finished": record.get("finished") is True,
        "items": [shown for item in record["items"] if (shown := _item(item, folder)) is not None],
    }


def _item(item: dict[str, str], folder: Path) -> dict[str, Any] | None:
    path = inside(folder, item["file"])
    if path is not None and not path.is_file():
        return None
    shown: dict[str, Any] = {**item, "link": quote(item["file"])}
    if path is None:  # a record may be anybody's, and the page is sent to others
        return shown | {"kind": "error", "error": f"{item['file']} is not in the run's folder"}
    try:
        if item["kind"] == "figure":
            shown["mime"], data = for_screen(path)
            shown["data"] = base64.b64encode(data).decode("ascii")
        elif item["kind"] == "table":
            shown |= cells(read_saved_table(path), _ROWS_SHOWN)
        elif item["kind"] == "text":
            shown["text"] = path.read_text(encoding="utf-8")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return shown | {"kind": "error", "error": f"{item['file']} cannot be shown: {error}"}
    return shown


def cells(table: pd.DataFrame, most: int) -> dict[str, Any]:
    """A table for a page: ``columns``, (name, whether of numbers); ``values`` of the first ``most`` rows; ``rows``."""
    columns = [
        (one_line(name), pd.api.types.is_numeric_dtype(kind)) for name, kind in zip(table, table.dtypes, strict=True)
    ]
    values = [[in_words(cell) for cell in row] for row in table.head(most).itertuples(index=False, name=None)]
    return {"columns": columns, "values": values, "rows": len(table)}


def in_words(value: Any) -> str:
    """A cell as it is shown: numbers short, what is missing blank, text as it is on one line."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else one_line(value)


def for_screen(path: Path) -> tuple[str, bytes]:
    """MIME type and bytes of a figure as the page embeds it: the file itself, or a smaller JPEG of a large one."""
    data = path.read_bytes()
    if len(data) <= _BYTES_SHOWN and data.startswith(b"\x89PNG"):
        return "image/png", data
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    rgb.thumbnail((_WIDTH_SHOWN, 10 * _WIDTH_SHOWN))
    small = io.BytesIO()
    rgb.save(small, "jpeg", quality=88)
    return "image/jpeg", small.getvalue()
