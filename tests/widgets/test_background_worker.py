"""The thread behind the panel: what it drops, stops, tells and outlives."""

import threading
import time

import pytest

from xaiutils.progress import progress
from xaiutils.widgets.background_worker import Worker


class Record:
    """A worker whose callbacks are written down."""

    def __init__(self):
        self.told = []
        say = self.told.append
        self.worker = Worker(
            ("first", "second"),
            lambda kind: say(("busy", kind)),
            lambda kind, p: say(("progress", kind, p.done, p.total)),
            lambda kind, error: say(("error", kind, str(error))),
            lambda: say(("idle",)),
        )


def looping(entered, log, name):
    def work():
        for _ in progress(range(10_000), title=name):
            entered.set()
            time.sleep(0.001)
        log.append(name)

    return work


def test_a_newer_request_drops_the_older_and_urgent_ones_go_first():
    record, log, entered, gate = Record(), [], threading.Event(), threading.Event()
    record.worker.request("first", looping(entered, log, "old"))
    assert entered.wait(5)
    record.worker.request("second", lambda: log.append("later"))
    record.worker.request("first", lambda: log.append("never begun"))
    record.worker.request("first", lambda: (log.append("new"), gate.wait(5)))
    while "new" not in log:
        time.sleep(0.005)
    record.worker.request("second", lambda: log.append("latest"))
    gate.set()
    record.worker.wait(5)
    assert log in (["new", "latest"], ["never begun", "new", "latest"])
    assert record.told[-1] == ("idle",)


def test_stop_ends_work_at_once():
    record, log, entered = Record(), [], threading.Event()
    record.worker.request("first", looping(entered, log, "slow"))
    record.worker.request("second", lambda: log.append("waiting"))
    assert entered.wait(5)
    time.sleep(0.3)
    start = time.monotonic()
    record.worker.stop()
    record.worker.wait(5)
    assert time.monotonic() - start < 0.3
    assert log == []
    done = [entry[2] for entry in record.told if entry[0] == "progress"]
    assert len(done) > 1
    assert done == sorted(done)


def test_errors_of_the_thread_are_told_and_it_goes_on():
    record, log = Record(), []

    def fail():
        raise ValueError("no such thing")

    record.worker.request("first", fail)
    record.worker.wait(5)
    record.worker.request("first", lambda: log.append("next"))
    record.worker.wait(5)
    assert ("error", "first", "no such thing") in record.told
    assert log == ["next"]


def test_waiting_for_a_busy_thread_ends():
    record, gate = Record(), threading.Event()
    record.worker.request("first", lambda: gate.wait(5))
    with pytest.raises(TimeoutError, match="still works"):
        record.worker.wait(0.05)
    gate.set()
    record.worker.wait(5)
