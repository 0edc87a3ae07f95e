"""One progress helper that suits notebooks, papermill logs and CI."""

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 10.0
Listener = Callable[[int, int | None], None]
_listener: ContextVar[Listener | None] = ContextVar("progress listener", default=None)
_running = threading.local()  # .loops: by `progress` of this thread that is not at its end, the frame that loops


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, every `progress` of this thread reports (done, total) to ``listener`` instead of showing it.

    A listener may raise to cancel the work: a panel's Stop button does.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def progress(items: Iterable[Item], total: int | None = None, title: str = "") -> Iterator[Item]:
    """Yield ``items`` while showing how far the work is, once it lasts over two seconds.

    The environment variable ``XAI_PROGRESS`` chooses: "bar" (a tqdm bar), "log" (a line every ten seconds, for
    papermill's logs), "off"; by default a bar in a notebook or a terminal, and nothing elsewhere or in CI. A loop
    within another one is not shown: a listener hears (0, None) from it, to cancel.
    """
    loops = _running.__dict__.setdefault("loops", {})
    mine, here = object(), _looping(sys._getframe().f_back)
    # A loop that an error has left is no loop within which others run, though the error's traceback keeps it.
    at_work = set(_stack(here))
    for left in [key for key, frame in loops.items() if frame not in at_work]:
        del loops[left]
    nested, loops[mine] = bool(loops), here
    try:
        yield from _shown(items, total, title, nested)
    finally:
        loops.pop(mine, None)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _looping(frame: FrameType | None) -> FrameType | None:
    """The function that takes the items, maybe by way of generators."""
    return next((f for f in _stack(frame) if not f.f_code.co_flags & inspect.CO_GENERATOR), None)


def _shown(items: Iterable[Item], total: int | None, title: str, nested: bool) -> Iterator[Item]:
    mode = "off" if nested else os.environ.get("XAI_PROGRESS") or _default_mode()
    total = len(items) if total is None and isinstance(items, Sized) else total
    if (listener := _listener.get()) is not None:
        for done, item in enumerate(items):
            listener(*((0, None) if nested else (done, total)))
            yield item
    elif mode == "bar":
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=title, leave=False, delay=2.0)
    elif mode == "log":
        yield from _logged(items, total, title)
    else:
        yield from items


def _default_mode() -> str:
    if os.environ.get("CI"):
        return "off"
    return "bar" if "ipykernel" in sys.modules or sys.stderr.isatty() else "off"


def _logged(items: Iterable[Item], total: int | None, title: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            of = f" of {total}" if total else ""
            print(f"{title}: {done}{of}, {now - start:.0f} s", flush=True)


def meter(title: str) -> Any:
    """A progress bar of bytes for pooch: an object with ``total``, ``update``, ``reset`` and ``close``, or False."""
    mode = os.environ.get("XAI_PROGRESS") or _default_mode()
    if mode == "bar":
        from tqdm.auto import tqdm

        return tqdm(desc=title, unit="B", unit_scale=True, leave=False)
    return _Meter(title) if mode == "log" else False


class _Meter:
    """A line every ten seconds."""

    def __init__(self, title: str):
        self.title, self.total, self._done = title, 0, 0
        self._last = time.monotonic()

    def update(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._last >= LOG_EVERY_SECONDS:
            self._last = time.monotonic()
            print(f"{self.title}: {self._done / 1e6:.0f} of {self.total / 1e6:.0f} MB", flush=True)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
