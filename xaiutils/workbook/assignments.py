"""Notebook parameters as a command line gives them: a YAML file, and texts of the form ``key=value``."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xaiutils.workbook.parameters import PARAMETERS, text_names
from xaiutils.yaml_text import load_yaml


def read_arguments(assignments: Sequence[str], parameter_file: Path | None = None) -> dict[str, Any]:
    """Notebook parameters from a YAML file, overlaid with ``key=value`` texts.

    Values are YAML; a list may be written with commas (an entry that has one in "quotes", or a path that exists), and
    an entry of a dict by itself: ``data_options.task=five``.

    Raises ValueError for a text without "=" or an unreadable file; names and values are checked by `prepare`.
    """
    values: dict[str, Any] = {}
    if parameter_file is not None:
        try:
            loaded = load_yaml(Path(parameter_file).read_text(encoding="utf-8"), texts=text_names())
        except (OSError, ValueError) as error:
            raise ValueError(f"the parameter file cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{parameter_file} must hold 'name: value' lines.")
        values |= {str(name): _typed(str(name), value) for name, value in loaded.items()}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not of the form name=value.")
        name, *inner = name.strip().split(".")
        if inner:
            _put(values, [name, *inner], value)
        else:
            values[name] = _typed(name, value)
    return values


def _put(values: dict[str, Any], path: list[str], text: str) -> None:
    """Set an entry of a dict in a dict ..., making those that are not there."""
    is_text = path[-1] in text_names()
    try:
        value = load_yaml(text, texts=text_names(), is_text=is_text)
    except ValueError:
        raise ValueError(f"{'.'.join(path)}={text!r} cannot be read as YAML.") from None
    if is_text and text_names()[path[-1]] and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"{'.'.join(path)}: {name} is {values!r}, which has no entries.")
    values[path[-1]] = value


def _typed(name: str, value: Any) -> Any:
    """Text to the declared kind where that is unambiguous; anything else is left for `check` to refuse."""
    kind = PARAMETERS[name].kind if name in PARAMETERS else str
    if not isinstance(value, str) or kind is str:
        return value if kind is not str else str(value)
    if kind is list and not value.lstrip().startswith("["):
        if name == "models" and _is_path(value):  # a comma of its path parts nothing
            return [value]
        return [part.strip() for part in next(csv.reader([value], skipinitialspace=True), []) if part.strip()]
    try:
        parsed = load_yaml(value, texts=text_names())
    except ValueError:
        raise ValueError(f"{name}={value!r} cannot be read as YAML; expected {PARAMETERS[name].allowed()}.") from None
    if kind is float and isinstance(parsed, str):  # YAML reads 1e-3 as a text
        try:
            return float(parsed)
        except ValueError:
            return value
    if isinstance(parsed, dict) and any(v is None and ":" in str(k) for k, v in parsed.items()):
        raise ValueError(f"{name}={value!r}: YAML wants a blank after each colon; or write {name}.NAME=VALUE.")
    return parsed


def _is_path(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (RuntimeError, ValueError, OSError):  # a name that is too long, a user that is none
        return False
