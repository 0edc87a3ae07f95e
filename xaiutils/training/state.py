"""The state of a run at the end of an epoch, in one file: what a cut run needs to go on as if nothing had happened."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.file_limits import naming
from xaiutils.files import replace_file

_DAMAGED = "it is not a readable state of a run; delete it, or train with resume=False"


@dataclass
class BestEpoch:
    """The best epoch so far (0: none) by one measure: its score (larger is better) and its weights."""

    score: float = -np.inf
    epoch: int = 0
    weights: list[np.ndarray] = field(default_factory=list)


@dataclass
class State:
    """How far a run is: the stage (from 0), the epochs of it that are done, the history of all stages so far, and what
    is kept, by the name of the measure."""

    stage: int = 0
    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, BestEpoch] = field(default_factory=dict)


@dataclass(frozen=True)
class Variables:
    """What else a state holds: the generator of orders and augmentations, the variables of model and optimiser, and
    ``probe``, something small that a different backbone would change."""

    rng: np.random.Generator
    variables: Sequence[keras.Variable]
    probe: np.ndarray


def fingerprint(stages: Sequence[Any], datasets: Any, **others: Any) -> dict[str, Any]:
    """What must be the same for a run to be resumed: recipes, the images by their ids and labels, and ``others``."""
    recipes: dict[str, Any] = {}
    for number, stage in enumerate(stages):
        prefix = f"stage {number + 1} " if number else ""
        recipes |= {f"{prefix}{name}": value for name, value in asdict(stage).items()}
    data = [
        hashlib.sha256("\n".join([*ds.ids, *map(str, ds.labels), *map(str, _values(ds))]).encode()).hexdigest()[:16]
        for ds in datasets
    ]
    return recipes | others | {"training images": data[0], "validation images": data[1]}


def _values(dataset: Any) -> Sequence[float]:
    return () if dataset.values is None else dataset.values


def save_state(path: Path, state: State, about: dict[str, Any], others: Variables) -> None:
    """Write the state, whole or not at all."""
    text = {
        "about": about,
        "rng": others.rng.bit_generator.state,
        "stage": state.stage,
        "epoch": state.epoch,
        "rows": state.rows,
        "kept": {name: [kept.score, kept.epoch] for name, kept in state.kept.items()},
    }
    arrays: dict[str, Any] = {f"variable {i}": np.asarray(v) for i, v in enumerate(others.variables)}
    for name, kept in state.kept.items():
        arrays |= {f"{name} {i}": w for i, w in enumerate(kept.weights)}
    replace_file(path, lambda temporary: np.savez(temporary, text=json.dumps(text), probe=others.probe, **arrays))


def load_state(path: Path, about: dict[str, Any]) -> State:
    """The state that was written. FileError where the file is damaged, ValueError that says what differs, where the run
    is not the same."""
    with naming(path, _DAMAGED), np.load(path, allow_pickle=False) as file:
        text = json.loads(str(file["text"]))
        then = dict(text["about"])
        kept = {
            name: BestEpoch(float(score), int(epoch), [file[key] for key in file.files if key.startswith(f"{name} ")])
            for name, (score, epoch) in text["kept"].items()
        }
        state = State(int(text["stage"]), int(text["epoch"]), list(text["rows"]), kept)
    differing = [name for name in about | then if about.get(name) != then.get(name)]
    if differing:
        words = ", ".join(f"{name} ({then.get(name)} then, {about.get(name)} now)" for name in differing)
        raise ValueError(f"{path} is of another run: {words}. Delete it, or train with resume=False.")
    return state


def load_variables(path: Path, others: Variables) -> None:
    """Put what was written into the generator and the variables. FileError where the file is damaged, ValueError where
    the model is another."""
    with naming(path, _DAMAGED), np.load(path, allow_pickle=False) as file:
        found = [file[name] for name in file.files if name.startswith("variable ")]
        probe, rng = file["probe"], json.loads(str(file["text"]))["rng"]
    scale = np.abs(others.probe).max(initial=0)
    same = [a.shape for a in found] == [tuple(v.shape) for v in others.variables] and probe.shape == others.probe.shape
    if not same or not np.allclose(others.probe, probe, rtol=1e-2, atol=1e-4 * scale):
        raise ValueError(f"{path} is of another model. Build the one that it began with, or use resume=False.")
    with naming(path, _DAMAGED):
        others.rng.bit_generator.state = rng
    for variable, value in zip(others.variables, found, strict=True):
        variable.assign(value)
