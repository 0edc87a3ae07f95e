"""The report of a whole matrix: one HTML page that opens offline, one Markdown file, and the tables behind them."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.batch.outcome import Outcome
from xaiutils.batch.plan import Job
from xaiutils.files import inside, replace_file, write_text
from xaiutils.text import markdown
from xaiutils.workbook.html_report import cells, for_screen, in_words
from xaiutils.workbook.saved_tables import read_saved_table

_KEYS = ["dataset", "model", "recipe", "seed"]
_ROWS_SHOWN = 4000  # of the scores; all are in the table
_FIGURES_SHOWN = 60  # in the page; all are in the folder
_DPI = 90


@dataclass(frozen=True)
class Shown:
    """A figure of the report: its file in the folder ``report``, and what it belongs to."""

    file: str
    caption: str
    point: Mapping[str, Any]
    methods: tuple[str, ...] = ()


def write_report(folder: Path, plan: Sequence[Job], results: Sequence[Outcome], pictures: bool = True) -> Path:
    """Write ``report.html``, ``report.md`` and ``report/`` (tables as CSV, figures as PNG); returns the page's path.

    What has not been done is left out of the tables and listed. Without ``pictures`` no image of the data is shown.
    """
    from xaiutils.evaluation.ranking import mean_ranks
    from xaiutils.evaluation.score_tables import is_control, without_random_weights
    from xaiutils.plots import rank_heatmap

    done = [r for r in results if r.status == "done"]
    jobs = _jobs(results)
    models = _models(folder, done)
    scores = _collect(folder, done, "metrics_summary.csv")
    images = _collect(folder, done, "metrics.csv")
    best = _best(scores, images)
    figures = []
    titles = _titles(plan)
    for key, table in _parts(images):
        ranks = mean_ranks(without_random_weights(table))
        if len(ranks) > 1 and len(ranks.columns):
            order = ranks.mean(axis=1).sort_values(kind="stable").index
            figure = rank_heatmap(ranks.loc[order], titles, [name for name in order if is_control(name)])
            caption = f"Mean ranks over images, 1 is best: {_name(key)}. Controls in grey letters."
            figures.append(_save(folder, figure, f"ranks_{_file(key)}", caption, key, ranks.index))
    grids = _grids(folder, done) if pictures else []
    for name, table in (("cells", jobs), ("models", models), ("scores", scores), ("best", best)):
        replace_file(folder / "report" / f"{name}.csv", lambda path, t=table: t.to_csv(path, index=False))
    missing = [r for r in results if r.status != "done"]
    facts = {
        "name": folder.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "counts": f"{len(done)} of {len(results)} jobs done",
        "missing": missing,
        "options": {
            axis: list(dict.fromkeys(str(r.job.point[axis]) for r in results if axis in r.job.point))
            for axis in ("dataset", "model", "method")
        },
        "hours": sum(r.marker["seconds"] for r in done) / 3600,
        "megabytes": sum(size for r in done for size, _ in r.marker["files"].values()) / 1e6,
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("xaiutils.batch").joinpath("batch.html.j2").read_text("utf-8"))
    page = template.render(
        **facts,
        models=_rows(_models_as_text(models)),
        best=_rows(best),
        scores=_rows(_as_text(scores).head(_ROWS_SHOWN)),
        n_scores=len(_as_text(scores)),
        cells=_rows(jobs.drop(columns=["job"], errors="ignore")),
        ranks=_embedded(folder, figures),
        grids=_embedded(folder, grids),
    )
    text = _markdown(facts, _models_as_text(models), best, _as_text(scores), jobs, [*figures, *grids])
    write_text(folder / "report.md", text)
    return write_text(folder / "report.html", page)


def _table_of(folder: Path, r: Outcome, name: str) -> pd.DataFrame | None:
    """A table of a job; None where there is none, or where it is a link out of the batch's folder."""
    path = inside(folder, f"{r.job.name}/tables/{name}")
    return read_saved_table(path) if path is not None and path.is_file() else None


# Tables ---------------------------------------------------------------------------------------------------------------


def _jobs(results: Sequence[Outcome]) -> pd.DataFrame:
    rows = []
    for r in results:
        notebook = Path(r.job.notebook).stem
        link = f"{r.job.name}/notebooks/{notebook}.ipynb" if r.status == "done" else ""
        row = {"notebook": notebook, **{axis: r.job.point.get(axis, "") for axis in (*_KEYS, "method")}}
        row |= {"status": r.status, "seconds": r.marker.get("seconds"), "peak MB": r.marker.get("peak_mb")}
        rows.append({**row, "executed": link, "job": r.job.name})
    return pd.DataFrame(rows)


def _models(folder: Path, done: Sequence[Outcome]) -> pd.DataFrame:
    """Accuracy and AUC of the test split with their intervals, and the accuracy of always naming one class."""
    rows = []
    for r in done:
        table = _table_of(folder, r, "classification.csv") if r.job.kind == "train" else None
        if table is None or not {"model", "n", "accuracy"} <= set(table):
            continue
        always = table[table["model"].astype(str).str.startswith("always")]
        for row in table[table["model"].isin(r.job.parameters.get("models", []))].to_dict("records"):
            facts = {axis: r.job.point[axis] for axis in _KEYS} | {"by": row.get("level", "image"), "n": row["n"]}
            for name in ("accuracy", "AUC"):
                facts |= {
                    name: row.get(name),
                    f"{name} low": row.get(f"{name} low"),
                    f"{name} high": row.get(f"{name} high"),
                }
            same = always[always["level"] == row["level"]] if "level" in always else always
            facts["accuracy of one class"] = same["accuracy"].max() if len(same) else np.nan
            rows.append(facts)
    return pd.DataFrame(rows)


def _models_as_text(models: pd.DataFrame) -> pd.DataFrame:
    """Each score with its interval in one column."""
    text = models.copy()
    for name in ("accuracy", "AUC"):
        if name in text:
            ends = text.pop(f"{name} low"), text.pop(f"{name} high")
            rows = zip(text[name], *ends, strict=True)
            text[name] = [f"{v:.3f} [{low:.3f}, {high:.3f}]" if v == v else "" for v, low, high in rows]
    return text


def _collect(folder: Path, done: Sequence[Outcome], name: str) -> pd.DataFrame:
    """A table of all cells below each other, with their data set, recipe and seed. Controls, which every cell measures
    on the same images, are taken once."""
    tables = []
    for r in done:
        table = _table_of(folder, r, name) if r.job.kind == "cell" else None
        if table is not None and {"model", "method", "metric"} <= set(table):
            point = {axis: r.job.point[axis] for axis in _KEYS if axis in r.job.point}
            tables.append(table.assign(notebook=Path(r.job.notebook).stem, **point))
    if not tables:
        return pd.DataFrame(columns=[*_KEYS, "method", "metric"])
    found = pd.concat(tables, ignore_index=True)
    unique = [c for c in ("notebook", *_KEYS, "method", "metric", "reading", "image_id") if c in found]
    found = found.drop_duplicates(unique, ignore_index=True)
    first = [c for c in (*_KEYS, "method", "metric", "reading") if c in found]
    return found[[*first, *(c for c in found if c not in first)]]


def _parts(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The table of each data set, model, recipe and seed, of each notebook, and of each reading of the maps: methods
    are compared within one."""
    from xaiutils.evaluation.score_tables import by_reading

    keys = [c for c in (*_KEYS, "notebook") if c in table]
    if not len(table) or not keys:
        return []
    parts = []
    for values, group in table.groupby(keys, sort=False):
        key = {k: v if k != "seed" else int(v) for k, v in zip(keys, values, strict=True)}
        parts += [({**key, "reading": r} if r else key, part) for r, part in by_reading(group)]
    return parts


def _best(scores: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The best method by each metric, with its interval, and those that Nemenyi's test does not tell apart from the
    one that is first by mean rank. Controls and chance do not compete."""
    from xaiutils.evaluation import METRICS
    from xaiutils.evaluation.ranking import rank
    from xaiutils.evaluation.score_tables import of_methods

    rows, measured = [], {json.dumps(key): part for key, part in _parts(images)}
    for key, part in _parts(scores):
        known = of_methods(part)[lambda t: t["mean"].notna()]
        per_image = measured.get(json.dumps(key))
        for metric, table in known.groupby("metric", sort=False):
            if metric not in METRICS or len(table) < 2:
                continue
            ordered = table.sort_values("mean", ascending=not METRICS[metric].higher_is_better, kind="stable")
            top = ordered.iloc[0]
            row = {**{k: v for k, v in key.items() if k != "notebook"}, "metric": metric, "best": top["method"]}
            row |= {"mean": top["mean"], "low": top["low"], "high": top["high"], "n": top["n"]}
            together = ""
            if per_image is not None:
                try:
                    found = rank(of_methods(per_image)[lambda t, m=table["method"]: t["method"].isin(m)], metric)
                except ValueError:
                    pass
                else:
                    names = found.ranks.index[found.ranks <= found.ranks.iloc[0] + found.critical]
                    names = found.ranks.index if found.p >= found.alpha else names
                    together = ", ".join(n for n in names if n != top["method"])
            rows.append({**row, "not told apart from the first": together})
    return pd.DataFrame(rows)


def _as_text(scores: pd.DataFrame) -> pd.DataFrame:
    """Means with intervals as text, a column a metric."""
    if not len(scores):
        return scores
    from xaiutils.statistics.summaries import as_text

    keys = [c for c in (*_KEYS, "method", "weights") if c in scores]
    if "reading" not in scores:
        return as_text(scores, keys, "metric").reset_index()
    wide = as_text(scores, keys, ["metric", "reading"])
    wide.columns = [f"{metric}, {reading}" for metric, reading in wide.columns]
    return wide.reset_index()


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """Columns and rows for the page: numbers short, links as links, and what the filters look at."""
    rows = []
    for record in table.to_dict("records"):
        filters = {axis: str(record.get(axis, "")) for axis in ("dataset", "model", "method")}
        rows.append({"filters": filters, "values": [in_words(record[c]) for c in table.columns]})
    return {"columns": cells(table, 0)["columns"], "rows": rows}


# Figures --------------------------------------------------------------------------------------------------------------


def _grids(folder: Path, done: Sequence[Outcome]) -> list[Shown]:
    """The thesis' grids: of each data set and model one, whose columns are the methods of all cells. Where the maps lie
    without their images, the cells' own grids."""
    from xaiutils.plots import attribution_grid
    from xaiutils.workbook import read_maps

    groups: dict[str, list[Outcome]] = {}
    for r in done:
        if r.job.kind == "cell" and _grid_file(folder, r) is not None:
            key = {axis: r.job.point[axis] for axis in _KEYS if axis in r.job.point}
            groups.setdefault(json.dumps(key), []).append(r)
    shown = []
    for text, members in groups.items():
        key = json.loads(text)
        images, maps, signed, columns, rows = None, {}, {}, {}, []
        for r in members:
            stored = read_maps(_grid_file(folder, r))
            if "images" not in stored or (images is not None and stored["images"].shape != images.shape):
                continue
            images = stored["images"] if images is None else images
            rows = rows or _row_titles(folder / r.job.name, stored["ids"])
            for name, values in stored.items():
                if name not in ("ids", "images"):
                    maps[name], signed[name], columns[name] = values, *_of_method(r.job, name)
        if images is None:
            shown += [figure for r in members for figure in _own_grids(folder, r)]
            continue
        figure = attribution_grid(images, maps, signed, rows, columns, title=_name(key))
        shown.append(_save(folder, figure, f"grid_{_file(key)}", f"{_name(key)}: {len(maps)} methods.", key, maps))
    return shown


def _grid_file(folder: Path, r: Outcome) -> Path | None:
    found = sorted((folder / r.job.name).glob("maps/grid_*.npz"))
    return inside(folder, found[0].relative_to(folder)) if found else None


def _own_grids(folder: Path, r: Outcome) -> list[Shown]:
    files = sorted(name for name in r.marker["files"] if name.startswith("figures/grid_"))
    files = [name for name in files if inside(folder, f"{r.job.name}/{name}") is not None]
    return [
        Shown(
            f"../{r.job.name}/{name}", f"{_name(r.job.point)}", r.job.point, tuple(r.job.parameters.get("methods", ()))
        )
        for name in files
    ]


def _row_titles(place: Path, ids: np.ndarray) -> list[str]:
    from xaiutils.transforms import TRANSFORMS

    titles = {name: entry.title for name, entry in TRANSFORMS.items()}
    said = {}
    path = inside(place, "tables/grid_predictions.csv")
    if path is not None and path.exists():
        table = read_saved_table(path)
        if {"transform", "p of the original's class"} <= set(table):
            said = dict(zip(table["transform"], table["p of the original's class"], strict=True))
    return [titles.get(i, i) + (f"\np = {said[i]:.2f}" if i in said else "") for i in map(str, ids)]


def _of_method(job: Job, name: str) -> tuple[bool, str]:
    """Whether the maps of a method of a job have a sign, and its title; a label of its own is its own title."""
    from xaiutils.attribution import resolve

    given = {k: v for k, v in job.parameters.get("method_parameters", {}).items() if k == name}
    method, _ = resolve([name], given)[name]
    return method.is_signed(given.get(name, {})), method.title if name == method.name else name


def _titles(plan: Sequence[Job]) -> dict[str, str]:
    from xaiutils.attribution import METHODS

    return {name: METHODS[name].title for job in plan for name in job.parameters.get("methods", ()) if name in METHODS}


def _save(folder: Path, figure: Figure, name: str, caption: str, key: Mapping[str, Any], methods) -> Shown:
    path = folder / "report" / f"{name}.png"
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, bbox_inches="tight"))
    return Shown(path.name, caption, key, tuple(methods))


def _embedded(folder: Path, figures: Sequence[Shown]) -> list[dict[str, Any]]:
    """For the page: the first ones inside it, so that it can be sent alone, the others as links."""
    found = []
    for number, figure in enumerate(figures):
        path = folder / "report" / figure.file
        link = quote(Path(os.path.relpath(path, folder)).as_posix())
        shown = {"caption": figure.caption, "link": link, "source": link}
        if number < _FIGURES_SHOWN:
            mime, data = for_screen(path)
            shown["source"] = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
        shown["filters"] = {
            "dataset": str(figure.point.get("dataset", "")),
            "model": str(figure.point.get("model", "")),
            "method": " ".join(figure.methods),
        }
        found.append(shown)
    return found


def _name(key: Mapping[str, Any]) -> str:
    return ", ".join(f"seed {v}" if axis == "seed" else str(v) for axis, v in key.items())


def _file(key: Mapping[str, Any]) -> str:
    return ".".join(f"s{v}" if axis == "seed" else str(v) for axis, v in key.items())


# Markdown -------------------------------------------------------------------------------------------------------------


def _markdown(facts, models, best, scores, jobs, figures: Sequence[Shown]) -> str:
    parts = [f"# {markdown(facts['name'])}", f"{facts['counts']}. Written {facts['written']}."]
    if facts["missing"]:
        rows = [{"job": r.job.name, "status": r.status, "error": r.error, "log": r.log} for r in facts["missing"]]
        parts += ["## Not done", _table(pd.DataFrame(rows))]
    titles = ("Models", models), ("Best methods by metric", best), ("Scores", scores)
    for title, table in titles:
        if len(table):
            parts += [f"## {title}", _table(table)]
    if figures:
        parts += [
            "## Figures",
            *(f"![{markdown(f.caption)}]({quote(os.path.normpath(f'report/{f.file}'))})" for f in figures),
        ]
    parts += ["## Jobs", _table(jobs.drop(columns="job"), links="executed")]
    return "\n\n".join(parts) + "\n"


def _table(table: pd.DataFrame, links: str = "") -> str:
    """``links``: a column of paths, of each of which a link is made."""

    def cell(name: str, value: Any) -> str:
        if name == links and value:
            return f"[notebook]({quote(value)})"
        return markdown(in_words(value))

    numbers = [number for _, number in cells(table, 0)["columns"]]
    lines = [[markdown(name) for name in table.columns], [" ---: " if n else " --- " for n in numbers]]
    rows = table.itertuples(index=False, name=None)
    lines += [[cell(name, value) for name, value in zip(table.columns, row, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" if k != 1 else f"|{'|'.join(line)}|" for k, line in enumerate(lines))
