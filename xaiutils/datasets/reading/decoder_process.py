"""Runs native decoders in a process of their own: damaged bytes may end that one, and cost one file.

The process is started at the first need, kept for the next file, and started again when it has died.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, cast

from xaiutils import file_limits

TIMEOUT = 120.0  # seconds for a file
CHILD_SCRIPT = Path(__file__).with_name("decoder_child.py")


class DecoderProcess:
    """The kept process; threads take turns."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0

    @property
    def pid(self) -> int | None:
        """The number of the running process, None where there is none."""
        return None if self._process is None else self._process.pid

    def ask(self, task: str, path: Path, timeout: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The head and the bytes of the child's answer. Raises ValueError: it refuses the file, dies of it, or takes
        more than ``timeout`` seconds (None: `TIMEOUT`)."""
        timeout = TIMEOUT if timeout is None else timeout
        with self._lock:
            process = self._running()
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(timeout, end)
            timer.start()
            try:
                head, data = _exchange(process, {"task": task, "path": str(Path(path).absolute())})
            except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
                code = self._stop()
                if late.is_set():
                    raise ValueError(f"its decoder was not done after {timeout:g} s") from error
                raise ValueError(f"its decoder died ({_ending(code)})") from error
            except BaseException:  # an interrupt in the middle of an answer
                self._stop()
                raise
            finally:
                timer.cancel()
        if "error" in head:
            raise ValueError(head["error"])
        return head, data

    def _running(self) -> subprocess.Popen:
        if self._owner != os.getpid():  # after a fork the pipes are the parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(CHILD_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _stop(self) -> int | None:
        """End the process, where there is one; its exit code, or None."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return None
        for pipe in _pipes(process):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            return process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._stop()


def _pipes(process: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """Its input and its output, both of which were asked for."""
    return cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)


def _exchange(process: subprocess.Popen, request: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    to_child, from_child = _pipes(process)
    to_child.write(json.dumps(request).encode() + b"\n")
    to_child.flush()
    line = from_child.readline(2**16)
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if head["bytes"] > file_limits.MAX_FILE_BYTES:
        raise ValueError("an answer of that size cannot be right")
    data = from_child.read(head["bytes"])
    if len(data) != head["bytes"]:
        raise EOFError
    return head, data


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


DECODER = DecoderProcess()
atexit.register(DECODER.close)
