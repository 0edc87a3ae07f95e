"""Time the making and the reading of data: phantoms, conversions, the cache, a set that is larger than memory allows.

    python benchmarks/data.py        (with XAI_KIT naming the kit of real images for the part on CBIS-DDSM)

Writes ``benchmarks/data.md``. Every part runs in a process of its own, so that the peaks of memory are its own:
anonymous memory, which the system cannot take back, apart from mapped files, which it can.
"""

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZES = (128, 224)
TASKS = ("margin", "presence", "calcifications", "shortcut", "five")


def phantoms() -> list[str]:
    import numpy as np

    from xaiutils.datasets import phantom

    lines = [
        "| phantom, ms an image | " + " | ".join(f"{s} px" for s in SIZES) + " |",
        "| --- |" + " --- |" * len(SIZES),
    ]
    for task in TASKS:
        medians = []
        for size in SIZES:
            times = []
            for seed in range(60):
                start = time.perf_counter()
                phantom.generate(seed, size, task)
                times.append(time.perf_counter() - start)
            medians.append(1000 * float(np.median(times[10:])))
        lines.append(f"| {task} | " + " | ".join(f"{m:.1f}" for m in medians) + " |")
    return lines


def memory() -> dict[str, float]:
    """Anonymous and file-backed resident memory in MB (Linux)."""
    text = Path("/proc/self/status").read_text()
    return {name: int(text.split(name + ":")[1].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def mammograms(limit: int) -> list[str]:
    """Load CBIS-DDSM's training masses at 800 px, once for the first time and once from the cache."""
    from xaiutils.datasets import load_dataset

    kit = Path(os.environ["XAI_KIT"]) / "cbis_ddsm"
    peak, done = memory(), threading.Event()

    def watch():
        while not done.wait(0.05):
            for name, value in memory().items():
                peak[name] = max(peak[name], value)

    before = dict(peak)
    threading.Thread(target=watch, daemon=True).start()
    cells = []
    for _ in range(2):
        ds = None  # one copy at a time
        start = time.perf_counter()
        ds = load_dataset("cbis_ddsm", "train", image_size=800, limit=limit, data_dir=kit)
        cells.append(f"{time.perf_counter() - start:.0f}")
    start = time.perf_counter()
    for _ in ds.batches(16):
        pass
    cells.append(f"{time.perf_counter() - start:.1f}")
    done.set()
    grown = {name: peak[name] - before[name] for name in peak}
    arrays = (ds.pixels[..., 0].nbytes + ds.masks.nbytes) / 1e6
    return [
        f"| {len(ds)} | " + " | ".join(cells) + f" | {arrays:.0f} | {grown['RssAnon']:.0f} | {grown['RssFile']:.0f} |"
    ]


def main() -> None:
    out = ["# Data: times and memory", "", f"{platform.machine()}, {os.cpu_count()} cores. Medians of 50 phantoms.", ""]
    out += _in_a_process("phantoms()")
    if os.environ.get("XAI_KIT"):
        out += [
            "",
            "CBIS-DDSM, training masses at 800 px (JPEG, breast cropped, masks from boxes); own: anonymous memory:",
            "",
        ]
        out += [
            "| images | first start, s | from the cache, s | all batches, s | arrays, MB | own, MB | mapped, MB |",
            "|" + " --- |" * 7,
        ]
        for limit in (150, 300, 600, 1111):
            out += _in_a_process(f"mammograms({limit})")
    else:
        out += ["", "XAI_KIT names no kit: the part on CBIS-DDSM was left out."]
    (HERE / "data.md").write_text("\n".join(out) + "\n", encoding="utf-8")
    print("\n".join(out))


def _in_a_process(call: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import data; print(*data.{call}, sep='\\n')"
    with tempfile.TemporaryDirectory() as cache:  # every part begins with an empty cache
        environment = {**os.environ, "XAI_CACHE": cache, "XAI_PROGRESS": "off"}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    return found.stdout.splitlines()


if __name__ == "__main__":
    main()
