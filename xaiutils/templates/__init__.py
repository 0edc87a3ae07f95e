"""Texts that the workbook writes: the facts come from Python, the prose is in this folder's templates, to be edited."""

from collections.abc import Callable, Container
from functools import cache
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from xaiutils.text import markdown, one_line


class Markdown(str):
    """Text that is Markdown already, which `render` puts in as it is."""


def render(template: str, /, **facts: Any) -> str:
    """Fill in a template of this folder by its file's name, such as ``"model_card.md.j2"``.

    What ``{{ }}`` puts in is made safe for the medium that the name's ending says: in ``.md.j2`` it is escaped by
    `xaiutils.text.markdown` unless it is `Markdown` (a table of `markdown_table`), in ``.txt.j2`` it is kept on one
    line, in ``.html.j2`` Jinja escapes it. A fact that a template names and that is not given is an error
    (``jinja2.UndefinedError``).
    """
    return _environment(template.removesuffix(".j2").rpartition(".")[2]).get_template(template).render(**facts)


def three_decimals(value: float) -> str:
    """A number for a table: three decimals, from 100 on none but commas between the thousands; "-" if not finite."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def markdown_table(
    table: pd.DataFrame, number: Callable[[float], str] = three_decimals, already_markdown: Container[str] = ()
) -> Markdown:
    """``table`` as a table of Markdown, without its index; columns of numbers are aligned to the right.

    ``number`` writes floats; all other values are written by ``str``; text is escaped,
    except in the columns named in ``already_markdown``, such as one of links.
    """

    def cell(value: Any) -> str:
        return markdown(number(float(value)) if isinstance(value, float | np.floating) else value)

    head = [markdown(name) for name in table.columns]
    rule = ["---:" if pd.api.types.is_numeric_dtype(dtype) else "---" for dtype in table.dtypes]
    writers = [str if name in already_markdown else cell for name in table.columns]
    rows = [
        [write(value) for write, value in zip(writers, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)))


@cache
def _environment(medium: str) -> jinja2.Environment:
    finalize = {"md": lambda v: v if isinstance(v, Markdown) else markdown(v), "txt": one_line, "html": None}[medium]
    return jinja2.Environment(
        loader=jinja2.PackageLoader("xaiutils", "templates"),
        autoescape=medium == "html",
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
