"""Kernels forked from a process that has imported what every notebook imports: each begins some 4 s of a core sooner.

Importing TensorFlow starts no thread of its own, so a fork of the process is whole as long as it has run no operation.
`forked_kernels` serves them; this file, run as a script, is what Jupyter starts as the kernel "python3".
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

SERVER = "XAI_TEST_KERNELS"  # the address
PARTS = ("attribution", "beyond_maps", "classification", "evaluation", "plots", "training", "widgets", "workbook")
IMPORTED = [f"xaiutils.{name}" for name in PARTS]


@contextlib.contextmanager
def forked_kernels() -> Iterator[dict[str, str]]:
    """Serves kernels within the block, to those who execute notebooks with the variables that it yields."""
    with tempfile.TemporaryDirectory(prefix="xai-kernels-") as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, str(Path(__file__).resolve()), "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        variables = {"JUPYTER_PATH": folder, SERVER: f"{folder}/socket"}
        server = subprocess.Popen([sys.executable, __file__, "serve"], env={**os.environ, **variables})
        try:
            yield variables
        finally:
            server.terminate()
            server.wait()


def serve() -> None:
    """Fork a kernel for each client."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as kernels set it
    for name in ("ipykernel.kernelapp", "pandas", "matplotlib.pyplot", *IMPORTED):
        importlib.import_module(name)
    quick_figures()
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(os.environ[SERVER])
    listening.listen()
    while True:
        client, _ = listening.accept()
        if not os.fork():
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            become_kernel(client)
        client.close()


def quick_figures() -> None:
    """Half of what a figure costs is its 300 dpi and the fonts of its PDF, which test_plots and test_workbook check."""
    picture = importlib.import_module("xaiutils.workbook.picture")
    picture.FIGURE_DPI["saved"] = picture.FIGURE_DPI["shown"]
    picture.rc_context = lambda _: contextlib.nullcontext()


def reap() -> None:
    """Take note of kernels that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become_kernel(client: socket.socket) -> NoReturn:
    """Run a kernel as if the client had started it, and no longer than the client runs."""
    message, streams, *_ = socket.recv_fds(client, 200_000, 3)
    asked = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    del os.environ["JPY_PARENT_PID"]  # of the client's parent, which the kernel would look for in vain
    os.chdir(asked["folder"])
    os.setsid()
    client.send(str(os.getpid()).encode())
    threading.Thread(target=lambda: (client.recv(1), os._exit(1)), daemon=True).start()
    sys.argv = ["ipykernel_launcher", *asked["arguments"]]
    sys.path[0] = ""
    importlib.import_module("ipykernel.kernelapp").launch_new_instance()
    sys.exit()


def ask() -> None:
    """Have a kernel forked, and be its process to whoever started this one."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        try:
            client.connect(os.environ[SERVER])
            break
        except OSError:  # the server still imports
            time.sleep(0.1)
    asked = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": str(Path.cwd())}
    socket.send_fds(client, [json.dumps(asked).encode()], [0, 1, 2])
    kernel = int(client.recv(100))

    def hand_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(kernel, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    client.recv(1)  # nothing comes: it returns where the kernel has ended


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else ask()
