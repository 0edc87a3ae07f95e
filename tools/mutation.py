"""Mutation testing (``make mutation``): put a small fault into the package and see whether a test fails.

    python tools/mutation.py --n 150          # until 150 are judged; those judged before are not repeated
    python tools/mutation.py --again          # run the survivors once more, after tests were written
    python tools/mutation.py --report         # only print what is known
    python tools/mutation.py --only xaiutils/images.py --n 40

Mutants (`tools/mutants.py`) are drawn by ``--seed`` and spread over the files of `PACKAGES`. Each runs in a fork of a
process that has imported TensorFlow but run nothing of it, so that one costs seconds; the fault lives in that process'
memory, and no file of the package is written. First come the tests that entered the function when `map_tests` ran the
suite, quickest first, then the other tests of those files: a traced graph is kept, so later tests use code that only
the first entered. A mutant is killed by the first test that fails, or when it takes far longer than its tests do
(counted apart); it survives when all pass, or when tests worth ``--budget`` seconds have passed.

Results are a line each in runs/mutation/results.csv. Survivors that change nothing anybody can see stand with the
reason in tools/equivalent_mutants.yml, by their key, and are not counted. Code that tests run in processes of their
own (notebooks, batch jobs) is not mutated there.
"""

import argparse
import csv
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import json
import linecache
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
sys.dont_write_bytecode = True
from mutants import Mutant, sample  # noqa: E402

PACKAGES = [
    f"xaiutils/{name}" for name in ("graph", "attribution", "evaluation", "classification", "statistics", "datasets")
]
PACKAGES += ["xaiutils/transforms", "xaiutils/images.py"]
FOLDER = ROOT / "runs" / "mutation"
RESULTS, TESTS = FOLDER / "results.csv", FOLDER / "tests.json"
EQUIVALENT = ROOT / "tools" / "equivalent_mutants.yml"
COLUMNS = ["key", "outcome", "line", "seconds", "by"]
OPTIONS = ["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist"]
# Tests of the interface, of training, and of what runs in processes of its own: slow, and not about PACKAGES.
LEFT_OUT = (
    "test_notebook",
    "test_batch",
    "test_explorer",
    "test_run_all",
    "test_pack",
    "test_project",
    "test_training",
)
LEFT_OUT += ("test_recipes", "test_optimisation", "test_callbacks", "test_models", "test_vit_weights", "test_app")
LEFT_OUT += ("test_scenes", "test_background_worker", "test_parameter_controls")
WALL = 900  # seconds; the limit in processor time, which other work on the machine does not change, comes first


def warm() -> None:
    """Import what takes long and starts no threads; nothing of the package."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "XAI_PROGRESS": "off", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp(prefix="mutation-hypothesis-")
    for name in ("tensorflow", "keras", "pandas", "sklearn.metrics", "skimage.metrics", "matplotlib", "hypothesis"):
        importlib.import_module(name)


def in_fork(work: Callable[[], int], cpu_seconds: float) -> tuple[int, bool]:
    """Exit code of ``work`` in a fork of this process, and whether it was ended for taking too long."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no test outlives this command
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds) + 5))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        code = 3
        try:
            os.chdir(ROOT)
            code = work()
        finally:
            os._exit(code)
    deadline = time.monotonic() + WALL
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if late := ended == (0, 0):
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(ended[1])
    return code, late or -code in (signal.SIGXCPU, signal.SIGKILL)


class Watch:
    """Pytest plugin: which functions of the package each test enters, which tests pass, and how long they take."""

    def __init__(self):
        self.entered, self.passed, self.failed = defaultdict(set), {}, []
        self.current, self.names = "import", {}

    def trace(self, frame, event, argument):  # only calls: there is no local trace function
        code = frame.f_code
        if code not in self.names:
            inside = code.co_filename.startswith(str(ROOT / "xaiutils"))
            path = os.path.relpath(code.co_filename, ROOT) if inside else ""
            function = code.co_qualname.split(".<locals>.<")[0].replace(".<locals>", "")
            self.names[code] = f"{path}::{'' if function.startswith('<') else function}" if inside else None
        if self.names[code]:
            self.entered[self.current].add(self.names[code])

    def pytest_runtest_logstart(self, nodeid):
        self.current = nodeid

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed[report.nodeid] = report.duration

    def as_dict(self) -> dict:
        tests = {t: [s, sorted(self.entered[t])] for t, s in self.passed.items() if t not in self.failed}
        return {"tests": tests, "failed": self.failed}


def map_tests(part: str) -> dict[str, dict]:
    """By test file with ``part`` in its name what `Watch` saw, from runs/mutation/tests.json; files that are new or
    changed are run."""
    import pytest

    known = json.loads(TESTS.read_text()) if TESTS.exists() else {}
    files = sorted(f for f in (ROOT / "tests").rglob("test_*.py") if part in f.name and not f.stem.startswith(LEFT_OUT))
    for file in files:
        digest = hashlib.sha1(file.read_bytes()).hexdigest()
        if known.get(file.name, {}).get("digest") == digest:
            continue
        seen = FOLDER / f"{file.name}.json"

        def work(file=file, seen=seen) -> int:
            watch = Watch()
            threading.settrace(watch.trace)
            sys.settrace(watch.trace)
            pytest.main([f"tests/{file.name}", "-m", "not slow", *OPTIONS], plugins=[watch])
            sys.settrace(None)
            seen.write_text(json.dumps(watch.as_dict()))
            return 0

        in_fork(work, 600)
        known[file.name] = {"digest": digest, **(json.loads(seen.read_text()) if seen.exists() else {"tests": {}})}
        seen.unlink(missing_ok=True)
        failed = known[file.name].get("failed", [])
        print(
            f"mapped {file.name}: {len(known[file.name]['tests'])} tests", *(f"FAILED {t}" for t in failed), flush=True
        )
        TESTS.write_text(json.dumps(known))
    return {file.name: known[file.name]["tests"] for file in files}


def tests_of(mutant: Mutant, tests: dict[str, dict], budget: float) -> tuple[list[str], float]:
    """Node ids in the order in which they are run, and the seconds that they take."""
    whole = not mutant.function  # a constant: every test that enters the module, and those of declared defaults
    sought = f"{mutant.path}::{mutant.function}"
    first, later = [], []
    for file, found in tests.items():
        every = whole and file == "test_defaults.py"

        def entered(names, every=every) -> bool:
            return every or any(n.startswith(sought) for n in names) if whole else sought in names

        hits = {t for t, (_, names) in found.items() if entered(names)}
        first += [(found[t][0], t) for t in hits]
        later += [(found[t][0], t) for t in found if hits and t not in hits]
    chosen, total = [], 0.0
    for seconds, test in [*sorted(first), *sorted(later)]:
        if not chosen or total + seconds <= budget:
            chosen.append(test)
            total += seconds
    return chosen, total


class Put(importlib.machinery.SourceFileLoader):
    """Imports the mutant in place of its file; tracebacks and `inspect` see the changed text too."""

    source = b""

    def get_code(self, fullname):
        linecache.cache[self.path] = (len(self.source), None, self.source.decode().splitlines(True), self.path)
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Finder:
    def __init__(self, mutant: Mutant):
        self.file = str(ROOT / mutant.path)
        self.module = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.source = mutant.apply(Path(self.file).read_bytes())

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        loader = Put(name, self.file)
        loader.source = self.source
        return importlib.util.spec_from_file_location(name, self.file, loader=loader)


def judge(mutant: Mutant, tests: dict[str, dict], budget: float) -> dict:
    """A row of the results: outcome is killed, timed out, survived or no test."""
    import pytest

    chosen, expected = tests_of(mutant, tests, budget)
    row = {"key": mutant.key, "line": mutant.line, "seconds": 0, "by": ""}
    if not chosen:
        return row | {"outcome": "no test"}
    note = FOLDER / "failed.txt"
    note.write_text("import")

    class Note:
        def pytest_runtest_logstart(self, nodeid):
            note.write_text(nodeid)

    def work() -> int:
        sys.meta_path.insert(0, Finder(mutant))
        return int(pytest.main([*chosen, "-x", *OPTIONS], plugins=[Note()]))

    start = time.monotonic()
    code, late = in_fork(work, 40 + 4 * expected)
    row["seconds"] = round(time.monotonic() - start, 1)
    outcome = "timed out" if late else "killed" if code else "survived"
    return row | {"outcome": outcome, "by": "" if outcome == "survived" else note.read_text()}


def read_results() -> dict[str, dict]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}  # the last line of a key counts


def report(mutants: list[Mutant], results: dict[str, dict]) -> None:
    """Counts of the judged among ``mutants``, and the survivors, each as a change of a line."""
    equivalent = yaml.safe_load(EQUIVALENT.read_text()) or {} if EQUIVALENT.exists() else {}
    judged = [(m, results[m.key]["outcome"]) for m in mutants if m.key in results and m.key not in equivalent]
    for mutant, outcome in judged:
        if outcome in ("survived", "no test"):
            print(f"\n{outcome}: {mutant.path}:{mutant.line} in {mutant.function or 'the module'}")
            print(f"  - {' '.join(mutant.before.split())}\n  + {' '.join(mutant.after.split())}\n  key: {mutant.key}")
    counts = Counter(outcome for _, outcome in judged)
    killed = counts["killed"] + counts["timed out"]
    left_out = sum(m.key in equivalent for m in mutants if m.key in results)
    print(f"\n{len(judged)} mutants: {dict(counts)}; {left_out} equivalent ones are not counted")
    print(f"killed or timed out: {100 * killed / max(len(judged), 1):.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=150, help="mutants that are judged in all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", action="append", help="a folder or file instead of all, as often as wished")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for one mutant")
    parser.add_argument("--again", action="store_true", help="judge the survivors once more")
    parser.add_argument("--tests", default="", help="only test files with this in their name, such as values")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    mutants, results = sample(ROOT, options.only or PACKAGES, options.seed)[: options.n], read_results()
    if not options.report:
        warm()
        tests = map_tests(options.tests)
        wanted = ("survived", "no test") if options.again else (None,)
        to_do = [m for m in mutants if results.get(m.key, {}).get("outcome") in wanted]
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            for number, mutant in enumerate(to_do, 1):
                row = results[mutant.key] = judge(mutant, tests, options.budget)
                writer.writerow(row)
                file.flush()
                print(f"{number}/{len(to_do)} {row['outcome']} {row['seconds']} s  {mutant.key[:150]}", flush=True)
    report(mutants, results)


if __name__ == "__main__":
    main()
