"""The state of a run at the end of an epoch, in one file: what a cut run needs to go on as if nothing had happened."""

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.files import replace_file


@dataclass
class State:
    """How far a run is. ``rows`` is the history so far; ``best`` the best score (larger is better) and ``weights``
    those of its epoch."""

    epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: float = -np.inf
    best_epoch: int = 0
    weights: list[np.ndarray] | None = None


def fingerprint(recipe: Any, seed: int, datasets: Any) -> dict[str, Any]:
    """What must be the same for a run to be resumed: recipe, seed, and the images by their ids and labels."""
    data = [zlib.crc32("\n".join([*ds.ids, *map(str, ds.labels)]).encode()) for ds in datasets]
    return asdict(recipe) | {"seed": seed, "training images": data[0], "validation images": data[1]}


def save_state(
    path: Path,
    state: State,
    about: dict[str, Any],
    rng: np.random.Generator,
    variables: list[keras.Variable],
    probe: np.ndarray,
) -> None:
    """Write the state, whole or not at all. ``variables`` are those of the model and the optimiser; ``probe`` is
    something small that a different backbone would change."""
    text = {
        "about": about,
        "rng": rng.bit_generator.state,
        "epoch": state.epoch,
        "rows": state.rows,
        "best": state.best,
        "best_epoch": state.best_epoch,
    }
    arrays = {f"variable {i}": np.asarray(v) for i, v in enumerate(variables)}
    arrays |= {f"weight {i}": w for i, w in enumerate(state.weights)}
    replace_file(path, lambda temporary: np.savez(temporary, text=json.dumps(text), probe=probe, **arrays))


def load_state(
    path: Path,
    about: dict[str, Any],
    rng: np.random.Generator,
    variables: list[keras.Variable],
    probe: np.ndarray,
) -> State:
    """Put a written state into ``rng`` and ``variables``. ValueError that says what differs, where the run is not the
    same."""
    with np.load(path, allow_pickle=False) as file:
        text = json.loads(str(file["text"]))
        then = text["about"]
        differing = [name for name in about | then if about.get(name) != then.get(name)]
        if differing:
            words = ", ".join(f"{name} ({then.get(name)} then, {about.get(name)} now)" for name in differing)
            raise ValueError(f"{path} is of another run: {words}. Delete it, or train with resume=False.")
        found = [file[name] for name in file.files if name.startswith("variable ")]
        weights = [file[name] for name in file.files if name.startswith("weight ")]
        same = [a.shape for a in found] == [tuple(v.shape) for v in variables]
        if not same or not np.allclose(probe, file["probe"], rtol=1e-2, atol=1e-4 * np.abs(probe).max(initial=0)):
            raise ValueError(f"{path} is of another model. Build the one that it began with, or use resume=False.")
    for variable, value in zip(variables, found, strict=True):
        variable.assign(value)
    rng.bit_generator.state = text["rng"]
    return State(text["epoch"], text["rows"], text["best"], text["best_epoch"], weights)
