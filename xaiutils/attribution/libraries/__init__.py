"""Other libraries' methods, for the argument ``library`` of `xaiutils.explain`: the one list of them.

A new one is a function and an `Adapter` in the library's module, which adds it to its ``ADAPTERS``.
"""

import importlib.util

from xaiutils.attribution.libraries import lime_package, tf_explain, tf_keras_vis
from xaiutils.attribution.libraries.adapter import Adapter

__all__ = ["ADAPTERS", "Adapter", "sources"]

ADAPTERS: dict[tuple[str, str], Adapter] = {
    (adapter.library, adapter.method): adapter
    for adapter in (*tf_explain.ADAPTERS, *tf_keras_vis.ADAPTERS, *lime_package.ADAPTERS)
}
_INSTALLED = {library for library, _ in ADAPTERS if importlib.util.find_spec(library.replace("-", "_"))}


def sources(method: str) -> tuple[str, ...]:
    """All installed libraries that compute ``method``, our own first."""
    return ("xaiutils", *(library for library, name in ADAPTERS if name == method and library in _INSTALLED))
