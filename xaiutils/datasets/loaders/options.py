"""Checks of loaders' options."""

from collections.abc import Iterable

from xaiutils.registry import suggest


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError that names the nearest allowed value."""
    known = list(allowed)
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; {suggest(value, known)}")
