"""How a batch ends early: with a word where it is told to, and with all that it started in any case."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVERY_SECONDS = 0.5


def end_with_parent() -> None:
    """End this process at once when its parent has gone. Its kernel notices the same way, within about a second."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


class Ended(KeyboardInterrupt):
    """A signal that asks a process to end, other than Ctrl-C, which a terminal sends to its children as well."""

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM (a service manager, a cluster) and SIGHUP (a terminal that closes) raise `Ended`, once:
    a second one ends the process at once. What is ignored stays so (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, _frame: Any) -> None:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
        raise Ended(number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
