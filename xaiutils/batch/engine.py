"""Who starts the jobs: Snakemake, or a plain loop that runs one after the other. Both leave the same folders."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from xaiutils.batch.plan import PACKAGE, Job, State
from xaiutils.batch.store import DONE
from xaiutils.batch.watch import Ended

ENGINES = ("auto", "snakemake", "plain")
_SNAKEMAKE = """
from xaiutils.batch.watch import end_with_parent
end_with_parent()
from snakemake.cli import main
main()
"""


def has_snakemake() -> bool:
    """Whether the extra ``batch`` is installed."""
    return importlib.util.find_spec("snakemake") is not None


def run_plain(folder: Path, plan: Sequence[Job], state: State) -> None:
    """Run what is to be done, one job after the other, and go on when one fails."""
    to_do = [job for job in plan if job.name in state.why]
    for number, job in enumerate(to_do, start=1):
        print(f"[{number}/{len(to_do)}]", end=" ", flush=True)
        missing = [name for name in job.after if not (folder / name / DONE).exists()]
        if missing:
            print(f"{job.name}: not run, since {missing[0]} is not done", flush=True)
            continue
        command = [sys.executable, "-m", "xaiutils.batch.job", str(folder), job.name]
        _run(command)


def run_snakemake(
    folder: Path, cores: int | None, gpus: int | None, profile: str | None, options: Sequence[str] = ()
) -> None:
    """Run what is to be done under Snakemake: several jobs at once, or on a cluster by a ``profile``.

    ``options`` are handed on to Snakemake as they are.
    """
    command = [sys.executable, "-c", _SNAKEMAKE]
    command += ["--snakefile", str(Path(__file__).with_name("Snakefile")), "--directory", str(folder)]
    # Which jobs are to be done, and that no other batch is at work here, is known before Snakemake starts.
    command += ["--keep-going", "--nolock", "--drop-metadata", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    # Its default scheduler solves an integer programme for every choice, which grows fast (benchmarks/batch.md).
    command += ["--scheduler", "greedy"]
    command += ["--profile", profile] if profile else ["--quiet", "rules", "host", "reason"]
    command += ["--cores", str(cores)] if cores else []
    command += ["--resources", f"gpu={gpus}"] if gpus is not None else []
    _run([*command, *options])


def _run(command: Sequence[str]) -> None:
    """Run a process to its end. Interrupted, it is given a minute to end its own jobs (on a cluster: to cancel them);
    Ctrl-C reaches it by itself, what other signals ask for is handed on."""
    process = subprocess.Popen(command, env=_environment())
    try:
        process.wait()
    except KeyboardInterrupt as error:
        if isinstance(error, Ended):
            process.send_signal(signal.SIGINT)  # at SIGTERM Snakemake would wait until its jobs are done
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        finally:
            process.kill()
        raise


def _environment() -> dict[str, str]:
    """The processes of the jobs import this package, wherever they start."""
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
