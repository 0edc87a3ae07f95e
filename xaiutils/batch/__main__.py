"""The command line: ``python -m xaiutils.batch matrix.yml --cores 2 --gpus 1``."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xaiutils.batch import engine
from xaiutils.batch.matrix import MatrixError, read_matrix
from xaiutils.batch.outcome import outcomes
from xaiutils.batch.plan import Job, State, cores_here, jobs, survey, sweep, write_plan
from xaiutils.batch.report import write_report
from xaiutils.batch.room import in_words, missing_data, needed, too_little_disk, unfit_models
from xaiutils.batch.store import LockedError, lock
from xaiutils.batch.watch import Ended, ended_by_signals
from xaiutils.workbook.pipeline import runs_folder

DONE, FAILED, INVALID, LOCKED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a matrix; returns the exit status: 0 all is done, 1 something failed, 2 the matrix cannot be run and nothing
    was started, 3 another batch is at work in the same folder, 130 interrupted, 128 + n ended by the signal n."""
    options = _options(arguments)
    with ended_by_signals():
        try:
            return _main(options)
        except MatrixError as error:
            print(f"error: {error}", file=sys.stderr)
            return INVALID
        except LockedError as error:
            print(f"error: {error} Wait for it (--wait), or use another name or --runs.", file=sys.stderr)
            return LOCKED
        except KeyboardInterrupt as error:  # before anything was started
            return _interrupted(error)


def _main(options: argparse.Namespace) -> int:
    matrix, problems = read_matrix(options.matrix)
    folder = options.runs.resolve() / matrix.name
    problems += missing_data(matrix) + unfit_models(matrix)
    plan = jobs(matrix)
    if not plan and not problems:
        problems.append("nothing is left to run: exclude takes everything away.")
    if problems or options.dry_run:
        _check_and_tell(folder, plan, problems, options)
        return DONE
    with _locked(folder, options.wait):
        state = _check_and_tell(folder, plan, problems, options)
        return _run(folder, plan, state, matrix.cell_hours, options)


def _interrupted(error: KeyboardInterrupt) -> int:
    """Say so; returns the exit status. A terminal that has closed takes no words any more."""
    try:
        sys.stdout.flush()
        print(f"{str(error) or 'interrupted'}; the same command goes on from here")
        sys.stdout.flush()
    except OSError:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    return 128 + error.number if isinstance(error, Ended) else INTERRUPTED


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m xaiutils.batch",
        description="Run a matrix of notebooks: every cell once, resumable, several at a time or on a cluster.",
        epilog="What follows -- goes to Snakemake as it is. The guide is docs/batch.md.",
    )
    add = parser.add_argument
    add("matrix", type=Path, metavar="matrix.yml")
    add("--runs", type=Path, default=runs_folder(), metavar="FOLDER", help="results go to FOLDER/<name of the matrix>")
    add("--cores", type=int, metavar="N", help="CPU cores to use; default: all of the machine")
    add("--gpus", type=int, metavar="N", help="GPUs to use, one for a job; default: those that nvidia-smi lists")
    add(
        "--threads", type=int, metavar="N", help="threads of one job; default: 1, or its part of the cores beside a GPU"
    )
    add("--engine", choices=engine.ENGINES, default="auto", help="auto: snakemake where the extra batch is installed")
    add("--profile", metavar="FOLDER", help="a profile of Snakemake, for a cluster: see docs/cluster.md")
    add("--retries", type=int, default=1, metavar="N", help="new tries when a kernel dies; a failing cell has none")
    add("--dry-run", action="store_true", help="say what would be done, and why, and how much disk it needs")
    add("--wait", action="store_true", help="wait for another batch in the same folder instead of refusing")
    add("--quick", action="store_true", help="compare sizes, not checksums, of what is done")
    add("--any-code", action="store_true", help="keep what other versions of the notebooks or the package computed")
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:split])
    options.snakemake = given[split + 1 :]
    for name in ("cores", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.retries < 0 or (options.gpus is not None and options.gpus < 0):
        parser.error("--retries and --gpus must not be negative")
    if options.engine == "auto":
        options.engine = "snakemake" if engine.has_snakemake() else "plain"
    elif options.engine == "snakemake" and not engine.has_snakemake():
        parser.error("Snakemake is not installed: pip install 'xaiutils[batch]', or --engine plain")
    if options.engine == "plain" and (options.profile or options.snakemake):
        parser.error("--profile and what follows -- are for Snakemake: pip install 'xaiutils[batch]'")
    return options


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold the folder for this batch alone; with ``wait``, as soon as it is free."""
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder / "lock", str(folder)))
                break
            except OSError as error:
                problem = f"{folder} cannot be written ({error.strerror}); give another place by --runs."
                raise MatrixError([problem]) from error
            except LockedError as error:
                if not wait:
                    raise
                if not told:
                    print(f"waiting: {error}", flush=True)
                told = True
                time.sleep(1)
        yield


def _check_and_tell(folder: Path, plan: Sequence[Job], problems: list[str], options: argparse.Namespace) -> State:
    """Look at what is done, print what is to be done and why; MatrixError with all problems, the disk's included."""
    state = survey(folder, plan, options.quick, options.any_code)
    size = needed(plan, state) if not problems else 0
    if problems := [*problems, *(too_little_disk(folder, size) if state.why else ())]:
        raise MatrixError(problems)
    print(f"{folder}: {len(plan)} jobs, {len(plan) - len(state.why)} done, {len(state.why)} to do")
    for notebook, why in Counter((name.split("/")[0], reason) for name, reason in state.why.items()).items():
        print(f"  {why:5} x {notebook[0]}: {notebook[1]}")
    known = [state.seconds[job.name] for job in plan if job.name in state.seconds and job.name not in state.why]
    if state.why:
        took = f"; those that are done took {sum(known) / len(known):.0f} s each" if known else ""
        print(f"  new files: {in_words(size)} at most{took}")
    return state


def _run(folder: Path, plan: Sequence[Job], state: State, cell_hours: float, options: argparse.Namespace) -> int:
    gpus = options.gpus if options.gpus is not None or options.profile else _gpus_here()
    cores = options.cores or (None if options.profile else cores_here())
    share = cores if options.engine == "plain" else max(1, cores // gpus) if cores and gpus else 1
    settings = {
        "threads": options.threads or share,
        "gpus": None if options.profile else gpus,
        "retries": options.retries,
        "cell_hours": cell_hours,
    }
    sweep(folder)
    (folder / "matrix.yml").write_bytes(options.matrix.read_bytes())
    write_plan(folder, plan, state, settings, gpus or 0)
    status = DONE
    if state.why:
        print(f"running under {options.engine}, {cores or 'the cluster’s'} cores, {gpus or 'no'} GPUs", flush=True)
        try:
            if options.engine == "plain":
                engine.run_plain(folder, plan, state)
            else:
                engine.run_snakemake(folder, cores, gpus, options.profile, options.snakemake)
        except KeyboardInterrupt as error:
            status = _interrupted(error)
    results = outcomes(folder, plan)
    try:
        page: object = write_report(folder, plan, results)
    except Exception as error:  # an odd table, a full disk: what follows is what a night's work must say
        page, status = f"the report could not be written: {type(error).__name__}: {error}", status or FAILED
    for result in results:
        if result.status != "done":
            print(f"{result.status}: {result.job.name}: {result.error}{f' ({result.log})' if result.log else ''}")
    done = sum(result.status == "done" for result in results)
    print(f"{done} of {len(results)} jobs done: {page}")
    return status or (DONE if done == len(results) else FAILED)


def _gpus_here() -> int:
    """GPUs that the NVIDIA driver lists and the caller may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


if __name__ == "__main__":
    sys.exit(main())
