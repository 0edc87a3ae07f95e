"""The process in which native decoders run: whatever state it is in, it ends."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from trees import write_dicom

from xaiutils.datasets.reading.decoder_process import DecoderProcess


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells another process' limits")
def test_a_decoder_may_take_a_few_gigabytes(tmp_path, monkeypatch):
    import resource

    started, real = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: started.append(real(*a, **o)) or started[-1])
    decoder = DecoderProcess()
    decoder.ask("dicom", write_dicom(tmp_path / "a.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8)))
    try:
        limits = resource.prlimit(started[0].pid, resource.RLIMIT_AS)
    finally:
        decoder.close()
    assert all(4 * 2**30 <= limit <= 8 * 2**30 for limit in limits)


def test_a_decoder_that_hangs_is_ended(tmp_path, monkeypatch):
    started, real = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: started.append(real(*a, **o)) or started[-1])
    decoder = DecoderProcess()
    decoder.ask("dicom", write_dicom(tmp_path / "a.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8)))
    (process,) = started
    os.kill(process.pid, signal.SIGSTOP)  # it neither reads the end of its input nor ends
    try:
        decoder.close()
        assert process.poll() == -signal.SIGKILL
    finally:
        process.kill()
