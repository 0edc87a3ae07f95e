"""One HTML page that shows a run: figures, tables, parameters and versions. It opens offline, from any place."""

import base64
import io
import json
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from xaiutils.files import write_text

_ROWS_SHOWN = 60
_WIDTH_SHOWN, _BYTES_SHOWN = 1600, 300_000


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder from the records of its notebooks; returns its path.

    Raises FileNotFoundError when the folder holds no record.
    """
    folder = Path(folder)
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((folder / "record").glob("*.json"))]
    if not records:
        raise FileNotFoundError(f"{folder} holds no record of a notebook; there is nothing to report.")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("xaiutils").joinpath("report.html.j2").read_text("utf-8"))
    html = template.render(
        name=folder.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        parameters=_parameters(records),
        environment=records[-1]["environment"],
        sections=[_section(record, folder) for record in records],
    )
    return write_text(folder / "report.html", html)


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
        "link": notebook if (folder / notebook).exists() else "",
        "seconds": record["seconds"],
        "finished": record["finished"],
        "items": [shown for item in record["items"] if (shown := _item(item, folder)) is not None],
    }


def _item(item: dict[str, str], folder: Path) -> dict[str, Any] | None:
    path = folder / item["file"]
    if not path.exists():
        return None
    shown: dict[str, Any] = {**item}
    if item["kind"] == "figure":
        shown["mime"], data = for_screen(path)
        shown["data"] = base64.b64encode(data).decode("ascii")
    elif item["kind"] == "table":
        table = pd.read_csv(path)
        shown["rows"] = len(table)
        shown["html"] = table.head(_ROWS_SHOWN).to_html(
            index=False, border=0, float_format="%.4g", na_rep="", escape=True
        )
    elif item["kind"] == "text":
        shown["text"] = path.read_text(encoding="utf-8")
    return shown


def for_screen(path: Path) -> tuple[str, bytes]:
    """MIME type and bytes of a figure as the page embeds it: the file itself, or a smaller JPEG of a large one."""
    data = path.read_bytes()
    if len(data) <= _BYTES_SHOWN:
        return "image/png", data
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    rgb.thumbnail((_WIDTH_SHOWN, 10 * _WIDTH_SHOWN))
    small = io.BytesIO()
    rgb.save(small, "jpeg", quality=88)
    return "image/jpeg", small.getvalue()
