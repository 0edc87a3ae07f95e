"""Passes in two tiers: run eagerly while little is to be done, by a compiled graph where that pays.

Compiling a pass takes as long as 4 (EfficientNet-B5) to 8 (EfficientNet-Lite0) eager calls of one image, and an eager
call about as long as 2 to 4 compiled ones; so to compile after `EAGER_ROWS` images costs at most about twice what the
better choice would have cost, and the first map comes at once. Which tier runs is decided by the images that a function
has been given and those that are known to come (`coming`), never by the clock: the same calls in the same order give
the same bits. The tiers differ by float32's rounding. ``XAI_COMPILE=first`` compiles before the first call.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import FlatGraph

EAGER_ROWS = 8  # images that one function runs eagerly; more at once would also take more memory than the graph does
MODES = ("auto", "first")
_stream = threading.local()  # .left: images that the loop of this thread has still to run, the present batch among them


@contextmanager
def coming(rows: int) -> Iterator[None]:
    """Within the block ``rows`` images are known to be run by each function that is called."""
    before = getattr(_stream, "left", 0)
    _stream.left = rows
    try:
        yield
    finally:
        _stream.left = before


def tiered(graph: FlatGraph, function: Callable[..., Any], signature: Sequence[tf.TensorSpec]) -> Callable[..., Any]:
    """``function`` of tensors of the specs ``signature``, eagerly or as ``tf.function`` runs it; see the module.

    The first axis of every argument is that of the images or of what is made of them. A model with a call of its own,
    which may do on numbers what no graph does, is compiled at once, so that what is refused does not depend on how much
    is to be done.
    """
    return _Tiered(function, signature, _eager_of(graph), at_once=graph.is_opaque)


def compile_used(graph: FlatGraph) -> threading.Thread:
    """Compile in a thread what a graph has only run eagerly, while somebody looks at the first map: for a panel, where
    the tier may depend on the clock. None of half precision, whose layers `FlatGraph.in_float32` changes for all.

    Python waits for the thread before it exits, since TensorFlow does not bear to be cut off.
    """
    waiting = set() if graph.is_half else _eager_of(graph)
    thread = threading.Thread(target=_compile_all, args=(waiting,), name="compiling passes")
    thread.start()
    return thread


def _eager_of(graph: FlatGraph) -> set["_Tiered"]:
    """What a graph has run eagerly, and not compiled."""
    return graph.compiled("run eagerly", set)


def _compile_all(waiting: set["_Tiered"]) -> None:
    while waiting:
        with suppress(Exception):  # whatever a layer raises while it is traced: the call that needs the graph says it
            waiting.pop().compile()


def mode() -> str:
    """The environment variable ``XAI_COMPILE``: "auto" by default, or "first"."""
    chosen = os.environ.get("XAI_COMPILE") or "auto"
    if chosen not in MODES:
        raise ValueError(f"XAI_COMPILE={chosen!r}; expected one of {', '.join(MODES)}.")
    return chosen


class _Tiered:
    def __init__(
        self, function: Callable[..., Any], signature: Sequence[tf.TensorSpec], eager: set["_Tiered"], at_once: bool
    ):
        self._function, self._signature, self._eager = function, signature, eager
        self._graph = tf.function(function, input_signature=signature, autograph=False)
        self._rows, self._compiled = 0, at_once
        self._shapes: list[tf.TensorShape] = []

    def __call__(self, *given: Any) -> Any:
        # Not left to the graph: where TensorFlow is told to run functions eagerly, that converts nothing.
        arguments = [tf.convert_to_tensor(x, spec.dtype) for x, spec in zip(given, self._signature, strict=True)]
        if not self._compiled:
            rows = max(len(x) for x in arguments)
            if self._rows + max(rows, getattr(_stream, "left", 0)) <= EAGER_ROWS and mode() == "auto":
                found = self._function(*arguments)
                self._rows += rows
                self._shapes = [x.shape for x in arguments]
                self._eager.add(self)
                return found
            self._compiled = True
            self._eager.discard(self)
        return self._graph(*arguments)

    def compile(self) -> None:
        """Trace and optimise the graph, by a call on zeros."""
        if not self._compiled:
            pairs = zip(self._signature, self._shapes, strict=True)
            self._graph(*(tf.zeros(shape, spec.dtype) for spec, shape in pairs))
            self._compiled = True
