"""One thread that computes, so that no callback blocks: newer requests drop older ones, and all can be stopped."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from xaiutils.progress import listening

_REPORT_SECONDS = 0.1
_IDLE_SECONDS = 30.0


class _Cancelled(BaseException):
    """Raised inside a job whose result nobody waits for any more; no handler of errors on the way catches it."""


@dataclass
class Progress:
    """How far a job is: ``done`` of ``total`` steps; ``remaining`` seconds, None until they can be estimated."""

    done: int
    total: int
    remaining: float | None


@dataclass
class _Job:
    kind: str
    work: Callable[[], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    clock: tuple[float, int] = (0.0, 0)  # when the present loop was begun to be measured, and its steps until then
    reported: float = 0.0


class Worker:
    """Runs jobs one at a time in its own thread.

    Args:
        kinds: the kinds of request, most urgent first. Of each kind only the newest request is kept.
        on_busy: called with the kind of each request.
        on_progress: called with (kind, Progress), at most ten times a second.
        on_error: called with (kind, exception) when a job raises.
        on_idle: called when nothing is left to do. It and ``on_busy`` are called in the order of what they tell.

    A job ends early, without a word, where it runs `xaiutils.progress` loops, as all attribution does.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        on_busy: Callable[[str], None],
        on_progress: Callable[[str, Progress], None],
        on_error: Callable[[str, Exception], None],
        on_idle: Callable[[], None],
    ):
        self._kinds = tuple(kinds)
        self._on_busy, self._on_progress, self._on_error, self._on_idle = on_busy, on_progress, on_error, on_idle
        self._changed = threading.Condition()
        self._waiting: dict[str, _Job] = {}
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None

    def request(self, kind: str, work: Callable[[], None]) -> None:
        """Have ``work()`` done; what was asked of this kind before, waiting or begun, is dropped."""
        with self._changed:
            self._cancel(kind)
            self._waiting[kind] = _Job(kind, work)
            self._on_busy(kind)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="explorer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def stop(self, *kinds: str) -> None:
        """Drop what waits and what runs (of these kinds; none named: of all)."""
        with self._changed:
            for kind in kinds or self._kinds:
                self._cancel(kind)

    def wait(self, timeout: float = 120) -> None:
        """Block until nothing is left to do. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._running is None and not self._waiting, timeout):
                raise TimeoutError(f"the panel still works after {timeout:g} s.")

    def _cancel(self, kind: str) -> None:
        self._waiting.pop(kind, None)
        if self._running is not None and self._running.kind == kind:
            self._running.cancelled.set()

    def _next(self) -> _Job | None:
        """The most urgent job; None after a while without any, which ends the thread."""
        with self._changed:
            self._running = None
            self._changed.notify_all()
            if not self._waiting and not self._changed.wait_for(lambda: self._waiting, _IDLE_SECONDS):
                self._thread = None
                return None
            kind = next(kind for kind in self._kinds if kind in self._waiting)
            self._running = self._waiting.pop(kind)
            return self._running

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                with listening(partial(self._tick, job)):
                    job.work()
            except _Cancelled:
                pass
            except Exception as error:
                if not job.cancelled.is_set():
                    self._on_error(job.kind, error)
            with self._changed:
                if not self._waiting:
                    self._on_idle()

    def check(self) -> None:
        """For jobs: end here if nobody waits for the result any more."""
        job = self._running
        if job is not None and threading.current_thread() is self._thread and job.cancelled.is_set():
            raise _Cancelled

    def _tick(self, job: _Job, done: int, total: int | None) -> None:
        if job.cancelled.is_set():
            raise _Cancelled
        now = time.monotonic()
        if not total or total < 3:
            return
        if done <= 1:  # the first step may compile, so the clock starts after it
            job.clock = (now, done)
        start, begun = job.clock
        remaining = (now - start) / (done - begun) * (total - done) if done > begun else None
        if now - job.reported >= _REPORT_SECONDS:
            job.reported = now
            self._on_progress(job.kind, Progress(done, total, remaining))
