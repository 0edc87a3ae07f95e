"""One notebook, executed by papermill in a kernel of its own: `run_all` and the batch both call this.

Light on purpose (no TensorFlow, no NumPy): a batch starts a process for every cell of its matrix.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CELL_SECONDS = 4 * 3600


class NotebookError(RuntimeError):
    """A notebook failed; the message says which, why and where its log is.

    ``name`` and ``reason`` are of the error; ``broke_off`` is True where no cell failed, but the kernel died, did not
    start, or outlasted its time.
    """

    def __init__(self, message: str, name: str, reason: str, broke_off: bool = False):
        super().__init__(message)
        self.name, self.reason, self.broke_off = name, reason, broke_off


def execute(
    step: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    environment: Mapping[str, str],
    cell_seconds: int = CELL_SECONDS,
    tell: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Execute a notebook; returns its executed copy, ``folder/notebooks/NAME.ipynb``.

    The copy appears there once all cells have run. The output of the cells goes to ``folder/log/NAME.log`` as well.
    ``environment`` is added to the kernel's variables; ``cell_seconds`` is the limit of one cell. ``tell`` is called
    before each cell: its number, how many there are, and the heading above it. Threads may execute several at a time
    within one `kernel_environment`. Raises NotebookError; the notebook with the error is then kept as
    ``NAME.failed.ipynb``.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel

    finished, log = folder / "notebooks" / step.name, folder / "log" / f"{step.stem}.log"
    part, failed = finished.with_suffix(".part.ipynb"), finished.with_suffix(".failed.ipynb")
    finished.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as out,
        tempfile.TemporaryDirectory(prefix="xai-") as sockets,
        kernel_environment(environment),
    ):
        try:
            papermill.execute_notebook(
                literal(step),
                literal(part),
                parameters=dict(parameters),
                resources={"metadata": {"path": str(step.parent)}},  # papermill's cwd would be that of all threads
                progress_bar=False,
                engine_name=_engine(tell) if tell else None,
                stdout_file=out,
                stderr_file=out,
                execution_timeout=cell_seconds,
                **_kernel(sockets),
            )
        except papermill.PapermillExecutionError as error:
            part.replace(failed)
            raise NotebookError(
                f"{step.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                f"The notebook with the error is {failed}, its output {log}.",
                error.ename,
                error.evalue,
            ) from error
        except NoSuchKernel as error:
            raise NotebookError(
                f"Jupyter finds no kernel named python3 in {sys.prefix}; run the notebooks by 'make run'.",
                type(error).__name__,
                str(error),
            ) from error
        except Exception as error:  # the kernel died (often: out of memory), or a cell outlasted its limit
            if part.exists():
                part.replace(failed)
            raise NotebookError(
                f"{step.stem} broke off: {type(error).__name__}: {error}\nIf memory was short, lower batch_size, "
                f"n_test or image_size. What it did is in {failed}, its output in {log}.",
                type(error).__name__,
                str(error),
                broke_off=True,
            ) from error
    part.replace(finished)
    return finished


def _engine(tell: Callable[[int, int, str], None]) -> str:
    """The name of an engine of papermill that tells each cell before it runs."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Telling(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            begin, cells = nb_man.cell_start, nb_man.nb.cells

            def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
                begin(cell, cell_index, **more)
                before = [
                    text for c in cells[:cell_index] if c.cell_type == "markdown" for text in c.source.splitlines()
                ]
                heading = next((text.lstrip("# ") for text in reversed(before) if text.startswith("#")), "")
                kinds = [c.cell_type for c in cells]
                if cell.cell_type == "code":
                    tell(kinds[: cell_index + 1].count("code"), kinds.count("code"), heading)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    name = f"telling {id(tell)}"
    papermill_engines.register(name, Telling)
    return name


def literal(path: Path) -> str:
    """A path as papermill takes it, which would put parameters in the place of {braces}."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel(folder: str) -> dict[str, Any]:
    """How papermill starts the kernel. Jupyter interrupts it before it ends it, which the kernel calls an error where
    it was busy: a run's lines do not show that."""
    quiet = ["--Application.log_level=CRITICAL"]
    return {"kernel_name": "python3", "config": private_kernel(folder), "extra_arguments": quiet}


def private_kernel(folder: str) -> Any:
    """Jupyter's settings for a kernel that talks over sockets in ``folder`` instead of unencrypted TCP ports."""
    from traitlets.config import Config

    config = Config()
    if os.name == "posix":
        config.KernelManager.transport = "ipc"
        config.KernelManager.connection_file = str(Path(folder) / "kernel.json")
    return config


@contextmanager
def kernel_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the kernels that start within the block; put back after it."""
    old = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
