"""Time our methods against those of other libraries, on the same weights and images, in one process.

    pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
    pip install captum grad-cam timm xplique tensorflow-probability tf-keras lime
    python benchmarks/peers.py                             all of it
    python benchmarks/peers.py --minutes 10                stop after the row that is running then
    python benchmarks/peers.py --models resnet50 --images 1 --methods grad_cam --libraries captum

Rows are appended to ``benchmarks/peers.csv`` as they are measured, and not measured again (``--fresh`` begins anew);
libraries that are not installed are left out. At the end ``benchmarks/methods.md`` is written from these rows and those
of `methods`. What takes long is not measured: where our own passes alone would take longer than ``--longest``, or where
a library's first call does.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= {"XAI_PROGRESS": "off", "XAI_COMPILE": "first", "TQDM_DISABLE": "1"}

if all(find_spec(name) for name in ("torch", "torchvision", "timm")):
    import torch_twins  # before TensorFlow: behind it, PyTorch's compiler (triton) crashes when it is loaded
else:
    torch_twins = None

import numpy as np
from methods import Row, floor_passes, report
from peer_calls import LIBRARIES, Case, Unfit, ours
from peer_rows import PeerRow, peers_section
from rows import Rows
from scipy.stats import spearmanr

import xaiutils as xai
from xaiutils.backend import keras, tf
from xaiutils.files import write_text
from xaiutils.registry import check_parameters

SQUARES = np.arange(7).repeat(32)[:, None] * 7 + np.arange(7).repeat(32)
ONE_PASS: tuple[tuple[str, dict], ...] = (
    ("vanilla_gradients", {}),
    ("gradients_x_inputs", {}),
    ("guided_backprop", {"reduction": "sum"}),
    ("deconvolution", {"reduction": "sum"}),
    ("deep_lift", {}),
    ("full_grad", {"biases": "explicit"}),
    ("grad_cam", {}),
    ("grad_cam_plus_plus", {}),
    ("xgrad_cam", {}),
    ("hirescam", {"relu": True}),
    ("layer_cam", {}),
)
EARLY = ("score_cam", {"weighting": "softmax"}), ("score_cam", {"weighting": "authors"}), ("ablation_cam", {})
REPEATED: tuple[tuple[str, dict], ...] = (
    ("smoothgrad", {"n_samples": 5, "reduction": "sum"}),
    ("smoothgrad_squared", {"n_samples": 5, "reduction": "sum"}),
    ("vargrad", {"n_samples": 5, "reduction": "sum"}),
    ("integrated_gradients", {"n_steps": 20, "quadrature": "trapezoid"}),
    ("expected_gradients", {"n_samples": 10}),
    ("occlusion", {"patch_size": 56}),
    ("rise", {"n_masks": 200, "score": "logit"}),
    ("lime", {"n_samples": 100, "score": "logit", "fill": "grey", "segments": SQUARES}),
    ("lime", {"n_samples": 100, "segments": SQUARES}),
    ("xrai", {"base_parameters": {"n_steps": 10}}),
)


def cases(twin: Any) -> Iterator[tuple[str, dict]]:
    """Methods with our parameters; those of a pass for each channel read an early layer, which has few."""
    yield from ONE_PASS
    if twin is not None and twin.early_layer:
        yield from ((name, {"layer": twin.early_layer, **own}) for name, own in EARLY)
    yield from REPEATED


def shown(parameters: dict) -> str:
    return json.dumps({k: "32 px squares" if isinstance(v, np.ndarray) else v for k, v in parameters.items()})


def seconds(call: Callable[[], Any]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The lowest rank correlation of the images' maps, and the largest difference of maps set to [0, 1]."""
    flat = [np.asarray(x, np.float64).reshape(len(a), -1) for x in (a, b)]
    ranks = min(spearmanr(x, y).statistic for x, y in zip(*flat, strict=True))
    low, span = zip(*((x.min(1, keepdims=True), np.ptp(x, axis=1, keepdims=True)) for x in flat), strict=True)
    unit = [(x - lo) / np.where(s > 0, s, 1) for x, lo, s in zip(flat, low, span, strict=True)]
    return float(ranks), float(np.abs(unit[0] - unit[1]).max())


def subject(name: str, n: int) -> tuple[keras.Model, Any, np.ndarray]:
    """The model, its twin in PyTorch, and ``n`` images; RuntimeError if their logits differ."""
    keras.backend.clear_session()
    model = xai.build_model(name, 2)
    images = xai.load_dataset("phantom", "test", 224, max(n, 8)).images.astype(np.float32)
    if torch_twins is None:
        return model, None, images
    torch_twins.randomise(model, images, 0)
    twin = torch_twins.twin(model, name)
    mine = keras.Model(model.input, model.get_layer("logits").output)(images[:2]).numpy()
    theirs = twin.network(torch_twins.channels_first(images[:2])).detach().numpy()
    if np.abs(mine - theirs).max() > 1e-3 * np.abs(mine).max():
        raise RuntimeError(f"{name}: the twin does not give the same: {mine}, {theirs}")
    return model, twin, images


def pass_seconds(case: Case, needed: dict[str, float]) -> float:
    """What our passes take for all images, from a forward pass of eight; a gradient costs about three."""
    forward = min(
        seconds(lambda: xai.predict(case.model, np.resize(case.images, (8, 224, 224, 3))))[0] for _ in range(2)
    )
    weights = {"forward": 1, "gradient": 3, "cam": 1, "tail": 1}
    return len(case.images) * forward / 8 * sum(weights[kind] * count for kind, count in needed.items())


class Pair:
    """Ours and the peers of one method on one case; what is found goes into the rows."""

    def __init__(self, case: Case, rows: Rows, method: str, parameters: dict, options: argparse.Namespace):
        self.case, self.rows, self.method, self.parameters, self.options = case, rows, method, parameters, options
        self.peers: dict[str, Callable[[], Any]] = {}

    def measure(self) -> None:
        for library in self.options.libraries or LIBRARIES:
            row = PeerRow(*self._key(library), np.nan, np.nan, 0, np.nan, np.nan)
            if row.key not in self.rows.rows:
                with self._refusing(library):
                    call = LIBRARIES[library](self.case, self.method, self.parameters)
                    self.peers |= {library: call} if call else {}
        if not self.peers:
            return
        mine = ours(self.case, self.method, self.parameters)
        with self._refusing(*self.peers):
            if self._takes() > self.options.longest:
                raise Unfit(f"our passes alone take more than {self.options.longest:g} s")
            reference = mine()
            for library, call in self.peers.items():
                with self._refusing(library):
                    first, maps = seconds(call)
                    agreed = agreement(reference, maps)
                    if first > 5 * self.options.longest:
                        raise Unfit(f"its first call takes {first:.0f} s")
                    self._in_turns(library, mine, call, agreed)

    def _in_turns(self, library: str, mine: Callable, theirs: Callable, agreed: tuple[float, float]) -> None:
        times: list[tuple[float, ...]] = []
        start = time.perf_counter()
        while len(times) < self.options.repeats and time.perf_counter() - start < self.options.enough:
            both = []
            for call in (mine, theirs):
                time.sleep(0.005)  # threads of the other library that still wait for work go to sleep
                both.append(seconds(call)[0])
            times.append(tuple(both))
        medians = (float(x) for x in np.median(times, axis=0))
        self.rows.add(PeerRow(*self._key(library), *medians, len(times), *agreed))

    def _key(self, library: str) -> tuple[str, int, str, str, str]:
        return self.case.model.name, len(self.case.images), self.method, library, shown(self.parameters)

    def _takes(self) -> float:
        chosen = check_parameters(self.method, xai.METHODS[self.method].parameters, self.parameters)
        return pass_seconds(self.case, floor_passes(self.method, chosen, self.case.network, 224))

    @contextmanager
    def _refusing(self, *libraries: str) -> Iterator[None]:
        """What is raised, by whatever a library raises, is said in the rows."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:120]
            note = text if isinstance(error, Unfit) else f"{type(error).__name__}: {text}"
            for library in libraries:
                self.rows.add(PeerRow(*self._key(library), np.nan, np.nan, 0, np.nan, np.nan, note))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet_lite0", "efficientnet_b0", "resnet50", "vit_b32"])
    parser.add_argument("--images", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--methods", nargs="+", default=list(xai.METHODS), help="only these")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, help="only these")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of TensorFlow and of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="at most, for ours and a peer")
    parser.add_argument("--enough", type=float, default=1.0, help="seconds of repeats for ours and a peer")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds that our passes may take")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop when this time is up")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "methods", help="the page, without suffix")
    return parser.parse_args()


def set_threads(n: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(n)
    tf.config.threading.set_inter_op_parallelism_threads(n)
    if torch_twins is not None:
        torch_twins.torch.set_num_threads(n)


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    set_threads(options.threads)
    page = Rows(options.out.with_suffix(".csv"), Row)
    path = options.out.with_name(options.out.name.replace("methods", "peers")).with_suffix(".csv")
    rows, start = Rows(path, PeerRow, options.fresh), time.perf_counter()
    for name in options.models:
        model, twin, images = subject(name, max(options.images))
        for n in options.images:
            case = Case(model, images[:n], twin)
            for method, parameters in cases(twin):
                if method in options.methods and time.perf_counter() - start < 60 * options.minutes:
                    Pair(case, rows, method, parameters, options).measure()
    text = report(page, complete=True) if page.rows else "\n\n".join(peers_section(path)) + "\n"
    write_text(options.out.with_suffix(".md"), text)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
