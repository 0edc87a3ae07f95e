"""Time every attribution method against the passes that it must make (against other libraries: `peers`).

    make bench                                          everything; hours on two cores
    python benchmarks/methods.py --quick                one small model, one image, only the gradient methods
    python benchmarks/methods.py --minutes 30           stop after the row that is running then
    python benchmarks/methods.py --parts grid --models efficientnet_b0
    python benchmarks/methods.py --models vit_b32 --methods lrp --again     measure rows that are there once more
    python benchmarks/methods.py --device gpu           ours on a GPU, into files of its own: docs/gpu.md

Every row is appended to ``benchmarks/methods.csv`` as soon as it is measured, and rows that are there are not measured
again (``--fresh`` begins anew), so a run can be cut and goes on where it was. ``benchmarks/methods.md`` is made from
the rows at the end. All times are medians in seconds after a warm-up; ratios hold where absolute times do not, if the
machine does nothing else.

Parts: ``methods`` has every method on every model, for 1 and 8 images; ``growth`` some methods as images, steps or
channels grow; ``grid`` the thesis' figure (8 methods, an image and 6 changed copies of it) by its two libraries and by
ours; ``first`` the first map of one image by each method, in a process of its own whose model is built. The floor
of a method is the number of passes that its algorithm must make (`floor_passes`) times the cost of one graph-compiled
pass at the best batch size that they fill, taken just before and just after the row. Peak memory is what the process'
resident memory rises to in the first call, above what it was before; Linux alone tells it.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from peer_rows import peers_section
from rows import Rows, as_markdown

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.cam.ablation_cam import ablation
from xaiutils.attribution.shapley import MOST_EXACT
from xaiutils.attribution.windows import window_starts
from xaiutils.backend import keras, tf
from xaiutils.files import write_text
from xaiutils.graph import passes
from xaiutils.registry import check_parameters

HERE = Path(__file__).parent
MODELS = ("efficientnet_lite0", "efficientnet_b0", "vit_b32")
PARTS = ("methods", "growth", "grid", "first")
FIRST_AIM = (
    "Seconds of the first map of one image in a new process whose model is built: the import of the methods and "
    "TensorFlow's own first call are among them, some 0.1 s each. Empty: not measured."
)
FIRST_AIMS = {"efficientnet_lite0": 0.8, "efficientnet_b5": 3.0, "vit_b32": 1.5}  # seconds, for a method of one pass
COUNTED = (
    "What the floor does not count, and cannot be saved.\n\n"
    "- LRP, CLRP, SGLRP: the z+ rule of a convolution takes the convolution, the sum of its positive "
    "contributions, and the way back; where the input has both signs that sum and the way back are two convolutions "
    "each (of x+ and x-). These 3 or 5 are, weighted by multiply-adds, 4.03 on EfficientNet-Lite0 and 5.00 on B0, "
    "whose SiLU leaves no input without negative values; the floor, a gradient and a forward pass, has 3. So 1.34 and "
    "1.67 times the floor are the rule's own. In a transformer every linear layer reads both signs (after LayerNorm, "
    "GELU and attention), and they are 99 % of its multiply-adds: 1.66 for the methods that have z+ there, CLRP, SGLRP "
    "and, of many layers, XRelevance-CAM; not for LRP, which has epsilon in them. (Half of sum and absolute sum would "
    "save one, and leave rounding in place of the 0 by which a unit without positive contributions is known.)\n"
    "- FullGrad: each of its shares (84 on Lite0, two for each convolution) is a product of bias and signal, of "
    "which the absolute value, the least, the largest and the sum over channels are taken: five passes over memory "
    "that no gradient makes, two fifths of its CPU time on Lite0. The bias taken out of the product, and the sum over "
    "channels as a product with a matrix, took as long or longer.\n"
    "- DeepLIFT: the multiplier of a ReLU takes nine operations on every value (activation, two differences, size, "
    "comparison, product, quotient, derivative, choice), a gradient's takes one; they are half of its CPU time on "
    "Lite0. On one thread it is 2.3 gradients, before the choice was made once 2.7. Only fused operations would "
    "take fewer passes over memory, and XLA, which has them, loses more at the convolutions of a CPU (docs/gpu.md). "
    "One of the nine less (an exact comparison in place of size and comparison) took as long.\n"
    "- Guided integrated gradients: its points follow from one another, so that its floor is gradients of as many "
    "images as there are. A step finds two or three quantiles of the gradients' sizes, by some ten counts over all "
    "values each: an eighth to a quarter of a gradient of Lite0. Sorting took five times as long as counting."
)
THESIS = {
    "vanilla_gradients": ("tf-explain", {}),
    "gradients_x_inputs": ("tf-explain", {}),
    "smoothgrad": ("tf-explain", {"n_samples": 5}),
    "integrated_gradients": ("tf-explain", {"n_steps": 20}),
    "occlusion": ("tf-explain", {"patch_size": 15}),
    "grad_cam": ("tf-explain", {}),
    "grad_cam_plus_plus": ("tf-keras-vis", {}),
    "score_cam": ("tf-keras-vis", {}),
}
# Fewer passes than by default where those would take many minutes: seconds divided by the floor tell the same.
PARAMETERS = {
    **{name: parameters for name, (_, parameters) in THESIS.items() if parameters},
    "smoothgrad_squared": {"n_samples": 5},
    "vargrad": {"n_samples": 5},
    "expected_gradients": {"n_samples": 20},
    "score_cam": {"max_channels": 128},
    "rise": {"n_masks": 200},
    "lime": {"n_samples": 200},
    "prediction_difference": {"patch_size": 20},
    **{name: {"n_steps": 20} for name in ("guided_ig", "blur_ig", "idgi")},
    "smooth_grad_cam_plus_plus": {"n_samples": 5},
    "ss_cam": {"max_channels": 16, "n_samples": 4},
    "is_cam": {"max_channels": 16, "n_steps": 4},
    "shapley": {"n_segments": 8},
    "sobol": {"n_samples": 4},
    "hsic": {"n_masks": 200},
    "kernel_shap": {"n_coalitions": 200},
}
REPEAT = set(PARAMETERS) | {
    *("integrated_gradients_bw", "integrated_grad_cam", "faster_score_cam", "ablation_cam", "xrai", "mda")
}  # what takes many passes
# (method, number of images, parameters), one thing growing in each group.
GROWTH = (
    [("grad_cam", n, {}) for n in (1, 8, 32, 64)]
    + [("vanilla_gradients", n, {}) for n in (1, 8, 32, 64)]
    + [("integrated_gradients", 1, {"n_steps": n}) for n in (5, 20, 80, 320)]
    + [("smoothgrad", 1, {"n_samples": n}) for n in (5, 20, 80)]
    + [("occlusion", 1, {"patch_size": n}) for n in (56, 28, 14, 7)]
    + [("score_cam", 1, {"max_channels": n}) for n in (20, 80, 320)]
    + [("score_cam", 1, {})]
    + [("rise", 1, {"n_masks": n}) for n in (100, 400, 1600)]
)
ENOUGH = 15.0  # seconds of repeats for one row
AIMS = {1: 1.4, 8: 1.3}  # times the floor, by the number of images


@dataclass(frozen=True)
class Row:
    """One measurement, or what prevented it."""

    part: str
    model: str
    images: int
    method: str
    library: str
    parameters: str
    seconds: float
    repeats: int
    floor: float
    peak_mb: float
    note: str = ""

    @property
    def key(self) -> tuple:
        return self.part, self.model, self.images, self.method, self.library, self.parameters

    @property
    def said(self) -> str:
        peak = f", peak {self.peak_mb:.0f} MB" if np.isfinite(self.peak_mb) else ""
        return f"{self.seconds:.4g} s, {self.seconds / self.floor if self.floor else np.nan:.2f} x floor{peak}"


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(call: Callable[[], object], repeats: int) -> tuple[float, int, float]:
    """Median seconds, how many calls it is of, and the peak of memory in MB of the first call, which warms up.

    A first call that takes longer than three rows may is taken as it is: warming up is a small part of it then.
    """
    start = time.perf_counter()
    peak = peak_memory(call)
    first = time.perf_counter() - start
    if first > 3 * ENOUGH:
        return first, 1, peak
    times: list[float] = []
    while len(times) < repeats and sum(times) < ENOUGH:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), len(times), peak


def first_call(model: str, method: str, parameters: dict) -> tuple[float, int, float]:
    """As `measure`, of the first map in a process of its own."""
    code = f"""
import time, warnings
warnings.simplefilter("ignore")
import numpy as np, xaiutils as xai
model, image = xai.build_model({model!r}, 2), np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3))
start = time.perf_counter()
try:
    xai.explain(model, image, 0, {method!r}, **{parameters!r})
    print("seconds", time.perf_counter() - start)
except xai.attribution.ModelError as error:
    print("refused", error)
"""
    environment = {**os.environ, "XAI_COMPILE": "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    said, _, what = done.stdout.splitlines()[-1].partition(" ")
    if said == "refused":
        raise ModelError(what)
    return float(what), 1, np.nan


def peak_memory(call: Callable[[], object]) -> float:
    """MB by which resident memory rose at most while ``call`` ran; NaN where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> float:
        return int(status.read_text().split(name + ":")[1].split()[0]) / 1024

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls freed, so that it is not used unseen
        reset.write_text("5")  # the peak (VmHWM) starts from now
        before = read("VmRSS")
    except OSError:
        call()
        return np.nan
    call()
    return read("VmHWM") - before


class Passes:
    """The passes that methods are made of, each at several batch sizes.

    By kind: "forward", a forward pass; "gradient" and "cam", the target logit's gradient by the image and by the layer
    that class activation maps read; "tail", the layers behind it, of one copy. ``costs`` are seconds an image, at the
    batch size that is best.
    """

    def __init__(self, model: keras.Model, images: np.ndarray, repeats: int):
        network = Network.of(model)
        layer = network.cam_layer()
        gradients, by_layer = passes.input_gradients(network), passes.activations_and_gradients(network, [layer])
        self._found: dict[str, dict[int, tuple[float, Callable]]] = {}  # by kind and batch size
        for n in (1, 8, 32, 128) if tf.config.get_visible_devices("GPU") else (1, 8, 32):
            batch, targets = np.resize(images, (n, *images.shape[1:])), np.zeros(n, np.int32)
            calls = {
                "forward": lambda batch=batch, n=n: passes.logits(network, batch, n),
                "gradient": lambda batch=batch, targets=targets: gradients(batch, targets),
                "cam": lambda batch=batch, targets=targets: by_layer(batch, targets),
                "tail": self._tail(network, layer, batch),
            }
            for kind, call in calls.items():
                self._found.setdefault(kind, {})[n] = measure(call, repeats)[0] / n, call
        self.costs = {kind: min(cost for cost, _ in found.values()) for kind, found in self._found.items()}

    @staticmethod
    def _tail(network: Network, layer: str, batch: np.ndarray) -> Callable[[], object]:
        """A call that runs the layers behind ``layer`` for as many copies as there are images."""
        start, without = ablation(network, layer)
        _, A, *state = start(batch[:1], np.zeros(1, np.int32))
        channels = np.resize(np.arange(A.shape[-1], dtype=np.int32), len(batch))
        return lambda: without(np.int32(0), channels, *state)

    def now(self, needed: Mapping[str, float], images: int, repeats: int = 3) -> dict[str, float]:
        """Seconds a pass at this moment, for other work on the machine slows passes and methods alike: at the best
        batch size that so many images, with the passes that each of them ``needed``, can fill; with one pass of each
        where those of an image come "in turn", each where the one before has led."""
        found = {}
        for kind, count in needed.items():
            of_kind = self._found[kind.removesuffix(" in turn")]
            most = images if kind.endswith(" in turn") else max(1, images * count)
            best = min((size for size in of_kind if size <= most), key=lambda size: of_kind[size][0])
            found[kind] = measure(of_kind[best][1], repeats)[0] / best
        return found


def floor_passes(method: str, parameters: dict, network: Network, size: int) -> dict[str, float]:
    """Passes for one image that the algorithm of a method must make, by kind (see `pass_costs`).

    By family: class activation maps read one gradient by their layer, attention and gradient methods one by the image;
    methods that repeat or mask say how often. Relevance needs a forward pass, and one there and back with the weights
    of its rule (a second one of each for layers whose input has both signs is not counted).
    """

    def windows() -> int:
        patch = parameters["patch_size"]
        return len(window_starts(size, patch, parameters["stride"] or patch)) ** 2

    def channels(limit: int) -> int:
        layer = parameters.get("layer") or network.cam_layer()
        width = network.shapes[network.step(layer).outputs[0]][-1]
        return min(limit or width, width)

    def coalitions() -> int:
        n = parameters["n_segments"]  # as many as are asked for; the segmentation may find a few less or more
        return 2**n if n <= MOST_EXACT else samples * (n - 1) + 2

    def tries() -> int:
        rows, columns = network.grid(network.cam_layer()) or (1, 1)
        n = parameters["cells"] ** 2 or rows * columns
        width = min(2 * int(n**0.5), 28)
        return n * width - width * (width - 1) // 2  # candidates of each patch; of the last patches there are fewer

    samples, steps = parameters.get("n_samples", 0), parameters.get("n_steps", 0)
    special: dict[str, Callable[[], dict[str, float]]] = {
        "integrated_gradients": lambda: {"gradient": steps},
        "integrated_gradients_bw": lambda: {"gradient": 2 * steps},
        "expected_gradients": lambda: {"gradient": samples},
        "smoothgrad": lambda: {"gradient": samples},
        "smoothgrad_squared": lambda: {"gradient": samples},
        "vargrad": lambda: {"gradient": samples},
        "deep_lift": lambda: {"gradient": 1, "forward": 1},
        "occlusion": lambda: {"forward": windows() + 1},
        "rise": lambda: {"forward": parameters["n_masks"]},
        "lime": lambda: {"forward": samples},
        "prediction_difference": lambda: {"forward": windows() * samples + 1},
        "guided_ig": lambda: {"gradient in turn": steps},
        "blur_ig": lambda: {"gradient": steps},
        "idgi": lambda: {"gradient": steps, "forward": 1},
        "shapley": lambda: {"forward": coalitions()},
        "kernel_shap": lambda: {"forward": parameters["n_coalitions"] + 2},
        "mda": lambda: {"forward": tries(), "gradient": 1},
        "sobol": lambda: {"forward": samples * (parameters["cells"] ** 2 + 2)},
        "hsic": lambda: {"forward": parameters["n_masks"]},
        "cam": lambda: {"forward": 1},
        "eigen_cam": lambda: {"forward": 1},
        "refine_cam": lambda: {"gradient": 1},  # by the layers of all depths
        "smooth_grad_cam_plus_plus": lambda: {"cam": samples, "forward": 1},
        "integrated_grad_cam": lambda: {"cam": steps, "forward": 1},
        "ss_cam": lambda: {"forward": samples * channels(parameters["max_channels"]) + 1},
        "is_cam": lambda: {"forward": steps * channels(parameters["max_channels"]) + 1},
        "score_cam": lambda: {"forward": channels(parameters["max_channels"]) + 1},
        "faster_score_cam": lambda: {"forward": channels(parameters["max_channels"]) + 1},
        "ablation_cam": lambda: {"forward": 1, "tail": channels(0)},
        # What relevance divides by are other weights' results than the forward pass has.
        **dict.fromkeys(("lrp", "clrp", "sglrp", "layer_aggregate"), lambda: {"forward": 1, "gradient": 1}),
        "crp": lambda: {"forward": 1, "gradient": 1, "cam": 1},  # and down to the layer, whose channel is chosen
        "guided_grad_cam": lambda: {"gradient": 1, "cam": 1},
        "relevance_cam": lambda: {"cam": 1},
        "xrelevance_cam": lambda: {"cam": 1},
        "raw_attention": lambda: {"forward": 1},
        "attention_rollout": lambda: {"forward": 1},
        "xrai": lambda: {"gradient": 2 * xai.METHODS["integrated_gradients_bw"].parameters[0].default},
    }
    if method in special:
        return special[method]()
    return {"cam": 1} if xai.METHODS[method].family == "cam" else {"gradient": 1}


# The parts ------------------------------------------------------------------------------------------------------------


Task = tuple[str, str, int, str, dict, tuple[str, ...]]  # part, model, images, method, parameters, libraries


def tasks(parts: list[str], models: list[str], counts: list[int], methods: list[str]) -> Iterator[Task]:
    """What is to be measured, model by model."""
    for model in models:
        for part in parts:
            if part == "methods":
                for n in counts:
                    for method in methods:
                        yield part, model, n, method, PARAMETERS.get(method, {}), ("xaiutils",)
            elif part == "growth":
                for method, n, parameters in GROWTH:
                    if method in methods:
                        yield part, model, n, method, parameters, ("xaiutils",)
            elif part == "first":
                for method in methods:
                    yield part, model, 1, method, PARAMETERS.get(method, {}), ("xaiutils",)
            else:
                for method, (library, parameters) in THESIS.items():
                    if method in methods:
                        yield part, model, 7, method, parameters, ("xaiutils", library)


class Subject:
    """A model, the images for it, and its passes."""

    def __init__(self, name: str, rows: Rows, repeats: int):
        self.model = xai.build_model(name, 2)
        self.network = Network.of(self.model)
        self.size = self.network.image_size[0]
        self.images = xai.load_dataset("phantom", "test", self.size, 64).images
        self.passes = Passes(self.model, self.images[:8], repeats)
        for kind, seconds in self.passes.costs.items():
            rows.add(Row("pass", name, 1, kind, "xaiutils", "{}", seconds, repeats, seconds, np.nan))

    def pictures(self, part: str, n: int) -> np.ndarray:
        """Phantoms; for the grid one phantom under the thesis' transforms."""
        if part != "grid":
            return self.images[:n]
        names = ("original", "log", "gaussian_noise", "speckle_noise", "black_rectangle", "affine", "rotate_180")
        return np.concatenate([xai.TRANSFORMS[name].apply(self.images[:1], seed=0) for name in names[:n]])

    def needed(self, method: str, parameters: dict) -> dict[str, float]:
        """Passes for one image, by kind."""
        chosen = check_parameters(method, xai.METHODS[method].parameters, parameters)
        return floor_passes(method, chosen, self.network, self.size)


def run(todo: Iterator[Task], rows: Rows, repeats: int, seconds: float) -> bool:
    """Measure what is not in ``rows`` yet; False if the time was up before the end."""
    start, subject, current = time.perf_counter(), None, None
    for part, name, n, method, parameters, libraries in todo:
        if name != current:
            keras.backend.clear_session()
            subject, current = None, name  # the old model goes before the new one comes
        shown = json.dumps(parameters)
        for library in libraries:
            if (part, name, n, method, library, shown) in rows.rows:
                continue
            if time.perf_counter() - start > seconds:
                return False
            subject = subject or Subject(name, rows, repeats)
            found, note, images = (np.nan, 0, np.nan), "", subject.pictures(part, n)
            needed = subject.needed(method, parameters)
            call = partial(xai.explain, subject.model, images, 0, method, library, **parameters)
            before = subject.passes.now(needed, n)
            try:
                found = first_call(name, method, parameters) if part == "first" else measure(call, repeats)
            except ModelError as error:
                note = f"refused: {str(error)[:100]}"
            except Exception as error:  # whatever a library raises
                note = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            after = subject.passes.now(needed, n)
            floor = n * sum(count * (before[kind] + after[kind]) / 2 for kind, count in needed.items())
            rows.add(Row(part, name, n, method, library, shown, found[0], found[1], floor, found[2], note))
    return True


# The report -----------------------------------------------------------------------------------------------------------


def report(rows: Rows, complete: bool) -> str:
    """The rows as Markdown tables."""
    found = pd.DataFrame([asdict(row) for row in rows.rows.values()])
    parts = [
        "# Attribution: seconds, and ratios to the floor and to other libraries",
        f"Medians on {platform.machine()}, {os.cpu_count()} cores, {devices()}, "
        "224 x 224 pixels, random weights, warm. Floor: the passes that the algorithm must make, at the best batch "
        "size that they fill, timed just before and after each row. MB: how far resident memory rose in the first call."
        + ("" if complete else " **The run was cut: rows are missing.**"),
    ]
    passes_ = found[found.part == "pass"].pivot_table(index="model", columns="method", values="seconds", sort=False)
    parts += ["## One pass, milliseconds an image", as_markdown((1000 * passes_).reset_index())]
    if (found.part == "methods").any():
        parts += ["## All methods", _misses(found), COUNTED, as_markdown(_by_method(found[found.part == "methods"]))]
    if (found.part == "first").any():
        first = found[found.part == "first"]
        shown = first.assign(shown=[f"{x:.2f}" if x == x else "refused" for x in first.seconds])
        table = shown.pivot(index="method", columns="model", values="shown").reindex(first.method.unique()).fillna("")
        parts += ["## The first map", FIRST_AIM, _late(first), as_markdown(table.reset_index())]
    if (found.part == "growth").any():
        growth = found[found.part == "growth"]
        shown = growth[["model", "method", "images", "parameters", "seconds"]].copy()
        shown["x floor"], shown["MB"] = growth.seconds / growth.floor, growth.peak_mb
        parts += ["## Growth with images, steps, channels and masks", as_markdown(shown)]
    if (found.part == "grid").any():
        parts += ["## The thesis' grid: 8 methods, 7 variants of an image", _grid(found[found.part == "grid"])]
    peers = rows.path.with_name(rows.path.name.replace("methods", "peers"))
    parts += peers_section(peers) if peers != rows.path else []
    return "\n\n".join(parts) + "\n"


def devices() -> str:
    """The GPUs that TensorFlow uses, by name and compute capability."""
    found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    named = [f"{d.get('device_name', 'GPU')} (compute {d.get('compute_capability', 'unknown')})" for d in found]
    return ", ".join(named) or "0 GPUs"


def choose_device(options: argparse.Namespace) -> None:
    """``--device``: "cpu" hides the GPUs; "gpu" asks for one, and measures into files of its own."""
    if options.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    if options.device != "gpu":
        return
    if not tf.config.get_visible_devices("GPU"):
        raise SystemExit("TensorFlow sees no GPU: docs/gpu.md says what to install, and how to look why.")
    options.out = HERE / "methods_gpu" if options.out == HERE / "methods" else options.out
    options.parts = ["methods", "growth"] if options.parts == list(PARTS) else options.parts
    print(devices(), flush=True)


def _misses(found: pd.DataFrame) -> str:
    """Which methods miss the `AIMS` for their number of images."""
    said = []
    for images, aim in AIMS.items():
        rows = found[(found.part == "methods") & (found.images == images)].dropna(subset=["seconds"])
        ratio = rows.seconds / rows.floor
        missed = [
            f"{row.method} on {row.model} ({x:.2f})" for row, x in zip(rows.itertuples(), ratio, strict=True) if x > aim
        ]
        said.append(
            f"The aim for {images} image{'s' * (images > 1)}, at most {aim} times the floor, is met in "
            f"{(ratio <= aim).sum()} of {len(rows)} rows. Missed by: {', '.join(missed) or 'none'}."
        )
    return "\n\n".join(said)


def _late(first: pd.DataFrame) -> str:
    """Which methods of one pass miss `FIRST_AIMS`."""
    rows = first[~first.method.isin(REPEAT) & first.model.isin(list(FIRST_AIMS))].dropna(subset=["seconds"])
    late = rows[rows.seconds.round(2) > rows.model.map(FIRST_AIMS)]
    missed = (
        f"{model} ({', '.join(f'{r.method} {r.seconds:.2f}' for r in of_model.itertuples())})"
        for model, of_model in late.groupby("model", sort=False)
    )
    aims = ", ".join(f"{aim:g} on {model}" for model, aim in FIRST_AIMS.items())
    return (
        f"The aim for methods of one pass, {aims}, is met in {len(rows) - len(late)} of {len(rows)} rows. "
        f"Missed on: {'; '.join(missed) or 'none'}."
    )


def _by_method(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each model, number of images and method."""
    table = found[["model", "images", "method", "parameters", "seconds"]].copy()
    table["x floor"], table["MB"] = found.seconds / found.floor, found.peak_mb
    table["note"] = found.note.str.split(":").str[0]
    return table.sort_values(["model", "images"], ascending=[True, False], kind="stable")


def _grid(found: pd.DataFrame) -> str:
    """Seconds by method, and the sums where every method was measured."""
    lines = []
    for model, rows in found.groupby("model", sort=False):
        ours = rows[rows.library == "xaiutils"].set_index("method").seconds
        other = rows[rows.library != "xaiutils"].set_index("method")
        table = pd.DataFrame({"ours": ours, "library": other.library, "seconds": other.seconds})
        table["x ours"] = table.seconds / table.ours
        lines += [f"### {model}", as_markdown(table.loc[ours.index].reset_index())]
        if len(table.dropna()) == len(THESIS):
            total, theirs = table.ours.sum(), table.seconds.sum()
            lines.append(f"All: ours {total:.1f} s, the libraries {theirs:.1f} s, {theirs / total:.1f} times ours.")
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="EfficientNet-Lite0, one image, gradient methods, no files"
    )
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop when this time is up; go on by another run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--images", nargs="+", type=int, default=[1, 8], help="numbers of images of the part methods")
    parser.add_argument("--methods", nargs="+", default=list(xai.METHODS), help="only these")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="by default what TensorFlow finds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure rows that are there once more")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--out", type=Path, default=HERE / "methods", help="path of the .csv and .md, without suffix")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["XAI_COMPILE"] = "first"  # warm: not the eager tier, of which the part first tells
    choose_device(options)
    if options.quick:
        gradients = [name for name in options.methods if xai.METHODS[name].family == "gradients"]
        with tempfile.TemporaryDirectory() as folder:
            rows = Rows(Path(folder) / "methods.csv", Row, fresh=True)
            todo = tasks(["methods"], ["efficientnet_lite0"], [1], gradients)
            print(report(rows, run(todo, rows, 1, 60 * options.minutes)))
        return
    rows = Rows(options.out.with_suffix(".csv"), Row, options.fresh)
    todo = list(tasks(options.parts, options.models, options.images, options.methods))
    for part, model, n, method, parameters, libraries in todo if options.again else ():
        for library in libraries:
            rows.rows.pop((part, model, n, method, library, json.dumps(parameters)), None)
    complete = run(iter(todo), rows, options.repeats, 60 * options.minutes)
    write_text(options.out.with_suffix(".md"), report(rows, complete))


if __name__ == "__main__":
    main()
