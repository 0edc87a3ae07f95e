"""YAML whose anchors, depth and length are checked before anything is built from it.

A kilobyte of anchors can stand for a billion texts, and a cycle for endlessly many.
"""

import re
from collections.abc import Collection
from typing import Any

import numpy as np
import yaml

from xaiutils.file_limits import explain

_CHARACTERS, _DEPTH = 1_000_000, 40  # with every alias written out; of the nesting
_BRACKETS = 200  # open at once: PyYAML's time grows with their square


class NumberLoader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, which YAML 1.1 takes for a text."""


NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_yaml(
    text: str, loader_class: type[yaml.SafeLoader] = yaml.SafeLoader, texts: Collection[str] = (), is_text: bool = False
) -> Any:
    """What ``text`` says. Raises ValueError for what is not YAML, stands for too much, or is nested too deeply.

    The values of the keys in ``texts``, and with ``is_text`` all of it, stay as they are written: classes called no,
    1.0, 001 or null are called so.
    """
    try:
        if len(text) > _CHARACTERS:
            raise ValueError(f"it has {len(text):,} characters, more than {_CHARACTERS:,}")
        steps = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        opened = np.isin(steps, list(b"[{")).astype(np.int32) - np.isin(steps, list(b"]}"))
        if opened.size and np.cumsum(opened).max() > _BRACKETS:
            raise ValueError(f"it is nested too deeply: more than {_BRACKETS} open brackets")
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _size(node, {}, 0)
            _keep_texts(node, texts, is_text)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (ValueError, TypeError, OverflowError, RecursionError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(explain(error)) from error  # PyYAML's own, of malformed dates, numbers and keys


def _keep_texts(node: yaml.Node, texts: Collection[str], is_text: bool) -> None:
    if isinstance(node, yaml.ScalarNode):
        if is_text and (node.value or node.style):  # a key without a value has none
            node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_texts(item, texts, is_text)
    else:
        for key, value in node.value:
            _keep_texts(value, texts, is_text or (isinstance(key, yaml.ScalarNode) and key.value in texts))


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Characters and entries of a node with its aliases written out. Raises ValueError beyond the limits."""
    if depth > _DEPTH or known.get(id(node)) == 0:
        raise ValueError("it is nested too deeply, or in itself")
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value)
    known[id(node)] = 0
    children = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
    size = 1 + sum(_size(child, known, depth + 1) for child in children)
    if size > _CHARACTERS:
        raise ValueError(f"with its anchors written out it has more than {_CHARACTERS:,} characters")
    known[id(node)] = size
    return size
