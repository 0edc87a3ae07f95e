"""Who reads which image when, and with what beside it."""

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

ARMS = ("image", "image+prediction", "image+prediction+map")
SHAM_ARM = "image+prediction+sham"  # a map that does not explain; readers cannot tell it from the arm with maps
SHAMS = ("other_image", "random_weights")
_COLUMNS = ("study", "trial", "reader", "session", "position", "image", "code", "arm", "map", "map_of", "repeat")
# Codes are of letters alone: a spreadsheet, or pandas, takes 990055372011 for a number and 12e3 for another.
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjkmnpqrstv")


def reading_design(
    ids: Sequence[str],
    n_readers: int,
    seed: int = 0,
    with_sham: bool = True,
    repeats: float = 0.1,
    salt: str = "",
) -> pd.DataFrame:
    """Every reader reads every image in every arm, each in a session of its own: a row for each reading.

    The arms are `ARMS` and, ``with_sham``, `SHAM_ARM`. In which order an image passes through them is a row of a Latin
    square in which each arm follows each other equally often (Williams 1949, Australian Journal of Chemistry 2); rows
    turn over images and readers, so that each session holds all arms alike. A session's order is random.

    Args:
        ids: of the images, each once; at least two.
        n_readers: at least one; they are called R1, R2, ...
        seed: of orders and of who gets which sham.
        with_sham: half of the sham arm's images show the map of another image, half one of random weights, the other
            way round for every second reader.
        repeats: fraction of the images that each reader reads once more in a last session, in the arm of the first,
            for the agreement with oneself.
        salt: of the codes under which images and readings are known to readers; empty: drawn, so that nobody can guess
            an id from its code. The table itself holds both: it stays with who runs the study.

    Returns:
        study, trial (code), reader, session and position from 1, image (id), code (of the image), arm, map ("", "model"
        or one of `SHAMS`), map_of (id of the image whose map it is, or ""), repeat (bool); in the order of reading.
    """
    ids = [str(one) for one in ids]
    if len(set(ids)) < len(ids) or len(ids) < 2 or n_readers < 1 or not 0 <= repeats <= 1:
        raise ValueError(
            f"{len(ids)} ids, {len(set(ids))} of them different, n_readers={n_readers}, repeats={repeats}; expected "
            "two or more different ids, a reader and a fraction from 0 to 1."
        )
    salt, rng = salt or secrets.token_hex(16), np.random.default_rng(seed)
    arms = [*ARMS, SHAM_ARM] if with_sham else list(ARMS)
    square, turn = williams(len(arms)), rng.permutation(len(ids))
    other = dict(zip(turn, np.roll(turn, 1), strict=True))
    rows = []
    for reader in range(n_readers):
        sequence = {image: square[(place + reader) % len(square)] for place, image in enumerate(turn)}
        again = rng.permutation(len(ids))[: round(repeats * len(ids))]
        plan = [(session, image, sequence[image][session]) for session in range(len(arms)) for image in range(len(ids))]
        plan += [(len(arms), image, sequence[image][0]) for image in again]
        for session in range(len(arms) + (len(again) > 0)):
            of_session = [entry for entry in plan if entry[0] == session]
            for position, k in enumerate(rng.permutation(len(of_session))):
                _, image, arm = of_session[k]
                shown = _map_kind(arms[arm], int(np.flatnonzero(turn == image)[0]) // len(square) + reader)
                map_of = ids[other[image]] if shown == "other_image" else ids[image] if shown else ""
                code, trial = _code(salt, ids[image]), _code(salt, reader, session, position)
                at = (f"R{reader + 1}", session + 1, position + 1)
                rows.append((trial, *at, ids[image], code, arms[arm], shown, map_of, session == len(arms)))
    table = pd.DataFrame(rows, columns=_COLUMNS[1:])
    table.insert(0, "study", _code(*table["trial"]))
    return table


def read_design(path: str | Path) -> pd.DataFrame:
    """The table of `reading_design` from the ``design.csv`` that lies beside the questionnaire.

    Ids that look like numbers stay text ("0007"), and an empty map stays "", which `pandas.read_csv` would change.
    Raises ValueError that names the file where it is no design.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path.name} cannot be read as a design: {error}") from error
    if list(table.columns) != list(_COLUMNS) or table.empty:
        raise ValueError(
            f"{path.name} is no design: columns {list(table.columns)}; expected {list(_COLUMNS)} and rows."
        )
    try:
        table = table.astype({"session": int, "position": int})
        table["repeat"] = [{"True": True, "False": False}[value] for value in table["repeat"].str.capitalize()]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path.name}: session and position are expected as whole numbers, repeat as True or False; found {error}."
        ) from error
    return table


def arms_of(table: pd.DataFrame) -> list[str]:
    """The arms of a table of readings, those of this module first and in their order."""
    found = set(table["arm"])
    known = [arm for arm in (*ARMS, SHAM_ARM) if arm in found]
    return known + sorted(found - set(known))


def williams(n: int) -> np.ndarray:
    """Orders of ``n`` treatments, a row each: every treatment is in each place equally often, and follows every other
    equally often. ``n`` rows if it is even, else twice as many."""
    first = [k // 2 if k % 2 == 0 else n - 1 - k // 2 for k in range(n)]
    rows = (np.array(first) + np.arange(n)[:, None]) % n
    return rows if n % 2 == 0 else np.concatenate([rows, rows[:, ::-1]])


def _map_kind(arm: str, turn: int) -> str:
    return SHAMS[turn % 2] if arm == SHAM_ARM else "model" if arm == ARMS[2] else ""


def _code(salt: str, *parts: object) -> str:
    return hashlib.sha256("\0".join([salt, *map(str, parts)]).encode()).hexdigest()[:12].translate(_LETTERS)
