"""Declarations that feed everything else: the panel's controls, the notebooks' parameters, the tables and the tests.

A module exports what it declares as a constant, and one explicit list, in reading order, makes the `Registry` of them.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Entry = TypeVar("Entry")


class UnknownNameError(KeyError):
    """A name that is not in a registry; the message gives the nearest names."""

    def __str__(self) -> str:  # KeyError would print the message as a quoted string
        return str(self.args[0])


def suggest(name: object, known: list[str]) -> str:
    """'did you mean ...' with the nearest known names, then all of them when they are few."""
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    text = f"did you mean {' or '.join(near)}? " if near else ""
    return text + f"Known: {', '.join(known)}."


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError that names the nearest allowed value, unless ``value`` is one of them."""
    known = list(allowed)
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; {suggest(value, known)}")


def is_integer(value: object) -> bool:
    """Whether ``value`` is a whole number by type, Python's or NumPy's; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_integer(name: str, value: Any, low: int, high: int | None = None, note: str = "") -> int:
    """``value`` as an int; ValueError unless it is an integer from ``low`` to ``high`` (inclusive; None: no bound).
    ``note`` ends the message."""
    if not is_integer(value) or value < low or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}={value!r}; expected an integer {allowed}{note}.")
    return int(value)


@dataclass(frozen=True)
class Parameter:
    """One typed parameter of a method, a transform or a notebook.

    ``kind`` is int, float, bool, str, list, dict or np.ndarray; ``low`` and ``high`` are inclusive bounds of numbers;
    ``choices`` are the allowed values of a string, or of each item of a list. An array (given as anything that NumPy
    reads) has the default None, and is for callers in Python: panels and notebook parameters leave it out.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """Return ``value`` as ``kind``; raise TypeError or ValueError that says what is allowed."""
        if self.kind is np.ndarray:
            return value if value is None else self._check_array(value)
        if isinstance(value, np.generic):
            value = value.item()
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(
                f"{self.name}={value!r} is of type {type(value).__name__}; expected {self.allowed()} ({self.help})."
            )
        items = list(value) if isinstance(value, list) else [value]
        if self.choices and any(item not in self.choices for item in items):
            wrong = next(item for item in items if item not in self.choices)
            raise ValueError(f"{self.name}: {wrong!r} is not allowed; {suggest(wrong, list(self.choices))}")
        if isinstance(value, int | float) and self.kind in (int, float):
            # Written so that NaN fails too.
            if not (self.low is None or value >= self.low) or not (self.high is None or value <= self.high):
                raise ValueError(f"{self.name}={value!r} is out of range; expected {self.allowed()}.")
            if not math.isfinite(value):
                raise ValueError(f"{self.name} is {value}; expected {self.allowed()}.")
        return value

    def _check_array(self, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise TypeError(
                f"{self.name} is of type {type(value).__name__}; expected an array ({self.help})."
            ) from None
        if not np.isfinite(array).all():
            raise ValueError(f"{self.name} has values that are NaN or infinite ({self.help}).")
        return array

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return ("a list of " if self.kind is list else "one of ") + ", ".join(self.choices)
        name = {
            int: "an integer",
            float: "a number",
            bool: "True or False",
            str: "a string",
            np.ndarray: "an array",
        }.get(self.kind, f"a {self.kind.__name__}")
        low = "" if self.low is None else f" from {self.low:g}"
        return name + low + ("" if self.high is None else f" to {self.high:g}")


def check_parameters(owner: str, declared: tuple[Parameter, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overlaid with ``given``; unknown names, wrong types and values out of range raise."""
    known = {p.name: p for p in declared}
    for name in given:
        if name not in known:
            if not known:
                raise TypeError(f"{owner} takes no parameters, got {name!r}.")
            raise TypeError(f"{owner} has no parameter {name!r}; {suggest(name, list(known))}")
    return {name: p.check(given[name]) if name in given else p.default for name, p in known.items()}


class Registry(Mapping[str, Entry]):
    """An ordered mapping of names to declarations whose look-up error names the nearest entries.

    ``kind`` is what an entry is called in messages, ``entries`` are declarations with a ``name``, in reading order.
    ``METHODS.add(mine)`` tries out a declaration without editing the package, ``METHODS.remove(mine.name)`` takes it
    out again. Raises ValueError where two entries have one name.
    """

    def __init__(self, kind: str, entries: Iterable[Entry] = ()):
        self._kind = kind
        self._entries: dict[str, Entry] = {}
        self.add(*entries)

    def add(self, *entries: Entry) -> None:
        """Append declarations; ValueError where one of their names is taken."""
        for entry in entries:
            name = entry.name  # type: ignore[attr-defined]
            if name in self._entries:
                raise ValueError(f"{self._kind} {name!r} is declared twice.")
            self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Take an entry out; UnknownNameError where there is none."""
        del self._entries[self[name].name]  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            message = f"Unknown {self._kind} {name!r}; {suggest(name, list(self._entries))}"
            raise UnknownNameError(message) from None

    def __contains__(self, name: object) -> bool:  # Mapping's own would call __getitem__ and build a message
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{len(self)} {self._kind}s: {', '.join(self)}>"
