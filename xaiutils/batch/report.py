"""The report of a whole batch: ``report.ipynb`` shows it, executed by papermill and turned into pages by nbconvert.

Here are the tables and figures that its cells ask for, and `write_report`, which makes the pages.
"""

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from xaiutils.attribution import METHODS, resolve
from xaiutils.batch.plan import PACKAGE, Job, Outcome, label
from xaiutils.evaluation import METRICS
from xaiutils.evaluation.metrics.separation import fails_on, with_warning
from xaiutils.evaluation.ranking import mean_ranks, rank
from xaiutils.evaluation.score_tables import by_reading, is_control, of_methods, without_random_weights
from xaiutils.files import csv_text, inside, replace_file, write_text
from xaiutils.plots import attribution_grid, rank_heatmap
from xaiutils.statistics.summaries import as_text
from xaiutils.templates import markdown_table
from xaiutils.text import html, markdown
from xaiutils.transforms import TRANSFORMS
from xaiutils.workbook import read_maps
from xaiutils.workbook.execute import execute
from xaiutils.workbook.html_report import in_words
from xaiutils.workbook.page_pictures import as_url, for_screen
from xaiutils.workbook.saved_tables import read_saved_table

NOTEBOOK = Path(__file__).with_name("report.ipynb")
FILTERED = ("dataset", "model", "method")  # by the boxes at the top of the page
_KEYS = ["dataset", "model", "recipe", "seed"]
# The tables that are read: columns by which one is of that kind, and columns that must then hold numbers.
_TABLES = {
    "classification.csv": ({"model", "n", "accuracy"}, ("n", "accuracy")),
    "metrics.csv": ({"model", "method", "metric"}, ("value",)),
    "metrics_summary.csv": ({"model", "method", "metric"}, ("mean", "low", "high", "n")),
    "grid_predictions.csv": ({"transform", "p of the original's class"}, ("p of the original's class",)),
}
_ROWS_SHOWN = 4000  # of a table; all are in report/
_FIGURES_EMBEDDED = 60
_DPI = 90
_ENDS = ("", " low", " high")  # a score's column, and those of its interval


def write_report(folder: Path, results: Sequence[Outcome]) -> Path:
    """Write ``report.html``, ``report.md`` and ``report/`` (tables as CSV, figures as PNG); returns the page's path.

    What has not been done is left out of the tables and listed. Raises NotebookError where the notebook fails.
    """
    from nbconvert import HTMLExporter, MarkdownExporter
    from traitlets.config import Config

    kept = ("seconds", "peak_mb")
    facts = [asdict(r) | {"marker": {name: r.marker.get(name) for name in kept}} for r in results]
    for fact, r in zip(facts, results, strict=True):
        fact["marker"]["bytes"] = sum(size for size, _ in r.marker.get("files", {}).values())
    write_text(folder / "report" / "jobs.json", json.dumps(facts))
    environment = {"PYTHONPATH": str(PACKAGE.parent), "CUDA_VISIBLE_DEVICES": "-1", "XAI_PROGRESS": "off"}
    executed = execute(NOTEBOOK, {"folder": str(folder)}, folder / "report", environment)
    notebook = nbformat.read(executed, as_version=4)
    hidden: dict[str, Any] = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    offline = dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"), "")
    title = {"metadata": {"name": f"{folder.name} - XAI Workbook"}}
    page, _ = HTMLExporter(**hidden, **offline).from_notebook_node(notebook, resources=title)
    config = Config({"NbConvertBase": {"display_data_priority": ["text/markdown", "text/plain"]}})
    text, _ = MarkdownExporter(config=config, **hidden).from_notebook_node(notebook)
    write_text(folder / "report.md", text.strip() + "\n")
    return write_text(folder / "report.html", page)


# What is shown --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a cell of the report shows: for the page and for Markdown."""

    html: str
    markdown: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/markdown": self.markdown}


def show_summary(batch: "Batch") -> Shown:
    """What the batch is and how much of it is done; on the page also the boxes that filter it."""
    hours = sum(r.marker["seconds"] for r in batch.done) / 3600
    size = sum(r.marker["bytes"] for r in batch.done) / 1e6
    line = f"{len(batch.done)} of {len(batch.results)} jobs done, {hours:.2f} hours of work, {size:,.0f} MB."
    points, boxes = [r.job.point for r in batch.results], ""
    for axis in FILTERED:
        names = dict.fromkeys(html(point[axis]) for point in points if axis in point)
        options = "".join(f"<option>{name}</option>" for name in names)
        boxes += f'<label>{axis} <select data-axis="{axis}"><option value="">all</option>{options}</select></label>'
    filters = resources.files("xaiutils.batch").joinpath("report_filters.html").read_text("utf-8")
    page = f"<h1>{html(batch.folder.name)}</h1><p>{line}</p><div class='filters'>{boxes}</div>{filters}"
    return Shown(page, f"# {markdown(batch.folder.name)}\n\n{line}")


def show_table(table: pd.DataFrame, empty: str = "None.", links: str = "", note: str = "") -> Shown:
    """A table with its numbers shortened and its text escaped. ``links``: a column of paths."""
    if table.empty:
        return Shown(f"<p>{html(empty)}</p>", markdown(empty))
    if len(table) > _ROWS_SHOWN:
        note += f" The first {_ROWS_SHOWN} of {len(table)} rows; all are in the folder report."
    text = table.head(_ROWS_SHOWN).map(in_words)
    page = text.map(html).rename(columns=html)
    if links:
        targets = [quote(path) for path in text[links]]
        page[links] = [f'<a href="{target}">open</a>' if target else "" for target in targets]
        text[links] = [f"[open]({target})" if target else "" for target in targets]
    with pd.option_context("display.max_colwidth", None):
        rows = page.to_html(index=False, escape=False, border=0, classes="filtered")
    said = markdown_table(text, already_markdown=[links])
    return Shown(f'<p>{html(note)}</p><div class="scroll">{rows}</div>', f"{markdown(note)}\n\n{said}")


@dataclass(frozen=True)
class FigureFile:
    """A figure of the report: its file in the batch's folder, and what it belongs to."""

    file: str
    caption: str
    point: Mapping[str, Any]
    methods: tuple[str, ...] = ()


def show_figures(batch: "Batch", figures: Sequence[FigureFile]) -> Shown:
    """Figures; the first ones are inside the page, so that it can be sent alone, the others are linked."""
    pages, lines = [], []
    for number, figure in enumerate(figures):
        link = source = quote(figure.file)
        if number < _FIGURES_EMBEDDED:
            source = as_url(for_screen(batch.folder / figure.file))
        values = {**figure.point, "method": " ".join(figure.methods)}
        belongs = " ".join(f'data-{axis}="{html(values.get(axis, ""))}"' for axis in FILTERED)
        caption = html(figure.caption)
        image = f'<a href="{link}"><img loading="lazy" alt="{caption}" src="{source}"></a>'
        pages.append(f"<figure {belongs}>{image}<figcaption>{caption}</figcaption></figure>")
        lines.append(f"![{markdown(figure.caption)}]({link})")
    if not pages:
        return Shown("<p>None.</p>", "None.")
    return Shown(f'<div class="figures">{"".join(pages)}</div>', "\n\n".join(lines))


# Tables ---------------------------------------------------------------------------------------------------------------


class Batch:
    """The jobs of a batch and their files. ``problems``: files of finished jobs that could not be read, and why."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        facts = json.loads((self.folder / "report" / "jobs.json").read_text(encoding="utf-8"))
        self.results = [Outcome(**{**fact, "job": Job(**fact["job"])}) for fact in facts]
        self.done = [r for r in self.results if r.status == "done"]
        self.problems: dict[str, str] = {}

    def table(self, job: Job, name: str) -> pd.DataFrame | None:
        """A table of a job; None where there is none, where it is a link out of the folder, or damaged (which goes to
        the problems)."""
        file = f"{job.name}/tables/{name}"
        path = inside(self.folder, file)
        if path is None or not path.is_file():
            return None
        columns, numbers = _TABLES[name]
        try:
            table = read_saved_table(path)
            wrong = [c for c in numbers if c not in table or not is_numeric_dtype(table[c])]
            if wrong and columns <= set(table):
                raise ValueError(f"no numbers in {', '.join(wrong)}")
        except (OSError, ValueError) as error:
            self.problems[file] = str(error)
            return None
        return table if columns <= set(table) else None

    def save(self, **tables: pd.DataFrame) -> None:
        """Write tables into ``report/``, under their names."""
        for name, table in tables.items():
            write_text(self.folder / "report" / f"{name}.csv", csv_text(table))


def not_done(batch: Batch) -> pd.DataFrame:
    """Jobs that failed or did not run, and files of others that could not be read."""
    rows = [
        {"job": r.job.name, "status": r.status, "error": r.error, "log": r.log}
        for r in batch.results
        if r.status != "done"
    ]
    advice = "remove the job's folder, and it is done again"
    for file, error in batch.problems.items():
        name = "/".join(file.split("/")[:2])
        rows.append({"job": name, "status": "damaged", "error": f"{file} is damaged: {error}; {advice}", "log": ""})
    return pd.DataFrame(rows)


def jobs_table(batch: Batch) -> pd.DataFrame:
    """Every job with its status, seconds, peak memory and executed notebook."""
    rows = []
    for r in batch.results:
        notebook = Path(r.job.notebook).stem
        row = {"notebook": notebook, **{axis: r.job.point.get(axis, "") for axis in (*_KEYS, "method")}}
        row |= {"status": r.status, "seconds": r.marker.get("seconds"), "peak MB": r.marker.get("peak_mb")}
        link = f"{r.job.name}/notebooks/{notebook}.ipynb" if r.status == "done" else ""
        rows.append({**row, "executed": link, "job": r.job.name})
    return pd.DataFrame(rows)


def models_table(batch: Batch) -> pd.DataFrame:
    """Accuracy and AUC of the test split with their intervals, and the accuracy of always naming one class."""
    rows = []
    for r in batch.done:
        table = batch.table(r.job, "classification.csv") if r.job.kind == "train" else None
        if table is None:
            continue
        always = table[table["model"].astype(str).str.startswith("always")]
        names = [model if isinstance(model, str) else model["name"] for model in r.job.parameters.get("models", [])]
        for row in table[table["model"].isin(names)].to_dict("records"):
            facts = {axis: r.job.point[axis] for axis in _KEYS} | {"by": row.get("level", "image"), "n": row["n"]}
            facts |= {f"{score}{end}": row.get(f"{score}{end}") for score in ("accuracy", "AUC") for end in _ENDS}
            same = always[always["level"] == row["level"]] if "level" in always else always
            rows.append({**facts, "accuracy of one class": same["accuracy"].max() if len(same) else np.nan})
    return pd.DataFrame(rows)


def models_as_text(models: pd.DataFrame) -> pd.DataFrame:
    """Each score with its interval in one column."""
    text = models.copy()
    for score in [name for name in ("accuracy", "AUC") if name in text]:
        low, high = (text.pop(f"{score}{end}") for end in _ENDS[1:])
        values = zip(text[score], low, high, strict=True)
        text[score] = [f"{v:.3f} [{a:.3f}, {b:.3f}]" if pd.notna(v) else "" for v, a, b in values]
    return text


def collect(batch: Batch, name: str) -> pd.DataFrame:
    """A table of all cells below each other, with their data set, recipe and seed. Controls, which every cell measures
    on the same images, are taken once."""
    tables = []
    for r in batch.done:
        table = batch.table(r.job, name) if r.job.kind == "cell" else None
        if table is not None:
            point = {axis: r.job.point[axis] for axis in _KEYS if axis in r.job.point}
            tables.append(table.assign(notebook=Path(r.job.notebook).stem, **point))
    if not tables:
        return pd.DataFrame(columns=[*_KEYS, "method", "metric"])
    found = pd.concat(tables, ignore_index=True)
    unique = [c for c in ("notebook", *_KEYS, "method", "weights", "metric", "reading", "image_id") if c in found]
    found = found.drop_duplicates(unique, ignore_index=True)
    first = [c for c in (*_KEYS, "method", "metric", "reading") if c in found]
    return found[[*first, *(c for c in found if c not in first)]]


def compared(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows that are compared with each other: of one data set, model, recipe, seed, notebook and reading."""
    keys = [c for c in (*_KEYS, "notebook") if c in table]
    if not len(table) or not keys:
        return
    for values, group in table.groupby(keys, sort=False):
        key = {k: v if k != "seed" else int(v) for k, v in zip(keys, values, strict=True)}
        for reading, part in by_reading(group):
            yield ({**key, "reading": reading} if reading else key), part


def best_methods(scores: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The best method by each metric, with its interval, and those that Nemenyi's test does not distinguish from the
    one that is first by mean rank. Controls and chance do not compete. ``warning``: of metrics that do not separate.

    ``scores``: means by method and metric; ``images``: values of each image, from which the ranks come.
    """
    rows, measured = [], {json.dumps(key): part for key, part in compared(images)}
    for key, part in compared(scores):
        known = of_methods(part)[lambda t: t["mean"].notna()]
        for metric, table in known.groupby("metric", sort=False):
            if metric not in METRICS or len(table) < 2:
                continue
            ascending = not METRICS[metric].higher_is_better
            top = table.sort_values("mean", ascending=ascending, kind="stable").iloc[0]
            row = {**{k: v for k, v in key.items() if k != "notebook"}, "metric": metric, "best": top["method"]}
            row |= {name: top[name] for name in ("mean", "low", "high", "n")}
            row |= {"warning": "does not separate" if fails_on(metric) else "", "not distinguished from the first": ""}
            per_image = measured.get(json.dumps(key), pd.DataFrame(columns=["method"]))
            try:
                found = rank(of_methods(per_image)[lambda t, m=table["method"]: t["method"].isin(m)], metric)
            except (ValueError, KeyError):  # fewer than two methods or images
                pass
            else:
                close = found.ranks <= found.ranks.iloc[0] + found.critical
                names = found.ranks.index if found.p >= found.alpha else found.ranks.index[close]
                row["not distinguished from the first"] = ", ".join(n for n in names if n != top["method"])
            rows.append(row)
    return pd.DataFrame(rows)


def scores_as_text(scores: pd.DataFrame) -> pd.DataFrame:
    """Means with intervals as text, a column for each metric and reading."""
    if not len(scores):
        return scores
    keys = [c for c in (*_KEYS, "method", "weights") if c in scores]
    if "reading" not in scores:
        return as_text(scores, keys, "metric").rename(columns=lambda metric: with_warning(metric, metric)).reset_index()
    wide = as_text(scores, keys, ["metric", "reading"])
    wide.columns = pd.Index([f"{with_warning(metric, metric)}, {reading}" for metric, reading in wide.columns])
    return wide.reset_index()


# Figures --------------------------------------------------------------------------------------------------------------


def rank_figures(batch: Batch, images: pd.DataFrame) -> list[FigureFile]:
    """Mean ranks of the methods by each metric, a figure for each group of `compared` rows."""
    names = {name for r in batch.results for name in r.job.parameters.get("methods", ()) if name in METHODS}
    titles, shown = {name: METHODS[name].title for name in names}, []
    for key, table in compared(images):
        ranks = mean_ranks(without_random_weights(table))
        if len(ranks) > 1 and len(ranks.columns):
            order = ranks.mean(axis=1).sort_values(kind="stable").index
            figure = rank_heatmap(ranks.loc[order], titles, [name for name in order if is_control(name)])
            caption = f"Mean ranks over images, 1 is best: {_in_words(key)}. Controls in grey letters."
            shown.append(_save(batch, figure, f"ranks_{label(key)}", caption, key, ranks.index))
    return shown


def grid_figures(batch: Batch) -> list[FigureFile]:
    """The thesis' grids: of each data set and model one, whose columns are the methods of all cells that stored their
    maps with the images."""
    groups: dict[str, list[Job]] = {}
    for r in batch.done:
        if r.job.kind == "cell":
            key = {axis: r.job.point[axis] for axis in _KEYS if axis in r.job.point}
            groups.setdefault(json.dumps(key), []).append(r.job)
    shown = []
    for text, members in groups.items():
        key = json.loads(text)
        rows: list[str] = []
        images, maps, signed, columns = None, {}, {}, {}
        for job in members:
            stored = _stored_grid(batch, job)
            if "images" not in stored or (images is not None and stored["images"].shape != images.shape):
                continue
            images = stored["images"] if images is None else images
            rows = rows or row_titles(batch, job, stored["ids"])
            for name in [name for name in stored if name not in ("ids", "images")]:
                maps[name], signed[name], columns[name] = stored[name], *_of_method(job, name)
        if images is None:
            continue
        figure = attribution_grid(images, maps, signed, rows, columns, title=_in_words(key))
        caption = f"{_in_words(key)}: {len(maps)} methods."
        shown.append(_save(batch, figure, f"grid_{label(key)}", caption, key, maps))
    return shown


def row_titles(batch: Batch, job: Job, ids: Sequence[str] | np.ndarray) -> list[str]:
    """Titles of a grid's rows, the variants ``ids`` of an image, with the probability of the original's class."""
    table = batch.table(job, "grid_predictions.csv")
    known = {} if table is None else dict(zip(table["transform"], table["p of the original's class"], strict=True))
    titles = {name: entry.title for name, entry in TRANSFORMS.items()}
    return [titles.get(i, i) + (f"\np = {known[i]:.2f}" if i in known else "") for i in map(str, ids)]


def _stored_grid(batch: Batch, job: Job) -> dict[str, np.ndarray]:
    """The maps of a job's grid; empty where there are none, where they are damaged, or a link out of the folder."""
    for found in sorted((batch.folder / job.name).glob("maps/grid_*.npz"))[:1]:
        file = found.relative_to(batch.folder)
        path = inside(batch.folder, file)
        try:
            return read_maps(path) if path is not None else {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            batch.problems[file.as_posix()] = str(error)
    return {}


def _of_method(job: Job, name: str) -> tuple[bool, str]:
    """Whether the maps of a method of a job have a sign, and its title; a label of its own is its own title."""
    given = {k: v for k, v in job.parameters.get("method_parameters", {}).items() if k == name}
    method, _ = resolve([name], given)[name]
    return method.is_signed(given.get(name, {})), method.title if name == method.name else name


def _save(
    batch: Batch, figure: Figure, name: str, caption: str, key: Mapping[str, Any], methods: Collection[str]
) -> FigureFile:
    path = batch.folder / "report" / f"{name}.png"
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, bbox_inches="tight"))
    return FigureFile(f"report/{path.name}", caption, key, tuple(methods))


def _in_words(key: Mapping[str, Any]) -> str:
    return ", ".join(f"seed {v}" if axis == "seed" else str(v) for axis, v in key.items())
