"""All notebooks in order, unattended: ``python -m xaiutils.workbook.run_all dataset=folder data_dir=...``; or one of
``notebooks/studies``: ``--study attention``.

Every notebook runs in a kernel of its own through papermill and leaves its executed copy, log, figures, tables and
maps in ``runs/<run_name>/``; at the end ``report.html`` shows them together. Once data and models are there, the
others run two at a time.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xaiutils.class_names import positive_class
from xaiutils.datasets import DATASETS
from xaiutils.registry import suggest
from xaiutils.workbook.assignments import read_arguments
from xaiutils.workbook.execute import NotebookError, execute, kernel_environment
from xaiutils.workbook.own_models import KEPT, OwnModel, by_name, fitting_size, kept_names
from xaiutils.workbook.parameters import PARAMETERS, check

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
STUDIES = NOTEBOOKS / "studies"

RETRAINS = "07_retraining_checks"  # many models, and never a user's own
EVALUATES = "02_train_models"  # says how own models are read
PREPARE = ("01", "02")  # data and models, which the others need; of each other these need nothing
ON_REQUEST = (RETRAINS, "09_mammograms", "10_label_wise_localisation", "11_shortcuts")  # train models of their own


def notebooks(folder: Path = NOTEBOOKS, on_request: bool = False) -> list[Path]:
    """The numbered notebooks in reading order, those that train many models only if asked for. Raises FileNotFoundError
    where there are none."""
    found = sorted(path for path in folder.glob("[0-9][0-9]_*.ipynb") if on_request or path.stem not in ON_REQUEST)
    if not found:
        raise FileNotFoundError(f"{folder} holds no numbered notebooks; run it from a checkout of the workbook.")
    return found


def studies(folder: Path = STUDIES) -> dict[str, Path]:
    """The experiments of single documents by name, the stem of their notebook; each needs no other notebook."""
    return {path.stem: path for path in sorted(folder.glob("*.ipynb"))}


def resolve_folder(folder: str) -> str:
    """The absolute path of ``folder``, ``~`` written out. Raises ValueError where it is no path."""
    try:
        return str(Path(folder).expanduser().resolve())
    except (RuntimeError, ValueError, OSError) as error:  # no such user, a NUL, a loop of links
        raise ValueError(f"data_dir={folder!r} is no folder: {error}") from error


def prepare(
    values: Mapping[str, Any], steps: Sequence[Path], known_models: Sequence[str] = ()
) -> dict[Path, dict[str, Any]]:
    """Check ``values`` and share them out: each notebook gets those that its parameters cell declares.

    Own models get absolute paths, and ``image_size``, where it is not given, is the size that they take;
    ``known_models``: names of those that the run has already. Raises ValueError for anything that
    `xaiutils.workbook.parameters.check` refuses, for a size that does not suit an own model, and for a parameter that
    no notebook takes.
    """
    import papermill

    checked = check(values, known_models)
    if problems := dataset_problems(checked):
        raise ValueError(problems[0])
    if "data_dir" in checked:  # given from where the user is; the notebooks run in their own folder
        checked["data_dir"] = resolve_folder(checked["data_dir"])
    declared = {step: set(papermill.inspect_notebook(str(step))) for step in steps}
    everywhere = set().union(*declared.values())
    if "models" in checked and "model" not in checked and "model" in everywhere:
        checked["model"] = checked["models"][0]
        if "models" not in everywhere and len(checked["models"]) == 1:
            del checked["models"]
    elif "model" in checked and "models" not in checked and "models" in everywhere:
        checked["models"] = [checked["model"]]
    checked, own = by_name(checked)
    if own:
        checked["models"] = [own[name].entry if name in own else name for name in checked["models"]]
        _fit_image_size(checked, list(own.values()))
    for name in checked:
        if name not in everywhere:
            raise ValueError(f"no notebook takes the parameter {name!r}; {suggest(name, sorted(everywhere))}")
    trains_again = {step for step in steps if step.stem == RETRAINS and checked.get("model") in {*own, *known_models}}
    return {
        step: {k: v for k, v in checked.items() if k in declared[step] and not (k == "model" and step in trains_again)}
        for step in steps
    }


def _fit_image_size(checked: dict[str, Any], own: list[OwnModel]) -> None:
    """Give ``checked`` the size that own models take. Raises ValueError where it has another."""
    default = PARAMETERS["image_size"].default
    size = fitting_size(own, checked.get("image_size"), default)
    if "image_size" not in checked and size != default:
        checked["image_size"] = size
        print(f"image_size={size}, as {own[0].name} takes it", flush=True)


def dataset_problems(checked: Mapping[str, Any]) -> list[str]:
    """What checked parameters ask of a data set that it does not have, in words."""
    dataset, problems = checked.get("dataset", "phantom"), []
    if "data_dir" in checked and not DATASETS[dataset].reads_files:
        readers = [name for name, entry in DATASETS.items() if entry.reads_files]
        problems.append(
            f"data_dir is given, but dataset={dataset!r} reads no files; give dataset={' or '.join(readers)}."
        )
    known = list(DATASETS[dataset].options)
    for option in checked.get("data_options", {}):
        if option not in known:
            problems.append(f"data_options: {dataset} has no option {option!r}; {suggest(option, known)}")
    return problems


def runs_folder() -> Path:
    """The folder of all runs, where nothing else is said: the environment variable XAI_RUNS, or ``runs``."""
    return Path(os.environ.get("XAI_RUNS") or ROOT / "runs")


def check_data(parameters: Mapping[str, Any]) -> None:
    """List the images of a data set that is not downloaded, and print what there is to warn of, before anything starts.

    Raises ValueError that says what is wrong with ``data_dir``, the options, ``positive_class``, or the class names of
    own ``models``.
    """
    name = parameters.get("dataset", PARAMETERS["dataset"].default)
    entry = DATASETS[name]
    if not entry.reads_files:
        return
    from xaiutils.models import MODELS  # and with them TensorFlow

    place = Path(parameters.get("data_dir") or NOTEBOOKS / PARAMETERS["data_dir"].default)
    if "downloaded" in entry.access:  # into a new folder too, but not far from where folders are
        if not (place if place.exists() else place.parent).is_dir():
            raise ValueError(f"dataset={name!r}: data_dir={str(place)!r} is no folder, nor can it be a new one.")
        return
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            options = parameters.get("data_options", {})
            listing = entry.list_images(place.resolve(), seed=parameters.get("seed", 0), **options)
        positive_class(listing.class_names, parameters.get("positive_class", ""))
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"dataset={name!r}: {error}") from error
    trained = [m for m in parameters.get("models") or [""] if isinstance(m, str) and m in ("", *MODELS)]
    if trained and {record.split for record in listing.records} == {"test"}:
        raise ValueError(
            f"dataset={name!r}: {place} has test images alone, and nothing can be trained on them. Name a model of "
            "your own (models=path/mine.keras), or name no split at all, so that train, val and test are drawn by seed."
        )
    for warning in said:
        print(f"warning: {warning.message}", file=sys.stderr)
    for own in (entry for entry in parameters.get("models", []) if isinstance(entry, Mapping)):
        names = own.get("class_names", listing.class_names)
        if own.get("head") != "regression" and sorted(names) != sorted(listing.class_names):
            raise ValueError(
                f"{own['name']}: class_names are {', '.join(names)}, and the data's classes "
                f"{', '.join(listing.class_names)}. Give the names as the data have them, in the model's order."
            )
    print(f"{len(listing.records)} images of {len(listing.class_names)} classes in {place}", flush=True)


def run_notebooks(values: Mapping[str, Any], runs_dir: Path | None = None, steps: Sequence[Path] | None = None) -> Path:
    """Execute the notebooks with the given parameters and write the report; returns the run folder.

    ``runs_dir``: None for XAI_RUNS, else the parameter of that name, else ``runs`` of the workbook.

    Prints a line for each notebook. Raises ValueError before anything runs when a parameter is not valid, NotebookError
    when a notebook fails: its copy with the error is kept as ``NAME.failed.ipynb``, and those that have not begun are
    not run.
    """
    from xaiutils.workbook.html_report import write_report

    steps = notebooks() if steps is None else list(steps)
    if runs_dir is None:
        runs_dir = runs_folder() if os.environ.get("XAI_RUNS") else Path(values.get("runs_dir") or runs_folder())
    known = kept_names(Path(runs_dir) / str(values.get("run_name", "default")) / "models")
    shared = prepare({"run_name": "default", **values, "runs_dir": str(Path(runs_dir).resolve())}, steps, known)
    models: Any = next((given["models"] for given in shared.values() if "models" in given), [])
    check_data({**shared[steps[0]], "positive_class": values.get("positive_class", ""), "models": models})
    folder = Path(runs_dir).resolve() / shared[steps[0]]["run_name"]
    folder.mkdir(parents=True, exist_ok=True)
    _forget(folder, steps)
    begun, walk = time.monotonic(), _Walk(shared, folder)
    with kernel_environment(walk.environment), walk.shares:
        for step in steps:
            try:
                walk.wait_for(step)
            except (NotebookError, KeyboardInterrupt) as error:
                stopped = isinstance(error, KeyboardInterrupt)
                print(walk.back(step) + (_interrupted(folder, steps, step) if stopped else "failed"), flush=True)
                walk.pool.shutdown(wait=not stopped, cancel_futures=True)
                if any((folder / "record").glob("*.json")):
                    write_report(folder)
                raise
            if step.stem == EVALUATES:
                for name in by_name({"models": models})[1]:
                    notes = json.loads((folder / "models" / name / KEPT).read_text(encoding="utf-8"))["notes"]
                    print(f"{name}:", *notes[1:], sep="\n  ", flush=True)
    report = write_report(folder)
    print(f"done in {time.monotonic() - begun:.0f} s: {report}")
    return folder


class _Walk:
    """The notebooks of one run, each with its parameters: what prepares runs alone, the others `_at_once`."""

    def __init__(self, shared: Mapping[Path, Mapping[str, Any]], folder: Path) -> None:
        self._shared, self._folder, self._steps = shared, folder, list(shared)
        self._running: dict[Path, Future[float]] = {}
        self._shown: Path | None = None
        self.pool, self.shares = ThreadPoolExecutor(_at_once()), ExitStack()
        self.environment = {"XAI_PROGRESS": "log", "XAI_RUNS": str(folder.parent)}

    def back(self, step: Path) -> str:
        """To the beginning of a terminal's line, which begins as the step's does."""
        return f"\r\x1b[K{self._head(step)} " if sys.stdout.isatty() else ""

    def wait_for(self, step: Path) -> None:
        """Print the line of a step, which is executed now or has begun before."""
        self._shown = step
        print(self._head(step), end=" ", flush=True)
        if step.stem[:2] in PREPARE:
            seconds = self._execute(step)
        else:
            if not self._running:
                later = self._steps[self._steps.index(step) :]
                if len(later) > 1:
                    self.shares.enter_context(kernel_environment(_shared_cores()))
                self._running = {one: self.pool.submit(self._execute, one) for one in later}
            seconds = self._running[step].result()
        print(f"{self.back(step)}{seconds:.0f} s", flush=True)

    def _head(self, step: Path) -> str:
        return f"[{self._steps.index(step) + 1}/{len(self._steps)}] {step.stem} ..."

    def _execute(self, step: Path) -> float:
        start, back = time.monotonic(), self.back(step)

        def tell(*place: Any) -> None:
            if self._shown == step:
                _tell(back, *place)

        execute(step, self._shared[step], self._folder, self.environment, tell=tell if back else None)
        return time.monotonic() - start


def _at_once() -> int:
    """How many notebooks run at a time: two, if there are two cores, and memory for both."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return 2 if memory > 7e9 and (os.cpu_count() or 1) > 1 else 1


def _shared_cores() -> dict[str, str]:
    """What gives each of the notebooks that run `_at_once` its part of the cores: with threads for all of them they
    wait for each other. What the user has set stays."""
    part = str(max(1, (os.cpu_count() or 1) // _at_once()))
    return {name: os.environ.get(name, part) for name in ("TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS")}


def _tell(back: str, cell: int, cells: int, heading: str) -> None:
    """Show which cell of a notebook is under way, on the line that ``back`` clears."""
    width = shutil.get_terminal_size().columns - 1
    print(back + f"cell {cell} of {cells}: {heading}"[: width - len(back)], end="", flush=True)


def _interrupted(folder: Path, steps: Sequence[Path], step: Path) -> str:
    """What a run that the user ends keeps, and how it goes on."""
    done = ", ".join(before.stem for before in steps[: steps.index(step)]) or "nothing"
    return (
        f"interrupted\nKept in {folder}: {done}. The same command starts over, with the images that are prepared; "
        f"'make lab' goes on by hand, from {step.stem} with run_name = {folder.name!r}. A batch resumes by itself: "
        "make batch MATRIX=..."
    )


def _forget(folder: Path, steps: Sequence[Path]) -> None:
    """Remove what earlier runs left of these steps, so that a run that fails does not show old results as its own."""
    old = [folder / "report.html"]
    for step in steps:
        old += [folder / "record" / f"{step.stem}.json", *(folder / "notebooks").glob(f"{step.stem}*.ipynb")]
    for path in old:
        path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m xaiutils.workbook.run_all", description=__doc__.split("\n\n")[0])
    parser.add_argument("assignments", nargs="*", metavar="name=value", help="a notebook parameter")
    parser.add_argument("--parameters", type=Path, metavar="FILE.yml", help="notebook parameters as YAML")
    parser.add_argument("--study", metavar="NAME", help="run notebooks/studies/NAME.ipynb, in a run of its name")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="folder of all runs; default: XAI_RUNS, or runs")
    parser.add_argument("--list", action="store_true", help="list the parameters and stop")
    options = parser.parse_args(arguments)
    if options.list:
        for p in PARAMETERS.values():
            print(f"{p.name} = {json.dumps(p.default)}: {p.help}; {p.allowed()}")
        return 0
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of a run that is ended: the traceback of its dead kernel
    try:
        values, steps = read_arguments(options.assignments, options.parameters), None
        if options.study is not None:
            if options.study not in studies():
                raise ValueError(f"there is no study {options.study!r}; {suggest(options.study, list(studies()))}")
            values, steps = {"run_name": options.study, **values}, [studies()[options.study]]
        run_notebooks(values, options.runs, steps)
    except (ValueError, FileNotFoundError, NotebookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # what it kept is said
        return 130
    return 0


if __name__ == "__main__":
    status = main()
    if status == 130:  # without waiting for the notebooks that run: their kernels end with this process
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
