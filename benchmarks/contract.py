"""Does every method keep its contract on networks that nobody here wrote?

    python benchmarks/contract.py                        what has not been run yet, then docs/compatibility.md
    python benchmarks/contract.py --networks '*vit*'     networks by name; --methods lrp deep_lift; --precisions ...
    python benchmarks/contract.py --again                these cells anew; --stale: those of older code
    python benchmarks/contract.py --page                 docs/compatibility.md alone

A cell is a network, a precision and a method; `zoo.checks` says what a map must be. Each is kept in contract.json as
soon as it is there, so a run can be cut and goes on where it was. Networks of the package zeromodels need the extra
``bench``. Some hours of one core for everything.
"""

import argparse
import gc
import os
import signal
import time
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("XAI_PROGRESS", "off")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from zoo import Entry, networks
from zoo.checks import Cell, check, named
from zoo.results import RESULTS, Results, code_digest

import xaiutils as xai
from xaiutils.backend import keras

PRECISIONS = ("float32", "mixed_bfloat16")
SECONDS = 120  # of the process, for a cell


class TimeLimitError(Exception):
    """A cell that takes too long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["*"], help="names, with * and ?")
    parser.add_argument("--methods", nargs="*", default=list(xai.METHODS))
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--again", action="store_true", help="run cells that are there already")
    parser.add_argument("--stale", action="store_true", help="run cells that other code made")
    parser.add_argument("--failed", action="store_true", help="run cells that failed")
    parser.add_argument(
        "--compiled", action="store_true", help="passes as users have them, compiled where that pays; not all eager"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    given = parser.parse_args()
    results = Results.read(given.results)
    if not given.page:
        signal.signal(signal.SIGPROF, _too_long)
        for precision in given.precisions:
            for name, entry in networks().items():
                if any(fnmatch(name, pattern) for pattern in given.networks) and precision in entry.precisions:
                    _run(results, name, entry, precision, given)
    from zoo.page import write_page

    write_page(results)


def _run(results: Results, name: str, entry: Entry, precision: str, given: argparse.Namespace) -> None:
    code = code_digest()
    wanted = [m for m in given.methods if _is_wanted(results.cell(name, precision, m), code, given)]
    if not wanted:
        return
    started = time.perf_counter()
    try:
        subject: Any = entry.subject(precision)
        subject.compiled = given.compiled
    except Exception as error:  # such as a network that the package refuses as a whole
        subject = named(error)
    for method in wanted:
        begun = time.perf_counter()
        cell = subject if isinstance(subject, Cell) else _within_time(subject, method)
        results.add(name, precision, method, cell, time.perf_counter() - begun, code, given.compiled)
        if cell.outcome == "failed":
            print(f"  {name} {precision} {method}: {cell.reason}", flush=True)
    counts = results.counts(name, precision)
    print(f"{name} {precision}: {counts}, {time.perf_counter() - started:.0f} s", flush=True)
    del subject
    keras.backend.clear_session()
    gc.collect()


def _is_wanted(cell: dict[str, Any] | None, code: str, given: argparse.Namespace) -> bool:
    if cell is None or given.again:
        return True
    return (given.stale and cell["code"] != code) or (given.failed and cell["outcome"] not in ("passed", "refused"))


def _within_time(subject: Any, method: str) -> Cell:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        cell = check(subject, method)
    except TimeLimitError:
        cell = Cell("not run", f"more than {SECONDS} s")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return Cell("not run", f"more than {SECONDS} s") if TimeLimitError.__name__ in cell.reason else cell


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeLimitError


if __name__ == "__main__":
    main()
