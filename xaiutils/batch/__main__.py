"""The command line: ``python -m xaiutils.batch matrix.yml --cores 2 --gpus 1``."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from xaiutils.backend import tf
from xaiutils.batch.marker import LockedError, lock
from xaiutils.batch.matrix import Matrix, MatrixError, read_matrix
from xaiutils.batch.plan import PACKAGE, Job, State, jobs, outcomes, survey, write_plan
from xaiutils.batch.preflight import disk_needed, full_disk, megabytes, missing_data, unfit_models, unsuited
from xaiutils.batch.report import write_report
from xaiutils.evaluation.answers import left_out_in_words
from xaiutils.workbook.run_all import runs_folder

DONE, FAILED, INVALID, LOCKED, SIGNALLED = 0, 1, 2, 3, 128
_SNAKEMAKE = "from xaiutils.batch.job import end_with_parent as e; e(); from snakemake.cli import main; main()"
_GONE = {"--engine": "Snakemake runs every batch now; give --cores 1 for one job at a time"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a matrix; returns the exit status: 0 all is done, 1 something failed, 2 the matrix cannot be run and nothing
    was started, 3 another batch is at work in the same folder, 128 + n ended by the signal n (Ctrl-C: 130)."""
    options = _options(list(sys.argv[1:] if arguments is None else arguments))
    with _signals_interrupt():
        try:
            return _batch(options)
        except MatrixError as error:
            print(f"error: {error}", file=sys.stderr)
            return INVALID
        except LockedError as error:
            print(f"error: {error} Wait for it (--wait), or use another name or --runs.", file=sys.stderr)
            return LOCKED
        except KeyboardInterrupt as error:  # before anything was started
            return _interrupted(error)


def _options(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m xaiutils.batch",
        description="Run a matrix of notebooks: every cell once, resumable, several at a time or on a cluster.",
        epilog="What follows -- goes to Snakemake as it is. The guide is docs/batch.md.",
    )
    add = parser.add_argument
    add("matrix", type=Path, metavar="matrix.yml")
    add("--runs", type=Path, default=runs_folder(), metavar="FOLDER", help="results go to FOLDER/<name of the matrix>")
    add("--cores", type=int, metavar="N", help="CPU cores to use; default: all of the machine")
    add("--gpus", type=int, metavar="N", help="GPUs to use, one for a job; default: those that TensorFlow sees")
    add("--threads", type=int, metavar="N", help="threads of one job; default: 1, or its share of the cores with a GPU")
    add("--profile", metavar="FOLDER", help="a profile of Snakemake, for a cluster: see docs/cluster.md")
    add("--retries", type=int, metavar="N", help="new tries when a kernel dies, default 1; a failing cell has none")
    add("--dry-run", action="store_true", help="say what would be done, and why, and how much disk it needs")
    add("--wait", action="store_true", help="wait for another batch in the same folder instead of refusing")
    add("--quick", action="store_true", help="compare sizes, not checksums, of what is done")
    add("--any-code", action="store_true", help="keep what other versions of the notebooks or the package computed")
    split = given.index("--") if "--" in given else len(given)
    for option in (text.partition("=")[0] for text in given[:split]):
        if option in _GONE:
            parser.error(f"{option} does not exist any more: {_GONE[option]}")
    options = parser.parse_args(given[:split])
    options.snakemake = given[split + 1 :]
    for name, low in (("cores", 1), ("threads", 1), ("gpus", 0), ("retries", 0)):
        value = getattr(options, name)
        if value is not None and value < low:
            parser.error(f"--{name} must be at least {low}")
    return options


def _batch(options: argparse.Namespace) -> int:
    matrix, problems = read_matrix(options.matrix)
    folder = options.runs.resolve() / matrix.name
    problems += missing_data(matrix) + unfit_models(matrix)
    if not problems:
        matrix = _without_unsuited(matrix)
    plan = jobs(matrix)
    if not plan and not problems:
        problems.append("nothing is left to run: exclude takes everything away.")
    if problems or options.dry_run:
        _check_and_tell(folder, plan, problems, options)
        return DONE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise MatrixError([f"{folder} cannot be written ({error.strerror}); give another place by --runs."]) from error
    with lock(folder / "lock", str(folder), options.wait):
        state = _check_and_tell(folder, plan, problems, options)
        status = DONE
        shutil.rmtree(folder / "failed", ignore_errors=True)
        sweep(folder)
        (folder / "matrix.yml").write_bytes(options.matrix.read_bytes())
        if state.why:
            try:
                _run(folder, plan, state, matrix.cell_hours, options)
            except KeyboardInterrupt as error:
                status = _interrupted(error)
            sweep(folder)
        finished = _finish(folder, plan, options)
        return status or finished


def _without_unsuited(matrix: Matrix) -> Matrix:
    """The matrix without the methods that do not suit a model of the user's own, which are named."""
    left_out = unsuited(matrix)
    for model, methods in left_out.items():
        print(f"{model}: {left_out_in_words(methods)}")
    more = [{"model": (model,), "method": tuple(methods)} for model, methods in left_out.items()]
    return replace(matrix, exclude=(*matrix.exclude, *more))


def _check_and_tell(folder: Path, plan: Sequence[Job], problems: list[str], options: argparse.Namespace) -> State:
    """Look at what is done, print what is to be done and why; MatrixError with all problems, the disk's included."""
    state = survey(folder, plan, options.quick, options.any_code)
    size = disk_needed(plan, state) if not problems else 0
    if problems := [*problems, *(full_disk(folder, size) if state.why else ())]:
        raise MatrixError(problems)
    print(f"{folder}: {len(plan)} jobs, {len(plan) - len(state.why)} done, {len(state.why)} to do")
    for (notebook, why), count in Counter((n.split("/")[0], reason) for n, reason in state.why.items()).items():
        print(f"  {count:5} x {notebook}: {why}")
    known = [seconds for name, seconds in state.seconds.items() if name not in state.why]
    if state.why:
        took = f"; those that are done took {sum(known) / len(known):.0f} s each" if known else ""
        print(f"  new files: {megabytes(size)} at most{took}")
    return state


def sweep(folder: Path) -> None:
    """Remove what killed jobs left below ``attempts``. A job that is still at work, on a cluster, holds a lock."""
    for attempt in (folder / "attempts").glob("*"):
        with contextlib.suppress(LockedError), lock(attempt / "lock", str(attempt)):
            shutil.rmtree(attempt, ignore_errors=True)


def _run(folder: Path, plan: Sequence[Job], state: State, cell_hours: float, options: argparse.Namespace) -> None:
    """Write the plan and let Snakemake carry it out."""
    cluster = options.profile is not None
    gpus = options.gpus if options.gpus is not None or cluster else len(tf.config.list_physical_devices("GPU"))
    cores = options.cores or (None if cluster else _cores_here())
    threads = options.threads or (max(1, cores // gpus) if cores and gpus else 1)
    settings = {"threads": threads, "gpus": None if cluster else gpus, "cell_hours": cell_hours}
    write_plan(folder, plan, state, settings, gpus or 0)
    retries = options.retries if options.retries is not None or cluster else 1
    print(f"running on {cores or 'the cluster’s'} cores, {gpus or 'no'} GPUs", flush=True)
    run_snakemake(folder / "plan", cores, gpus, retries, options.profile, options.snakemake)


def run_snakemake(
    directory: Path, cores: int | None, gpus: int | None, retries: int | None, profile: str | None = None,
    options: Sequence[str] = (),
) -> None:  # fmt: skip
    """Let Snakemake run the jobs of the plan in ``directory``: several at once, or on a cluster by a ``profile``.

    None for a number leaves it to the profile; ``options`` are handed on as they are. Interrupted, Snakemake is given a
    minute to end its jobs (on a cluster: to cancel them).
    """
    command = [sys.executable, "-c", _SNAKEMAKE, "--snakefile", str(Path(__file__).with_name("Snakefile"))]
    command += ["--directory", str(directory), "--keep-going", "--drop-metadata"]
    # Its default scheduler solves an integer programme for every choice, which grows fast (benchmarks/batch.md).
    command += ["--scheduler", "greedy"]
    command += ["--profile", profile] if profile else ["--quiet", "rules", "host", "reason"]
    command += ["--cores", str(cores)] if cores else []
    command += ["--resources", f"gpu={gpus}"] if gpus is not None else []
    command += ["--retries", str(retries)] if retries is not None else []
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # the jobs import this package
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # A session of its own: a terminal's Ctrl-C reaches only this process, which passes it on, as it does other signals.
    process = subprocess.Popen([*command, *options], env=environment, start_new_session=True)
    try:
        process.wait()
    except KeyboardInterrupt:
        # To its jobs too, as a terminal would send it: Snakemake waits for them, and at SIGTERM until they are done.
        getattr(os, "killpg", os.kill)(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        raise
    finally:
        process.kill()


def _finish(folder: Path, plan: Sequence[Job], options: argparse.Namespace) -> int:
    """Write the report, and say what is not done; returns the exit status."""
    results = outcomes(folder, plan, survey(folder, plan, quick=True, any_code=options.any_code))
    done, status = sum(result.status == "done" for result in results), DONE
    try:
        page: object = write_report(folder, results)
    except Exception as error:  # an odd table, a full disk: what follows is what a night's work must say
        page, status = f"the report could not be written: {type(error).__name__}: {error}", FAILED
    for result in results:
        if result.status != "done":
            print(f"{result.status}: {result.job.name}: {result.error}{f' ({result.log})' if result.log else ''}")
    print(f"{done} of {len(results)} jobs done: {page}")
    return status or (DONE if done == len(results) else FAILED)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM (a service manager, a cluster) and SIGHUP (a terminal that closes) raise
    KeyboardInterrupt with their number, once: a second one ends the process. What is ignored stays so (nohup)."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
        raise KeyboardInterrupt(number)

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(error: KeyboardInterrupt) -> int:
    """Say so; returns the exit status. A terminal that has closed takes no words any more."""
    number = signal.Signals(error.args[0] if error.args else signal.SIGINT)
    try:
        print(f"\nended by {number.name}; the same command goes on from here", flush=True)
    except OSError:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    return SIGNALLED + number


def _cores_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
